//! The types of items that a queue can hold.

#![allow(unsafe_code)]
#![allow(private_interfaces, reason = "the sealed trait's methods are for this crate alone")]

use core::any::type_name;
use core::ptr::NonNull;

use super::layout::{Config, MOST_PLACES, Offsets};
use super::words::INDEX;
use crate::memory::region::{Layout, RegionError};
use crate::memory::shared::{Fingerprint, Plain};

/// The largest capacity of a queue.
const MOST_ITEMS: usize = 1 << 20;

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

/// Checks the numbers that a creator chooses.
pub(crate) fn check_numbers(
    capacity: usize,
    dead_letters: usize,
    participants: usize,
    loans: usize,
) -> Result<(), RegionError> {
    let unsuitable = |what: String| Err(RegionError::UnsuitableQueue { what });
    if capacity == 0 || capacity > MOST_ITEMS {
        return unsuitable(format!("the capacity must be 1 to {MOST_ITEMS} items, not {capacity}"));
    }
    if participants == 0 {
        return unsuitable("there must be room for one participant at least".into());
    }
    let most_loans = MOST_PLACES as usize - 1;
    if loans == 0 || loans > most_loans {
        return unsuitable(format!("a participant must have 1 to {most_loans} loans, not {loans}"));
    }
    // Wide enough for any of them.
    let slots =
        capacity as u128 + dead_letters as u128 + participants as u128 * (loans as u128 + 1);
    if slots > u128::from(INDEX) {
        return unsuitable(format!(
            "capacity, dead letters, and participants times loans + 1 come to {slots} slots, \
             of which there can be {INDEX}: take less of one of them"
        ));
    }
    Ok(())
}

/// Checks a config. Returns the offsets that follow from it.
pub(crate) fn check(config: &Config) -> Result<Offsets, RegionError> {
    let unsuitable = |what: String| RegionError::UnsuitableQueue { what };
    let loans = config.places.saturating_sub(1);
    check_numbers(
        config.capacity as usize,
        config.letters as usize,
        config.ids as usize,
        loans as usize,
    )?;
    if !config.is_joinable && config.letters != 0 {
        return Err(unsuitable("only a joinable queue can have dead letters".into()));
    }
    if u32::try_from(config.size).is_err() {
        return Err(unsuitable(format!(
            "an item can have {} bytes at most, not {}",
            u32::MAX,
            config.size
        )));
    }
    config.offsets().ok_or_else(|| {
        // All else has been checked, and is less than an address space.
        unsuitable(format!("an item cannot be aligned to {} bytes", config.align))
    })
}
