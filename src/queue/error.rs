//! Why an operation on a queue came to nothing.

use std::io;

use super::exchange::Refused;
use super::waiting::Failure;

/// Why an operation on a [`Queue`](crate::Queue) or a [`JoinableQueue`](crate::JoinableQueue) came
/// to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// There are as many items as fit.
    #[error("the queue is full")]
    Full,
    /// There is no item.
    #[error("the queue is empty")]
    Empty,
    /// There was no room, or no item, until the deadline, or tasks were unfinished.
    #[error("the queue was not ready until the deadline")]
    TimedOut,
    /// A signal handler ran while the thread waited, interruptibly.
    #[error("a signal handler ran while waiting for the queue")]
    Interrupted,
    /// It is closed, and, for one who gets, nothing is left in it.
    #[error("the queue is closed")]
    Closed,
    /// The message is longer than those of the queue may be.
    #[error(
        "a message of {len} bytes is too long for this queue, which takes {max}: create it for longer ones"
    )]
    TooLong {
        /// How long it is, in bytes.
        len: usize,
        /// How long it may be.
        max: usize,
    },
    /// The thread has as many items loaned, received or in hand at once as it may.
    #[error(
        "this thread has {limit} slots of the queue in use, which is the limit: drop some, or create the queue with more loans"
    )]
    TooManyLoans {
        /// How many it may have.
        limit: usize,
    },
    /// As many threads as may take part do so, and none of them is dead.
    #[error(
        "{limit} threads take part in the queue, which is the limit: create it with more participants"
    )]
    TooManyParticipants {
        /// How many there may be.
        limit: usize,
    },
    /// There is no memory for the slots of another participant.
    #[error("there is no memory for another participant of the queue")]
    NoMemory(#[source] io::Error),
    /// The thread would wait while it has a task in hand itself: until all tasks are done, or for
    /// the last ones of a closed queue, which come only from those who give them up.
    #[error("this thread has a task in hand that it, or others, would wait for: finish it first")]
    Deadlock,
    /// The guard belongs to the process that this one was forked from.
    #[error(
        "the guard belongs to another thread, that of the parent process: use the queue itself in a forked child"
    )]
    NotOwner,
    /// The thread holds as much as the kernel is willing to free for it when it dies.
    #[error(
        "this thread holds {} locks, permits and queues, more would not be freed if it died: release some first",
        crossproc_sys::robust::MAX_HELD
    )]
    TooManyHeld,
    /// The thread cannot take part in a way that outlives it.
    #[error("this thread cannot take part in a way that survives it")]
    Unavailable(#[source] crossproc_sys::robust::Error),
    /// The thread that would sleep in a future's place could not be started.
    #[error("no thread could be started to sleep for the future")]
    NoThread(#[source] io::Error),
    /// The thread is ending, its thread-locals are gone.
    #[error("this thread is ending and cannot take part in a queue any more")]
    ThreadEnds,
    /// The queue's memory makes no sense: a participant that does not follow the protocol has
    /// written into it.
    #[error("the queue's memory was overwritten by something that is no participant")]
    Spoiled,
}

/// A put that came to nothing, with what was to be put.
#[derive(thiserror::Error)]
#[error("nothing was put: {error}")]
pub struct PutError<V> {
    /// What was not put.
    pub value: V,
    /// Why.
    #[source]
    pub error: QueueError,
}

impl<V> core::fmt::Debug for PutError<V> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PutError").field("error", &self.error).finish_non_exhaustive()
    }
}

/// A put of several items that did not put all of them.
#[derive(Debug, thiserror::Error)]
#[error("{put} items were put, and no more: {error}")]
pub struct PutManyError {
    /// How many were put: the first ones.
    pub put: usize,
    /// Why not the next one.
    #[source]
    pub error: QueueError,
}

impl From<Refused> for QueueError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => QueueError::Full,
            Refused::Empty => QueueError::Empty,
            Refused::Closed => QueueError::Closed,
            Refused::Deadlock => QueueError::Deadlock,
            Refused::Corrupt => QueueError::Spoiled,
        }
    }
}

impl From<Failure> for QueueError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refused) => refused.into(),
            Failure::TimedOut => QueueError::TimedOut,
            Failure::Interrupted => QueueError::Interrupted,
        }
    }
}

impl<V> From<PutError<V>> for QueueError {
    fn from(error: PutError<V>) -> Self {
        error.error
    }
}

impl From<QueueError> for io::Error {
    fn from(error: QueueError) -> Self {
        let kind = match &error {
            QueueError::Full | QueueError::Empty => io::ErrorKind::WouldBlock,
            QueueError::TimedOut => io::ErrorKind::TimedOut,
            QueueError::Interrupted => io::ErrorKind::Interrupted,
            QueueError::Closed => io::ErrorKind::BrokenPipe,
            QueueError::TooLong { .. } => io::ErrorKind::InvalidInput,
            QueueError::Deadlock => io::ErrorKind::Deadlock,
            QueueError::Spoiled => io::ErrorKind::InvalidData,
            QueueError::NoMemory(source) | QueueError::NoThread(source) => source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl<V> From<PutError<V>> for io::Error {
    fn from(error: PutError<V>) -> Self {
        error.error.into()
    }
}

impl From<PutManyError> for io::Error {
    fn from(error: PutManyError) -> Self {
        error.error.into()
    }
}
