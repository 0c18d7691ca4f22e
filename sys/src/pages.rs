//! Private pages that a forked child finds empty, and how mappings end.

#![allow(unsafe_code)]

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use std::io;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::streams;

/// Maps private zeroed pages that read as zero again in a forked child, however it was forked
/// (`MADV_WIPEONFORK`, Linux 4.14).
///
/// # Errors
/// ENOMEM, and EINVAL on older kernels: the caller reports them.
pub fn map_wiped_on_fork(len: usize) -> Result<NonNull<c_void>, Errno> {
    // SAFETY: no address is asked for, so nothing that exists is changed.
    let start = unsafe {
        mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }?;
    // SAFETY: the range was mapped by the line above and holds nothing yet.
    if let Err(errno) = unsafe { madvise(start, len, Advice::LinuxWipeOnFork) } {
        if let Some(start) = NonNull::new(start) {
            // SAFETY: as above; no other code knows it.
            unsafe { unmap(start, len) };
        }
        return Err(errno);
    }
    NonNull::new(start).ok_or(Errno::NOMEM)
}

/// `munmap(2)` of a mapping that is no longer used.
///
/// On ENOMEM (a hole in a larger area, and `vm.max_map_count` areas already), or a sandbox's errno,
/// it stays mapped. That does no harm but for the memory that it takes. The first time, a message
/// on the standard error says so.
///
/// # Safety
/// As for `munmap`.
pub(crate) unsafe fn unmap(start: NonNull<c_void>, len: usize) {
    static HAS_COMPLAINED: AtomicBool = AtomicBool::new(false);
    // SAFETY: the caller's.
    let Err(errno) = (unsafe { munmap(start.as_ptr(), len) }) else { return };
    // Relaxed: it orders nothing.
    if !HAS_COMPLAINED.swap(true, Relaxed) {
        let what = format!(
            "crossproc: {len} bytes of shared memory could not be unmapped, and stay: {} \
             (see vm.max_map_count)\n",
            io::Error::from(errno)
        );
        let _ = streams::complain(&[&what]);
    }
}
