//! What libc has registered with the kernel for a thread.

#![allow(unsafe_code)]

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::ptr;

use super::entry::Entry;
use super::error::Error;
use super::word::FUTEX_OFFSET;
use crate::retry::last_errno;

/// The kernel's `struct robust_list_head`, which lies in libc's thread descriptor.
#[repr(C)]
pub(super) struct ListHead {
    pub(super) list: Cell<usize>,
    pub(super) futex_offset: Cell<isize>,
    pub(super) list_op_pending: Entry,
}

/// Returns what libc has registered for the calling thread, checked against the layout of
/// [`RobustWord`](super::RobustWord).
pub(super) fn registered_head() -> Result<&'static ListHead, Error> {
    let mut head = get_robust_list()?;
    if head.is_null() {
        // musl registers a thread's list when the thread locks its first process-shared mutex.
        lock_a_shared_mutex();
        head = get_robust_list()?;
    }
    // SAFETY: the kernel returns what libc has registered for this very thread. It lies in the
    // thread's descriptor, which outlives the thread's code.
    let head: &'static ListHead = unsafe { head.as_ref() }.ok_or(Error::NoList)?;
    match head.futex_offset.get() {
        FUTEX_OFFSET => Ok(head),
        futex_offset => Err(Error::OtherLayout { futex_offset }),
    }
}

/// Calls `get_robust_list(2)` for the calling thread. That has no errnos: the call neither asks for
/// another thread, nor passes a bad pointer.
fn get_robust_list() -> Result<*const ListHead, Error> {
    let mut head: *const ListHead = ptr::null();
    let mut len: usize = 0;
    // SAFETY: the call writes a pointer and a size where its two arguments point.
    let failed =
        unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) };
    if failed != 0 {
        return Err(Error::Os(last_errno()));
    }
    Ok(if len == size_of::<ListHead>() { head } else { ptr::null() })
}

fn lock_a_shared_mutex() {
    let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
    let mut mutex = MaybeUninit::<libc::pthread_mutex_t>::uninit();
    // SAFETY: initialises the attributes.
    unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
    // SAFETY: initialised by the line above.
    unsafe {
        libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST)
    };
    // SAFETY: initialised as well.
    unsafe {
        libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED)
    };
    // SAFETY: initialises the mutex from initialised attributes.
    unsafe { libc::pthread_mutex_init(mutex.as_mut_ptr(), attributes.as_ptr()) };
    // SAFETY: initialised, and no other code knows it.
    unsafe { libc::pthread_mutex_lock(mutex.as_mut_ptr()) };
    // SAFETY: held by this thread since the line above. Once it is unlocked, the list does not name
    // it any more.
    unsafe { libc::pthread_mutex_unlock(mutex.as_mut_ptr()) };
    // SAFETY: unlocked, and not used again.
    unsafe { libc::pthread_mutex_destroy(mutex.as_mut_ptr()) };
    // SAFETY: not used again.
    unsafe { libc::pthread_mutexattr_destroy(attributes.as_mut_ptr()) };
}
