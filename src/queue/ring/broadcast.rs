//! A broadcast: a ring of which every subscriber gets every item.
//!
//! # Goal
//! Any number of senders and subscribers. Each subscriber gets all items that were sent since it
//! came, each once and in order. A participant that stops or dies, at any instruction, keeps no
//! other from sending and receiving, except that senders may have to wait for a subscriber that is
//! slow, or stopped. That is the broadcast's *policy*. A dead subscriber is out at once.
//!
//! # How
//! The only exchanges of entries are puts. A put leaves its slot in the entry of a position, and
//! gets the slot with the item that was put there a whole lap before ([`lap`]). So a put is whole
//! or not at all, as in a queue, and the same announcements tell what a dead sender has done
//! ([`exchange`](super::exchange)). Nobody takes an item out.
//!
//! A subscriber has a *cursor*: the position of the item that it reads next. A sender puts at the
//! first position where nothing was put, the tail, if each cursor is less than `items` behind it.
//! Otherwise the broadcast is full. The ring has one entry more than that.
//!
//! A sender does not look at all cursors each time. It knows its *limit*: the first position at
//! which one of them, as they were when it last looked, would be too far behind. Cursors only go
//! forward, and so do limits. For new subscribers there is a count, `subscriptions`: a sender that
//! sees another count than at its last look looks again.
//!
//! # Who is not seen
//! A newcomer stores its cursor, counts itself, and then finds the tail by *touching* the entry
//! there: an exchange of the entry for itself. Suppose that a sender puts without having seen the
//! newcomer's count. Then it puts at the tail that the newcomer has touched, or before it. If it
//! put further on, it would first have seen that an item was put at the tail. That put is an
//! exchange of an entry that was touched, or goes on from one, so it has seen the count, and with
//! it the sender has. So all items from `tail - items` on are the newcomer's, whoever was on his
//! way: the put at the tail takes the slot of `tail - items - 1`. The newcomer advances its cursor
//! to the first item that it is going to read. Until then the senders may be waiting for a cursor
//! that is behind.
//!
//! # Policies
//! | policy | a sender that is held up by a cursor | a subscriber reads |
//! |---|---|---|
//! | [`WAIT`] | waits | in place, or by copy; then it advances its cursor |
//! | [`EXPEL`] | waits for `patience`, and then marks the cursor as [`EXPELLED`] | by copy; then it advances its cursor, unless that is marked |
//! | [`LAG`] | is never held up, nor is there a spare entry | by copy; then it looks whether the entry is as it was |
//!
//! A copy may be of memory that a sender writes to at the same time, so all accesses are atomic
//! (`queue::payload`). It is believed only after the check in the table. Under `EXPEL`, the advance
//! is an exchange, which fails if the cursor was marked before. A sender that goes by the cursor
//! afterwards has seen the advance. Under `LAG`, two fences make the second look at the entry see a
//! put, if the copy has any of what was written to the slot after it: as for
//! [batches](super::batches).
//!
//! The time for which a cursor holds up senders is measured from when a sender first finds it, in
//! `held`. That word has the time and the cursor, so a sender never sees one with the other of
//! another moment. A cursor is known there by its index and 18 bits of its cycle: one that is the
//! first to be in the way for just 2^18 laps, or a multiple, may be expelled at first sight. All
//! cursors that are in the way are looked at each time, so that patience with them passes at once.
//!
//! # Sleepers and deaths
//! As in a queue ([`waiting`](super::waiting)): subscribers sleep on `tail` and watch the entry at
//! their cursor. A put wakes all of them. Senders sleep on `head`, which is no position here, and
//! watch the cursor that holds them up. A subscriber that advances it wakes one sender, and a
//! sender that leaves room behind wakes the next. Senders also watch the token of that subscriber:
//! at its death the kernel wakes one of them, which finds the dead participant, and wakes all. A
//! newcomer that takes over the dead participant's id clears the cursor before it recovers the
//! token, so no sender takes the dead one's cursor for that of a living subscriber.
//!
//! # Memory ordering
//! Cursors are advanced with Release and read with Acquire: what a subscriber has read, it has read
//! before a sender writes there. The advance is SeqCst besides, and so is the look for sleepers
//! after it; the sleeper's fence is in `mark`.
//!
//! # Source
//! Our own. Limits that are computed from the readers' positions, and kept, are those of the LMAX
//! Disruptor (gating sequences, M. Thompson and others). To copy, and to look again, is a sequence
//! lock's way.

use crossproc_sys::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crossproc_sys::atomic::{AtomicU64, fence};
use crossproc_sys::clock;
use crossproc_sys::robust::Thread;

use super::ends::{End, Found, MOST_ROUNDS, Ring, Which};
use super::layout::{EXPEL, LAG, Subscription, WAIT};
use super::memory::QueueMemory;
use super::participant::{Limit, Participant};
use super::refused::Refused;
use super::waiting::{Besides, Side};
use super::words::{
    CLOSED, EXPELLED, FLAGS, ROUND, SUBSCRIBED, WAITERS, after, before, cycle, distance, exchanged,
    held_at, index, is_before, lap, next, patience_ends, position,
};
use crate::wait::Waiter;

/// A subscriber that holds up senders, and its cursor.
#[derive(Debug, Clone, Copy)]
struct Blocker {
    id: usize,
    cursor: u64,
}

impl Found {
    /// Returns how many laps after the put of this position there was a put, as a multiple of
    /// [`ROUND`]. It is less than 0 if there was none yet.
    #[inline(always)]
    fn laps_ahead(self) -> i64 {
        lap(self.entry).wrapping_sub(cycle(self.position)) as i64
    }

    /// Returns whether nothing was put at the position, and something at the one a lap before.
    #[inline(always)]
    fn is_next(self) -> bool {
        self.laps_ahead() == -(ROUND as i64)
    }
}

impl<'a> Ring<'a> {
    /// Puts the slot in a place behind all others, for everybody. Returns the flags of `tail` after
    /// the exchange.
    #[inline(always)]
    pub(crate) fn send(self, participant: &Participant, place: usize) -> Result<u64, Refused> {
        // Acquire: pairs with the Release in `advance`, and in `close`.
        let seen = self.tail().load(Acquire);
        if seen & CLOSED != 0 {
            return Err(Refused::Closed);
        }
        let mut from = self.begin(participant, End::Tail, seen);
        for round in 1..MOST_ROUNDS {
            let found = self.look(from)?;
            if !found.is_next() {
                from = self.go_past(found, round);
                continue;
            }
            if found.is_sealed() {
                return Err(Refused::Closed);
            }
            self.memory.check_limit(participant, found.position)?;
            let word = self.memory.announce(participant, place, found.at, found.entry)?;
            let left = exchanged(found.entry, index(word));
            if self.memory.swap(participant, self.memory.entry(found.at), found.entry, left) {
                return Ok(self.end(participant, End::Tail, place, word, found, 0));
            }
        }
        Err(Refused::Corrupt)
    }

    /// Returns where to look for the tail after a position that is not it.
    fn go_past(self, found: Found, round: u32) -> u64 {
        let is_behind = found.laps_ahead() < 0;
        let next = if is_behind { found.position } else { next(found.position, self.len()) };
        self.catch_up(End::Tail, next, round)
    }

    /// Returns the first position where nothing was put, and the entry there. As
    /// [`find`](Ring::find) otherwise.
    pub(crate) fn find_tail(self) -> Result<Found, Refused> {
        // Acquire: pairs with the Release in `advance`.
        let mut from = position(self.tail().load(Acquire));
        for round in 1..MOST_ROUNDS {
            let found = self.look(from)?;
            if found.is_next() {
                return Ok(found);
            }
            from = self.go_past(found, round);
        }
        Err(Refused::Corrupt)
    }

    /// Returns the tail after an exchange of the entry there for itself, which later puts continue.
    fn touch_tail(self) -> Result<Found, Refused> {
        for _ in 1..MOST_ROUNDS {
            let found = self.find_tail()?;
            // AcqRel: pairs with the exchange of the put there. Who puts there sees what this
            // thread has stored before.
            if self
                .memory
                .entry(found.at)
                .compare_exchange(found.entry, found.entry, AcqRel, Relaxed)
                .is_ok()
            {
                return Ok(found);
            }
        }
        Err(Refused::Corrupt)
    }

    /// Has `read` read the next item of a subscriber, in its slot, and goes on to the one after it.
    /// `read` may be called several times, for what is overwritten meanwhile; the last call counts.
    /// Returns the flags of `head` after the advance, and what was read.
    #[inline(always)]
    pub(crate) fn receive<R>(
        self,
        participant: &Participant,
        mut read: impl FnMut(usize) -> R,
    ) -> Result<(u64, R), Refused> {
        for _ in 0..MOST_ROUNDS {
            let found = self.next_item(participant)?;
            let result = read(self.memory.slot_in(found.entry));
            if self.memory.config.slow.policy != LAG {
                return Ok((self.memory.go_on(participant)?, result));
            }
            // Pairs with the fence in `begin_writing`: see the top.
            fence(Acquire);
            if self.memory.entry(found.at).load(Relaxed) == found.entry {
                participant.head.set(next(found.position, self.len()));
                return Ok((0, result));
            }
        }
        Err(Refused::Corrupt)
    }

    /// Returns where the next item of a subscriber is. Its slot exists.
    #[inline(always)]
    pub(crate) fn next_item(self, participant: &Participant) -> Result<Found, Refused> {
        for _ in 0..MOST_ROUNDS {
            let found = self.look(participant.head.get())?;
            match found.laps_ahead() {
                0 if self.memory.has_slot(self.memory.slot_in(found.entry)) => return Ok(found),
                0 => break,
                // Sealed, or to be sealed, once the broadcast is closed.
                _ if found.is_next() => self.find_empty(found)?,
                ahead if ahead > 0 => return Err(self.memory.missed(participant)),
                // A load that was too early.
                _ => {}
            }
        }
        Err(Refused::Corrupt)
    }

    /// Returns the entry that keeps a subscriber from going on, and its word.
    pub(crate) fn no_item(self, at: u64) -> Option<(&'a AtomicU64, u64)> {
        let found = self.look(at).ok()?;
        (found.is_next() && !self.is_closing()).then(|| (self.memory.entry(found.at), found.entry))
    }

    /// Returns the cursor that keeps senders from going on, and its word.
    pub(super) fn no_room(self) -> Option<(&'a AtomicU64, u64)> {
        self.blocker().map(|Blocker { id, cursor }| (&self.memory.subscription(id).cursor, cursor))
    }

    /// Returns a subscriber that holds up senders.
    fn blocker(self) -> Option<Blocker> {
        let found = self.find_tail().ok()?;
        if found.is_sealed() || self.is_closing() {
            return None;
        }
        let mut all = self.memory.blockers(found.position);
        let first = all.next();
        // Patience with each begins when it is first in the way.
        all.for_each(drop);
        first
    }

    /// Returns whether senders wait for a subscriber that is this thread.
    pub(crate) fn waits_for(self, thread: &Thread) -> bool {
        if self.memory.config.slow.policy != WAIT {
            return false;
        }
        let Ok(found) = self.find_tail() else { return false };
        let is_own = |id: usize| self.memory.record(id).token.owner() == Some(thread.tid());
        self.memory.blockers(found.position).any(|blocker| is_own(blocker.id))
    }

    /// Sleeps for at most one slice while there is nothing for a subscriber. Returns whether it did
    /// sleep. The roster must be pending.
    pub(crate) fn sleep_for_item(self, at: u64, waiter: &mut Waiter) -> bool {
        self.sleep_on(Side::Getters, waiter, || Some((self.no_item(at)?, Besides::default())))
    }

    /// Sleeps for at most one slice while senders are held up, and until one of them may say that
    /// the subscriber is out. Returns whether it did sleep. The roster must be pending.
    pub(crate) fn sleep_for_room(self, waiter: &mut Waiter) -> bool {
        self.sleep_on(Side::Putters, waiter, || self.watch_blocker())
    }

    /// Returns the cursor that keeps senders from going on, and what a sleeper watches besides: its
    /// subscriber may die. Returns `None` if it has.
    pub(super) fn watch_blocker(self) -> Option<((&'a AtomicU64, u64), Besides<'a>)> {
        let Blocker { id, cursor } = self.blocker()?;
        let token = Some(self.memory.record(id).token.watch()?);
        let besides = Besides { token, until: self.memory.out_at(id, cursor) };
        Some(((&self.memory.subscription(id).cursor, cursor), besides))
    }
}

impl QueueMemory {
    /// Returns whether an item may be put at a position, for all that the cursors say.
    #[inline(always)]
    fn check_limit(&self, participant: &Participant, at: u64) -> Result<(), Refused> {
        if self.config.slow.policy == LAG {
            return Ok(());
        }
        // Acquire: pairs with the count in `subscribe`. See "Who is not seen".
        let subscriptions = self.control().subscriptions.load(Acquire);
        let limit = &participant.limit;
        if limit.subscriptions.get() == subscriptions && is_before(at, limit.at.get()) {
            return Ok(());
        }
        self.look_at_cursors(limit, at, subscriptions)
    }

    /// Finds the limit anew.
    #[cold]
    fn look_at_cursors(&self, limit: &Limit, at: u64, subscriptions: u64) -> Result<(), Refused> {
        let mut least = at;
        let mut is_full = false;
        // All of them: patience with each begins when it is first in the way.
        for id in 0..self.used() {
            match self.cursor_of_living(id, at) {
                Err(_) => is_full = true,
                Ok(cursor) if cursor & SUBSCRIBED != 0 && is_before(position(cursor), least) => {
                    least = position(cursor);
                }
                Ok(_) => {}
            }
        }
        if is_full {
            return Err(Refused::Full);
        }
        limit.at.set(after(least, self.lead(), self.len()));
        limit.subscriptions.set(subscriptions);
        Ok(())
    }

    /// Returns the cursor of an id, if it does not hold up a put at a position; 0 if nobody has to
    /// care. Otherwise the cursor is the error.
    fn cursor_of_living(&self, id: usize, at: u64) -> Result<u64, u64> {
        let word = &self.subscription(id).cursor;
        // Acquire, both: pair with the Release in `go_on`, and with the fence in `begin_life`.
        let mut cursor = word.load(Acquire);
        for _ in 0..MOST_ROUNDS {
            if !self.is_too_far_behind(cursor, at) {
                return Ok(cursor);
            }
            if self.record(id).token.has_lost_owner() {
                return Ok(0);
            }
            // A newcomer clears the cursor before it recovers the token.
            let now = word.load(Acquire);
            if now == cursor && !self.expel(id, cursor) {
                break;
            }
            cursor = word.load(Acquire);
        }
        Err(cursor)
    }

    /// Returns the subscribers that hold up a put at a position.
    fn blockers(&self, at: u64) -> impl Iterator<Item = Blocker> + '_ {
        let is_any = self.config.slow.policy != LAG;
        (0..if is_any { self.used() } else { 0 }).filter_map(move |id| {
            self.cursor_of_living(id, at).err().map(|cursor| Blocker { id, cursor })
        })
    }

    fn is_too_far_behind(&self, cursor: u64, at: u64) -> bool {
        cursor & SUBSCRIBED != 0 && distance(at, position(cursor), self.len()) >= self.lead() as i64
    }

    /// Finds out whether senders have waited long enough for a subscriber with this cursor. Returns
    /// whether to look at the cursor again: it is marked by now, or has changed.
    fn expel(&self, id: usize, cursor: u64) -> bool {
        if self.config.slow.policy != EXPEL {
            return false;
        }
        let Subscription { cursor: word, held } = self.subscription(id);
        let (now, seen) = (clock::now(), held.load(Relaxed));
        let patience = self.config.slow.patience;
        match patience_ends(seen, cursor, patience, now) {
            Some(end) if end > now => return false,
            None if patience != 0 => {
                // Relaxed: the word says all that it says by itself. If it fails, another sender
                // has begun to wait, too.
                let _ = held.compare_exchange(seen, held_at(cursor, now), Relaxed, Relaxed);
                return false;
            }
            _ => {}
        }
        // Acquire: what the subscriber has read before, it has read before this. It does not
        // believe what it reads later.
        let out = word.compare_exchange(cursor, cursor & !FLAGS | EXPELLED, Acquire, Relaxed);
        if out.is_ok() {
            self.wake_senders();
        }
        true
    }

    /// Returns when a subscriber with this cursor has held up senders for too long, if it can.
    fn out_at(&self, id: usize, cursor: u64) -> Option<u64> {
        let (now, patience) = (clock::now(), self.config.slow.patience);
        if self.config.slow.policy != EXPEL {
            return None;
        }
        // Relaxed: as in `expel`. If it is about another cursor, there is something to be done.
        let held = self.subscription(id).held.load(Relaxed);
        Some(patience_ends(held, cursor, patience, now).unwrap_or(now))
    }

    /// Returns how many entries the ring of items has.
    fn len(&self) -> u64 {
        self.config.capacity.into()
    }

    /// Returns how far a subscriber may be behind the tail.
    fn lead(&self) -> u64 {
        self.config.items() as u64
    }

    /// Begins to write an item into a slot of the participant's own, from which subscribers may
    /// still be copying.
    #[inline]
    pub(crate) fn begin_writing(&self) {
        // Pairs with the fence in `receive`: see the top.
        fence(Release);
    }

    /// Subscribes: from now on, or from the oldest item that is there. The roster must be pending.
    pub(crate) fn subscribe(&self, participant: &Participant, oldest: bool) -> Result<(), Refused> {
        let ring = self.ring(Which::Items);
        let first = |tail: u64| if oldest { before(tail, self.lead(), self.len()) } else { tail };
        let cursor = &self.subscription(participant.id).cursor;
        let begun = first(ring.find_tail()?.position);
        // Relaxed: it is not about the cursor that follows. An earlier subscriber's might be.
        self.subscription(participant.id).held.store(0, Relaxed);
        // Release, both: pair with the Acquire loads in `check_limit` and `cursor_of_living`.
        cursor.store(begun | SUBSCRIBED, Release);
        self.control().subscriptions.fetch_add(1, Release);
        let from = first(ring.touch_tail()?.position);
        participant.head.set(from);
        // Relaxed: nothing was read. It fails if senders did not wait for this thread.
        cursor
            .compare_exchange(begun | SUBSCRIBED, from | SUBSCRIBED, SeqCst, Relaxed)
            .map_err(|_| self.out(cursor))?;
        self.wake_senders();
        Ok(())
    }

    /// Ends a subscription. The roster must be pending.
    pub(crate) fn unsubscribe(&self, participant: &Participant) {
        // Release: what was read, was read before. SeqCst: as in `go_on`.
        self.subscription(participant.id).cursor.store(0, SeqCst);
        self.wake_senders();
    }

    /// Wakes all senders that sleep, after a change of a cursor that is more than one step.
    fn wake_senders(&self) {
        let ring = self.ring(Which::Items);
        // SeqCst: after the change of the cursor, as in `go_on`. Where that is an exchange for
        // EXPELLED, a sender that sleeps looks again by itself when patience ends.
        if ring.head().load(SeqCst) & WAITERS != 0 {
            Side::Putters.position(ring).wake(u32::MAX);
        }
    }

    /// Advances a subscriber's cursor by the item that it has read. Returns the flags of `head`.
    #[inline(always)]
    pub(crate) fn go_on(&self, participant: &Participant) -> Result<u64, Refused> {
        let at = participant.head.get();
        let to = next(at, self.len());
        let cursor = &self.subscription(participant.id).cursor;
        // SeqCst, both: this is before the look for a sleeper. A sender that goes to sleep marks
        // `head` first, and has the cursor looked at after that. One of the two sees the other.
        // Release: pairs with the Acquire loads of cursors.
        cursor
            .compare_exchange(at | SUBSCRIBED, to | SUBSCRIBED, SeqCst, Relaxed)
            .map_err(|_| self.out(cursor))?;
        participant.head.set(to);
        // SeqCst: not before the exchange above.
        Ok(self.ring(Which::Items).head().load(SeqCst) & FLAGS)
    }

    /// Says why a cursor has changed that was the caller's own.
    #[cold]
    fn out(&self, cursor: &AtomicU64) -> Refused {
        // Relaxed: the mark stays.
        if cursor.load(Relaxed) & EXPELLED != 0 { Refused::Expelled } else { Refused::Corrupt }
    }

    /// Says why a subscriber's next item is not there any more. One that may miss items goes on
    /// with the oldest that is there.
    #[cold]
    fn missed(&self, participant: &Participant) -> Refused {
        match self.config.slow.policy {
            LAG => {}
            _ => return self.out(&self.subscription(participant.id).cursor),
        }
        let Ok(tail) = self.ring(Which::Items).find_tail() else { return Refused::Corrupt };
        let first = before(tail.position, self.lead(), self.len());
        let count = distance(first, participant.head.get(), self.len());
        participant.head.set(first);
        // At least one: a peer may have written anything.
        Refused::Missed(u64::try_from(count).unwrap_or(1).max(1))
    }

    /// Returns how many items a subscriber at this position has not read yet. A hint.
    pub(crate) fn count_from(&self, at: u64) -> usize {
        let Ok(tail) = self.ring(Which::Items).find_tail() else { return 0 };
        distance(tail.position, at, self.len()).max(0) as usize
    }

    /// Returns how many living participants have subscribed. A hint.
    pub(crate) fn count_subscribers(&self) -> usize {
        // Relaxed: a hint.
        let is_one = |&id: &usize| {
            self.subscription(id).cursor.load(Relaxed) & SUBSCRIBED != 0
                && !self.record(id).token.has_lost_owner()
        };
        (0..self.used()).filter(is_one).count()
    }
}
