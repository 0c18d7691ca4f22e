//! The queue's memory, as what lies in it: the one place where offsets become references.
//!
//! # Invariants
//! 1. `base` points to `offsets.len` bytes, aligned to at least 128 bytes, that stay mapped as long
//!    as the memory exists. `offsets` is `config.offsets()`, and both are this process's own
//!    copies.
//! 2. Everything but the payloads is only ever accessed as atomics: any bytes are valid there.
//! 3. A payload is accessed by the participant that has its slot: as a spare, a loan, or something
//!    received. That is what the exchange is about. A peer that breaks the protocol can spoil it.
//!    In a queue of batches, and in a broadcast, any participant may copy from it, and all that is
//!    written there, and copied so, is atomic. A block is accessed by the participant that has the
//!    slot that the block belongs to.
//!
//! # What peers write, and how it is checked
//! Any word may hold anything at any time. Each word is loaded once for one decision, and the value
//! that was checked is the one that is used. In the table, "any" means that the word is compared,
//! or counted, and is never followed.
//!
//! | word | what is checked |
//! |---|---|
//! | `config` | all of it, once, when a handle is made (see [`Config`]); the handle uses its copy |
//! | `tail.at`, `head.at` | the index: less than the ring's length (`Ring::site`) |
//! | `watched` | any: a thread that finds it set wakes all |
//! | `roster` | any: it is slept on, and pending |
//! | `used` | no more than `config.ids` (`QueueMemory::used`); it has grown once advanced (`attach`) |
//! | `returned` | any: the places say what there is |
//! | `moves` | any: the rounds of a look in which it changes are counted |
//! | `joins` | any: it is slept on |
//! | an entry | the slot exists (`announce`), and is not in use by this thread already (`slot`) |
//! | `token` | whether it has an owner, or had one that died: the rest is `lock::state`'s |
//! | `seen` | the slot exists, before the exchange is completed (`settle`); otherwise it is compared |
//! | `site` | there is such a word (`cell`), and such a place (`announced_place`), at each load |
//! | a place, by its own participant | never read, except at the takeover of the id, and where a task was |
//! | | taken out: the slot exists, the flags are possible, no slot is there twice (`furnish`, `claim`) |
//! | a place, by others | as an entry |
//! | `life` | any: it is compared; each burial changes it |
//! | a slot's `taker` | any: its id is compared, its count goes on from there |
//! | its `payload_len` | no more than `config.size`, or `batch`, once, when it is received; the guard keeps it. None left of a batch: `Spoiled` |
//! | its `attempts` | any: it is compared with the config's, and reported; the guard keeps it |
//! | its `note` | there is such a block, which belongs to the slot, and this thread has it in no other place (`find_message`) |
//! | `budget` | the sum: compared; the block: there is such a block (`complete_change`) |
//! | `released` | any: it is slept on |
//! | `used` of blocks | as `used` |
//! | `owner` of a block | any: it is compared |
//! | `kept`, `wanted` | any: compared; the pages of a block are freed as far as the config goes (`pages_of`) |
//! | `subscriptions` | any: it is compared |
//! | a `cursor` | any: it is compared; its own subscriber never reads it, it only expects it |
//! | `held` | any: the cursor in it is compared, the time in it ends a wait at most (`patience_ends`) |
//! | `allocated` | any: pages that are not there come when they are touched |
//!
//! Loops are bounded besides: operations and searches in a ring by
//! [`MOST_ROUNDS`](super::ends::MOST_ROUNDS), looks at all participants by
//! [`looks`](super::looks).

#![allow(unsafe_code)]

use core::ops::Range;
use core::ptr::NonNull;

use crossproc_sys::atomic::Ordering::{Relaxed, Release};
use crossproc_sys::atomic::{AtomicU32, AtomicU64};

use super::layout::{
    BlockControl, BlockRecord, Config, Control, HEADER, LONG_HEADER, Offsets, ParticipantRecord,
    Subscription,
};
use super::words::{INDEX, noted};

/// Where a participant's record is, in bytes from the first record. Less than the memory's length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site(usize);

/// A queue's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueMemory {
    base: NonNull<u8>,
    /// Pointers into `base`, by the offsets of the same names.
    entries: NonNull<u8>,
    records: NonNull<u8>,
    slots: NonNull<u8>,
    /// `offsets.slot_stride`.
    stride: usize,
    /// `config.slots()`.
    count: usize,
    /// `config.slot_bits()`.
    slot_bits: u64,
    pub(crate) config: Config,
    pub(crate) offsets: Offsets,
}

// SAFETY: the memory holds atomics, and payloads that have one owner at a time (invariants 2, 3).
unsafe impl Send for QueueMemory {}
// SAFETY: as above.
unsafe impl Sync for QueueMemory {}

/// Returns the `T` at an offset from `start`.
///
/// # Safety
/// The offsets of the memory that the reference comes from place a `T` there, which is all atomics.
#[inline(always)]
unsafe fn at<'a, T>(start: NonNull<u8>, offset: usize) -> &'a T {
    // SAFETY: by the caller's clause it is inside the memory (invariant 1).
    let at = unsafe { start.add(offset) };
    // SAFETY: it is mapped as long as the memory, aligned as the offsets say, and valid whatever it
    // holds (invariant 2).
    unsafe { at.cast().as_ref() }
}

impl QueueMemory {
    /// # Safety
    /// Invariant 1 holds as long as the memory and its copies are used.
    pub(crate) unsafe fn new(base: NonNull<u8>, config: Config, offsets: Offsets) -> Self {
        // SAFETY: it is less than the length in `offsets`.
        let entries = unsafe { base.add(offsets.entries) };
        // SAFETY: as above.
        let records = unsafe { base.add(offsets.records) };
        // SAFETY: as above.
        let slots = unsafe { base.add(offsets.slots) };
        QueueMemory {
            base,
            entries,
            records,
            slots,
            stride: offsets.slot_stride,
            count: config.slots(),
            slot_bits: config.slot_bits(),
            config,
            offsets,
        }
    }

    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: the memory begins with it.
        unsafe { at(self.base, 0) }
    }

    /// Returns an entry of either ring. The letters' entries follow the items'.
    #[inline(always)]
    pub(crate) fn entry(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < self.config.entries());
        // SAFETY: callers compare the index with the ring's length, which is the config's.
        unsafe { at(self.entries, index * size_of::<AtomicU64>()) }
    }

    pub(crate) fn site_of(&self, id: usize) -> Site {
        debug_assert!(id < self.config.ids as usize);
        Site(id * self.offsets.record_stride)
    }

    #[inline]
    pub(crate) fn record(&self, id: usize) -> &ParticipantRecord {
        self.record_at(self.site_of(id))
    }

    #[inline(always)]
    pub(crate) fn record_at(&self, site: Site) -> &ParticipantRecord {
        // SAFETY: ids are less than `config.ids`: ids below `used` are, and other ids are compared
        // with it.
        unsafe { at(self.records, site.0) }
    }

    #[inline]
    pub(crate) fn place(&self, id: usize, place: usize) -> &AtomicU64 {
        self.place_at(self.site_of(id), place)
    }

    #[inline(always)]
    pub(crate) fn place_at(&self, site: Site, place: usize) -> &AtomicU64 {
        debug_assert!(place < self.config.places as usize);
        // SAFETY: the places follow the record. There are as many as the config says, and callers
        // compare with that.
        unsafe {
            at(
                self.records,
                site.0 + size_of::<ParticipantRecord>() + place * size_of::<AtomicU64>(),
            )
        }
    }

    /// What is known of a participant of a broadcast as a subscriber.
    #[inline]
    pub(crate) fn subscription(&self, id: usize) -> &Subscription {
        debug_assert!(self.config.is_broadcast());
        let places = self.config.places as usize * size_of::<AtomicU64>();
        let Site(site) = self.site_of(id);
        // SAFETY: as for records. In a broadcast the places are followed by it.
        unsafe { at(self.records, site + size_of::<ParticipantRecord>() + places) }
    }

    /// Returns the word that a [site](ParticipantRecord::site) names, if there is such a word.
    pub(crate) fn cell(&self, index: usize) -> Option<&AtomicU64> {
        let entries = self.config.entries();
        if index < entries {
            return Some(self.entry(index));
        }
        let places = self.config.places as usize;
        let (id, place) = ((index - entries) / places, (index - entries) % places);
        (id < self.config.ids as usize).then(|| self.place(id, place))
    }

    /// Returns the number by which a [site](ParticipantRecord::site) names a place.
    pub(crate) fn site_of_place(&self, id: usize, place: usize) -> usize {
        self.config.first_slot(id) + place
    }

    /// Returns whether there is such a slot.
    #[inline(always)]
    pub(crate) fn has_slot(&self, slot: usize) -> bool {
        slot < self.count
    }

    /// Returns the slot in an entry.
    #[inline(always)]
    pub(crate) fn slot_in(&self, entry: u64) -> usize {
        (entry & self.slot_bits) as usize
    }

    /// Returns the bits of an entry that may change while its slot stays.
    pub(super) fn taken_bits(&self) -> u64 {
        INDEX & !self.slot_bits
    }

    /// The word that says which participant took the slot last: see `words`.
    #[inline(always)]
    pub(crate) fn taker(&self, slot: usize) -> &AtomicU64 {
        debug_assert!(self.has_slot(slot));
        // SAFETY: callers compare the slot with the config. A slot begins with this word.
        unsafe { at(self.slots, slot * self.stride) }
    }

    /// Notes that a participant has taken a slot, which is its own from then on.
    #[inline(always)]
    pub(crate) fn note_taker(&self, slot: usize, id: usize) {
        let taker = self.taker(slot);
        // Relaxed: the participant that had the slot before has noted itself, and the exchange has
        // ordered that. A late burier of that participant finds the note made, and changes nothing
        // (`settle`). Release: pairs with the Acquire loads in `happened` and `settle`.
        taker.store(noted(taker.load(Relaxed), id), Release);
    }

    /// The number of bytes of the slot's payload, for payloads of various lengths; of a batch, the
    /// number of items.
    #[inline]
    pub(crate) fn payload_len(&self, slot: usize) -> &AtomicU32 {
        debug_assert!(self.has_slot(slot) && (self.config.align == 1 || self.config.batch != 0));
        // SAFETY: as for `taker`, which it follows. The header of such payloads has it.
        unsafe { at(self.slots, slot * self.stride + HEADER) }
    }

    /// How often the slot's task was given out. For joinable queues.
    #[inline]
    pub(crate) fn attempts(&self, slot: usize) -> &AtomicU32 {
        debug_assert!(self.has_slot(slot) && self.config.is_joinable);
        // SAFETY: as for `taker`. The header of a task has it, behind the length.
        unsafe { at(self.slots, slot * self.stride + HEADER + size_of::<AtomicU32>()) }
    }

    /// The block that the message in the slot is in, plus 1; 0: it is in the slot. For queues with
    /// blocks.
    #[inline]
    pub(crate) fn note(&self, slot: usize) -> &AtomicU32 {
        debug_assert!(self.has_slot(slot) && self.config.blocks.most != 0);
        // SAFETY: as for `taker`. The header of a slot of such a queue has it, behind the others.
        unsafe { at(self.slots, slot * self.stride + LONG_HEADER) }
    }

    /// Notes that the slot's message is in the slot, if it could be in a block.
    #[inline]
    pub(crate) fn note_in_slot(&self, slot: usize) {
        if self.config.blocks.most != 0 {
            // Relaxed: the exchange orders it.
            self.note(slot).store(0, Relaxed);
        }
    }

    /// What all blocks share. For queues with blocks.
    pub(crate) fn block_control(&self) -> &BlockControl {
        debug_assert!(self.config.blocks.most != 0);
        // SAFETY: the memory of a queue with blocks has it there.
        unsafe { at(self.base, self.offsets.block_control) }
    }

    pub(crate) fn block(&self, block: usize) -> &BlockRecord {
        debug_assert!(block < self.config.blocks.most as usize);
        // SAFETY: callers compare the block with the config, which says how many there are.
        unsafe { at(self.base, self.offsets.block_records + block * size_of::<BlockRecord>()) }
    }

    /// Returns where these units of a block are, as far as it has so many: offset and length.
    pub(crate) fn pages_of(&self, block: usize, units: Range<u32>) -> (usize, usize) {
        debug_assert!(block < self.config.blocks.most as usize);
        let stride = self.offsets.block_stride;
        let offset = |units: u32| {
            (units as usize).saturating_mul(self.config.blocks.unit as usize).min(stride)
        };
        let (start, end) = (offset(units.start), offset(units.end));
        (self.offsets.block_pages + block * stride + start, end.saturating_sub(start))
    }

    /// Returns where a block is: `config.blocks.longest` bytes, valid for the participant that has
    /// the slot that the block belongs to.
    pub(crate) fn block_payload(&self, block: usize) -> NonNull<u8> {
        // SAFETY: it is inside the memory.
        unsafe { self.base.add(self.pages_of(block, 0..0).0) }
    }

    /// Prepares a slot for a new item, which was never given out.
    #[inline(always)]
    pub(crate) fn prepare(&self, slot: usize) {
        if self.config.is_joinable {
            // Relaxed: the exchange orders it.
            self.attempts(slot).store(0, Relaxed);
        }
    }

    /// Returns where the payload is: `config.size` bytes, aligned to `config.align`, valid for the
    /// participant that has the slot (invariant 3).
    #[inline(always)]
    pub(crate) fn payload(&self, slot: usize) -> NonNull<u8> {
        debug_assert!(self.has_slot(slot));
        // SAFETY: it is inside the slot, which is inside the memory.
        unsafe { self.slots.add(slot * self.stride + self.offsets.payload) }
    }
}
