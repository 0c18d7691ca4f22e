//! Watchers of a queue: threads that wait for an item, for room or for a task along with other
//! things. The argument is in [`waiting`](super::waiting) and [`tasks`](super::tasks).

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed};
use crossproc_sys::futex::Watch;
use crossproc_sys::robust::{self, Entry, Thread};

use super::ends::{End, Found, Ring, Which};
use super::layout::Position;
use super::memory::QueueMemory;
use super::participant::Participant;
use super::tasks::{SOME, Unfinished};
use super::waiting::{Besides, Side, mark};
use super::words::{CLOSED, RETURNED};
use crate::wait::source::{Armed, Words};

/// The number of words that a watcher of one side names: the roster, the position, the entry, the
/// note.
pub(crate) const WORDS: usize = 6;
/// The same for room in a broadcast: also the token of the subscriber that there is none for.
pub(crate) const WORDS_FOR_SENDER: usize = WORDS + 1;
/// The same for a task: two more of 64 bits. Tokens are named as far as there is room.
pub(crate) const WORDS_FOR_TASK: usize = WORDS + 4;

/// The same for a dead letter: the roster, the ring's position and entry, what was returned.
pub(crate) const WORDS_FOR_LETTER: usize = 7;
/// The same until all tasks are done: the roster, the joins, what was returned.
pub(crate) const WORDS_FOR_ALL: usize = 6;

/// The note that a watcher names.
const NOTE: u32 = 1;

impl QueueMemory {
    /// Returns the address by which the sleepers of this side are known.
    pub(crate) fn key(&self, side: Side) -> usize {
        core::ptr::from_ref(&side.position(self.ring(Which::Items)).at).addr()
    }

    /// Makes the roster pending for a watcher, as for all participants.
    pub(crate) fn pend(&self, entry: &Entry) {
        entry.begin(&self.control().roster.0);
    }

    /// Returns whether there is something for this side, or the queue is closed. Not for tasks.
    pub(crate) fn is_ready(&self, side: Side) -> bool {
        let is_ready = self.ring(Which::Items).obstacle(side).is_none();
        if is_ready {
            self.finish_close_pending();
        }
        is_ready
    }

    /// Returns whether there is something for a subscriber at this position, or nothing any more.
    pub(crate) fn has_item(&self, at: u64) -> bool {
        let has_item = self.ring(Which::Items).no_item(at).is_none();
        if has_item {
            self.finish_close_pending();
        }
        has_item
    }

    /// Returns whether there is a task to take for a participant, or there will be none any more.
    pub(crate) fn has_task_for(&self, id: usize) -> bool {
        let ring = self.ring(Which::Items);
        if self.has_any_returned() {
            return true;
        }
        if ring.obstacle(Side::Getters).is_some() {
            return false;
        }
        self.finish_close_pending();
        // If the words make no sense, the get says so.
        let Ok(found) = ring.find(End::Head) else { return true };
        !found.is_empty() || (self.is_closed() && !self.has_unfinished(Some(id)))
    }

    pub(crate) fn is_closed(&self) -> bool {
        // Acquire: pairs with the Release in `close`.
        self.ring(Which::Items).tail().load(Acquire) & CLOSED != 0
    }

    /// Returns whether nothing is left, and nothing can be put any more: a get seals the entry
    /// then.
    pub(crate) fn is_at_end(&self, ring: Ring<'_>) -> bool {
        ring.find(End::Head).is_ok_and(Found::is_sealed)
    }

    /// Does the rest of a close, as an operation would: the closer may have died, or be stopped,
    /// half-way.
    fn finish_close_pending(&self) {
        let thread = robust::ready();
        let before = thread.map(|thread| thread.begin_nested(&self.control().roster.0));
        self.ring(Which::Items).finish_close();
        if let (Some(thread), Some(before)) = (thread, before) {
            thread.end_nested(before);
        }
    }

    /// Returns whether a task waits in a place for any participant.
    fn has_any_returned(&self) -> bool {
        let word = &self.control().returned;
        // Acquire: pairs with the Release in `tell_of_return`.
        let returned = word.load(Acquire);
        if returned & SOME == 0 {
            return false;
        }
        let places = self.config.places as usize;
        let is_any = (0..self.used())
            .any(|id| (0..places).any(|place| self.place(id, place).load(Acquire) & RETURNED != 0));
        if !is_any {
            // Relaxed: it is a hint, and says nothing that has not been looked at.
            let _ = word.compare_exchange(returned, returned & !SOME, Relaxed, Relaxed);
        }
        is_any
    }

    /// Says that a watcher of this side is about to sleep, and names its words.
    pub(crate) fn arm<'a>(&'a self, side: Side, words: &mut Words<'a, '_>) -> Armed {
        let ring = self.ring(Which::Items);
        self.arm_on(side, words, || {
            if self.config.is_broadcast() && side == Side::Putters {
                ring.watch_blocker()
            } else {
                Some((ring.obstacle(side)?, Besides::default()))
            }
        })
    }

    /// Does the same for a watcher that waits for an item of a broadcast, after this position.
    pub(crate) fn arm_for_item<'a>(&'a self, at: u64, words: &mut Words<'a, '_>) -> Armed {
        let ring = self.ring(Which::Items);
        self.arm_on(Side::Getters, words, || Some((ring.no_item(at)?, Besides::default())))
    }

    /// Does the same while there is this obstacle.
    fn arm_on<'a>(
        &'a self,
        side: Side,
        words: &mut Words<'a, '_>,
        obstacle: impl FnOnce() -> Option<((&'a AtomicU64, u64), Besides<'a>)>,
    ) -> Armed {
        let roster = &self.control().roster.0;
        // Acquire: pairs with the Release in `announce_member`.
        let in_roster = roster.load(Acquire);
        let Some(marked) = self.mark_watched(side) else { return Armed::Again };
        let Some(((cell, seen), besides)) = obstacle() else { return Armed::Again };
        words.add_whole(roster, in_roster);
        self.name_position(side, marked, cell, seen, words);
        besides.token.into_iter().for_each(|token| words.add(token));
        words.cut_at(besides.until);
        Armed::Asleep
    }

    /// Does the same for a watcher that waits for a task for a participant.
    pub(crate) fn arm_for_task<'a>(&'a self, id: usize, words: &mut Words<'a, '_>) -> Armed {
        let control = self.control();
        let ring = self.ring(Which::Items);
        // Acquire: pair with the Releases in `announce_member` and `tell_of_return`.
        let (in_roster, returned) =
            (control.roster.0.load(Acquire), control.returned.load(Acquire));
        let Some(marked) = self.mark_watched(Side::Getters) else { return Armed::Again };
        if returned & SOME != 0 {
            return Armed::Again;
        }
        words.add_whole(&control.roster.0, in_roster);
        let (cell, entry) = match ring.obstacle(Side::Getters) {
            Some(obstacle) => obstacle,
            None => {
                // The end comes when all tasks are finished. The fence in `mark` is what
                // `note_finished` needs.
                let Some(joining) = mark(&control.joins) else { return Armed::Again };
                let Some(Found { at, entry, .. }) =
                    ring.find(End::Head).ok().filter(|found| found.is_empty())
                else {
                    return Armed::Again;
                };
                if !self.is_closed() || self.unfinished(Some(id), None) != Unfinished::Some {
                    return Armed::Again;
                }
                words.add_whole(&control.joins, joining);
                (self.entry(at), entry)
            }
        };
        self.name_position(Side::Getters, marked, cell, entry, words);
        // Behind the position: a participant that returns a task wakes the sleepers on the
        // position.
        words.add_whole(&control.returned, returned);
        self.name_tokens(id, words)
    }

    /// Does the same for a watcher that waits for a dead letter.
    pub(crate) fn arm_for_letter<'a>(&'a self, words: &mut Words<'a, '_>) -> Armed {
        let control = self.control();
        // Acquire: pair with the Releases in `announce_member` and `tell_of_return`.
        let (in_roster, returned) =
            (control.roster.0.load(Acquire), control.returned.load(Acquire));
        let letters = self.ring(Which::Letters);
        // The fence in `mark` is what `tell_of_letter` needs.
        let Some(marked) = mark(letters.tail()) else { return Armed::Again };
        let head = letters.find(End::Head);
        // Where there is no ring for letters there is nothing at its head.
        if self.has_letter() || (head.is_err() && self.config.letters != 0) {
            return Armed::Again;
        }
        words.add_whole(&control.roster.0, in_roster);
        words.add_whole(letters.tail(), marked);
        if let Ok(Found { at, entry, .. }) = head {
            words.add(Watch::new(self.entry(at), entry as u32));
        }
        words.add_whole(&control.returned, returned);
        self.name_tokens(usize::MAX, words)
    }

    /// Does the same for a watcher that waits until all tasks are done, and that can
    /// [`tidy`](QueueMemory::tidy).
    pub(crate) fn arm_for_all<'a>(
        &'a self,
        words: &mut Words<'a, '_>,
        tidy: impl FnOnce(),
    ) -> Armed {
        let control = self.control();
        // As for a letter.
        let (in_roster, returned) =
            (control.roster.0.load(Acquire), control.returned.load(Acquire));
        // The fence in `mark` is what `note_finished` needs.
        let Some(marked) = mark(&control.joins) else { return Armed::Again };
        // After the mark: who makes room for a letter wakes those that have marked.
        tidy();
        if self.unfinished(None, None) != Unfinished::Some {
            return Armed::Again;
        }
        words.add_whole(&control.roster.0, in_roster);
        words.add_whole(&control.joins, marked);
        words.add_whole(&control.returned, returned);
        self.name_tokens(usize::MAX, words)
    }

    /// Returns the address by which those that wait for a dead letter are known.
    pub(crate) fn key_for_letter(&self) -> usize {
        core::ptr::from_ref(self.ring(Which::Letters).tail()).addr()
    }

    /// Returns the address by which those that wait until all tasks are done are known.
    pub(crate) fn key_for_all(&self) -> usize {
        core::ptr::from_ref(&self.control().joins).addr()
    }

    /// Returns the address by which those that wait for memory for so many units are known. There
    /// is no word there: it is one of the first bytes of the first block. Those who need more are
    /// told at other times than those who need less.
    pub(crate) fn key_for_memory(&self, units: u32) -> usize {
        self.block_payload(0).addr().get() + units as usize
    }

    /// Says that a watcher is about to sleep until there is memory for so many units, and names its
    /// words: as [`sleep_for_block`](QueueMemory::sleep_for_block).
    pub(crate) fn arm_for_memory<'a>(&'a self, units: u32, words: &mut Words<'a, '_>) -> Armed {
        let roster = &self.control().roster.0;
        // Acquire: pairs with the Release in `announce_member`.
        let in_roster = roster.load(Acquire);
        let released = &self.block_control().released.0;
        let Some(marked) = mark_watched(released) else { return Armed::Again };
        if self.is_closed() || self.has_memory(units) {
            return Armed::Again;
        }
        words.add_whole(roster, in_roster);
        words.add_whole(&released.at, marked);
        words.add(Watch::new(&released.watched, NOTE));
        // A watcher is nobody's participant: it watches all tokens.
        self.name_tokens(usize::MAX, words)
    }

    fn mark_watched(&self, side: Side) -> Option<u64> {
        mark_watched(side.position(self.ring(Which::Items)))
    }

    /// Names the position, the entry and the note. The note is the last of them: a thread that
    /// takes it out wakes the sleepers on the position.
    fn name_position<'a>(
        &'a self,
        side: Side,
        marked: u64,
        cell: &'a AtomicU64,
        entry: u64,
        words: &mut Words<'a, '_>,
    ) {
        let position = side.position(self.ring(Which::Items));
        words.add_whole(&position.at, marked);
        words.add(Watch::new(cell, entry as u32));
        words.add(Watch::new(&position.watched, NOTE));
    }

    /// Names the tokens of the other participants: each may die with a task in hand.
    fn name_tokens<'a>(&'a self, id: usize, words: &mut Words<'a, '_>) -> Armed {
        for other in (0..self.used()).filter(|&other| other != id) {
            // As for threads that sleep for a task alone.
            let watch = if words.spare() != 0 { self.record(other).token.watch() } else { None };
            watch.into_iter().for_each(|watch| words.add(watch));
            if self.is_dead(other) {
                if let Some(thread) = robust::ready() {
                    self.pend(thread.entry());
                    self.bury(None);
                    return Armed::Again;
                }
            }
        }
        Armed::Asleep
    }

    /// Buries the dead, and moves to the dead letters what belongs there, for a participant that
    /// waits until all tasks are done. It may be in the middle of a watch. Once the deadline has
    /// passed, it leaves the rest to the next call.
    pub(crate) fn tidy(&self, thread: &Thread, participant: &Participant, until: Option<u64>) {
        let before = thread.begin_nested(&self.control().roster.0);
        self.bury(until);
        self.give_up_returned(participant, until);
        thread.end_nested(before);
    }

    /// Buries the dead, for a participant that looks for a task: they may have the only one, with
    /// no sleeper to notice. It may be in the middle of a watch, and takes no time for it, as if
    /// its deadline had passed.
    pub(crate) fn bury_nested(&self, thread: &Thread) {
        let before = thread.begin_nested(&self.control().roster.0);
        self.bury(Some(0));
        thread.end_nested(before);
    }

    /// Buries the dead after a watcher's sleep: they come first, as for all sleepers. The roster
    /// must be pending.
    pub(crate) fn awake(&self) {
        if robust::ready().is_some() {
            self.bury(None);
        }
    }

    /// Wakes all sleepers of a side, for a watcher that was woken, and finds something. The roster
    /// must be pending.
    pub(crate) fn wake_side(&self, side: Side) {
        side.position(self.ring(Which::Items)).wake(u32::MAX);
    }
}

/// Marks a position for a watcher, and leaves the note. Returns the marked word.
fn mark_watched(position: &Position) -> Option<u64> {
    let marked = mark(&position.at)?;
    // Relaxed: the store is before the sleep, in which the note is compared.
    position.watched.store(NOTE, Relaxed);
    Some(marked)
}
