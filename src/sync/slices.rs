//! Locks around slices of a length that is given at run time.

#![allow(unsafe_code)]
#![allow(private_interfaces, reason = "the sealed trait's methods are for this crate alone")]

use core::ptr::{self, NonNull};

use crossproc_sys::memory::Manner;

use crate::memory::region::{CONTENTS, Layout, RegionError};
use crate::memory::shared::{Fingerprint, Plain};
use crate::memory::shm::{Contents, Shm, sealed};
use crate::sync::lock::Lock;
use crate::sync::lock::state::RawLock;
use crate::sync::rwlock::RwLock;
use crate::sync::rwlock::state::RawRwLock;

/// Returns the layout of a lock of this type around a slice, whose first element is `before` bytes
/// behind its beginning.
fn layout<Raw, T: Plain>(name: &str, readers: usize, before: usize) -> Layout {
    const {
        assert!(align_of::<T>() <= CONTENTS, "shared memory is aligned to 4,096 bytes at most");
    };
    let mut fingerprint = Fingerprint::new();
    fingerprint.name(name).name("slice").number(readers).number(before).plain::<T>();
    Layout {
        size: size_of::<T>(),
        align: align_of::<Raw>().max(align_of::<T>()),
        fingerprint: fingerprint.value(),
        before,
        is_slice: true,
    }
}

/// Creates a lock around a slice, whose first element is `before` bytes behind its beginning.
fn create<L: ?Sized + Contents, Raw, T: Plain>(
    before: usize,
    len: usize,
    raw: Raw,
    mut element: impl FnMut(usize) -> T,
) -> Result<Shm<L>, RegionError> {
    Shm::create(len, Manner::default(), |at| {
        // SAFETY: `create` gives the address of the lock: mapped, writable, aligned to a page, and
        // not yet shared.
        unsafe { at.cast::<Raw>().write(raw) };
        // SAFETY: the elements are `before` bytes behind that, in the same mapping.
        let first = unsafe { at.add(before) }.cast::<T>();
        for index in 0..len {
            // SAFETY: there are `len` elements, of which this is one.
            let at = unsafe { first.add(index) };
            // SAFETY: mapped, writable, and not yet shared. Aligned, as `before` is the offset of a
            // field of this type.
            unsafe { at.write(element(index)) };
        }
    })
}

impl<T: Plain> Contents for Lock<[T]> {}

impl<T: Plain> sealed::Contents for Lock<[T]> {
    fn layout() -> Layout {
        layout::<RawLock, T>("Lock", 0, Lock::<T>::offset())
    }

    fn at(first: NonNull<u8>, count: usize) -> NonNull<Self> {
        let lock = ptr::slice_from_raw_parts_mut(first.as_ptr().cast::<T>(), count) as *mut Self;
        // SAFETY: not null, as `first`.
        unsafe { NonNull::new_unchecked(lock) }
    }
}

impl<T: Plain + Sync, const READERS: usize> Contents for RwLock<[T], READERS> {}

impl<T: Plain + Sync, const READERS: usize> sealed::Contents for RwLock<[T], READERS> {
    fn layout() -> Layout {
        const { assert!(READERS >= 1, "without a place for readers, nobody could ever read") };
        layout::<RawRwLock<READERS>, T>("RwLock", READERS, RwLock::<T, READERS>::offset())
    }

    fn at(first: NonNull<u8>, count: usize) -> NonNull<Self> {
        let lock = ptr::slice_from_raw_parts_mut(first.as_ptr().cast::<T>(), count) as *mut Self;
        // SAFETY: not null, as `first`.
        unsafe { NonNull::new_unchecked(lock) }
    }
}

impl<T: Plain> Shm<Lock<[T]>> {
    /// Places a lock around a slice into shared memory. The elements are what `element` returns for
    /// each index.
    ///
    /// ```
    /// use crossproc::{Lock, Shm};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let len = std::env::args().count() + 999;
    /// let totals: Shm<Lock<[u64]>> = Shm::lock_from_fn(len, |_| 0)?;
    /// totals.lock()?[7] += 1;
    /// assert_eq!(totals.lock()?.iter().sum::<u64>(), 1);
    /// assert_eq!(totals.lock()?.len(), len);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::TooLarge`] if no address space holds it, and [`RegionError::NoNamespace`].
    pub fn lock_from_fn(len: usize, element: impl FnMut(usize) -> T) -> Result<Self, RegionError> {
        create(Lock::<T>::offset(), len, RawLock::new(), element)
    }
}

impl<T: Plain + Sync, const READERS: usize> Shm<RwLock<[T], READERS>> {
    /// Places a lock for readers and writers around a slice into shared memory. The elements are
    /// what `element` returns for each index.
    ///
    /// ```
    /// use crossproc::{RwLock, Shm};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limits: Shm<RwLock<[u32]>> = Shm::rw_lock_from_fn(3, |index| index as u32)?;
    /// limits.write()?[0] = 20;
    /// assert_eq!(*limits.read()?, [20, 1, 2]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for a [`Lock`].
    pub fn rw_lock_from_fn(
        len: usize,
        element: impl FnMut(usize) -> T,
    ) -> Result<Self, RegionError> {
        let before = RwLock::<T, READERS>::offset();
        create(before, len, RawRwLock::<READERS>::new(), element)
    }
}
