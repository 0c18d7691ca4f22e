//! Slots: what a thread's locks hang on in its list, and how each is held.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::Ordering::*;

use super::error::Error;
use super::records::records;
use super::word::{RobustWord, TID_MASK, in_program_order};
use super::{MAX_HELD, Thread};
use crate::mappings;

/// A slot: what a lock hangs on, and how that lock is held.
#[derive(Debug)]
#[repr(C)]
pub(super) struct SlotWord {
    /// The slot's entry. Its futex word is always 0, and only its `next` is used.
    pub(super) entry: RobustWord,
    /// How the lock that hangs on the slot is held (invariant 6).
    pub(super) holding: Cell<Holding>,
}

impl SlotWord {
    pub(super) const fn new() -> Self {
        SlotWord { entry: RobustWord::new(), holding: Cell::new(Holding::NOT) }
    }
}

/// How a thread holds a lock. It lies in this process's own memory: no peer can change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct Holding {
    /// How many times the thread holds it.
    pub depth: u32,
    /// How many guards of this thread stand for it. What they give references to belongs to this
    /// thread while they exist. A lock held by 0 guards was acquired without one.
    pub guards: u32,
}

impl Holding {
    /// Not held.
    pub const NOT: Holding = Holding { depth: 0, guards: 0 };
    /// Held once, by a guard.
    pub const BY_GUARD: Holding = Holding { depth: 1, guards: 1 };
    /// Held once, without a guard.
    pub const BY_HAND: Holding = Holding { depth: 1, guards: 0 };

    /// Returns the holding with one hold less. `by_guard` removes a guard with it. Without that, a
    /// guard goes only if there would be fewer holds than guards.
    #[must_use]
    pub fn less(self, by_guard: bool) -> Self {
        let depth = self.depth.saturating_sub(1);
        let guards = self.guards.saturating_sub(by_guard.into());
        Holding { depth, guards: guards.min(depth) }
    }
}

/// Why a thread cannot take one more lock.
#[derive(Debug)]
pub enum NoSlot {
    /// It holds this one already, whatever the lock's word says.
    Held,
    /// It holds [`MAX_HELD`] locks.
    TooMany,
    /// libc cannot call the crate when the thread ends, for lack of memory or of keys for
    /// thread-specific data (EAGAIN, ENOMEM).
    Unavailable(Error),
}

/// A place in the list for one more lock, or the one that a lock hangs on. With it comes the place
/// after it.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a>(&'a [SlotWord; 2]);

impl Thread {
    /// Returns a free slot for a lock that this thread does not hold. For `None`,
    /// [`no_slot`](Thread::no_slot) tells the reason.
    #[must_use]
    pub fn slot_for(&self, lock: &RobustWord) -> Option<Slot<'_>> {
        let made = self.made.load(Relaxed);
        let mut free = None;
        for index in 0..made {
            let slot = self.slot(index);
            if slot.holds(lock) {
                if is_shared(lock) {
                    return None;
                }
                if lock.word().load(Relaxed) & TID_MASK != self.tid() {
                    // The slot belongs to another lock, that was there before.
                    slot.lead_to(slot.after());
                }
            }
            if slot.is_free() {
                free = free.or(Some(index));
            }
        }
        match free {
            Some(index) => Some(self.slot(index)),
            // Not done in `set_up`, which signal handlers need: libc may allocate for it.
            None if made == 0 && self.will_be_called_at_end().is_err() => None,
            None if made == MAX_HELD => None,
            None => {
                // Makes one more slot: its end first, then the link to it.
                self.slots[made + 1].entry.next.store(self.last.entry(), Relaxed);
                in_program_order();
                self.slots[made].entry.next.store(self.slots[made + 1].entry.entry(), Relaxed);
                self.made.store(made + 1, Relaxed);
                Some(self.slot(made))
            }
        }
    }

    /// Returns why there is no [slot for](Thread::slot_for) a lock.
    #[cold]
    #[must_use]
    pub fn no_slot(&self, lock: &RobustWord) -> NoSlot {
        if self.made.load(Relaxed) == 0 {
            return self
                .will_be_called_at_end()
                .map_or_else(NoSlot::Unavailable, |()| NoSlot::TooMany);
        }
        if self.slot_of(lock).is_some() { NoSlot::Held } else { NoSlot::TooMany }
    }

    /// Returns whether this thread still holds a lock for which it has a [slot](Thread::slot_of).
    #[inline]
    #[must_use]
    pub fn is_held_still(&self, lock: &RobustWord) -> bool {
        lock.word().load(Relaxed) & TID_MASK == self.tid() || is_shared(lock)
    }

    /// Lets the calling thread end though it has leaked guards. The locks that they stood for are
    /// then handed on as those of a dead owner.
    ///
    /// # Safety
    /// No guard of this thread is left, and no reference that came from one.
    pub unsafe fn disown_guards(&self) {
        for slot in self.slots_made().filter(|slot| !slot.is_free()) {
            slot.hold(Holding { guards: 0, ..slot.holding() });
        }
    }

    #[inline]
    pub(super) fn slot(&self, index: usize) -> Slot<'_> {
        // There is one more slot than can be used, so each has one after it.
        let both = self.slots[index..].first_chunk().expect("a slot that can be used");
        Slot(both)
    }

    /// Returns the slots that can be used so far.
    pub(super) fn slots_made(&self) -> impl DoubleEndedIterator<Item = Slot<'_>> {
        (0..self.made.load(Relaxed)).map(|index| self.slot(index))
    }

    /// Returns the slot that the lock hangs on, if this thread holds it. This is the truth about
    /// that (invariant 6), if it [is that lock still](Thread::is_held_still).
    #[inline]
    #[must_use]
    pub fn slot_of(&self, lock: &RobustWord) -> Option<Slot<'_>> {
        let first = self.slot(0);
        if first.holds(lock) {
            return Some(first);
        }
        if self.made.load(Relaxed) <= 1 {
            return None;
        }
        Some(self.slot(self.later_index_of(lock)?))
    }

    #[cold]
    fn later_index_of(&self, lock: &RobustWord) -> Option<usize> {
        // Takes the last one: an earlier one of the same address was leaked, and its memory used
        // again.
        (1..self.made.load(Relaxed)).rev().find(|&index| self.slot(index).holds(lock))
    }

    /// Returns whether this thread holds a lock whose entry lies in the `len` bytes from address
    /// `start`.
    #[inline]
    #[must_use]
    pub fn holds_within(&self, start: usize, len: usize) -> bool {
        let is_within = |slot: Slot<'_>| slot.leads_to().wrapping_sub(start) < len;
        is_within(self.slot(0)) || (self.made.load(Relaxed) > 1 && self.slots_made().any(is_within))
    }

    /// Returns how many guards this thread has.
    #[must_use]
    pub fn guards(&self) -> u32 {
        let held = self.slots_made().filter(|slot| !slot.is_free());
        held.map(|slot| slot.holding().guards).fold(0, u32::saturating_add)
    }

    /// Links a lock that this thread has just acquired, in a [free slot](Thread::slot_for) of its
    /// own. To be called between `begin` and `end`.
    #[inline]
    pub fn link(&self, free: Slot<'_>, lock: &RobustWord, holding: Holding) {
        free.hold(holding);
        lock.next.store(free.after(), Relaxed);
        in_program_order();
        free.lead_to(lock.entry());
        in_program_order();
    }

    /// Unlinks a lock that this thread is about to release, between `begin` and `end`. Returns
    /// whether the thread held it.
    #[inline]
    #[must_use]
    pub fn unlink(&self, lock: &RobustWord) -> bool {
        in_program_order();
        let first = self.slot(0);
        let was_held = if first.holds(lock) {
            first.lead_to(first.after());
            true
        } else {
            self.unlink_later(lock)
        };
        in_program_order();
        was_held
    }

    #[cold]
    fn unlink_later(&self, lock: &RobustWord) -> bool {
        let mut made = self.made.load(Relaxed);
        let Some(index) = self.later_index_of(lock) else { return false };
        self.slot(index).lead_to(self.slot(index).after());
        // Free slots at the end are unmade, so that the fast path is open again.
        while made > 1 && self.slot(made - 1).is_free() {
            made -= 1;
            in_program_order();
            self.slots[made].entry.next.store(self.last.entry(), Relaxed);
            self.made.store(made, Relaxed);
        }
        true
    }
}

impl Slot<'_> {
    /// Returns the entry that this one points to.
    #[inline]
    pub(super) fn leads_to(self) -> usize {
        self.0[0].entry.next.load(Relaxed)
    }

    #[inline]
    pub(super) fn lead_to(self, entry: usize) {
        self.0[0].entry.next.store(entry, Relaxed);
    }

    /// Returns the entry of the slot after it.
    #[inline]
    pub(super) fn after(self) -> usize {
        self.0[1].entry.entry()
    }

    #[inline]
    pub(super) fn is_free(self) -> bool {
        self.leads_to() == self.after()
    }

    #[inline]
    fn holds(self, lock: &RobustWord) -> bool {
        self.leads_to() == lock.entry()
    }

    /// Returns how the lock that hangs here is held.
    #[inline]
    #[must_use]
    pub fn holding(self) -> Holding {
        self.0[0].holding.get()
    }

    /// Records how the lock that hangs here is held.
    #[inline]
    pub fn hold(self, holding: Holding) {
        self.0[0].holding.set(holding);
    }
}

/// Returns whether any thread of this process holds a lock whose entry lies in the `len` bytes from
/// address `start`. The answer is exact for memory in which no lock is being taken or released. For
/// other memory it may err to either side.
#[must_use]
pub fn any_held_within(start: usize, len: usize) -> bool {
    let is_within = |slot: &SlotWord| slot.entry.next.load(Relaxed).wrapping_sub(start) < len;
    records().any(|thread| {
        !thread.is_free()
            && thread.slots[..thread.made.load(Relaxed).min(MAX_HELD)].iter().any(is_within)
    })
}

/// Returns whether the lock must be the same one as when it was taken. Outside shared mappings, a
/// lock at the same address may have been leaked and freed, and its memory used again.
#[cold]
fn is_shared(lock: &RobustWord) -> bool {
    mappings::contain(ptr::from_ref(lock).addr())
}
