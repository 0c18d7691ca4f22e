//! The words of a queue: positions, entries and places, which have one layout.
//!
//! | bits | of a position (`head`, `tail`) | of an entry of a ring | of a participant's place |
//! |---|---|---|---|
//! | 0-20 | index of an entry | slot | slot |
//! | 21 | [`WAITERS`]: someone may sleep on it | [`FULL`]: put, and not got | [`TASK`]: a task in hand |
//! | 22 | [`CLOSED`]: no more puts | [`SEALED`]: none ever again | [`RETURNED`]: a task for whoever comes |
//! | 23-63 | cycle | cycle | how often its task was taken from it |
//!
//! A put at a position makes the entry `FULL` in the position's cycle; the get there makes it empty, in the next one. So an entry's word never comes
//! back, but for the wrap of 41 bits: a participant that is stopped for exactly 2^41 laps takes one lap for another.
//!
//! Cycles begin at 1, so no entry and no place is ever 0.

/// Index or slot.
pub(crate) const INDEX: u64 = (1 << 21) - 1;
/// Of a position.
pub(crate) const WAITERS: u64 = 1 << 21;
/// Of a position.
pub(crate) const CLOSED: u64 = 1 << 22;
/// Of the roster: somebody has begun to close the queue.
pub(crate) const CLOSING: u64 = 1 << 30;
/// Of an entry.
pub(crate) const FULL: u64 = 1 << 21;
/// Of an entry, empty.
pub(crate) const SEALED: u64 = 1 << 22;
/// Of a place.
pub(crate) const TASK: u64 = 1 << 21;
/// Of a place.
pub(crate) const RETURNED: u64 = 1 << 22;
/// The two flags of any of them.
pub(crate) const FLAGS: u64 = 3 << 21;
/// One cycle.
pub(crate) const ROUND: u64 = 1 << 23;

/// How many bits are left for cycles.
const ROUND_SHIFT: u32 = ROUND.trailing_zeros();

/// The index, or the slot, in any word.
#[inline]
pub(crate) fn index(word: u64) -> usize {
    (word & INDEX) as usize
}

/// The position in a counter, without its flags.
#[inline]
pub(crate) fn position(counter: u64) -> u64 {
    counter & !FLAGS
}

/// The cycle of a position, where an entry has it.
#[inline]
pub(crate) fn cycle(position: u64) -> u64 {
    position & !(INDEX | FLAGS)
}

/// The position after one, in a ring of `len` entries.
#[inline]
pub(crate) fn next(position: u64, len: u64) -> u64 {
    if (position & INDEX) + 1 < len { position + 1 } else { cycle(position).wrapping_add(ROUND) }
}

/// How many entries `to` is ahead of `from`, in a ring of `len`; less than 0 if it is behind.
#[inline]
pub(crate) fn distance(to: u64, from: u64, len: u64) -> i64 {
    let laps = cycle(to).wrapping_sub(cycle(from)) as i64 >> ROUND_SHIFT;
    laps.wrapping_mul(len as i64) + (index(to) as i64 - index(from) as i64)
}

/// What an exchange makes of a word when it leaves the slot `spare` there: of an empty entry a full one, of a full one an empty one of the next cycle, of a
/// returned task's place an empty one.
#[inline]
pub(crate) fn exchanged(seen: u64, spare: usize) -> u64 {
    let rest = seen & !(INDEX | FLAGS);
    let after = if seen & FLAGS == 0 { rest | FULL } else { rest.wrapping_add(ROUND) };
    after | spare as u64
}

/// A word with another slot and other flags.
#[inline]
pub(crate) fn with(word: u64, flags: u64, slot: usize) -> u64 {
    word & !(INDEX | FLAGS) | flags | slot as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_go_round() {
        for len in [1, 2, 3, 64, 1 << 20] {
            let mut at = ROUND;
            for step in 0..3 * len.min(100) {
                assert_eq!(distance(at, ROUND, len), step as i64);
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
    }

    #[test]
    fn an_entry_goes_from_empty_to_full_to_the_next_cycle() {
        let empty = ROUND | 5;
        let full = exchanged(empty, 7);
        assert_eq!(full, ROUND | FULL | 7);
        assert_eq!(exchanged(full, 9), 2 * ROUND | 9);
        assert_eq!(exchanged(ROUND | RETURNED | 3, 4), 2 * ROUND | 4);
    }
}
