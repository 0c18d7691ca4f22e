//! Dead letters: tasks that were given out too often.
//!
//! # How
//! Dead letters have a ring of their own. A participant that gives back a task after its last
//! attempt puts it into that ring. If there is no room, it returns the task instead.
//!
//! A dead participant's task is always returned ([`burying`](super::burying)). So a returned task
//! may be one that belongs to the letters. A participant that finds such a task moves it: it takes
//! the task like any returned one, and puts it into the ring in its own name.
//!
//! - A get moves as many as there is room for, before it takes a returned task.
//! - A join does so, too, so that it depends on no get. To move a task that is not in one of its
//!   own places it needs a free place. If all its loans are in use, it leaves the task to others.
//!   If there is no room for a letter it sleeps, and is woken by the participant that makes room by
//!   taking a letter out.
//! - A newcomer moves those that are in its own places, which are free then.
//! - A request for a letter takes such a task directly where the ring has none.
//!
//! # Who waits for a letter
//! Only [watchers](super::watching) do. They mark the ring's `tail`, as getters mark that of the
//! items, and look at its `head` and for returned tasks after that. A participant looks for the
//! mark after each put of a letter, and after each return of a task, and wakes all of them.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use crossproc_sys::atomic::fence;
use crossproc_sys::robust::Thread;

use super::ends::{End, Found, Which};
use super::looks::Looks;
use super::memory::QueueMemory;
use super::participant::Participant;
use super::participants::bits;
use super::refused::Refused;
use super::tasks::SOME;
use super::waiting::wake_all_of;
use super::words::{CLOSED, RETURNED, TASK, WAITERS, index};

/// The number of looks that moving one task counts for: it is an exchange at each of two places.
const LOOKS_OF_A_MOVE: usize = 1 << 10;

/// Where a task is: the id of a participant, and one of its places.
type From = (usize, usize);

impl QueueMemory {
    /// Returns whether a task was given out as often as it may be. If the task is not the caller's,
    /// the answer may be stale.
    pub(crate) fn is_given_up(&self, slot: usize) -> bool {
        let limit = self.config.attempts;
        // Acquire: pairs with the Release in `count_attempt`. A participant that takes the task
        // checks again.
        limit != 0 && self.config.letters != 0 && self.attempts(slot).load(Acquire) >= limit
    }

    /// Returns whether there was room for one more letter just now.
    pub(crate) fn has_room_for_letter(&self) -> bool {
        let ring = self.ring(Which::Letters);
        // No participant closes the letters, but a peer might set the flag, and a put would be
        // refused.
        let is_open = ring.tail().load(Acquire) & CLOSED == 0;
        is_open
            && ring
                .find(End::Tail)
                .is_ok_and(|found| !found.is_full_since_last_cycle() && !found.is_sealed())
    }

    /// Puts the task in a place into the ring of letters, if it belongs there and there is room.
    /// Returns whether it did. The roster must be pending.
    pub(crate) fn give_up(&self, participant: &Participant, place: usize) -> bool {
        let slot = index(participant.word(place).get());
        let is_letter =
            self.is_given_up(slot) && self.ring(Which::Letters).put(participant, place).is_ok();
        if is_letter {
            self.tell_of_letter();
            self.note_finished();
        }
        is_letter
    }

    /// Tells that there may be a letter: wakes the threads that wait for one.
    pub(crate) fn tell_of_letter(&self) {
        if self.config.letters == 0 {
            return;
        }
        // SeqCst: the letter was put, or the task returned, before `tail` is loaded. A watcher
        // marks `tail` first and then looks for both. One of the two sees the other.
        fence(SeqCst);
        if self.ring(Which::Letters).tail().load(Relaxed) & WAITERS != 0 {
            self.wake_for_letter();
        }
    }

    pub(crate) fn wake_for_letter(&self) {
        wake_all_of(self.ring(Which::Letters).tail());
    }

    /// Returns whether there is a letter to take.
    pub(crate) fn has_letter(&self) -> bool {
        // If the words make no sense, the request for a letter says so.
        self.config.letters != 0
            && (!self.ring(Which::Letters).find(End::Head).is_ok_and(Found::is_empty)
                || self.find_given_up().is_some())
    }

    /// Returns all returned tasks that belong to the letters, each with the word of its place.
    fn given_up(&self) -> impl Iterator<Item = (From, u64)> {
        let used =
            if self.config.attempts == 0 || self.config.letters == 0 { 0 } else { self.used() };
        let places = self.config.places as usize;
        let all = (0..used).flat_map(move |id| (0..places).map(move |place| (id, place)));
        all.filter_map(|(id, place)| {
            // Acquire: pairs with the Release in `return_task`.
            let seen = self.place(id, place).load(Acquire);
            // Looked at again: the count may be that of one who has taken the task since. Acquire:
            // as above.
            let is_one = seen & RETURNED != 0
                && self.has_slot(index(seen))
                && self.is_given_up(index(seen))
                && self.place(id, place).load(Acquire) == seen;
            is_one.then_some(((id, place), seen))
        })
    }

    /// Returns the first of the tasks that [`given_up`](QueueMemory::given_up) returns.
    pub(crate) fn find_given_up(&self) -> Option<(From, u64)> {
        // Acquire: pairs with the Release in `tell_of_return`.
        let is_any = self.config.attempts != 0 && self.control().returned.load(Acquire) & SOME != 0;
        if is_any { self.given_up().next() } else { None }
    }

    /// Returns the same tasks, as long as there is room for the next one and looks are left. A task
    /// that is returned behind this search is announced by its own return.
    pub(crate) fn movable(&self, until: Option<u64>) -> impl Iterator<Item = (From, u64)> {
        let mut looks = Looks::new(self.used(), until);
        self.given_up()
            .take_while(move |_| looks.take(LOOKS_OF_A_MOVE) && self.has_room_for_letter())
    }

    /// Moves returned tasks that belong to the letters into their ring, as far as there is room.
    /// Those in the participant's own places come first: they need no other place. The roster must
    /// be pending.
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

    /// Returns whether there is a task that [`give_up_returned`](QueueMemory::give_up_returned)
    /// would move.
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

    /// The same, for callers that have the roster pending.
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

    /// Returns whether the task that the participant has returned in a place belongs to the
    /// letters.
    fn is_own_given_up(&self, participant: &Participant, place: usize) -> bool {
        let own = participant.word(place).get();
        own & RETURNED != 0 && self.is_given_up(index(own))
    }

    /// Returns the task in a place to the queue: from then on it is there for others.
    fn return_to(&self, participant: &Participant, place: usize) {
        self.return_task(participant, place);
        participant.returned.set(participant.returned.get() | 1 << place);
    }

    /// Takes a letter into a place: the first in the ring, or else a task that still has to be
    /// moved there. The roster must be pending.
    pub(crate) fn take_letter(
        &self,
        participant: &Participant,
        place: usize,
    ) -> Result<(), Refused> {
        self.bury(None);
        match self.ring(Which::Letters).get(participant, place, 0) {
            Err(Refused::Empty) => {}
            result => {
                // There is room for one more: a joining thread may be waiting to move a task there.
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

    /// Returns the number of letters. A hint: it may be stale by now.
    pub(crate) fn count_letters(&self) -> usize {
        self.ring(Which::Letters).count() + self.count_letters_to_come()
    }

    /// Returns how many returned tasks can still be moved to the letters.
    pub(crate) fn count_letters_to_come(&self) -> usize {
        let room = (self.config.letters as usize).saturating_sub(self.ring(Which::Letters).count());
        self.given_up().take(room).count()
    }
}
