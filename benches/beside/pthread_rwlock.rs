//! `pthread_rwlock_t` between processes, around a value.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use crossproc::{Fingerprint, Plain, Shared, Shm};

use super::shared_exclusion::SharedExclusion;

/// A lock of the default kind: glibc's prefers readers. Made only by
/// [`shared`](PthreadRwLock::shared), which initialises the lock in place.
#[repr(C)]
pub(crate) struct PthreadRwLock<T> {
    lock: UnsafeCell<MaybeUninit<libc::pthread_rwlock_t>>,
    value: UnsafeCell<T>,
}

// SAFETY: only the writer, which may be any thread, or readers reach the value; the lock is made to
// be shared.
unsafe impl<T: Send + Sync> Sync for PthreadRwLock<T> {}

// SAFETY: all bytes are valid for Rust: `MaybeUninit` and plain data, both in `UnsafeCell`. libc
// trusts its users to leave the lock's bytes valid for libc. Here the users are the benchmark's
// processes, which access the lock through libc alone. `repr(C)`, nothing to drop.
unsafe impl<T: Plain + Sync> Shared for PthreadRwLock<T> {
    fn layout(to: &mut Fingerprint) {
        to.name("PthreadRwLock").number(size_of::<libc::pthread_rwlock_t>()).plain::<T>();
    }
}

impl<T: Plain + Sync> PthreadRwLock<T> {
    /// Returns a process-shared lock in memory of its own. It is never destroyed: the memory goes
    /// away with its last user, and libc keeps nothing else for it.
    pub(crate) fn shared(value: T) -> Shm<Self> {
        let placed = Shm::new(PthreadRwLock {
            lock: UnsafeCell::new(MaybeUninit::uninit()),
            value: UnsafeCell::new(value),
        })
        .unwrap();
        let mut attributes = MaybeUninit::<libc::pthread_rwlockattr_t>::uninit();
        // SAFETY: initialises the attributes, which are this function's own.
        succeeded(unsafe { libc::pthread_rwlockattr_init(attributes.as_mut_ptr()) });
        // SAFETY: initialised by the line before; the constant is one of the two that the call
        // takes.
        succeeded(unsafe {
            libc::pthread_rwlockattr_setpshared(
                attributes.as_mut_ptr(),
                libc::PTHREAD_PROCESS_SHARED,
            )
        });
        // SAFETY: the lock is in mapped, writable memory that nobody else knows yet, and is not
        // initialised; the attributes are.
        succeeded(unsafe { libc::pthread_rwlock_init(placed.lock(), attributes.as_ptr()) });
        placed
    }
}

impl<T> PthreadRwLock<T> {
    fn lock(&self) -> *mut libc::pthread_rwlock_t {
        self.lock.get().cast()
    }

    #[inline]
    fn unlock(&self) {
        // SAFETY: initialised by `shared`, at this place in its memory, and never destroyed. Only
        // threads that hold the lock call this.
        succeeded(unsafe { libc::pthread_rwlock_unlock(self.lock()) });
    }
}

impl<T> SharedExclusion for PthreadRwLock<T> {
    type Value = T;

    #[inline]
    fn read(&self, section: impl FnOnce(&T)) {
        // SAFETY: initialised by `shared`, at this place in its memory, and never destroyed.
        succeeded(unsafe { libc::pthread_rwlock_rdlock(self.lock()) });
        // SAFETY: this thread reads from the line before until the unlock below, and the borrow
        // does not outlive that. No thread writes meanwhile.
        section(unsafe { &*self.value.get() });
        self.unlock();
    }

    #[inline]
    fn write(&self, section: impl FnOnce(&mut T)) {
        // SAFETY: as in `read`.
        succeeded(unsafe { libc::pthread_rwlock_wrlock(self.lock()) });
        // SAFETY: this thread writes from the line before until the unlock below, and the borrow
        // does not outlive that. No other thread accesses the value meanwhile.
        section(unsafe { &mut *self.value.get() });
        self.unlock();
    }
}

#[inline]
fn succeeded(errno: libc::c_int) {
    assert_eq!(errno, 0, "a pthread call failed");
}
