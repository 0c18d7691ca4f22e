//! Packets of a hostile sender, as `tests/connection_packets.rs` makes them at random.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/packets/mod.rs"]
mod packets;

fuzz_target!(|bytes: &[u8]| packets::run(bytes));
