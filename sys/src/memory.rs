//! Memory that processes share: `memfd_create(2)`, seals, `fallocate(2)`, `mmap(2)`.
//!
//! References: <https://man7.org/linux/man-pages/man2/memfd_create.2.html>,
//! <https://man7.org/linux/man-pages/man2/F_GET_SEALS.2const.html>

#![allow(unsafe_code)]

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use memfd::{FileSeal, Memfd, MemfdOptions};
use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fchmod, fcntl_get_seals, fstat,
    fstatfs, ftruncate, memfd_create, open,
};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};

use crate::descriptor::above_standard;
use crate::failed::failed;
use crate::pages::unmap;
use crate::retry::retry;
use crate::room::{check_room, check_size};
use crate::{mappings, robust};

/// The seals of every region, as [`create`] sets them: its size is fixed, and so are the seals.
pub const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A seal that a region may have in addition: `MFD_NOEXEC_SEAL`, or a sysctl, sets it.
pub const SEAL_EXEC: SealFlags = SealFlags::EXEC;

/// A seal that a region may have in addition: nobody who maps it later can write.
pub const SEAL_WRITERS: SealFlags = SealFlags::FUTURE_WRITE;

/// How a file is mapped, and what others may do with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manner {
    /// Maps all pages at once, where the system does.
    pub populate: bool,
    /// Has it in huge pages, as far as there are some.
    pub huge_pages: bool,
    /// Seals it with [`SEAL_WRITERS`] once it is mapped. For new files.
    pub seal_writers: bool,
}

/// Creates an anonymous file of `len` bytes whose size is sealed, and maps it. The pages of some
/// ranges (offset and length) are allocated; the rest is a hole, for [`allocate`].
///
/// # Errors
/// EMFILE, ENFILE: no descriptor is free. ENOSPC, ENOMEM: no memory for the pages. EFBIG, EINVAL:
/// `len` is 0 or more than a file can have; EINVAL also before Linux 5.1 for the seal against
/// writers. EPERM: a policy forbids memfds. All go to the caller, and those of [`Mapping::new`];
/// EINTR is retried here.
pub fn create(
    len: usize,
    allocated: &[(u64, u64)],
    manner: Manner,
) -> io::Result<(OwnedFd, Mapping)> {
    check_size(len as u64)?;
    check_room(allocated.iter().map(|(_, len)| len).sum())?;
    let file = memfd()?;
    retry(|| ftruncate(&file, len as u64))?;
    for &(offset, len) in allocated {
        allocate_range(&file, offset, len)?;
    }
    let mapping = Mapping::with(&file, len, manner)?;
    mapping.prepare(manner);
    let seals =
        [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal, FileSeal::SealFutureWrite];
    let count = if manner.seal_writers { seals.len() } else { seals.len() - 1 };
    Ok((seal(file, &seals[..count])?, mapping))
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
    Ok(allocate_range(file, offset, len)?)
}

/// Allocates a range in pieces. Before some version of Linux a signal undoes what a call has
/// allocated, and a call for gigabytes is longer than the time from one signal of a timer to the
/// next.
fn allocate_range(file: impl AsFd, offset: u64, len: u64) -> Result<(), Errno> {
    const PIECE: u64 = 1 << 20;
    let end = offset + len;
    for piece in (offset..end).step_by(PIECE as usize) {
        let len = PIECE.min(end - piece);
        retry(|| fallocate(file.as_fd(), FallocateFlags::empty(), piece, len))?;
    }
    Ok(())
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

/// Opens a file once more, for reading only. Afterwards only its owner's processes can open it for
/// writing by its descriptor.
///
/// # Errors
/// EPERM: the file belongs to another user. ENOENT: there is no `/proc`. EMFILE, ENFILE: no
/// descriptor is free. All go to the caller.
pub fn reopen_read_only(file: impl AsFd) -> io::Result<OwnedFd> {
    let file = file.as_fd();
    fchmod(file, Mode::RUSR | Mode::WUSR).map_err(failed("fchmod"))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = retry(|| open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
        .map_err(failed("opening it in /proc"))?;
    above_standard(again).map_err(failed("fcntl(F_DUPFD)"))
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
        Mapping::with(file, len, Manner::default())
    }

    /// Does the same where the pages lie well for this manner. Nothing is touched: see
    /// [`prepare`](Mapping::prepare).
    ///
    /// # Errors
    /// As [`new`](Mapping::new).
    pub fn with(file: impl AsFd, len: usize, manner: Manner) -> io::Result<Self> {
        let hint = if manner.huge_pages { huge_page_hint(len) } else { ptr::null_mut() };
        Mapping::near(file, len, ProtFlags::READ | ProtFlags::WRITE, hint)
    }

    /// Has the kernel do now what the manner asks for. This fills the file's holes: of a file that
    /// another process has made, check first that it has none.
    pub fn prepare(&self, manner: Manner) {
        if manner.huge_pages {
            self.collapse();
        }
        if manner.populate {
            self.populate();
        }
    }

    /// Does the same for a file that is only read. A write there raises SIGSEGV.
    ///
    /// # Errors
    /// As [`new`](Mapping::new), but for EACCES: the file is not open for reading.
    pub fn read_only(file: impl AsFd, len: usize) -> io::Result<Self> {
        Mapping::near(file, len, ProtFlags::READ, ptr::null_mut())
    }

    fn near(file: impl AsFd, len: usize, access: ProtFlags, hint: *mut c_void) -> io::Result<Self> {
        loop {
            // SAFETY: the address is a hint, so the kernel picks one where nothing is mapped, and
            // nothing that exists is changed.
            let start = unsafe { mmap(hint, len, access, MapFlags::SHARED, &file, 0) }?;
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

    /// Has the kernel map all pages now, which would otherwise happen page by page, when each is
    /// touched first. Where the system refuses, as all do before Linux 5.14, that stays as it is.
    fn populate(&self) {
        // SAFETY: the contents stay as they are.
        let _ = unsafe { madvise(self.start.as_ptr(), self.len, Advice::LinuxPopulateWrite) };
    }

    /// Has the kernel put what is mapped into huge pages, as far as it has some. Where the system
    /// refuses, as all do before Linux 6.1, it stays as it is.
    fn collapse(&self) {
        /// `MADV_COLLAPSE` of `linux/mman.h`, which not all packages have.
        const COLLAPSE: libc::c_int = 25;
        // SAFETY: the contents stay as they are.
        let _ = unsafe { libc::madvise(self.start.as_ptr(), self.len, COLLAPSE) };
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

/// The size of a huge page where pages have 4 KiB. Elsewhere they are larger, and the kernel maps
/// some of those together.
const HUGE_PAGE: usize = 1 << 21;

/// Returns an address where `len` bytes could be mapped from a multiple of [`HUGE_PAGE`] on, at
/// this moment; or null.
fn huge_page_hint(len: usize) -> *mut c_void {
    let Some(room) = len.checked_add(HUGE_PAGE) else { return ptr::null_mut() };
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: no address is asked for, so nothing that exists is changed.
    let Ok(free) = (unsafe { mmap_anonymous(ptr::null_mut(), room, ProtFlags::empty(), flags) })
    else {
        return ptr::null_mut();
    };
    if let Some(free) = NonNull::new(free) {
        // SAFETY: it was mapped above, and no other code knows it.
        unsafe { unmap(free, room) };
    }
    free.map_addr(|start| start.next_multiple_of(HUGE_PAGE))
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
