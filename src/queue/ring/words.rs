//! The words of a queue: positions, entries and places, which have one layout.
//!
//! | bits | of a position (`head`, `tail`) | of an entry of a ring | of a participant's place |
//! |---|---|---|---|
//! | 0-20 | index of an entry | slot | slot |
//! | 21 | [`WAITERS`]: a thread may sleep on it | [`FULL`]: put, and not got | [`TASK`]: a task in hand |
//! | 22 | [`CLOSED`]: no more puts | [`SEALED`]: no put ever again | [`RETURNED`]: a task for any participant |
//! | 23-63 | cycle | cycle | round: how often a task was taken from it, or a burier filled it |
//!
//! A put at a position makes the entry `FULL` in the position's cycle. The get there makes it
//! empty, in the next cycle. So an entry's word never comes back, except by the wrap of 41 bits: a
//! participant that is stopped for exactly 2^41 laps mistakes one lap for another.
//!
//! Cycles begin at 1, so no entry and no place that was ever written is 0.
//!
//! A queue of batches has fewer slots, and its full entries have another field:
//!
//! | bits | of a full entry of a queue of batches |
//! |---|---|
//! | 0-14 | slot |
//! | 15-20 | [`TAKEN`]: how many items of the batch were got; fewer than there were |
//!
//! Every exchange of an entry of a broadcast is a put. Its cycle and `FULL` count them together: an
//! entry in which nothing was put is empty in cycle 1, the first put makes it full in cycle 1, the
//! second empty in cycle 2, and so on ([`lap`]).
//!
//! | bits | of a subscriber's `cursor` |
//! |---|---|
//! | 0-20 | index of an entry |
//! | 21 | [`SUBSCRIBED`]: senders take care of it |
//! | 22 | [`EXPELLED`]: they do not, any more |
//! | 23-63 | cycle |
//!
//! | bits | of a slot's `taker` |
//! |---|---|
//! | 0-20 | the id of the participant that took it last, plus 1 |
//! | 21-63 | how often that was noted |
//!
//! | bits | of a participant's `life` |
//! |---|---|
//! | 0-1 | 0: no participant has the id; [`LIVES`]: a participant has it, or has died with it; |
//! | | [`SETTLED`]: the participant has died, and its last exchange is completed |
//! | 2-63 | which life it is |
//!
//! Notes are counted, and lives only go up, so neither of these two words ever comes back, either.

/// An index, or a slot.
pub(crate) const INDEX: u64 = (1 << 21) - 1;
/// Of an entry of a queue of batches: the slot.
pub(crate) const BATCH_SLOT: u64 = (1 << 15) - 1;
/// Of a full entry of a queue of batches.
pub(crate) const TAKEN: u64 = INDEX & !BATCH_SLOT;
/// One item that was got.
pub(crate) const ONE_TAKEN: u64 = BATCH_SLOT + 1;
/// The most items of a batch: the last of them is never counted as taken.
pub(crate) const MOST_BATCHED: u32 = 64;
/// Of a position.
pub(crate) const WAITERS: u64 = 1 << 21;
/// Of a position.
pub(crate) const CLOSED: u64 = 1 << 22;
/// Of an entry.
pub(crate) const FULL: u64 = 1 << 21;
/// Of an entry, empty.
pub(crate) const SEALED: u64 = 1 << 22;
/// Of a place.
pub(crate) const TASK: u64 = 1 << 21;
/// Of a place.
pub(crate) const RETURNED: u64 = 1 << 22;
/// Of a cursor.
pub(crate) const SUBSCRIBED: u64 = 1 << 21;
/// Of a cursor.
pub(crate) const EXPELLED: u64 = 1 << 22;
/// The two flags of any of them.
pub(crate) const FLAGS: u64 = 3 << 21;
/// One cycle.
pub(crate) const ROUND: u64 = 1 << 23;

/// Of a life.
pub(crate) const LIVES: u64 = 1;
/// Of a life.
pub(crate) const SETTLED: u64 = 2;
/// Of a life: how far it has come.
const PHASE: u64 = 3;

/// The number of bits below the cycle.
const ROUND_SHIFT: u32 = ROUND.trailing_zeros();

/// Returns the index, or the slot, in any word.
#[inline]
pub(crate) fn index(word: u64) -> usize {
    (word & INDEX) as usize
}

/// Returns how many items of the batch in an entry were got.
#[inline]
pub(crate) fn taken(entry: u64) -> u32 {
    ((entry & TAKEN) / ONE_TAKEN) as u32
}

/// Returns the position in a counter, without its flags.
#[inline]
pub(crate) fn position(counter: u64) -> u64 {
    counter & !FLAGS
}

/// Returns the cycle of a position, in the bits where an entry has it.
#[inline]
pub(crate) fn cycle(position: u64) -> u64 {
    position & !(INDEX | FLAGS)
}

/// Returns the position after this one, in a ring of `len` entries.
#[inline]
pub(crate) fn next(position: u64, len: u64) -> u64 {
    if (position & INDEX) + 1 < len { position + 1 } else { cycle(position).wrapping_add(ROUND) }
}

/// Returns whether a position is before another one. Half of all cycles are before the other half.
#[inline]
pub(crate) fn is_before(position: u64, other: u64) -> bool {
    (position.wrapping_sub(other) as i64) < 0
}

/// Returns how many entries `to` is ahead of `from`, in a ring of `len` entries. Less than 0 if
/// `to` is behind.
pub(crate) fn distance(to: u64, from: u64, len: u64) -> i64 {
    let laps = cycle(to).wrapping_sub(cycle(from)) as i64 >> ROUND_SHIFT;
    laps.wrapping_mul(len as i64) + (index(to) as i64 - index(from) as i64)
}

/// Returns the position so many entries after this one, in a ring of `len` entries. `count` is no
/// more than `len`.
pub(crate) fn after(position: u64, count: u64, len: u64) -> u64 {
    let index = (position & INDEX) + count;
    if index < len { cycle(position) | index } else { next_cycle(position) | (index - len) }
}

/// Returns the position so many entries before this one, likewise. There is none before the first
/// of the first cycle.
pub(crate) fn before(position: u64, count: u64, len: u64) -> u64 {
    let index = position & INDEX;
    if index >= count {
        cycle(position) | (index - count)
    } else if cycle(position) == ROUND {
        ROUND
    } else {
        cycle(position).wrapping_sub(ROUND) | (index + len - count)
    }
}

fn next_cycle(position: u64) -> u64 {
    cycle(position).wrapping_add(ROUND)
}

/// Returns the cycle of the last position at which an item was put into this entry of a broadcast,
/// in the bits where a position has it; 0 if there was none.
#[inline]
pub(crate) fn lap(entry: u64) -> u64 {
    let full = if entry & FULL == 0 { 0 } else { ROUND };
    (entry & !(INDEX | FLAGS)).wrapping_sub(ROUND).wrapping_mul(2).wrapping_add(full)
}

/// The number of bits by which `held` knows a cursor: its index, those of the cycle that there is
/// room for, and a 1, so that 0 is about none.
const HELD_BITS: u32 = 40;
/// The first number of ticks that nobody can wait: half of those that `held` has room for.
pub(crate) const MOST_PATIENCE: u32 = 1 << (u64::BITS - HELD_BITS - 1);
/// How many bits of a clock's nanoseconds are below a tick.
const TICK_SHIFT: u32 = 20;

/// Returns the word that says that senders are held up by a cursor at a time, in nanoseconds.
pub(crate) fn held_at(cursor: u64, now: u64) -> u64 {
    now >> TICK_SHIFT << HELD_BITS | held_key(cursor)
}

fn held_key(cursor: u64) -> u64 {
    let index_and_cycle = (cursor & INDEX) | (cursor / ROUND * (INDEX + 1));
    (index_and_cycle << 1 | 1) & ((1 << HELD_BITS) - 1)
}

/// Returns when a time of so many ticks has passed since senders were first held up by the cursor,
/// in nanoseconds, as `now` is. Returns `None` if the word is about another cursor.
pub(crate) fn patience_ends(held: u64, cursor: u64, patience: u32, now: u64) -> Option<u64> {
    let is_about_it = held & ((1 << HELD_BITS) - 1) == held_key(cursor);
    let passed =
        (now >> TICK_SHIFT).wrapping_sub(held >> HELD_BITS) & ((1 << (u64::BITS - HELD_BITS)) - 1);
    let left = u64::from(patience).saturating_sub(passed);
    is_about_it.then(|| now.saturating_add(left << TICK_SHIFT))
}

/// Returns what an exchange makes of a word when it leaves the slot `spare` there. An empty entry
/// becomes a full one. A full entry becomes an empty one of the next cycle. A returned task's place
/// becomes an empty one.
#[inline]
pub(crate) fn exchanged(seen: u64, spare: usize) -> u64 {
    if seen & FLAGS == 0 { filled(seen, spare) } else { emptied(seen, spare) }
}

/// Returns the same of an empty entry.
#[inline]
pub(crate) fn filled(seen: u64, spare: usize) -> u64 {
    seen & !(INDEX | FLAGS) | FULL | spare as u64
}

/// Returns the same of a full entry.
#[inline]
pub(crate) fn emptied(seen: u64, spare: usize) -> u64 {
    (seen & !(INDEX | FLAGS)).wrapping_add(ROUND) | spare as u64
}

/// Returns a word with another slot and other flags.
#[inline]
pub(crate) fn with(word: u64, flags: u64, slot: usize) -> u64 {
    word & !(INDEX | FLAGS) | flags | slot as u64
}

/// Returns a slot's `taker`, after a participant has noted that it took the slot.
#[inline(always)]
pub(crate) fn noted(taker: u64, id: usize) -> u64 {
    // The next number of the count, and in the lower bits, which are 0 then, the id plus 1.
    (taker | INDEX).wrapping_add(id as u64 + 2)
}

/// Returns whether the participant was the last one to take a slot with this `taker`.
#[inline]
pub(crate) fn is_noted(taker: u64, id: usize) -> bool {
    index(taker) == id + 1
}

/// Returns whether no participant has an id with this `life`, and nothing is left to be done for
/// its last one.
#[inline]
pub(crate) fn is_over(life: u64) -> bool {
    life & PHASE == 0
}

/// Returns the word of the same life once it is over.
pub(crate) fn over(life: u64) -> u64 {
    if is_over(life) { life } else { (life | PHASE).wrapping_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_takers_are_counted() {
        let mut taker = 0;
        for (count, id) in [(1, 0), (2, 7), (3, 7), (4, INDEX as usize - 1)] {
            taker = noted(taker, id);
            assert!(is_noted(taker, id) && !is_noted(taker, id + 1));
            assert_eq!(taker >> 21, count);
        }
        // The wrap.
        assert_eq!(noted(!INDEX, 0), 1);
    }

    #[test]
    fn lives_only_go_up() {
        let mut life = 0;
        for _ in 0..3 {
            assert!(is_over(life) && over(life) == life);
            let (lives, settled) = (life | LIVES, life | SETTLED);
            assert!(!is_over(lives) && !is_over(settled) && life < lives && lives < settled);
            life = over(lives);
            assert!(life == over(settled) && life > settled);
        }
    }

    #[test]
    fn positions_go_round() {
        for len in [1, 2, 3, 64, 1 << 20] {
            let mut at = ROUND;
            for step in 0..3 * len.min(100) {
                assert_eq!(distance(at, ROUND, len), step as i64);
                assert_eq!(is_before(ROUND, at), step > 0);
                assert_eq!(distance(ROUND, at, len), -(step as i64));
                at = next(at, len);
            }
        }
        assert_eq!(next(ROUND + 2, 3), 2 * ROUND);
    }

    #[test]
    fn distances_survive_the_wrap_of_the_cycle() {
        let last = !(INDEX | FLAGS);
        let after = next(last, 1);
        assert_eq!(after, 0);
        assert_eq!(distance(after, last, 1), 1);
        assert_eq!(distance(last, after, 1), -1);
        assert!(is_before(last, after) && !is_before(after, last));
    }

    #[test]
    fn an_entry_goes_from_empty_to_full_to_the_next_cycle() {
        let empty = ROUND | 5;
        let full = exchanged(empty, 7);
        assert_eq!(full, ROUND | FULL | 7);
        assert_eq!(exchanged(full, 9), (2 * ROUND) | 9);
        assert_eq!(exchanged(ROUND | RETURNED | 3, 4), (2 * ROUND) | 4);
    }

    #[test]
    fn puts_of_a_broadcast_are_counted() {
        let mut entry = ROUND;
        for count in 0..7 {
            assert_eq!(lap(entry), count * ROUND);
            entry = exchanged(entry, 5);
        }
    }

    #[test]
    fn so_many_entries_on_and_back() {
        for len in [1, 2, 3, 64] {
            let mut at = 7 * ROUND;
            for _ in 0..3 * len {
                for count in 0..=len {
                    let there = after(at, count, len);
                    assert_eq!(distance(there, at, len), count as i64);
                    assert_eq!(before(there, count, len), at);
                }
                at = next(at, len);
            }
        }
        // There is nothing before the beginning.
        assert_eq!((before(ROUND, 1, 3), before(ROUND + 1, 2, 3)), (ROUND, ROUND));
        // The wrap.
        let last = !(INDEX | FLAGS);
        assert_eq!((after(last, 1, 1), before(0, 1, 1)), (0, last));
    }

    #[test]
    fn patience_is_that_with_one_cursor() {
        let (cursor, since) = ((9 * ROUND) | SUBSCRIBED | 3, 1 << 50);
        let held = held_at(cursor, since);
        assert_eq!(patience_ends(held, cursor, 4, since), Some(since + (4 << 20)));
        let later = since + (3 << 20);
        assert_eq!(patience_ends(held, cursor, 4, later), Some(later + (1 << 20)));
        let too_late = since + (9 << 20);
        assert_eq!(patience_ends(held, cursor, 4, too_late), Some(too_late));
        assert_eq!(patience_ends(held, cursor + 1, 4, since), None);
        assert_eq!(patience_ends(0, SUBSCRIBED, 4, since), None);
        assert_eq!(patience_ends(held, cursor + (ROUND << 17), 4, since), None);
        assert_eq!(patience_ends(held, cursor + ROUND, 4, since), None);
        // The clock's ticks wrap in the word.
        let wrap = (1 << 44) - (1 << 20);
        let held = held_at(cursor, wrap);
        let then = wrap + (2 << 20);
        assert_eq!(patience_ends(held, cursor, 4, then), Some(then + (2 << 20)));
    }
}
