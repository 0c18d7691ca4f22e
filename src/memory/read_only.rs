//! [`ReadOnly`]: shared memory that a process looks at and cannot change.

#![allow(unsafe_code)]

use core::sync::atomic::{self, Ordering};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossproc_sys::memory::reopen_read_only;

use super::fixed::Fixed;
use super::handle::{Handle, HandleError};
use super::region::{Access, Region, RegionError};
use super::shared::{Plain, Shared};
use super::shm::{Contents, Shm};

/// A handle to shared memory that this process can look at, and cannot change: its mapping is
/// read-only.
///
/// It offers only what never writes. That is no lock, not even for readers, but a
/// [look](Observe) at atomics, at what was [fixed](Fixed) at creation, and at the state of
/// primitives. What lies where is as for [`Parts`](crate::Parts).
///
/// | what is given away | who can write all the same |
/// |---|---|
/// | the descriptor of the memory | whoever has it |
/// | a [read-only one](Shm::read_only) | processes of the user whom the memory belongs to, and those with CAP_DAC_OVERRIDE, who can open it again |
/// | either, of memory that is [sealed against writers](crate::ShmOptions::seal_writers) | its creator, and children that the creator forks |
///
/// # Blocking, memory ordering
/// Nothing here blocks. A look is an Acquire load: it *synchronises with* the write that it sees,
/// if that was a Release.
///
/// # Process death
/// Who looks has no part in anything, so its death changes nothing.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Event, ReadOnly, Shm, ShmOptions, process, shared};
/// use std::mem::offset_of;
/// use std::sync::atomic::{AtomicU64, Ordering::Release};
///
/// shared! {
///     struct Progress {
///         done: AtomicU64,
///         is_over: Event,
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = ShmOptions::new().seal_writers(true);
/// let progress: Shm<Progress> = options.create_in_place(|_| ())?;
/// progress.done.store(7, Release);
///
/// let descriptor = progress.read_only()?;
/// let child = process::fork(move || {
///     let progress = ReadOnly::attach(descriptor).unwrap();
///     assert_eq!(progress.get::<AtomicU64>(offset_of!(Progress, done)).unwrap(), 7);
///     assert!(!progress.get::<Event>(offset_of!(Progress, is_over)).unwrap());
/// })?;
/// assert!(child.join()?.success());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ReadOnly {
    region: Arc<Region>,
}

impl ReadOnly {
    /// Maps memory that another process has created, from its descriptor, for reading only. The
    /// descriptor is closed with the last clone, or at once if this fails.
    ///
    /// # Errors
    /// As [`Parts::attach`](crate::Parts::attach).
    pub fn attach(file: impl Into<OwnedFd>) -> Result<Self, RegionError> {
        Ok(ReadOnly { region: Arc::new(Region::attach_parts(file.into(), Access::ReadOnly)?) })
    }

    /// Looks at what lies at an offset.
    ///
    /// # Errors
    /// [`RegionError::NoSuchPart`] if there is no `P`.
    pub fn get<P: Observe>(&self, offset: usize) -> Result<P::Value, RegionError> {
        let part = self.region.part::<P>(offset)?;
        // SAFETY: a `P` lies there in all that this process believes of the region, which is mapped
        // as long as `self.region`. It is `Shared`, so any bytes are valid and may change.
        // `observe` only reads, as every `Observe` is required to.
        let seen = unsafe { part.as_ref() }.observe();
        // Acquire: as promised to the caller.
        atomic::fence(Ordering::Acquire);
        Ok(seen)
    }
}

impl<T: ?Sized + Contents> Shm<T> {
    /// Returns a descriptor of the memory that is open for reading only, to be [attached
    /// to](ReadOnly::attach). From then on only processes of the memory's owner can open any of its
    /// descriptors again for writing.
    ///
    /// # Errors
    /// `PermissionDenied` if the memory belongs to another user, `NotFound` if there is no `/proc`,
    /// and if there is no free descriptor.
    pub fn read_only(&self) -> io::Result<OwnedFd> {
        reopen_read_only(self)
    }
}

impl AsFd for ReadOnly {
    /// Returns the descriptor that was attached to. It is close-on-exec.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.region.as_fd()
    }
}

impl Handle for ReadOnly {
    fn kind() -> &'static str {
        "ReadOnly"
    }

    fn from_fd(fd: OwnedFd) -> Result<Self, HandleError> {
        Ok(ReadOnly::attach(fd)?)
    }
}

/// What can be looked at without being changed. Implemented for the atomics, [`Fixed`], the
/// primitives that have such a state, and arrays of these.
///
/// # Safety
/// `observe` writes nothing, and its atomic accesses are Relaxed loads. The memory may be mapped
/// read-only, where [others are not allowed][atomics].
///
/// [atomics]: core::sync::atomic#atomic-accesses-to-read-only-memory
pub unsafe trait Observe: Shared {
    /// What a look sees.
    type Value;

    /// Looks, without any order: [`ReadOnly::get`] has the Acquire fence.
    fn observe(&self) -> Self::Value;
}

macro_rules! observe_atomics {
    ($($atomic:ident: $value:ty)*) => {$(
        // SAFETY: a relaxed load.
        unsafe impl Observe for atomic::$atomic {
            type Value = $value;

            fn observe(&self) -> $value {
                self.load(Ordering::Relaxed)
            }
        }
    )*};
}

observe_atomics!(AtomicU8: u8 AtomicU16: u16 AtomicU32: u32 AtomicU64: u64 AtomicUsize: usize);
observe_atomics!(AtomicI8: i8 AtomicI16: i16 AtomicI32: i32 AtomicI64: i64 AtomicIsize: isize);

// SAFETY: a volatile read.
unsafe impl<T: Plain> Observe for Fixed<T> {
    type Value = T;

    fn observe(&self) -> T {
        self.get()
    }
}

// SAFETY: that of its elements.
unsafe impl<T: Observe, const N: usize> Observe for [T; N] {
    type Value = [T::Value; N];

    fn observe(&self) -> [T::Value; N] {
        self.each_ref().map(T::observe)
    }
}
