//! [`Fixed`]: plain data that is set when its region is created.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::fmt;

use crate::memory::shared::{Fingerprint, Plain, Shared};

/// Plain data in shared memory that is set at creation and read by copy: a size, a limit, a seed.
///
/// It does not block and has no time-outs. It is a type of its own, and not a field of type `T`,
/// for the sake of soundness. A reference to a plain field promises the compiler that no process
/// ever changes it, and a misbehaving peer could break that promise.
///
/// # Memory ordering
/// [`get`](Fixed::get) reads what was written before any other process was given the region.
///
/// # Process death
/// Nothing can be left half done.
///
/// ```
/// let limit = crossproc::Fixed::new(12_u32);
/// assert_eq!(limit.get(), 12);
/// ```
#[repr(transparent)]
pub struct Fixed<T> {
    value: UnsafeCell<T>,
}

// SAFETY: no method of `&Fixed` writes.
unsafe impl<T: Send> Sync for Fixed<T> {}

// SAFETY: plain data in an `UnsafeCell`, read by volatile copies, for which every sequence of bytes
// is valid.
unsafe impl<T: Plain> Shared for Fixed<T> {
    fn layout(to: &mut Fingerprint) {
        to.name("Fixed").plain::<T>();
    }
}

impl<T: Plain> Fixed<T> {
    /// Creates plain data with this value.
    ///
    /// ```
    /// use crossproc::{Fixed, Shm};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let limit = Shm::new(Fixed::new(12_u32))?;
    /// assert_eq!(limit.get(), 12);
    /// # Ok(())
    /// # }
    /// ```
    pub const fn new(value: T) -> Self {
        Fixed { value: UnsafeCell::new(value) }
    }

    /// Returns a mutable reference to the value, which only the caller has.
    ///
    /// ```
    /// use crossproc::{Fixed, Shm};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let seeds: Shm<Fixed<[u64; 1000]>> = Shm::new_in_place(|seeds: &mut Fixed<[u64; 1000]>| {
    ///     seeds.get_mut().fill(7);
    /// })?;
    /// assert_eq!(seeds.get()[999], 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Returns a copy of the value. Data of many KiB are better in a [`Lock`](crate::Lock), which
    /// copies nothing.
    ///
    /// ```
    /// use crossproc::Fixed;
    ///
    /// let limits = Fixed::new([1, 10]);
    /// let [low, high] = limits.get();
    /// assert!(low < high);
    /// ```
    #[inline]
    #[must_use]
    pub fn get(&self) -> T {
        // SAFETY: the pointer is valid and aligned, as `self` is. This program never writes the
        // value. If a peer does, a volatile read finds some sequence of bytes, which is a valid
        // `T`.
        unsafe { self.value.get().read_volatile() }
    }
}

impl<T: Plain> From<T> for Fixed<T> {
    fn from(value: T) -> Self {
        Fixed::new(value)
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for Fixed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fixed").field(&self.get()).finish()
    }
}
