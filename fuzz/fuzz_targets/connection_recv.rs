//! Packets of a hostile sender: what `tests/connection_packets.rs` does with random ones.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/packets/mod.rs"]
mod packets;

fuzz_target!(|bytes: &[u8]| packets::run(bytes));
