//! `crossproc::Queue`.

use core::fmt;

use crossproc::Queue;

use super::{MessageQueue, Offers, TIMEOUT};

/// The queue is inherited. Each thread attaches when it first uses it.
pub struct CrossprocQueue<const WORDS: usize>(Queue<[u64; WORDS]>);

impl<const WORDS: usize> MessageQueue for CrossprocQueue<WORDS> {
    const OFFERS: Offers = Offers {
        processes: true,
        threads: true,
        many: true,
        blocking_get: true,
        batches: true,
        alone: usize::MAX,
        remark: "",
    };

    fn new(capacity: usize) -> Result<Self, String> {
        Queue::new(capacity).map(CrossprocQueue).map_err(|error| error.to_string())
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        if WORDS == 1 {
            return self.0.try_put([value; WORDS]).is_ok();
        }
        let mut loan = self.0.loan().expect("nothing to loan");
        loan[0] = value;
        loan.try_send().is_ok()
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        if WORDS == 1 {
            return self.0.try_get().ok().map(|message| message[0]);
        }
        self.0.try_receive().ok().map(|message| message[0])
    }

    #[inline]
    fn put(&self, value: u64) -> bool {
        self.0.put([value; WORDS]).is_ok()
    }

    #[inline]
    fn get_timeout(&self) -> Option<u64> {
        self.0.get_timeout(TIMEOUT).ok().map(|message| message[0])
    }

    fn put_batch(&self, values: &[u64]) -> usize {
        const MOST: usize = 64;
        let messages: [[u64; WORDS]; MOST] =
            core::array::from_fn(|index| [values.get(index).copied().unwrap_or(0); WORDS]);
        let count = values.len().min(MOST);
        self.0.put_many(&messages[..count]).expect("cannot put many");
        count
    }

    fn get_batch(&self, into: &mut Vec<u64>, most: usize) -> usize {
        let mut messages = Vec::with_capacity(most);
        let Ok(count) = self.0.get_many(&mut messages, most) else { return 0 };
        into.extend(messages.iter().map(|message: &[u64; WORDS]| message[0]));
        count
    }
}

impl<const WORDS: usize> fmt::Debug for CrossprocQueue<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CrossprocQueue").finish_non_exhaustive()
    }
}
