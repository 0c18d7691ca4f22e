//! The copies of a [`crossproc::ByteQueue`] beside `memcpy`: a message is copied in, and out again.

use std::cell::{Cell, RefCell};

use crossproc::ByteQueue;

use crossproc_harness::ratios::Ratios;
use crossproc_harness::sampler::{Sampler, repeated};

/// The lengths of the messages, in bytes, and what they are called.
const SIZES: [(usize, &str); 5] = [
    (4 << 10, "4 KiB"),
    (16 << 10, "16 KiB"),
    (64 << 10, "64 KiB"),
    (256 << 10, "256 KiB"),
    (1 << 20, "1 MiB"),
];

/// How many messages the queue has room for, and `memcpy`, which also copies them in turns.
const CAPACITY: usize = 4;

fn main() {
    crossproc_harness::run("Copies", &[], |_| {}, compare);
}

/// In and out as a vector, as `get` returns it.
fn with_vectors(size: usize) -> Sampler {
    let queue = ByteQueue::with_max_len(CAPACITY, size).unwrap();
    let message = vec![1; size];
    repeated(Box::new(queue), move |queue| {
        queue.put(&message).unwrap();
        assert_eq!(queue.get().unwrap().len(), size);
    })
}

/// In and out of the slot into a buffer.
fn with_buffer(size: usize) -> Sampler {
    let queue = ByteQueue::with_max_len(CAPACITY, size).unwrap();
    let (message, buffer) = (vec![1; size], RefCell::new(vec![0; size]));
    repeated(Box::new(queue), move |queue| {
        queue.put(&message).unwrap();
        buffer.borrow_mut().copy_from_slice(&queue.receive().unwrap());
    })
}

fn memcpy(size: usize) -> Sampler {
    let (message, buffer) = (vec![1; size], RefCell::new(vec![0; size]));
    let slots: [RefCell<Vec<u8>>; CAPACITY] = core::array::from_fn(|_| RefCell::new(vec![0; size]));
    let next = Cell::new(0);
    repeated(Box::new(slots), move |slots| {
        let slot = &slots[next.replace((next.get() + 1) % CAPACITY)];
        slot.borrow_mut().copy_from_slice(&message);
        buffer.borrow_mut().copy_from_slice(&slot.borrow());
    })
}

fn compare(ratios: &mut Ratios) {
    for (size, name) in SIZES {
        let rival = "memcpy, there and back";
        ratios.compare(
            &format!("{name}, to a buffer"),
            None,
            with_buffer(size),
            rival,
            memcpy(size),
        );
        ratios.compare(
            &format!("{name}, to a vector"),
            None,
            with_vectors(size),
            rival,
            memcpy(size),
        );
    }
}
