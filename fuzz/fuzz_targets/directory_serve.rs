//! Requests of several clients to a directory's state machine, checked against the model, as
//! `tests/directory_model.rs` makes them at random.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/directory_model/mod.rs"]
mod directory_model;

fuzz_target!(|bytes: &[u8]| directory_model::run(bytes));
