//! How everything in this crate waits: it spins for a moment, then sleeps in slices, until a
//! deadline on the monotonic clock.

use core::hint;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicBool, AtomicU64};
use core::time::Duration;
use std::time::Instant;

use crossproc_sys::clock;
use crossproc_sys::futex::{Awake, MAX_SPINS};

use self::spinning::spin;

// Named, since a benchmark includes this file.
#[path = "spinning.rs"]
mod spinning;

const DEFAULT_SLICE: u64 = 100_000_000;
const SLICES_OFF: u64 = 0;

/// The length of a slice in nanoseconds. Relaxed everywhere: it orders nothing, and a stale value
/// costs one more slice of the old length.
static SLICE: AtomicU64 = AtomicU64::new(DEFAULT_SLICE);

/// Returns the length of the slices that every sleep of this process is cut into, or `None` if
/// sleeps are not cut.
///
/// ```
/// use std::time::Duration;
///
/// assert_eq!(crossproc::recheck_interval(), Some(Duration::from_millis(100)));
/// ```
#[must_use]
pub fn recheck_interval() -> Option<Duration> {
    match SLICE.load(Relaxed) {
        SLICES_OFF => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}

/// Sets the length of the slices that every sleep of this process is cut into, from its next sleep
/// on. The initial length is 100 ms.
///
/// After each slice a sleeping thread looks at the state again, without the caller noticing. This
/// bounds the delay from a wake-up that was lost because a process died or was stopped at the wrong
/// instruction. A shorter slice bounds the delay more tightly, and costs a system call per slice
/// and sleeper. `None` leaves sleepers to the wake-ups alone; this crate's own tests do so, so that
/// slices hide nothing. Lengths under 1 µs count as 1 µs.
///
/// Slices are also what is left where a peer keeps wake-ups from others. A peer that waits on a
/// primitive's word by itself takes wake-ups that were for another. A peer that waits there as for
/// a mutex with priority inheritance makes the kernel refuse wake-ups.
///
/// Forked children inherit the length; executed programs do not.
///
/// ```
/// use crossproc::{recheck_interval, set_recheck_interval};
/// use std::time::Duration;
///
/// set_recheck_interval(Some(Duration::from_millis(10)));
/// assert_eq!(recheck_interval(), Some(Duration::from_millis(10)));
/// set_recheck_interval(None);
/// assert_eq!(recheck_interval(), None);
/// ```
pub fn set_recheck_interval(slice: Option<Duration>) {
    let nanos = slice
        .map_or(SLICES_OFF, |slice| u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX).max(1_000));
    SLICE.store(nanos, Relaxed);
}

/// How long a call may wait, and whether a signal ends it. The `_with` form of every blocking
/// operation takes one.
///
/// It holds an absolute deadline on `CLOCK_MONOTONIC`, so the same value can be used again after an
/// interruption.
///
/// # Signals
/// A signal changes nothing, unless the wait is made interruptible. There are two ways:
///
/// | | ends the wait | misses |
/// |---|---|---|
/// | [`interruptible_by`](Wait::interruptible_by) a flag | the flag, which the handler sets | nothing |
/// | [`interruptible`](Wait::interruptible) | the kernel's report (`EINTR`) that some handler ran | a handler that runs while the thread does not sleep, or as its sleep ends by itself |
///
/// The kernel's report alone is never enough for a Ctrl-C. A handler may run just before the thread
/// falls asleep, or in the same moment in which the thread is woken or a
/// [slice](set_recheck_interval) is over. It then interrupts no system call, and the wait goes on
/// as if no signal had come. So use a flag for every signal that must not get lost.
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
    /// In [`clock::now`]'s nanoseconds; `None` waits for ever.
    deadline: Option<u64>,
    interruption: Interruption,
}

/// What ends a wait before its time: a flag, [`CALL`], or nothing. It is one word: the explorations
/// hash every byte of a waiter, so that unused bytes would count as states.
type Interruption = Option<Flag>;

/// Stands for a call that a signal handler has interrupted. Never set.
static CALL: AtomicBool = AtomicBool::new(false);

/// A flag that a signal handler sets. Two flags are equal if they are the same one.
#[derive(Debug, Clone, Copy)]
struct Flag(&'static AtomicBool);

impl Flag {
    fn is_set(self) -> bool {
        // Acquire: pairs with the handler's store; the handler may run in another thread.
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
    /// A wait for as long as it takes.
    pub const FOREVER: Wait = Wait { deadline: None, interruption: None };
    /// No wait at all: the deadline has passed.
    pub const NONE: Wait = Wait { deadline: Some(0), interruption: None };

    /// Returns a wait for `timeout` from now on. A time-out beyond the clock's 584 years, such as
    /// [`Duration::MAX`], is for ever.
    ///
    /// ```
    /// use crossproc::{Event, EventError, Wait};
    /// use std::time::Duration;
    ///
    /// let never = Event::new();
    /// let wait = Wait::timeout(Duration::from_millis(1));
    /// assert_eq!(never.wait_with(wait), Err(EventError::TimedOut));
    /// ```
    #[must_use]
    pub fn timeout(timeout: Duration) -> Self {
        Wait::FOREVER.within(timeout)
    }

    /// Returns a wait until `deadline`. A past deadline is due at once.
    ///
    /// ```
    /// use crossproc::{Event, EventError, Semaphore, Wait};
    /// use std::time::{Duration, Instant};
    ///
    /// let (never, permits) = (Event::new(), Semaphore::new(1));
    /// // Both calls together take no longer.
    /// let wait = Wait::deadline(Instant::now() + Duration::from_millis(1));
    /// assert_eq!(never.wait_with(wait), Err(EventError::TimedOut));
    /// assert_eq!(permits.acquire_with(wait), Ok(()), "what can be done at once is done");
    /// ```
    #[must_use]
    pub fn deadline(deadline: Instant) -> Self {
        // Both clocks are CLOCK_MONOTONIC. Only the time between the two readings is added.
        Wait::timeout(deadline.saturating_duration_since(Instant::now()))
    }

    /// Returns the same wait, but it ends with an error of its own, `Interrupted`, while `flag` is
    /// set.
    ///
    /// It is for language bindings, and for all callers that must not miss a signal. The handler
    /// sets the flag. On the error the caller takes the flag back, does what is to be done, and
    /// waits again with the same deadline. Handlers that leave the flag alone do not end the wait.
    ///
    /// The thread looks at the flag before every sleep, and a sleep lasts a
    /// [slice](set_recheck_interval) at most. So a wait ends at once if the kernel interrupts a
    /// sleep for the handler. Otherwise it ends within one slice after the flag was set, whatever
    /// else happened at the same time; where a slice is shorter than 10 ms, within 10 ms. With
    /// slices off (`None`) nothing bounds it. A handler that runs between the look and the sleep is
    /// then noticed when something else ends the sleep.
    ///
    /// - What can be done at once is done, and a deadline that has passed is reported, even if the
    ///   flag is set.
    /// - A [`Condition`](crate::Condition) first gets its lock back, which takes as long as another
    ///   thread holds it.
    /// - Any thread may set the flag. Only a signal that is handled in the waiting thread ends a
    ///   sleep at once.
    ///
    /// The flag is `'static` because that is what a handler can reach. It costs nothing if the call
    /// does not wait, and one load before each sleep if it does.
    ///
    /// A binding whose interpreter has handlers already installs its own handler, which sets the
    /// flag and then calls the one that was there.
    ///
    /// ```
    /// use crossproc::{Event, EventError, Wait};
    /// use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    ///
    /// static SIGNALLED: AtomicBool = AtomicBool::new(false);
    ///
    /// let event = Event::new();
    /// let wait = Wait::FOREVER.interruptible_by(&SIGNALLED);
    /// SIGNALLED.store(true, SeqCst); // as a signal handler does
    /// assert_eq!(event.wait_with(wait), Err(EventError::Interrupted));
    /// SIGNALLED.store(false, SeqCst);
    /// event.set();
    /// assert_eq!(event.wait_with(wait), Ok(()));
    /// ```
    #[must_use]
    pub const fn interruptible_by(self, flag: &'static AtomicBool) -> Self {
        Wait { interruption: Some(Flag(flag)), ..self }
    }

    /// Returns the same wait, but it ends with an error of its own, `Interrupted`, when a signal
    /// handler has interrupted the waiting thread's sleep.
    ///
    /// **It can miss a handler**: one that runs just before the thread falls asleep, or in the
    /// moment in which a slice is over or the thread is woken. Nothing reports that handler, then
    /// or later. [`interruptible_by`](Wait::interruptible_by) misses none.
    ///
    /// A handler that was installed with `SA_RESTART` asks the kernel to go on sleeping. A wait for
    /// a lock or a semaphore notices it all the same. A wait for an event, a condition, a barrier,
    /// a permit, or for readers to leave does not: it sleeps by `futex_waitv`.
    ///
    /// ```
    /// use crossproc::{Semaphore, SemaphoreError, Wait};
    ///
    /// extern "C" fn handle(_: i32) {}
    /// # // SAFETY: the handler does nothing.
    /// # unsafe { libc::signal(libc::SIGALRM, handle as extern "C" fn(i32) as usize) };
    /// # let often = libc::timeval { tv_sec: 0, tv_usec: 10_000 };
    /// # let timer = libc::itimerval { it_interval: often, it_value: often };
    /// # // SAFETY: sets the process's timer.
    /// # unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    /// // With `handle` installed for a signal that comes again and again:
    /// let wait = Wait::FOREVER.interruptible();
    /// assert_eq!(Semaphore::new(0).acquire_with(wait), Err(SemaphoreError::Interrupted));
    /// ```
    #[must_use]
    pub const fn interruptible(self) -> Self {
        Wait { interruption: Some(Flag(&CALL)), ..self }
    }

    /// Returns the same wait, but for `timeout` from now on.
    pub(crate) fn within(self, timeout: Duration) -> Self {
        let nanos = u64::try_from(timeout.as_nanos()).ok();
        let deadline = nanos.and_then(|nanos| clock::now().checked_add(nanos));
        Wait { deadline, ..self }
    }

    /// Returns the deadline in [`clock::now`]'s nanoseconds, if there is one.
    pub(crate) fn until(self) -> Option<u64> {
        self.deadline
    }

    /// Returns whether the deadline has passed.
    pub(crate) fn is_over(self) -> bool {
        self.deadline.is_some_and(|deadline| clock::now() >= deadline)
    }

    /// Returns whether it is interrupted already. To be asked before every sleep.
    pub(crate) fn is_interrupted(self) -> bool {
        self.interruption.is_some_and(Flag::is_set)
    }

    /// Returns whether a call that a signal handler has interrupted ends the wait.
    pub(crate) fn ends_by_signal(self) -> bool {
        self.interruption == Some(Flag(&CALL)) || self.is_interrupted()
    }

    /// Returns when a sleep that nothing else cuts must end so that the flag is looked at: after a
    /// slice, if there is a flag.
    pub(crate) fn look_at(self) -> Option<u64> {
        let slice = recheck_interval()
            .filter(|_| self.interruption.is_some_and(|flag| flag != Flag(&CALL)))?;
        // A slice always fits: `set_recheck_interval` limits it to 64 bits.
        Some(clock::now().saturating_add(slice.as_nanos() as u64))
    }
}

/// Why a wait ended before its condition was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    TimedOut,
    Interrupted,
}

/// The time of one blocking call: how long it may still take, and whether it has spun already.
#[derive(Debug)]
pub(crate) struct Waiter {
    wait: Wait,
    ended: Option<Ended>,
    has_spun: bool,
    /// When the slice ends that a signal handler has interrupted, or 0. Handlers may run more often
    /// than slices end.
    slice_end: u64,
}

impl Waiter {
    pub(crate) fn new(wait: Wait) -> Self {
        Waiter { wait, ended: None, has_spun: false, slice_end: 0 }
    }

    /// Returns the deadline in [`clock::now`]'s nanoseconds, if there is one.
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
    /// Returns whether `look` said yes.
    pub(crate) fn spin(&mut self, look: impl FnMut() -> bool) -> bool {
        !core::mem::replace(&mut self.has_spun, true) && spin(look)
    }

    /// Looks at the state for some microseconds before each sleep, less and less often. Returns
    /// whether `look` said yes. It is for what a thread on another CPU is about to change: each
    /// look takes the word's cache line away from that thread.
    pub(crate) fn pause(&self, mut look: impl FnMut() -> bool) -> bool {
        if MAX_SPINS == 0 {
            return false;
        }
        let mut pauses = 1;
        (0..PAUSED_LOOKS).any(|_| {
            (0..pauses).for_each(|_| hint::spin_loop());
            pauses = (2 * pauses).min(MOST_PAUSES);
            look()
        })
    }

    /// Sleeps for a slice at most. The caller must look at the state before it sleeps again. `wait`
    /// is the futex call, which gets the end of the slice. Returns how the call ended.
    ///
    /// A call that ended by itself (ETIMEDOUT, EAGAIN, a wake) does not show that no handler ran:
    /// one may have run in the same moment, or before the call. So the flag is looked at on both
    /// sides: here, as near to the call as can be, and in [`check`](Waiter::check).
    pub(crate) fn sleep(&mut self, wait: impl FnOnce(Option<u64>) -> Awake) -> Awake {
        let slice = SLICE.load(Relaxed);
        let slice_end = match (slice, self.slice_end) {
            (SLICES_OFF, _) => None,
            (slice, 0) => Some(clock::now().saturating_add(slice)),
            (_, interrupted) => Some(interrupted),
        };
        let deadline = self.wait.deadline;
        let until = match (deadline, slice_end) {
            (Some(deadline), Some(slice_end)) => Some(deadline.min(slice_end)),
            // With any time-out, the kernel does not restart the call after a handler with
            // SA_RESTART.
            (None, None) if self.wait.interruption.is_some() => Some(NEVER),
            (deadline, slice_end) => deadline.or(slice_end),
        };
        if self.wait.is_interrupted() {
            self.ended = Some(Ended::Interrupted);
            return Awake::Interrupted;
        }
        let awake = wait(until);
        self.slice_end = slice_end.filter(|_| awake == Awake::Interrupted).unwrap_or(0);
        self.ended = match awake {
            Awake::TimedOut if until == deadline => Some(Ended::TimedOut),
            Awake::Interrupted if self.wait.ends_by_signal() => Some(Ended::Interrupted),
            // A call that a signal handler interrupted goes on, towards the same deadline.
            _ => None,
        };
        awake
    }
}

/// The end of the kernel's clock, 292 years after its start.
const NEVER: u64 = i64::MAX as u64;

/// The number of looks of a [`pause`](Waiter::pause), and the most `spin_loop` hints between two of
/// them: 127 hints in all, which is one to six microseconds.
///
/// On a machine of one CPU that is lost, and so is what [`spin`] tries. How many CPUs there are is
/// not asked: this process's own do not tell where the others run, and the machine's are in a file
/// system, which may be slow or refused.
const PAUSED_LOOKS: u32 = 8;
const MOST_PAUSES: u32 = 32;
