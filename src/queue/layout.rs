//! How large a queue is, and where everything lies in its memory.
//!
//! | what | how much | allocated |
//! |---|---|---|
//! | [`Control`] | one | at creation |
//! | entries | one for each item that fits, and for each dead letter | at creation |
//! | records | one for each participant that there may be | when it first comes |
//! | slots | one for each entry | at creation |
//! | | as many as it has places, for each participant | when it first comes |
//!
//! A region says of itself what [`Config`] it has, which is checked before it is believed:
//!
//! | field | what it must be |
//! |---|---|
//! | `capacity` | 1 to 2^20, and the count in the region's header |
//! | `letters` | 0 if it is not joinable |
//! | `ids` | 1 at least |
//! | `places` | 2 to 64 |
//! | `attempts` | any; 0: never |
//! | `is_joinable` | 0 or 1, as the handle's type |
//! | `size` | that of the item's type; any that fits for messages (`item::ItemSize`) |
//! | `align` | that of the item's type, 1 for messages |
//!
//! All slots together are fewer than 2^21, counted in 64 bits, and the offsets is no longer than
//! the region.

use super::memory::{Control, ParticipantRecord};
use super::words::INDEX;

/// What is in front of a slot's payload: who took it last.
pub(crate) const HEADER: usize = 8;
/// The same with how long the payload is, and how often it was given out.
pub(crate) const LONG_HEADER: usize = 16;

/// The most places that a participant can have: as many bits as a word.
pub(crate) const MOST_PLACES: u32 = 64;

/// What another participant must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    /// How many items there can be.
    pub(crate) capacity: u32,
    /// How many dead letters.
    pub(crate) letters: u32,
    /// How many participants.
    pub(crate) ids: u32,
    /// How many slots each has for itself.
    pub(crate) places: u32,
    /// After how many attempts a task is a dead letter; 0: never.
    pub(crate) attempts: u32,
    /// Items are tasks.
    pub(crate) is_joinable: bool,
    /// The most bytes of an item.
    pub(crate) size: u64,
    /// Its alignment.
    pub(crate) align: u32,
}

/// Where it all lies, in bytes from the control words on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offsets {
    pub(crate) entries: usize,
    pub(crate) records: usize,
    /// From one record to the next.
    pub(crate) record_stride: usize,
    pub(crate) slots: usize,
    pub(crate) slot_stride: usize,
    /// From a slot's beginning to its payload.
    pub(crate) payload: usize,
    /// The end.
    pub(crate) len: usize,
}

/// A cache line, and the one that is fetched with it.
const LINES: usize = 128;
const PAGE: usize = 4_096;

impl Config {
    /// How many entries there are in both rings.
    pub(crate) fn entries(&self) -> usize {
        self.capacity as usize + self.letters as usize
    }

    /// How many slots there would be, of a config that nobody has checked: it fits, whatever the
    /// numbers are.
    pub(crate) fn count_slots(&self) -> u64 {
        let entries = u64::from(self.capacity) + u64::from(self.letters);
        entries + u64::from(self.ids) * u64::from(self.places)
    }

    /// How many slots there are.
    pub(crate) fn slots(&self) -> usize {
        self.entries() + self.ids as usize * self.places as usize
    }

    /// The first slot of a participant's own.
    pub(crate) fn first_slot(&self, id: usize) -> usize {
        self.entries() + id * self.places as usize
    }

    /// `None` if it is more than the words, or an address space, can hold, or makes no sense.
    pub(crate) fn offsets(&self) -> Option<Offsets> {
        let is_sound = self.capacity >= 1
            && self.ids >= 1
            && (2..=MOST_PLACES).contains(&self.places)
            && self.align.is_power_of_two()
            && self.align as usize <= PAGE
            && self.count_slots() <= INDEX
            && u32::try_from(self.size).is_ok();
        if !is_sound {
            return None;
        }
        // Of what has an alignment of 1 the length may vary: messages are so.
        let header = if self.is_joinable || self.align == 1 { LONG_HEADER } else { HEADER };
        let payload = header.next_multiple_of(self.align as usize);
        let slot_stride = payload
            .checked_add(usize::try_from(self.size).ok()?)?
            .checked_next_multiple_of(HEADER.max(self.align as usize))?;
        let entries = size_of::<Control>().next_multiple_of(LINES);
        let records = (entries + self.entries() * size_of::<u64>()).next_multiple_of(PAGE);
        let record_stride = (size_of::<ParticipantRecord>()
            + self.places as usize * size_of::<u64>())
        .next_multiple_of(LINES);
        let slots = (records + self.ids as usize * record_stride).next_multiple_of(PAGE);
        let len = slot_stride
            .checked_mul(self.slots())?
            .checked_add(slots)?
            .checked_next_multiple_of(PAGE)?;
        isize::try_from(len).ok()?;
        Some(Offsets { entries, records, record_stride, slots, slot_stride, payload, len })
    }
}

impl Offsets {
    /// The memory that everybody needs: two ranges, each as offset and length.
    pub(crate) fn common(&self, config: &Config) -> [(usize, usize); 2] {
        [(0, self.records), (self.slots, config.entries() * self.slot_stride)]
    }

    /// The memory that a participant brings.
    pub(crate) fn of_participant(&self, config: &Config, id: usize) -> [(usize, usize); 2] {
        let record = (self.records + id * self.record_stride, self.record_stride);
        [
            record,
            (
                self.slots + config.first_slot(id) * self.slot_stride,
                config.places as usize * self.slot_stride,
            ),
        ]
    }
}
