//! The records of all threads of this process.

#![allow(unsafe_code)]

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering::*};

use rustix::mm::munmap;

use super::Thread;
use super::error::Error;
use crate::pages::map_wiped_on_fork;

/// The place of the pointer to the process's first record: a page of its own that is wiped on fork.
/// Null before the first use.
static POOL: AtomicPtr<AtomicPtr<Thread>> = AtomicPtr::new(ptr::null_mut());

/// Returns all records of this process. They are never unmapped: a thread that is gone leaves its
/// own to the next one.
pub(super) fn records() -> impl Iterator<Item = &'static Thread> {
    // Acquire: pairs with the Release in `publish`, as does the one below: what a pointer leads to
    // is there.
    let pool = NonNull::new(POOL.load(Acquire));
    // SAFETY: once set, POOL points to a page that stays mapped and holds an `AtomicPtr`.
    let first = pool.map_or(ptr::null_mut(), |pool| unsafe { pool.as_ref() }.load(Acquire));
    // SAFETY: records are published whole and stay mapped. Of other threads' records only the
    // atomics are used (invariant 1).
    let at = |record: *mut Thread| unsafe { record.as_ref() };
    core::iter::successors(at(first), move |thread| at(thread.next_thread.load(Acquire)))
}

/// Adds a record to those that `records` finds.
pub(super) fn publish(record: NonNull<Thread>) -> Result<(), Error> {
    let mut pool = POOL.load(Acquire);
    if pool.is_null() {
        let page = map_wiped_on_fork(size_of::<AtomicPtr<Thread>>())?.cast();
        // Release: pairs with the Acquire in `records`. Acquire on failure: another thread's page
        // is used instead.
        pool = match POOL.compare_exchange(ptr::null_mut(), page.as_ptr(), Release, Acquire) {
            Ok(_) => page.as_ptr(),
            Err(others) => {
                // SAFETY: mapped above, with this length, and known to no other code.
                let _ = unsafe { munmap(page.as_ptr().cast(), size_of::<AtomicPtr<Thread>>()) };
                others
            }
        };
    }
    // SAFETY: not null, so it is the page that stays mapped.
    let first = unsafe { &*pool };
    // SAFETY: the caller's record is mapped for good.
    let next = &unsafe { record.as_ref() }.next_thread;
    let mut seen = first.load(Relaxed);
    loop {
        next.store(seen, Relaxed);
        // Release: pairs with the Acquire in `records`.
        match first.compare_exchange_weak(seen, record.as_ptr(), Release, Relaxed) {
            Ok(_) => return Ok(()),
            Err(now) => seen = now,
        }
    }
}

pub(super) fn map_record() -> Result<NonNull<Thread>, Error> {
    Ok(map_wiped_on_fork(size_of::<Thread>())?.cast())
}
