//! Blocks: memory for messages that are longer than a slot.
//!
//! # Goal
//! A message of any length lies in one piece, and is written and read in place. Whoever dies at
//! whatever instruction, no block is lost, and none belongs to two participants.
//!
//! # How
//! All blocks have address space for the longest message, and no pages at first. The pages that a
//! block was given stay with it: the next message costs no system call. How many pages there may be
//! is the [`budget`](super::budget)'s.
//!
//! A block belongs to a slot, and its `owner` says to which. To take a free block is one
//! compare-exchange, and so is to release it. Slots are what the ring hands on exactly. So a block
//! goes where its slot goes: into the ring with the message, and to the participant that gets it.
//! The slot's [`note`](QueueMemory::note) says in which block its message is.
//!
//! 1. *A slot without a message has no block*, but for one in a place of a participant that
//!    prepares a message, or has read one. The participant releases the block before the slot is
//!    exchanged as a spare.
//! 2. *A participant's death releases its blocks.* A burier releases those of all slots in the dead
//!    participant's places, except tasks. The life is settled then, so the slots are the right
//!    ones. The burier reads an owner word, then finds the life as it was, and then exchanges that
//!    word. Owner words count their changes and never come back. So a late burier changes nothing.
//! 3. *A take of the last block that fits has one winner.* If the block that was found keeps too
//!    little and the total allows no more, the participant takes other free blocks, one after the
//!    other, and frees what they keep. If there are none either, another participant has taken
//!    them. The participant then frees what its own block keeps, and releases it. So in the end all
//!    that is free is in the budget, which is one word.
//!
//! A participant that is stopped between a take and a release keeps the block, and what it keeps,
//! also where it only frees pages. Others go on with the rest. `Full` may mean that.
//!
//! A message gets as many pages as it needs, no more: what its block keeps beyond that is freed. So
//! the block that is found is the free one that keeps the most units of those that do not keep too
//! many, or else the one that keeps the fewest.
//!
//! # Who waits
//! A thread that finds too little memory sleeps on `released`, which changes with each release, and
//! when a block keeps less. All sleepers are woken, since each needs another length. A participant
//! may die with a block while it does nothing with the queue, and the kernel wakes nobody through
//! the roster then. So sleepers watch the tokens, like those that wait for a task
//! ([`tasks`](super::tasks), "who notices a death"). A newcomer need not be announced to them: it
//! takes what was not enough for a sleeper, and the release that makes it enough wakes that
//! sleeper.
//!
//! # Memory ordering
//! A block is released with Release and taken with Acquire: what its last owner did with its words,
//! and with its bytes, comes first. It is taken with Release, too, for those that find it taken and
//! go to sleep. With a message the ring's exchange orders all of it.
//!
//! # Source
//! Our own.

use crossproc_sys::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crossproc_sys::clock;
use crossproc_sys::robust::Thread;

use super::budget::{NoBlock, Pages};
use super::ends::MOST_ROUNDS;
use super::layout::{BlockRecord, MOST_PLACES};
use super::memory::QueueMemory;
use super::participant::Participant;
use super::refused::Refused;
use super::waiting::{Failure, mark};
use super::words::{FLAGS, INDEX, ROUND, WAITERS, index};
use crate::wait::Waiter;

/// How often a participant looks for a block before it says that there is too little memory. Each
/// time another participant has taken or released some.
const MOST_TRIES: u32 = 64;

/// A block that was found to be free, and its owner word.
#[derive(Debug, Clone, Copy)]
struct Free {
    block: usize,
    owner: u64,
    kept: u32,
}

impl Free {
    /// Returns whether this one is the better one for a message of so many units.
    fn is_better(&self, than: &Free, wanted: u32) -> bool {
        match (self.kept <= wanted, than.kept <= wanted) {
            (true, true) => self.kept > than.kept,
            (false, false) => self.kept < than.kept,
            (is_better, _) => is_better,
        }
    }
}

/// Returns the slot that an owner word names.
pub(crate) fn slot_of(owner: u64) -> Option<usize> {
    index(owner).checked_sub(1)
}

/// Returns the owner word after this one, which names a slot, or none.
fn handed_to(owner: u64, slot: Option<usize>) -> u64 {
    (owner | INDEX).wrapping_add(1) | slot.map_or(0, |slot| slot as u64 + 1)
}

impl QueueMemory {
    #[inline(always)]
    pub(crate) fn has_blocks(&self) -> bool {
        self.config.blocks.most != 0
    }

    /// Takes a block with pages for so many units for the slot in a place, and notes it there. It
    /// frees what other blocks keep, and allocates, until the deadline. The roster must be pending.
    pub(crate) fn take_block(
        &self,
        participant: &Participant,
        place: usize,
        wanted: u32,
        pages: &dyn Pages,
        until: Option<u64>,
    ) -> Result<(), NoBlock> {
        let slot = self.slot(participant, place)?;
        let released = &self.block_control().released.0.at;
        for _ in 0..MOST_TRIES {
            // Acquire: pairs with the exchange in `tell_of_release`.
            let before = released.load(Acquire);
            let Some(free) = self.find_block(wanted) else {
                // Acquire: as above. What was released behind the look may be enough.
                if released.load(Acquire) & !FLAGS == before & !FLAGS {
                    break;
                }
                continue;
            };
            if free.block >= self.used_blocks() {
                self.use_another(free.block, pages)?;
            }
            if !self.own(free, slot) {
                continue;
            }
            if participant.has_block(free.block, place) {
                // The thread has a message there: a peer has written that the block is free.
                self.disown(free.block, slot);
                return Err(Refused::Corrupt.into());
            }
            participant.block(place).set(free.block as u32 + 1);
            let mut others = (0..self.used_blocks()).rev();
            let reclaim = || {
                let is_over = until.is_some_and(|until| clock::now() >= until);
                Ok(!is_over && self.reclaim_pages(participant, slot, &mut others, pages)?)
            };
            match self.fit(free.block, wanted, pages, until, reclaim) {
                Ok(true) => {
                    // Relaxed: the exchange of the slot orders it.
                    self.note(slot).store(free.block as u32 + 1, Relaxed);
                    return Ok(());
                }
                Ok(false) => self.release_block(participant, place),
                Err(no_block) => {
                    self.release_block(participant, place);
                    return Err(no_block);
                }
            }
        }
        Err(Refused::Full.into())
    }

    /// Releases the block that the slot in a place has, if it has one. The roster must be pending.
    pub(crate) fn release_block(&self, participant: &Participant, place: usize) {
        let Some(block) = participant.block(place).replace(0).checked_sub(1) else { return };
        self.disown(block as usize, index(participant.word(place).get()));
    }

    /// Returns the block that the message in a slot of the participant's own is in, and notes that
    /// the participant has it. `None` means that the message is in the slot.
    pub(crate) fn find_message(
        &self,
        participant: &Participant,
        place: usize,
        slot: usize,
    ) -> Result<Option<usize>, Refused> {
        if !self.has_blocks() {
            return Ok(None);
        }
        // Relaxed: the slot is this participant's, and the exchange has ordered it. Loaded once.
        let Some(block) = self.note(slot).load(Relaxed).checked_sub(1) else { return Ok(None) };
        let block = block as usize;
        // Relaxed: as above. The block belongs to the slot, and the participant has it in no other
        // place: that keeps references apart, whatever a peer has noted in the slot.
        let is_right = block < self.config.blocks.most as usize
            && slot_of(self.block(block).owner.load(Relaxed)) == Some(slot)
            && !participant.has_block(block, place);
        if !is_right {
            return Err(Refused::Corrupt);
        }
        participant.block(place).set(block as u32 + 1);
        Ok(Some(block))
    }

    /// Returns whether there seems to be memory for so many units.
    pub(crate) fn has_memory(&self, wanted: u32) -> bool {
        wanted == 0 || self.find_block(wanted).is_some()
    }

    /// Frees the pages of all blocks that are free. The roster must be pending.
    pub(crate) fn trim(&self, participant: &Participant, pages: &dyn Pages) -> Result<(), NoBlock> {
        let slot = self.slot(participant, self.free_place(participant))?;
        let mut blocks = (0..self.used_blocks()).rev();
        while self.reclaim_pages(participant, slot, &mut blocks, pages)? {}
        Ok(())
    }

    /// Returns how many blocks were ever used.
    fn used_blocks(&self) -> usize {
        // Acquire: pairs with the exchange in `use_another`.
        (self.block_control().used.load(Acquire) as usize).min(self.config.blocks.most as usize)
    }

    /// Returns the free block that is best for so many units, if the units that are left, and those
    /// of all free blocks, are enough. It may be the next one that was never used.
    fn find_block(&self, wanted: u32) -> Option<Free> {
        let mut left = u64::from(self.units_left());
        let mut best: Option<Free> = None;
        let used = self.used_blocks();
        for free in (0..used).filter_map(|block| self.free_block(block)) {
            left += u64::from(free.kept);
            if best.is_none_or(|best| free.is_better(&best, wanted)) {
                best = Some(free);
            }
        }
        if used < self.config.blocks.most as usize {
            let next = Free { block: used, owner: 0, kept: 0 };
            best = best.filter(|best| !next.is_better(best, wanted)).or(Some(next));
        }
        best.filter(|_| left >= u64::from(wanted))
    }

    /// Returns a block if it is free.
    fn free_block(&self, block: usize) -> Option<Free> {
        // Acquire: pairs with the exchange in `disown`.
        let owner = self.block(block).owner.load(Acquire);
        slot_of(owner).is_none().then(|| Free { block, owner, kept: self.kept(block) })
    }

    /// Makes the record of the next block usable.
    #[cold]
    fn use_another(&self, block: usize, pages: &dyn Pages) -> Result<(), NoBlock> {
        let at = self.offsets.block_records + block * size_of::<BlockRecord>();
        pages.allocate(at, size_of::<BlockRecord>()).map_err(NoBlock::NoMemory)?;
        // Release: pairs with the Acquire in `used_blocks`. If it fails, another participant has
        // done the same.
        let used = &self.block_control().used;
        let _ = used.compare_exchange(block as u32, block as u32 + 1, AcqRel, Relaxed);
        // `used` only grows, and should include this block by then.
        if self.used_blocks() > block { Ok(()) } else { Err(Refused::Corrupt.into()) }
    }

    /// Makes a free block that of a slot. Returns whether it did.
    fn own(&self, free: Free, slot: usize) -> bool {
        let owned = handed_to(free.owner, Some(slot));
        // Acquire: pairs with the exchange in `disown`. Release: pairs with the Acquire in
        // `free_block`. A thread that sees the block taken sees who takes part, and watches the
        // token of its owner.
        self.block(free.block).owner.compare_exchange(free.owner, owned, AcqRel, Relaxed).is_ok()
    }

    /// Frees a block of a slot of the participant's own. The roster must be pending.
    fn disown(&self, block: usize, slot: usize) {
        let word = &self.block(block).owner;
        // Relaxed: only this participant changes it.
        let owner = word.load(Relaxed);
        if slot_of(owner) == Some(slot) {
            // Release: pairs with the Acquire in `own` and `free_block`. It fails only if a peer
            // has scribbled there.
            let _ = word.compare_exchange(owner, handed_to(owner, None), Release, Relaxed);
        }
        self.tell_of_release();
    }

    /// Frees the pages of the first of `blocks` that is free and keeps some, for the owner of a
    /// slot. Returns whether there was one.
    fn reclaim_pages(
        &self,
        participant: &Participant,
        slot: usize,
        blocks: &mut impl Iterator<Item = usize>,
        pages: &dyn Pages,
    ) -> Result<bool, NoBlock> {
        for block in blocks {
            let Some(free) = self.free_block(block).filter(|free| free.kept != 0) else { continue };
            // Not where the thread has a message, though a peer has written that it is free.
            if !participant.has_block(block, usize::MAX) && self.own(free, slot) {
                let emptied = self.shrink(block, 0, pages);
                self.disown(block, slot);
                return emptied.map(|()| true);
            }
        }
        Ok(false)
    }

    /// Releases the blocks of all slots that a dead participant has, except for tasks. `settled` is
    /// its life, which is settled, and its tasks are returned.
    pub(super) fn release_blocks_of_the_dead(&self, id: usize, settled: u64) {
        let mut slots = [None; MOST_PLACES as usize];
        // One bit for several slots: most owners are none of them.
        let mut any = 0_u64;
        for (place, slot) in slots.iter_mut().enumerate().take(self.config.places as usize) {
            // Acquire: pairs with the Releases of the dead participant, and of buriers. A place
            // that is 0 was never used, and any other place has a round.
            let word = self.place(id, place).load(Acquire);
            if word != 0 && word & FLAGS == 0 {
                *slot = Some(index(word));
                any |= 1 << (index(word) % 64);
            }
        }
        for block in 0..self.used_blocks() {
            let word = &self.block(block).owner;
            // Acquire: as in `free_block`.
            let owner = word.load(Acquire);
            let is_of_dead = slot_of(owner)
                .is_some_and(|slot| any & 1 << (slot % 64) != 0 && slots.contains(&Some(slot)));
            if is_of_dead && self.is_still(id, settled) {
                // Release: pairs with the Acquire in `own`. It fails if another burier has done it.
                let _ = word.compare_exchange(owner, handed_to(owner, None), Release, Relaxed);
            }
        }
        // Also if another burier has released them: it may die before it wakes anybody.
        self.wake_for_memory();
    }

    /// Tells that a block is released, or keeps less. The roster must be pending.
    pub(super) fn tell_of_release(&self) {
        let released = &self.block_control().released.0;
        // SeqCst: the block, or what it kept, was released before. A thread that goes to sleep
        // marks the word first, and looks for memory after that. One of the two sees the other.
        if released.at.fetch_add(ROUND, SeqCst) & WAITERS != 0 {
            released.wake(u32::MAX);
        }
    }

    /// Has all that wait for memory look again, whether they have left a mark or not.
    pub(crate) fn wake_for_memory(&self) {
        if self.has_blocks() {
            let released = &self.block_control().released.0;
            // SeqCst: as in `tell_of_release`.
            released.at.fetch_add(ROUND, SeqCst);
            released.wake(u32::MAX);
        }
    }

    /// Takes a block, and waits for memory as long as the waiter lets it.
    #[cold]
    pub(crate) fn wait_for_block(
        &self,
        thread: &Thread,
        participant: &Participant,
        place: usize,
        wanted: u32,
        pages: &dyn Pages,
        waiter: &mut Waiter,
    ) -> Result<(), NoBlock> {
        thread.begin(&self.control().roster.0);
        let until = waiter.until();
        let mut rounds = 0;
        let result = loop {
            self.bury(until);
            if self.is_closed() {
                break Err(Refused::Closed.into());
            }
            match self.take_block(participant, place, wanted, pages, until) {
                Err(NoBlock::Failure(Failure::Refused(Refused::Full))) => {}
                result => break result,
            }
            if let Err(ended) = waiter.check() {
                break Err(ended.into());
            }
            let has_slept = self.sleep_for_block(participant.id, wanted, waiter);
            rounds = if has_slept { 0 } else { rounds + 1 };
            if rounds == MOST_ROUNDS {
                break Err(Refused::Corrupt.into());
            }
        };
        thread.end();
        result
    }

    /// Sleeps for at most one slice while there is too little memory. Returns whether it did. The
    /// roster must be pending.
    fn sleep_for_block(&self, id: usize, wanted: u32, waiter: &mut Waiter) -> bool {
        // Acquire: pairs with the Release in `announce_member`.
        let in_roster = self.control().roster.0.load(Acquire);
        let released = &self.block_control().released.0.at;
        let Some(marked) = mark(released) else { return false };
        if self.is_closed() || self.has_memory(wanted) {
            return false;
        }
        self.sleep_watching_tokens(id, waiter, &[(released, marked)], None, in_roster)
    }
}
