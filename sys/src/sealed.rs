//! Bytes in a memfd that is sealed against every change: how a message that is too long for a
//! socket's buffer travels.
//!
//! References: <https://man7.org/linux/man-pages/man2/F_GET_SEALS.2const.html> (`F_SEAL_WRITE`)

#![allow(unsafe_code)]

use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::slice;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use memfd::FileSeal;
use rustix::fs::SealFlags;
use rustix::io::{Errno, pwrite};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::retry::retry;
use crate::{memory, pages};

/// With these, neither the size, nor a byte, nor the seals can change.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// Returns a new anonymous file with a copy of some bytes, sealed.
///
/// # Errors
/// As for [`memory::create`], without its EINVAL: `bytes` may be empty. EINTR is retried here.
pub fn copy_of(bytes: &[u8]) -> io::Result<OwnedFd> {
    let len = bytes.len() as u64;
    let file = memory::unsealed(len)?;
    let mut written = 0;
    while written < bytes.len() {
        // No page is zeroed first, as it would be by a write through a mapping.
        match retry(|| pwrite(&file, &bytes[written..], written as u64))? {
            0 => return Err(Errno::NOSPC.into()),
            more => written += more,
        }
    }
    let seals = [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealWrite, FileSeal::SealSeal];
    memory::seal(file, &seals)
}

/// A mapping of a sealed file, which is read as a slice. It is unmapped on drop.
#[derive(Debug)]
pub struct Sealed {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: memory that never changes, mapped for the process and not for a thread.
unsafe impl Send for Sealed {}
// SAFETY: as above.
unsafe impl Sync for Sealed {}

/// Why a file was not mapped.
#[derive(Debug)]
pub enum Unsealed {
    /// It is no memfd, or lacks seals: it could change, or shrink, while it is read.
    NotSealed,
    /// It is of huge pages, unlike the memory that [`copy_of`] makes.
    HugePages,
    /// It does not have the length that was announced, but this one.
    OtherLength(u64),
    /// It has holes. Reading them would take memory, as much as the file's maker likes.
    Holes,
    /// `fstat`, `mmap`: ENOMEM.
    Os(io::Error),
}

impl Sealed {
    /// Maps all of a file that is said to be sealed, to be `len` bytes long, and to have no holes.
    /// All of that is checked.
    ///
    /// # Errors
    /// [`Unsealed`].
    pub fn map(file: impl AsFd, len: usize) -> Result<Self, Unsealed> {
        let seals = memory::seals(&file).map_err(Unsealed::Os)?;
        if !seals.is_some_and(|seals| seals.contains(SEALS)) {
            return Err(Unsealed::NotSealed);
        }
        if !memory::is_of_tmpfs(&file).map_err(Unsealed::Os)? {
            return Err(Unsealed::HugePages);
        }
        let (found, allocated) = memory::len_and_allocated(&file).map_err(Unsealed::Os)?;
        if found != len as u64 {
            return Err(Unsealed::OtherLength(found));
        }
        // Sealed against writing, so no more holes can be made. What was swapped out counts as
        // allocated.
        if allocated < found {
            return Err(Unsealed::Holes);
        }
        if len == 0 {
            return Ok(Sealed { start: NonNull::dangling(), len });
        }
        // SAFETY: no address is asked for, so nothing that exists is changed.
        let start =
            unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, file, 0) };
        let start = start.map_err(|errno| Unsealed::Os(errno.into()))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| Unsealed::Os(Errno::NOMEM.into()))?;
        Ok(Sealed { start, len })
    }
}

impl Deref for Sealed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped as long as `self` lives, or `len` is 0. The file is that
        // long, and can neither shrink nor be written to by any process, for good. (F_SEAL_WRITE is
        // refused while a writable mapping exists.) This mapping is read-only.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        if self.len != 0 {
            // SAFETY: `map` made exactly this mapping, and every slice of it borrows `self`.
            unsafe { pages::unmap(self.start.cast(), self.len) };
        }
    }
}
