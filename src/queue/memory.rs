//! The memory of a queue as what lies in it: the one place where offsets become references.
//!
//! # Invariants
//! 1. `base` leads to `offsets.len` bytes that stay mapped as long as the memory exists, aligned to
//!    128 bytes at least; `offsets` is `config.offsets()`, and both are this process's own copies.
//! 2. What is not payload is only ever accessed as atomics: any bytes are valid in it.
//! 3. A payload is accessed by whoever has its slot: as a spare, a loan, or something received.
//!    That is what the exchange is about; a peer that breaks the protocol can spoil it.
//!
//! # What peers write, and what is made of it
//! Any word may hold anything at any time. Each is loaded once for one decision, and what is used
//! is what was looked at. "Any" means that the word is compared, or counted, and leads nowhere.
//!
//! | word | what is looked at |
//! |---|---|
//! | `config` | all of it, once, when a handle is made (see [`Config`]); the handle goes by its copy |
//! | `tail.at`, `head.at` | the index: less than the ring's length (`Ring::site`) |
//! | `watched` | any: whoever finds it set wakes all |
//! | `roster` | any: it is slept on, and pending |
//! | `used` | no more than `config.ids` (`QueueMemory::used`); grown once it was advanced (`attach`) |
//! | `returned` | any: the places say what there is |
//! | `moves` | any: how often it changes during one look is counted |
//! | `joins` | any: it is slept on |
//! | an entry | the slot exists (`announce`), and is not in use by this thread already (`slot`) |
//! | `token` | whether it has an owner, or had one that died: all else is `lock::state`'s |
//! | `seen` | the slot exists, before it is completed (`settle`); otherwise it is compared |
//! | `site` | such a word (`cell`) and such a place (`announced_place`), each time it is loaded |
//! | a place, by its own participant | never, but where it takes the id over, and where a task was |
//! | | taken out: the slot exists, the flags can be, no slot is there twice (`furnish`, `claim`) |
//! | a place, by others | as an entry |
//! | `life` | any: it is compared; each burial makes it another one |
//! | a slot's `taker` | any: its id is compared, it is counted on |
//! | its `payload_len` | no more than `config.size`, once, when it is received; the guard keeps it |
//! | its `attempts` | any: it is compared with the config's, and told; the guard keeps it |
//!
//! What makes a loop is bounded besides: operations and searches in a ring by
//! [`MOST_ROUNDS`](super::exchange::MOST_ROUNDS), looks at all participants by
//! [`looks`](super::looks).

#![allow(unsafe_code)]

use core::ptr::NonNull;

use crossproc_sys::atomic::Ordering::{Relaxed, Release};
use crossproc_sys::atomic::{AtomicU32, AtomicU64};

use super::layout::{Config, Offsets};
use super::words::noted;
use crate::sync::lock::state::RawLock;

/// Something in cache lines of its own.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

/// A position in a ring, and who sleeps on it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Position {
    pub(crate) at: AtomicU64,
    /// Bit 0: since all who sleep on it were last woken, someone went to sleep who waits for other
    /// things, too. See [`waiting`](super::waiting).
    pub(crate) watched: AtomicU32,
}

/// The counters of a ring.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Counters {
    /// Where the next put goes. Putters change it, getters sleep on it.
    pub(crate) tail: Apart<Position>,
    /// Where the next get is from. Getters change it, putters sleep on it.
    pub(crate) head: Apart<Position>,
}

/// The words that all participants share.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Control {
    pub(crate) config: [AtomicU64; 8],
    pub(crate) items: Counters,
    /// The second ring, of dead letters.
    pub(crate) letters: Counters,
    /// Bits 0-29 are 0: it is what everybody has pending (`crossproc_sys::robust`), and what
    /// everybody sleeps on besides. Bits 30-63: how often a participant of a joinable queue came.
    pub(crate) roster: Apart<AtomicU64>,
    /// How many ids were ever used; only grows. Their records and slots are allocated.
    pub(crate) used: AtomicU32,
    /// Bit 0: there may be returned tasks. The rest: how often one was returned.
    pub(crate) returned: AtomicU64,
    /// How many tasks somebody has tried to take back.
    pub(crate) moves: AtomicU64,
    /// Bits 0-30 are 0, bit 31: someone may sleep on it until all tasks are done. Bits 32-63: how
    /// often that may have been so.
    pub(crate) joins: AtomicU64,
}

/// What is known of a participant. The places follow it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ParticipantRecord {
    /// Who holds it is the participant.
    pub(crate) token: RawLock,
    /// The word that the participant tries to exchange, as it saw it; 0: it does not try.
    pub(crate) seen: AtomicU64,
    /// Bits 0-31: where that word is, 32-63: from which place. It stays while `seen` is not 0.
    pub(crate) site: AtomicU64,
    /// How far the life of whoever had the id last has come: see `words`, and
    /// [`burying`](super::burying). Only goes up.
    pub(crate) life: AtomicU64,
}

/// Where a participant's record is, in bytes from the first one. Less than the memory's length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site(usize);

/// A queue's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueMemory {
    base: NonNull<u8>,
    /// Into `base`: what the offsets says, as pointers.
    entries: NonNull<u8>,
    records: NonNull<u8>,
    slots: NonNull<u8>,
    /// `offsets.slot_stride`.
    stride: usize,
    /// `config.slots()`.
    count: usize,
    pub(crate) config: Config,
    pub(crate) offsets: Offsets,
}

// SAFETY: what it leads to is atomics, and payloads that go to one owner at a time (invariants 2,
// 3).
unsafe impl Send for QueueMemory {}
// SAFETY: as above.
unsafe impl Sync for QueueMemory {}

/// `T`s at an offset, of which this is one.
///
/// # Safety
/// The offsets of the memory that gives the reference away has a `T` there, which is all atomics.
#[inline(always)]
unsafe fn at<'a, T>(start: NonNull<u8>, offset: usize) -> &'a T {
    // SAFETY: the caller's: inside the memory (invariant 1).
    let at = unsafe { start.add(offset) };
    // SAFETY: mapped as long as the memory, aligned as the offsets has it, and valid whatever it
    // holds (invariant 2).
    unsafe { at.cast().as_ref() }
}

impl QueueMemory {
    /// # Safety
    /// Invariant 1, as long as the memory and its copies are used.
    pub(crate) unsafe fn new(base: NonNull<u8>, config: Config, offsets: Offsets) -> Self {
        // SAFETY: less than the offsets's length.
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
            config,
            offsets,
        }
    }

    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: it is what the offsets begins with.
        unsafe { at(self.base, 0) }
    }

    /// An entry of either ring: the letters' follow the items'.
    #[inline(always)]
    pub(crate) fn entry(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < self.config.entries());
        // SAFETY: callers compare it with the ring's length, which is the config's.
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
        // SAFETY: ids are less than `config.ids`: those of `used` are, and others are compared with
        // it.
        unsafe { at(self.records, site.0) }
    }

    #[inline]
    pub(crate) fn place(&self, id: usize, place: usize) -> &AtomicU64 {
        self.place_at(self.site_of(id), place)
    }

    #[inline(always)]
    pub(crate) fn place_at(&self, site: Site, place: usize) -> &AtomicU64 {
        debug_assert!(place < self.config.places as usize);
        // SAFETY: places follow the record, and there are as many as the config says, with which
        // callers compare.
        unsafe {
            at(
                self.records,
                site.0 + size_of::<ParticipantRecord>() + place * size_of::<AtomicU64>(),
            )
        }
    }

    /// The word that a [site](ParticipantRecord::site) names, if it can.
    pub(crate) fn cell(&self, index: usize) -> Option<&AtomicU64> {
        let entries = self.config.entries();
        if index < entries {
            return Some(self.entry(index));
        }
        let places = self.config.places as usize;
        let (id, place) = ((index - entries) / places, (index - entries) % places);
        (id < self.config.ids as usize).then(|| self.place(id, place))
    }

    /// How a [site](ParticipantRecord::site) names a place.
    pub(crate) fn site_of_place(&self, id: usize, place: usize) -> usize {
        self.config.first_slot(id) + place
    }

    /// Whether there is such a slot.
    #[inline(always)]
    pub(crate) fn has_slot(&self, slot: usize) -> bool {
        slot < self.count
    }

    /// Who took the slot last: see `words`.
    #[inline(always)]
    pub(crate) fn taker(&self, slot: usize) -> &AtomicU64 {
        debug_assert!(self.has_slot(slot));
        // SAFETY: callers compare the slot with the config; a slot begins with it.
        unsafe { at(self.slots, slot * self.stride) }
    }

    /// Notes who has taken a slot, which is its own then.
    #[inline(always)]
    pub(crate) fn note_taker(&self, slot: usize, id: usize) {
        let taker = self.taker(slot);
        // Relaxed: whoever had the slot before has noted it, and the exchange has ordered that. A
        // burier of that one that comes late finds it done, and changes nothing (`settle`).
        // Release: pairs with the Acquire loads in `happened` and `settle`.
        taker.store(noted(taker.load(Relaxed), id), Release);
    }

    /// How many bytes its payload has, where that is not always the same.
    #[inline]
    pub(crate) fn payload_len(&self, slot: usize) -> &AtomicU32 {
        debug_assert!(self.has_slot(slot) && self.config.align == 1);
        // SAFETY: as `taker`, which it follows; the header of what may vary has it.
        unsafe { at(self.slots, slot * self.stride + super::layout::HEADER) }
    }

    /// How often it was given out. For tasks.
    #[inline]
    pub(crate) fn attempts(&self, slot: usize) -> &AtomicU32 {
        debug_assert!(self.has_slot(slot) && self.config.is_joinable);
        // SAFETY: as `taker`; the header of a task has it, behind the length.
        unsafe {
            at(self.slots, slot * self.stride + super::layout::HEADER + size_of::<AtomicU32>())
        }
    }

    /// A new item in the slot was never given out.
    #[inline(always)]
    pub(crate) fn prepare(&self, slot: usize) {
        if self.config.is_joinable {
            // Relaxed: the exchange orders it.
            self.attempts(slot).store(0, Relaxed);
        }
    }

    /// Where the payload is: `config.size` bytes, aligned to `config.align`, valid for whoever has
    /// the slot (invariant 3).
    #[inline(always)]
    pub(crate) fn payload(&self, slot: usize) -> NonNull<u8> {
        debug_assert!(self.has_slot(slot));
        // SAFETY: inside the slot, which is inside the memory.
        unsafe { self.slots.add(slot * self.stride + self.offsets.payload) }
    }
}
