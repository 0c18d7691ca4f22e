//! A queue's memory, read from outside. `queue::ring::words` documents what the words say, and
//! `queue::ring::layout` where they lie.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

const INDEX: u64 = (1 << 21) - 1;
const FULL: u64 = 1 << 21;
const SEALED: u64 = 1 << 22;
pub(crate) const TASK: u64 = 1 << 21;
pub(crate) const RETURNED: u64 = 1 << 22;
const ROUND: u64 = 1 << 23;
const CYCLE: u64 = !(ROUND - 1);

/// Byte offsets: of the control words in the file, and of the rest from there.
const CONTENTS: usize = 4096;
const TAIL: usize = 128;
const HEAD: usize = 256;
const USED: usize = 768;
const RETURNS: usize = 776;
const ENTRIES: usize = 896;
const RECORDS: usize = 4096;
/// Offsets in a record.
const SEEN: usize = 40;
const SITE: usize = 48;
const LIFE: usize = 56;
const PLACES: usize = 64;
/// A bit of a life.
const LIVES: u64 = 1;

/// How far an operation has come, if it is no more than one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is announced.
    Announced,
    /// Its exchange is done.
    Exchanged,
    /// The taker of the slot is noted.
    Taken,
    /// The slot is in the place.
    Placed,
}

/// A queue's words.
#[derive(Debug)]
pub(crate) struct Words {
    start: NonNull<u8>,
    len: usize,
}

impl Words {
    pub(crate) fn of(queue: &impl AsFd) -> Self {
        let file =
            File::from(queue.as_fd().try_clone_to_owned().expect("there are descriptors left"));
        let len = file.metadata().expect("a memory file has a length").len() as usize;
        let (prot, fd) = (libc::PROT_READ | libc::PROT_WRITE, queue.as_fd().as_raw_fd());
        // SAFETY: no address is requested, so no existing mapping is changed.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, prot, libc::MAP_SHARED, fd, 0) };
        assert_ne!(start, libc::MAP_FAILED, "the queue can be mapped again");
        Words { start: NonNull::new(start.cast()).expect("a mapping is not at 0"), len }
    }

    fn word(&self, offset: usize) -> u64 {
        assert!(
            CONTENTS + offset + 8 <= self.len && offset % 8 == 0,
            "inside the mapping, and aligned"
        );
        // SAFETY: inside the mapping, as checked above.
        let at = unsafe { self.start.add(CONTENTS + offset) };
        // SAFETY: mapped and aligned; all other accesses to this memory are atomic.
        unsafe { AtomicU64::from_ptr(at.as_ptr().cast()) }.load(SeqCst)
    }

    fn half(&self, offset: usize) -> u32 {
        assert!(
            CONTENTS + offset + 4 <= self.len && offset % 4 == 0,
            "inside the mapping, and aligned"
        );
        // SAFETY: inside the mapping, as checked above.
        let at = unsafe { self.start.add(CONTENTS + offset) };
        // SAFETY: mapped and aligned; all other accesses to this memory are atomic.
        unsafe { AtomicU32::from_ptr(at.as_ptr().cast()) }.load(SeqCst)
    }

    fn capacity(&self) -> usize {
        self.word(0) as usize
    }

    fn entries(&self) -> usize {
        self.capacity() + self.word(8) as usize
    }

    fn ids(&self) -> usize {
        self.word(16) as usize
    }

    fn places(&self) -> usize {
        self.word(24) as usize
    }

    /// Returns how many ids were ever used.
    pub(crate) fn used(&self) -> usize {
        self.half(USED) as usize
    }

    fn entry(&self, at: usize) -> u64 {
        self.word(ENTRIES + at * 8)
    }

    fn record(&self, id: usize) -> usize {
        RECORDS + id * (PLACES + self.places() * 8).next_multiple_of(128)
    }

    pub(crate) fn place(&self, id: usize, place: usize) -> u64 {
        self.word(self.record(id) + PLACES + place * 8)
    }

    /// Returns the last taker of the slot, as an id plus 1. For items of 8 bytes.
    fn taker(&self, slot: usize) -> u64 {
        let slots = self.record(self.ids()).next_multiple_of(4096);
        let header = if self.word(40) != 0 { 16 } else { 8 };
        self.word(slots + slot * (header + 8)) & INDEX
    }

    /// Returns what is at a site: an entry or a place.
    fn cell(&self, at: usize) -> u64 {
        match at.checked_sub(self.entries()) {
            None => self.entry(at),
            Some(at) => self.place(at / self.places(), at % self.places()),
        }
    }

    /// Returns whether a participant has announced an operation and come as far as this stage.
    pub(crate) fn has_come_to(&self, id: usize, stage: Stage) -> bool {
        if id >= self.used() {
            return false;
        }
        let (seen, site) = (self.word(self.record(id) + SEEN), self.word(self.record(id) + SITE));
        // What a dead participant announced stays, but means nothing once it is settled.
        if seen == 0 || self.word(self.record(id) + LIFE) & LIVES == 0 {
            return false;
        }
        let wanted = (seen & INDEX) as usize;
        let is_placed = self.place(id, (site >> 32) as usize) & INDEX == wanted as u64;
        let is_exchanged = self.cell(site as u32 as usize) != seen;
        let is_taken = is_exchanged && self.taker(wanted) == id as u64 + 1;
        match stage {
            Stage::Announced => true,
            Stage::Exchanged => is_exchanged || is_placed,
            Stage::Taken => is_taken || is_placed,
            Stage::Placed => is_placed,
        }
    }

    /// Returns whether any participant has come as far as this stage.
    pub(crate) fn has_any_come_to(&self, stage: Stage) -> bool {
        (0..self.used()).any(|id| self.has_come_to(id, stage))
    }

    /// Returns whether a participant that looks for a task looks for one that came back.
    pub(crate) fn tells_of_returned(&self) -> bool {
        self.word(RETURNS) & 1 != 0
    }

    fn next(&self, position: u64) -> u64 {
        if (position & INDEX) + 1 < self.capacity() as u64 {
            position + 1
        } else {
            (position & CYCLE).wrapping_add(ROUND)
        }
    }

    /// Returns whether there is an item to get, if nothing moves, whatever the counters say.
    pub(crate) fn has_item(&self) -> bool {
        let mut at = self.word(HEAD) & (CYCLE | INDEX);
        for _ in 0..=self.capacity() {
            match self.entry((at & INDEX) as usize) & !(INDEX | SEALED) {
                state if state == at & CYCLE | FULL => return true,
                state if state == (at & CYCLE).wrapping_add(ROUND) => at = self.next(at),
                _ => return false,
            }
        }
        false
    }

    /// Returns whether there is room, likewise.
    pub(crate) fn has_room(&self) -> bool {
        let mut at = self.word(TAIL) & (CYCLE | INDEX);
        for _ in 0..=self.capacity() {
            match self.entry((at & INDEX) as usize) & !INDEX {
                state if state == at & CYCLE => return true,
                state if state == at & CYCLE | FULL => at = self.next(at),
                _ => return false,
            }
        }
        false
    }

    /// Checks that each slot is in one entry or place, after all that the dead have left was
    /// settled.
    pub(crate) fn check_slots(&self) -> Result<(), String> {
        let mut seen = BTreeMap::new();
        let entries = (0..self.entries()).map(|at| (self.entry(at), format!("entry {at}")));
        let ids = 0..self.used();
        let places = ids.flat_map(|id| {
            (0..self.places())
                .map(move |place| (self.place(id, place), format!("place {place} of {id}")))
        });
        for (word, whose) in entries.chain(places) {
            if let Some(other) = seen.insert(word & INDEX, whose.clone()) {
                return Err(format!("slot {} is in {other} and in {whose}", word & INDEX));
            }
        }
        let last = (self.entries() + self.used() * self.places()) as u64;
        match seen.keys().find(|&&slot| slot >= last) {
            Some(slot) => Err(format!("there is no slot {slot}")),
            None => Ok(()),
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: this object owns the mapping, and no reference points into it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
