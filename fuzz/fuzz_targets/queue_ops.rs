//! Programs for the participants of a queue, against the model: what `tests/queue_model.rs` does
//! with random ones.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/model/mod.rs"]
mod model;

fuzz_target!(|bytes: &[u8]| model::run(bytes));
