//! The two ends of a ring: where they are, and the put and the get there. The argument is in
//! [`ring`](super).

use core::cell::Cell;

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use super::layout::Counters;
use super::memory::QueueMemory;
use super::participant::Participant;
use super::refused::Refused;
use super::words::{
    CLOSED, FLAGS, FULL, INDEX, ROUND, SEALED, cycle, distance, emptied, filled, index, is_before,
    next, position,
};

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

/// One of the two rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Items,
    Letters,
}

/// One of the rings in the queue's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring<'a> {
    pub(super) memory: &'a QueueMemory,
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

    /// Returns whether an operation at this end can exchange the entry.
    #[inline(always)]
    fn is_right(self, end: End) -> bool {
        match end {
            End::Tail => self.state() == 0,
            End::Head => self.is_full(),
        }
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
    pub(super) fn is_full(self) -> bool {
        self.state() == FULL as i64
    }

    /// Returns whether the item that was put there a whole ring ago was not got.
    #[inline(always)]
    pub(crate) fn is_full_since_last_cycle(self) -> bool {
        self.state() == FULL as i64 - ROUND as i64
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
    pub(super) fn len(self) -> u64 {
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

    /// Puts the slot in a place behind all others. Returns the flags of `tail` after the exchange.
    #[inline(always)]
    pub(crate) fn put(self, participant: &Participant, place: usize) -> Result<u64, Refused> {
        // Acquire: pairs with the Release in `advance`, and in `close`.
        let seen = self.tail().load(Acquire);
        if seen & CLOSED != 0 {
            return Err(Refused::Closed);
        }
        self.operate(participant, place, End::Tail, seen, 0)
    }

    /// Exchanges the slot in a place for that of the first item. The place gets `mark`. Returns the
    /// flags of `head` after the exchange.
    #[inline(always)]
    pub(crate) fn get(
        self,
        participant: &Participant,
        place: usize,
        mark: u64,
    ) -> Result<u64, Refused> {
        // Acquire: as in `put`.
        let seen = self.head().load(Acquire);
        self.operate(participant, place, End::Head, seen, mark)
    }

    #[inline(always)]
    fn operate(
        self,
        participant: &Participant,
        place: usize,
        end: End,
        seen: u64,
        mark: u64,
    ) -> Result<u64, Refused> {
        let found = self.look(self.begin(participant, end, seen))?;
        match self.attempt(participant, place, end, found, mark)? {
            Some(flags) => Ok(flags),
            None => {
                let Found { position, entry, .. } = found;
                self.attempt_again(participant, place, end, position, entry, mark)
            }
        }
    }

    /// Tries an operation with the entry that was found. Returns the flags of the end after the
    /// exchange, or `None` if there was none.
    #[inline(always)]
    fn attempt(
        self,
        participant: &Participant,
        place: usize,
        end: End,
        found: Found,
        mark: u64,
    ) -> Result<Option<u64>, Refused> {
        if !found.is_right(end) {
            return Ok(None);
        }
        let word = self.memory.announce(participant, place, found.at, found.entry)?;
        let after = match end {
            End::Tail => filled(found.entry, index(word)),
            End::Head => emptied(found.entry, index(word)),
        };
        if !self.memory.swap(participant, self.memory.entry(found.at), found.entry, after) {
            return Ok(None);
        }
        Ok(Some(self.end(participant, end, place, word, found, mark)))
    }

    /// Goes on with an operation whose first attempt was in vain. Apart, so that the first attempt
    /// needs no more registers than there are.
    #[cold]
    fn attempt_again(
        self,
        participant: &Participant,
        place: usize,
        end: End,
        position: u64,
        entry: u64,
        mark: u64,
    ) -> Result<u64, Refused> {
        let mut found = Found { position, at: self.site(position)?, entry };
        let mut round = 1;
        while round < MOST_ROUNDS {
            let mut from = found.position;
            if !found.is_right(end) {
                (from, round) = self.go_on(end, from, found.entry, round)?;
            }
            round += 1;
            found = self.look(from)?;
            if let Some(flags) = self.attempt(participant, place, end, found, mark)? {
                return Ok(flags);
            }
        }
        Err(Refused::Corrupt)
    }

    /// Returns the position to begin at: the further one of the participant's own and the shared
    /// one.
    #[inline(always)]
    pub(super) fn begin(self, participant: &Participant, end: End, seen: u64) -> u64 {
        let shared = position(seen);
        // A participant remembers no position in the other ring, which is seldom used.
        let own = if self.which == Which::Items { own(participant, end).get() } else { shared };
        // The own position is less than `LAG` ahead, or else the shared one was `advance`d. If it
        // seems to be more, the own position is behind, however far.
        if own.wrapping_sub(shared) < LAG { own } else { shared }
    }

    #[inline(always)]
    pub(super) fn look(self, position: u64) -> Result<Found, Refused> {
        let at = self.site(position)?;
        // Acquire: pairs with the Release of the exchange that left this entry. The payload comes
        // with it.
        Ok(Found { position, at, entry: self.memory.entry(at).load(Acquire) })
    }

    /// Decides how an operation goes on if it finds no entry to exchange at a position. Returns the
    /// next position to look at, and the number of the round.
    #[cold]
    pub(super) fn go_on(
        self,
        end: End,
        position: u64,
        entry: u64,
        round: u32,
    ) -> Result<(u64, u32), Refused> {
        let found = Found { position, at: self.site(position)?, entry };
        if found.is_empty() {
            // At `tail` it is sealed: otherwise it would have been exchanged.
            return match end {
                End::Tail => Err(Refused::Closed),
                End::Head => {
                    self.find_empty(found).map(|()| (found.position, round + ROUNDS_OF_A_SEAL))
                }
            };
        }
        if end == End::Tail && found.is_full_since_last_cycle() {
            return Err(Refused::Full);
        }
        // The entry is behind the position, which can only come from a load that was too early. It
        // is looked at again.
        let next =
            if found.state() < 0 { found.position } else { next(found.position, self.len()) };
        Ok((self.catch_up(end, next, round), round))
    }

    /// Returns `from`, or every `LOOK_AGAIN` rounds the shared position if that is further. While
    /// this thread did not run, others may have gone far.
    pub(super) fn catch_up(self, end: End, from: u64, round: u32) -> u64 {
        if round % LOOK_AGAIN != 0 {
            return from;
        }
        // Acquire: as in `put`.
        let shared = position(self.shared(end).load(Acquire));
        if is_before(from, shared) { shared } else { from }
    }

    /// Finds out what an empty entry at `head` means. Returns `Ok` if the entry has changed. After
    /// a close, the answer is `Closed` only once the entry is sealed, so that no put that was on
    /// its way comes after that answer.
    pub(super) fn find_empty(self, found: Found) -> Result<(), Refused> {
        if found.is_sealed() {
            return Err(Refused::Closed);
        }
        // Acquire: pairs with the Release in `close`.
        if (self.head().load(Acquire) | self.tail().load(Acquire)) & CLOSED == 0 {
            return Err(Refused::Empty);
        }
        self.finish_close();
        // Relaxed: the seal publishes nothing.
        match self.memory.entry(found.at).compare_exchange(
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
    pub(super) fn end(
        self,
        participant: &Participant,
        end: End,
        place: usize,
        word: u64,
        found: Found,
        mark: u64,
    ) -> u64 {
        // SeqCst: this load is after the exchange, which is SeqCst, too. A thread that goes to
        // sleep marks the shared position first, and has the entry looked at after that. One of the
        // two sees the other.
        let shared = self.shared(end).load(SeqCst);
        self.memory.complete(participant, place, word, self.memory.slot_in(found.entry), mark);
        let next = next(found.position, self.len());
        if self.which == Which::Items {
            own(participant, end).set(next);
        }
        if next.wrapping_sub(position(shared)) as i64 >= LAG as i64 {
            advance(self.shared(end), shared, next);
        }
        shared & FLAGS
    }

    /// Returns where an end of the ring is, without changing anything. The answer is exact if no
    /// participant operates on the ring. Otherwise the end was there at some time during the call.
    pub(crate) fn find(self, end: End) -> Result<Found, Refused> {
        // Acquire: as in `put`.
        let mut from = position(self.shared(end).load(Acquire));
        for round in 1..MOST_ROUNDS {
            let found = self.look(from)?;
            let is_there = match end {
                End::Tail => found.is_empty() || found.is_full_since_last_cycle(),
                End::Head => found.is_empty() || found.is_full(),
            };
            if is_there {
                return Ok(found);
            }
            from = self.catch_up(
                end,
                if found.state() < 0 { from } else { next(from, self.len()) },
                round,
            );
        }
        Err(Refused::Corrupt)
    }

    /// Returns how many items are in a ring. A hint: the number may be stale by now.
    pub(crate) fn count(self) -> usize {
        match (self.find(End::Head), self.find(End::Tail)) {
            (Ok(head), Ok(tail)) => distance(tail.position, head.position, self.len())
                .clamp(0, self.len() as i64) as usize,
            _ => 0,
        }
    }
}

/// Returns a participant's own position at an end of the ring of items.
#[inline(always)]
fn own(participant: &Participant, end: End) -> &Cell<u64> {
    match end {
        End::Tail => &participant.tail,
        End::Head => &participant.head,
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

    /// Returns how many ids were ever used.
    pub(crate) fn used(&self) -> usize {
        // Acquire: pairs with the Release in `attach`. The memory of these ids is allocated.
        (self.control().used.load(Acquire) as usize).min(self.config.ids as usize)
    }
}
