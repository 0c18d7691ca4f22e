//! [`Shm`]: a value, or a slice, in memory that processes share.

#![allow(unsafe_code)]
#![allow(private_interfaces, reason = "the sealed trait's methods are for this crate alone")]

use core::any::type_name;
use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossproc_sys::memory::Manner;

use crate::memory::region::{CONTENTS, Layout, Region, RegionError};
use crate::memory::shared::{Field, Fields, Fingerprint, Shared};

/// A handle to a `T`, or a slice `[T]`, in memory that any number of processes share: what [`Arc`]
/// is to threads.
///
/// The memory is an anonymous file (memfd), sealed so that its size stays, with all its pages
/// allocated. It exists as long as any process has a handle to it, and is freed with the last one,
/// however that process ended. Forked children inherit handles. Other programs get the
/// [descriptor](AsFd) and [attach](Shm::attach) to it.
///
/// `T` is [`Shared`]: atomics, primitives, and structs declared with [`shared!`](crate::shared!).
/// It is never dropped. A table whose length is known at run time, and that one lock protects, is a
/// `Shm<Lock<[T]>>` or a `Shm<RwLock<[T]>>`.
///
/// # Blocking
/// Nothing here blocks, except for the kernel's search for free pages. Using the contents makes no
/// system call.
///
/// # Memory ordering
/// Creating *synchronises with* attaching: a process that attaches sees what was written at
/// creation.
///
/// # Process death
/// A creator that dies halfway leaves a region that cannot be attached, and that is freed with its
/// descriptor.
///
/// # Examples
/// An array of counters that a child adds to:
/// ```standalone_crate
/// use crossproc::{Shm, process};
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
///
/// # fn main() -> std::io::Result<()> {
/// let table: Shm<[AtomicU64]> = Shm::from_fn(1024, |_| AtomicU64::new(0))?;
/// let theirs = table.clone();
/// let child = process::fork(move || { theirs[7].fetch_add(1, Relaxed); })?;
/// child.join()?;
/// assert_eq!(table[7].load(Relaxed), 1);
/// # Ok(())
/// # }
/// ```
pub struct Shm<T: ?Sized + Contents> {
    /// Points into the region, which keeps it mapped.
    contents: NonNull<T>,
    region: Arc<Region>,
}

// SAFETY: a handle gives `&T` and never a `T`. So `T` only has to be `Sync`, which `Shared`
// includes; a lock around a slice of plain data is `Sync`, too.
unsafe impl<T: ?Sized + Contents> Send for Shm<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Contents> Sync for Shm<T> {}

/// What a [`Shm`] can hold: a `T` or a slice `[T]` of [`Shared`] types, or a [`Lock`](crate::Lock)
/// or an [`RwLock`](crate::RwLock) around a slice of [plain data](crate::Plain). Implemented for
/// these only.
pub trait Contents: sealed::Contents {}

impl<T: Shared> Contents for T {}
impl<T: Shared> Contents for [T] {}

pub(crate) mod sealed {
    use super::{Field, Layout, NonNull};

    pub trait Contents {
        #[doc(hidden)]
        fn layout() -> Layout;
        #[doc(hidden)]
        fn at(first: NonNull<u8>, count: usize) -> NonNull<Self>;

        /// Returns what lies where in so many; nothing if that cannot be told.
        #[doc(hidden)]
        fn fields(_count: usize) -> Vec<Field> {
            Vec::new()
        }
    }
}

fn layout_of<T: Shared>(fingerprint: u64, is_slice: bool) -> Layout {
    const {
        assert!(
            !core::mem::needs_drop::<T>(),
            "what is shared is never dropped, so there can be nothing to drop"
        );
    };
    const {
        assert!(align_of::<T>() <= CONTENTS, "shared memory is aligned to 4,096 bytes at most");
    };
    Layout { size: size_of::<T>(), align: align_of::<T>(), fingerprint, before: 0, is_slice }
}

impl<T: Shared> sealed::Contents for T {
    fn layout() -> Layout {
        layout_of::<T>(Fingerprint::of::<T>(), false)
    }

    fn at(first: NonNull<u8>, _count: usize) -> NonNull<T> {
        first.cast()
    }

    fn fields(_count: usize) -> Vec<Field> {
        Fields::of::<T>().unwrap_or_default()
    }
}

impl<T: Shared> sealed::Contents for [T] {
    fn layout() -> Layout {
        // It has a fingerprint of its own: one element is not a slice of one.
        layout_of::<T>(!Fingerprint::of::<T>(), true)
    }

    fn at(first: NonNull<u8>, count: usize) -> NonNull<[T]> {
        NonNull::slice_from_raw_parts(first.cast(), count)
    }

    fn fields(count: usize) -> Vec<Field> {
        Fields::of_slice::<T>(count).unwrap_or_default()
    }
}

impl<T: Shared> Shm<T> {
    /// Moves `value` into new shared memory.
    ///
    /// The value passes through the stack, several times in a build without optimisation. From some
    /// 64 KiB on, use [`new_in_place`](Shm::new_in_place).
    ///
    /// An alignment of `T` beyond 4,096 bytes does not compile.
    ///
    /// ```
    /// use crossproc::{Lock, Shm};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let total = Shm::new(Lock::new(5_u64))?;
    /// *total.lock()? += 1;
    /// let again = total.clone(); // the same memory
    /// assert_eq!(*again.lock()?, 6);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::NoNamespace`] if there is no `/proc`.
    pub fn new(value: T) -> Result<Self, RegionError> {
        Shm::new_as(Manner::default(), value)
    }

    pub(super) fn new_as(manner: Manner, value: T) -> Result<Self, RegionError> {
        let write = |at: NonNull<u8>| {
            // SAFETY: `create` gives the address of one element: mapped, writable, aligned to a
            // page, and not yet shared.
            unsafe { at.cast::<T>().write(value) };
        };
        Shm::create(1, manner, write)
    }

    /// Creates a value in new shared memory, in place: nothing of it is on the stack, whatever its
    /// size.
    ///
    /// `write` gets a value with free locks around zeros, zeros in atomics and in [`Fixed`] data,
    /// and events that are not set. It has to set the types that have no other beginning: a
    /// [`Barrier`] begins with no parties, and a [`Semaphore`] and a [`BoundedSemaphore`] with no
    /// permits.
    ///
    /// # Process death
    /// Until `write` has returned, no other process can attach to the memory. If the process dies
    /// before that, or `write` panics, what `write` has done is gone.
    ///
    /// # Errors
    /// As [`new`](Shm::new); `write` is then not called.
    ///
    /// # Panics
    /// If `write` panics.
    ///
    /// # Examples
    /// ```
    /// use crossproc::{Lock, Semaphore, Shm, shared};
    /// use std::sync::atomic::AtomicU8;
    ///
    /// shared! {
    ///     struct Film {
    ///         frame: Lock<[u8; 1 << 20]>,
    ///         seen: [AtomicU8; 1 << 20],
    ///         frames: Semaphore,
    ///     }
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let film: Shm<Film> = Shm::new_in_place(|film: &mut Film| {
    ///     film.frame.get_mut().fill(255);
    ///     film.frames = Semaphore::new(3);
    /// })?;
    /// assert_eq!(film.frame.lock()?[70_000], 255);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Barrier`]: crate::Barrier
    /// [`BoundedSemaphore`]: crate::BoundedSemaphore
    /// [`Fixed`]: crate::Fixed
    /// [`Semaphore`]: crate::Semaphore
    pub fn new_in_place(write: impl FnOnce(&mut T)) -> Result<Self, RegionError> {
        Shm::new_in_place_as(Manner::default(), write)
    }

    pub(super) fn new_in_place_as(
        manner: Manner,
        write: impl FnOnce(&mut T),
    ) -> Result<Self, RegionError> {
        let write = |at: NonNull<u8>| {
            // SAFETY: `create` gives the address of one element: mapped, writable, aligned to a
            // page, and not shared until it returns. It is all zeros, and any bytes are a `T`
            // (`Shared`).
            let value = unsafe { at.cast::<T>().as_mut() };
            value.set_up();
            write(value);
        };
        Shm::create(1, manner, write)
    }
}

impl<T: Shared> Shm<[T]> {
    /// Creates a slice of `len` elements in new shared memory. `element` makes each from its index.
    ///
    /// The elements pass through the stack one at a time. If they are large, use
    /// [`slice_in_place`](Shm::slice_in_place).
    ///
    /// # Process death
    /// Until the last element is made, no other process can attach to the memory. If `element`
    /// panics, the memory is freed.
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::NoNamespace`] if there is no `/proc`, [`RegionError::TooLarge`] if no address
    /// space could hold it.
    ///
    /// # Panics
    /// If `element` panics.
    ///
    /// # Examples
    /// ```
    /// use crossproc::Shm;
    /// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let squares = Shm::from_fn(100, |index| AtomicU64::new((index * index) as u64))?;
    /// assert_eq!((squares.len(), squares[12].load(Relaxed)), (100, 144));
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_fn(len: usize, element: impl FnMut(usize) -> T) -> Result<Self, RegionError> {
        Shm::from_fn_as(Manner::default(), len, element)
    }

    pub(super) fn from_fn_as(
        manner: Manner,
        len: usize,
        mut element: impl FnMut(usize) -> T,
    ) -> Result<Self, RegionError> {
        let write = |at: NonNull<u8>| {
            for index in 0..len {
                // SAFETY: `create` gives the address of `len` elements, of which this is one.
                let at = unsafe { at.cast::<T>().add(index) };
                // SAFETY: mapped, writable, aligned as the first one, and not yet shared.
                unsafe { at.write(element(index)) };
            }
        };
        Shm::create(len, manner, write)
    }

    /// Creates a slice of `len` elements in new shared memory, in place: nothing of them is on the
    /// stack. They begin as [a single value](Shm::new_in_place) does.
    ///
    /// # Process death
    /// As for a single value.
    ///
    /// # Errors
    /// As [`from_fn`](Shm::from_fn); `write` is then not called.
    ///
    /// # Panics
    /// If `write` panics.
    ///
    /// # Examples
    /// ```
    /// use crossproc::{Lock, Shm};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let pages = Shm::<[Lock<[u8; 1 << 20]>]>::slice_in_place(4, |pages| {
    ///     pages[3].get_mut().fill(7);
    /// })?;
    /// assert_eq!((pages[2].lock()?[9], pages[3].lock()?[9]), (0, 7));
    /// # Ok(())
    /// # }
    /// ```
    pub fn slice_in_place(len: usize, write: impl FnOnce(&mut [T])) -> Result<Self, RegionError> {
        Shm::slice_in_place_as(Manner::default(), len, write)
    }

    pub(super) fn slice_in_place_as(
        manner: Manner,
        len: usize,
        write: impl FnOnce(&mut [T]),
    ) -> Result<Self, RegionError> {
        let write = |at: NonNull<u8>| {
            let mut slice = NonNull::slice_from_raw_parts(at.cast::<T>(), len);
            // SAFETY: as for a single value, of which there are `len` here.
            let slice = unsafe { slice.as_mut() };
            slice.iter_mut().for_each(T::set_up);
            write(slice);
        };
        Shm::create(len, manner, write)
    }
}

impl<T: ?Sized + Contents> Shm<T> {
    /// Maps memory that another process has created, from its descriptor. The descriptor is closed
    /// with the last clone, or at once if this fails.
    ///
    /// Nothing in the file is trusted. It must be a file such as this crate makes, and this is
    /// checked first:
    ///
    /// | what | otherwise |
    /// |---|---|
    /// | it is a memfd | [`RegionError::NotMemfd`] |
    /// | its size and its seals cannot change | [`RegionError::NotSealed`] |
    /// | it has no other seals, except the one against execution | [`RegionError::OtherSeals`] |
    /// | it takes [writers](crate::ShmOptions::seal_writers) that attach | [`RegionError::ReadOnly`] |
    /// | it is not of huge pages, which its maker could take away | [`RegionError::HugePages`] |
    /// | it has a header, and room for as many elements as that says | [`RegionError::TooShort`] |
    /// | it is of this process's pid namespace | [`RegionError::OtherPidNamespace`] |
    /// | it was made by this crate, and finished | [`RegionError::ForeignMagic`], [`NotInitialised`] |
    /// | it was made for the same kind of machine and libc | [`RegionError::OtherAbi`], [`OtherWordSize`] |
    /// | it holds a `T` laid out as in this program | [`RegionError::OtherLayout`] |
    /// | it has always said so, if this process has a handle to it | [`RegionError::Changed`] |
    /// | all of it is allocated | [`RegionError::Holes`] |
    ///
    /// A process that has the descriptor can take pages out of it later, by `fallocate`. Their
    /// contents then read as zeros, as if they had been overwritten. The kernel allocates new pages
    /// for a process that touches them, and kills it only if there is no memory.
    ///
    /// [`NotInitialised`]: RegionError::NotInitialised
    /// [`OtherWordSize`]: RegionError::OtherWordSize
    ///
    /// # Errors
    /// As in the table; [`RegionError::Attach`] if the system refuses a call.
    ///
    /// # Examples
    /// ```
    /// use crossproc::{Event, Shm};
    /// use std::os::fd::AsFd;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event = Shm::new(Event::new())?;
    /// let again: Shm<Event> = Shm::attach(event.as_fd().try_clone_to_owned()?)?;
    /// again.set();
    /// assert!(event.is_set());
    /// # Ok(())
    /// # }
    /// ```
    pub fn attach(file: impl Into<OwnedFd>) -> Result<Self, RegionError> {
        Shm::attach_as(Manner::default(), file.into())
    }

    pub(super) fn attach_as(manner: Manner, file: OwnedFd) -> Result<Self, RegionError> {
        let (layout, name) = (T::layout(), type_name::<T>());
        Region::attach_whole(file, layout, T::fields, manner, name).map(Shm::of)
    }

    /// Creates so many elements, which `write` writes, given the address of the first.
    pub(crate) fn create(
        count: usize,
        manner: Manner,
        write: impl FnOnce(NonNull<u8>),
    ) -> Result<Self, RegionError> {
        Region::create(T::layout(), count, T::fields, manner, write).map(Shm::of)
    }

    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    fn of(region: Region) -> Self {
        Shm { contents: T::at(region.contents(), region.count()), region: Arc::new(region) }
    }
}

impl<T: ?Sized + Contents> Deref for Shm<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the region holds as many elements of `T`'s element type as its count says. They
        // were written by a constructor, or checked by `attach`. They are `Shared`, or plain data
        // in a lock, so any bytes are valid and may change. The region stays mapped as long as
        // `self.region`.
        unsafe { self.contents.as_ref() }
    }
}

impl<T: ?Sized + Contents> Clone for Shm<T> {
    /// Returns another handle in this process, to the same mapping.
    fn clone(&self) -> Self {
        Shm { contents: self.contents, region: Arc::clone(&self.region) }
    }
}

impl<T: ?Sized + Contents> AsFd for Shm<T> {
    /// Returns the descriptor that other processes [attach](Shm::attach) to. It is close-on-exec.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.region.as_fd()
    }
}

impl<T: ?Sized + Contents + fmt::Debug> fmt::Debug for Shm<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
