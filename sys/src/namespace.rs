//! Which pid namespace this process is in: a lock names its owner by a TID, which means nothing in another one.

use core::sync::atomic::{AtomicU64, Ordering::*};
use std::io;

use rustix::fs::stat;

/// A pid namespace: device and inode of its file in `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidNamespace {
    /// The device of the namespace file system.
    pub device: u64,
    /// The inode that stands for the namespace.
    pub inode: u64,
}

/// The pid namespace of the calling process, by `stat("/proc/self/ns/pid")`.
///
/// # Errors
/// ENOENT or EACCES: `/proc` is not mounted, or hidden. The caller reports it.
pub fn current() -> io::Result<PidNamespace> {
    let found = stat("/proc/self/ns/pid")?;
    Ok(PidNamespace { device: found.st_dev, inode: found.st_ino })
}

/// The pid namespace that this program was in when it first asked. A forked child inherits the answer, also
/// one that was forked into another namespace, so that it can tell that its parent's TIDs are not its own.
///
/// # Errors
/// As [`current`], the first time.
pub fn first() -> io::Result<PidNamespace> {
    // Not a `OnceLock`: a signal handler that interrupted its initialisation would wait for it for ever. All who store, store the same.
    static DEVICE: AtomicU64 = AtomicU64::new(0);
    static INODE: AtomicU64 = AtomicU64::new(UNKNOWN);
    const UNKNOWN: u64 = 0;
    // Acquire: pairs with the Release below, for the device.
    let inode = INODE.load(Acquire);
    if inode != UNKNOWN {
        return Ok(PidNamespace { device: DEVICE.load(Relaxed), inode });
    }
    let found = current()?;
    DEVICE.store(found.device, Relaxed);
    INODE.store(found.inode, Release);
    Ok(found)
}
