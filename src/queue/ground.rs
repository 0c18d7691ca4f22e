//! The memory of a queue as what lies in it: the one place where offsets become references.
//!
//! # Invariants
//! 1. `base` leads to `plan.len` bytes that stay mapped as long as the ground exists, aligned to 128 bytes at least; `plan` is `shape.plan()`, and both are this process's own copies.
//! 2. What is not payload is only ever accessed as atomics: any bytes are valid in it.
//! 3. A payload is accessed by whoever has its slot: as a spare, a loan, or something received. That is what the exchange is about; a peer that breaks the protocol can spoil it.

#![allow(unsafe_code)]

use core::ptr::NonNull;

use crossproc_sys::atomic::{AtomicU32, AtomicU64};

use super::shape::{Plan, Shape};
use crate::lock::state::RawLock;

/// Something in cache lines of its own.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

/// The counters of a ring.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Counters {
    /// Where the next put goes. Putters change it, getters sleep on it.
    pub(crate) tail: Apart<AtomicU64>,
    /// Where the next get is from. Getters change it, putters sleep on it.
    pub(crate) head: Apart<AtomicU64>,
}

/// The words that all participants share.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Control {
    pub(crate) shape: [AtomicU64; 8],
    pub(crate) items: Counters,
    /// The second ring, of dead letters.
    pub(crate) letters: Counters,
    /// Bits 0-29 are 0: it is what everybody has pending (`crossproc_sys::robust`), and what everybody sleeps on besides. Bit 30: `CLOSING`. Bits 31-63: how often a participant of a joinable queue came.
    pub(crate) roster: Apart<AtomicU64>,
    /// How many ids were ever used; only grows. Their records and slots are allocated.
    pub(crate) used: AtomicU32,
    /// Bit 0: there may be returned tasks. The rest: how often one was returned.
    pub(crate) returned: AtomicU64,
    /// How many tasks somebody has tried to take back.
    pub(crate) moves: AtomicU64,
    /// Bits 0-30 are 0, bit 31: someone may sleep on it until all tasks are done. Bits 32-63: how often that may have been so.
    pub(crate) joins: AtomicU64,
}

/// What is known of a participant. The places follow it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Record {
    /// Who holds it is the participant.
    pub(crate) token: RawLock,
    /// The word that the participant tries to exchange, as it saw it; 0: it does not try.
    pub(crate) seen: AtomicU64,
    /// Bits 0-31: where that word is, 32-63: from which place. It stays while `seen` is not 0.
    pub(crate) site: AtomicU64,
}

/// A queue's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground {
    base: NonNull<u8>,
    pub(crate) shape: Shape,
    pub(crate) plan: Plan,
}

// SAFETY: what it leads to is atomics, and payloads that go to one owner at a time (invariants 2, 3).
unsafe impl Send for Ground {}
// SAFETY: as above.
unsafe impl Sync for Ground {}

impl Ground {
    /// # Safety
    /// Invariant 1, as long as the ground and its copies are used.
    pub(crate) unsafe fn new(base: NonNull<u8>, shape: Shape, plan: Plan) -> Self {
        Ground { base, shape, plan }
    }

    /// `T`s at an offset, of which this is one.
    ///
    /// # Safety
    /// The plan has a `T` there, which is all atomics.
    #[inline]
    unsafe fn at<T>(&self, offset: usize) -> &T {
        // SAFETY: the caller's: inside the memory (invariant 1).
        let at = unsafe { self.base.add(offset) };
        // SAFETY: mapped as long as the ground, aligned as the plan has it, and valid whatever it holds (invariant 2).
        unsafe { at.cast().as_ref() }
    }

    #[inline]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: it is what the plan begins with.
        unsafe { self.at(0) }
    }

    /// An entry of either ring: the letters' follow the items'.
    #[inline]
    pub(crate) fn entry(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at < self.shape.entries());
        // SAFETY: callers compare it with the ring's length, which is the shape's.
        unsafe { self.at(self.plan.entries + at * size_of::<AtomicU64>()) }
    }

    #[inline]
    pub(crate) fn record(&self, id: usize) -> &Record {
        debug_assert!(id < self.shape.ids as usize);
        // SAFETY: ids are less than `used`, which is compared with the shape wherever it is read.
        unsafe { self.at(self.plan.records + id * self.plan.record_stride) }
    }

    #[inline]
    pub(crate) fn place(&self, id: usize, place: usize) -> &AtomicU64 {
        debug_assert!(id < self.shape.ids as usize && place < self.shape.places as usize);
        // SAFETY: places follow the record, and there are as many as the shape says, with which callers compare.
        unsafe { self.at(self.plan.records + id * self.plan.record_stride + size_of::<Record>() + place * size_of::<AtomicU64>()) }
    }

    /// The word that a [site](Record::site) names, if it can.
    pub(crate) fn cell(&self, at: usize) -> Option<&AtomicU64> {
        let entries = self.shape.entries();
        if at < entries {
            return Some(self.entry(at));
        }
        let (id, place) = self.place_at(at)?;
        Some(self.place(id, place))
    }

    /// How a site names a place.
    pub(crate) fn site_of_place(&self, id: usize, place: usize) -> usize {
        self.shape.first_slot(id) + place
    }

    fn place_at(&self, at: usize) -> Option<(usize, usize)> {
        let at = at.checked_sub(self.shape.entries())?;
        let places = self.shape.places as usize;
        (at / places < self.shape.ids as usize).then_some((at / places, at % places))
    }

    /// Whether there is such a slot.
    #[inline]
    pub(crate) fn has_slot(&self, slot: usize) -> bool {
        slot < self.shape.slots()
    }

    /// Who took the slot last: an id and 1.
    #[inline]
    pub(crate) fn taker(&self, slot: usize) -> &AtomicU32 {
        debug_assert!(self.has_slot(slot));
        // SAFETY: callers compare the slot with the shape; a slot begins with it.
        unsafe { self.at(self.plan.slots + slot * self.plan.slot_stride) }
    }

    /// How many bytes its payload has, where that is not always the same.
    #[inline]
    pub(crate) fn payload_len(&self, slot: usize) -> &AtomicU32 {
        debug_assert!(self.has_slot(slot));
        // SAFETY: as `taker`, which it follows.
        unsafe { self.at(self.plan.slots + slot * self.plan.slot_stride + size_of::<AtomicU32>()) }
    }

    /// How often it was given out. For tasks.
    #[inline]
    pub(crate) fn attempts(&self, slot: usize) -> &AtomicU32 {
        debug_assert!(self.has_slot(slot) && self.shape.is_joinable);
        // SAFETY: as `taker`; the header of a task has it.
        unsafe { self.at(self.plan.slots + slot * self.plan.slot_stride + super::shape::HEADER) }
    }

    /// Where the payload is: `shape.size` bytes, aligned to `shape.align`, valid for whoever has the slot (invariant 3).
    #[inline]
    pub(crate) fn payload(&self, slot: usize) -> NonNull<u8> {
        debug_assert!(self.has_slot(slot));
        // SAFETY: inside the slot, which is inside the memory.
        unsafe { self.base.add(self.plan.slots + slot * self.plan.slot_stride + self.plan.payload) }
    }
}
