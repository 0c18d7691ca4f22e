//! Memory that processes share: `memfd_create(2)`, seals, `fallocate(2)`, `mmap(2)`.
//!
//! References: <https://man7.org/linux/man-pages/man2/memfd_create.2.html>,
//! <https://man7.org/linux/man-pages/man2/F_GET_SEALS.2const.html>

#![allow(unsafe_code)]

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};

use memfd::{FileSeal, Memfd, MemfdOptions};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_get_seals, fstat, fstatfs, ftruncate,
    memfd_create,
};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};

use crate::descriptor::above_standard;
use crate::pages::unmap;
use crate::retry::retry;
use crate::room::{check_room, check_size};
use crate::{mappings, robust};

/// The seals of every region, as [`create`] sets them: its size is fixed, and so are the seals.
pub const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A seal that a region may have in addition: `MFD_NOEXEC_SEAL`, or a sysctl, sets it.
pub const SEAL_EXEC: SealFlags = SealFlags::EXEC;

/// Creates an anonymous file of `len` bytes whose size is sealed. The pages of some ranges (offset
/// and length) are allocated; the rest is a hole, for [`allocate`].
///
/// # Errors
/// EMFILE, ENFILE: no descriptor is free. ENOSPC, ENOMEM: no memory for the pages. EFBIG, EINVAL:
/// `len` is 0 or more than a file can have. EPERM: a policy forbids memfds. All go to the caller;
/// EINTR is retried here.
pub fn create(len: u64, allocated: &[(u64, u64)]) -> io::Result<OwnedFd> {
    check_size(len)?;
    check_room(allocated.iter().map(|(_, len)| len).sum())?;
    let file = memfd()?;
    retry(|| ftruncate(&file, len))?;
    for &(offset, len) in allocated {
        retry(|| fallocate(&file, FallocateFlags::empty(), offset, len))?;
    }
    seal(file, &[FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal])
}

/// Creates an anonymous file for `len` bytes, still empty, that can be sealed.
///
/// # Errors
/// As [`create`].
pub(crate) fn unsealed(len: u64) -> io::Result<OwnedFd> {
    check_size(len)?;
    check_room(len)?;
    memfd()
}

fn memfd() -> io::Result<OwnedFd> {
    // `MFD_NOEXEC_SEAL` is beyond the package `memfd`, and a system may demand it
    // (`vm.memfd_noexec`).
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
    let made = match memfd_create(c"crossproc", flags) {
        // Before Linux 6.3 the flag is unknown.
        Err(Errno::INVAL) => {
            let made = MemfdOptions::new().allow_sealing(true).create("crossproc");
            made.map_err(of_system)?.into_file().into()
        }
        made => made?,
    };
    Ok(above_standard(made)?)
}

/// Seals a memfd.
///
/// # Errors
/// EBUSY: against writing, while it is mapped so. All go to the caller.
pub(crate) fn seal(file: OwnedFd, seals: &[FileSeal]) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is given on with its ownership.
    let memfd = unsafe { Memfd::from_raw_fd(file.into_raw_fd()) };
    memfd.add_seals(seals).map_err(of_system)?;
    Ok(memfd.into_file().into())
}

/// Returns what the system has said.
fn of_system(error: memfd::Error) -> io::Error {
    match error {
        memfd::Error::Create(error)
        | memfd::Error::AddSeals(error)
        | memfd::Error::GetSeals(error) => error,
    }
}

/// Allocates the pages of a range that was left a hole; pages that are there already stay as they
/// are.
///
/// # Errors
/// ENOSPC, ENOMEM: no memory for them. All go to the caller; EINTR is retried here.
pub fn allocate(file: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    check_room(len)?;
    Ok(retry(|| fallocate(file.as_fd(), FallocateFlags::empty(), offset, len))?)
}

/// Frees the pages of a range. It is a hole then, which reads as zeros.
///
/// # Errors
/// EPERM: the file is sealed against writing, or a policy forbids it. ENOSYS: a policy. All go to
/// the caller; EINTR is retried here.
pub fn free(file: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(retry(|| fallocate(file.as_fd(), hole, offset, len))?)
}

/// Returns the seals of a file, or `None` for a file that cannot have any, which no memfd is. All
/// of them: the package `memfd` leaves out those that it does not know, such as `F_SEAL_EXEC`.
///
/// # Errors
/// EBADF cannot happen to a borrowed descriptor; anything else is the caller's to report. EINVAL is
/// the `None`.
pub fn seals(file: impl AsFd) -> io::Result<Option<SealFlags>> {
    match fcntl_get_seals(file) {
        Ok(seals) => Ok(Some(seals)),
        Err(Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Returns whether a file with [`seals`] is of the kernel's own tmpfs, as every memfd of this crate
/// is. Other files with seals are of huge pages. A hole in one of those is filled from a pool that
/// any process can empty, and a process that touches the hole then is killed (SIGBUS).
///
/// # Errors
/// None is expected of a file with seals; they go to the caller.
pub fn is_of_tmpfs(file: impl AsFd) -> io::Result<bool> {
    /// `linux/magic.h`.
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    #[allow(clippy::unnecessary_cast, reason = "it is of another type with musl")]
    let found = fstatfs(file)?.f_type as i64;
    Ok(found == TMPFS_MAGIC)
}

/// Returns the length of a file in bytes.
///
/// # Errors
/// What `fstat` reports; none is expected of an open descriptor.
pub fn len(file: impl AsFd) -> io::Result<u64> {
    Ok(len_and_allocated(file)?.0)
}

/// Returns the length of a file in bytes, and how many of them have memory, by whole pages.
///
/// # Errors
/// As [`len`].
pub fn len_and_allocated(file: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = fstat(file)?;
    let unsigned = |number| u64::try_from(number).unwrap_or(0);
    Ok((unsigned(stat.st_size), unsigned(stat.st_blocks).saturating_mul(512)))
}

/// Returns the file's device and inode: no other file has both as long as this one is open.
///
/// # Errors
/// As [`len`].
pub fn identity(file: impl AsFd) -> io::Result<[u64; 2]> {
    let stat = fstat(file)?;
    Ok([stat.st_dev, stat.st_ino])
}

/// A shared, writable mapping of a whole file, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<c_void>,
    len: usize,
    noted: &'static mappings::Node,
}

// SAFETY: a mapping belongs to the process, not to the thread that made it. This type gives out its
// address and nothing else.
unsafe impl Send for Mapping {}
// SAFETY: as above: no method of `&Mapping` touches the memory.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `file`. Touching pages beyond the file's end raises SIGBUS:
    /// check its size and seals first.
    ///
    /// # Errors
    /// ENOMEM: no address space, or too many mappings. EACCES, EPERM: the file is not open for
    /// writing, or sealed against it. EINVAL: `len` is 0. All go to the caller.
    pub fn new(file: impl AsFd, len: usize) -> io::Result<Self> {
        loop {
            // SAFETY: no address is asked for, so the kernel picks one where nothing is mapped, and
            // nothing that exists is changed.
            let start = unsafe {
                mmap(
                    ptr::null_mut(),
                    len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED,
                    &file,
                    0,
                )
            }?;
            let start = NonNull::new(start).ok_or(Errno::NOMEM)?;
            if !robust::any_held_within(start.addr().get(), len) {
                return Ok(Mapping { start, len, noted: mappings::add(start.addr().get(), len) });
            }
            // A lock in memory that was freed was there, and its thread still holds it. The kernel
            // would take what is there now for that lock. An inaccessible mapping keeps the range,
            // so nothing else comes there.
            let (access, flags) =
                (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE);
            // SAFETY: it takes the place of the mapping above, which no other code knows.
            unsafe { mmap_anonymous(start.as_ptr(), len, access, flags) }?;
        }
    }

    /// Returns where the mapping begins: an address aligned to a page.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        self.start.cast()
    }

    /// Leaves a range out of core dumps, which would have a hole of the same length there. A range
    /// that is not in the mapping is left alone. So is all where the system refuses: then a dump
    /// takes longer, and nothing else changes.
    pub fn leave_out_of_dumps(&self, offset: usize, len: usize) {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return;
        }
        // SAFETY: the range is inside the mapping, as was checked.
        let start = unsafe { self.start().add(offset) };
        // SAFETY: the advice concerns dumps alone: the memory stays as it is.
        let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxDontDump) };
    }

    /// Returns how many bytes are mapped.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // A leaked guard still stands in its thread's robust list. If its node were unmapped, the
        // kernel's walk at that thread's exit would stop there and leave the locks behind it owned
        // for ever. So the mapping is kept.
        if robust::any_held_within(self.start.addr().get(), self.len) {
            return;
        }
        self.noted.remove();
        // SAFETY: `new` made exactly this mapping. All code that holds a pointer into it borrows
        // `self` or owns a share of it.
        unsafe { unmap(self.start, self.len) };
    }
}
