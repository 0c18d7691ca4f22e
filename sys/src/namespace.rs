//! Which pid namespace this process is in: a lock names its owner by a TID, which means nothing in another one.

use std::io;
use std::sync::OnceLock;

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
    static FIRST: OnceLock<PidNamespace> = OnceLock::new();
    if let Some(&known) = FIRST.get() {
        return Ok(known);
    }
    let found = current()?;
    Ok(*FIRST.get_or_init(|| found))
}
