//! Requests of several clients to a directory's state machine, against the model: what
//! `tests/directory_model.rs` does with random ones.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/directory_model/mod.rs"]
mod directory_model;

fuzz_target!(|bytes: &[u8]| directory_model::run(bytes));
