//! `std::sync::mpsc::sync_channel`, between threads.

#![allow(unsafe_code)]

use core::fmt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{MessageQueue, Offers, TIMEOUT};

/// The longest message in bytes. Each is moved over the stack, several times without optimisation.
const MOST: usize = 64 << 10;

/// Both ends.
pub struct SyncChannel<const WORDS: usize> {
    sender: SyncSender<[u64; WORDS]>,
    receiver: Receiver<[u64; WORDS]>,
}

// SAFETY: the sender is `Sync`. The receiver is used by one thread at a time: `OFFERS` says that
// there is one consumer.
unsafe impl<const WORDS: usize> Sync for SyncChannel<WORDS> {}

impl<const WORDS: usize> MessageQueue for SyncChannel<WORDS> {
    const OFFERS: Offers = Offers {
        processes: false,
        threads: true,
        many: false,
        blocking_get: true,
        batches: false,
        alone: usize::MAX,
        remark: "",
    };

    fn new(capacity: usize) -> Result<Self, String> {
        if size_of::<[u64; WORDS]>() > MOST {
            return Err(format!("over {MOST} bytes it would need a box for each message"));
        }
        let (sender, receiver) = sync_channel(capacity);
        Ok(SyncChannel { sender, receiver })
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

impl<const WORDS: usize> fmt::Debug for SyncChannel<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SyncChannel").finish_non_exhaustive()
    }
}
