//! Taking an address that no other server serves.
//!
//! A path is taken in the steps below. It leads to a listening socket, or to one that a killed
//! server has left, and there is no moment in between at which it leads to nothing.
//! 1. The server takes the lock on `PATH.lock`; if that fails, another server lives. It is a record
//!    lock, which belongs to the *process*: the kernel frees it at its death, and forked children
//!    do not have it. The lock does not exclude a process from itself, and closing *any* descriptor
//!    of the file frees it. So a process looks into its own register before it opens the file.
//! 2. It binds a socket to `PATH.new`, where only the lock's owner does anything. The socket gets
//!    its mode, and listens.
//! 3. It renames the socket over PATH.
//!
//! PATH is looked up once. From then on its folder is a descriptor, and what lies there has a name
//! in it. So a process still finds what it has made after it changes its working directory, or
//! after the folder is moved. It removes nothing of another process's: on drop, it removes the
//! socket and the lock file only if the name still leads to the same file.

use core::time::Duration;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossproc_sys::descriptor::above_standard;
use crossproc_sys::per_process::{Current, PerProcess};
use crossproc_sys::poll::{self, PollFlags};
use crossproc_sys::{clock, ids, pidfd, record_lock, socket as sys};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::fs::{chmodat, fcntl_lock, fstat, linkat, open, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};

use super::address::{Address, lock_name, new_name};
use super::error::DirectoryError;
use super::own::Own;

/// The most connections that may wait to be accepted. The kernel has a limit of its own
/// (net.core.somaxconn).
const BACKLOG: i32 = 4_096;
/// How long a child that a server has forked may take to close its copy of the socket.
const FORKING: Duration = Duration::from_secs(1);
/// Between two looks at it, in nanoseconds.
const PAUSE: u64 = 1_000_000;

/// A taken address, which is given back on drop.
#[derive(Debug)]
pub(super) struct Claim {
    address: Address,
    path: Option<TakenClaim>,
}

/// The device and the inode number: a file, whatever it is called.
type Inode = (u64, u64);

#[derive(Debug)]
struct TakenClaim {
    folder: Arc<Folder>,
    name: OsString,
    socket: Inode,
    lock: LockFile,
}

/// The folder of a path, as it was when the address was taken.
#[derive(Debug)]
struct Folder(OwnedFd);

/// A lock of this process, which is freed on drop.
#[derive(Debug)]
struct LockFile {
    folder: Arc<Folder>,
    name: OsString,
    inode: Inode,
    /// The register of the process that took the lock. Only that process gives it back: no forked
    /// child does, not even one that has the same pid in another namespace.
    held: &'static Current<HeldInodes>,
    /// Closing it frees the lock.
    _file: OwnedFd,
}

/// The locks that this process holds.
type HeldInodes = Mutex<Vec<Inode>>;

static HELD: PerProcess<HeldInodes> = PerProcess::new();

fn lock(held: &HeldInodes) -> MutexGuard<'_, Vec<Inode>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[allow(clippy::unnecessary_cast, reason = "their sizes depend on the processor")]
fn inode(of: &Stat) -> Inode {
    (of.st_dev as u64, of.st_ino as u64)
}

fn is_socket(of: &Stat) -> bool {
    FileType::from_raw_mode(of.st_mode) == FileType::Socket
}

impl Folder {
    fn of(path: &Path) -> Result<Self, Errno> {
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder =
            open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        above_standard(folder).map(Folder)
    }

    /// Returns what has a name in the folder; of a symbolic link, the link itself.
    fn find(&self, name: &OsStr) -> Option<Stat> {
        statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// Returns whether the name still leads to that file.
    fn leads_to(&self, name: &OsStr, file: Inode) -> bool {
        self.find(name).is_some_and(|found| inode(&found) == file)
    }

    fn remove(&self, name: &OsStr) -> Result<(), Errno> {
        unlinkat(&self.0, name, AtFlags::empty())
    }
}

impl Claim {
    /// Takes an address. Returns a socket that listens there. `is_open` says whether users other
    /// than this one may connect.
    pub(super) fn take(
        address: &Address,
        is_open: bool,
    ) -> Result<(Own<OwnedFd>, Self), DirectoryError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .and_then(above_standard);
        let socket = made.map_err(DirectoryError::os("making a socket"))?;
        let socket = Own::new(socket)
            .map_err(DirectoryError::os("keeping the socket from forked children"))?;
        let path = match address.path() {
            Some(path) => Some(take_path(address, path, &socket, is_open)?),
            None => {
                take_name(address, &socket)?;
                None
            }
        };
        Ok((socket, Claim { address: address.clone(), path }))
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(taken) = self.path.take().filter(|taken| taken.lock.held.is_of_this_process())
        else {
            return;
        };
        let mut held = lock(taken.lock.held);
        // Another server can only be there if some process has removed the lock's file.
        if taken.folder.leads_to(&taken.name, taken.socket) {
            let _ = taken.folder.remove(&taken.name);
        }
        held.retain(|&file| file != taken.lock.inode);
        drop(taken);
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // A process that has opened it already finds, once it has the lock, that the name does not
        // lead to this file.
        if self.held.is_of_this_process() && self.folder.leads_to(&self.name, self.inode) {
            let _ = self.folder.remove(&self.name);
        }
    }
}

fn take_name(address: &Address, socket: &OwnedFd) -> Result<(), DirectoryError> {
    let place = address.socket_address()?;
    let (mut ended, mut until) = (None, None);
    loop {
        match bind(socket, &place) {
            Err(Errno::ADDRINUSE) => {}
            result => {
                break result
                    .map_err(DirectoryError::os("binding a socket to an abstract name"))?;
            }
        }
        let (pid, connected) = who_listens(address).ok().unzip();
        match pid.filter(|&pid| pidfd::has_ended(pid)) {
            // That process had ended before this attempt, and all that it had open was closed: so
            // another one has its socket. A child that it has just forked is about to close that,
            // and then the connection ends, which nobody has accepted.
            Some(pid) if ended == Some(pid) => {
                let end = || clock::now().saturating_add(FORKING.as_nanos() as u64);
                let until = *until.get_or_insert_with(end);
                let is_closed = connected.map(|to| poll::wait(to, PollFlags::IN, Some(until)));
                if !matches!(is_closed, Some(Ok(true))) || clock::now() >= until {
                    return Err(DirectoryError::Orphaned { address: address.clone(), pid });
                }
                // It may also accept, and close or send.
                let _ = poll::sleep_until(clock::now().saturating_add(PAUSE));
            }
            // That process may have ended just now.
            Some(pid) => ended = Some(pid),
            None => return Err(DirectoryError::AlreadyServed { address: address.clone(), pid }),
        }
    }
    listen(socket, BACKLOG).map_err(DirectoryError::os("listening"))
}

/// Returns the process that listens, and a connection to its socket.
fn who_listens(address: &Address) -> io::Result<(u32, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .and_then(above_standard)?;
    connect(&socket, &address.socket_address()?)?;
    match sys::peer(&socket)?.pid {
        0 => Err(io::ErrorKind::NotFound.into()),
        pid => Ok((pid, socket)),
    }
}

fn take_path(
    address: &Address,
    path: &Path,
    socket: &OwnedFd,
    is_open: bool,
) -> Result<TakenClaim, DirectoryError> {
    let (place, name) = address.new_socket_address(path)?;
    let folder =
        Arc::new(Folder::of(path).map_err(DirectoryError::os("opening the folder of the path"))?);
    let new = new_name(name);
    // Locked to the end, so that two threads cannot both find nothing.
    let of_process =
        HELD.get().map_err(|source| DirectoryError::Os { what: "mapping memory", source })?;
    let mut held = lock(of_process);
    let lock = take_lock(address, &folder, lock_name(name), of_process, &held)?;
    if folder.find(name).is_some_and(|found| !is_socket(&found)) {
        return Err(DirectoryError::NotASocket { address: address.clone() });
    }
    // Left by a server that was killed between steps 2 and 3.
    if folder.find(&new).is_some_and(|found| is_socket(&found)) {
        folder
            .remove(&new)
            .map_err(DirectoryError::os("removing the socket that a killed server has left"))?;
    }
    // The only call that takes no folder.
    bind(socket, &place)
        .map_err(DirectoryError::os("binding a socket to the path, with .new behind it"))?;
    let Some(found) = folder.find(&new).filter(is_socket) else {
        let source = io::Error::other(
            "the working directory was changed, or the folder moved, meanwhile: a socket with .new \
             behind its name is left there",
        );
        return Err(DirectoryError::Os { what: "binding a socket to the path", source });
    };
    let put_in_place = || -> Result<(), Errno> {
        chmodat(
            &folder.0,
            &new,
            Mode::from_raw_mode(if is_open { 0o666 } else { 0o600 }),
            AtFlags::empty(),
        )?;
        listen(socket, BACKLOG)?;
        renameat(&folder.0, &new, &folder.0, name)
    };
    put_in_place().map_err(|errno| {
        let _ = folder.remove(&new);
        DirectoryError::Os { what: "giving the socket its path", source: errno.into() }
    })?;
    held.push(lock.inode);
    Ok(TakenClaim { folder, name: name.to_owned(), socket: inode(&found), lock })
}

/// Makes a new file for the lock, and locks it before it gets its name. So if it cannot be locked,
/// no file is left behind, which nobody could remove without the lock. Returns `None` if the file
/// cannot get its name this way: something is there by now, or the file system has no files without
/// names. The caller then opens the file in the ordinary way.
fn new_and_locked(folder: &Folder, name: &OsStr) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let Ok(file) = openat(&folder.0, ".", flags, Mode::RUSR | Mode::WUSR) else { return Ok(None) };
    // Before it is locked: closing the first descriptor would free the lock.
    let file = above_standard(file)?;
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let linked = linkat(CWD, link, &folder.0, name, AtFlags::SYMLINK_FOLLOW);
    Ok(linked.is_ok().then_some(file))
}

/// Locks the lock's file, unless a living process has it locked.
fn take_lock(
    address: &Address,
    folder: &Arc<Folder>,
    name: OsString,
    of_process: &'static Current<HeldInodes>,
    held: &[Inode],
) -> Result<LockFile, DirectoryError> {
    let failed = DirectoryError::os("locking the file beside the path, with .lock behind it");
    let inode_of = |file: &OwnedFd| fstat(file.as_fd()).map(|found| inode(&found)).map_err(&failed);
    loop {
        let found = folder.find(&name).map(|found| inode(&found));
        if found.is_some_and(|found| held.contains(&found)) {
            let pid = ids::this_process().ok().map(|pid| pid.as_raw_nonzero().get() as u32);
            return Err(DirectoryError::AlreadyServed { address: address.clone(), pid });
        }
        let new =
            if found.is_none() { new_and_locked(folder, &name).map_err(&failed)? } else { None };
        if let Some(file) = new {
            return Ok(LockFile {
                folder: Arc::clone(folder),
                name,
                inode: inode_of(&file)?,
                held: of_process,
                _file: file,
            });
        }
        // NONBLOCK: opening must not wait if it is a FIFO.
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&folder.0, &name, flags, Mode::RUSR | Mode::WUSR).map_err(&failed)?;
        // Before it is locked, as in `new_and_locked`.
        let file = above_standard(file).map_err(&failed)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => {
                return Err(DirectoryError::AlreadyServed {
                    address: address.clone(),
                    pid: record_lock::holder(&file),
                });
            }
            Err(errno) => return Err(failed(errno)),
        }
        // The lock's previous owner may have removed the file meanwhile. Then the lock excludes
        // nobody, and the loop tries again.
        let inode = inode_of(&file)?;
        if folder.leads_to(&name, inode) {
            return Ok(LockFile {
                folder: Arc::clone(folder),
                name,
                inode,
                held: of_process,
                _file: file,
            });
        }
    }
}
