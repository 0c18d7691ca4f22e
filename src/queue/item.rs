//! What can be in a queue.

#![allow(unsafe_code)]
#![allow(private_interfaces, reason = "the sealed trait's methods are for this crate alone")]

use core::any::type_name;
use core::ptr::NonNull;

use super::shape::{MOST_PLACES, Plan, Shape};
use super::words::INDEX;
use crate::region::{Layout, RegionError};
use crate::shared::{Fingerprint, Plain};

/// What a queue can hold: [`Plain`] data, or messages of bytes, `[u8]`. Implemented for these two and nothing else.
pub trait Item: sealed::Item {}

impl<T: Plain> Item for T {}
impl Item for [u8] {}

pub(crate) mod sealed {
    use super::{Layout, NonNull};

    pub trait Item {
        /// Of a queue of them: the size is that of an item, 1 where they vary.
        #[doc(hidden)]
        fn layout(kind: &str) -> Layout;
        /// A reference to a payload of so many bytes.
        #[doc(hidden)]
        fn at(payload: NonNull<u8>, len: usize) -> NonNull<Self>;
        /// What it is called in an error.
        #[doc(hidden)]
        fn name() -> &'static str;
    }
}

impl<T: Plain> sealed::Item for T {
    fn layout(kind: &str) -> Layout {
        const { assert!(align_of::<T>() <= 4_096, "items are aligned to 4,096 bytes at most") };
        let mut fingerprint = Fingerprint::new();
        fingerprint.name(kind).plain::<T>();
        Layout { size: size_of::<T>(), align: align_of::<T>(), fingerprint: fingerprint.value(), is_slice: true }
    }

    fn at(payload: NonNull<u8>, _len: usize) -> NonNull<T> {
        payload.cast()
    }

    fn name() -> &'static str {
        type_name::<T>()
    }
}

impl sealed::Item for [u8] {
    fn layout(kind: &str) -> Layout {
        let mut fingerprint = Fingerprint::new();
        fingerprint.name(kind).name("bytes");
        Layout { size: 1, align: 1, fingerprint: fingerprint.value(), is_slice: true }
    }

    fn at(payload: NonNull<u8>, len: usize) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(payload, len)
    }

    fn name() -> &'static str {
        "[u8]"
    }
}

/// What is wrong with a shape, if there is something.
pub(crate) fn check(shape: &Shape) -> Result<Plan, RegionError> {
    let unsuitable = |what: String| Err(RegionError::UnsuitableQueue { what });
    let loans = shape.places.saturating_sub(1);
    if shape.capacity == 0 || shape.capacity > 1 << 20 {
        return unsuitable(format!("the capacity must be 1 to {} items, not {}", 1 << 20, shape.capacity));
    }
    if shape.ids == 0 {
        return unsuitable("there must be room for one participant at least".into());
    }
    if loans == 0 || shape.places > MOST_PLACES {
        return unsuitable(format!("a participant must have 1 to {} loans, not {loans}", MOST_PLACES - 1));
    }
    if shape.slots() as u64 > INDEX {
        let what = format!(
            "capacity, dead letters, and participants times loans + 1 come to {} slots, of which there can be {INDEX}: take less of one of them",
            shape.slots()
        );
        return unsuitable(what);
    }
    shape.plan().ok_or(RegionError::TooLarge { size: shape.size as usize, count: shape.slots() })
}
