//! shaq's queue for one producer and one consumer: a ring with two counters, and no exchange.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::fmt;
use core::num::NonZero;
use std::fs::File;
use std::ptr;

use rustix::fs::{MemfdFlags, memfd_create};
use shaq::spsc::{Consumer, Producer, minimum_file_size};

use crossproc_harness::queue::{MessageQueue, Offers, TIMEOUT};

/// The queue in a memfd, whose mapping is inherited.
pub struct ShaqSpsc<const WORDS: usize> {
    producer: UnsafeCell<Producer<[u64; WORDS]>>,
    consumer: UnsafeCell<Consumer<[u64; WORDS]>>,
}

// SAFETY: one thread of each process uses it: `OFFERS.threads` is false. Processes share only what
// is in the memfd, and one of them uses the producer, another one the consumer.
unsafe impl<const WORDS: usize> Sync for ShaqSpsc<WORDS> {}

impl<const WORDS: usize> ShaqSpsc<WORDS> {
    #[allow(clippy::mut_from_ref, reason = "an adapter: each call is alone")]
    fn producer(&self) -> &mut Producer<[u64; WORDS]> {
        // SAFETY: one thread of the process uses it, and no method below calls this one twice.
        unsafe { &mut *self.producer.get() }
    }

    #[allow(clippy::mut_from_ref, reason = "an adapter: each call is alone")]
    fn consumer(&self) -> &mut Consumer<[u64; WORDS]> {
        // SAFETY: as for the producer.
        unsafe { &mut *self.consumer.get() }
    }
}

impl<const WORDS: usize> MessageQueue for ShaqSpsc<WORDS> {
    const OFFERS: Offers = Offers {
        processes: true,
        threads: false,
        many: false,
        blocking_get: true,
        batches: true,
        alone: usize::MAX,
        remark: "one producer and one consumer only; puts do not wait: they are tried again",
    };

    fn new(capacity: usize) -> Result<Self, String> {
        let file = File::from(
            memfd_create("shaq", MemfdFlags::CLOEXEC).map_err(|error| error.to_string())?,
        );
        let size = minimum_file_size::<[u64; WORDS]>(capacity);
        // SAFETY: the file is new, so it is set up once, here. The payload is integers, which all
        // processes can read.
        let producer = unsafe { Producer::create(&file, size) };
        let producer = producer.map_err(|error| error.to_string())?;
        // SAFETY: the only one.
        let consumer = unsafe { producer.join_as_consumer() };
        let consumer = consumer.map_err(|error| error.to_string())?;
        Ok(ShaqSpsc { producer: UnsafeCell::new(producer), consumer: UnsafeCell::new(consumer) })
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        self.put_batch(&[value]) == 1
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        let batch = self.consumer().try_reserve_read_batch(NonZero::<usize>::MIN)?;
        batch.get(0).map(|message| message[0])
    }

    #[inline]
    fn get_timeout(&self) -> Option<u64> {
        let one = NonZero::<usize>::MIN;
        let batch = self.consumer().reserve_read_batch_timeout(one, TIMEOUT).ok()?;
        batch.get(0).map(|message| message[0])
    }

    #[inline]
    fn put_batch(&self, values: &[u64]) -> usize {
        let mut slots = self.producer().write_batch();
        for (index, &value) in values.iter().enumerate() {
            // SAFETY: the memory was zeroed when it was created, and holds integers. So it is
            // initialised already, and its first word is written below.
            let Some(slot) = (unsafe { slots.try_as_mut() }) else { return index };
            // SAFETY: the slot is reserved for this call, and begins with a word.
            unsafe { ptr::write(slot.as_mut_ptr().cast::<u64>(), value) };
        }
        values.len()
    }

    #[inline]
    fn get_batch(&self, into: &mut Vec<u64>, most: usize) -> usize {
        let Some(most) = NonZero::new(most) else { return 0 };
        let Some(batch) = self.consumer().try_reserve_read_batch(most) else { return 0 };
        into.extend(batch.iter().map(|message| message[0]));
        batch.len()
    }
}

impl<const WORDS: usize> fmt::Debug for ShaqSpsc<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShaqSpsc").finish_non_exhaustive()
    }
}
