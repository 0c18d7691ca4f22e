//! Structs that `shared!` declares with attributes of other crates. The published package does not
//! contain this test: the attributes are in a package of their own, which belongs to the tests.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};

use crossproc::{Shm, shared};

shared! {
    /// A struct may have attributes that leave it unchanged.
    #[crossproc_test_attributes::changes_nothing]
    #[derive(Debug)]
    #[repr(align(64))]
    struct Attributed {
        first: AtomicU8,
        hits: AtomicU64,
    }
}

#[test]
fn attributes_that_change_nothing_are_fine() {
    let shared = Shm::new(Attributed { first: AtomicU8::new(1), hits: AtomicU64::new(2) }).unwrap();
    assert_eq!((size_of::<Attributed>(), shared.hits.load(SeqCst)), (64, 2));
}
