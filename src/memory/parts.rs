//! [`Parts`] and [`Part`]: memory of which a program knows only parts.

#![allow(unsafe_code)]

use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossproc_sys::memory::Manner;

use super::handle::{Handle, HandleError};
use super::region::{Access, Region, RegionError};
use super::shared::Shared;
use super::shm::{Contents, Shm};

/// A handle to shared memory whose type this program need not know: it can ask for what lies at an
/// offset.
///
/// A hundred primitives can be handed out one by one this way, with one descriptor for all of them:
/// to parts of a program that know only theirs, or to a program in another language. The memory is
/// that of a [`Shm`], which tells where its primitives lie. A process that asks for something else
/// than what is there gets an error.
///
/// [`Shm::part`] returns a part, and where it is. Other processes [attach](Parts::attach) to the
/// descriptor, and ask for [what is there](Parts::part). This process asks for [`Shm::parts`].
///
/// # Blocking
/// Nothing here blocks.
///
/// # Process death
/// As for a [`Shm`].
///
/// # Examples
/// One that knows of a lock only where it is:
/// ```standalone_crate
/// use crossproc::{Event, Lock, Parts, Shm, process, shared};
/// use std::os::fd::AsFd;
///
/// shared! {
///     struct Board {
///         locks: [Lock<u64>; 100],
///         event: Event,
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let board: Shm<Board> = Shm::new_in_place(|_| ())?;
/// let offset = board.part(&board.locks[7])?.offset();
///
/// let file = board.as_fd().try_clone_to_owned()?;
/// let child = process::fork(move || {
///     let parts = Parts::attach(file).unwrap();
///     let lock = parts.part::<Lock<u64>>(offset).unwrap();
///     *lock.lock().unwrap() += 1;
///     assert!(parts.part::<Lock<i64>>(offset).is_err());
/// })?;
/// assert!(child.join()?.success());
/// assert_eq!(*board.locks[7].lock()?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Parts {
    region: Arc<Region>,
}

/// A handle to one of the [`Parts`] of shared memory. It keeps all of the memory mapped.
pub struct Part<P> {
    /// Points into the region, which keeps it mapped.
    part: NonNull<P>,
    region: Arc<Region>,
}

// SAFETY: as for a `Shm`: a part gives `&P` and never a `P`.
unsafe impl<P: Shared> Send for Part<P> {}
// SAFETY: as above.
unsafe impl<P: Shared> Sync for Part<P> {}

impl Parts {
    /// Maps memory that another process has created, from its descriptor. The descriptor is closed
    /// with the last handle, or at once if this fails.
    ///
    /// # Errors
    /// As [`Shm::attach`], which also says what is checked, but for the type;
    /// [`RegionError::NoParts`] if the memory does not tell what lies where.
    pub fn attach(file: impl Into<OwnedFd>) -> Result<Self, RegionError> {
        Ok(Parts {
            region: Arc::new(Region::attach_parts(file.into(), Access::Full(Manner::default()))?),
        })
    }

    /// Returns what lies at an offset: a primitive, an array, or a struct whose fields all lie
    /// there.
    ///
    /// # Errors
    /// [`RegionError::NoSuchPart`] if there is no `P`.
    pub fn part<P: Shared>(&self, offset: usize) -> Result<Part<P>, RegionError> {
        Ok(Part { part: self.region.part(offset)?, region: Arc::clone(&self.region) })
    }
}

impl<T: ?Sized + Contents> Shm<T> {
    /// Returns a handle to the same memory by which parts of it can be asked for.
    ///
    /// # Errors
    /// [`RegionError::NoParts`] if there are more than 124 fields, where a primitive counts for
    /// one, an array of them too, and a struct for as many as it has; if it is a lock around a
    /// slice; or if it has no bytes.
    pub fn parts(&self) -> Result<Parts, RegionError> {
        self.region().check_parts()?;
        Ok(Parts { region: Arc::clone(self.region()) })
    }

    /// Returns a part as a handle of its own.
    ///
    /// ```
    /// use crossproc::{Event, Shm};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let events = Shm::new([Event::new(), Event::new()])?;
    /// let second = events.part(&events[1])?;
    /// drop(events);
    /// second.set();
    /// assert_eq!(second.offset(), size_of::<Event>());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`parts`](Shm::parts); [`RegionError::NoSuchPart`] if `part` is not in this mapping, or
    /// within a type that does not name its [fields](Shared::fields).
    pub fn part<P: Shared>(&self, part: &P) -> Result<Part<P>, RegionError> {
        let first = self.region().contents().addr().get();
        self.parts()?.part(core::ptr::from_ref(part).addr().wrapping_sub(first))
    }
}

impl<P: Shared> Part<P> {
    /// Returns where it lies: by this and the descriptor another process finds it.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.part.addr().get() - self.region.contents().addr().get()
    }

    /// Returns the handle by which other parts of the same memory can be asked for.
    #[must_use]
    pub fn parts(&self) -> Parts {
        Parts { region: Arc::clone(&self.region) }
    }
}

impl<P: Shared> Deref for Part<P> {
    type Target = P;

    #[inline]
    fn deref(&self) -> &P {
        // SAFETY: a `P` lies there in all that this process believes of the region, and it is
        // mapped as long as `self.region`. It is `Shared`, so any bytes are valid and may change.
        unsafe { self.part.as_ref() }
    }
}

impl<P> Clone for Part<P> {
    /// Returns another handle in this process, to the same mapping.
    fn clone(&self) -> Self {
        Part { part: self.part, region: Arc::clone(&self.region) }
    }
}

impl AsFd for Parts {
    /// Returns the descriptor that other processes [attach](Parts::attach) to. It is close-on-exec.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.region.as_fd()
    }
}

impl<P> AsFd for Part<P> {
    /// Returns the descriptor of the whole memory. It is close-on-exec.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.region.as_fd()
    }
}

impl Handle for Parts {
    fn kind() -> &'static str {
        "Parts"
    }

    fn from_fd(fd: OwnedFd) -> Result<Self, HandleError> {
        Ok(Parts::attach(fd)?)
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("len", &self.region.len()).finish_non_exhaustive()
    }
}

impl<P: Shared + fmt::Debug> fmt::Debug for Part<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
