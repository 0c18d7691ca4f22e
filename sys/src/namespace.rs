//! The pid namespace that this process is in. A lock names its owner by a TID, which means nothing
//! in another namespace.
//!
//! A process is in one namespace for its whole life, so it is looked up once. Later calls may come
//! where there is no `/proc`: after `chroot(2)`, or in a sandbox.

#![allow(unsafe_code)]

use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering::*};
use std::error::Error;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{fstat, stat};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::retry::last_errno;
use crate::{ids, pages};

/// A pid namespace: device and inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidNamespace {
    /// The device of the namespace file system.
    pub device: u64,
    /// The inode that stands for the namespace.
    pub inode: u64,
}

/// A namespace, once it is found out.
struct Known {
    device: AtomicU64,
    /// 0: not known yet. Stored with Release, after the device; loaded with Acquire.
    inode: AtomicU64,
}

impl Known {
    const NOT_YET: u64 = 0;

    fn get(&self) -> Option<PidNamespace> {
        let inode = self.inode.load(Acquire);
        (inode != Known::NOT_YET).then(|| PidNamespace { device: self.device.load(Relaxed), inode })
    }

    /// Every thread that sets it sets the same.
    fn set(&self, found: PidNamespace) {
        self.device.store(found.device, Relaxed);
        self.inode.store(found.inode, Release);
    }
}

/// Returns the pid namespace of the calling process, and remembers it. It is found by
/// `stat("/proc/self/ns/pid")`, and where that fails by `PIDFD_GET_PID_NAMESPACE` (Linux 6.11).
///
/// # Errors
/// ENOENT or EACCES: `/proc` is not mounted, or hidden, and the kernel does not tell in the other
/// way. The caller reports it.
pub fn current() -> Result<PidNamespace, Unknown> {
    let known = of_this_process();
    if let Some(found) = known.and_then(Known::get) {
        return Ok(found);
    }
    let found = match stat("/proc/self/ns/pid") {
        Ok(found) => found,
        Err(errno) => own_namespace().and_then(fstat).map_err(|_| Unknown(errno))?,
    };
    let found = PidNamespace { device: found.st_dev, inode: found.st_ino };
    if let Some(known) = known {
        known.set(found);
    }
    Ok(found)
}

/// The pid namespace could not be found out. It has the errno of `stat("/proc/self/ns/pid")`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown(pub Errno);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this process cannot find out its pid namespace, without which locks cannot name their \
             owners; /proc/self/ns/pid: {}. Mount /proc, or use a lock before it is out of reach, \
             as by chroot",
            self.0
        )
    }
}

impl Error for Unknown {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl From<Unknown> for io::Error {
    fn from(unknown: Unknown) -> Self {
        io::Error::new(unknown.0.kind(), unknown)
    }
}

/// Returns what this process has found out. It is empty again in a child, however that was forked.
/// `None`: there is no memory for it.
fn of_this_process() -> Option<&'static Known> {
    static KNOWN: AtomicPtr<Known> = AtomicPtr::new(ptr::null_mut());
    // Acquire: pairs with the exchange below, for the mapping.
    let known = NonNull::new(KNOWN.load(Acquire)).or_else(|| {
        let made = pages::map_wiped_on_fork(size_of::<Known>()).ok()?.cast::<Known>();
        match KNOWN.compare_exchange(ptr::null_mut(), made.as_ptr(), AcqRel, Acquire) {
            Ok(_) => Some(made),
            // Another thread, or a handler, was faster. This page is left over.
            Err(other) => NonNull::new(other),
        }
    })?;
    // SAFETY: zeroed pages, which are a `Known` (atomics), aligned to a page, and never unmapped.
    Some(unsafe { known.as_ref() })
}

/// Opens a descriptor of this process's namespace.
fn own_namespace() -> Result<OwnedFd, Errno> {
    /// `linux/pidfd.h`: `_IO(0xFF, 5)`.
    const PIDFD_GET_PID_NAMESPACE: u64 = 0xff05;
    let this_process = pidfd_open(ids::this_process()?, PidfdFlags::empty())?;
    // SAFETY: a request without an argument.
    match unsafe { libc::ioctl(this_process.as_raw_fd(), PIDFD_GET_PID_NAMESPACE as _, 0) } {
        -1 => Err(last_errno()),
        // SAFETY: just made, and owned by nothing else.
        file => Ok(unsafe { OwnedFd::from_raw_fd(file) }),
    }
}

/// Returns the pid namespace that this program was in when it first asked. A forked child inherits
/// the answer, even a child that was forked into another namespace. So it can tell that its
/// parent's TIDs are not its own.
///
/// # Errors
/// As for [`current`], the first time.
pub fn first() -> Result<PidNamespace, Unknown> {
    // Not a `OnceLock`: a signal handler that interrupted its initialisation would wait for it for
    // ever.
    static FIRST: Known =
        Known { device: AtomicU64::new(0), inode: AtomicU64::new(Known::NOT_YET) };
    if let Some(found) = FIRST.get() {
        return Ok(found);
    }
    let found = current()?;
    FIRST.set(found);
    Ok(found)
}
