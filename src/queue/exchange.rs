//! The exchange ring: the state machine of the queue.
//!
//! # Goal
//! A bounded queue for many producers and consumers, lock-free in the strict sense: whoever is stopped or dies, at any instruction, keeps nobody from completing an operation. No
//! item of a survivor is lost, doubled or out of order, no slot is lost, and `Full` and `Empty` are exact.
//!
//! # How
//! Every participant has some slots of its own, in its *places*; every entry of the ring has a slot, whether full or empty. An operation is one compare-exchange that
//! swaps the slot in a place for the one in an entry, by which the entry becomes full, or empty in the next cycle (`words`). What a slot holds is written before it is put and read
//! after it was got, when nobody else can reach it: nothing is ever half published, and nothing is copied.
//!
//! ```text
//! put:  the entry at `tail` is  empty, this cycle  -> exchange, then advance `tail`
//!                               full, this cycle   -> its putter has not advanced `tail`: do it, again
//! get:  the entry at `head` is  full, this cycle   -> see that `tail` is past it, exchange, then advance `head`
//!                               empty, next cycle  -> its getter has not advanced `head`: do it, again
//!                               empty, this cycle  -> Empty
//! ```
//!
//! Anything else means that the counter was read too long ago. The counters only ever lag behind the entries, and whoever finds one lagging advances it, so nobody waits for anybody. A put needs to know that `head` is not as far
//! behind as the ring is long; a participant remembers the last `head` that it saw, which can only be too small, and looks again when that does not do. If `tail - head` is the
//! capacity and the entry at `head` is full, then at the time of that look the queue was full.
//!
//! # Who owns what, after a death
//! An operation is one exchange on the ring, but who owns which slot afterwards is in two places: the entry, and the participant's place. The exchange cannot change both.
//! So a participant first *announces* what it is going to try (`site`, then `seen`), and *completes* it afterwards: it notes in the slot that it got that it was the one to take it (`taker`), stores that slot
//! in its place, and takes the announcement back. Whoever takes over the id of a dead one ([`settle`](Ground::settle)) finds out whether the announced exchange happened, from what the living leave behind anyway:
//!
//! 1. The place has the slot that was wanted: it happened, and was completed.
//! 2. The word is as it was seen: it did not happen. It never comes back to that.
//! 3. The word is as it was to be: it happened. Only the dead one could put its own slot there.
//! 4. Otherwise the word went on. If the exchange happened, another participant took the dead one's slot from there: either it still announces just that, or it has
//!    noted itself as the slot's taker before it took its announcement back, and whoever took the slot later has noted itself. If not, the slot is still the dead one's, and it is noted as its taker.
//!
//! Each step of this can be done again, so the one who does it may die, too. Nobody else's operation waits for it: a dead participant has some spare slots, and nothing that others need.
//! What the last one in that list reads last is the `taker`, because the announcement is taken back after that is noted.
//!
//! # Memory ordering
//! The exchange is AcqRel: Release for the payload and the announcement, Acquire for those of whoever left the slot there; exchanges continue each other's release sequences. Counters are advanced with Release
//! and read with Acquire: who sees one past an entry sees that entry's exchange. `taker`, the place and the end of the announcement are stored in this order, each with Release, and read in the reverse one with Acquire.
//!
//! # Source
//! Our own. The ring with cycles is D. Vyukov's bounded MPMC queue; that counters are advanced by whoever comes first is as in M. Michael's and M. Scott's queue. See `DESIGN.md`.

use core::cell::Cell;

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::ground::{Counters, Ground};
use super::words::{
    CLOSED, CLOSING, FLAGS, FULL, INDEX, RETURNED, ROUND, SEALED, TASK, cycle, distance, exchanged, index, next, position, with,
};

/// `seen`, of one who tries nothing.
pub(crate) const NOTHING: u64 = 0;

/// After so many rounds without a result a peer must have scribbled on the words: each round of a true one is somebody else's success.
const MOST_ROUNDS: u32 = 1 << 20;

/// Why there was no exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Empty,
    Closed,
    /// The words make no sense: somebody has scribbled on them.
    Corrupt,
}

/// Which ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Items,
    Letters,
}

/// A participant: what it knows for itself.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) id: usize,
    /// The items' counters as last seen: they may be further by now.
    head: Cell<u64>,
    tail: Cell<u64>,
    /// The places, by bits, that are in use: loaned, received, or not given back by whoever may take a returned task from there.
    pub(crate) busy: Cell<u64>,
    /// Those of them that were last seen with a returned task.
    pub(crate) returned: Cell<u64>,
}

/// A ring of the ground.
pub(crate) struct Ring<'a> {
    which: Which,
    counters: &'a Counters,
    /// Its first entry.
    first: usize,
    pub(crate) len: u64,
}

/// Where the next operations of one kind go: ahead of their counter while they are in a row.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    counter: &'a AtomicU64,
    /// The counter as it was read, with its flags.
    seen: u64,
    /// The position of the next operation.
    next: u64,
    /// It is behind an operation of this cursor's, and nothing has been found against it.
    is_next_known: bool,
    /// How many operations the counter is behind, unless somebody else has advanced it.
    behind: usize,
    flags: u64,
}

/// An entry that may be exchanged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    at: usize,
    entry: u64,
}

impl Member {
    pub(crate) fn new(id: usize) -> Self {
        Member { id, head: Cell::new(ROUND), tail: Cell::new(ROUND), busy: Cell::new(0), returned: Cell::new(0) }
    }
}

impl Ring<'_> {
    pub(crate) fn tail(&self) -> &AtomicU64 {
        &self.counters.tail.0
    }

    pub(crate) fn head(&self) -> &AtomicU64 {
        &self.counters.head.0
    }

    /// Where the entry of a position is, if there is such an entry.
    #[inline]
    pub(crate) fn site(&self, position: u64) -> Result<usize, Refused> {
        let index = index(position);
        if index as u64 >= self.len { Err(Refused::Corrupt) } else { Ok(self.first + index) }
    }

    /// For puts.
    #[inline]
    pub(crate) fn puts(&self) -> Cursor<'_> {
        Cursor::new(self.tail())
    }

    /// For gets.
    #[inline]
    pub(crate) fn gets(&self) -> Cursor<'_> {
        Cursor::new(self.head())
    }

    /// How many are in it. A hint: it may be stale by now, and unfinished operations may count or not.
    pub(crate) fn count(&self) -> usize {
        let head = self.head().load(Acquire);
        let count = distance(position(self.tail().load(Acquire)), position(head), self.len);
        count.clamp(0, self.len as i64) as usize
    }
}

impl<'a> Cursor<'a> {
    #[inline]
    fn new(counter: &'a AtomicU64) -> Self {
        Cursor { counter, seen: 0, next: 0, is_next_known: false, behind: 0, flags: 0 }
    }

    /// Of the next operation: behind the last one, if that is known, or else what the counter says.
    #[inline]
    fn position(&mut self, ring: &Ring<'_>) -> u64 {
        if !core::mem::replace(&mut self.is_next_known, false) {
            self.finish(ring);
            // Acquire: pairs with the Release in `advance`.
            self.seen = self.counter.load(Acquire);
            self.next = position(self.seen);
        }
        self.next
    }

    /// The operation at the position has been done.
    #[inline]
    fn step(&mut self, ring: &Ring<'_>) -> &mut Self {
        self.next = next(self.next, ring.len);
        self.behind += 1;
        self.is_next_known = true;
        self
    }

    /// Advances the counter past the operations that have been done: the flags that it had whenever that was so.
    #[inline]
    pub(crate) fn finish(&mut self, ring: &Ring<'_>) -> u64 {
        if core::mem::take(&mut self.behind) != 0 {
            self.flags |= advance(self.counter, self.seen, self.next, ring);
        }
        self.flags
    }
}

/// Advances a counter that was `seen` to a position, unless it is past it: what flags it has then.
#[inline]
fn advance(counter: &AtomicU64, mut seen: u64, to: u64, ring: &Ring<'_>) -> u64 {
    loop {
        // Release: pairs with the Acquire loads of counters: whoever sees it past an entry sees the exchange there. Acquire on failure: as those.
        match counter.compare_exchange(seen, to | seen & FLAGS, Release, Acquire) {
            Ok(_) => return seen & FLAGS,
            Err(now) if distance(position(now), to, ring.len) >= 0 => return now & FLAGS,
            Err(now) => seen = now,
        }
    }
}

impl Ground {
    #[inline]
    pub(crate) fn ring(&self, which: Which) -> Ring<'_> {
        let control = self.control();
        match which {
            Which::Items => Ring { which, counters: &control.items, first: 0, len: self.shape.capacity.into() },
            Which::Letters => {
                Ring { which, counters: &control.letters, first: self.shape.capacity as usize, len: self.shape.letters.into() }
            }
        }
    }

    /// Makes the words of a new queue, in memory that is zero.
    pub(crate) fn fill(&self) {
        for which in [Which::Items, Which::Letters] {
            let ring = self.ring(which);
            // Relaxed: whoever attaches is ordered after all of this.
            ring.tail().store(ROUND, Relaxed);
            ring.head().store(ROUND, Relaxed);
            for at in ring.first..ring.first + ring.len as usize {
                self.entry(at).store(ROUND | at as u64, Relaxed);
            }
        }
    }

    /// The slot in a place of a participant's own.
    #[inline]
    pub(crate) fn slot(&self, member: &Member, place: usize) -> Result<usize, Refused> {
        // Relaxed: nobody else stores there, but for one who takes a returned task, after which `reclaim` has looked.
        let slot = index(self.place(member.id, place).load(Relaxed));
        if self.has_slot(slot) { Ok(slot) } else { Err(Refused::Corrupt) }
    }

    /// Puts the slot in a place behind all others. The flags of `tail` after it.
    #[inline]
    pub(crate) fn put(&self, member: &Member, ring: &Ring<'_>, place: usize) -> Result<u64, Refused> {
        let mut cursor = ring.puts();
        let found = self.exchange_at(member, place, || self.find_room(member, ring, &mut cursor))?;
        let flags = cursor.step(ring).finish(ring);
        self.complete(member, place, index(found.entry), 0);
        Ok(flags)
    }

    /// Exchanges the slot in a place for that of the first item. The flags of `head` after it.
    #[inline]
    pub(crate) fn get(&self, member: &Member, ring: &Ring<'_>, place: usize) -> Result<u64, Refused> {
        let mut cursor = ring.gets();
        let found = self.exchange_at(member, place, || self.find_item(member, ring, &mut cursor))?;
        let flags = cursor.step(ring).finish(ring);
        self.complete(member, place, index(found.entry), self.flags_of_got(ring));
        Ok(flags)
    }

    /// [`put`](Ground::put) of one of several, whose `tail` is advanced when the cursor [finishes](Cursor::finish).
    #[inline]
    pub(crate) fn put_next(&self, member: &Member, ring: &Ring<'_>, place: usize, cursor: &mut Cursor<'_>) -> Result<(), Refused> {
        let found = self.exchange_at(member, place, || self.find_room(member, ring, cursor))?;
        cursor.step(ring);
        self.complete(member, place, index(found.entry), 0);
        Ok(())
    }

    /// [`get`](Ground::get) of one of several, whose `head` is advanced when the cursor [finishes](Cursor::finish).
    #[inline]
    pub(crate) fn get_next(&self, member: &Member, ring: &Ring<'_>, place: usize, cursor: &mut Cursor<'_>) -> Result<(), Refused> {
        let found = self.exchange_at(member, place, || self.find_item(member, ring, cursor))?;
        cursor.step(ring);
        self.complete(member, place, index(found.entry), self.flags_of_got(ring));
        Ok(())
    }

    /// Exchanges the slot in a place for that of an entry which is found anew as long as others are faster.
    #[inline]
    fn exchange_at(&self, member: &Member, place: usize, mut find: impl FnMut() -> Result<Found, Refused>) -> Result<Found, Refused> {
        for _ in 0..MOST_ROUNDS {
            let found = find()?;
            if self.exchange(member, place, found.at, self.entry(found.at), found.entry)? {
                return Ok(found);
            }
        }
        Err(Refused::Corrupt)
    }

    #[inline]
    fn flags_of_got(&self, ring: &Ring<'_>) -> u64 {
        if self.shape.is_joinable && ring.which == Which::Items { TASK } else { 0 }
    }

    /// The entry for the next put, which is empty.
    #[inline]
    fn find_room(&self, member: &Member, ring: &Ring<'_>, cursor: &mut Cursor<'_>) -> Result<Found, Refused> {
        for _ in 0..MOST_ROUNDS {
            let tail = cursor.position(ring);
            if cursor.seen & CLOSED != 0 {
                return Err(Refused::Closed);
            }
            if distance(tail, member.head(ring), ring.len) >= ring.len as i64 && !self.look_for_room(member, ring, tail)? {
                continue;
            }
            let at = ring.site(tail)?;
            // Acquire: pairs with the Release of the exchange that made it so.
            let entry = self.entry(at).load(Acquire);
            match entry & !INDEX {
                empty if empty == cycle(tail) => return Ok(Found { at, entry }),
                full if full == cycle(tail) | FULL => {
                    // Its putter has not finished.
                    advance(ring.tail(), tail, next(tail, ring.len), ring);
                }
                sealed if sealed == cycle(tail) | SEALED => return Err(Refused::Closed),
                _ => {}
            }
        }
        Err(Refused::Corrupt)
    }

    /// Whether `tail` is less than the whole ring ahead of `head`; if not so, somebody else may have to be helped first.
    #[cold]
    fn look_for_room(&self, member: &Member, ring: &Ring<'_>, tail: u64) -> Result<bool, Refused> {
        // Acquire: pairs with the Release in `advance`.
        let seen = ring.head().load(Acquire);
        let head = position(seen);
        if ring.which == Which::Items {
            member.head.set(head);
        }
        if distance(tail, head, ring.len) < ring.len as i64 {
            return Ok(true);
        }
        // Acquire: as in `find_room`.
        match self.entry(ring.site(head)?).load(Acquire) & !INDEX & !SEALED {
            full if full == cycle(head) | FULL => return Err(Refused::Full),
            empty if empty == cycle(head).wrapping_add(ROUND) => {
                // Its getter has not finished.
                advance(ring.head(), seen, next(head, ring.len), ring);
            }
            _ => {}
        }
        Ok(false)
    }

    /// The entry for the next get, which is full, and which `tail` is past.
    #[inline]
    fn find_item(&self, member: &Member, ring: &Ring<'_>, cursor: &mut Cursor<'_>) -> Result<Found, Refused> {
        for _ in 0..MOST_ROUNDS {
            let head = cursor.position(ring);
            let at = ring.site(head)?;
            // Acquire: as in `find_room`; the payload comes with it.
            let entry = self.entry(at).load(Acquire);
            let state = entry & !INDEX;
            if state == cycle(head) | FULL {
                if distance(member.tail(ring), head, ring.len) <= 0 {
                    self.help_putter(member, ring, head);
                }
                return Ok(Found { at, entry });
            }
            if state & !SEALED == cycle(head) {
                if let Some(refused) = self.find_empty(ring, at, entry, cursor.seen) {
                    return Err(refused);
                }
            } else if state & !SEALED == cycle(head).wrapping_add(ROUND) {
                // Its getter has not finished.
                advance(ring.head(), head, next(head, ring.len), ring);
            }
        }
        Err(Refused::Corrupt)
    }

    /// Sees that `tail` is past the item at `head`: otherwise it would be behind `head`, and the next putter would find an entry of a later cycle there.
    #[cold]
    fn help_putter(&self, member: &Member, ring: &Ring<'_>, head: u64) {
        // Acquire: pairs with the Release in `advance`.
        let mut tail = ring.tail().load(Acquire);
        if position(tail) == head {
            advance(ring.tail(), tail, next(head, ring.len), ring);
            tail = next(head, ring.len);
        }
        if ring.which == Which::Items {
            member.tail.set(position(tail));
        }
    }

    /// What an empty entry at `head` means, or nothing if it is no longer empty. After a close nobody is told so before the entry is sealed, so that no put that was on its way comes after it.
    #[cold]
    fn find_empty(&self, ring: &Ring<'_>, at: usize, entry: u64, head: u64) -> Option<Refused> {
        if entry & SEALED != 0 {
            return Some(Refused::Closed);
        }
        // Acquire: pairs with the Release in `close`, as does the load of `head`.
        if (head | ring.tail().load(Acquire)) & CLOSED == 0 {
            return Some(Refused::Empty);
        }
        self.close(ring);
        // Relaxed: it publishes nothing.
        let is_sealed = self.entry(at).compare_exchange(entry, entry | SEALED, Relaxed, Relaxed).is_ok();
        is_sealed.then_some(Refused::Closed)
    }

    /// Marks the roster, so that whoever sleeps, or is about to, finishes this if the one who closes dies; then both counters. `tail` comes last: what it says is what counts.
    pub(crate) fn close(&self, ring: &Ring<'_>) {
        // Release: pairs with the Acquire in `sleep`.
        self.control().roster.0.fetch_or(CLOSING, Release);
        // Release: pairs with the Acquire loads of counters.
        ring.head().fetch_or(CLOSED, Release);
        ring.tail().fetch_or(CLOSED, Release);
    }

    /// Announces and tries: whether the word was as seen.
    #[inline]
    pub(crate) fn exchange(&self, member: &Member, place: usize, at: usize, cell: &AtomicU64, seen: u64) -> Result<bool, Refused> {
        let spare = self.slot(member, place)?;
        if !self.has_slot(index(seen)) {
            return Err(Refused::Corrupt);
        }
        let record = self.record(member.id);
        // Release, both: pair with the Acquire loads in `happened`.
        record.site.store(at as u64 | (place as u64) << 32, Release);
        record.seen.store(seen, Release);
        if seen & RETURNED != 0 {
            // Release: pairs with the Acquire in `has_unfinished`.
            self.control().moves.fetch_add(1, Release);
        }
        // AcqRel: pairs with itself, and with the loads of entries. See the top.
        let is_done = cell.compare_exchange(seen, exchanged(seen, spare), AcqRel, Relaxed).is_ok();
        if !is_done {
            // Release: so that the site is not changed before.
            record.seen.store(NOTHING, Release);
        }
        Ok(is_done)
    }

    /// Notes that a slot was got, for a place that then has these flags.
    #[inline]
    pub(crate) fn complete(&self, member: &Member, place: usize, slot: usize, flags: u64) {
        // Release, all three: pair with the Acquire loads in `happened` and `settle`, which are in the reverse order.
        self.taker(slot).store(member.id as u32 + 1, Release);
        let word = self.place(member.id, place);
        word.store(with(word.load(Relaxed), flags, slot), Release);
        self.record(member.id).seen.store(NOTHING, Release);
    }

    /// For whoever has taken over a participant's id: finds out whether what that one announced has happened, and completes it.
    pub(crate) fn settle(&self, id: usize) {
        let record = self.record(id);
        // Acquire: pairs with the Releases in `exchange` and `complete`, though the participant's death has ordered them before.
        let seen = record.seen.load(Acquire);
        if seen == NOTHING {
            return;
        }
        if let Some(place) = self.announced_place(id) {
            let word = self.place(id, place).load(Acquire);
            let (spare, want) = (index(word), index(seen));
            let is_sound = self.has_slot(spare) && self.has_slot(want);
            if is_sound && spare != want && self.happened(id, seen, spare) {
                let is_task = self.shape.is_joinable && seen & (FULL | RETURNED) != 0 && !self.is_letter(record.site.load(Relaxed));
                self.complete(&Member::new(id), place, want, if is_task { TASK } else { 0 });
                return;
            }
        }
        record.seen.store(NOTHING, Release);
    }

    /// The slot that a participant offers for what it announces, if that has not been completed.
    pub(crate) fn announced_spare(&self, id: usize) -> Option<usize> {
        let record = self.record(id);
        if self.is_letter(record.site.load(Acquire)) {
            return None;
        }
        let spare = index(self.place(id, self.announced_place(id)?).load(Acquire));
        (self.has_slot(spare) && spare != index(record.seen.load(Acquire))).then_some(spare)
    }

    fn announced_place(&self, id: usize) -> Option<usize> {
        let place = (self.record(id).site.load(Acquire) >> 32) as usize;
        (place < self.shape.places as usize).then_some(place)
    }

    fn is_letter(&self, site: u64) -> bool {
        (self.shape.capacity as usize..self.shape.entries()).contains(&(site as u32 as usize))
    }

    /// Whether what `id` announces, with a slot that was its own, has happened. It must not go on meanwhile, or the answer may be about either of two attempts.
    pub(crate) fn happened(&self, id: usize, seen: u64, spare: usize) -> bool {
        let at = self.record(id).site.load(Acquire) as u32;
        let Some(cell) = self.cell(at as usize) else { return false };
        let after = exchanged(seen, spare);
        // Acquire: pairs with the Release of the exchanges: all announcements before the one that is seen here are seen below.
        let now = cell.load(Acquire);
        if now == seen || now == after {
            return now == after;
        }
        let announces = |other: usize| {
            let record = self.record(other);
            // Acquire: pair with the Releases in `exchange` and `complete`. The second look: the site was this announcement's.
            record.seen.load(Acquire) == after && record.site.load(Acquire) as u32 == at && record.seen.load(Acquire) == after
        };
        (0..self.used()).any(|other| other != id && announces(other)) || self.taker(spare).load(Acquire) != id as u32 + 1
    }

    /// How many ids were ever used.
    pub(crate) fn used(&self) -> usize {
        // Acquire: pairs with the Release in `attach`: their memory is there.
        (self.control().used.load(Acquire) as usize).min(self.shape.ids as usize)
    }
}

impl Member {
    #[inline]
    fn head(&self, ring: &Ring<'_>) -> u64 {
        match ring.which {
            Which::Items => self.head.get(),
            // Not remembered: it is seldom used. A whole ring behind.
            Which::Letters => position(ring.head().load(Acquire)),
        }
    }

    #[inline]
    fn tail(&self, ring: &Ring<'_>) -> u64 {
        match ring.which {
            Which::Items => self.tail.get(),
            Which::Letters => position(ring.tail().load(Acquire)),
        }
    }
}
