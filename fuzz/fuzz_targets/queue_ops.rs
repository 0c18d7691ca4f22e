//! Programs for the participants of a queue, checked against the model, as `tests/queue_model.rs`
//! makes them at random.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/model/mod.rs"]
mod model;

fuzz_target!(|bytes: &[u8]| model::run(bytes));
