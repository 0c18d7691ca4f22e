//! Message queues between processes, or threads, behind one trait: those that `crossproc::Queue` is
//! measured against, and itself.

use core::time::Duration;

pub mod cloudtoid;
pub mod crossbeam;

pub mod crossproc_queue;
pub mod iceoryx;
pub mod ipc_channel;
mod message;
pub mod pipe;
pub mod posix_mq;
pub mod seqpacket;
#[cfg(feature = "shaq")]
pub mod shaq;

/// How long [`MessageQueue::get_timeout`] waits at most.
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// A bounded queue of messages of `WORDS * 8` bytes, of which the first eight are a value; nobody
/// looks at the others.
///
/// It is made by one process, and used by the processes that this one forks, or by its own threads.
pub trait MessageQueue: Sized + Sync + 'static {
    /// What it can do.
    const OFFERS: Offers;

    /// An empty queue for `capacity` messages, or why there is none.
    fn new(capacity: usize) -> Result<Self, String>;

    /// Called by each thread before it uses the queue, any number of times.
    fn attach(&self, _side: Side) {}

    /// Says whether there was room.
    fn try_put(&self, value: u64) -> bool;

    /// A value, if there is one.
    fn try_get(&self) -> Option<u64>;

    /// Waits for room, if the queue can do that: otherwise this is another `try_put`. `false`:
    /// again.
    fn put(&self, value: u64) -> bool {
        self.try_put(value)
    }

    /// Waits for a value for as long as [`TIMEOUT`], or less if others got it. `None`: again.
    fn get_timeout(&self) -> Option<u64>;

    /// Puts some of the first of `values`, and says how many.
    fn put_batch(&self, values: &[u64]) -> usize {
        usize::from(values.first().is_some_and(|&value| self.try_put(value)))
    }

    /// Appends at most `most` values, and says how many. None: again.
    fn get_batch(&self, into: &mut Vec<u64>, most: usize) -> usize {
        if most == 0 {
            return 0;
        }
        let value = self.try_get();
        into.extend(value);
        usize::from(value.is_some())
    }
}

/// What a thread does with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It puts.
    Producer,
    /// It gets.
    Consumer,
    /// It does both.
    Both,
}

/// What a queue can do.
#[derive(Clone, Copy, Debug)]
pub struct Offers {
    /// Between processes.
    pub processes: bool,
    /// Between threads of one process.
    pub threads: bool,
    /// With several producers and several consumers.
    pub many: bool,
    /// To wait for a message.
    pub blocking_get: bool,
    /// To put, or get, several messages at once.
    pub batches: bool,
    /// Up to how many bytes one thread can put and then get itself: with more, a put that should
    /// not wait does.
    pub alone: usize,
    /// What is to be known beside its times.
    pub remark: &'static str,
}
