//! The types of items that a queue can hold.

#![allow(unsafe_code)]
#![allow(private_interfaces, reason = "the sealed trait's methods are for this crate alone")]

use core::any::type_name;
use core::ptr::NonNull;

use crate::memory::region::Layout;
use crate::memory::shared::{Fingerprint, Plain};

/// What a queue can hold: [`Plain`] data, or messages of bytes, `[u8]`. The trait is implemented
/// for these two and nothing else.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the item of a queue",
    label = "neither plain data nor `[u8]`",
    note = "a queue holds `Plain` data, or messages of bytes: for anything else take a `ByteQueue` \
            with `put_value` and `get_value`, of the feature `serde`"
)]
pub trait Item: sealed::Item {}

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

pub(crate) mod sealed {
    use super::{ItemSize, NonNull, QueueLayout};

    pub trait Item {
        #[doc(hidden)]
        const SIZE: ItemSize;
        /// Returns the layout of a queue of such items.
        #[doc(hidden)]
        fn layout(kind: &str) -> QueueLayout;
        /// Returns a pointer to the item in a payload of `len` bytes.
        #[doc(hidden)]
        fn at(payload: NonNull<u8>, len: usize) -> NonNull<Self>;
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
        let region =
            Layout { size: size_of::<T>(), align: align_of::<T>(), fingerprint, is_slice: true };
        QueueLayout { region, items: Self::SIZE }
    }

    fn at(payload: NonNull<u8>, _len: usize) -> NonNull<T> {
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
        let region = Layout { size: 1, align: 1, fingerprint: fingerprint.value(), is_slice: true };
        QueueLayout { region, items: Self::SIZE }
    }

    fn at(payload: NonNull<u8>, len: usize) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(payload, len)
    }

    fn name() -> &'static str {
        "[u8]"
    }
}
