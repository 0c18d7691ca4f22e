//! Batches: several items in one slot, which are got some at a time, or all that are left.
//!
//! # Goal
//! A put of a batch, and a get of all that is left of one, is one exchange, like those of single
//! items. A get of some items of a batch is one compare-exchange. Items are got in order, each by
//! one participant, whoever dies at whatever instruction.
//!
//! # How
//! A full entry says how many items of its batch were [`TAKEN`](super::words::TAKEN). A getter of
//! all that is left exchanges the slot, as in any queue: only then the slot has another owner. A
//! getter of fewer
//!
//! 1. copies the items from the slot, which is not its own,
//! 2. adds their number to `TAKEN` by a compare-exchange.
//!
//! The items are its own if the exchange succeeds, and they are what it has copied: the entry's
//! word never comes back, so the batch was in the entry from before the first copy to the exchange.
//! If it fails, the copy may be anything, and is not looked at. No owner changes, so there is
//! nothing to announce, and nothing to settle after a death: the items were got when the word
//! changed.
//!
//! The last item of a batch is always got with the slot. So an entry is empty when its items are
//! gone, and nothing else of the ring is concerned: `Full`, `Empty`, sleepers.
//!
//! # Memory ordering
//! A getter copies while another participant may already have taken the slot and write to it. So
//! both use atomics (`queue::payload`), and two fences make the exchange fail in that case. The
//! writer has taken the slot out of the entry; its Release fence is before what it writes. The
//! getter's Acquire fence is after what it has read, and before its exchange. If it has read any of
//! what was written, the entry has changed for it. (Loom cannot show a fence missing: it never
//! stores before an earlier exchange.)
//!
//! # Source
//! Our own; the check of a copy by the word that it was made under is that of a sequence lock.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::atomic::fence;

use super::ends::{End, MOST_ROUNDS, Ring};
use super::memory::QueueMemory;
use super::participant::Participant;
use super::refused::Refused;
use super::words::{ONE_TAKEN, emptied, index, taken};

/// What was got of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// As many items as were asked for, which were copied.
    Some,
    /// The slot, with all that was left: these items. There are none only if a peer has scribbled
    /// on the length.
    Rest { from: u32, end: u32 },
}

impl Ring<'_> {
    /// Gets `most` items of the first batch, if more are left of it, or else all of them with the
    /// slot, into a place. Returns the flags of `head` in the second case, and none in the first.
    ///
    /// `copy(slot, from)` is to copy `most` items. It may be called several times; the last call
    /// counts.
    #[inline]
    pub(crate) fn get_batched(
        self,
        participant: &Participant,
        place: usize,
        most: u32,
        mut copy: impl FnMut(usize, u32),
    ) -> Result<(Got, u64), Refused> {
        let memory = self.memory;
        // Acquire: as in `put`.
        let seen = self.head().load(Acquire);
        let mut from = self.begin(participant, End::Head, seen);
        let mut round = 0;
        while round < MOST_ROUNDS {
            round += 1;
            let found = self.look(from)?;
            if !found.is_full() {
                (from, round) = self.go_on(End::Head, found.position, found.entry, round)?;
                continue;
            }
            let slot = memory.slot_in(found.entry);
            if !memory.has_slot(slot) {
                return Err(Refused::Corrupt);
            }
            let taken = taken(found.entry);
            // If the slot is another's by now, the exchange fails.
            let len = memory.batch_len(slot);
            let cell = memory.entry(found.at);
            if most < len.saturating_sub(taken) {
                copy(slot, taken);
                // Pairs with the fence in `begin_batch`: see the top.
                fence(Acquire);
                let after = found.entry + u64::from(most) * ONE_TAKEN;
                // Relaxed: the getter that takes the slot comes after this one in the word's own
                // order.
                if cell.compare_exchange(found.entry, after, Relaxed, Relaxed).is_ok() {
                    return Ok((Got::Some, 0));
                }
                round += self.rounds_of_a_copy(most);
                continue;
            }
            let word = memory.announce(participant, place, found.at, found.entry)?;
            if memory.swap(participant, cell, found.entry, emptied(found.entry, index(word))) {
                let flags = self.end(participant, End::Head, place, word, found, 0);
                return Ok((Got::Rest { from: taken.min(len), end: len }, flags));
            }
        }
        Err(Refused::Corrupt)
    }

    /// Returns how many rounds a copy of so many items counts for, besides its own: all rounds
    /// together copy no more than a gigabyte, or 256 times. So often in a row an honest getter
    /// loses only with items that are much too long to be copied.
    #[cold]
    fn rounds_of_a_copy(self, items: u32) -> u32 {
        let config = &self.memory.config;
        let bytes = config.size / u64::from(config.batch.max(1)) * u64::from(items);
        (bytes / 4_096).min(u64::from(MOST_ROUNDS / 256)) as u32
    }
}

impl QueueMemory {
    /// Begins to write a batch of `len` items into a slot of the participant's own.
    #[inline]
    pub(crate) fn begin_batch(&self, slot: usize, len: u32) {
        // Pairs with the fence in `get_batched`: see the top.
        fence(Release);
        // Relaxed: the put orders it.
        self.payload_len(slot).store(len, Relaxed);
    }

    /// Returns how many items the batch in a slot has.
    #[inline]
    pub(crate) fn batch_len(&self, slot: usize) -> u32 {
        // Relaxed: the entry has ordered it. The bound is the room that there is, whatever a peer
        // has written there.
        self.payload_len(slot).load(Relaxed).min(self.config.batch)
    }
}
