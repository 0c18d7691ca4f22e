//! How everything in this crate waits: first it looks again for a moment, then it sleeps in slices,
//! until a deadline on the monotonic clock.

use core::cell::Cell;
use core::hint;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use core::time::Duration;
use std::time::Instant;

use crossproc_sys::clock;
use crossproc_sys::futex::{Awake, MAX_SPINS};

const DEFAULT_SLICE: u64 = 100_000_000;
const SLICES_OFF: u64 = 0;

/// The length of a slice in nanoseconds. Relaxed everywhere: it orders nothing, a stale value is
/// one more slice of the old length.
static SLICE: AtomicU64 = AtomicU64::new(DEFAULT_SLICE);

/// The length of the slices that every sleep of this process is cut into; `None` if sleeps are not
/// cut.
#[must_use]
pub fn slice() -> Option<Duration> {
    match SLICE.load(Relaxed) {
        SLICES_OFF => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}

/// Sets the length of the slices that every sleep of this process is cut into, from its next sleep
/// on. 100 ms at the start.
///
/// After each slice a sleeper looks at the state again, without the caller noticing. This bounds
/// the delay from a wake-up that was lost because a process died or was stopped at the wrong
/// instruction of it. A shorter slice bounds it tighter and costs a system call per slice and
/// sleeper; `None` leaves sleepers to the wake-ups alone, which this crate's own tests do
/// so that slices hide nothing. Lengths under 1 µs count as 1 µs.
///
/// Slices are also what is left where a peer keeps wake-ups from others: one that waits on a
/// primitive's word by itself takes those that were for another, and one that waits there as for a
/// mutex with priority inheritance makes the kernel refuse them.
///
/// Forked children inherit it, executed programs do not.
pub fn set_slice(slice: Option<Duration>) {
    let nanos = slice
        .map_or(SLICES_OFF, |slice| u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX).max(1_000));
    SLICE.store(nanos, Relaxed);
}

/// How long a call may wait, and whether a signal ends it: what the `_with` form of every blocking
/// operation takes.
///
/// It holds an absolute deadline on `CLOCK_MONOTONIC`, so the same one can be used again after an
/// interruption.
///
/// # Signals
/// A signal changes nothing, unless the wait is made interruptible. There are two ways:
///
/// | | ends the wait | misses |
/// |---|---|---|
/// | [`interruptible_by`](Wait::interruptible_by) a flag | the flag, which the handler sets | nothing |
/// | [`interruptible`](Wait::interruptible) | the kernel's word (`EINTR`) that some handler ran | a handler that runs while the thread does not sleep, or as its sleep ends by itself |
///
/// The kernel's word alone is never enough for a Ctrl-C: a handler that runs just before the thread
/// falls asleep, or in the same moment in which it is woken or a [slice](set_slice) is over,
/// interrupts no system call. The wait then goes on as if no signal had come. So use a flag for
/// whatever must not get lost.
///
/// # Examples
/// ```
/// use crossproc::{Event, EventError, Wait};
/// use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
/// use std::time::Duration;
///
/// static READY: Event = Event::new();
/// static SIGNALLED: AtomicBool = AtomicBool::new(false);
///
/// extern "C" fn handle(_: i32) {
///     SIGNALLED.store(true, SeqCst);
/// }
/// # // SAFETY: the handler stores to an atomic, which any context may do.
/// # unsafe { libc::signal(libc::SIGALRM, handle as extern "C" fn(i32) as usize) };
/// # // SAFETY: sets the process's timer.
/// # unsafe { libc::alarm(1) };
/// // With `handle` installed for a signal:
/// let wait = Wait::timeout(Duration::from_secs(10)).interruptible_by(&SIGNALLED);
/// let mut interruptions = 0;
/// let result = loop {
///     match READY.wait_with(wait) {
///         // First take the flag back, then see what the handler wants, then go on.
///         Err(EventError::Interrupted) => {
///             SIGNALLED.store(false, SeqCst);
///             interruptions += 1;
///             READY.set();
///         }
///         result => break result,
///     }
/// };
/// assert_eq!((result, interruptions), (Ok(()), 1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// In [`clock::now`]'s nanoseconds; `None`: waits for ever.
    deadline: Option<u64>,
    interruption: Interruption,
}

/// What ends a wait before its time: a flag, [`CALL`], or nothing. In one word: the explorations
/// hash every byte of a waiter, and would take bytes that are not used for states.
type Interruption = Option<Flag>;

/// Stands for a call that a signal handler has interrupted. Never set.
static CALL: AtomicBool = AtomicBool::new(false);

/// What a signal handler sets. Two are equal that are the same one.
#[derive(Debug, Clone, Copy)]
struct Flag(&'static AtomicBool);

impl Flag {
    fn is_set(self) -> bool {
        // Acquire: pairs with what the handler stores, which may run in another thread.
        self.0.load(Acquire)
    }
}

impl PartialEq for Flag {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}

impl Eq for Flag {}

impl Wait {
    /// As long as it takes.
    pub const FOREVER: Wait = Wait { deadline: None, interruption: None };
    /// Not at all: the deadline has passed.
    pub const NONE: Wait = Wait { deadline: Some(0), interruption: None };

    /// From now on for `timeout`; one beyond the clock's 584 years, such as [`Duration::MAX`], is
    /// for ever.
    #[must_use]
    pub fn timeout(timeout: Duration) -> Self {
        Wait::FOREVER.within(timeout)
    }

    /// Until `deadline`: a past one is due at once.
    #[must_use]
    pub fn deadline(deadline: Instant) -> Self {
        // Both clocks are CLOCK_MONOTONIC; what passes between the two readings is all that is
        // added.
        Wait::timeout(deadline.saturating_duration_since(Instant::now()))
    }

    /// The same, but it ends with an error of its own, `Interrupted`, while `flag` is set.
    ///
    /// It is for language bindings, and for all who must not miss a signal. The handler sets the
    /// flag, and the caller, once it has the error, takes it back, does what is to be done, and
    /// waits again with the same deadline. Handlers that leave the flag alone do not end the wait.
    ///
    /// The thread looks at the flag before every sleep, and a sleep lasts a [slice](set_slice) at
    /// most. So a wait ends at once if the kernel interrupts a sleep for the handler, and otherwise
    /// within one slice after the flag was set, whatever else happened at the same time; where a
    /// slice is shorter than 10 ms, within 10 ms. With slices off (`None`) nothing bounds it: a
    /// handler that runs between the look and the sleep is then seen when something else ends the
    /// sleep.
    ///
    /// - What can be done at once is done, and a deadline that has passed is reported, though the
    ///   flag be set.
    /// - A [`Condition`](crate::Condition) first gets its lock back, which takes as long as another
    ///   holds it.
    /// - Any thread may set the flag. Only a signal that is handled in the waiting thread ends a
    ///   sleep at once.
    ///
    /// It is `'static` because that is what a handler can reach. It costs nothing where the call
    /// does not wait, and one load before each sleep where it does.
    ///
    /// A binding whose interpreter has handlers already installs its own, which sets the flag and
    /// then calls the one that was there.
    #[must_use]
    pub const fn interruptible_by(self, flag: &'static AtomicBool) -> Self {
        Wait { interruption: Some(Flag(flag)), ..self }
    }

    /// The same, but it ends with an error of its own, `Interrupted`, when a signal handler has
    /// interrupted the waiting thread's sleep.
    ///
    /// **It can miss a handler**: one that runs just before the thread falls asleep, or in the
    /// moment in which a slice is over or the thread is woken. Nothing tells of it, then or later.
    /// [`interruptible_by`](Wait::interruptible_by) misses none.
    ///
    /// A handler that was installed with `SA_RESTART` asks the kernel to go on sleeping. It is
    /// noticed in a wait for a lock or a semaphore all the same, and not in one for an event, a
    /// condition, a barrier, a permit, or for readers to leave, which sleep by `futex_waitv`.
    #[must_use]
    pub const fn interruptible(self) -> Self {
        Wait { interruption: Some(Flag(&CALL)), ..self }
    }

    /// The same from now on for `timeout`.
    pub(crate) fn within(self, timeout: Duration) -> Self {
        let nanos = u64::try_from(timeout.as_nanos()).ok();
        let deadline = nanos.and_then(|nanos| clock::now().checked_add(nanos));
        Wait { deadline, ..self }
    }

    /// The deadline in [`clock::now`]'s nanoseconds, if there is one.
    pub(crate) fn until(self) -> Option<u64> {
        self.deadline
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_over(self) -> bool {
        self.deadline.is_some_and(|deadline| clock::now() >= deadline)
    }

    /// Whether it is interrupted already: look before every sleep.
    pub(crate) fn is_interrupted(self) -> bool {
        self.interruption.is_some_and(Flag::is_set)
    }

    /// Whether a call that a signal handler has interrupted ends the wait.
    pub(crate) fn ends_by_signal(self) -> bool {
        self.interruption == Some(Flag(&CALL)) || self.is_interrupted()
    }

    /// When a sleep that nothing else cuts is to end, so that the flag is looked at: after a slice,
    /// if there is a flag.
    pub(crate) fn look_at(self) -> Option<u64> {
        let slice =
            slice().filter(|_| self.interruption.is_some_and(|flag| flag != Flag(&CALL)))?;
        // A slice is never longer than fits.
        Some(clock::now().saturating_add(slice.as_nanos() as u64))
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
        match self.ended {
            Some(ended) => Err(ended),
            None if self.wait.is_over() => Err(Ended::TimedOut),
            None if self.wait.is_interrupted() => Err(Ended::Interrupted),
            None => Ok(()),
        }
    }

    /// Looks at the state for a while before the first sleep of a call, and not again after it.
    /// Says whether `look` said yes.
    pub(crate) fn spin(&mut self, look: impl FnMut() -> bool) -> bool {
        !core::mem::replace(&mut self.has_spun, true) && spin(look)
    }

    /// Sleeps for a slice at most. When it returns, look at the state before sleeping again.
    /// `wait` is the futex call, which gets the end of the slice. Returns how it ended.
    ///
    /// That a call ended by itself (ETIMEDOUT, EAGAIN, a wake) does not say that no handler ran: it
    /// may have run in the same moment, or before the call. So the flag is looked at on both sides:
    /// here, as near to the call as can be, and in [`check`](Waiter::check).
    pub(crate) fn sleep(&mut self, wait: impl FnOnce(Option<u64>) -> Awake) -> Awake {
        let slice = SLICE.load(Relaxed);
        let slice_end = (slice != SLICES_OFF).then(|| clock::now().saturating_add(slice));
        let deadline = self.wait.deadline;
        let until = match (deadline, slice_end) {
            (Some(deadline), Some(slice_end)) => Some(deadline.min(slice_end)),
            // With some time-out the kernel does not restart the call after a handler with
            // SA_RESTART.
            (None, None) if self.wait.interruption.is_some() => Some(NEVER),
            (deadline, slice_end) => deadline.or(slice_end),
        };
        if self.wait.is_interrupted() {
            self.ended = Some(Ended::Interrupted);
            return Awake::Interrupted;
        }
        let awake = wait(until);
        self.ended = match awake {
            Awake::TimedOut if until == deadline => Some(Ended::TimedOut),
            Awake::Interrupted if self.wait.ends_by_signal() => Some(Ended::Interrupted),
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
/// After so many, one spins to the full, which is as long as it takes to wake another up: only so
/// two that sleep for each other in turns come to spin for each other.
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
