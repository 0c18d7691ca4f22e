//! How everything in this crate waits: first it looks again for a moment, then it sleeps in slices, until a deadline on the monotonic clock.

use core::cell::Cell;
use core::hint;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::time::Instant;

use crossproc_sys::clock;
use crossproc_sys::futex::{Awake, MAX_SPINS};

const DEFAULT_SLICE: u64 = 100_000_000;
const SLICES_OFF: u64 = 0;

/// The length of a slice in nanoseconds. Relaxed everywhere: it orders nothing, a stale value is one more slice of the old length.
static SLICE: AtomicU64 = AtomicU64::new(DEFAULT_SLICE);

/// The length of the slices that every sleep of this process is cut into; `None` if sleeps are not cut.
#[must_use]
pub fn slice() -> Option<Duration> {
    match SLICE.load(Relaxed) {
        SLICES_OFF => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}

/// Sets the length of the slices that every sleep of this process is cut into, from its next sleep on. 100 ms at the start.
///
/// After each slice a sleeper looks at the state again, without the caller noticing. This bounds the delay from a
/// wake-up that was lost because a process died or was stopped at the wrong instruction of it. A shorter slice
/// bounds it tighter and costs a system call per slice and sleeper; `None` leaves sleepers to the wake-ups alone, which this crate's own tests do
/// so that slices hide nothing. Lengths under 1 µs count as 1 µs.
///
/// Slices are also what is left where a peer keeps wake-ups from others: one that waits on a
/// primitive's word by itself takes those that were for another, and one that waits there as for a
/// mutex with priority inheritance makes the kernel refuse them.
///
/// Forked children inherit it, executed programs do not.
pub fn set_slice(slice: Option<Duration>) {
    let nanos = slice.map_or(SLICES_OFF, |slice| u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX).max(1_000));
    SLICE.store(nanos, Relaxed);
}

/// How long a call may wait, and whether a signal ends it: what the `_with` form of every blocking operation takes.
///
/// It holds an absolute deadline on `CLOCK_MONOTONIC`, so the same one can be used again after an interruption.
///
/// ```
/// use crossproc::{Event, EventError, Wait};
/// use std::time::Duration;
///
/// static READY: Event = Event::new();
///
/// let wait = Wait::timeout(Duration::from_millis(10)).interruptible();
/// let result = loop {
///     match READY.wait_with(wait) {
///         Err(EventError::Interrupted) => { /* a signal handler ran: see what it wants, then go on */ }
///         result => break result,
///     }
/// };
/// assert_eq!(result, Err(EventError::TimedOut));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// In [`clock::now`]'s nanoseconds; `None`: waits for ever.
    deadline: Option<u64>,
    is_interruptible: bool,
}

impl Wait {
    /// As long as it takes.
    pub const FOREVER: Wait = Wait { deadline: None, is_interruptible: false };
    /// Not at all: the deadline has passed.
    pub const NONE: Wait = Wait { deadline: Some(0), is_interruptible: false };

    /// From now on for `timeout`; one beyond the clock's 584 years, such as [`Duration::MAX`], is for ever.
    #[must_use]
    pub fn timeout(timeout: Duration) -> Self {
        let nanos = u64::try_from(timeout.as_nanos()).ok();
        let deadline = nanos.and_then(|nanos| clock::now().checked_add(nanos));
        Wait { deadline, ..Wait::FOREVER }
    }

    /// Until `deadline`: a past one is due at once.
    #[must_use]
    pub fn deadline(deadline: Instant) -> Self {
        // Both clocks are CLOCK_MONOTONIC; what passes between the two readings is all that is added.
        Wait::timeout(deadline.saturating_duration_since(Instant::now()))
    }

    /// The same, but it ends, with an error of its own, when a signal handler has run in the waiting thread while it slept.
    ///
    /// For language bindings, which run their own handlers then and go on with the same deadline. A handler that runs just before the thread falls asleep is not noticed, as with
    /// every system call. One that was installed with `SA_RESTART` asks the kernel to go on sleeping: it is noticed in a wait for a lock or a semaphore all the same, and not in one for an event, a condition, a barrier, a permit,
    /// or for readers to leave, which sleep by `futex_waitv`.
    #[must_use]
    pub const fn interruptible(self) -> Self {
        Wait { is_interruptible: true, ..self }
    }

    /// The deadline in [`clock::now`]'s nanoseconds, if there is one.
    pub(crate) fn until(self) -> Option<u64> {
        self.deadline
    }

    pub(crate) fn ends_by_signal(self) -> bool {
        self.is_interruptible
    }
}

/// Why a wait ended before the state was as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    TimedOut,
    Interrupted,
}

/// One blocking call's time: how long it may still take, and whether it has spun already.
#[derive(Debug)]
pub(crate) struct Waiter {
    wait: Wait,
    ended: Option<Ended>,
    has_spun: bool,
}

impl Waiter {
    pub(crate) fn new(wait: Wait) -> Self {
        Waiter { wait, ended: None, has_spun: false }
    }

    /// The deadline in [`clock::now`]'s nanoseconds, if there is one.
    pub(crate) fn until(&self) -> Option<u64> {
        self.wait.until()
    }

    pub(crate) fn check(&self) -> Result<(), Ended> {
        match (self.ended, self.wait.deadline) {
            (Some(ended), _) => Err(ended),
            (None, Some(deadline)) if clock::now() >= deadline => Err(Ended::TimedOut),
            _ => Ok(()),
        }
    }

    /// Looks at the state for a while before the first sleep of a call, and not again after it. Says whether `look` said yes.
    pub(crate) fn spin(&mut self, look: impl FnMut() -> bool) -> bool {
        !core::mem::replace(&mut self.has_spun, true) && spin(look)
    }

    /// Sleeps for a slice at most. When it returns, look at the state before sleeping again.
    /// `wait` is the futex call, which gets the end of the slice. Returns how it ended.
    pub(crate) fn sleep(&mut self, wait: impl FnOnce(Option<u64>) -> Awake) -> Awake {
        let slice = SLICE.load(Relaxed);
        let slice_end = (slice != SLICES_OFF).then(|| clock::now().saturating_add(slice));
        let deadline = self.wait.deadline;
        let until = match (deadline, slice_end) {
            (Some(deadline), Some(slice_end)) => Some(deadline.min(slice_end)),
            // With some time-out the kernel does not restart the call after a handler with SA_RESTART.
            (None, None) if self.wait.is_interruptible => Some(NEVER),
            (deadline, slice_end) => deadline.or(slice_end),
        };
        let awake = wait(until);
        self.ended = match awake {
            Awake::TimedOut if until == deadline => Some(Ended::TimedOut),
            Awake::Interrupted if self.wait.is_interruptible => Some(Ended::Interrupted),
            // A call that a signal handler interrupted goes on, towards the same deadline.
            _ => None,
        };
        awake
    }
}

/// 292 years after the start: the end of the kernel's clock.
const NEVER: u64 = i64::MAX as u64;

/// The CPUs that this process may run on, counted at its first wait; 0: not yet.
static CPUS: AtomicU32 = AtomicU32::new(0);

#[cold]
fn count_cpus() -> u32 {
    let cpus = crossproc_sys::process::cpus();
    CPUS.store(cpus, Relaxed);
    cpus
}

/// How many looks at the least, so that one success can raise the number again.
const MIN_SPINS: u32 = 4;
/// How many there are worth a try: a hand-over between two CPUs takes less.
const SHORT_SPINS: u32 = 128;
/// After so many waits in which spinning was in vain, one spins for that long.
const PROBE_EVERY: u32 = 16;
/// After so many, one spins to the full, which is as long as it takes to wake another up: only so two that sleep for each other in turns come to spin for each other.
const LONG_PROBE_EVERY: u32 = 512;

thread_local! {
    /// How often this thread looks before it sleeps, learned from its own waits, and how many of them in a row were in vain.
    static SPINS: Cell<(u32, u32)> = const { Cell::new((if MAX_SPINS < SHORT_SPINS { MAX_SPINS } else { SHORT_SPINS }, 0)) };
}

#[allow(clippy::unnecessary_min_or_max, reason = "MAX_SPINS is 0 in the models")]
fn spin(mut look: impl FnMut() -> bool) -> bool {
    let cpus = match CPUS.load(Relaxed) {
        0 => count_cpus(),
        cpus => cpus,
    };
    // On one CPU, whoever would change the state runs only once this thread sleeps.
    if cpus == 1 || MAX_SPINS == 0 {
        return false;
    }
    let (learned, in_vain) = SPINS.get();
    let budget = match in_vain + 1 {
        vain if vain % LONG_PROBE_EVERY == 0 => MAX_SPINS,
        vain if vain % PROBE_EVERY == 0 => learned.max(SHORT_SPINS),
        _ => learned,
    };
    for used in 0..budget {
        if look() {
            SPINS.set(((used * 4).min(MAX_SPINS).max(budget / 2).max(MIN_SPINS), 0));
            return true;
        }
        hint::spin_loop();
    }
    SPINS.set(((learned / 2).max(MIN_SPINS), in_vain.wrapping_add(1) % LONG_PROBE_EVERY));
    false
}
