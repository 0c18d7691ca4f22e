//! `sem_t` between processes.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::time::Duration;
use std::io;
use std::time::SystemTime;

use crossproc::{Fingerprint, Shared, Shm};

/// Made only by [`shared`](PosixSemaphore::shared), which initialises it in place.
#[repr(transparent)]
pub struct PosixSemaphore {
    semaphore: UnsafeCell<MaybeUninit<libc::sem_t>>,
}

// SAFETY: made to be used by several threads at once.
unsafe impl Sync for PosixSemaphore {}

// SAFETY: all bytes are valid for Rust: `MaybeUninit` in an `UnsafeCell`. libc trusts its users to
// leave the bytes valid for libc. Here the users are the benchmark's processes, which access the
// semaphore through libc alone. `repr(transparent)`, nothing to drop.
unsafe impl Shared for PosixSemaphore {
    fn layout(to: &mut Fingerprint) {
        to.name("PosixSemaphore").number(size_of::<libc::sem_t>());
    }
}

impl PosixSemaphore {
    /// Returns a process-shared semaphore in memory of its own. It is never destroyed: the memory
    /// goes away with its last user, and libc keeps nothing else for it.
    pub fn shared(value: u32) -> Shm<Self> {
        const BETWEEN_PROCESSES: libc::c_int = 1;
        let placed =
            Shm::new(PosixSemaphore { semaphore: UnsafeCell::new(MaybeUninit::uninit()) }).unwrap();
        // SAFETY: the semaphore is in mapped, writable memory that nobody else knows yet, and is
        // not initialised.
        succeeded(unsafe { libc::sem_init(placed.get(), BETWEEN_PROCESSES, value) });
        placed
    }

    #[inline]
    pub fn post(&self) {
        // SAFETY: initialised by `shared`, at this place in its memory, and never destroyed.
        succeeded(unsafe { libc::sem_post(self.get()) });
    }

    #[inline]
    #[allow(dead_code, reason = "only the benchmark of semaphores waits without end")]
    pub fn wait(&self) {
        // SAFETY: as in `post`.
        succeeded(unsafe { libc::sem_wait(self.get()) });
    }

    /// Returns whether there was a permit before `timeout` was over, by the wall clock.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let until = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + timeout;
        let until = libc::timespec {
            tv_sec: until.as_secs() as libc::time_t,
            tv_nsec: until.subsec_nanos().into(),
        };
        // SAFETY: as in `post`; the time is this function's own.
        unsafe { libc::sem_timedwait(self.get(), &raw const until) == 0 }
    }

    fn get(&self) -> *mut libc::sem_t {
        self.semaphore.get().cast()
    }
}

#[inline]
fn succeeded(result: libc::c_int) {
    assert_eq!(result, 0, "a call on a semaphore failed: {}", io::Error::last_os_error());
}
