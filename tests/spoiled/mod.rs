//! A queue's words as a malicious peer sees them, through a mapping of its own.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(unsafe_code)]

use std::os::fd::AsFd;

use crossproc_sys::memory::{self, Mapping};

/// The offset of a queue's own words, behind the header.
pub(crate) const CONTENTS: usize = 4_096;
/// Bits of a word: the slot, an item, a task, a sealed entry or a task for any participant, a
/// cycle.
pub(crate) const INDEX: u64 = (1 << 21) - 1;
pub(crate) const FULL: u64 = 1 << 21;
pub(crate) const TASK: u64 = 1 << 21;
pub(crate) const RETURNED: u64 = 1 << 22;
pub(crate) const ROUND: u64 = 1 << 23;

/// Offsets in the control words.
pub(crate) const SHAPE: usize = 0;
pub(crate) const SHAPE_SIZE: usize = 6 * 8;
pub(crate) const TAIL: usize = 128;
pub(crate) const HEAD: usize = 256;
pub(crate) const LETTERS_TAIL: usize = 384;
pub(crate) const LETTERS_HEAD: usize = 512;
/// The offset of the note, from a position.
pub(crate) const WATCHED: usize = 8;
pub(crate) const ROSTER: usize = 640;
pub(crate) const USED: usize = 768;
pub(crate) const RETURNS: usize = 776;
pub(crate) const MOVES: usize = 784;
pub(crate) const JOINS: usize = 792;
const ENTRIES: usize = 896;

/// Offsets in a record.
pub(crate) const TOKEN: usize = if cfg!(target_env = "musl") { 4 } else { 0 };
pub(crate) const STARVING: usize = 12;
pub(crate) const WATCHERS: usize = 16;
pub(crate) const SEEN: usize = 40;
pub(crate) const SITE: usize = 48;
pub(crate) const LIFE: usize = 56;
pub(crate) const PLACES: usize = 64;
/// A bit of a life: a participant has it, or has died with it.
pub(crate) const LIVES: u64 = 1;

/// Offsets in a slot.
pub(crate) const TAKER: usize = 0;
/// Offsets in a slot, for messages and tasks.
pub(crate) const PAYLOAD_LEN: usize = 8;
pub(crate) const ATTEMPTS: usize = 12;

/// The sizes that a queue was created with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) entries: usize,
    pub(crate) ids: usize,
    pub(crate) places: usize,
}

/// A mapping of a queue that this crate knows nothing of.
pub(crate) struct Spoiler {
    mapping: Mapping,
    sizes: Sizes,
}

// SAFETY: it is an address range that stays mapped as long as the spoiler lives. Every access is
// one volatile word, which may race with anything.
unsafe impl Sync for Spoiler {}

impl Spoiler {
    pub(crate) fn new(queue: &impl AsFd, sizes: Sizes) -> Self {
        let len = memory::len(queue.as_fd()).unwrap() as usize;
        Spoiler { mapping: Mapping::new(queue.as_fd(), len).unwrap(), sizes }
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        let offset = CONTENTS + offset;
        assert!(offset % size_of::<T>() == 0 && offset + size_of::<T>() <= self.mapping.len());
        // SAFETY: inside the mapping, as checked above.
        unsafe { self.mapping.start().add(offset) }.as_ptr().cast()
    }

    pub(crate) fn read(&self, offset: usize) -> u64 {
        // SAFETY: inside the mapping and aligned (`at`); all others access it by atomics.
        unsafe { self.at::<u64>(offset).read_volatile() }
    }

    pub(crate) fn write(&self, offset: usize, value: u64) {
        // SAFETY: as in `read`; the crate expects any bytes there.
        unsafe { self.at::<u64>(offset).write_volatile(value) };
    }

    pub(crate) fn write_half(&self, offset: usize, value: u32) {
        // SAFETY: as in `write`.
        unsafe { self.at::<u32>(offset).write_volatile(value) };
    }

    pub(crate) fn entry(&self, index: usize) -> usize {
        ENTRIES + index * 8
    }

    fn records(&self) -> usize {
        (ENTRIES + self.sizes.entries * 8).next_multiple_of(4_096)
    }

    fn record_stride(&self) -> usize {
        (PLACES + self.sizes.places * 8).next_multiple_of(128)
    }

    pub(crate) fn record(&self, id: usize) -> usize {
        self.records() + id * self.record_stride()
    }

    pub(crate) fn place(&self, id: usize, place: usize) -> usize {
        self.record(id) + PLACES + place * 8
    }

    /// Returns the offset of a slot, if each slot has `stride` bytes with its header.
    pub(crate) fn slot(&self, slot: usize, stride: usize) -> usize {
        (self.records() + self.sizes.ids * self.record_stride()).next_multiple_of(4_096)
            + slot * stride
    }

    pub(crate) fn slot_in_place(&self, id: usize, place: usize) -> usize {
        (self.read(self.place(id, place)) & INDEX) as usize
    }

    /// Replaces the slot in a word, and nothing else.
    pub(crate) fn put_slot(&self, offset: usize, slot: usize) {
        self.write(offset, self.read(offset) & !INDEX | slot as u64);
    }

    pub(crate) fn put_slot_into_places(&self, id: usize, slot: usize) {
        (0..self.sizes.places).for_each(|place| self.put_slot(self.place(id, place), slot));
    }

    pub(crate) fn put_slot_into_entries(&self, slot: usize) {
        (0..self.sizes.entries).for_each(|entry| self.put_slot(self.entry(entry), slot));
    }
}
