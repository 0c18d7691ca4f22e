//! Bounded queues between processes, lock-free, written and read in place.

mod error;
mod operations;
pub(crate) mod participation;
mod payload;
mod region;
mod ring;

pub(crate) mod item;
mod loan;
mod options;

// A type's page of documentation follows the order of these. The empty lines keep rustfmt from
// sorting them.
mod fifo;
mod joinable;
mod progress;
mod task;

mod batches;
mod bytes;

mod broadcast;
mod broadcast_options;
mod subscriber;
mod viewed;

#[cfg(feature = "tokio")]
mod futures;
mod room;

pub use self::batches::BatchQueue;
pub use self::broadcast::Broadcast;
pub use self::broadcast_options::{BroadcastOptions, SlowSubscribers};
pub use self::bytes::{ByteQueue, JoinableByteQueue};
pub use self::error::{PutError, PutManyError, QueueError};
pub use self::fifo::Queue;
pub use self::item::{Batch, Item};
pub use self::joinable::JoinableQueue;
pub use self::loan::{Loan, Received};
pub use self::options::QueueOptions;
pub use self::progress::{AllDone, NextDeadLetter};
pub use self::room::Room;
pub use self::subscriber::{NextItem, Subscriber, View};
pub use self::task::{DeadLetter, Task};
