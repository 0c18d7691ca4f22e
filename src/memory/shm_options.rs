//! [`ShmOptions`]: how shared memory is created and mapped.

use std::os::fd::OwnedFd;

use crossproc_sys::memory::Manner;

use super::region::RegionError;
use super::shared::Shared;
use super::shm::{Contents, Shm};

/// How to create a [`Shm`], or to attach to one. Options that are not set are as in
/// [`new`](ShmOptions::new).
///
/// ```
/// use crossproc::{Lock, Shm, ShmOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = ShmOptions::new().huge_pages(true).populate(true);
/// let table: Shm<Lock<[u64; 1 << 20]>> = options.create_in_place(|_| ())?;
/// table.lock()?[7] = 1;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct ShmOptions {
    manner: Manner,
}

impl ShmOptions {
    /// Returns the defaults: pages are allocated, and mapped when each is touched first; ordinary
    /// pages; anyone with the descriptor may write.
    ///
    /// ```
    /// use crossproc::{Event, ShmOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let event = ShmOptions::new().create(Event::new())?;
    /// event.set();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        ShmOptions::default()
    }

    /// Sets whether all pages are mapped at once. Otherwise each process maps a page when it first
    /// touches it. It takes no part of that time away, but takes it at the beginning.
    ///
    /// It is a wish: a system that refuses, as all do before Linux 5.14, maps pages as they are
    /// touched.
    ///
    /// ```
    /// use crossproc::ShmOptions;
    /// use std::sync::atomic::AtomicU64;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let counters = ShmOptions::new().populate(true).from_fn(1 << 16, |_| AtomicU64::new(0))?;
    /// assert_eq!(counters.len(), 1 << 16);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn populate(mut self, yes: bool) -> Self {
        self.manner.populate = yes;
        self
    }

    /// Sets whether the memory is put into transparent huge pages, of 2 MiB on most machines, as
    /// far as the kernel has some. They serve all processes that attach with this option, and make
    /// accesses all over a large memory faster. Memory of less than 2 MiB stays as it is.
    ///
    /// It is a wish: a system that refuses, as all do before Linux 6.1, leaves it in ordinary
    /// pages. No pool of the system's is used, so nobody who touches the memory is killed for want
    /// of it.
    ///
    /// ```
    /// use crossproc::{Shm, ShmOptions};
    /// use std::os::fd::AsFd;
    /// use std::sync::atomic::AtomicU64;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = ShmOptions::new().huge_pages(true);
    /// let counters: Shm<[AtomicU64]> = options.from_fn(1 << 19, |_| AtomicU64::new(0))?;
    /// let again: Shm<[AtomicU64]> = options.attach(counters.as_fd().try_clone_to_owned()?)?;
    /// assert_eq!(again.len(), 1 << 19);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn huge_pages(mut self, yes: bool) -> Self {
        self.manner.huge_pages = yes;
        self
    }

    /// Sets whether the memory is sealed against writers: those that attach may only
    /// [read](crate::ReadOnly), whoever they are. This process and the children that it forks go on
    /// writing; those of a [nursery](crate::process::Nursery) that is older than the memory have
    /// to attach. For memory that is created.
    ///
    /// ```
    /// use crossproc::{Event, RegionError, Shm, ShmOptions};
    /// use std::os::fd::AsFd;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let event = ShmOptions::new().seal_writers(true).create(Event::new())?;
    /// event.set();
    /// let again = Shm::<Event>::attach(event.as_fd().try_clone_to_owned()?);
    /// assert!(matches!(again, Err(RegionError::ReadOnly)));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn seal_writers(mut self, yes: bool) -> Self {
        self.manner.seal_writers = yes;
        self
    }

    /// [`Shm::new`] with these options.
    ///
    /// # Errors
    /// As there; with the seal against writers also [`RegionError::Create`] before Linux 5.1.
    pub fn create<T: Shared>(&self, value: T) -> Result<Shm<T>, RegionError> {
        Shm::new_as(self.manner, value)
    }

    /// [`Shm::new_in_place`] with these options.
    ///
    /// # Errors
    /// As [`create`](ShmOptions::create).
    ///
    /// # Panics
    /// If `write` panics.
    pub fn create_in_place<T: Shared>(
        &self,
        write: impl FnOnce(&mut T),
    ) -> Result<Shm<T>, RegionError> {
        Shm::new_in_place_as(self.manner, write)
    }

    /// [`Shm::from_fn`] with these options.
    ///
    /// # Errors
    /// As [`create`](ShmOptions::create), and [`RegionError::TooLarge`] if no address space could
    /// hold it.
    ///
    /// # Panics
    /// If `element` panics.
    pub fn from_fn<T: Shared>(
        &self,
        len: usize,
        element: impl FnMut(usize) -> T,
    ) -> Result<Shm<[T]>, RegionError> {
        Shm::from_fn_as(self.manner, len, element)
    }

    /// [`Shm::slice_in_place`] with these options.
    ///
    /// # Errors
    /// As [`from_fn`](ShmOptions::from_fn).
    ///
    /// # Panics
    /// If `write` panics.
    pub fn slice_in_place<T: Shared>(
        &self,
        len: usize,
        write: impl FnOnce(&mut [T]),
    ) -> Result<Shm<[T]>, RegionError> {
        Shm::slice_in_place_as(self.manner, len, write)
    }

    /// [`Shm::attach`] with these options: how this process maps the memory.
    ///
    /// # Errors
    /// As there.
    pub fn attach<T: ?Sized + Contents>(
        &self,
        file: impl Into<OwnedFd>,
    ) -> Result<Shm<T>, RegionError> {
        Shm::attach_as(self.manner, file.into())
    }
}
