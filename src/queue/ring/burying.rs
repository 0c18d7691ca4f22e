//! Burying: what is done for a participant that died.
//!
//! # Goal
//! A dead participant may have been in the middle of an exchange, have tasks in hand, or owe others
//! a wake-up. To *bury* it is to do all of that for it. A thread that does so is a *burier*. **Any
//! number of buriers may do it at once**: a burier that is stopped, or dies, keeps no other from
//! doing it, too. No burier takes the dead participant's token for it. Only a newcomer takes a
//! token, to live with it.
//!
//! # Who is dead
//! A participant's token says `OWNER_DIED` from its death until a newcomer *recovers* it, whether
//! the newcomer has taken it or not. The `life` in the participant's record says how far it has
//! come:
//!
//! ```text
//! newcomer:   over(n)  -> LIVES(n+1)   it has the token, has buried n, taken back what n
//!                                      announced, and recovered the token
//! burier:     LIVES    -> SETTLED      the exchange is completed, if it happened
//! burier:     SETTLED  -> over         tasks are returned, blocks released, and all sleepers told
//! leaver:     LIVES    -> over         it has nothing in hand
//! ```
//!
//! 1. *A participant is dead and not buried while its life is not over and its token is
//!    inconsistent.* A newcomer recovers the token before it begins its life. Suppose that a thread
//!    reads a life, and after it an inconsistent token. It has then read of the death of just that
//!    life, or of a newcomer that has not begun to live.
//! 2. *A life never comes back.* Suppose that a thread sees that a life is dead, then reads some
//!    words, and then finds the life as it was. It has then read what the dead participant, or its
//!    buriers, left there. No living participant has changed these words meanwhile.
//!
//! # Why a late burier does no harm
//! A burier may be stopped before each of its compare-exchanges, and go on when the id has long
//! been another participant's. Each compare-exchange expects a word that was read as in point 2
//! above. That word is gone for ever once any other burier has done the same:
//!
//! | what | expects | leaves |
//! |---|---|---|
//! | the taker of the slot that was got is noted | the `taker` before it | a higher count, which stays so |
//! | that slot comes into the place | round r, the spare slot | round r + 1; rounds only go up |
//! | a task in hand is returned | round r, `TASK` | `RETURNED`; a participant that takes it adds a round |
//! | a block is released | the `owner` before it | a higher count, which stays so |
//! | the life goes on | the life itself | a later one |
//!
//! All buriers come to the same result. What they judge by does not change before the life is
//! settled (see [`exchange`](super::exchange), "after a death"), and is not looked at after that. A
//! settled life's announcement stays where it is, and means nothing. The announced word may come
//! back: the next participant with the id may announce the same word, in another entry. So no
//! burier may take the announcement out. The newcomer does that, before it lives. For others it is
//! still true that the announced word was seen.
//!
//! A life is settled after its exchange is completed and before its tasks are returned. A task that
//! has been returned may be taken, and another participant's slot may be in its place. A burier
//! that judged the exchange by that would be wrong.
//!
//! # Who is told
//! The roster is pending from before the first step to after the last one. Each burier wakes all
//! sleepers itself, before it says that the life is over. So if a burier dies anywhere, another
//! thread is told of its death through the roster. That thread finds the first participant not
//! buried, and does it all; or it finds it buried, by a burier that has woken all. A thread does
//! not sleep if it sees a dead participant that is not buried. A burier that is *stopped* withholds
//! only the wake-up that the kernel gave to it: see `waiting`, "what is left to slices".
//!
//! What several buriers could not do together is left to living participants. A task that was given
//! out too often is only returned, and becomes a dead letter when a participant finds it
//! ([`letters`](super::letters)). A participant that is stopped while it moves the task has it in
//! hand, like one that works on it.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::atomic::fence;

use super::exchange::NOTHING;
use super::looks::Looks;
use super::memory::QueueMemory;
use super::words::{
    FLAGS, FULL, LIVES, RETURNED, ROUND, SETTLED, TASK, index, is_noted, is_over, noted, over, with,
};

/// The number of looks that one burial counts for: it makes system calls.
const LOOKS_OF_A_DEATH: usize = 1 << 10;

impl QueueMemory {
    /// Buries the dead: settles what they have left, does what they may have left undone, and gives
    /// their tasks to any participant. Returns whether there was one to bury. The roster must be
    /// pending.
    ///
    /// If there are many, it stops before the last: once the deadline has passed, or after some
    /// thousands. The caller comes back if it goes on waiting. Those that are left meanwhile do no
    /// harm. All sleepers have been woken since the last death that this thread can have been woken
    /// for. Each looks for the dead itself when it has slept. A task in a dead participant's hand
    /// counts as unfinished. It does not keep a thread that watches tokens from going to sleep, but
    /// that thread buries the dead that it finds instead of sleeping.
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

    /// Buries one id, of which this life is dead.
    fn bury_one(&self, id: usize, life: u64) {
        // This comes first: a thread that sleeps after it has looked for the dead since.
        self.do_for_the_dead();
        let settled = if life & LIVES != 0 { self.settle(id, life) } else { life };
        if !self.return_tasks_of_the_dead(id, settled) {
            // Another burier has returned them, and told of it.
            return;
        }
        if self.has_blocks() {
            self.release_blocks_of_the_dead(id, settled);
        }
        // Release: pairs with the Acquire loads of lives: all of the above is done. It fails if
        // another burier was faster.
        let _ = self.record(id).life.compare_exchange(settled, over(settled), Release, Relaxed);
    }

    /// Returns the life of an id that has died and is not buried.
    fn dead_life(&self, id: usize) -> Option<u64> {
        let record = self.record(id);
        if !record.token.has_lost_owner() {
            return None;
        }
        // Acquire: pairs with the Release in `begin_life`. The token is looked at after this load,
        // and was recovered before that store.
        let life = record.life.load(Acquire);
        (!is_over(life) && record.token.has_lost_owner()).then_some(life)
    }

    /// Returns whether a participant has died, and is not buried: see the top.
    pub(crate) fn is_dead(&self, id: usize) -> bool {
        self.dead_life(id).is_some()
    }

    /// Returns whether the id still has this life, which was seen to be dead. If so, the words of
    /// the id that were read before are those of that life, or of its buriers.
    pub(super) fn is_still(&self, id: usize, life: u64) -> bool {
        // Acquire loads have read the words, and they stay before this load. Acquire: pairs with
        // the Release in `begin_life`. What a later life has written is not read before its `life`
        // is.
        self.record(id).life.load(Acquire) == life
    }

    /// Finds out whether what a dead life announced has happened, and completes it if so. Returns
    /// the life, which is settled then.
    pub(crate) fn settle(&self, id: usize, life: u64) -> u64 {
        self.complete_for_the_dead(id, life);
        let settled = life & !LIVES | SETTLED;
        // Release: pairs with the Acquire loads of lives: the exchange is completed. It fails if
        // another burier was faster.
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
        let (spare, want) = (index(word), self.slot_in(seen));
        if !self.has_slot(spare) || !self.has_slot(want) || spare == want {
            return;
        }
        // Loaded before the exchange is judged: only a burier changes it as long as that judgement
        // is true.
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

    /// Gives back all tasks that a dead participant has in hand. `settled` is its life, which is
    /// settled. Returns `false` if the id has another life by now.
    fn return_tasks_of_the_dead(&self, id: usize, settled: u64) -> bool {
        let mut returned = 0;
        if self.config.is_joinable {
            for place in 0..self.config.places as usize {
                let place = self.place(id, place);
                // Acquire: pairs with the Releases of the dead participant, and of buriers.
                let word = place.load(Acquire);
                if word & TASK != 0 && self.has_slot(index(word)) && self.is_still(id, settled) {
                    // Release: pairs with the Acquire in `take_returned`. It fails if another
                    // burier has done it.
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
            // Perhaps the dead participant, or another burier, could not say so.
            self.tell_of_return(returned);
        }
        if self.config.is_joinable {
            // What was settled may have been a task that was given up.
            self.wake_joins();
        }
        true
    }

    /// Buries the last participant that had an id, for a newcomer that has taken its token, and
    /// begins the next life. The roster must be pending.
    pub(crate) fn begin_life(&self, id: usize) {
        if let Some(life) = self.dead_life(id) {
            self.bury_one(id, life);
        }
        let record = self.record(id);
        // Relaxed: other than this thread only a burier changes it, and only as long as it is not
        // over.
        let life = over(record.life.load(Relaxed));
        // Release: pairs with the Acquire loads of announcements.
        record.seen.store(NOTHING, Release);
        if self.config.is_broadcast() {
            // Relaxed, and a fence: pairs with the Acquire loads in `cursor_of_living`. A sender
            // that sees the token as recovered does not see the dead one's cursor.
            self.subscription(id).cursor.store(0, Relaxed);
            fence(Release);
        }
        record.token.recover_if_inconsistent();
        // Release: pairs with the Acquire loads of lives: the token is recovered, and nothing is
        // announced.
        record.life.store(life | LIVES, Release);
    }

    /// Ends the life of the calling participant, which has nothing in hand.
    pub(crate) fn end_life(&self, id: usize) {
        let record = self.record(id);
        // Relaxed: the life is this participant's own. Release: as in `bury_one`.
        record.life.store(over(record.life.load(Relaxed)), Release);
    }
}
