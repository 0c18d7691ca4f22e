//! The exchange ring: the state machine of the queue.
//!
//! # Goal
//! A bounded queue for many producers and consumers, lock-free in the strict sense: a participant
//! that stops or dies, at any instruction, keeps no other from completing an operation. No item of
//! a survivor is lost, doubled or out of order. No slot is lost. `Full` and `Empty` are exact.
//!
//! # How
//! Every participant has some slots of its own, in its *places*. Every entry of the ring has a
//! slot, whether the entry is full or empty. An operation is one compare-exchange, which swaps the
//! slot in a place for the one in an entry. The entry thereby becomes full, or empty in the next
//! cycle (`words`). A slot's contents are written before the put and read after the get, when no
//! other participant can reach them. So nothing is ever half published, and nothing is copied.
//!
//! The entries alone say what is in the queue. The put at a position is done when the entry is full
//! in the position's cycle. The get is done when the entry is empty in the next cycle. `tail` is
//! the first position where nothing was put, `head` the first one where nothing was got. An
//! operation finds either of them by going on from a position that is known to be no further:
//!
//! ```text
//! a put, at the entry of a position:
//!   empty, this cycle         -> exchange: everything before it was put
//!   full, this cycle; later   -> go on to the next position
//!   full, the cycle before    -> Full: what was put there a whole ring ago was not got
//! a get:
//!   full, this cycle          -> exchange: everything before it was got
//!   empty, next cycle; later  -> go on to the next position
//!   empty, this cycle         -> Empty: nothing was put there
//! ```
//!
//! So an operation is done with its one exchange. If its participant stops after that, others have
//! nothing to finish for it. Each participant remembers where it was. `tail` and `head` in shared
//! memory are starting points for others. They lag behind, and any participant that finds them more
//! than a few positions ([`LAG`]) behind advances them. If they are not advanced, that costs steps,
//! not correctness.
//!
//! # Who owns what, after a death
//! An operation is one exchange on the ring, but the owners of the slots afterwards are recorded in
//! two places: the entry, and the participant's place. The exchange cannot change both. So a
//! participant first *announces* the exchange that it is going to try (`site`, then `seen`).
//! Afterwards it *completes* the exchange. It notes its id in the slot that it got (`taker`),
//! stores that slot in its place, and takes the announcement back. The buriers of a dead
//! participant, one or several at once ([`settle`](QueueMemory::settle)), find out whether the
//! announced exchange happened. They judge by what the living leave behind anyway:
//!
//! 1. The place has the slot that was wanted: the exchange happened, and was completed.
//! 2. The word is as it was seen: the exchange did not happen. The word never comes back to that.
//! 3. The word has the dead participant's slot: the exchange happened. Only the dead participant
//!    could put that slot there. The rest of the word may differ: the entry may have been sealed
//!    since.
//! 4. Otherwise the word went on. If the exchange happened, another participant took the dead one's
//!    slot from there. Either it still announces just that, or it noted itself as the slot's taker
//!    before it took its announcement back. Any later taker of the slot has noted itself, too. If
//!    the exchange did not happen, the slot is still the dead participant's, which is noted as its
//!    taker.
//!
//! None of this changes while the dead participant is not settled, so all buriers get the same
//! answer. The word has gone on for good. The dead participant's slot is in its place or gone. What
//! others leave behind they do not take back before the next of them has left the same. Only the
//! first burier to complete the exchange changes anything (see [`burying`](super::burying)).
//!
//! No other participant's operation waits for this: a dead participant has some spare slots, and
//! nothing that others need. Step 4 reads the `taker` last, because an announcement is taken back
//! after the taker is noted. A settled announcement stays until the next participant with that id
//! comes.
//!
//! # Memory ordering
//! The exchange is AcqRel: Release for the payload and the announcement, Acquire for those of the
//! participant that left the slot there. Exchanges continue each other's release sequences. The
//! exchange is SeqCst besides, because of sleepers: see `waiting`. Shared positions are advanced
//! with Release and read with Acquire: an operation that begins at one sees the exchanges before
//! it. `taker`, the place and the end of the announcement are stored in this order, each with
//! Release. They are read in the reverse order, with Acquire.
//!
//! # Source
//! Our own. Entries with cycles are from D. Vyukov's bounded MPMC queue. See `DESIGN.md`.

use core::cell::Cell;

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use super::layout::MOST_PLACES;
use super::looks::Looks;
use super::memory::{Counters, QueueMemory, Site};
use super::words::{
    CLOSED, FLAGS, FULL, INDEX, ROUND, SEALED, cycle, distance, exchanged, index, is_before,
    is_noted, next, position, with,
};

/// `seen`, of a participant that tries nothing.
pub(crate) const NOTHING: u64 = 0;

/// The number of rounds without a result after which a peer must have scribbled on the words. Among
/// participants that follow the protocol, each round is another operation's success. All rounds
/// together take some milliseconds, so a deadline that is looked at in between is kept.
pub(crate) const MOST_ROUNDS: u32 = 1 << 18;

/// The number of rounds that a failed attempt to seal an entry counts for, since it may have made
/// system calls. Among participants that follow the protocol, each failure is a put that was under
/// way when the queue was closed.
const ROUNDS_OF_A_SEAL: u32 = 1 << 6;

/// How often a participant tries to advance a shared position. The position is only a starting
/// point for others, and may lag behind.
const MOST_ADVANCES: u32 = 64;

/// How far a shared position may lag behind what a participant knows before that advances it.
pub(crate) const LAG: u64 = 8;

/// After so many positions that others have been at, a participant looks where the others are by
/// now.
const LOOK_AGAIN: u32 = 16;

/// Why there was no exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Empty,
    Closed,
    /// The operation would wait for the calling thread itself.
    Deadlock,
    /// The words make no sense: a peer has scribbled on them.
    Corrupt,
}

/// One of the two rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Items,
    Letters,
}

/// A participant, as it knows itself. All of this is in the process's own memory.
///
/// *Invariants, whatever peers write:*
/// 1. *The slot in each of `words` exists.*
/// 2. *The slots in the places that are in use, but not returned, are all different, once
///    [`slot`](QueueMemory::slot) has named them.* There may be references to these slots. So code
///    that makes a reference gets the slot from that function.
#[derive(Debug, Clone)]
pub(crate) struct Participant {
    pub(crate) id: usize,
    /// Where the participant's record is.
    pub(crate) site: Site,
    /// Positions in the ring of items. Everything before `head` was got, everything before `tail`
    /// put.
    pub(crate) head: Cell<u64>,
    pub(crate) tail: Cell<u64>,
    /// The places that are in use, as bits: loaned, received, or left with a returned task and not
    /// reclaimed since.
    pub(crate) busy: Cell<u64>,
    /// The busy places that were last seen with a returned task.
    pub(crate) returned: Cell<u64>,
    /// How often in a row the participant could not find out whether all tasks are finished.
    pub(crate) unknown: Cell<u32>,
    /// What the participant has left in each of its places. The places in shared memory tell others
    /// the same, and are not read back. Only those with returned tasks are, since others take the
    /// tasks out of them.
    words: [Cell<u64>; MOST_PLACES as usize],
}

/// One of the rings in the queue's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring<'a> {
    memory: &'a QueueMemory,
    which: Which,
}

/// The end of a ring that an operation works at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Tail,
    Head,
}

/// Where an end of a ring is, and the entry there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) position: u64,
    pub(crate) at: usize,
    pub(crate) entry: u64,
}

impl Found {
    /// Returns how far the entry, without its slot, is ahead of its state before the put in the
    /// position's cycle. That is 0, or [`FULL`], or more; or less than 0.
    #[inline(always)]
    fn state(self) -> i64 {
        (self.entry & !INDEX).wrapping_sub(cycle(self.position)) as i64
    }

    /// Returns whether nothing was put there. The entry may be sealed.
    #[inline(always)]
    pub(crate) fn is_empty(self) -> bool {
        self.state() & !(SEALED as i64) == 0
    }

    #[inline(always)]
    pub(crate) fn is_sealed(self) -> bool {
        self.entry & SEALED != 0
    }

    /// Returns whether an item was put there and not got.
    #[inline(always)]
    fn is_full(self) -> bool {
        self.state() == FULL as i64
    }

    /// Returns whether the item that was put there a whole ring ago was not got.
    #[inline(always)]
    pub(crate) fn is_full_since_last_cycle(self) -> bool {
        self.state() == FULL as i64 - ROUND as i64
    }
}

impl Participant {
    /// Returns a participant whose places have the slots that they begin with.
    pub(crate) fn new(memory: &QueueMemory, id: usize) -> Self {
        let site = memory.site_of(id);
        let first = memory.config.first_slot(id);
        Participant {
            id,
            site,
            head: Cell::new(ROUND),
            tail: Cell::new(ROUND),
            busy: Cell::new(0),
            returned: Cell::new(0),
            unknown: Cell::new(0),
            words: core::array::from_fn(|place| Cell::new(ROUND | (first + place) as u64)),
        }
    }

    /// Returns the participant's own copy of the word in a place.
    #[inline(always)]
    pub(crate) fn word(&self, place: usize) -> &Cell<u64> {
        // There are no more places than that: the remainder saves a comparison.
        &self.words[place % MOST_PLACES as usize]
    }

    /// Returns whether a slot is in one of these places, and there may be a reference to it. Places
    /// with a returned task do not count: the participant that takes the task may have put the slot
    /// anywhere since.
    #[inline(never)]
    fn refers_to(&self, slot: usize, places: u64) -> bool {
        let mut left = places & !self.returned.get();
        while left != 0 {
            if index(self.word(left.trailing_zeros() as usize).get()) == slot {
                return true;
            }
            left &= left - 1;
        }
        false
    }

    fn position(&self, end: End) -> &Cell<u64> {
        match end {
            End::Tail => &self.tail,
            End::Head => &self.head,
        }
    }
}

impl<'a> Ring<'a> {
    #[inline(always)]
    pub(crate) fn counters(self) -> &'a Counters {
        match self.which {
            Which::Items => &self.memory.control().items,
            Which::Letters => &self.memory.control().letters,
        }
    }

    #[inline(always)]
    pub(crate) fn tail(self) -> &'a AtomicU64 {
        &self.counters().tail.0.at
    }

    #[inline(always)]
    pub(crate) fn head(self) -> &'a AtomicU64 {
        &self.counters().head.0.at
    }

    #[inline(always)]
    fn shared(self, end: End) -> &'a AtomicU64 {
        match end {
            End::Tail => self.tail(),
            End::Head => self.head(),
        }
    }

    /// Returns how many entries the ring has.
    #[inline(always)]
    fn len(self) -> u64 {
        match self.which {
            Which::Items => self.memory.config.capacity.into(),
            Which::Letters => self.memory.config.letters.into(),
        }
    }

    /// Returns where the entry of a position is, if there is such an entry.
    #[inline(always)]
    fn site(self, position: u64) -> Result<usize, Refused> {
        let index = index(position);
        let first =
            if self.which == Which::Items { 0 } else { self.memory.config.capacity as usize };
        if index as u64 >= self.len() { Err(Refused::Corrupt) } else { Ok(first + index) }
    }
}

/// Advances a shared position that was `seen`, unless it is past `to`, or keeps changing.
#[cold]
fn advance(counter: &AtomicU64, mut seen: u64, to: u64) {
    for _ in 0..MOST_ADVANCES {
        if !is_before(position(seen), to) {
            return;
        }
        // Release: pairs with the Acquire loads of positions. An operation that begins there sees
        // the exchanges before it. Acquire on failure: as for those loads.
        match counter.compare_exchange(seen, to | seen & FLAGS, Release, Acquire) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}

impl QueueMemory {
    #[inline(always)]
    pub(crate) fn ring(&self, which: Which) -> Ring<'_> {
        Ring { memory: self, which }
    }

    /// Initialises the words of a new queue, in memory that is zero.
    pub(crate) fn fill(&self) {
        for which in [Which::Items, Which::Letters] {
            let ring = self.ring(which);
            // Relaxed: every thread that attaches is ordered after all of this.
            ring.tail().store(ROUND, Relaxed);
            ring.head().store(ROUND, Relaxed);
        }
        for at in 0..self.config.entries() {
            self.entry(at).store(ROUND | at as u64, Relaxed);
        }
    }

    /// Returns the slot in a place of the participant's own, for a caller that is going to use what
    /// is in the slot.
    ///
    /// The number comes from the participant's own account, but it got there from shared memory:
    /// out of an entry, or a place. A peer may have written there the number of a slot that this
    /// participant is using already. Two references to one slot would be unsound if one of them is
    /// `&mut`, so that is refused.
    ///
    /// Other threads of this process are not asked. That would take an atomic exchange for each
    /// item that is held, which costs as much as the rest. And nothing would be gained: a peer that
    /// writes numbers of slots into the words of a queue can as well write into what is loaned,
    /// which no check sees.
    #[inline(always)]
    pub(crate) fn slot(&self, participant: &Participant, place: usize) -> Result<usize, Refused> {
        let slot = index(participant.word(place).get());
        let others = participant.busy.get() & !(1 << place);
        if others != 0 && participant.refers_to(slot, others) {
            Err(Refused::Corrupt)
        } else {
            Ok(slot)
        }
    }

    /// Puts the slot in a place behind all others. Returns the flags of `tail` after the exchange.
    #[inline(always)]
    pub(crate) fn put(
        &self,
        participant: &Participant,
        ring: Ring<'_>,
        place: usize,
    ) -> Result<u64, Refused> {
        // Acquire: pairs with the Release in `advance`, and in `close`.
        let seen = ring.tail().load(Acquire);
        if seen & CLOSED != 0 {
            return Err(Refused::Closed);
        }
        self.operate(participant, ring, place, End::Tail, seen, 0)
    }

    /// Exchanges the slot in a place for that of the first item. The place gets `mark`. Returns the
    /// flags of `head` after the exchange.
    #[inline(always)]
    pub(crate) fn get(
        &self,
        participant: &Participant,
        ring: Ring<'_>,
        place: usize,
        mark: u64,
    ) -> Result<u64, Refused> {
        // Acquire: as in `put`.
        let seen = ring.head().load(Acquire);
        self.operate(participant, ring, place, End::Head, seen, mark)
    }

    #[inline(always)]
    fn operate(
        &self,
        participant: &Participant,
        ring: Ring<'_>,
        place: usize,
        end: End,
        seen: u64,
        mark: u64,
    ) -> Result<u64, Refused> {
        let mut from = self.begin(participant, ring, end, seen);
        let mut round = 0;
        while round < MOST_ROUNDS {
            round += 1;
            let found = self.look(ring, from)?;
            let is_right = match end {
                End::Tail => found.state() == 0,
                End::Head => found.is_full(),
            };
            if !is_right {
                (from, round) = self.go_on(ring, end, found.position, found.entry, round)?;
                continue;
            }
            let cell = self.entry(found.at);
            let word = self.announce(participant, place, found.at, found.entry)?;
            if !self.swap(participant, cell, found.entry, word) {
                continue;
            }
            return Ok(self.end(participant, ring, end, place, word, found, mark));
        }
        Err(Refused::Corrupt)
    }

    /// Returns the position to begin at: the further one of the participant's own and the shared
    /// one.
    #[inline(always)]
    fn begin(&self, participant: &Participant, ring: Ring<'_>, end: End, seen: u64) -> u64 {
        let shared = position(seen);
        // A participant remembers no position in the other ring, which is seldom used.
        let own = if ring.which == Which::Items { participant.position(end).get() } else { shared };
        // The own position is less than `LAG` ahead, or else the shared one was `advance`d. If it
        // seems to be more, the own position is behind, however far.
        if own.wrapping_sub(shared) < LAG { own } else { shared }
    }

    #[inline(always)]
    fn look(&self, ring: Ring<'_>, position: u64) -> Result<Found, Refused> {
        let at = ring.site(position)?;
        // Acquire: pairs with the Release of the exchange that left this entry. The payload comes
        // with it.
        Ok(Found { position, at, entry: self.entry(at).load(Acquire) })
    }

    /// Decides how an operation goes on if it finds no entry to exchange at a position. Returns the
    /// next position to look at, and the number of the round.
    #[cold]
    fn go_on(
        &self,
        ring: Ring<'_>,
        end: End,
        position: u64,
        entry: u64,
        round: u32,
    ) -> Result<(u64, u32), Refused> {
        let found = Found { position, at: ring.site(position)?, entry };
        if found.is_empty() {
            // At `tail` it is sealed: otherwise it would have been exchanged.
            return match end {
                End::Tail => Err(Refused::Closed),
                End::Head => self
                    .find_empty(ring, found)
                    .map(|()| (found.position, round + ROUNDS_OF_A_SEAL)),
            };
        }
        if end == End::Tail && found.is_full_since_last_cycle() {
            return Err(Refused::Full);
        }
        // The entry is behind the position, which can only come from a load that was too early. It
        // is looked at again.
        let next =
            if found.state() < 0 { found.position } else { next(found.position, ring.len()) };
        Ok((self.catch_up(ring, end, next, round), round))
    }

    /// Returns `from`, or every `LOOK_AGAIN` rounds the shared position if that is further. While
    /// this thread did not run, others may have gone far.
    fn catch_up(&self, ring: Ring<'_>, end: End, from: u64, round: u32) -> u64 {
        if round % LOOK_AGAIN != 0 {
            return from;
        }
        // Acquire: as in `put`.
        let shared = position(ring.shared(end).load(Acquire));
        if is_before(from, shared) { shared } else { from }
    }

    /// Finds out what an empty entry at `head` means. Returns `Ok` if the entry has changed. After
    /// a close, the answer is `Closed` only once the entry is sealed, so that no put that was on
    /// its way comes after that answer.
    fn find_empty(&self, ring: Ring<'_>, found: Found) -> Result<(), Refused> {
        if found.is_sealed() {
            return Err(Refused::Closed);
        }
        // Acquire: pairs with the Release in `close`.
        if (ring.head().load(Acquire) | ring.tail().load(Acquire)) & CLOSED == 0 {
            return Err(Refused::Empty);
        }
        self.finish_close(ring);
        // Relaxed: the seal publishes nothing.
        match self.entry(found.at).compare_exchange(
            found.entry,
            found.entry | SEALED,
            Relaxed,
            Relaxed,
        ) {
            Ok(_) => Err(Refused::Closed),
            Err(_) => Ok(()),
        }
    }

    /// Finishes an operation after its exchange: completes it, and moves the positions on. Returns
    /// the flags of the shared position.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "all of it is in registers, this is the hot path")]
    fn end(
        &self,
        participant: &Participant,
        ring: Ring<'_>,
        end: End,
        place: usize,
        word: u64,
        found: Found,
        mark: u64,
    ) -> u64 {
        // SeqCst: this load is after the exchange, which is SeqCst, too. A thread that goes to
        // sleep marks the shared position first, and has the entry looked at after that. One of the
        // two sees the other.
        let shared = ring.shared(end).load(SeqCst);
        self.complete(participant, place, word, index(found.entry), mark);
        let next = next(found.position, ring.len());
        if ring.which == Which::Items {
            participant.position(end).set(next);
        }
        if next.wrapping_sub(position(shared)) as i64 >= LAG as i64 {
            advance(ring.shared(end), shared, next);
        }
        shared & FLAGS
    }

    /// Returns where an end of the ring is, without changing anything. The answer is exact if no
    /// participant operates on the ring. Otherwise the end was there at some time during the call.
    pub(crate) fn find(&self, ring: Ring<'_>, end: End) -> Result<Found, Refused> {
        // Acquire: as in `put`.
        let mut from = position(ring.shared(end).load(Acquire));
        for round in 1..MOST_ROUNDS {
            let found = self.look(ring, from)?;
            let is_there = match end {
                End::Tail => found.is_empty() || found.is_full_since_last_cycle(),
                End::Head => found.is_empty() || found.is_full(),
            };
            if is_there {
                return Ok(found);
            }
            from = self.catch_up(
                ring,
                end,
                if found.state() < 0 { from } else { next(from, ring.len()) },
                round,
            );
        }
        Err(Refused::Corrupt)
    }

    /// Returns how many items are in a ring. A hint: the number may be stale by now.
    pub(crate) fn count(&self, ring: Ring<'_>) -> usize {
        match (self.find(ring, End::Head), self.find(ring, End::Tail)) {
            (Ok(head), Ok(tail)) => distance(tail.position, head.position, ring.len())
                .clamp(0, ring.len() as i64) as usize,
            _ => 0,
        }
    }

    /// Announces the exchange that is going to be tried. Returns the place's word.
    #[inline(always)]
    pub(crate) fn announce(
        &self,
        participant: &Participant,
        place: usize,
        at: usize,
        seen: u64,
    ) -> Result<u64, Refused> {
        // The slot in the place exists: invariant 1 of `Participant`. The other slot is checked
        // here.
        let word = participant.word(place).get();
        if !self.has_slot(index(seen)) {
            return Err(Refused::Corrupt);
        }
        let record = self.record_at(participant.site);
        // Release, both: pair with the Acquire loads in `happened`.
        record.site.store(at as u64 | (place as u64) << 32, Release);
        record.seen.store(seen, Release);
        Ok(word)
    }

    /// Tries the exchange that was announced, with the slot in the place's word. Returns whether it
    /// happened.
    #[inline(always)]
    pub(crate) fn swap(
        &self,
        participant: &Participant,
        cell: &AtomicU64,
        seen: u64,
        word: u64,
    ) -> bool {
        // AcqRel: pairs with itself, and with the loads of entries. SeqCst besides: see `end`.
        let is_done =
            cell.compare_exchange(seen, exchanged(seen, index(word)), SeqCst, Relaxed).is_ok();
        if !is_done {
            // Release: so that the site is not changed before this.
            self.record_at(participant.site).seen.store(NOTHING, Release);
        }
        is_done
    }

    /// Completes an exchange by which a slot was got for a place. `word` is the place's word; the
    /// place gets `flags` with the slot. The slot exists: it was checked before it was announced.
    #[inline(always)]
    pub(crate) fn complete(
        &self,
        participant: &Participant,
        place: usize,
        word: u64,
        slot: usize,
        flags: u64,
    ) {
        // Release, all three: pair with the Acquire loads in `happened` and `settle`, which are in
        // the reverse order.
        self.note_taker(slot, participant.id);
        self.place_at(participant.site, place).store(with(word, flags, slot), Release);
        self.record_at(participant.site).seen.store(NOTHING, Release);
        participant.word(place).set(with(word, flags, slot));
    }

    /// Returns whether the slot of the get that a participant announces is still there to be got,
    /// or was got by the participant in an exchange that is not completed. As for `happened`, the
    /// participant must not go on meanwhile.
    ///
    /// The answer means nothing once the looks are spent.
    pub(crate) fn is_about_task(&self, id: usize, seen: u64, looks: &mut Looks) -> bool {
        let site = self.record(id).site.load(Acquire);
        let (Some(cell), Some(place)) = (self.cell(site as u32 as usize), self.announced_place(id))
        else {
            return false;
        };
        if self.is_letter(site) {
            return false;
        }
        // Acquire, both: as in `happened`.
        let spare = index(self.place(id, place).load(Acquire));
        // If the slot is in the place, it was got. Its task was not finished while the slot is
        // still announced.
        if cell.load(Acquire) == seen || spare == index(seen) {
            return true;
        }
        self.has_slot(spare) && looks.take(self.used()) && self.happened(id, seen, spare)
    }

    pub(crate) fn announced_place(&self, id: usize) -> Option<usize> {
        let place = (self.record(id).site.load(Acquire) >> 32) as usize;
        (place < self.config.places as usize).then_some(place)
    }

    pub(crate) fn is_letter(&self, site: u64) -> bool {
        (self.config.capacity as usize..self.config.entries()).contains(&(site as u32 as usize))
    }

    /// Returns whether the exchange that `id` announces, with the slot `spare` of its own, has
    /// happened. The participant must not go on meanwhile, or the answer may be about either of two
    /// attempts.
    pub(crate) fn happened(&self, id: usize, seen: u64, spare: usize) -> bool {
        let at = self.record(id).site.load(Acquire) as u32;
        let Some(cell) = self.cell(at as usize) else { return false };
        let after = exchanged(seen, spare);
        // Acquire: pairs with the Release of the exchanges. All announcements before the exchange
        // that is seen here are seen below.
        let now = cell.load(Acquire);
        // Compared by its slot: the entry may have been sealed since.
        if now == seen || index(now) == spare {
            return now != seen;
        }
        let announces = |other: usize| {
            let record = self.record(other);
            // Acquire: pair with the Releases in `announce` and `complete`. The second look at
            // `seen`: the site was this announcement's.
            record.seen.load(Acquire) == after
                && record.site.load(Acquire) as u32 == at
                && record.seen.load(Acquire) == after
        };
        (0..self.used()).any(|other| other != id && announces(other))
            || !is_noted(self.taker(spare).load(Acquire), id)
    }

    /// Returns how many ids were ever used.
    pub(crate) fn used(&self) -> usize {
        // Acquire: pairs with the Release in `attach`. The memory of these ids is allocated.
        (self.control().used.load(Acquire) as usize).min(self.config.ids as usize)
    }
}
