//! Knows which memory of this process is a shared mapping of the crate's.
//!
//! A thread that ends asks this module: the memory that the kernel is then going to write to must
//! still be what it was. An address inside a mapping can be nothing else, since a mapping in which
//! something is held is never unmapped. Memory of the program's own can: a lock in a `Box` may have
//! been freed.
//!
//! This module has no lock: a forked child could find it held by a thread that does not exist
//! there.

#![allow(unsafe_code)]

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};

/// A place for one mapping. It is never freed, and is used again once the mapping is gone.
#[derive(Debug)]
pub(crate) struct Node {
    /// Where the mapping begins; [`FREE`]; or [`TAKEN`] for a mapping whose beginning is not stored
    /// yet.
    start: AtomicUsize,
    len: AtomicUsize,
    /// Written before the node is published, and never again.
    next: *const Node,
}

// SAFETY: two atomics, and a pointer to a node, which is never freed.
unsafe impl Sync for Node {}

const FREE: usize = 0;
/// No mapping begins there: it is not the beginning of a page.
const TAKEN: usize = 1;

static FIRST: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());

/// Returns all nodes that were ever needed.
fn nodes() -> impl Iterator<Item = &'static Node> {
    // SAFETY: nodes are published whole, and never freed.
    let at = |node: *const Node| unsafe { node.as_ref() };
    // Acquire: pairs with the Release in `publish`.
    core::iter::successors(at(FIRST.load(Acquire)), move |node| at(node.next))
}

/// Notes a mapping, until it is [removed](Node::remove).
pub(crate) fn add(start: usize, len: usize) -> &'static Node {
    // Relaxed: a node that is taken is this thread's, whatever it was before.
    let free = |node: &&Node| {
        let start = &node.start;
        start.load(Relaxed) == FREE && start.compare_exchange(FREE, TAKEN, Relaxed, Relaxed).is_ok()
    };
    let node = nodes().find(free).unwrap_or_else(publish);
    // Release, both: pair with the Acquires in `contain`. A thread that reads this length finds the
    // node taken.
    node.len.store(len, Release);
    node.start.store(start, Release);
    node
}

/// Publishes one more node, which is taken.
#[cold]
fn publish() -> &'static Node {
    let (start, len) = (AtomicUsize::new(TAKEN), AtomicUsize::new(0));
    let node = Box::into_raw(Box::new(Node { start, len, next: ptr::null() }));
    // Acquire: pairs with the Release below, for the nodes behind this one.
    let mut first = FIRST.load(Acquire);
    loop {
        // SAFETY: made above, and no other thread has it before the exchange succeeds.
        unsafe { (*node).next = first };
        // Release: pairs with the Acquire loads of `FIRST`.
        match FIRST.compare_exchange_weak(first, node, Release, Acquire) {
            // SAFETY: it is never freed, and from here on it is written only through atomics.
            Ok(_) => return unsafe { &*node },
            Err(now) => first = now,
        }
    }
}

impl Node {
    /// Notes that the mapping is going to be unmapped.
    pub(crate) fn remove(&self) {
        // Relaxed: a thread that still finds the mapping finds it too early, not too late.
        self.start.store(FREE, Relaxed);
    }
}

/// Returns whether an address is inside a mapping. Exact for a mapping that is not made or unmapped
/// meanwhile.
pub(crate) fn contain(address: usize) -> bool {
    nodes().any(|node| {
        // Acquire, both: pair with the Releases in `add`. The second load of the beginning confirms
        // that the length was of the same mapping. Otherwise the node was taken for another one
        // meanwhile.
        let (start, len) = (node.start.load(Acquire), node.len.load(Acquire));
        start > TAKEN && address.wrapping_sub(start) < len && node.start.load(Relaxed) == start
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_until_it_is_removed() {
        // No mapping of this test's process is there.
        let [one, other] = [usize::MAX & !0xffff, usize::MAX & !0xfff_ffff];
        let (first, second) = (add(one, 0x2000), add(other, 0x1000));
        assert!(
            contain(one) && contain(one + 0x1fff) && !contain(one + 0x2000) && !contain(one - 1)
        );
        first.remove();
        assert!(!contain(one) && contain(other));
        assert!(ptr::eq(add(one, 0x1000), first), "a node is used again");
        first.remove();
        second.remove();
        assert!(!contain(one) && !contain(other));
    }
}
