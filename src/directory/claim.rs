//! Taking an address, of which nobody else serves.
//!
//! A path is taken in these steps, so that it leads to a socket where somebody listens, or to one that a killed server has left, and never to nothing in between:
//! 1. The lock on `PATH.lock` is taken, or another server lives. It is a record lock, which belongs to the *process*: the kernel frees it at its death, and forked children do not have it. It does not exclude a process from itself, and closing *any* descriptor of
//!    the file frees it; so a process looks into its own register first, before it opens the file.
//! 2. A socket is bound to `PATH.new`, where only the lock's owner does anything, gets its mode, and listens.
//! 3. It is renamed over PATH.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, PoisonError};

use crossproc_sys::descriptor::above_standard;
use crossproc_sys::{record_lock, socket as sys};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, fcntl_lock, linkat, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};

use super::address::{Address, lock_path};
use super::error::DirectoryError;

/// How many connections may wait to be accepted; the kernel has a limit of its own (net.core.somaxconn).
const BACKLOG: i32 = 4_096;

/// An address that is taken, and given back on drop.
#[derive(Debug)]
pub(super) struct Claim {
    address: Address,
    path: Option<Taken>,
}

/// A file, whatever it is called.
type Inode = (u64, u64);

#[derive(Debug)]
struct Taken {
    path: PathBuf,
    socket: Inode,
    lock: Lock,
}

/// A lock that this process has, until it is dropped.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    inode: Inode,
    /// Nobody gives it back but the process that took it.
    process: u32,
    /// Closing it frees the lock.
    _file: File,
}

/// The locks that this process holds, and its pid: a forked child's copy says nothing about the child.
static HELD: Mutex<Vec<(u32, Inode)>> = Mutex::new(Vec::new());

fn inode(of: &Metadata) -> Inode {
    (of.dev(), of.ino())
}

/// Whether that file is at the path still.
fn leads_to(path: &Path, file: Inode) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| inode(&found) == file)
}

impl Claim {
    /// Takes an address: a socket that listens there. `is_open`: whether others than this user may connect.
    pub(super) fn take(address: &Address, is_open: bool) -> Result<(OwnedFd, Self), DirectoryError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).and_then(above_standard);
        let socket = made.map_err(DirectoryError::os("making a socket"))?;
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
        let Some(taken) = self.path.take().filter(|taken| taken.lock.process == process::id()) else { return };
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        // Another server can only be there if somebody has removed the lock's file.
        if leads_to(&taken.path, taken.socket) {
            let _ = fs::remove_file(&taken.path);
        }
        held.retain(|&(_, file)| file != taken.lock.inode);
        drop(taken);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whoever has opened it already finds, once it has the lock, that the file is another.
        if self.process == process::id() && leads_to(&self.path, self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn take_name(address: &Address, socket: &OwnedFd) -> Result<(), DirectoryError> {
    let place = address.socket_address()?;
    match bind(socket, &place) {
        Err(Errno::ADDRINUSE) => {
            let pid = who_listens(address).ok();
            return Err(DirectoryError::AlreadyServed { address: address.clone(), pid });
        }
        result => result.map_err(DirectoryError::os("binding a socket to an abstract name"))?,
    }
    listen(socket, BACKLOG).map_err(DirectoryError::os("listening"))
}

/// The process that listens.
fn who_listens(address: &Address) -> io::Result<u32> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).and_then(above_standard)?;
    connect(&socket, &address.socket_address()?)?;
    match sys::peer(&socket)?.pid {
        0 => Err(io::ErrorKind::NotFound.into()),
        pid => Ok(pid),
    }
}

fn take_path(address: &Address, path: &Path, socket: &OwnedFd, is_open: bool) -> Result<Taken, DirectoryError> {
    let (place, new) = address.new_socket_address(path)?;
    // Held to the end, so that two threads do not both find nothing.
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let lock = take_lock(address, &lock_path(path), &held)?;
    if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(DirectoryError::NotASocket { address: address.clone() });
    }
    // What a server has left that was killed here.
    if fs::symlink_metadata(&new).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(&new).map_err(DirectoryError::os("removing the socket that a killed server has left"))?;
    }
    bind(socket, &place).map_err(DirectoryError::os("binding a socket to the path, with .new behind it"))?;
    let put_in_place = || -> io::Result<Inode> {
        fs::set_permissions(&new, fs::Permissions::from_mode(if is_open { 0o666 } else { 0o600 }))?;
        listen(socket, BACKLOG)?;
        let found = inode(&fs::symlink_metadata(&new)?);
        fs::rename(&new, path)?;
        Ok(found)
    };
    let socket = put_in_place().map_err(|source| {
        let _ = fs::remove_file(&new);
        DirectoryError::Os { what: "giving the socket its path", source }
    })?;
    held.push((lock.process, lock.inode));
    Ok(Taken { path: path.to_owned(), socket, lock })
}

/// A new file for the lock, which is locked when it comes to its path: where it cannot be locked,
/// none is left behind, which nobody without the lock could remove. `None` if something is there by
/// now, or the file system has no files without names; then it is made as any other.
fn new_and_locked(path: &Path) -> io::Result<Option<File>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let Ok(file) = open(folder, flags, Mode::RUSR | Mode::WUSR) else { return Ok(None) };
    // Before it is locked: closing the first one would free the lock.
    let file = above_standard(file)?;
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let linked = linkat(CWD, link, CWD, path, AtFlags::SYMLINK_FOLLOW);
    Ok(linked.is_ok().then(|| File::from(file)))
}

/// Locks the lock's file, if no living process has it locked.
fn take_lock(address: &Address, path: &Path, held: &[(u32, Inode)]) -> Result<Lock, DirectoryError> {
    let failed = DirectoryError::os("locking the file beside the path, with .lock behind it");
    loop {
        let this_process = process::id();
        let found = fs::symlink_metadata(path).ok().map(|found| inode(&found));
        if held.iter().any(|&(process, file)| process == this_process && Some(file) == found) {
            return Err(DirectoryError::AlreadyServed { address: address.clone(), pid: Some(this_process) });
        }
        let new = if found.is_none() { new_and_locked(path).map_err(&failed)? } else { None };
        if let Some(file) = new {
            let inode = inode(&file.metadata().map_err(&failed)?);
            return Ok(Lock { path: path.to_owned(), inode, process: this_process, _file: file });
        }
        let mut options = OpenOptions::new();
        // No waiting in case it is a FIFO.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path);
        // Before it is locked, as above.
        let file = opened.and_then(|file| Ok(File::from(above_standard(file.into())?))).map_err(&failed)?;
        let opened = inode(&file.metadata().map_err(&failed)?);
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => {
                return Err(DirectoryError::AlreadyServed { address: address.clone(), pid: record_lock::holder(&file) });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        // Whoever had it before may have removed the file meanwhile: then it tells nobody anything.
        if leads_to(path, opened) {
            return Ok(Lock { path: path.to_owned(), inode: opened, process: this_process, _file: file });
        }
    }
}
