//! The budget: how many pages all blocks have together.
//!
//! # Goal
//! The pages of all blocks are never more than the queue's total, and none of the total is lost,
//! whoever dies at whatever instruction.
//!
//! # How
//! Pages are counted in *units*. `kept` says how many units are counted for a block, `budget` how
//! many for all blocks. A change concerns both, but an exchange changes one word. So the exchange
//! that changes the sum announces the rest, in the same word:
//!
//! ```text
//! the block's owner:  wanted   -> what `kept` is going to be
//!                     budget   -> the new sum; the block is pending
//! anybody:            kept     -> wanted
//!                     budget   -> nothing is pending
//! ```
//!
//! 1. *Nobody begins a change while one is pending.* A participant that finds one completes it
//!    first. So a participant that is stopped in a change keeps no other from its own.
//! 2. *While a block is pending, its `wanted` stays.* Only the block's owner stores it, after it
//!    has seen that nothing is pending. If the owner dies in its change the block may get another
//!    owner, which completes the change before it stores anything.
//! 3. *A helper that is late changes nothing.* It reads both words, and then finds the block still
//!    pending by the same change. `kept` and `wanted` count changes: `kept` is exchanged for
//!    `wanted` only if that is the next one, and never comes back. `budget` counts changes, too. It
//!    comes back after 2^23 of them, if the sum and the block are the same. A helper that was
//!    stopped for just that long takes a pending block out too early. The owner exchanges `kept`
//!    itself in any case, so that costs nothing unless it dies just there.
//!
//! The budget is asked before pages are allocated, and told after pages are freed. So what is
//! counted is never less than what there is. `allocated` says how many units surely have pages. It
//! is stored after they are allocated, and taken back before they are freed. Only the block's owner
//! looks at it.
//!
//! # Memory ordering
//! `wanted` is stored with Release before `budget` is exchanged with AcqRel. A helper loads
//! `budget`, `wanted`, `kept` and `budget` again, each with Acquire.
//!
//! # Source
//! Our own. Announcing the rest of a change in the word that is changed first, so that others
//! complete it, is from T. Harris, K. Fraser and I. Pratt, "A practical multi-word compare-and-swap
//! operation" (DISC 2002).

use std::io;

use crossproc_sys::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crossproc_sys::clock;

use super::ends::MOST_ROUNDS;
use super::layout::MOST_UNITS;
use super::memory::QueueMemory;
use super::refused::Refused;
use super::waiting::Failure;
use super::words::{INDEX, index};

/// How many bytes are allocated by one call.
const AT_A_TIME: u64 = 4 << 20;

/// Of `budget`: the number of bits below the sum, which are those of the pending block.
const SUM_SHIFT: u32 = INDEX.count_ones();
/// Of `budget`: one change.
const ONE_CHANGE: u64 = 1 << (SUM_SHIFT + MOST_UNITS.count_ones());
/// Of `kept` and `wanted`: the units.
const UNITS: u64 = MOST_UNITS as u64;

/// Where a block's pages come from.
pub(crate) trait Pages {
    /// Allocates the pages of a range. Those that are there already stay as they are. If it fails,
    /// it has allocated none.
    fn allocate(&self, offset: usize, len: usize) -> io::Result<()>;

    /// Frees the pages of a range.
    fn free(&self, offset: usize, len: usize) -> io::Result<()>;
}

/// Why a participant got no block.
#[derive(Debug)]
pub(crate) enum NoBlock {
    /// With [`Refused::Full`]: messages have the memory.
    Failure(Failure),
    /// The system has refused to allocate pages, or to free some.
    NoMemory(io::Error),
}

impl<F: Into<Failure>> From<F> for NoBlock {
    fn from(failure: F) -> Self {
        NoBlock::Failure(failure.into())
    }
}

/// Returns the units counted for all blocks.
pub(crate) fn sum(budget: u64) -> u32 {
    (budget >> SUM_SHIFT & UNITS) as u32
}

/// Returns the block that is pending.
fn pending(budget: u64) -> Option<usize> {
    index(budget).checked_sub(1)
}

/// Returns the word after `budget`.
fn changed(budget: u64, sum: u32, pending: Option<usize>) -> u64 {
    let count = (budget & !(ONE_CHANGE - 1)).wrapping_add(ONE_CHANGE);
    count | u64::from(sum) << SUM_SHIFT | pending.map_or(0, |block| block as u64 + 1)
}

/// Returns the units in a `kept`.
pub(crate) fn units(kept: u64) -> u32 {
    (kept & UNITS) as u32
}

/// Returns the `kept` after this one.
fn after(kept: u64, units: u32) -> u64 {
    (kept | UNITS).wrapping_add(1) | u64::from(units)
}

impl QueueMemory {
    /// Returns how many units a message of so many bytes takes; 0 if it fits into a slot. They are
    /// an eighth more than it needs at most, so that messages of similar lengths take as many.
    pub(crate) fn units(&self, len: usize) -> u32 {
        if len as u64 <= self.config.size {
            return 0;
        }
        let blocks = &self.config.blocks;
        let needed = (len as u64).div_ceil(blocks.unit);
        let step = needed.next_power_of_two() / 16;
        let rounded = needed.next_multiple_of(step.max(1));
        rounded.min(blocks.longest.div_ceil(blocks.unit)) as u32
    }

    /// Returns how many units are left of the total. Nothing is pending then: what was counted for
    /// a dead participant's block is in its `kept`.
    pub(super) fn units_left(&self) -> u32 {
        // If the words make no sense, the change of the budget says so.
        self.settled_budget().map_or(0, |seen| self.config.blocks.units.saturating_sub(sum(seen)))
    }

    /// Returns how many units are counted for a block. A hint, for a block of others.
    pub(super) fn kept(&self, block: usize) -> u32 {
        // Relaxed: a participant that takes the block looks again.
        units(self.block(block).kept.load(Relaxed))
    }

    /// Sees to it that a block of the caller's own has pages for just so many units, until the
    /// deadline. Returns `false` if the total does not allow it; then the block has none at all.
    /// `reclaim` frees the pages of another block, if there is one to free. The roster must be
    /// pending.
    pub(crate) fn fit(
        &self,
        block: usize,
        wanted: u32,
        pages: &dyn Pages,
        until: Option<u64>,
        mut reclaim: impl FnMut() -> Result<bool, NoBlock>,
    ) -> Result<bool, NoBlock> {
        self.shrink(block, wanted, pages)?;
        let before = loop {
            let (before, now) = self.change(block, wanted)?;
            if now == wanted {
                break before;
            }
            if !reclaim()? {
                self.shrink(block, 0, pages)?;
                return Ok(false);
            }
        };
        self.allocate(block, wanted, pages, until).map(|()| true).inspect_err(|_| {
            // What cannot be freed stays counted.
            let _ = self.shrink(block, before, pages);
        })
    }

    /// Allocates what pages of a block of the caller's own are missing, some megabytes at a time: a
    /// signal makes the kernel begin anew.
    fn allocate(
        &self,
        block: usize,
        wanted: u32,
        pages: &dyn Pages,
        until: Option<u64>,
    ) -> Result<(), NoBlock> {
        let allocated = &self.block(block).allocated;
        let step = (AT_A_TIME / self.config.blocks.unit).max(1) as u32;
        // Relaxed, both: the block is the caller's.
        let mut done = u32::try_from(allocated.load(Relaxed)).unwrap_or(0).min(wanted);
        while done < wanted {
            let end = wanted.min(done.saturating_add(step));
            let (offset, len) = self.pages_of(block, done..end);
            pages.allocate(offset, len).map_err(NoBlock::NoMemory)?;
            allocated.store(end.into(), Relaxed);
            done = end;
            if done < wanted && until.is_some_and(|until| clock::now() >= until) {
                return Err(Failure::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Frees the pages of a block of the caller's own but for so many units. The roster must be
    /// pending.
    pub(super) fn shrink(
        &self,
        block: usize,
        wanted: u32,
        pages: &dyn Pages,
    ) -> Result<(), NoBlock> {
        let kept = units(self.settled_kept(block)?.1);
        if kept > wanted {
            // Relaxed, both: the block is the caller's. It is stored before the pages are freed.
            // This thread does both, and another one learns of them by the block's release.
            let allocated = &self.block(block).allocated;
            allocated.store(allocated.load(Relaxed).min(wanted.into()), Relaxed);
            let (offset, len) = self.pages_of(block, wanted..kept);
            // There are none if a peer has written that the block keeps more than it can.
            if len != 0 {
                pages.free(offset, len).map_err(NoBlock::NoMemory)?;
            }
            self.change(block, wanted)?;
            // The block may stay the caller's, and what it has given up may be what others wait
            // for.
            self.tell_of_release();
        }
        Ok(())
    }

    /// Changes how many units are counted for a block of the caller's own, unless the total forbids
    /// it. Returns how many they were, and how many they are.
    fn change(&self, block: usize, to: u32) -> Result<(u32, u32), Refused> {
        let record = self.block(block);
        let budget = &self.block_control().budget.0;
        for _ in 0..MOST_ROUNDS {
            let (seen, kept) = self.settled_kept(block)?;
            let before = units(kept);
            let sum = (sum(seen) + to).saturating_sub(before);
            if to == before || to > before && sum > self.config.blocks.units {
                return Ok((before, before));
            }
            // Release: pairs with the Acquire in `complete_change`. A helper that sees this sees
            // that nothing was pending before it.
            record.wanted.store(after(kept, to), Release);
            let announced = changed(seen, sum.min(MOST_UNITS), Some(block));
            // AcqRel: pairs with itself, and with the loads of `budget`.
            if budget.compare_exchange(seen, announced, AcqRel, Relaxed).is_ok() {
                // Release: as in `complete_change`, which is for all: see the top, 3.
                let _ = record.kept.compare_exchange(kept, after(kept, to), Release, Relaxed);
                self.complete_change(announced);
                return Ok((before, to));
            }
        }
        Err(Refused::Corrupt)
    }

    /// Completes what is pending. Returns the budget, and what `kept` a block of the caller's own
    /// has: only the caller begins a change of it.
    pub(crate) fn settled_kept(&self, block: usize) -> Result<(u64, u64), Refused> {
        let seen = self.settled_budget()?;
        // Acquire: as in `complete_change`.
        Ok((seen, self.block(block).kept.load(Acquire)))
    }

    /// Completes what is pending, until nothing is. Returns the budget.
    fn settled_budget(&self) -> Result<u64, Refused> {
        for _ in 0..MOST_ROUNDS {
            // Acquire: pairs with the AcqRel in `complete_change`: `kept` is stored.
            let seen = self.block_control().budget.0.load(Acquire);
            if pending(seen).is_none() {
                return Ok(seen);
            }
            self.complete_change(seen);
        }
        Err(Refused::Corrupt)
    }

    /// Completes the change that was seen to be pending.
    fn complete_change(&self, seen: u64) {
        let budget = &self.block_control().budget.0;
        let Some(block) = pending(seen) else { return };
        // A peer may have written there the number of a block that does not exist.
        if block < self.config.blocks.most as usize {
            let record = self.block(block);
            // Acquire, all: in this order, see the top.
            let (wanted, kept) = (record.wanted.load(Acquire), record.kept.load(Acquire));
            if budget.load(Acquire) == seen && wanted == after(kept, units(wanted)) {
                // Release: pairs with the Acquire loads of `kept`. It fails if another participant
                // has done it.
                let _ = record.kept.compare_exchange(kept, wanted, Release, Relaxed);
            }
        }
        // AcqRel: pairs with itself, and with the loads of `budget`. It fails as above.
        let _ = budget.compare_exchange(seen, changed(seen, sum(seen), None), AcqRel, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_counts_its_changes() {
        let mut budget = 0;
        for (count, sum_of_all, block) in [(1, 7, Some(3)), (2, MOST_UNITS, None), (3, 0, Some(0))]
        {
            budget = changed(budget, sum_of_all, block);
            assert_eq!((sum(budget), pending(budget)), (sum_of_all, block));
            assert_eq!(budget / ONE_CHANGE, count);
        }
        let last = !(ONE_CHANGE - 1);
        assert_eq!(changed(last, 0, None), 0, "the wrap");
    }

    #[test]
    fn what_is_kept_counts_its_changes() {
        let mut kept = 0;
        for (count, sum_of_all) in [(1, 7), (2, MOST_UNITS), (3, 0)] {
            kept = after(kept, sum_of_all);
            assert_eq!((units(kept), kept >> 20), (sum_of_all, count));
        }
        assert_eq!(after(!UNITS, 5), 5, "the wrap");
    }
}
