//! A pthread mutex and condition variable, between processes.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use crossproc::{Fingerprint, Shared, Shm};

use super::monitor::{Monitor, Value};

/// Made only by [`shared`](PthreadMonitor::shared), which initialises libc's fields in place.
#[repr(C)]
pub(crate) struct PthreadMonitor {
    mutex: UnsafeCell<MaybeUninit<libc::pthread_mutex_t>>,
    condition: UnsafeCell<MaybeUninit<libc::pthread_cond_t>>,
    value: UnsafeCell<Value>,
}

// SAFETY: only the mutex's owner reaches the value; mutex and condition are made to be shared.
unsafe impl Sync for PthreadMonitor {}

// SAFETY: all bytes are valid for Rust: `MaybeUninit`s and integers, in `UnsafeCell`s. libc trusts
// its users to leave its fields valid for libc. Here the users are the benchmark's processes, which
// access those fields through libc alone. `repr(C)`, nothing to drop.
unsafe impl Shared for PthreadMonitor {
    fn layout(to: &mut Fingerprint) {
        to.name("PthreadMonitor")
            .number(size_of::<libc::pthread_mutex_t>())
            .number(size_of::<libc::pthread_cond_t>());
    }
}

impl PthreadMonitor {
    /// Returns a value of zeroes, in memory of its own. The memory goes away with its last user:
    /// libc keeps nothing else for it.
    pub(crate) fn shared() -> Shm<Self> {
        let placed = Shm::new(PthreadMonitor {
            mutex: UnsafeCell::new(MaybeUninit::uninit()),
            condition: UnsafeCell::new(MaybeUninit::uninit()),
            value: UnsafeCell::new(Value::default()),
        })
        .unwrap();
        let mut of_mutex = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: initialises the attributes, which are this function's own.
        succeeded(unsafe { libc::pthread_mutexattr_init(of_mutex.as_mut_ptr()) });
        // SAFETY: initialised by the line before; the constant is one of the two that the call
        // takes.
        succeeded(unsafe {
            libc::pthread_mutexattr_setpshared(of_mutex.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED)
        });
        // SAFETY: the mutex is in mapped, writable memory that nobody else knows yet, and is not
        // initialised; the attributes are.
        succeeded(unsafe { libc::pthread_mutex_init(placed.mutex(), of_mutex.as_ptr()) });
        let mut of_condition = MaybeUninit::<libc::pthread_condattr_t>::uninit();
        // SAFETY: initialises the attributes, which are this function's own.
        succeeded(unsafe { libc::pthread_condattr_init(of_condition.as_mut_ptr()) });
        // SAFETY: initialised by the line before; the constant is one of the two that the call
        // takes.
        succeeded(unsafe {
            libc::pthread_condattr_setpshared(
                of_condition.as_mut_ptr(),
                libc::PTHREAD_PROCESS_SHARED,
            )
        });
        // SAFETY: as for the mutex.
        succeeded(unsafe { libc::pthread_cond_init(placed.condition(), of_condition.as_ptr()) });
        placed
    }

    fn mutex(&self) -> *mut libc::pthread_mutex_t {
        self.mutex.get().cast()
    }

    fn condition(&self) -> *mut libc::pthread_cond_t {
        self.condition.get().cast()
    }
}

impl Monitor for PthreadMonitor {
    #[inline]
    fn wait_while(&self, mut condition: impl FnMut(&mut Value) -> bool) {
        // SAFETY: initialised by `shared`, at this place in its memory, and never destroyed.
        succeeded(unsafe { libc::pthread_mutex_lock(self.mutex()) });
        // SAFETY: this thread owns the mutex whenever this is evaluated, and the borrow ends with
        // the call of `condition`.
        while condition(unsafe { &mut *self.value.get() }) {
            // SAFETY: both are initialised by `shared`. This thread owns the mutex, and no thread
            // waits here with another mutex.
            succeeded(unsafe { libc::pthread_cond_wait(self.condition(), self.mutex()) });
        }
        // SAFETY: as for the lock; owned by this thread.
        succeeded(unsafe { libc::pthread_mutex_unlock(self.mutex()) });
    }

    #[inline]
    fn notify_one(&self) {
        // SAFETY: initialised by `shared`, and never destroyed.
        succeeded(unsafe { libc::pthread_cond_signal(self.condition()) });
    }

    #[inline]
    fn notify_all(&self) {
        // SAFETY: as in `notify_one`.
        succeeded(unsafe { libc::pthread_cond_broadcast(self.condition()) });
    }
}

#[inline]
fn succeeded(errno: libc::c_int) {
    assert_eq!(errno, 0, "a pthread call failed");
}
