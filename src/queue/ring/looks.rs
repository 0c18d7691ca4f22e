//! How much a look at all participants may cost.
//!
//! A thread that asks whether a task is unfinished looks at every participant. It begins again if
//! something has moved meanwhile. For each participant that is in the middle of something, it may
//! look at all others. Among participants that follow the protocol that is rare, and ends. A peer
//! that writes what it likes can make all of them seem to be in the middle of something, or make
//! everything move all the time. So a look has a budget. When the budget is spent, the answer is
//! *unknown*.

use crossproc_sys::clock;

/// The number of looks at one participant that an answer may cost: some milliseconds. For `n`
/// participants that pays for one look at all of them. It also pays for another look at all for
/// each of 2^21 / `n` participants that are in the middle of something that has gone on meanwhile.
/// Thousands of participants that follow the protocol do not spend it.
const MOST_LOOKS: u32 = 1 << 21;
/// The number of looks that do not depend on the deadline, besides one at each participant: a
/// caller that has no time looks once, too.
const FREE_LOOKS: u32 = 1 << 14;
/// The number of looks between two looks at the clock.
const LOOKS_A_TICK: u32 = 1 << 12;

/// What is left of a budget.
#[derive(Debug)]
pub(crate) struct Looks {
    left: u32,
    /// The clock is looked at once no more looks than this are left.
    tick: u32,
    /// The deadline, in the clock's nanoseconds.
    until: Option<u64>,
}

impl Looks {
    /// Returns a budget for a look at `count` participants, until a deadline, if there is one.
    pub(crate) fn new(count: usize, until: Option<u64>) -> Self {
        // There are fewer than 2^21 participants: each has slots.
        let free = FREE_LOOKS.saturating_add(count as u32);
        let left = MOST_LOOKS.saturating_add(free);
        Looks { left, tick: left - free, until }
    }

    /// Takes some looks. Returns whether any are left then.
    pub(crate) fn take(&mut self, count: usize) -> bool {
        self.left = self.left.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        if self.left <= self.tick && self.left != 0 {
            self.tick = self.left.saturating_sub(LOOKS_A_TICK);
            if self.until.is_some_and(|until| clock::now() >= until) {
                self.left = 0;
            }
        }
        !self.are_spent()
    }

    pub(crate) fn are_spent(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many times `count` looks can be taken.
    fn times(looks: &mut Looks, count: usize) -> u32 {
        (0..u32::MAX).find(|_| !looks.take(count)).unwrap()
    }

    #[test]
    fn without_a_deadline_all_are_there() {
        assert!(times(&mut Looks::new(1_000, None), 1_000) >= MOST_LOOKS / 1_000);
        assert!(times(&mut Looks::new(1_000, None), 1_000) < 2 * MOST_LOOKS / 1_000);
    }

    #[test]
    fn one_without_time_looks_at_everybody_once() {
        for count in [0, 1, 1_000, 1_000_000] {
            let mut looks = Looks::new(count, Some(0));
            assert!(looks.take(count));
            let more = times(&mut looks, 1);
            assert!((FREE_LOOKS - 1..=FREE_LOOKS + LOOKS_A_TICK).contains(&more), "{more}");
        }
    }

    #[test]
    fn what_is_spent_stays_spent() {
        let mut looks = Looks::new(1, None);
        assert!(!looks.take(usize::MAX));
        assert!(looks.are_spent() && !looks.take(0));
    }
}
