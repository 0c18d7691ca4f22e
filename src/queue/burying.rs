//! Burying: what is done for a participant that died.
//!
//! # Goal
//! A dead participant may have been in the middle of an exchange, have tasks in hand, or owe others
//! a wake-up. Whoever comes first does all of that, and **any number may do it at once**: a burier
//! that is stopped, or dies, keeps nobody from doing it too. Nobody takes the dead one's token for
//! it. Only a newcomer takes a token, to live with it.
//!
//! # Who is dead
//! A participant's token says `OWNER_DIED` from its death until a newcomer *recovers* it, whether
//! the newcomer has taken it or not. The `life` in its record says how far it has come:
//!
//! ```text
//! newcomer:   over(n)  -> LIVES(n+1)   it has the token, has buried n, taken back what n
//!                                      announced, and recovered the token
//! burier:     LIVES    -> SETTLED      the exchange is completed, if it happened
//! burier:     SETTLED  -> over         tasks are returned, and everybody was told
//! who leaves: LIVES    -> over         it has nothing in hand
//! ```
//!
//! 1. *A participant is dead and not buried while its life is not over and its token is
//!    inconsistent.* A newcomer recovers the token before it begins its life. So whoever reads a
//!    life, and an inconsistent token after it, has read of the death of just that life, or of a
//!    newcomer that has not begun to live.
//! 2. *A life never comes back.* Whoever has seen that it is dead, reads some words, and finds the
//!    life as it was, has read what the dead one, or those who bury it, have left there. No living
//!    participant has changed these words meanwhile.
//!
//! # Why a late burier does no harm
//! It may be stopped before each of its compare-exchanges, and go on when the id has long been
//! another's. Each expects a word that was read in the sense of 2, and that is gone for ever once
//! anybody else has done the same:
//!
//! | what | expects | leaves |
//! |---|---|---|
//! | the slot that was got is noted | the `taker` before it | a higher count, which stays so |
//! | and comes into the place | round r, the spare slot | round r + 1; rounds only go up |
//! | a task in hand is returned | round r, `TASK` | `RETURNED`; whoever takes it adds a round |
//! | the life | itself | a later one |
//!
//! All buriers come to the same result, since what they judge by does not change before it is
//! settled (see [`exchange`](super::exchange), "after a death"), and is not looked at after that: a
//! settled life's announcement stays where it is, and means nothing. Its word may come back, in
//! another entry that the next participant of the id announces, so no burier may take it out: the
//! newcomer does, before it lives. To others it is still true that the announced word was seen.
//!
//! That a life is settled comes between the exchange and the tasks. A task that has been returned
//! may be taken, and another's slot be in its place: who judged the exchange by that would be
//! wrong.
//!
//! # Who is told
//! The roster is pending from before the first step to after the last one, and each burier tells
//! everybody itself, before it says that the life is over. So a burier that dies anywhere has its
//! death told through the roster, to one that finds the dead one not buried, and does it all; or
//! finds it buried, by one that has told all. Nobody sleeps who sees that a dead one is not buried.
//! A burier that is *stopped* keeps only that wake-up which the kernel gave to it: see `waiting`,
//! "what is left to slices".
//!
//! What several could not do together is left to those who live: a task that was given out too
//! often is only returned, and becomes a dead letter when somebody finds it
//! ([`letters`](super::letters)). Who moves it, and is stopped in between, has it in hand, as one
//! that works on it would.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};

use super::exchange::NOTHING;
use super::looks::Looks;
use super::memory::QueueMemory;
use super::words::{
    FLAGS, FULL, LIVES, RETURNED, ROUND, SETTLED, TASK, index, is_noted, is_over, noted, over, with,
};

/// As how many looks it counts to bury one: the system calls.
const LOOKS_OF_A_DEATH: usize = 1 << 10;

impl QueueMemory {
    /// Settles what the dead have left, does what they may have left undone, and gives their tasks
    /// to whoever comes. Whether there was anybody to bury. The roster is pending.
    ///
    /// If they are many it stops before the last, once the deadline has passed or after some
    /// thousands of them: the caller comes back if it goes on waiting. Nobody misses those that are
    /// left meanwhile. All have been woken since the last death that this thread can have been
    /// woken for, and each looks for the dead itself when it has slept. What is in a dead one's
    /// hand counts as unfinished, and keeps nobody from sleeping who watches tokens: it buries
    /// those that it finds dead instead.
    #[cold]
    pub(crate) fn bury(&self, until: Option<u64>) -> bool {
        let used = self.used();
        let mut looks = Looks::new(used, until);
        let mut any = false;
        for id in 0..used {
            let Some(life) = self.dead_life(id) else { continue };
            any = true;
            self.bury_one(id, life);
            // To settle it this thread may have looked at all of them.
            if !looks.take(LOOKS_OF_A_DEATH + used) {
                break;
            }
        }
        any
    }

    /// The same for one id, of which this life is dead.
    fn bury_one(&self, id: usize, life: u64) {
        // First: nobody sleeps after it who has not looked for the dead since.
        self.do_for_the_dead();
        let settled = if life & LIVES != 0 { self.settle(id, life) } else { life };
        if !self.return_tasks_of_the_dead(id, settled) {
            // Somebody else has, and told of it.
            return;
        }
        // Release: pairs with the Acquire loads of lives: all of the above is done. It fails if
        // somebody else was faster.
        let _ = self.record(id).life.compare_exchange(settled, over(settled), Release, Relaxed);
    }

    /// The life of an id that has died and is not buried.
    fn dead_life(&self, id: usize) -> Option<u64> {
        let record = self.record(id);
        if !record.token.has_lost_owner() {
            return None;
        }
        // Acquire: pairs with the Release in `begin_life`: the token is looked at after it, and was
        // recovered before.
        let life = record.life.load(Acquire);
        (!is_over(life) && record.token.has_lost_owner()).then_some(life)
    }

    /// Whether a participant has died, and is not buried: see the top.
    pub(crate) fn is_dead(&self, id: usize) -> bool {
        self.dead_life(id).is_some()
    }

    /// Whether the words of an id that were read before are those of a life that was seen to be
    /// dead, or of its buriers.
    fn is_still(&self, id: usize, life: u64) -> bool {
        // Acquire loads have read the words, and they stay before this one. Acquire: pairs with the
        // Release in `begin_life`: what a later life has written is not read before its `life` is.
        self.record(id).life.load(Acquire) == life
    }

    /// Finds out whether what a dead life announced has happened, and completes it. The life, which
    /// is settled now.
    pub(crate) fn settle(&self, id: usize, life: u64) -> u64 {
        self.complete_for_the_dead(id, life);
        let settled = life & !LIVES | SETTLED;
        // Release: pairs with the Acquire loads of lives: the exchange is completed. It fails if
        // somebody else was faster.
        let _ = self.record(id).life.compare_exchange(life, settled, Release, Relaxed);
        settled
    }

    fn complete_for_the_dead(&self, id: usize, life: u64) {
        let record = self.record(id);
        // Acquire: pairs with the Releases in `announce` and `complete`, though the participant's
        // death has ordered them before.
        let seen = record.seen.load(Acquire);
        if seen == NOTHING {
            return;
        }
        let Some(place) = self.announced_place(id) else { return };
        let (place, site) = (self.place(id, place), record.site.load(Acquire));
        let word = place.load(Acquire);
        let (spare, want) = (index(word), index(seen));
        if !self.has_slot(spare) || !self.has_slot(want) || spare == want {
            return;
        }
        // Before it is judged: nobody but a burier changes it as long as that is true.
        let taker = self.taker(want).load(Acquire);
        if !self.happened(id, seen, spare) || !self.is_still(id, life) {
            return;
        }
        if !is_noted(taker, id) {
            // Release, both: pair with the Acquire loads in `happened`, which are in the reverse
            // order. Acquire: what another burier has noted goes with the place.
            let _ = self.taker(want).compare_exchange(taker, noted(taker, id), Release, Acquire);
        }
        let is_task =
            self.config.is_joinable && seen & (FULL | RETURNED) != 0 && !self.is_letter(site);
        let flags = if is_task { TASK } else { 0 };
        let _ = place.compare_exchange(
            word,
            with(word, flags, want).wrapping_add(ROUND),
            Release,
            Relaxed,
        );
    }

    /// All that a dead one had in hand, of which this is the life, and settled. Not so if it is not
    /// its any more.
    fn return_tasks_of_the_dead(&self, id: usize, settled: u64) -> bool {
        let mut returned = 0;
        if self.config.is_joinable {
            for place in 0..self.config.places as usize {
                let place = self.place(id, place);
                // Acquire: pairs with the Releases of the dead one, and of buriers.
                let word = place.load(Acquire);
                if word & TASK != 0 && self.has_slot(index(word)) && self.is_still(id, settled) {
                    // Release: pairs with the Acquire in `take_returned`. It fails if somebody else
                    // has done it.
                    let _ =
                        place.compare_exchange(word, word & !FLAGS | RETURNED, Release, Relaxed);
                }
                returned += u32::from(word & (TASK | RETURNED) != 0);
            }
        }
        if !self.is_still(id, settled) {
            return false;
        }
        if returned != 0 {
            // Perhaps the dead one, or another burier, could not say so.
            self.tell_of_return(returned);
        }
        if self.config.is_joinable {
            // What was settled may have been a task that was given up.
            self.wake_joins();
        }
        true
    }

    /// Buries the last one that had an id, for a newcomer that has taken its token, and begins the
    /// next life. The roster is pending.
    pub(crate) fn begin_life(&self, id: usize) {
        if let Some(life) = self.dead_life(id) {
            self.bury_one(id, life);
        }
        let record = self.record(id);
        // Relaxed: nobody else but a burier changes it, and only as long as it is not over.
        let life = over(record.life.load(Relaxed));
        // Release: pairs with the Acquire loads of announcements.
        record.seen.store(NOTHING, Release);
        record.token.recover_if_inconsistent();
        // Release: pairs with the Acquire loads of lives: the token is recovered, and nothing is
        // announced.
        record.life.store(life | LIVES, Release);
    }

    /// Ends the life of the participant that calls, and has nothing in hand.
    pub(crate) fn end_life(&self, id: usize) {
        let record = self.record(id);
        // Relaxed: it is this participant's own. Release: as in `bury_one`.
        record.life.store(over(record.life.load(Relaxed)), Release);
    }
}
