//! The types of items that a queue can hold.

#![allow(unsafe_code)]
#![allow(private_interfaces, reason = "the sealed trait's methods are for this crate alone")]

use core::any::type_name;
use core::ops::Deref;
use core::ptr::NonNull;

use bytemuck::NoUninit;

use crate::memory::region::Layout;
use crate::memory::shared::{Fingerprint, Plain};

/// What a queue can hold: [`Plain`] data, messages of bytes, `[u8]`, or [batches](Batch) of plain
/// data. The trait is implemented for these and nothing else.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the item of a queue",
    label = "neither plain data nor `[u8]`",
    note = "a queue holds `Plain` data, or messages of bytes: for anything else take a `ByteQueue` \
            with `put_value` and `get_value`, of the feature `serde`"
)]
pub trait Item: sealed::Item {}

/// The items of a batch, as a slice: the item of a [`BatchQueue`](super::BatchQueue).
#[derive(Debug)]
#[repr(transparent)]
pub struct Batch<T>([T]);

impl<T> Deref for Batch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// How long the items of a queue are.
///
/// This is a type of its own, and no number stands for `Varying`: items of one byte are of a fixed
/// size, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemSize {
    /// All are of this many bytes. The config must say the same.
    Fixed(usize),
    /// Any length up to that in the config, which the creator chose.
    Varying,
    /// Batches of items of this many bytes; the creator chose how many at most.
    Batches(usize),
}

/// The header of a queue's region, and what the config in the region must say of the items.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLayout {
    pub(crate) region: Layout,
    pub(crate) items: ItemSize,
}

#[diagnostic::do_not_recommend]
impl<T: Plain> Item for T {}
impl Item for [u8] {}
impl<T: Plain + NoUninit> Item for Batch<T> {}

pub(crate) mod sealed {
    use super::{ItemSize, NonNull, QueueLayout};

    pub trait Item {
        #[doc(hidden)]
        const SIZE: ItemSize;
        /// Returns the layout of a queue of such items.
        #[doc(hidden)]
        fn layout(kind: &str) -> QueueLayout;
        /// Returns a pointer to the item in a payload: to `len` bytes of it, or items of a batch,
        /// from `from` on.
        #[doc(hidden)]
        fn at(payload: NonNull<u8>, from: usize, len: usize) -> NonNull<Self>;
        /// Returns the type's name for errors.
        #[doc(hidden)]
        fn name() -> &'static str;
    }
}

impl<T: Plain> sealed::Item for T {
    const SIZE: ItemSize = ItemSize::Fixed(size_of::<T>());

    fn layout(kind: &str) -> QueueLayout {
        const { assert!(align_of::<T>() <= 4_096, "items are aligned to 4,096 bytes at most") };
        let mut fingerprint = Fingerprint::new();
        fingerprint.name(kind).plain::<T>();
        let fingerprint = fingerprint.value();
        let region = Layout {
            size: size_of::<T>(),
            align: align_of::<T>(),
            fingerprint,
            before: 0,
            is_slice: true,
        };
        QueueLayout { region, items: Self::SIZE }
    }

    fn at(payload: NonNull<u8>, _from: usize, _len: usize) -> NonNull<T> {
        payload.cast()
    }

    fn name() -> &'static str {
        type_name::<T>()
    }
}

impl sealed::Item for [u8] {
    const SIZE: ItemSize = ItemSize::Varying;

    fn layout(kind: &str) -> QueueLayout {
        let mut fingerprint = Fingerprint::new();
        fingerprint.name(kind).name("bytes");
        // The header counts bytes; an item is any number of them.
        let region = Layout {
            size: 1,
            align: 1,
            fingerprint: fingerprint.value(),
            before: 0,
            is_slice: true,
        };
        QueueLayout { region, items: Self::SIZE }
    }

    fn at(payload: NonNull<u8>, _from: usize, len: usize) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(payload, len)
    }

    fn name() -> &'static str {
        "[u8]"
    }
}

impl<T: Plain + NoUninit> sealed::Item for Batch<T> {
    const SIZE: ItemSize = ItemSize::Batches(size_of::<T>());

    fn layout(kind: &str) -> QueueLayout {
        let mut fingerprint = Fingerprint::new();
        fingerprint.name(kind).name("batches").plain::<T>();
        let region = Layout { fingerprint: fingerprint.value(), ..T::layout(kind).region };
        QueueLayout { region, items: Self::SIZE }
    }

    fn at(payload: NonNull<u8>, from: usize, len: usize) -> NonNull<Batch<T>> {
        // Inside the payload, which has room for `from + len` items.
        let start = payload.as_ptr().cast::<T>().wrapping_add(from);
        let items = core::ptr::slice_from_raw_parts_mut(start, len);
        // SAFETY: not null, as `payload`. A `Batch` is a slice (`repr(transparent)`).
        unsafe { NonNull::new_unchecked(items as *mut Batch<T>) }
    }

    fn name() -> &'static str {
        type_name::<Batch<T>>()
    }
}
