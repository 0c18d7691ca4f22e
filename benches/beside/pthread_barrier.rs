//! `pthread_barrier_t` between processes.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use crossproc::{Fingerprint, Shared, Shm};

/// Made only by [`shared`](PthreadBarrier::shared), which initialises it in place.
#[repr(transparent)]
pub(crate) struct PthreadBarrier {
    barrier: UnsafeCell<MaybeUninit<libc::pthread_barrier_t>>,
}

// SAFETY: made to be used by several threads at once.
unsafe impl Sync for PthreadBarrier {}

// SAFETY: all bytes are valid for Rust: `MaybeUninit` in an `UnsafeCell`. libc trusts its users to
// leave the bytes valid for libc. Here the users are the benchmark's processes, which access the
// barrier through libc alone. `repr(transparent)`, nothing to drop.
unsafe impl Shared for PthreadBarrier {
    fn layout(to: &mut Fingerprint) {
        to.name("PthreadBarrier").number(size_of::<libc::pthread_barrier_t>());
    }
}

impl PthreadBarrier {
    /// Returns a process-shared barrier in memory of its own. It is never destroyed: the memory
    /// goes away with its last user, and libc keeps nothing else for it.
    pub(crate) fn shared(parties: u32) -> Shm<Self> {
        let placed =
            Shm::new(PthreadBarrier { barrier: UnsafeCell::new(MaybeUninit::uninit()) }).unwrap();
        let mut attributes = MaybeUninit::<libc::pthread_barrierattr_t>::uninit();
        // SAFETY: initialises the attributes, which are this function's own.
        succeeded(unsafe { libc::pthread_barrierattr_init(attributes.as_mut_ptr()) });
        // SAFETY: initialised by the line before; the constant is one of the two that the call
        // takes.
        succeeded(unsafe {
            libc::pthread_barrierattr_setpshared(
                attributes.as_mut_ptr(),
                libc::PTHREAD_PROCESS_SHARED,
            )
        });
        // SAFETY: the barrier is in mapped, writable memory that nobody else knows yet, and is not
        // initialised; the attributes are.
        succeeded(unsafe {
            libc::pthread_barrier_init(placed.get(), attributes.as_ptr(), parties)
        });
        placed
    }

    #[inline]
    pub(crate) fn wait(&self) {
        // SAFETY: initialised by `shared`, at this place in its memory, and never destroyed.
        let result = unsafe { libc::pthread_barrier_wait(self.get()) };
        // One of the parties gets this value, which is not an error.
        succeeded(if result == libc::PTHREAD_BARRIER_SERIAL_THREAD { 0 } else { result });
    }

    fn get(&self) -> *mut libc::pthread_barrier_t {
        self.barrier.get().cast()
    }
}

#[inline]
fn succeeded(errno: libc::c_int) {
    assert_eq!(errno, 0, "a pthread call failed");
}
