//! Tasks: items that are not lost with the participant that took them.
//!
//! # Goal
//! A task is unfinished from its put until a participant says that it is done, or until it is a
//! dead letter. While it is unfinished it is in the ring, in a participant's hand, or waits to be
//! taken again. Whatever dies, no task is lost, and none is in two hands. A thread that waits for
//! all tasks to be done learns when that is so.
//!
//! # How
//! A get leaves its slot in the participant's place with the mark `TASK`. When the task is done,
//! the mark goes. A participant that gives a task back turns the mark into `RETURNED`. A burier
//! does so with all that the dead participant had. The place itself is where others find the task.
//! They take it by an exchange like any other, of the slot in their own place for the one in there.
//! That exchange is announced, completed and settled like any other. So tasks do not need room in a
//! ring to come back. `returned` tells when to look for them.
//!
//! # Who notices a death
//! A thread that sleeps for a task, or until all are done, watches the tokens of all other
//! participants. It buries those that are dead before it sleeps. So does a thread that finds
//! nothing and does not sleep. The kernel marks a dead participant's token and wakes one thread
//! that sleeps on it, which buries the participant. A new participant wakes all sleepers through
//! the roster, so that they watch its token, too. With more than 120 participants, the rest are
//! only looked at before the sleep, and at the end of a slice.
//!
//! # What was given out too often
//! A participant that gives back a task after its last attempt puts it to the dead letters. That is
//! an exchange like any other, in its own name. If they are full the task is returned all the same.
//! A dead participant's task is only returned: several may bury the participant, and cannot put
//! something to a ring together. The task counts as a letter from then on, as far as there is room
//! for it. A participant that looks for returned tasks moves it ([`letters`](super::letters)).
//!
//! # When all is done
//! All tasks are done if, in one look:
//! - the ring is empty,
//! - no place has a mark,
//! - no participant is about to complete a get,
//! - nothing was put in the time of the look: the entry at `head` is as it was,
//! - nothing moved between places in that time. `moves` tells that: it is advanced after the
//!   announcement and before the exchange.
//!
//! `joins` is advanced, and its sleepers woken, whenever a task is finished while the ring is empty
//! and a thread may wait.
//!
//! A look that is disturbed begins again, but not for ever: a peer that writes what it likes can
//! disturb each. A look has a budget ([`looks`](super::looks)). When the budget or the time is
//! spent, the answer is *unknown*. A thread that may sleep only while something is unfinished does
//! not sleep on that answer: it has seen nothing whose end would wake it. It looks at its deadline,
//! and again at the tasks. After several such answers in a row it says that the words make no
//! sense.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crossproc_sys::atomic::{AtomicU64, fence};
use crossproc_sys::clock;
use crossproc_sys::futex::{self, Watch};
use crossproc_sys::robust::Thread;

use super::ends::{End, MOST_ROUNDS, Ring, Which};
use super::looks::Looks;
use super::memory::QueueMemory;
use super::participant::Participant;
use super::refused::Refused;
use super::waiting::{Failure, Side, mark, wake_all_of};
use super::words::{FLAGS, RETURNED, TASK, WAITERS, exchanged, index};
use crate::wait::Waiter;
use crate::wait::source::Words;

/// In `returned`: there may be some.
pub(crate) const SOME: u64 = 1;
const ONE_RETURN: u64 = 2;
const ONE_JOIN: u64 = 1 << 32;
const ONE_MEMBER: u64 = 1 << 30;

/// As many words as the kernel watches at once; and enough for a few participants, which are faster
/// to list.
const MOST_WATCHED: usize = futex::MAX_WATCHED;
const FEW_WATCHED: usize = 24;
/// How many of these words are not tokens, at most.
const OTHERS_WATCHED: usize = 8;

/// The number of rounds of one look, where participants are few. As for `looks`, each round is
/// something that has moved.
const MOST_LOOKS_AT_ALL: u32 = 1 << 12;
/// How often in a row a thread may find that it does not know whether all is done. Among
/// participants that follow the protocol, once would be much: see `looks`.
const MOST_UNKNOWN: u32 = 8;

/// What a look at all participants has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfinished {
    /// Nothing was unfinished, at some time during the look.
    None,
    Some,
    /// It could not be found out: the words make no sense, or changed all the time, or the time was
    /// over. No thread may sleep on this answer, for no wake-up need come after it.
    Unknown,
}

impl QueueMemory {
    /// Takes a task into a place: one that was given back, or else the first one in the ring.
    ///
    /// A deadline is looked at where participants are many, or do not stand still.
    pub(crate) fn take_task(
        &self,
        participant: &Participant,
        ring: Ring<'_>,
        place: usize,
        until: Option<u64>,
    ) -> Result<(u64, usize), Refused> {
        // Acquire: pairs with the Release in `tell_of_return`.
        let returned = self.control().returned.load(Acquire);
        if returned & SOME != 0 && self.take_returned(participant, place, returned, until)? {
            return Ok((0, 1));
        }
        match ring.get(participant, place, TASK) {
            // A task may come back from the participant that has it.
            Err(Refused::Closed) => Err(self.refuse_at_the_end(participant, until)),
            result => result.map(|flags| (flags, 1)),
        }
    }

    /// Returns the refusal for a participant that finds a closed queue empty: tasks may come back
    /// from the participants that have them.
    #[cold]
    fn refuse_at_the_end(&self, participant: &Participant, until: Option<u64>) -> Refused {
        let unfinished = self.unfinished(Some(participant.id), until);
        let unknown = match unfinished {
            // That the time was over says nothing about the words.
            Unfinished::Unknown if until.is_some_and(|until| clock::now() >= until) => {
                return Refused::Empty;
            }
            Unfinished::Unknown => participant.unknown.get() + 1,
            _ => 0,
        };
        participant.unknown.set(unknown % MOST_UNKNOWN);
        match unfinished {
            Unfinished::None => Refused::Closed,
            Unfinished::Unknown if unknown == MOST_UNKNOWN => Refused::Corrupt,
            _ => Refused::Empty,
        }
    }

    /// Notes that the task in a place has been given out once more.
    pub(crate) fn count_attempt(&self, participant: &Participant, place: usize) {
        let attempts = self.attempts(index(participant.word(place).get()));
        // Relaxed: the slot is this participant's, and the exchange orders it for the next one's.
        // Release: pairs with the Acquire in `is_given_up`, for a thread that finds the slot in a
        // place and does not own it: if it sees this count, it sees that the slot was taken.
        attempts.store(attempts.load(Relaxed).saturating_add(1), Release);
    }

    /// Takes a task from a place where it was left, if there is one. Returns whether there was.
    #[cold]
    fn take_returned(
        &self,
        participant: &Participant,
        place: usize,
        returned: u64,
        until: Option<u64>,
    ) -> Result<bool, Refused> {
        for (from, seen) in self.movable(until) {
            if self.take_from(participant, place, from, seen, TASK)?
                && !self.give_up(participant, place)
            {
                return Ok(true);
            }
        }
        for id in 0..self.used() {
            for other in 0..self.config.places as usize {
                // Acquire: pairs with the Release in `return_task`.
                let seen = self.place(id, other).load(Acquire);
                if seen & RETURNED != 0
                    && self.take_from(participant, place, (id, other), seen, TASK)?
                {
                    return Ok(true);
                }
            }
        }
        // Relaxed: it is a hint, and says nothing that has not been looked at.
        let _ =
            self.control().returned.compare_exchange(returned, returned & !SOME, Relaxed, Relaxed);
        Ok(false)
    }

    /// Takes what was returned in another place, as it was seen there, into this one with a mark.
    /// Returns whether it did.
    pub(crate) fn take_from(
        &self,
        participant: &Participant,
        place: usize,
        (id, other): (usize, usize),
        seen: u64,
        mark: u64,
    ) -> Result<bool, Refused> {
        let own = self.announce(participant, place, self.site_of_place(id, other), seen)?;
        // Release: pairs with the Acquire in `unfinished`. After the announcement, before the
        // exchange.
        self.control().moves.fetch_add(1, Release);
        let is_taken =
            self.swap(participant, self.place(id, other), seen, exchanged(seen, index(own)));
        if is_taken {
            self.complete(participant, place, own, self.slot_in(seen), mark);
        }
        Ok(is_taken)
    }

    /// Notes that the task in a place is done. The roster must be pending.
    pub(crate) fn finish_task(&self, participant: &Participant, place: usize) {
        let own = participant.word(place);
        own.set(own.get() & !FLAGS);
        // Release: pairs with the Acquire in `has_task`. Whatever was done for the task happened
        // before a join returns.
        self.place_at(participant.site, place).store(own.get(), Release);
        self.note_finished();
    }

    /// Tells that a task was finished: wakes the threads that wait for that, if it may have been
    /// the last one.
    pub(crate) fn note_finished(&self) {
        // SeqCst: the place was stored before, `joins` is loaded after it. A thread that joins
        // marks `joins` first and then looks at places. One of the two sees the other.
        fence(SeqCst);
        let joins = &self.control().joins;
        if joins.load(Relaxed) & WAITERS != 0 && self.ring(Which::Items).count() == 0 {
            self.wake_joins();
        }
    }

    pub(crate) fn wake_joins(&self) {
        let joins = &self.control().joins;
        joins.fetch_add(ONE_JOIN, Release);
        wake_all_of(joins);
    }

    /// Gives back the task in a place, for any participant to take, or puts it to the dead letters.
    /// The roster must be pending.
    pub(crate) fn return_task(&self, participant: &Participant, place: usize) {
        if self.give_up(participant, place) {
            return;
        }
        let own = participant.word(place);
        own.set(own.get() & !FLAGS | RETURNED);
        // Release: pairs with the Acquire in `take_returned`.
        self.place_at(participant.site, place).store(own.get(), Release);
        self.tell_of_return(1);
    }

    pub(crate) fn tell_of_return(&self, count: u32) {
        let returned = &self.control().returned;
        // Two steps, so that no peer can keep this thread from going on. The count is first: a
        // thread that has not seen the task takes `SOME` out only if the count is as it was before
        // the look. Release, both: pair with the Acquire in `take_task`.
        returned.fetch_add(ONE_RETURN, Release);
        returned.fetch_or(SOME, Release);
        Side::Getters.position(self.ring(Which::Items)).wake(count);
        self.wake_joins();
        self.tell_of_letter();
    }

    /// Announces that a participant has come: all sleepers look at everything again, and at the new
    /// participant, too.
    pub(crate) fn announce_member(&self) {
        if self.config.is_joinable {
            let roster = &self.control().roster.0;
            // Release: pairs with the Acquire in `sleep_for_task`: the token is taken.
            roster.fetch_add(ONE_MEMBER, Release);
            futex::wake(roster, u32::MAX);
        }
    }

    /// Returns whether a task is unfinished, other than those in the hands of `except`, as far as
    /// is known: see [`unfinished`](QueueMemory::unfinished).
    pub(crate) fn has_unfinished(&self, except: Option<usize>) -> bool {
        self.unfinished(except, None) != Unfinished::None
    }

    /// Returns whether a task is unfinished, other than those in the hands of `except`. The answer
    /// is exact if no participant is in the middle of anything. Otherwise it was so at some time
    /// during the call.
    ///
    /// Each round but the last means that another participant did a put, get or move during it.
    /// Each costs at least one look at each participant. So the budget of looks bounds the rounds,
    /// too.
    pub(crate) fn unfinished(&self, except: Option<usize>, until: Option<u64>) -> Unfinished {
        let control = self.control();
        let ring = self.ring(Which::Items);
        let used = self.used();
        let mut looks = Looks::new(used, until);
        for _ in 0..MOST_LOOKS_AT_ALL {
            // Acquire: pairs with the Release in `take_from`. What was announced before is seen
            // below.
            let moves = control.moves.load(Acquire);
            let Ok(end) = ring.find(End::Head) else { return Unfinished::Unknown };
            if !end.is_empty() {
                return Unfinished::Some;
            }
            for id in 0..self.used() {
                let task = if except == Some(id) {
                    self.has_returned(id)
                } else {
                    self.has_task(id, &mut looks)
                };
                if task != Unfinished::None {
                    return task;
                }
            }
            // Acquire, both: what a worker put was put before its task was seen to be finished.
            if self.entry(end.at).load(Acquire) == end.entry && control.moves.load(Acquire) == moves
            {
                return Unfinished::None;
            }
        }
        Unfinished::Unknown
    }

    /// Returns whether a task waits in one of a participant's places.
    fn has_returned(&self, id: usize) -> Unfinished {
        let has_any = (0..self.config.places as usize)
            .any(|place| self.place(id, place).load(Acquire) & RETURNED != 0);
        if has_any { Unfinished::Some } else { Unfinished::None }
    }

    /// Waits until no task is unfinished.
    #[cold]
    pub(crate) fn join(
        &self,
        thread: &Thread,
        participant: &Participant,
        waiter: &mut Waiter,
    ) -> Result<(), Failure> {
        thread.begin(&self.control().roster.0);
        let until = waiter.until();
        let (mut unknown, mut rounds) = (0, 0);
        let result = loop {
            self.bury(until);
            self.give_up_returned(participant, until);
            match self.unfinished(None, until) {
                Unfinished::None => break Ok(()),
                Unfinished::Some => unknown = 0,
                Unfinished::Unknown => unknown += 1,
            }
            if let Err(ended) = waiter.check() {
                break Err(ended.into());
            }
            let must_wait = |_| {
                !self.can_give_up_returned(participant)
                    && self.unfinished(None, until) == Unfinished::Some
            };
            let has_slept =
                unknown == 0 && self.sleep_until_finished(participant.id, waiter, must_wait);
            rounds = if has_slept { 0 } else { rounds + 1 };
            if unknown == MOST_UNKNOWN || rounds == MOST_ROUNDS {
                break Err(Refused::Corrupt.into());
            }
        };
        thread.end();
        result
    }

    /// Sleeps for at most one slice: until a task is finished, or comes back, or a participant
    /// dies. It sleeps only if `must_wait`, which gets what `returned` was, says so. Returns
    /// whether it did. The roster must be pending.
    fn sleep_until_finished(
        &self,
        id: usize,
        waiter: &mut Waiter,
        must_wait: impl FnOnce(u64) -> bool,
    ) -> bool {
        let control = self.control();
        // Acquire: pair with the Releases in `announce_member` and `tell_of_return`.
        let (in_roster, returned) =
            (control.roster.0.load(Acquire), control.returned.load(Acquire));
        // The fence in `mark` is what `note_finished` needs, too.
        let Some(marked) = mark(&control.joins) else { return false };
        if !must_wait(returned) {
            return false;
        }
        let others = [(&control.joins, marked), (&control.returned, returned)];
        self.sleep_watching_tokens(id, waiter, &others, None, in_roster)
    }

    /// Sleeps for at most one slice while there is no task to take, and `returned` tells of none.
    /// Returns whether it did. The roster must be pending.
    pub(crate) fn sleep_for_task(
        &self,
        participant: &Participant,
        ring: Ring<'_>,
        waiter: &mut Waiter,
    ) -> bool {
        let control = self.control();
        // Acquire: pair with the Releases in `announce_member` and `tell_of_return`.
        let (in_roster, returned) =
            (control.roster.0.load(Acquire), control.returned.load(Acquire));
        let Some(marked) = mark(ring.tail()) else { return false };
        let Some((cell, entry)) = ring.obstacle(Side::Getters) else {
            ring.finish_close();
            let until = waiter.until();
            let must_wait = |returned| {
                returned & SOME == 0
                    && self.unfinished(Some(participant.id), until) == Unfinished::Some
            };
            return self.is_at_end(ring)
                && self.sleep_until_finished(participant.id, waiter, must_wait);
        };
        if returned & SOME != 0 {
            return false;
        }
        let others = [(ring.tail(), marked), (&control.returned, returned)];
        self.sleep_watching_tokens(participant.id, waiter, &others, Some((cell, entry)), in_roster)
    }

    /// Sleeps on the first of the words, and watches the others, an entry, and all participants'
    /// tokens.
    pub(super) fn sleep_watching_tokens(
        &self,
        id: usize,
        waiter: &mut Waiter,
        words: &[(&AtomicU64, u64)],
        entry: Option<(&AtomicU64, u64)>,
        in_roster: u64,
    ) -> bool {
        if self.used() + OTHERS_WATCHED <= FEW_WATCHED {
            self.sleep_watching::<FEW_WATCHED>(id, waiter, words, entry, in_roster)
        } else {
            self.sleep_watching::<MOST_WATCHED>(id, waiter, words, entry, in_roster)
        }
    }

    /// Does the same for up to `N` words. Whatever ended the sleep, the dead come first. The
    /// kernel's wake for a dead participant may have come together with another wake, which would
    /// be all that is left of it.
    fn sleep_watching<const N: usize>(
        &self,
        id: usize,
        waiter: &mut Waiter,
        words: &[(&AtomicU64, u64)],
        entry: Option<(&AtomicU64, u64)>,
        in_roster: u64,
    ) -> bool {
        let mut watched = [None; N];
        let mut watched = Words::new(&mut watched);
        // The roster is the first: see `waiting`.
        watched.add_whole(&self.control().roster.0, in_roster);
        for &(word, seen) in words {
            watched.add_whole(word, seen);
        }
        entry.into_iter().for_each(|(cell, entry)| watched.add(Watch::new(cell, entry as u32)));
        for other in (0..self.used()).filter(|&other| other != id) {
            // Tokens for which there is no room are looked at once.
            let watch = if watched.spare() != 0 { self.record(other).token.watch() } else { None };
            watch.into_iter().for_each(|watch| watched.add(watch));
            // A thread does not sleep if it sees a dead participant. This comes after the token is
            // watched: a newcomer may have taken the token, and be stopped, before this thread
            // could see that it was free.
            if self.is_dead(other) {
                self.bury(waiter.until());
                return false;
            }
        }
        let (word, seen) = words[0];
        watched.sleep::<N>(waiter, |until| futex::wait_on_one(word, seen as u32, until));
        self.bury(waiter.until());
        true
    }

    /// Returns how many tasks are unfinished. A hint: the number may be stale by now.
    pub(crate) fn count_unfinished(&self) -> usize {
        let in_hand = (0..self.used()).flat_map(|id| {
            (0..self.config.places as usize).map(move |place| self.place(id, place))
        });
        // Relaxed: a hint.
        let in_hand = in_hand.filter(|place| place.load(Relaxed) & (TASK | RETURNED) != 0).count();
        self.ring(Which::Items).count() + in_hand.saturating_sub(self.count_letters_to_come())
    }
}
