//! [`Loan`] and [`Received`]: slots that a thread has for itself, to write and to read in place.

#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut, Range};
use core::ptr::NonNull;
use std::rc::Rc;

use crossproc_sys::atomic::Ordering::Relaxed;

use super::error::{PutError, QueueError};
use super::item::{Item, ItemSize};
use super::participation::{Participation, QueueHandle};
use super::payload::check_len;
use crate::wait::{Wait, forms};

/// The items of what is no batch.
pub(super) const NO_ITEMS: Range<usize> = 0..0;

/// One of the thread's own places, which is in use, and the slot in it.
///
/// *Invariant: the slot exists, was in the place when this was made, and is in no other `HeldSlot`
/// of this thread. As long as this exists, nobody else that follows the protocol has the slot: the
/// place is used for nothing else. `payload` is that of the slot, or of a block that belongs to it
/// and is in no other `HeldSlot` of this thread. `from` and `len` are no more than there is room
/// for.*
///
/// All of it is kept here, and is not read again from memory that others write.
#[derive(Debug)]
pub(crate) struct HeldSlot {
    pub(crate) participation: Rc<Participation>,
    pub(crate) place: usize,
    slot: usize,
    payload: NonNull<u8>,
    /// The length of the item, in bytes; of a batch, the number of items.
    len: usize,
    /// The first item of a batch that is there; otherwise 0.
    from: usize,
}

impl HeldSlot {
    /// Occupies a place, has `fill` put a slot into it, and holds that. `fill` returns the items of
    /// a batch that are left, or nothing.
    #[inline(always)]
    pub(crate) fn new<T: ?Sized + Item>(
        handle: &QueueHandle,
        fill: impl FnOnce(&Participation, usize) -> Result<Range<usize>, QueueError>,
    ) -> Result<Self, QueueError> {
        HeldSlot::of::<T>(handle, |participation| {
            let place = participation.occupy()?;
            match fill(participation, place) {
                Ok(items) => Ok((place, items)),
                Err(error) => {
                    participation.vacate(place);
                    Err(error)
                }
            }
        })
    }

    /// Holds the slot in the place that `occupy` has occupied.
    #[inline(always)]
    pub(crate) fn of<T: ?Sized + Item>(
        handle: &QueueHandle,
        occupy: impl FnOnce(&Participation) -> Result<(usize, Range<usize>), QueueError>,
    ) -> Result<Self, QueueError> {
        let participation = handle.participation_again()?;
        let (place, items) = occupy(&participation)?;
        let memory = participation.memory();
        let found = memory.slot(&participation.participant, place).map_err(QueueError::from);
        let found = found.and_then(|slot| match T::SIZE {
            ItemSize::Fixed(size) => Ok((slot, memory.payload(slot), size)),
            ItemSize::Varying => {
                participation.message(place, slot).map(|(payload, len)| (slot, payload, len))
            }
            ItemSize::Batches(_) => Ok((slot, memory.payload(slot), items.len())),
        });
        let (slot, payload, len) = match found {
            Ok(found) => found,
            Err(error) => {
                participation.vacate(place);
                return Err(error);
            }
        };
        participation.add_guard();
        Ok(HeldSlot { participation, place, slot, payload, len, from: items.start })
    }

    /// Sets the length of an item whose length varies. It must be no more than there is room for.
    #[inline]
    fn set_len<T: ?Sized + Item>(&mut self, len: usize) {
        if T::SIZE == ItemSize::Varying {
            self.len = len;
            // Relaxed: the exchange orders it.
            self.participation.memory().payload_len(self.slot).store(len as u32, Relaxed);
        }
    }

    /// Returns the item in the slot. `T` must be the type that this was made for.
    #[inline(always)]
    pub(crate) fn item<T: ?Sized + Item>(&self) -> NonNull<T> {
        T::at(self.payload, self.from, self.len)
    }

    pub(crate) fn slot(&self) -> usize {
        self.slot
    }
}

impl Drop for HeldSlot {
    #[inline]
    fn drop(&mut self) {
        self.participation.remove_guard();
    }
}

/// A slot to write an item into, and to [send](Loan::send). If it is dropped instead, nothing is
/// sent and the slot is free again. It stays in its thread.
///
/// A leaked loan is lost to its thread. The process ends with that thread, as it does for a [leaked
/// lock guard](crate::LockGuard#leaked-guards).
///
/// ```
/// use crossproc::Queue;
///
/// # fn main() -> std::io::Result<()> {
/// let queue: Queue<[u64; 2]> = Queue::new(4)?;
/// let mut pair = queue.loan()?;
/// *pair = [7, 8];
/// drop(pair); // and nothing is put
/// assert!(queue.is_empty());
/// # Ok(())
/// # }
/// ```
#[must_use = "what is not sent is gone"]
pub struct Loan<'a, T: ?Sized + Item> {
    held: ManuallyDrop<HeldSlot>,
    queue: PhantomData<(&'a (), *mut T)>,
}

impl<'a, T: ?Sized + Item> Loan<'a, T> {
    #[inline]
    pub(crate) fn new(
        handle: &'a QueueHandle,
        len: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<Self, QueueError> {
        check_len(handle, len)?;
        let mut held = HeldSlot::new::<T>(handle, |participation, place| {
            if T::SIZE == ItemSize::Varying {
                participation.make_room(place, len, wait)?;
            }
            Ok(NO_ITEMS)
        })?;
        held.set_len::<T>(len);
        held.participation.memory().prepare(held.slot);
        Ok(Loan { held: ManuallyDrop::new(held), queue: PhantomData })
    }

    forms! {
        /// Puts the item at the end of the queue, without copying it. The error has the loan in it.
        /// So `?` passes it on as an [`io::Error`](std::io::Error) or a [`QueueError`], and as a
        /// `Box<dyn Error>` only where the queue outlives the function.
        ///
        /// ```
        /// use crossproc::{Queue, QueueError};
        ///
        /// # fn main() -> std::io::Result<()> {
        /// let queue: Queue<[u64; 2]> = Queue::new(1)?;
        /// queue.put([0, 0])?;
        /// let mut pair = queue.loan()?;
        /// *pair = [7, 8];
        /// let refused = pair.try_send().unwrap_err();
        /// assert!(matches!(refused.error, QueueError::Full));
        /// assert_eq!(queue.get()?, [0, 0]);
        /// refused.value.send()?;
        /// assert_eq!(queue.get()?, [7, 8]);
        /// # Ok(())
        /// # }
        /// ```
        send, try_send, send_timeout, send_deadline, send_with
        (self) -> Result<(), PutError<Self>>, Self::send_until,
        errors "[`Closed`](QueueError::Closed), with the loan. \
                [`NotOwner`](QueueError::NotOwner) in a forked child.",
        now "[`Full`](QueueError::Full), with the loan."
    }

    #[inline]
    fn send_until(self, wait: Option<impl FnOnce() -> Wait>) -> Result<(), PutError<Self>> {
        let sent = match self.held.participation.is_of_this_thread() {
            true => self.held.participation.send(self.held.place, wait),
            false => Err(QueueError::NotOwner),
        };
        // If the item was sent, `self` is dropped here. That frees the place, which now has another
        // slot.
        sent.map_err(|error| PutError { value: self, error })
    }
}

impl<T: ?Sized + Item> Drop for Loan<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.held.participation.vacate(self.held.place);
        // SAFETY: `held` is not used after this.
        unsafe { ManuallyDrop::drop(&mut self.held) };
    }
}

impl<T: ?Sized + Item> Deref for Loan<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the slot is this thread's alone (invariant of `HeldSlot`), and stays mapped as
        // long as `participation` exists. It holds a `T`, and any bytes make one.
        unsafe { self.held.item::<T>().as_ref() }
    }
}

impl<T: ?Sized + Item> DerefMut for Loan<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above; the loan is borrowed mutably.
        unsafe { self.held.item::<T>().as_mut() }
    }
}

impl<T: ?Sized + Item> fmt::Debug for Loan<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan").finish_non_exhaustive()
    }
}

/// An item that was taken out of a queue, to be read in place. When it is dropped, its slot is free
/// again. It stays in its thread.
///
/// A leaked item is lost to its thread. The process ends with that thread, as it does for a [leaked
/// lock guard](crate::LockGuard#leaked-guards).
///
/// ```
/// use crossproc::Queue;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue: Queue<[u64; 2]> = Queue::new(4)?;
/// queue.put([7, 8])?;
/// let pair = queue.receive()?;
/// assert!(queue.is_empty());
/// assert_eq!(pair[0] + pair[1], 15);
/// # Ok(())
/// # }
/// ```
pub struct Received<'a, T: ?Sized + Item> {
    held: HeldSlot,
    queue: PhantomData<(&'a (), *const T)>,
}

impl<'a, T: ?Sized + Item> Received<'a, T> {
    #[inline]
    pub(crate) fn new(
        handle: &'a QueueHandle,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<Self, QueueError> {
        let held = HeldSlot::new::<T>(handle, |participation, place| match T::SIZE {
            ItemSize::Batches(_) => participation.receive_batch(place, wait),
            _ => participation.receive(place, wait).map(|()| NO_ITEMS),
        })?;
        Ok(Received { held, queue: PhantomData })
    }
}

impl<T: ?Sized + Item> Drop for Received<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.held.participation.vacate(self.held.place);
    }
}

impl<T: ?Sized + Item> Deref for Received<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the slot is this thread's alone (invariant of `HeldSlot`), and stays mapped as
        // long as `participation` exists. It holds a `T`, and any bytes make one.
        unsafe { self.held.item::<T>().as_ref() }
    }
}

impl<T: ?Sized + Item> fmt::Debug for Received<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").finish_non_exhaustive()
    }
}
