//! Taking part: ids, and the places of each participant.
//!
//! # Goal
//! The thread that holds an id's token, a robust lock, is the participant of that id. When it dies
//! the kernel marks the token, and any thread may bury it ([`burying`](super::burying)). A newcomer
//! takes the token, buries the dead participant if that has not been done, and begins the id's next
//! life.
//!
//! Ids are given out in order, and are used again before a new one is. The memory of an id is
//! allocated before `used` includes it, and never freed. A full table refuses newcomers only while
//! each id has a living owner, or an owner that is a newcomer itself, stopped or not.

use std::io;

use crossproc_sys::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crossproc_sys::robust::Thread;

use super::layout::MOST_PLACES;
use super::looks::Looks;
use super::memory::QueueMemory;
use super::participant::Participant;
use super::refused::Refused;
use super::tasks::Unfinished;
use super::words::{FLAGS, LIVES, RETURNED, ROUND, TASK, index, with};
use crate::sync::lock::state::LockRefused;

/// How often a participant may go on while it is looked at, before the answer is
/// `Unfinished::Unknown`. Each time is one of its operations.
const MOST_LOOKS_AT_ONE: u32 = 1 << 10;

/// Why a thread could not become a participant.
#[derive(Debug)]
pub(crate) enum NoParticipant {
    /// All ids are in use.
    TooMany,
    /// There is no memory for the slots of another id.
    NoMemory(io::Error),
    Lock(LockRefused),
    Corrupt,
}

impl QueueMemory {
    /// Makes the calling thread a participant. `allocate` makes an id's memory usable. It may be
    /// called for an id whose memory is usable already.
    ///
    /// A participant that only subscribes to a broadcast uses no slots, and `allocate` need not
    /// make those of its id usable.
    ///
    /// Each id is looked at once. An id that becomes free behind this thread is left to the next
    /// newcomer.
    pub(crate) fn attach(
        &self,
        thread: &Thread,
        as_subscriber: bool,
        mut allocate: impl FnMut(usize) -> io::Result<()>,
    ) -> Result<Participant, NoParticipant> {
        let mut used = self.used();
        // The id may have been a subscriber's, who has no slots.
        let may_lack_slots = self.config.is_broadcast() && !as_subscriber;
        for id in 0..self.config.ids as usize {
            if id < used && may_lack_slots {
                if self.record(id).token.owner().is_some() {
                    continue;
                }
                allocate(id).map_err(NoParticipant::NoMemory)?;
            }
            if id >= used {
                allocate(id).map_err(NoParticipant::NoMemory)?;
                // Release: pairs with the Acquire in `used`. If it fails, another newcomer has done
                // the same.
                let _ =
                    self.control().used.compare_exchange(id as u32, id as u32 + 1, AcqRel, Relaxed);
                used = self.used();
                if id >= used {
                    // `used` only grows, and should include this id by then: a peer has written
                    // there.
                    return Err(NoParticipant::Corrupt);
                }
            }
            if self.take_token(id)? {
                return self.enter(thread, id, as_subscriber);
            }
        }
        Err(NoParticipant::TooMany)
    }

    /// Takes an id's token if no thread has it. Returns whether it did.
    fn take_token(&self, id: usize) -> Result<bool, NoParticipant> {
        let token = &self.record(id).token;
        if token.owner().is_some() {
            return Ok(false);
        }
        match token.try_lock_contended() {
            Ok(_) => Ok(true),
            Err(LockRefused::WouldBlock | LockRefused::Deadlock) => Ok(false),
            Err(refused) => Err(NoParticipant::Lock(refused)),
        }
    }

    /// Does what the new holder of a token does first. Until its life begins, others may bury the
    /// last participant, too.
    fn enter(
        &self,
        thread: &Thread,
        id: usize,
        as_subscriber: bool,
    ) -> Result<Participant, NoParticipant> {
        thread.begin(&self.control().roster.0);
        self.begin_life(id);
        self.announce_member();
        thread.end();
        if as_subscriber {
            return Ok(Participant::new(self, id));
        }
        let Ok(participant) = self.furnish(id) else {
            self.end_life(id);
            // The token must not stay in the thread's list: the memory is going to be unmapped.
            self.record(id).token.unlock(thread.tid());
            return Err(NoParticipant::Corrupt);
        };
        self.give_up_own(thread, &participant);
        Ok(participant)
    }

    /// Gives an id that was never used its first slots, and notes it as the taker of the slots in
    /// its places. The places are read here, once, and the participant knows them from then on. A
    /// place with a returned task is in use: its slot is not this participant's.
    fn furnish(&self, id: usize) -> Result<Participant, Refused> {
        let participant = Participant::new(self, id);
        let mut returned: u64 = 0;
        for place in 0..self.config.places as usize {
            // Acquire: pairs with the exchange of a participant that took a returned task from
            // there.
            let seen = self.place(id, place).load(Acquire);
            if seen & FLAGS == RETURNED && self.has_slot(index(seen)) {
                participant.word(place).set(seen);
                returned |= 1 << place;
            } else {
                self.claim(&participant, place, seen)?;
            }
        }
        // No participant can have had more tasks than loans. With more, there would be no place
        // left for anything else.
        if returned.count_ones() as usize > self.most_loans()
            || self.has_slot_twice(&participant, !returned)
        {
            return Err(Refused::Corrupt);
        }
        participant.busy.set(returned);
        participant.returned.set(returned);
        Ok(participant)
    }

    /// Returns whether two of these places have the same slot.
    fn has_slot_twice(&self, participant: &Participant, places: u64) -> bool {
        let slot_in = |place: usize| index(participant.word(place).get());
        let places = || bits(places).take_while(|&place| place < self.config.places as usize);
        places().any(|place| {
            places()
                .take_while(|&other| other < place)
                .any(|other| slot_in(other) == slot_in(place))
        })
    }

    /// Makes the slot in a place the participant's own. It is the slot that another participant
    /// left there for a returned task, or the place's first one. This comes before the slot is
    /// used: otherwise it would not be known as the participant's own.
    fn claim(&self, participant: &Participant, place: usize, seen: u64) -> Result<(), Refused> {
        let own = participant.word(place);
        let word = if seen == 0 { own.get() } else { seen };
        let slot = index(word);
        if !self.has_slot(slot) || word & FLAGS != 0 {
            return Err(Refused::Corrupt);
        }
        self.note_taker(slot, participant.id);
        if seen == 0 {
            // Release: pairs with the Acquire loads of places.
            self.place_at(participant.site, place).store(word, Release);
        }
        own.set(word);
        Ok(())
    }

    /// Ends the participation of the calling thread, which has nothing in hand that it still uses.
    pub(crate) fn detach(&self, thread: &Thread, participant: &Participant) {
        thread.begin(&self.control().roster.0);
        for place in 0..self.config.places as usize {
            if participant.word(place).get() & TASK != 0 {
                self.return_task(participant, place);
            }
        }
        self.end_life(participant.id);
        thread.end();
        self.record(participant.id).token.unlock(thread.tid());
    }

    /// Returns a place of the participant's own that is not in use. There always is one.
    #[inline]
    pub(crate) fn free_place(&self, participant: &Participant) -> usize {
        (!participant.busy.get()).trailing_zeros() as usize
    }

    /// Returns how many places can be in use at once: all but one, which every operation needs.
    pub(crate) fn most_loans(&self) -> usize {
        self.config.places as usize - 1
    }

    /// Marks a free place of the participant's own as in use, and returns it. Returns `None` if
    /// that would be too many.
    #[inline]
    pub(crate) fn occupy(&self, participant: &Participant) -> Option<usize> {
        if !self.can_occupy(participant) {
            return None;
        }
        let place = self.free_place(participant);
        participant.busy.set(participant.busy.get() | 1 << place);
        Some(place)
    }

    /// Returns whether [`occupy`](QueueMemory::occupy) has a place to give.
    #[inline]
    pub(crate) fn can_occupy(&self, participant: &Participant) -> bool {
        // One place stays free, for every operation. This is not `count_ones`, which takes many
        // instructions where `popcnt` is not taken for granted.
        let has_two_free = || {
            let free = !participant.busy.get() & u64::MAX >> (MOST_PLACES - self.config.places);
            free & free.wrapping_sub(1) != 0
        };
        if !has_two_free() {
            self.reclaim(participant);
        }
        has_two_free()
    }

    /// Frees a place that [`occupy`](QueueMemory::occupy) gave.
    #[inline]
    pub(crate) fn vacate(&self, participant: &Participant, place: usize) {
        participant.busy.set(participant.busy.get() & !(1 << place));
    }

    /// Frees the places whose returned task was taken by others.
    #[cold]
    fn reclaim(&self, participant: &Participant) {
        for place in bits(participant.returned.get()) {
            // Acquire: pairs with the exchange of the participant that took the task. Loaded once:
            // what is claimed is what was seen.
            let word = self.place_at(participant.site, place).load(Acquire);
            if word & RETURNED == 0 && self.claim(participant, place, word).is_ok() {
                participant.returned.set(participant.returned.get() & !(1 << place));
                participant.busy.set(participant.busy.get() & !(1 << place));
            }
        }
    }

    /// Takes back a task that the participant itself has returned, and that no other has taken.
    /// Returns its place, which has been in use all the time.
    pub(crate) fn retake(&self, thread: &Thread, participant: &Participant) -> Option<usize> {
        if participant.returned.get() == 0 {
            return None;
        }
        self.give_up_own(thread, participant);
        bits(participant.returned.get()).find(|&place| self.retake_from(participant, place))
    }

    pub(crate) fn retake_from(&self, participant: &Participant, place: usize) -> bool {
        let own = participant.word(place);
        let taken = with(own.get(), TASK, index(own.get())).wrapping_add(ROUND);
        // Its own slot stays in its own place: nothing has to be announced.
        let word = self.place_at(participant.site, place);
        // Not for the place of a dead letter, which waits here to be reclaimed. Release: pairs with
        // the Acquire loads of a late burier of the id's last life, which then sees the present
        // life.
        let is_mine = own.get() & RETURNED != 0
            && word.compare_exchange(own.get(), taken, Release, Relaxed).is_ok();
        if is_mine {
            own.set(taken);
            participant.returned.set(participant.returned.get() & !(1 << place));
        }
        is_mine
    }

    /// Returns whether a participant has a task in hand, or in a place for others, or has got one
    /// that is not in a place yet.
    pub(crate) fn has_task(&self, id: usize, looks: &mut Looks) -> Unfinished {
        let record = self.record(id);
        for _ in 0..MOST_LOOKS_AT_ONE {
            if !looks.take(1) {
                break;
            }
            // Acquire: pairs with the Releases in `burying`. If the life is settled, what it
            // announced is in a place.
            let life = record.life.load(Acquire);
            // Acquire: pairs with the Release in `complete`. What was announced before is in a
            // place, if it is not announced any more.
            let seen = record.seen.load(Acquire);
            if (0..self.config.places as usize)
                .any(|place| self.place(id, place).load(Acquire) & (TASK | RETURNED) != 0)
            {
                return Unfinished::Some;
            }
            if life & LIVES == 0 {
                // If the life is unchanged, no participant has the id, and what is announced there
                // means nothing.
                if record.life.load(Acquire) == life {
                    return Unfinished::None;
                }
                continue;
            }
            if seen & FLAGS == 0 {
                // A put is not about a task, except for one to the dead letters. That task keeps
                // its mark until the put is done.
                return Unfinished::None;
            }
            let is_task = self.is_about_task(id, seen, looks);
            if looks.are_spent() {
                break;
            }
            if record.seen.load(Acquire) == seen {
                return if is_task { Unfinished::Some } else { Unfinished::None };
            }
            // The participant went on meanwhile: what was seen may be of either operation.
        }
        Unfinished::Unknown
    }
}

/// Returns the numbers of the bits that are set.
pub(crate) fn bits(of: u64) -> impl Iterator<Item = usize> {
    (0..u64::BITS as usize).filter(move |bit| of & 1 << bit != 0)
}
