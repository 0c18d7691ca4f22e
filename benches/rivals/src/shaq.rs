//! shaq's queue for many producers and consumers: a ring whose slots are reserved in one counter,
//! and published in that order in another.

#![allow(unsafe_code)]

use core::fmt;
use core::num::NonZero;
use std::fs::File;
use std::ptr;

use rustix::fs::{MemfdFlags, memfd_create};
use shaq::mpmc::{Consumer, Producer, minimum_file_size};

use crossproc_harness::queue::{MessageQueue, Offers, TIMEOUT};

/// The queue in a memfd, whose mapping is inherited.
pub struct Shaq<const WORDS: usize> {
    producer: Producer<[u64; WORDS]>,
    consumer: Consumer<[u64; WORDS]>,
}

impl<const WORDS: usize> MessageQueue for Shaq<WORDS> {
    const OFFERS: Offers = Offers {
        processes: true,
        threads: true,
        many: true,
        blocking_get: true,
        batches: true,
        alone: usize::MAX,
        remark: "puts do not wait: they are tried again",
    };

    fn new(capacity: usize) -> Result<Self, String> {
        let file = File::from(
            memfd_create("shaq", MemfdFlags::CLOEXEC).map_err(|error| error.to_string())?,
        );
        // SAFETY: the file is new, so it is set up once, here. The payload is integers, which all
        // processes can read.
        let producer =
            unsafe { Producer::create(&file, minimum_file_size::<[u64; WORDS]>(capacity)) };
        let producer = producer.map_err(|error| error.to_string())?;
        let consumer = producer.join_as_consumer();
        Ok(Shaq { producer, consumer })
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        // SAFETY: the memory was zeroed when it was created, and holds integers. So it is
        // initialised already, and its first word is written below.
        let Some(mut slot) = (unsafe { self.producer.try_reserve_write() }) else { return false };
        let first = slot.as_mut().as_mut_ptr().cast::<u64>();
        // SAFETY: the slot is reserved for this call, and begins with a word.
        unsafe { ptr::write(first, value) };
        true
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        self.consumer.try_reserve_read().map(|slot| slot.as_ref()[0])
    }

    #[inline]
    fn get_timeout(&self) -> Option<u64> {
        self.consumer.reserve_read_timeout(TIMEOUT).ok().map(|slot| slot.as_ref()[0])
    }

    #[inline]
    fn put_batch(&self, values: &[u64]) -> usize {
        let Some(count) = NonZero::new(values.len()) else { return 0 };
        // SAFETY: initialised already, as in `try_put`; the first words are written below.
        let Some(mut slots) = (unsafe { self.producer.try_reserve_write_batch(count) }) else {
            return 0;
        };
        for (index, &value) in values.iter().enumerate() {
            // SAFETY: as many slots as values are reserved, and they are initialised already.
            let first = unsafe { slots.as_mut(index) }.as_mut_ptr().cast::<u64>();
            // SAFETY: the slot is reserved for this call, and begins with a word.
            unsafe { ptr::write(first, value) };
        }
        values.len()
    }

    #[inline]
    fn get_batch(&self, into: &mut Vec<u64>, most: usize) -> usize {
        let Some(most) = NonZero::new(most) else { return 0 };
        let Some(batch) = self.consumer.try_reserve_read_batch(most) else { return 0 };
        into.extend(
            (0..batch.len()).filter_map(|index| batch.get(index)).map(|message| message[0]),
        );
        batch.len()
    }
}

impl<const WORDS: usize> fmt::Debug for Shaq<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shaq").finish_non_exhaustive()
    }
}
