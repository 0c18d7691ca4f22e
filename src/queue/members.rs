//! Who takes part: ids, and what is left of the dead.
//!
//! # Goal
//! Whoever holds an id's token, a robust lock, is the participant of that id. When it dies the kernel marks the token, and whoever takes it next settles what the dead one was in the middle of
//! ([`exchange`](super::exchange)), and gives back the tasks that it had in hand ([`tasks`](super::tasks)). All of that can be done twice: the one who does it may die, too.
//!
//! Ids are given out in order, and are used again before a new one is. The memory of an id is allocated before `used` includes it, and never freed.

use std::io;

use crossproc_sys::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crossproc_sys::robust::Thread;

use super::exchange::{Member, Refused};
use super::ground::Ground;
use super::words::{FLAGS, RETURNED, ROUND, TASK, index};
use crate::lock::state::Refused as Unlockable;

/// Why a thread could not become a participant.
#[derive(Debug)]
pub(crate) enum NoMember {
    /// All ids are in use.
    TooMany,
    /// There is no memory for another one's slots.
    NoMemory(io::Error),
    Lock(Unlockable),
    Corrupt,
}

impl Ground {
    /// Makes the calling thread a participant. `allocate` makes an id's memory usable; it may be called for one that is.
    pub(crate) fn attach(&self, thread: &Thread, mut allocate: impl FnMut(usize) -> io::Result<()>) -> Result<Member, NoMember> {
        loop {
            let used = self.used();
            for id in 0..used {
                if self.take_token(id)? {
                    return self.enter(thread, id);
                }
            }
            if used >= self.shape.ids as usize {
                return Err(NoMember::TooMany);
            }
            allocate(used).map_err(NoMember::NoMemory)?;
            // Release: pairs with the Acquire in `used`. If it fails, another one has done the same.
            let _ = self.control().used.compare_exchange(used as u32, used as u32 + 1, AcqRel, Relaxed);
        }
    }

    /// Takes an id's token if it is nobody's.
    fn take_token(&self, id: usize) -> Result<bool, NoMember> {
        let token = &self.record(id).token;
        if token.owner().is_some() {
            return Ok(false);
        }
        match token.try_lock_contended() {
            Ok(_) => Ok(true),
            Err(Unlockable::WouldBlock | Unlockable::Deadlock) => Ok(false),
            Err(refused) => Err(NoMember::Lock(refused)),
        }
    }

    /// What the new holder of a token does first.
    fn enter(&self, thread: &Thread, id: usize) -> Result<Member, NoMember> {
        self.settle(id);
        self.furnish(id).map_err(|_| NoMember::Corrupt)?;
        thread.begin(&self.control().roster.0);
        self.return_tasks(id);
        self.announce_member();
        thread.end();
        // Everything of the dead one is done.
        self.record(id).token.recover_if_inconsistent();
        let member = Member::new(id);
        let places = 0..self.shape.places as usize;
        let returned = places.filter(|&place| self.place(id, place).load(Acquire) & RETURNED != 0).fold(0, |bits, place| bits | 1 << place);
        member.busy.set(returned);
        member.returned.set(returned);
        Ok(member)
    }

    /// Gives an id that was never used its first slots, and notes it as the taker of those that others have left in its places.
    fn furnish(&self, id: usize) -> Result<(), Refused> {
        for place in 0..self.shape.places as usize {
            let word = self.place(id, place);
            // Acquire: pairs with the exchange of one who took a returned task from there.
            let seen = match word.load(Acquire) {
                0 => ROUND | self.shape.first_slot(id) as u64 + place as u64,
                seen => seen,
            };
            let slot = index(seen);
            if !self.has_slot(slot) {
                return Err(Refused::Corrupt);
            }
            if seen & RETURNED == 0 {
                // Release, both: pair with the Acquire loads in `happened` and of places. Before the slot is in the place: it would not be known as its own otherwise.
                self.taker(slot).store(id as u32 + 1, Release);
                word.store(seen, Release);
            }
        }
        Ok(())
    }

    /// Ends the participation of the calling thread, which has nothing in hand that it still uses.
    pub(crate) fn detach(&self, thread: &Thread, member: &Member) {
        thread.begin(&self.control().roster.0);
        self.return_tasks(member.id);
        thread.end();
        self.record(member.id).token.unlock(thread.tid());
    }

    /// Settles what the dead have left, and gives their tasks to whoever comes. Their ids are free after it. Whether there was one.
    #[cold]
    pub(crate) fn bury(&self, thread: &Thread) -> bool {
        let mut any = false;
        for id in 0..self.used() {
            let token = &self.record(id).token;
            if self.is_dead(id) && matches!(self.take_token(id), Ok(true)) {
                self.settle(id);
                thread.begin(&self.control().roster.0);
                self.return_tasks(id);
                token.recover_if_inconsistent();
                token.unlock(thread.tid());
                any = true;
            }
        }
        any
    }

    /// A place of the participant's own that is not in use: there always is one.
    #[inline]
    pub(crate) fn free_place(&self, member: &Member) -> usize {
        (!member.busy.get()).trailing_zeros() as usize
    }

    /// How many places can be in use at once: all but one, which every operation needs.
    pub(crate) fn most_loans(&self) -> usize {
        self.shape.places as usize - 1
    }

    /// A place of the participant's own that is not in use, and is from now on; `None` if that would be too many.
    #[inline]
    pub(crate) fn occupy(&self, member: &Member) -> Option<usize> {
        if member.busy.get().count_ones() as usize >= self.most_loans() {
            self.reclaim(member);
            // A returned task that nobody has taken yet can be taken by this participant itself: see `take_task`.
            if (member.busy.get() & !member.returned.get()).count_ones() as usize >= self.most_loans() {
                return None;
            }
        }
        let place = self.free_place(member);
        member.busy.set(member.busy.get() | 1 << place);
        Some(place)
    }

    /// What [`occupy`](Ground::occupy) gave is free again.
    #[inline]
    pub(crate) fn vacate(&self, member: &Member, place: usize) {
        member.busy.set(member.busy.get() & !(1 << place));
    }

    /// Whether no place is left that is not in use.
    pub(crate) fn is_crammed(&self, member: &Member) -> bool {
        let is_full = || member.busy.get().count_ones() >= self.shape.places;
        is_full() && {
            self.reclaim(member);
            is_full()
        }
    }

    /// Makes places usable again from which others have taken the task that was returned there.
    #[cold]
    fn reclaim(&self, member: &Member) {
        let returned = member.returned.get();
        for place in (0..self.shape.places as usize).filter(|place| returned & 1 << place != 0) {
            // Acquire: pairs with the exchange of the one who took it.
            let word = self.place(member.id, place).load(Acquire);
            if word & RETURNED == 0 && self.has_slot(index(word)) {
                // Release: pairs with the Acquire in `happened`. Before it is used: see `furnish`.
                self.taker(index(word)).store(member.id as u32 + 1, Release);
                member.returned.set(member.returned.get() & !(1 << place));
                member.busy.set(member.busy.get() & !(1 << place));
            }
        }
    }

    /// Whether the holder of this id's token has died, and nobody has taken it since.
    pub(crate) fn is_dead(&self, id: usize) -> bool {
        let token = &self.record(id).token;
        token.owner().is_none() && token.is_inconsistent()
    }

    /// Whether a participant has a task in hand, or may be about to take one.
    pub(crate) fn may_have_task(&self, id: usize) -> bool {
        // Acquire: pairs with the Release in `complete`: what was announced before is in a place, if it is announced no longer.
        let record = self.record(id);
        let seen = record.seen.load(Acquire);
        let is_still_there = || self.cell(record.site.load(Acquire) as u32 as usize).is_some_and(|cell| cell.load(Acquire) == seen);
        // A put is not about a task. This comes before the places: what is completed meanwhile is in one of them.
        if seen & FLAGS != 0 && self.announced_spare(id).is_some_and(|spare| is_still_there() || self.happened(id, seen, spare)) {
            return true;
        }
        (0..self.shape.places as usize).any(|place| self.place(id, place).load(Acquire) & (TASK | RETURNED) != 0)
    }
}
