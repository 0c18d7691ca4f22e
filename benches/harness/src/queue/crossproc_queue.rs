//! `crossproc::Queue`.

use core::fmt;

use crossproc::{BatchQueue, Queue, RegionError};

use super::rows::BATCH;
use super::{MessageQueue, Offers, TIMEOUT};

/// The queue is inherited. Each thread attaches when it first uses it.
pub struct CrossprocQueue<const WORDS: usize> {
    items: Queue<[u64; WORDS]>,
    /// For the rows of batches, whose items have eight bytes.
    batches: Option<BatchQueue<u64>>,
}

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
        let make = || {
            let batches = match WORDS {
                1 => Some(BatchQueue::with_max_batch(capacity.div_ceil(BATCH), BATCH)?),
                _ => None,
            };
            Ok(CrossprocQueue { items: Queue::new(capacity)?, batches })
        };
        make().map_err(|error: RegionError| error.to_string())
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        if WORDS == 1 {
            return self.items.try_put([value; WORDS]).is_ok();
        }
        let mut loan = self.items.loan().expect("nothing to loan");
        loan[0] = value;
        loan.try_send().is_ok()
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        if WORDS == 1 {
            return self.items.try_get().ok().map(|message| message[0]);
        }
        self.items.try_receive().ok().map(|message| message[0])
    }

    #[inline]
    fn put(&self, value: u64) -> bool {
        self.items.put([value; WORDS]).is_ok()
    }

    #[inline]
    fn get_timeout(&self) -> Option<u64> {
        self.items.get_timeout(TIMEOUT).ok().map(|message| message[0])
    }

    #[inline]
    fn put_batch(&self, values: &[u64]) -> usize {
        let batches = self.batches.as_ref().expect("items of eight bytes");
        batches.try_put_many(values).map_or_else(|refused| refused.put, |()| values.len())
    }

    #[inline]
    fn get_batch(&self, into: &mut Vec<u64>, most: usize) -> usize {
        let batches = self.batches.as_ref().expect("items of eight bytes");
        batches.try_get_many(into, most).unwrap_or(0)
    }
}

impl<const WORDS: usize> fmt::Debug for CrossprocQueue<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CrossprocQueue").finish_non_exhaustive()
    }
}
