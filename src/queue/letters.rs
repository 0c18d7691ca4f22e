//! Dead letters: tasks that were given out too often.
//!
//! # How
//! They have a ring of their own. Who gives back a task after its last attempt puts it there, if
//! there is room, and returns it otherwise. A dead one's task is always returned
//! ([`burying`](super::burying)), so a returned task may be one for the letters. It is moved there
//! by whoever finds it, who takes it like any returned task, and puts it to the ring in its own
//! name:
//!
//! - who gets moves all that there is room for, before it takes one that was returned;
//! - who joins does so, too, so that a join needs nobody who gets. For what is not in a place of
//!   its own it needs one: if all its loans are in use, it leaves that to others. If there is no
//!   room it sleeps, and who makes room by getting a letter wakes it;
//! - a newcomer moves those that are in its own places, which are free then;
//! - who asks for a letter is given such a task where the ring has none.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed};
use crossproc_sys::robust::Thread;

use super::exchange::{End, Participant, Refused, Which};
use super::looks::Looks;
use super::memory::QueueMemory;
use super::participants::bits;
use super::tasks::SOME;
use super::words::{CLOSED, RETURNED, TASK, index};

/// As how many looks it counts to move one: an exchange at each of two places.
const LOOKS_OF_A_MOVE: usize = 1 << 10;

/// Where a task is: an id, and one of its places.
type From = (usize, usize);

impl QueueMemory {
    /// Whether a task was given out as often as it may be. If it is not the caller's, that may not
    /// be so any more.
    fn is_given_up(&self, slot: usize) -> bool {
        let limit = self.config.attempts;
        // Relaxed: as in `count_attempt`. Who takes the task looks again.
        limit != 0 && self.config.letters != 0 && self.attempts(slot).load(Relaxed) >= limit
    }

    /// Whether there was room for one more just now.
    pub(crate) fn has_room_for_letter(&self) -> bool {
        let ring = self.ring(Which::Letters);
        // Nobody closes the letters, but a peer might write so, and a put would be refused.
        let is_open = ring.tail().load(Acquire) & CLOSED == 0;
        is_open
            && self
                .find(ring, End::Tail)
                .is_ok_and(|found| !found.is_full_since_last_cycle() && !found.is_sealed())
    }

    /// Puts the task in a place to the letters, if it is one for them, and there is room: whether
    /// it did. The roster is pending.
    pub(crate) fn give_up(&self, participant: &Participant, place: usize) -> bool {
        let slot = index(participant.word(place).get());
        let is_letter = self.is_given_up(slot)
            && self.put(participant, self.ring(Which::Letters), place).is_ok();
        if is_letter {
            self.note_finished();
        }
        is_letter
    }

    /// All returned tasks that are for the letters, each with what its place has.
    fn given_up(&self) -> impl Iterator<Item = (From, u64)> {
        let used =
            if self.config.attempts == 0 || self.config.letters == 0 { 0 } else { self.used() };
        let places = self.config.places as usize;
        let all = (0..used).flat_map(move |id| (0..places).map(move |place| (id, place)));
        all.filter_map(|(id, place)| {
            // Acquire: pairs with the Release in `return_task`.
            let seen = self.place(id, place).load(Acquire);
            let is_one =
                seen & RETURNED != 0 && self.has_slot(index(seen)) && self.is_given_up(index(seen));
            is_one.then_some(((id, place), seen))
        })
    }

    /// The first one of these.
    pub(crate) fn find_given_up(&self) -> Option<(From, u64)> {
        // Acquire: pairs with the Release in `tell_of_return`.
        let is_any = self.config.attempts != 0 && self.control().returned.load(Acquire) & SOME != 0;
        if is_any { self.given_up().next() } else { None }
    }

    /// These, each as long as there is room for it and looks are left: one that is returned behind
    /// this look is told of.
    pub(crate) fn movable(&self, until: Option<u64>) -> impl Iterator<Item = (From, u64)> {
        let mut looks = Looks::new(self.used(), until);
        self.given_up()
            .take_while(move |_| looks.take(LOOKS_OF_A_MOVE) && self.has_room_for_letter())
    }

    /// Moves returned tasks to the letters, as far as they are for them and there is room. Those in
    /// its own places first, which need no other one. The roster is pending.
    pub(crate) fn give_up_returned(&self, participant: &Participant, until: Option<u64>) {
        self.move_own(participant);
        for (from, seen) in self.movable(until) {
            let Some(place) = self.occupy(participant) else { return };
            if self.take_from(participant, place, from, seen, TASK).unwrap_or(false)
                && !self.give_up(participant, place)
            {
                // Others have filled the ring.
                self.return_to(participant, place);
                return;
            }
            self.vacate(participant, place);
        }
    }

    /// Whether there is one that [`give_up_returned`](QueueMemory::give_up_returned) would move.
    pub(crate) fn can_give_up_returned(&self, participant: &Participant) -> bool {
        let is_there = |place: usize| {
            self.place_at(participant.site, place).load(Acquire) == participant.word(place).get()
        };
        let has_own = || {
            bits(participant.returned.get())
                .any(|place| self.is_own_given_up(participant, place) && is_there(place))
        };
        self.find_given_up().is_some()
            && self.has_room_for_letter()
            && (has_own() || self.can_occupy(participant))
    }

    /// Moves those that are in the participant's own places, which are free then.
    pub(crate) fn give_up_own(&self, thread: &Thread, participant: &Participant) {
        if participant.returned.get() != 0 {
            thread.begin(&self.control().roster.0);
            self.move_own(participant);
            thread.end();
        }
    }

    /// The same. The roster is pending.
    fn move_own(&self, participant: &Participant) {
        for place in bits(participant.returned.get()) {
            let may_move = self.is_own_given_up(participant, place) && self.has_room_for_letter();
            if !may_move || !self.retake_from(participant, place) {
                continue;
            }
            if self.give_up(participant, place) {
                self.vacate(participant, place);
            } else {
                self.return_to(participant, place);
            }
        }
    }

    /// Whether what the participant has returned in a place is for the letters.
    fn is_own_given_up(&self, participant: &Participant, place: usize) -> bool {
        let own = participant.word(place).get();
        own & RETURNED != 0 && self.is_given_up(index(own))
    }

    /// Returns the task in a place, which is one for others from then on.
    fn return_to(&self, participant: &Participant, place: usize) {
        self.return_task(participant, place);
        participant.returned.set(participant.returned.get() | 1 << place);
    }

    /// Takes a letter into a place: the first in the ring, or one that is not there yet. The roster
    /// is pending.
    pub(crate) fn take_letter(
        &self,
        participant: &Participant,
        place: usize,
    ) -> Result<(), Refused> {
        self.bury(None);
        match self.get(participant, self.ring(Which::Letters), place, 0) {
            Err(Refused::Empty) => {}
            result => {
                // There is room for one that somebody waits for who joins.
                self.note_finished();
                return result.map(|_| ());
            }
        }
        for (from, seen) in self.given_up() {
            if self.take_from(participant, place, from, seen, 0)? {
                self.note_finished();
                return Ok(());
            }
        }
        Err(Refused::Empty)
    }

    /// How many there are. A hint: it may be stale by now.
    pub(crate) fn count_letters(&self) -> usize {
        self.count(self.ring(Which::Letters)) + self.count_letters_to_come()
    }

    /// How many returned tasks there are that can be moved to the letters.
    pub(crate) fn count_letters_to_come(&self) -> usize {
        let room =
            (self.config.letters as usize).saturating_sub(self.count(self.ring(Which::Letters)));
        self.given_up().take(room).count()
    }
}
