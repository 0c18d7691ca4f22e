//! `pthread_mutex_t` between processes, around a value.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use crossproc::{Fingerprint, Plain, Shared, Shm};

use super::mutual_exclusion::MutualExclusion;

/// What happens to a mutex when its owner dies.
#[derive(Clone, Copy)]
pub(crate) enum Robustness {
    /// `PTHREAD_MUTEX_STALLED`: nothing happens, and no thread ever gets it.
    #[allow(dead_code, reason = "some benchmarks are about robust ones alone")]
    Plain = libc::PTHREAD_MUTEX_STALLED as isize,
    /// `PTHREAD_MUTEX_ROBUST`: the next thread to lock gets it, with EOWNERDEAD.
    Robust = libc::PTHREAD_MUTEX_ROBUST as isize,
}

/// Made only by [`shared`](PthreadMutex::shared), which initialises the mutex in place.
#[repr(C)]
pub(crate) struct PthreadMutex<T> {
    mutex: UnsafeCell<MaybeUninit<libc::pthread_mutex_t>>,
    value: UnsafeCell<T>,
}

// SAFETY: only the mutex's owner reaches the value, and the owner may be any thread; the mutex is
// made to be shared.
unsafe impl<T: Send> Sync for PthreadMutex<T> {}

// SAFETY: all bytes are valid for Rust: `MaybeUninit` and plain data, both in `UnsafeCell`. libc
// trusts its users to leave the mutex's bytes valid for libc. Here the users are the benchmark's
// processes, which access the mutex through libc alone. `repr(C)`, nothing to drop.
unsafe impl<T: Plain> Shared for PthreadMutex<T> {
    fn layout(to: &mut Fingerprint) {
        to.name("PthreadMutex").number(size_of::<libc::pthread_mutex_t>()).plain::<T>();
    }
}

impl<T: Plain> PthreadMutex<T> {
    /// Returns a process-shared mutex in memory of its own. It is never destroyed: the memory goes
    /// away with its last user, and libc keeps nothing else for it.
    pub(crate) fn shared(robustness: Robustness, value: T) -> Shm<Self> {
        let placed = Shm::new(PthreadMutex {
            mutex: UnsafeCell::new(MaybeUninit::uninit()),
            value: UnsafeCell::new(value),
        })
        .unwrap();
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: initialises the attributes, which are this function's own.
        succeeded(unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) });
        // SAFETY: initialised by the line before; the constant is one of the two that the call
        // takes.
        succeeded(unsafe {
            libc::pthread_mutexattr_setpshared(
                attributes.as_mut_ptr(),
                libc::PTHREAD_PROCESS_SHARED,
            )
        });
        // SAFETY: initialised above; `Robustness` has the two values that the call takes.
        succeeded(unsafe {
            libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), robustness as libc::c_int)
        });
        // SAFETY: the mutex is in mapped, writable memory that nobody else knows yet, and is not
        // initialised; the attributes are.
        succeeded(unsafe { libc::pthread_mutex_init(placed.mutex(), attributes.as_ptr()) });
        placed
    }
}

impl<T> PthreadMutex<T> {
    fn mutex(&self) -> *mut libc::pthread_mutex_t {
        self.mutex.get().cast()
    }
}

impl<T> PthreadMutex<T> {
    /// Locks, and does not unlock.
    #[allow(dead_code, reason = "only the benchmark of deaths does that")]
    pub(crate) fn hold(&self) {
        // SAFETY: initialised by `shared`, at this place in its memory, and never destroyed.
        succeeded(unsafe { libc::pthread_mutex_lock(self.mutex()) });
    }

    /// Locks a robust mutex whose owner dies, and declares the value whole.
    #[allow(dead_code, reason = "only the benchmark of deaths does that")]
    pub(crate) fn take_over(&self) {
        // SAFETY: as in `hold`.
        let errno = unsafe { libc::pthread_mutex_lock(self.mutex()) };
        assert_eq!(errno, libc::EOWNERDEAD, "the owner has died");
        // SAFETY: as in `hold`; this thread owns the mutex.
        succeeded(unsafe { libc::pthread_mutex_consistent(self.mutex()) });
    }

    /// Unlocks what this thread has locked by one of these calls.
    #[allow(dead_code, reason = "only the benchmark of deaths does that")]
    pub(crate) fn unlock(&self) {
        // SAFETY: as in `hold`; this thread owns the mutex.
        succeeded(unsafe { libc::pthread_mutex_unlock(self.mutex()) });
    }
}

impl<T> MutualExclusion for PthreadMutex<T> {
    type Value = T;

    #[inline]
    fn with(&self, section: impl FnOnce(&mut T)) {
        // SAFETY: initialised by `shared`, at this place in its memory, and never destroyed.
        succeeded(unsafe { libc::pthread_mutex_lock(self.mutex()) });
        // SAFETY: this thread owns the mutex from the line before until the unlock below, and the
        // borrow does not outlive that.
        section(unsafe { &mut *self.value.get() });
        // SAFETY: as for the lock; owned by this thread.
        succeeded(unsafe { libc::pthread_mutex_unlock(self.mutex()) });
    }
}

#[inline]
fn succeeded(errno: libc::c_int) {
    assert_eq!(errno, 0, "a pthread call failed");
}
