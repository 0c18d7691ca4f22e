//! The facts that other processes and threads rely on: sizes, alignments, auto traits.

use core::sync::atomic::{AtomicU32, AtomicU64};

use crossproc::process::Child;
use crossproc::{
    Barrier, BarrierError, BoundedSemaphore, Broadcast, Condition, ConditionError, Event, Fixed,
    Lock, LockError, LockGuard, NextItem, Once, OnceError, Part, Parts, Permit, Permits,
    PermitsError, Plain, RLock, RLockGuard, RegionError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    Semaphore, SemaphoreGuard, Shared, Shm, Subscriber, View, Wait,
};
use static_assertions::{
    assert_eq_align, assert_eq_size, assert_impl_all, assert_not_impl_any, const_assert_eq,
};

// The robust list's entry is 32 bytes after the word.
const_assert_eq!(size_of::<Lock<()>>(), 40);
const_assert_eq!(size_of::<Lock<u64>>(), 48);
const_assert_eq!(size_of::<RLock<u64>>(), 48);
const_assert_eq!(size_of::<Condition>(), 16);
const_assert_eq!(size_of::<Barrier>(), 16);
const_assert_eq!(size_of::<BoundedSemaphore>(), 16);
const_assert_eq!(size_of::<Once>(), 48);
const_assert_eq!(size_of::<Permits<3>>(), 8 + 3 * 40);
const_assert_eq!(size_of::<RwLock<u64>>(), 40 + 8 + (8 + 32 * 40) + 8);
assert_eq_size!(Event, Semaphore, AtomicU64);
assert_eq_align!(Event, Semaphore, Lock<u8>, AtomicU64);
assert_eq_size!(Fixed<[u16; 3]>, [u16; 3]);

// The entry is in its thread's descriptor. Only what is lent out by `unsafe` leaves that thread.
assert_not_impl_any!(&crossproc_sys::robust::Entry: Send, Sync);
assert_impl_all!(Shm<Event>: Send, Sync, Clone);
assert_impl_all!(Shm<[AtomicU32]>: Send, Sync, Clone);
assert_impl_all!(Part<Event>: Send, Sync, Clone);
assert_impl_all!(Parts: Send, Sync, Clone);
assert_impl_all!(Lock<u64>: Send, Sync, Shared);
assert_impl_all!([Event; 2]: Shared);
assert_impl_all!(RLock<u64>: Send, Sync, Shared);
assert_impl_all!(RwLock<u64>: Send, Sync, Shared);
assert_impl_all!(Permits<2>: Send, Sync, Shared);
assert_impl_all!(BoundedSemaphore: Send, Sync, Shared);
assert_impl_all!(Broadcast<u64>: Send, Sync, Clone);
assert_not_impl_any!(Subscriber<u64>: Send, Sync);
assert_not_impl_any!(View<'static, u64>: Send, Sync);
assert_impl_all!(NextItem<'static>: Send, Sync);
assert_impl_all!(Condition: Send, Sync, Shared);
assert_impl_all!(Barrier: Send, Sync, Shared);
assert_impl_all!(Once: Send, Sync, Shared);
assert_impl_all!(Wait: Send, Sync, Copy);
assert_impl_all!(OnceError: Send, Sync, std::error::Error);
assert_impl_all!(PermitsError: Send, Sync, std::error::Error);
assert_impl_all!(BarrierError: Send, Sync, std::error::Error);
assert_impl_all!(ConditionError: Send, Sync, std::error::Error);
assert_impl_all!(Child: Send, Sync);
assert_impl_all!(RegionError: Send, Sync, std::error::Error);
assert_impl_all!(LockError: Send, Sync, std::error::Error);
assert_impl_all!([f64; 4]: Plain);

// The kernel knows an owner by its thread, and a forked child is another thread.
assert_not_impl_any!(LockGuard<'static, u64>: Send, Sync);
assert_not_impl_any!(RLockGuard<'static, u64>: Send, Sync);
assert_not_impl_any!(RwLockReadGuard<'static, u64>: Send, Sync);
assert_not_impl_any!(RwLockWriteGuard<'static, u64>: Send, Sync);
assert_not_impl_any!(Permit<'static, 2>: Send, Sync);
assert_not_impl_any!(SemaphoreGuard<'static>: Send, Sync);
// A reference to one of these would promise that nobody writes.
assert_not_impl_any!(u64: Shared);
assert_not_impl_any!([u8; 4]: Shared);
// Not every byte pattern is a valid value of these.
assert_not_impl_any!(bool: Plain);
assert_not_impl_any!(char: Plain);
assert_not_impl_any!(*const u8: Plain, Shared);

#[test]
fn primitives_can_be_statics_and_work_between_threads() {
    static LOCK: Lock<u64> = Lock::new(0);
    static DONE: Semaphore = Semaphore::new(0);
    for _ in 0..2 {
        std::thread::spawn(|| {
            *LOCK.lock().unwrap() += 1;
            DONE.release().unwrap();
        });
    }
    DONE.acquire();
    DONE.acquire();
    assert_eq!(*LOCK.lock().unwrap(), 2);
}

#[test]
fn a_slice_of_sleep_can_be_chosen() {
    use std::time::Duration;
    assert_eq!(crossproc::recheck_interval(), Some(Duration::from_millis(100)));
    crossproc::set_recheck_interval(Some(Duration::from_millis(1)));
    assert_eq!(crossproc::recheck_interval(), Some(Duration::from_millis(1)));
    // The wait consists of many slices.
    assert!(Event::new().wait_timeout(Duration::from_millis(20)).is_err());
    crossproc::set_recheck_interval(None);
    assert_eq!(crossproc::recheck_interval(), None);
    crossproc::set_recheck_interval(Some(Duration::ZERO));
    assert_eq!(crossproc::recheck_interval(), Some(Duration::from_micros(1)));
}
