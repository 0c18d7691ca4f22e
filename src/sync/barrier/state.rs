//! The state machine of the barrier.
//!
//! # Goal
//! All parties of a phase return once the last of them has arrived, or all learn that the phase is
//! broken. Any participant may die or be stopped at any instruction without keeping the others from
//! that: see [`Broadcast`]. An arrival counts, whether the party is still alive or not.
//!
//! # The word
//! | bits | name | meaning |
//! |---|---|---|
//! | 30 | `TURN` | changes whenever waiters are to look again |
//! | 31-33 | `WAITERS`, `WAKING`, `SEVERAL` | [`Broadcast`]'s |
//! | 34 | `BROKEN` | the phase is broken, until a reset |
//! | 35-50 | count | how many parties have arrived in this phase |
//! | 51-54 | resets | how the last phases ended, the latest in bit 51: 1 by a reset, 0 by all arriving |
//! | 55-63 | phase | how many phases have ended, modulo 2^9 |
//!
//! Arriving adds one to the count. The last party to arrive begins a new phase with count 0
//! instead. A party whose deadline passes sets `BROKEN`, if its phase has not ended. `abort` sets
//! it in whatever phase it finds. `reset` begins a new phase, which is not broken.
//!
//! A waiter compares the phase in the word with its own. While they are equal, `BROKEN` ends the
//! wait. Once they differ, the bit in `resets` that belongs to its phase says how that ended, as
//! long as at most four phases have ended since. A phase does not end without its parties. So more
//! than one can have ended since only by resets, or with more participants than parties. If more
//! than four have ended, the bit is gone, and any reset among the last four counts for it.
//!
//! # Overflow
//! A waiter that is stopped while exactly 2^9 phases end, most of them by resets, takes a later
//! phase for its own.
//!
//! # Memory ordering
//! Arriving is AcqRel. The last party to arrive is ordered after all others, and a waiter that sees
//! the new phase (Acquire) is ordered after the last. All changes are exchanges and continue the
//! release sequence.

use core::convert::Infallible;

use crossproc_sys::atomic::Ordering::{AcqRel, Relaxed};

use crate::wait::broadcast::Broadcast;
use crate::wait::wake_on_death::with_wake_on_death;
use crate::wait::{Ended, Wait, Waiter};

const TURN: u64 = 1 << 30;
const BROKEN: u64 = 1 << 34;
const ONE_PARTY: u64 = 1 << 35;
const COUNT: u64 = 0xffff * ONE_PARTY;
const LAST_RESET: u64 = 1 << 51;
const RESETS: u64 = 0xf * LAST_RESET;
const ONE_PHASE: u64 = 1 << 55;
const PHASE: u64 = !(ONE_PHASE - 1);

/// The largest number of parties that the count has room for.
pub(crate) const MAX_PARTIES: u32 = 0xffff;

/// The barrier's shared state, without the public methods and without the number of parties.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct RawBarrier {
    state: Broadcast<{ PHASE | BROKEN }>,
}

/// The barrier is broken, or was broken during the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// One party's arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// The phase's bits.
    phase: u64,
    /// How many parties had arrived before.
    pub(crate) index: u32,
    pub(crate) is_last: bool,
}

/// How a wait ended without the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    Broken,
    Ended(Ended),
}

impl RawBarrier {
    pub(crate) const fn new() -> Self {
        RawBarrier { state: Broadcast::new() }
    }

    /// Arrives, unless the barrier is broken. With `only_last` it arrives only as the last party,
    /// and returns `None` while others are missing.
    pub(crate) fn arrive(&self, parties: u32, only_last: bool) -> Result<Option<Arrived>, Broken> {
        let is_last = |seen| count(seen) + 1 >= parties;
        let seen = with_wake_on_death(self.state.word(), || {
            let mut seen = self.state.word().load(Relaxed);
            loop {
                if seen & BROKEN != 0 {
                    return Err(Broken);
                }
                if is_last(seen) {
                    // AcqRel: pairs with the exchanges of the earlier arrivals, and with the
                    // Acquire of the waiters.
                    let next = |seen| {
                        if seen & BROKEN != 0 || !is_last(seen) {
                            Err(seen)
                        } else {
                            Ok(next_phase(seen, 0))
                        }
                    };
                    match self.state.change(AcqRel, next) {
                        Ok(before) => return Ok(Some(before)),
                        Err(now) => seen = now,
                    }
                } else if only_last {
                    return Ok(None);
                } else {
                    // AcqRel: as above.
                    match self.state.word().compare_exchange_weak(
                        seen,
                        seen.wrapping_add(ONE_PARTY),
                        AcqRel,
                        Relaxed,
                    ) {
                        Ok(_) => return Ok(Some(seen)),
                        Err(now) => seen = now,
                    }
                }
            }
        })?;
        Ok(seen.map(|seen| Arrived {
            phase: seen & PHASE,
            index: count(seen),
            is_last: is_last(seen),
        }))
    }

    /// Waits until the phase in which this party has arrived has ended.
    pub(crate) fn wait(&self, arrived: Arrived, wait: Wait) -> Result<(), Failed> {
        if arrived.is_last {
            return Ok(());
        }
        let mut waiter = Waiter::new(wait);
        with_wake_on_death(self.state.word(), || {
            let result =
                match self.state.wait_pending(&mut waiter, |seen, _| outcome(seen, arrived)) {
                    Ok(outcome) => outcome,
                    Err(Ended::Interrupted) => return Err(Failed::Ended(Ended::Interrupted)),
                    Err(Ended::TimedOut) => {
                        // The phase may end, or break, before this party breaks it.
                        let next = |seen| outcome(seen, arrived).map_or(Ok(broken(seen)), Err);
                        match self.state.change(AcqRel, next) {
                            Ok(_) => return Err(Failed::Ended(Ended::TimedOut)),
                            Err(outcome) => outcome,
                        }
                    }
                };
            result.map_err(|Broken| Failed::Broken)
        })
    }

    /// Breaks the phase, for its waiters and for later arrivals.
    pub(crate) fn abort(&self) {
        let next = |seen| if seen & BROKEN != 0 { Err(()) } else { Ok(broken(seen)) };
        // If it is broken already, the thread that broke it has woken all waiters, or died trying.
        let _ = with_wake_on_death(self.state.word(), || self.state.change(AcqRel, next));
    }

    /// Begins a new phase. Waiters of the old one find it broken.
    pub(crate) fn reset(&self) {
        let next = |seen| Ok::<_, Infallible>(next_phase(seen, LAST_RESET));
        let Ok(_) = with_wake_on_death(self.state.word(), || self.state.change(AcqRel, next));
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.state.word().load(Relaxed) & BROKEN != 0
    }

    pub(crate) fn n_waiting(&self) -> u32 {
        let seen = self.state.word().load(Relaxed);
        if seen & BROKEN == 0 { count(seen) } else { 0 }
    }
}

fn count(word: u64) -> u32 {
    ((word & COUNT) / ONE_PARTY) as u32
}

fn broken(seen: u64) -> u64 {
    (seen | BROKEN) ^ TURN
}

/// Returns the word for a new phase in which no party has arrived. `reset` says how the phase
/// before it ended. The sleepers' flags stay: they are [`Broadcast`]'s.
fn next_phase(seen: u64, reset: u64) -> u64 {
    let resets = (seen & RESETS) << 1 & RESETS | reset;
    ((seen & PHASE).wrapping_add(ONE_PHASE) | resets | seen & (ONE_PARTY - 1) & !BROKEN) ^ TURN
}

/// Returns what the word says about the phase of `arrived`: that it has ended, that it is broken,
/// or nothing yet.
fn outcome(seen: u64, arrived: Arrived) -> Option<Result<(), Broken>> {
    let ended_since = (seen & PHASE).wrapping_sub(arrived.phase) / ONE_PHASE;
    match ended_since {
        0 if seen & BROKEN != 0 => Some(Err(Broken)),
        0 => None,
        phases => {
            let of_phase = LAST_RESET.checked_shl(phases as u32 - 1).unwrap_or(0) & RESETS;
            let of_phase = if of_phase == 0 { RESETS } else { of_phase };
            Some(if seen & of_phase == 0 { Ok(()) } else { Err(Broken) })
        }
    }
}
