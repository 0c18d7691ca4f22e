//! `pthread_rwlock_t` between processes, around a value.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use crossproc::{Fingerprint, Plain, Shared, Shm};

use super::shared_exclusion::SharedExclusion;

/// Of the default kind: glibc's prefers readers. Only ever made by
/// [`shared`](PthreadRwLock::shared), which initialises the lock where it lies.
#[repr(C)]
pub(crate) struct PthreadRwLock<T> {
    lock: UnsafeCell<MaybeUninit<libc::pthread_rwlock_t>>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by the writer alone, who may be any thread, or by readers; the lock
// is made to be shared.
unsafe impl<T: Send + Sync> Sync for PthreadRwLock<T> {}

// SAFETY: to Rust all bytes are valid: `MaybeUninit` and plain data, both in `UnsafeCell`. That the
// lock's own hold nothing wild is libc's trust in its users; here they are the benchmark's
// processes, which reach it through libc alone. `repr(C)`, nothing to drop.
unsafe impl<T: Plain + Sync> Shared for PthreadRwLock<T> {
    fn layout(to: &mut Fingerprint) {
        to.name("PthreadRwLock").number(size_of::<libc::pthread_rwlock_t>()).plain::<T>();
    }
}

impl<T: Plain + Sync> PthreadRwLock<T> {
    /// A process-shared lock in memory of its own. It is never destroyed: the memory goes with its
    /// last user, and libc keeps nothing else for it.
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
        // SAFETY: the lock lies in mapped, writable memory that nobody else knows yet, and is not
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
        // SAFETY: initialised by `shared`, at this place in its memory, and never destroyed; called
        // by those only that hold it.
        succeeded(unsafe { libc::pthread_rwlock_unlock(self.lock()) });
    }
}

impl<T> SharedExclusion for PthreadRwLock<T> {
    type Value = T;

    #[inline]
    fn read(&self, section: impl FnOnce(&T)) {
        // SAFETY: initialised by `shared`, at this place in its memory, and never destroyed.
        succeeded(unsafe { libc::pthread_rwlock_rdlock(self.lock()) });
        // SAFETY: this thread reads since the line before and until the unlock below, which the
        // borrow does not outlive: nobody writes meanwhile.
        section(unsafe { &*self.value.get() });
        self.unlock();
    }

    #[inline]
    fn write(&self, section: impl FnOnce(&mut T)) {
        // SAFETY: as in `read`.
        succeeded(unsafe { libc::pthread_rwlock_wrlock(self.lock()) });
        // SAFETY: this thread writes since the line before and until the unlock below, which the
        // borrow does not outlive: nobody else is there.
        section(unsafe { &mut *self.value.get() });
        self.unlock();
    }
}

#[inline]
fn succeeded(errno: libc::c_int) {
    assert_eq!(errno, 0, "a pthread call failed");
}
