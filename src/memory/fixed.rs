//! [`Fixed`]: plain data that is set when its region is made.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::fmt;

use crate::memory::shared::{Fingerprint, Plain, Shared};

/// Plain data in shared memory that is set at creation and read by copy: a size, a limit, a seed.
///
/// It does not block and has no time-outs. It is a type of its own, and not a field of type `T`,
/// because a reference to a plain field would promise the compiler that no process ever changes it,
/// and a peer that went wild could break that promise.
///
/// # Memory ordering
/// What [`get`](Fixed::get) reads was written before the region was given to anybody.
///
/// # Process death
/// Nothing can be half done.
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
    /// The value that it will have.
    pub const fn new(value: T) -> Self {
        Fixed { value: UnsafeCell::new(value) }
    }

    /// The value, to be set: nobody else has it.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// A copy of the value. Data of many KiB are better in a [`Lock`](crate::Lock), which copies
    /// nothing.
    #[inline]
    #[must_use]
    pub fn get(&self) -> T {
        // SAFETY: valid and aligned as `self` is; this program never writes it, and if a peer does,
        // what a volatile read finds is some sequence of bytes, which is a valid `T`.
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
