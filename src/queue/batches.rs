//! [`BatchQueue`]: a queue with several items in a slot.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::NonNull;
use core::slice;

use bytemuck::NoUninit;

use super::error::{PutError, PutManyError, QueueError};
use super::fifo::{KIND, Queue};
use super::item::{Batch, sealed::Item as _};
use super::options::QueueOptions;
use super::participation::Participation;
use super::payload::{copy_in, copy_out};
use super::region::create;
use super::ring::batches::Got;
use super::ring::ends::Ring;
use super::ring::refused::Refused;
use super::ring::waiting::Side;
use crate::memory::region::RegionError;
use crate::memory::shared::Plain;
use crate::wait::{Wait, Waiter, forms};

/// A [`Queue`] whose items are put in batches, for streams of small items. A batch of any number of
/// items is put by one exchange, and got by one: an item of a batch of 16 costs a few nanoseconds.
///
/// What is put together stays together until it is got. [`get_many`](Queue::get_many) gets as many
/// items as are asked for, out of one batch after the other; [`get`](Queue::get) gets one item;
/// [`receive`](Queue::receive) gets all that is left of the first batch, in place. The order is
/// that of a [`Queue`], and so is all that is said there of blocking, memory ordering and deaths:
/// an item is got when the queue's word changes, not before, and what a dead participant had not
/// got is still there.
///
/// **Room is counted in batches.** [`capacity`](Queue::capacity), [`len`](Queue::len) and
/// [`room`](Queue::room) are about batches, full or not: a single [`put`](Queue::put) takes as much
/// room as a [`put_many`](Queue::put_many) of as many items as go into a batch. For items that are
/// put one by one, a [`Queue`] of items is the better one.
///
/// Capacity, and participants times loans + 1, come to fewer than 2^15 batches.
///
/// A get of some items of a batch, not all, copies them first, and tries again if others were
/// faster. For items of many kilobytes that may be often: [`receive`](Queue::receive) them.
///
/// ```
/// use crossproc::BatchQueue;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue: BatchQueue<u64> = BatchQueue::with_max_batch(8, 16)?;
/// queue.put_many(&[1, 2, 3, 4])?;
/// assert_eq!(queue.len(), 1);
/// assert_eq!(queue.get()?, 1);
/// let mut numbers = Vec::new();
/// queue.get_many(&mut numbers, 2)?;
/// assert_eq!(numbers, [2, 3]);
/// assert_eq!(queue.receive()?[..], [4]);
/// assert!(queue.is_empty());
/// # Ok(())
/// # }
/// ```
pub type BatchQueue<T> = Queue<Batch<T>>;

impl<T: Plain + NoUninit> Queue<Batch<T>> {
    /// Creates a queue for `capacity` batches of at most `max_batch` items, 1 to 64, with the
    /// defaults of [`QueueOptions`].
    ///
    /// ```
    /// use crossproc::BatchQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: BatchQueue<u64> = BatchQueue::with_max_batch(100, 16)?;
    /// assert_eq!((queue.capacity(), queue.max_batch()), (100, 16));
    /// assert!(BatchQueue::<u64>::with_max_batch(100, 65).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError`]: there is no memory or no descriptor for it, or one of the numbers is
    /// impossible.
    pub fn with_max_batch(capacity: usize, max_batch: usize) -> Result<Self, RegionError> {
        QueueOptions::new().create_batches(capacity, max_batch)
    }

    forms! {
        /// Puts an item at the end of the queue, as a batch of its own.
        ///
        /// ```
        /// use crossproc::{BatchQueue, QueueError};
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue: BatchQueue<u64> = BatchQueue::with_max_batch(1, 16)?;
        /// queue.put(7)?;
        /// let refused = queue.try_put(8).unwrap_err();
        /// assert_eq!(refused.value, 8);
        /// assert!(matches!(refused.error, QueueError::Full));
        /// # Ok(())
        /// # }
        /// ```
        put, try_put, put_timeout, put_deadline, put_with
        (self: &Self, value: T) -> Result<(), PutError<T>>, Self::put_until,
        errors "[`Closed`](QueueError::Closed), \
                and those of becoming a participant ([`QueueError`]).",
        now "[`Full`](QueueError::Full)."
    }

    forms! {
        /// Gets the first item, by copy.
        ///
        /// ```
        /// use crossproc::{BatchQueue, QueueError};
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue: BatchQueue<u64> = BatchQueue::with_max_batch(8, 16)?;
        /// queue.put_many(&[7, 8])?;
        /// assert_eq!((queue.get()?, queue.get()?), (7, 8));
        /// assert!(matches!(queue.try_get(), Err(QueueError::Empty)));
        /// # Ok(())
        /// # }
        /// ```
        get, try_get, get_timeout, get_deadline, get_with
        (self: &Self) -> Result<T, QueueError>, Self::get_until,
        errors "[`Closed`](QueueError::Closed) once there is nothing left, \
                and those of becoming a participant ([`QueueError`]).",
        now "[`Empty`](QueueError::Empty)."
    }

    forms! {
        /// Puts all of `values` at the end of the queue, in this order, in batches of
        /// [`max_batch`](Self::max_batch), the last of which may be smaller. The items of a batch
        /// are put together; batches of other producers may come between two of them.
        ///
        /// ```
        /// use crossproc::BatchQueue;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue: BatchQueue<u64> = BatchQueue::with_max_batch(2, 4)?;
        /// let numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        /// let refused = queue.try_put_many(&numbers).unwrap_err();
        /// assert_eq!(numbers[refused.put..], [9]);
        /// assert_eq!(queue.receive()?[..], [1, 2, 3, 4]);
        /// # Ok(())
        /// # }
        /// ```
        put_many, try_put_many, put_many_timeout, put_many_deadline, put_many_with
        (self: &Self, values: &[T]) -> Result<(), PutManyError>, Self::put_many_until,
        errors "As [`put`](Self::put), with how many were put before.",
        now "[`Full`](QueueError::Full), with how many there was room for."
    }

    forms! {
        /// Gets as many items as there are, at least one and at most `most`, and appends them to
        /// `values`. Returns how many; 0 at once if `most` is 0. What is left of a batch stays in
        /// the queue. However fast others put meanwhile, it stops after as many batches as fit into
        /// the queue, or after 1,024 if that is more.
        ///
        /// ```
        /// use crossproc::BatchQueue;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue: BatchQueue<u64> = BatchQueue::with_max_batch(4, 4)?;
        /// queue.put_many(&[1, 2, 3, 4, 5, 6])?;
        /// let mut numbers = vec![0];
        /// assert_eq!(queue.get_many(&mut numbers, 5)?, 5);
        /// assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
        /// assert_eq!(queue.get()?, 6);
        /// # Ok(())
        /// # }
        /// ```
        get_many, try_get_many, get_many_timeout, get_many_deadline, get_many_with
        (self: &Self, values: &mut Vec<T>, most: usize) -> Result<usize, QueueError>,
        Self::get_many_until,
        errors "As [`get`](Self::get).",
        now "[`Empty`](QueueError::Empty)."
    }

    /// Returns the most items of a batch.
    ///
    /// ```
    /// use crossproc::BatchQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: BatchQueue<u64> = BatchQueue::with_max_batch(8, 16)?;
    /// assert_eq!(queue.max_batch(), 16);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn max_batch(&self) -> usize {
        self.handle.memory().config.batch as usize
    }

    fn put_until(&self, value: T, wait: Option<impl FnOnce() -> Wait>) -> Result<(), PutError<T>> {
        self.put_many_until(slice::from_ref(&value), wait)
            .map_err(|PutManyError { error, .. }| PutError { value, error })
    }

    fn put_many_until(
        &self,
        values: &[T],
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), PutManyError> {
        let memory = self.handle.memory();
        let write = |_: NonNull<u8>, slot, indices: Range<usize>| {
            memory.begin_batch(slot, indices.len() as u32);
            copy_in(memory, slot, bytemuck::cast_slice(&values[indices]));
        };
        let each = self.max_batch();
        match self.handle.with(|taking| taking.put_many(values.len(), each, wait, write)) {
            Ok((_, None)) => Ok(()),
            Ok((put, Some(error))) => Err(PutManyError { put, error }),
            Err(error) => Err(PutManyError { put: 0, error }),
        }
    }

    fn get_until(&self, wait: Option<impl FnOnce() -> Wait>) -> Result<T, QueueError> {
        let mut value = MaybeUninit::<T>::uninit();
        self.handle.with(|participation| participation.get_batched(1, &mut value, wait))??;
        // SAFETY: the get has succeeded, so it has written at least one item. Any bytes make one.
        Ok(unsafe { value.assume_init() })
    }

    fn get_many_until(
        &self,
        values: &mut Vec<T>,
        most: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<usize, QueueError> {
        let before = values.len();
        self.handle.with(|participation| {
            let mut wait = wait;
            // As for single items: see `Participation::get_many`.
            for _ in 0..participation.most_at_a_time() {
                let got = values.len() - before;
                let now = (most - got).min(self.max_batch());
                if now == 0 {
                    break;
                }
                match participation.get_batched(now, values, wait.take()) {
                    // SAFETY: the get has reserved and written as many.
                    Ok(more) => unsafe { values.set_len(before + got + more) },
                    Err(error) if got == 0 => return Err(error),
                    Err(_) => break,
                }
            }
            Ok(values.len() - before)
        })?
    }
}

impl QueueOptions {
    /// Creates a [`BatchQueue`] for `capacity` batches of at most `max_batch` items, 1 to 64.
    ///
    /// ```
    /// use crossproc::{BatchQueue, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: BatchQueue<u64> = QueueOptions::new().participants(8).create_batches(16, 32)?;
    /// assert_eq!((queue.capacity(), queue.max_batch()), (16, 32));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::UnsuitableQueue`] if the numbers are impossible, and
    /// [`RegionError::NoNamespace`].
    pub fn create_batches<T: Plain + NoUninit>(
        &self,
        capacity: usize,
        max_batch: usize,
    ) -> Result<BatchQueue<T>, RegionError> {
        let size = size_of::<T>().saturating_mul(max_batch);
        let config = self.config(capacity, size, align_of::<T>(), false, Some(max_batch))?;
        create(config, Batch::<T>::layout(KIND)).map(Queue::of)
    }
}

/// Where items go that are got.
trait Room<T> {
    /// Returns room for so many items, behind those that are there.
    fn room(&mut self, count: usize) -> &mut [MaybeUninit<T>];
}

impl<T> Room<T> for MaybeUninit<T> {
    fn room(&mut self, count: usize) -> &mut [MaybeUninit<T>] {
        &mut slice::from_mut(self)[..count]
    }
}

impl<T> Room<T> for Vec<T> {
    fn room(&mut self, count: usize) -> &mut [MaybeUninit<T>] {
        self.reserve(count);
        &mut self.spare_capacity_mut()[..count]
    }
}

impl Participation {
    /// Gets up to `most` of the first items, out of one batch, into the room for them. Returns how
    /// many, which is never 0.
    #[inline]
    fn get_batched<T: Plain + NoUninit>(
        &self,
        most: usize,
        into: &mut impl Room<T>,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<usize, QueueError> {
        let memory = self.memory();
        let place = memory.free_place(&self.participant);
        let copy = |slot, from: u32| {
            copy_out(memory, slot, from as usize * size_of::<T>(), as_bytes(into.room(most)));
        };
        match self.take_batched(place, most as u32, wait, copy)? {
            Got::Some => Ok(most),
            Got::Rest { from, end } => {
                let slot = memory.slot(&self.participant, place)?;
                // The length is the one that was compared with `most`, and with the room in a slot.
                let left = (end - from) as usize;
                if left == 0 {
                    return Err(QueueError::Spoiled);
                }
                let items = Batch::<T>::at(memory.payload(slot), from as usize, left);
                let into = NonNull::from(into.room(left)).cast::<T>();
                // SAFETY: the slot is this participant's. It holds as many items, from there on,
                // and any bytes make one. There is room for them, in other memory.
                unsafe { into.copy_from_nonoverlapping(items.cast(), left) };
                Ok(left)
            }
        }
    }

    /// Takes all that is left of the first batch, with its slot, into a place. Returns which items
    /// of the batch are left.
    pub(super) fn receive_batch(
        &self,
        place: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<Range<usize>, QueueError> {
        match self.take_batched(place, u32::MAX, wait, |_, _| {})? {
            Got::Rest { from, end } if from < end => Ok(from as usize..end as usize),
            // No batch has so many items, or none.
            _ => Err(QueueError::Spoiled),
        }
    }

    #[inline]
    fn take_batched(
        &self,
        place: usize,
        most: u32,
        wait: Option<impl FnOnce() -> Wait>,
        mut copy: impl FnMut(usize, u32),
    ) -> Result<Got, QueueError> {
        let mut got = Got::Some;
        let get = |ring: Ring<'_>| {
            let (some, flags) = ring.get_batched(&self.participant, place, most, &mut copy)?;
            got = some;
            Ok((flags, 1))
        };
        match (self.memory().at_once(self.thread, Side::Getters, get), wait) {
            (Err(Refused::Empty), Some(wait)) => self.wait_for_batched(place, most, wait(), copy),
            (Ok(()), _) => Ok(got),
            (Err(refused), _) => Err(refused.into()),
        }
    }

    #[cold]
    fn wait_for_batched(
        &self,
        place: usize,
        most: u32,
        wait: Wait,
        mut copy: impl FnMut(usize, u32),
    ) -> Result<Got, QueueError> {
        let mut got = Got::Some;
        let get = |ring: Ring<'_>| {
            let (some, flags) = ring.get_batched(&self.participant, place, most, &mut copy)?;
            got = some;
            Ok((flags, 1))
        };
        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep(Side::Getters, waiter);
        self.memory().waiting(self.thread, Side::Getters, &mut Waiter::new(wait), get, sleep)?;
        Ok(got)
    }
}

fn as_bytes<T>(items: &mut [MaybeUninit<T>]) -> &mut [MaybeUninit<u8>] {
    let len = size_of_val(items);
    // SAFETY: the same memory, which may be uninitialised before and after, borrowed for as long.
    unsafe { slice::from_raw_parts_mut(items.as_mut_ptr().cast(), len) }
}
