//! [`wait_any`]: sleeping until one of many things is ready.

use core::time::Duration;
use std::io;
use std::time::Instant;

mod descriptors;
#[cfg(feature = "tokio")]
mod futures;
mod owner_death;
mod registered;
pub(crate) mod sealed;
mod sources;
mod watching;

pub use self::descriptors::{Readable, Writable};
#[cfg(feature = "tokio")]
pub use self::futures::wait_any_async;
pub use self::owner_death::OwnerDeath;
use self::sealed::{Of, Refusal};
use crate::queue::QueueError;
use crate::wait::source::{Source, WatchState};
use crate::wait::{Ended, Wait, Waiter};

/// Something that [`wait_any`] can wait for. Implemented for what is listed there, and nothing
/// else.
pub trait Waitable: sealed::Waits + Sync {}

/// Waits, as long as it takes, until at least one of these is ready. Returns the indices of *all*
/// that are, in order.
///
/// | what | is ready |
/// |---|---|
/// | [`Event`](crate::Event) | while it is set, or if it was set since the call began |
/// | [`Semaphore`](crate::Semaphore), [`BoundedSemaphore`](crate::BoundedSemaphore) | while there is a permit |
/// | [`Queue`](crate::Queue) | while there is an item, or it is closed |
/// | [`JoinableQueue`](crate::JoinableQueue) | while there is a task for the thread, or no more will come |
/// | [`Queue::room`](crate::Queue::room), [`JoinableQueue::room`](crate::JoinableQueue::room) | while there is room, or it is closed |
/// | [`JoinableQueue::all_done`](crate::JoinableQueue::all_done) | while no task is unfinished |
/// | [`JoinableQueue::next_dead_letter`](crate::JoinableQueue::next_dead_letter) | while there is a dead letter |
/// | [`Subscriber::next_item`](crate::Subscriber::next_item) | while there is an item for it, or the broadcast is closed |
/// | [`Broadcast::room`](crate::Broadcast::room) | while there is room, or it is closed; a look [expels](crate::SlowSubscribers::Expel) as a send does |
/// | [`Lock::owner_death`](crate::Lock::owner_death), [`RLock::owner_death`](crate::RLock::owner_death) | while the lock is free, and an owner has died whose data has not been recovered |
/// | [`Connection`](crate::Connection), [`Receiver`](crate::Receiver) | while there is something to receive: a message, or the end of the stream |
/// | [`Sender`](crate::Sender) | while there is room, or no receiver is left |
/// | [`process::Child`](crate::process::Child) | once it has ended |
/// | [`Readable`], [`Writable`] | while `poll` says so of the descriptor; also if it has an error, or its other end is closed |
///
/// It takes nothing. The caller then takes what it wants by the `try_` form, such as
/// [`try_get`](crate::Queue::try_get). It may find that another was faster, and wait again. A
/// further call returns at once if nothing has been taken in between.
///
/// # Blocking and fairness
/// The call looks at all of them for a few microseconds, then sleeps in one system call. It sleeps
/// on all their futexes, up to 128 words, or on all descriptors. A semaphore, an event and a lock
/// are two words, a queue is six, a broadcast's room and a dead letter seven, that all tasks are
/// done six, a queue of tasks ten.
///
/// Threads of this process sleep in its place if there are both futexes and descriptors, more
/// words, or the deaths of several locks' owners. There is one such thread for each 127 words in
/// use. These threads, and the parked ones (see below), are started when they are needed, and end a
/// second after that.
///
/// Each call looks at all, and registers with the kernel anew: like that of `poll`, its cost grows
/// with their number. `docs/benchmarks.md` compares the two under "Waiting for several". Where
/// thousands are to be told apart, let them say through one queue which they are.
///
/// While a thread waits in this way, a wake-up wakes all that sleep for the same thing, and not
/// only as many as there is something for. Otherwise nothing costs more than it would without such
/// waits.
///
/// # Memory ordering
/// A caller that finds an event ready sees what its setter wrote before. The same holds for
/// releases of a semaphore, puts, and the death of an owner, but another may take what was found.
///
/// # Process death
/// A waiter that dies is as if it had never come: what has woken it has woken all the others, too.
/// If a participant dies before it has woken any, the kernel wakes one sleeper. If that one waits
/// here, and dies before it has done the dead one's work, the kernel wakes the next. For that, a
/// thread of this process is parked for each thing but one, as long as this waits: a robust list
/// has room for the word of one thing. The rest can sleep on for a
/// [slice](crate::set_recheck_interval) if there can be no thread, or for more than 256 things that
/// a process waits for at once. So they can if two processes are killed in the same moment.
///
/// # Errors
/// [`WaitAnyError::Nothing`], [`Deadlock`](WaitAnyError::Deadlock), [`Queue`](WaitAnyError::Queue),
/// [`Os`](WaitAnyError::Os).
///
/// # Signal handlers
/// Not for use in signal handlers.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Event, Queue, Semaphore, Shm, process, shared, wait_any};
///
/// shared! {
///     struct Board {
///         stop: Event,
///         permits: Semaphore,
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let board = Shm::new(Board { stop: Event::new(), permits: Semaphore::new(0) })?;
/// let numbers: Queue<u64> = Queue::new(16)?;
///
/// let (theirs, to) = (board.clone(), numbers.clone());
/// let child = process::fork(move || -> () {
///     to.put(7).unwrap();
///     theirs.permits.release().unwrap();
///     theirs.stop.set();
/// })?;
///
/// let (mut got, mut permits) = (Vec::new(), 0);
/// loop {
///     let ready = wait_any(&[&board.stop, &board.permits, &numbers])?;
///     match ready[..] {
///         [0] => break,
///         _ => {
///             got.extend(numbers.try_get());
///             permits += u32::from(board.permits.try_acquire().is_ok());
///         }
///     }
/// }
/// assert_eq!((got, permits), (vec![7], 1));
/// assert!(child.join()?.success());
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// Our own; the argument is in `src/wait/source.rs`.
pub fn wait_any(on: &[&dyn Waitable]) -> Result<Vec<usize>, WaitAnyError> {
    wait_until(on, Wait::FOREVER)
}

/// [`wait_any`] without waiting.
///
/// ```
/// use crossproc::{Event, Semaphore, WaitAnyError, try_wait_any};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (stop, permits) = (Event::new(), Semaphore::new(0));
/// assert!(matches!(try_wait_any(&[&stop, &permits]), Err(WaitAnyError::WouldBlock)));
/// permits.release()?;
/// assert_eq!(try_wait_any(&[&stop, &permits])?, [1]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`WaitAnyError::WouldBlock`] if none is ready; otherwise as [`wait_any`].
pub fn try_wait_any(on: &[&dyn Waitable]) -> Result<Vec<usize>, WaitAnyError> {
    match wait_until(on, Wait::NONE) {
        Err(WaitAnyError::TimedOut) => Err(WaitAnyError::WouldBlock),
        result => result,
    }
}

/// [`wait_any`], which waits for `timeout` at most. Zero looks once; [`Duration::MAX`] waits for
/// ever.
///
/// ```
/// use crossproc::{Event, WaitAnyError, wait_any_timeout};
/// use std::time::Duration;
///
/// let (stop, pause) = (Event::new(), Event::new());
/// let ready = wait_any_timeout(&[&stop, &pause], Duration::from_millis(1));
/// assert!(matches!(ready, Err(WaitAnyError::TimedOut)));
/// ```
///
/// # Errors
/// [`WaitAnyError::TimedOut`]; otherwise as [`wait_any`].
pub fn wait_any_timeout(
    on: &[&dyn Waitable],
    timeout: Duration,
) -> Result<Vec<usize>, WaitAnyError> {
    wait_until(on, Wait::timeout(timeout))
}

/// [`wait_any`], which waits until `deadline` at most. A past one looks once.
///
/// ```
/// use crossproc::{Event, WaitAnyError, wait_any_deadline};
/// use std::time::{Duration, Instant};
///
/// let (stop, pause) = (Event::new(), Event::new());
/// let deadline = Instant::now() + Duration::from_millis(1);
/// assert!(matches!(wait_any_deadline(&[&stop, &pause], deadline), Err(WaitAnyError::TimedOut)));
/// pause.set();
/// assert_eq!(wait_any_deadline(&[&stop, &pause], deadline)?, [1]);
/// # Ok::<(), WaitAnyError>(())
/// ```
///
/// # Errors
/// [`WaitAnyError::TimedOut`]; otherwise as [`wait_any`].
pub fn wait_any_deadline(
    on: &[&dyn Waitable],
    deadline: Instant,
) -> Result<Vec<usize>, WaitAnyError> {
    wait_until(on, Wait::deadline(deadline))
}

/// [`wait_any`], which waits as `wait` says.
///
/// ```
/// use crossproc::{Event, Wait, WaitAnyError, wait_any_with};
/// use std::sync::atomic::AtomicBool;
///
/// static SIGNALLED: AtomicBool = AtomicBool::new(true); // as a signal handler sets it
///
/// let (stop, pause) = (Event::new(), Event::new());
/// let wait = Wait::FOREVER.interruptible_by(&SIGNALLED);
/// assert!(matches!(wait_any_with(&[&stop, &pause], wait), Err(WaitAnyError::Interrupted)));
/// ```
///
/// # Errors
/// [`WaitAnyError::TimedOut`], and [`WaitAnyError::Interrupted`] if `wait` is interruptible;
/// otherwise as [`wait_any`].
pub fn wait_any_with(on: &[&dyn Waitable], wait: Wait) -> Result<Vec<usize>, WaitAnyError> {
    wait_until(on, wait)
}

/// Up to this many sources, with this many words, are kept on the stack.
const FEW: usize = 8;
const FEW_WORDS: usize = 24;
const MOST_WORDS: usize = crossproc_sys::futex::MAX_WATCHED;

fn wait_until(on: &[&dyn Waitable], wait: Wait) -> Result<Vec<usize>, WaitAnyError> {
    for (index, waits) in on.iter().enumerate() {
        waits.check().map_err(|refusal| refusal.of(index))?;
    }
    let waiter = &mut Waiter::new(wait);
    let sources = on.iter().filter(|waits| matches!(waits.of(), Of::Source(_))).count();
    if sources < on.len() {
        return if sources == 0 {
            descriptors::wait(on, waiter)
        } else {
            registered::wait(on, waiter)
        };
    }
    match on.first().map(|waits| waits.of()) {
        // One place for each source: `watch` fills in the others.
        Some(Of::Source(first)) if on.len() <= FEW => {
            watch(on, &mut [first; FEW][..on.len()], &mut [WatchState::default(); FEW], waiter)
        }
        Some(Of::Source(first)) => watch(
            on,
            &mut vec![first; on.len()],
            &mut vec![WatchState::default(); on.len()],
            waiter,
        ),
        _ => Err(WaitAnyError::Nothing),
    }
}

/// Waits where all are sources. The two slices have room for them and their states.
fn watch<'a>(
    on: &'a [&'a dyn Waitable],
    sources: &mut [&'a dyn Source],
    states: &mut [WatchState],
    waiter: &mut Waiter,
) -> Result<Vec<usize>, WaitAnyError> {
    let states = &mut states[..sources.len()];
    for ((waits, place), state) in on.iter().zip(&mut *sources).zip(&mut *states) {
        if let Of::Source(source) = waits.of() {
            *place = source;
            *state = source.begin();
        }
    }
    let needed: usize = sources.iter().map(|source| source.words()).sum();
    let wanted = needed + sources.iter().map(|source| source.more_words()).sum::<usize>();
    let owned = sources.iter().filter(|source| source.has_owner()).count();
    let result = match (needed, wanted) {
        // One thread can have only one word with an owner pending.
        _ if owned > 1 => return registered::wait(on, waiter),
        (_, ..=FEW_WORDS) => watching::watch::<FEW_WORDS>(sources, states, waiter),
        (..=MOST_WORDS, _) => watching::watch::<MOST_WORDS>(sources, states, waiter),
        _ => return registered::wait(on, waiter),
    };
    result?;
    Ok(states
        .iter()
        .enumerate()
        .filter(|(_, state)| state.is_ready != 0)
        .map(|(index, _)| index)
        .collect())
}

/// Why [`wait_any`] ended without anything being ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitAnyError {
    /// Nothing is ready.
    #[error("nothing that was asked for is ready")]
    WouldBlock,
    /// Nothing was ready until the deadline.
    #[error("nothing that was asked for was ready until the deadline")]
    TimedOut,
    /// The wait was interruptible, and a signal handler ran while the thread waited.
    #[error("a signal handler ran while waiting")]
    Interrupted,
    /// There is nothing to wait for: the wait would never end.
    #[error("there is nothing to wait for: the list is empty")]
    Nothing,
    /// The calling thread is the owner whose death it would wait for.
    #[error(
        "number {index} is the death of a lock's owner, which is this thread: \
         waiting for it would never end"
    )]
    Deadlock {
        /// Its index among those that were given.
        index: usize,
    },
    /// The calling thread cannot take part in a queue of tasks.
    #[error("the queue that is number {index} of those waited for cannot be used: {source}")]
    Queue {
        /// Its index among those that were given.
        index: usize,
        /// Why the thread cannot take part.
        source: QueueError,
    },
    /// There is no memory, descriptor or thread for the wait, or more descriptors than the process
    /// may have open.
    #[error("the system does not let this thread wait: {0}")]
    Os(#[source] io::Error),
}

impl From<Ended> for WaitAnyError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::TimedOut => WaitAnyError::TimedOut,
            Ended::Interrupted => WaitAnyError::Interrupted,
        }
    }
}

impl Refusal {
    pub(crate) fn of(self, index: usize) -> WaitAnyError {
        match self {
            Refusal::Deadlock => WaitAnyError::Deadlock { index },
            Refusal::Queue(source) => WaitAnyError::Queue { index, source },
        }
    }
}

impl From<WaitAnyError> for io::Error {
    fn from(error: WaitAnyError) -> Self {
        let kind = match &error {
            WaitAnyError::WouldBlock => io::ErrorKind::WouldBlock,
            WaitAnyError::TimedOut => io::ErrorKind::TimedOut,
            WaitAnyError::Interrupted => io::ErrorKind::Interrupted,
            WaitAnyError::Nothing => io::ErrorKind::InvalidInput,
            WaitAnyError::Deadlock { .. } => io::ErrorKind::Deadlock,
            WaitAnyError::Queue { source, .. } => source.kind(),
            WaitAnyError::Os(source) => source.kind(),
        };
        io::Error::new(kind, error)
    }
}
