//! The slots of a thread's [`View`](super::View)s. The thread itself writes to none of them,
//! whatever a peer has made of the words that say whose they are.

use core::cell::RefCell;
use core::mem::{self, ManuallyDrop};
use core::ptr;

use super::ring::memory::QueueMemory;

thread_local! {
    /// By the address of the queue's words here, and slot. Nothing drops it before its thread ends.
    static VIEWED: ManuallyDrop<RefCell<Vec<(usize, usize)>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

fn key(memory: &QueueMemory, slot: usize) -> (usize, usize) {
    (ptr::from_ref(memory.control()).addr(), slot)
}

pub(super) fn add(memory: &QueueMemory, slot: usize) {
    VIEWED.with(|viewed| viewed.borrow_mut().push(key(memory, slot)));
}

pub(super) fn remove(memory: &QueueMemory, slot: usize) {
    VIEWED.with(|viewed| {
        let mut viewed = viewed.borrow_mut();
        if let Some(at) = viewed.iter().position(|&it| it == key(memory, slot)) {
            viewed.swap_remove(at);
        }
        if viewed.is_empty() {
            drop(mem::take(&mut *viewed));
        }
    });
}

#[inline]
pub(super) fn contains(memory: &QueueMemory, slot: usize) -> bool {
    VIEWED.with(|viewed| viewed.borrow().contains(&key(memory, slot)))
}
