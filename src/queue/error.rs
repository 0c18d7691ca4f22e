//! The errors of operations on a queue.

use std::io;

use super::ring::budget::NoBlock;
use super::ring::refused::Refused;
use super::ring::waiting::Failure;
use crate::sync::error::RobustListError;

/// Why an operation on a [`Queue`](crate::Queue) or a [`JoinableQueue`](crate::JoinableQueue)
/// failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The queue holds as many items as fit, or long messages have the memory for them.
    #[error("the queue is full")]
    Full,
    /// There is no item.
    #[error("the queue is empty")]
    Empty,
    /// Until the deadline there was no room or no item, or tasks were unfinished.
    #[error("the queue was not ready until the deadline")]
    TimedOut,
    /// A signal handler ran during an interruptible wait.
    #[error("a signal handler ran while waiting for the queue")]
    Interrupted,
    /// The queue is closed and, in the case of a get, nothing is left in it.
    #[error("the queue is closed")]
    Closed,
    /// The subscriber was too slow for some items, which are gone. The next receive goes on with
    /// the oldest item that is there.
    #[error("the subscriber was too slow, and missed {missed} items: the next one can be received")]
    Lagged {
        /// How many items it has missed.
        missed: u64,
    },
    /// The subscriber was too slow, and senders do not wait for it any more.
    #[error("the subscriber was too slow, and is none any more: subscribe again")]
    Expelled,
    /// Items of this broadcast cannot be read in place, because senders do not wait as long as it
    /// takes.
    #[error(
        "senders do not wait for slow subscribers, so items cannot be read in place: copy them"
    )]
    NotInPlace,
    /// The message is longer than the queue allows.
    #[error(
        "a message of {len} bytes is too long for this queue, which takes {max}: \
         create it for longer ones"
    )]
    TooLong {
        /// The length of the message, in bytes.
        len: usize,
        /// The maximum length, in bytes.
        max: usize,
    },
    /// The thread already has as many items loaned, received or in hand as it may.
    #[error(
        "this thread has {limit} slots of the queue in use, which is the limit: \
         drop some, or create the queue with more loans"
    )]
    TooManyLoans {
        /// How many it may have at a time.
        limit: usize,
    },
    /// As many threads take part as may, and none of them is dead.
    #[error(
        "{limit} threads take part in the queue, which is the limit: \
         create it with more participants"
    )]
    TooManyParticipants {
        /// How many there may be at a time.
        limit: usize,
    },
    /// The system gives no memory for the slots of another participant, or for a long message.
    #[error("the system gives the queue no memory for another participant or message: {0}")]
    NoMemory(#[source] io::Error),
    /// The thread has a task in hand, and would wait for all tasks to be done, or for the last
    /// tasks of a closed queue. The latter come only from threads that give them up. Or it would
    /// wait for a subscriber of its own to go on.
    #[error(
        "this thread would wait for itself: first finish the task in hand, or receive what was sent"
    )]
    Deadlock,
    /// The guard belongs to the process that this one was forked from.
    #[error(
        "the guard belongs to another thread, that of the parent process: \
         use the queue itself in a forked child"
    )]
    NotOwner,
    /// The thread holds as many locks, permits and queues as the kernel would free at its death.
    #[error(
        "this thread holds {} locks, permits and queues, more would not be freed if it died: \
         release some first",
        crossproc_sys::robust::MAX_HELD
    )]
    TooManyHeld,
    /// The thread cannot take part in such a way that others would learn of its death.
    #[error("this thread cannot take part in a way that survives it: {0}")]
    Unavailable(#[source] RobustListError),
    /// The thread that sleeps on behalf of a future could not be started.
    #[error("no thread could be started to sleep for the future: {0}")]
    NoThread(#[source] io::Error),
    /// The thread is ending, and its thread-locals are gone.
    #[error("this thread is ending and cannot take part in a queue any more")]
    ThreadEnds,
    /// The queue's memory makes no sense: a participant that does not follow the protocol has
    /// written into it.
    #[error("the queue's memory was overwritten by something that is no participant")]
    Spoiled,
}

/// A put that failed, with the value.
#[derive(thiserror::Error)]
#[error("nothing was put: {error}")]
pub struct PutError<V> {
    /// The value that was not put.
    pub value: V,
    /// Why it was not put.
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
    /// The number of items that were put: the first ones.
    pub put: usize,
    /// Why the next item was not put.
    #[source]
    pub error: QueueError,
}

impl From<Refused> for QueueError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => QueueError::Full,
            Refused::Empty => QueueError::Empty,
            Refused::Closed => QueueError::Closed,
            Refused::Missed(missed) => QueueError::Lagged { missed },
            Refused::Expelled => QueueError::Expelled,
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

impl From<NoBlock> for QueueError {
    fn from(no_block: NoBlock) -> Self {
        match no_block {
            NoBlock::Failure(failure) => failure.into(),
            NoBlock::NoMemory(source) => QueueError::NoMemory(source),
        }
    }
}

impl<V> From<PutError<V>> for QueueError {
    fn from(error: PutError<V>) -> Self {
        error.error
    }
}

impl QueueError {
    pub(crate) fn kind(&self) -> io::ErrorKind {
        match self {
            QueueError::Full | QueueError::Empty => io::ErrorKind::WouldBlock,
            QueueError::TimedOut => io::ErrorKind::TimedOut,
            QueueError::Interrupted => io::ErrorKind::Interrupted,
            QueueError::Closed => io::ErrorKind::BrokenPipe,
            QueueError::TooLong { .. } => io::ErrorKind::InvalidInput,
            QueueError::Deadlock => io::ErrorKind::Deadlock,
            QueueError::Spoiled => io::ErrorKind::InvalidData,
            QueueError::NoMemory(source) | QueueError::NoThread(source) => source.kind(),
            _ => io::ErrorKind::Other,
        }
    }
}

impl From<QueueError> for io::Error {
    fn from(error: QueueError) -> Self {
        io::Error::new(error.kind(), error)
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
