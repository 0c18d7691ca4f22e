//! Queues for threads only: the cost of a queue that need not support processes.

use core::fmt;

use crossbeam_channel::{Receiver, Sender, bounded};
use crossbeam_queue::ArrayQueue;

use crossproc_harness::queue::{MessageQueue, Offers, TIMEOUT};

/// `crossbeam_queue::ArrayQueue`, which never waits.
pub struct Array<const WORDS: usize>(ArrayQueue<[u64; WORDS]>);

impl<const WORDS: usize> MessageQueue for Array<WORDS> {
    const OFFERS: Offers = Offers {
        processes: false,
        threads: true,
        many: true,
        blocking_get: false,
        batches: false,
        alone: usize::MAX,
        remark: "threads only",
    };

    fn new(capacity: usize) -> Result<Self, String> {
        Ok(Array(ArrayQueue::new(capacity)))
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        self.0.push([value; WORDS]).is_ok()
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        self.0.pop().map(|message| message[0])
    }

    fn get_timeout(&self) -> Option<u64> {
        self.try_get()
    }
}

impl<const WORDS: usize> fmt::Debug for Array<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Array").finish_non_exhaustive()
    }
}

/// `crossbeam_channel::bounded`.
#[derive(Debug)]
pub struct Channel<const WORDS: usize> {
    sender: Sender<[u64; WORDS]>,
    receiver: Receiver<[u64; WORDS]>,
}

impl<const WORDS: usize> MessageQueue for Channel<WORDS> {
    const OFFERS: Offers = Offers {
        processes: false,
        threads: true,
        many: true,
        blocking_get: true,
        batches: false,
        alone: usize::MAX,
        remark: "threads only",
    };

    fn new(capacity: usize) -> Result<Self, String> {
        let (sender, receiver) = bounded(capacity);
        Ok(Channel { sender, receiver })
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        self.sender.try_send([value; WORDS]).is_ok()
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        self.receiver.try_recv().ok().map(|message| message[0])
    }

    #[inline]
    fn put(&self, value: u64) -> bool {
        self.sender.send([value; WORDS]).is_ok()
    }

    #[inline]
    fn get_timeout(&self) -> Option<u64> {
        self.receiver.recv_timeout(TIMEOUT).ok().map(|message| message[0])
    }
}
