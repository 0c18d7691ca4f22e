use crossproc::{Shm, shared};
use std::sync::atomic::{AtomicU8, AtomicU64};

shared! {
    #[crossproc_test_attributes::adds_a_field]
    struct Board {
        first: AtomicU8,
        hits: AtomicU64,
        last: AtomicU8,
    }
}

fn main() {
    let _ = Shm::<Board>::attach(std::fs::File::open("board").unwrap());
}
