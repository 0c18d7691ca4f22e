//! [`Queue`]: a bounded queue between processes, lock-free, read and written in place.

#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed};

mod burying;
mod error;
mod exchange;
#[cfg(feature = "tokio")]
mod futures;
pub(crate) mod item;
mod joinable;
mod layout;
mod letters;
mod loan;
mod looks;
mod memory;
mod operations;
mod options;
mod participants;
mod participation;
mod room;
mod tasks;
mod waiting;
mod watching;
mod words;

pub use self::error::{PutError, PutManyError, QueueError};
use self::exchange::Which;
pub use self::item::Item;
pub use self::joinable::{DeadLetter, JoinableByteQueue, JoinableQueue, Task};
pub use self::loan::{Loan, Received};
pub use self::options::QueueOptions;
use self::participation::QueueHandle;
pub use self::room::Room;
use self::words::CLOSED;
use crate::memory::HandleError;
use crate::memory::region::RegionError;
use crate::memory::shared::Plain;
use crate::wait::{Wait, forms};

/// A bounded first-in-first-out queue of [`Plain`] data, or of [messages](ByteQueue), for any
/// number of producers and consumers in any processes.
///
/// It is lock-free in the strict sense: a participant that is stopped or killed, at any
/// instruction, keeps nobody else from putting and getting. Its capacity is exact, and stays what
/// it was whoever dies. Items are written and read where they lie: [`loan`](Queue::loan) and
/// [`receive`](Queue::receive) copy nothing, whatever the size.
///
/// # Handles and participants
/// A handle is like a [`Shm`](crate::Shm): forked children inherit it, other programs get its
/// [descriptor](AsFd) and [attach](Queue::attach). Each *thread* that uses a queue becomes a
/// participant when it first does, and is one until it ends. There is a limit to how many may be at
/// the same time, given at creation ([`QueueOptions`]); the dead do not count. A participant has
/// some slots of its own, the memory for which is allocated when it first comes.
///
/// # Blocking and fairness
/// [`put`](Queue::put) waits while there is no room, [`get`](Queue::get) while there is no item;
/// neither uses the processor once it sleeps. Items are got in the order in which they were put,
/// those of one producer in its order. An item, or room, is for whoever comes first; sleepers are
/// woken in the order in which they went to sleep. The forms that do not wait are lock-free: some
/// participant always gets on, though a particular one may have to try again as often as others are
/// faster.
///
/// # Memory ordering
/// A put *synchronises with* the get of its item. `Full` and `Empty` are exact: at some time during
/// the call it was so.
///
/// # Process death
/// A participant that dies takes nothing of others' with it. What it was about to put is in the
/// queue as a whole, or not at all; what it was about to get is in the queue, or gone with it.
/// Loans that were not sent are gone. If a received item must survive who received it, take a
/// [`JoinableQueue`]. Whoever needs its place among the participants finds out which it was.
///
/// # Fork
/// A forked child takes part for itself. A guard that was carried into it does nothing when it is
/// dropped there.
///
/// # Errors
/// [`QueueError`]; a put that fails gives the value back ([`PutError`]).
///
/// # Signal handlers
/// Not for them.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Queue, QueueError, process};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue: Queue<u64> = Queue::new(16)?;
///
/// let theirs = queue.clone();
/// let child = process::fork(move || -> Result<(), QueueError> {
///     for number in 0..1000 {
///         theirs.put(number)?;
///     }
///     theirs.close();
///     Ok(())
/// })?;
///
/// let mut sum = 0;
/// while let Ok(number) = queue.get() {
///     sum += number;
/// }
/// assert_eq!(sum, 499_500);
/// # child.join()?;
/// # Ok(())
/// # }
/// ```
///
/// In place:
/// ```
/// use crossproc::Queue;
///
/// # fn main() -> std::io::Result<()> {
/// let frames: Queue<[u8; 1 << 20]> = Queue::new(4)?;
/// let mut frame = frames.loan()?;
/// frame[..5].copy_from_slice(b"hello");
/// frame.send()?;
///
/// let frame = frames.receive()?;
/// assert_eq!(&frame[..5], b"hello");
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// Our own; the argument is in `src/queue/exchange.rs`.
pub struct Queue<T: ?Sized + Item> {
    pub(crate) handle: QueueHandle,
    items: PhantomData<fn(&T)>,
}

/// A [`Queue`] of messages: 0 to as many bytes as was said at its creation.
///
/// ```
/// use crossproc::ByteQueue;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = ByteQueue::with_max_len(8, 1024)?;
/// queue.put(b"hello")?;
/// assert_eq!(queue.get()?, b"hello");
/// # Ok(())
/// # }
/// ```
pub type ByteQueue = Queue<[u8]>;

const KIND: &str = "Queue";

impl<T: Plain> Queue<T> {
    /// A queue for `capacity` items, 1 to 2^20, with the defaults of [`QueueOptions`].
    ///
    /// # Errors
    /// [`RegionError`]: no memory or no descriptor for it, or a capacity that cannot be.
    pub fn new(capacity: usize) -> Result<Self, RegionError> {
        QueueOptions::new().create(capacity)
    }

    forms! {
        /// Puts an item behind all others. It is moved, several times in a build without optimisation:
        /// from some 64 KiB on, write it into a [`loan`](Queue::loan), or give a reference to
        /// [`put_many`](Queue::put_many).
        put, try_put, put_timeout, put_deadline, put_with
        (self: &Self, value: T) -> Result<(), PutError<T>>, Self::put_until,
        errors "[`Closed`](QueueError::Closed), and those of becoming a participant ([`QueueError`]).",
        now "[`Full`](QueueError::Full)."
    }

    forms! {
        /// Gets the first item, by copy. From some 64 KiB on, [`receive`](Queue::receive) it, or append it
        /// to a vector with [`get_many`](Queue::get_many).
        get, try_get, get_timeout, get_deadline, get_with
        (self: &Self) -> Result<T, QueueError>, Self::get_until,
        errors "[`Closed`](QueueError::Closed) once there is nothing left, and those of becoming a participant ([`QueueError`]).",
        now "[`Empty`](QueueError::Empty)."
    }

    forms! {
        /// Puts all of some items behind all others, in this order. Other producers' may come between them. It costs less for each than single puts.
        /// They are copied from where they lie: of an item in a `Box`, nothing is on the stack with
        /// [`slice::from_ref`](core::slice::from_ref).
        put_many, try_put_many, put_many_timeout, put_many_deadline, put_many_with
        (self: &Self, values: &[T]) -> Result<(), PutManyError>, Self::put_many_until,
        errors "As [`put`](Self::put), with how many were put before.",
        now "[`Full`](QueueError::Full), with how many there was room for."
    }

    forms! {
        /// Gets as many items as there are, `most` at the most, and at least one, and appends them
        /// to a vector. How many. However fast others put meanwhile, it ends after as many as fit,
        /// or 1,024 if that is more. It costs less for each than single gets, and nothing is on the stack.
        get_many, try_get_many, get_many_timeout, get_many_deadline, get_many_with
        (self: &Self, values: &mut Vec<T>, most: usize) -> Result<usize, QueueError>, Self::get_many_until,
        errors "As [`get`](Self::get).",
        now "[`Empty`](QueueError::Empty)."
    }

    /// A slot to write an item into, in place. It holds what some earlier item left there. It does
    /// not wait, whether the queue is full or not.
    ///
    /// Nothing of the item is on the stack, whatever its size. Until it is [sent](Loan::send), no
    /// other participant sees anything of it. If the thread panics before, or the process dies,
    /// nothing is put, and the slot is free again.
    ///
    /// # Errors
    /// [`TooManyLoans`](QueueError::TooManyLoans), and those of becoming a participant.
    pub fn loan(&self) -> Result<Loan<'_, T>, QueueError> {
        Loan::new(&self.handle, size_of::<T>())
    }

    #[inline]
    fn put_until(&self, value: T, wait: Option<impl FnOnce() -> Wait>) -> Result<(), PutError<T>> {
        put_value(&self.handle, value, wait)
    }

    #[inline]
    fn get_until(&self, wait: Option<impl FnOnce() -> Wait>) -> Result<T, QueueError> {
        self.handle.with(|participation| participation.get(wait, |payload, _| read(payload)))?
    }

    fn put_many_until(
        &self,
        values: &[T],
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), PutManyError> {
        put_values(&self.handle, values, wait)
    }

    fn get_many_until(
        &self,
        values: &mut Vec<T>,
        most: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<usize, QueueError> {
        self.handle.with(|participation| {
            participation.get_many(most, wait, |payload, _| push(values, payload))
        })?
    }
}

#[inline(always)]
fn put_value<T: Plain>(
    handle: &QueueHandle,
    value: T,
    wait: Option<impl FnOnce() -> Wait>,
) -> Result<(), PutError<T>> {
    let memory = handle.memory();
    let write = |payload: NonNull<u8>, slot| {
        memory.prepare(slot);
        // SAFETY: the payload of a slot that is this participant's, with room for a `T`, and
        // aligned for it: the config was made, or checked, for it.
        unsafe { payload.cast::<T>().write(value) };
    };
    let result = handle.with(|participation| participation.put(wait, write));
    result.and_then(|result| result).map_err(|error| PutError { value, error })
}

fn put_values<T: Plain>(
    handle: &QueueHandle,
    values: &[T],
    wait: Option<impl FnOnce() -> Wait>,
) -> Result<(), PutManyError> {
    let memory = handle.memory();
    let write = |payload: NonNull<u8>, slot, index: usize| {
        memory.prepare(slot);
        // SAFETY: as in `put_value`. The item is none of the slot's: no reference to what lies in a
        // place that is not in use is left. It is copied from where it lies: it may be more
        // than a stack holds.
        unsafe { payload.cast::<T>().copy_from_nonoverlapping(NonNull::from(&values[index]), 1) };
    };
    match handle.with(|participation| participation.put_many(values.len(), wait, write)) {
        Ok((_, None)) => Ok(()),
        Ok((put, Some(error))) => Err(PutManyError { put, error }),
        Err(error) => Err(PutManyError { put: 0, error }),
    }
}

/// Copies an item behind others, from where it lies to where it stays: it may be more than a stack
/// holds.
#[inline]
fn push<T: Plain>(values: &mut Vec<T>, payload: NonNull<u8>) {
    values.reserve(1);
    let end = NonNull::from(&mut values.spare_capacity_mut()[0]).cast::<T>();
    // SAFETY: the payload of a slot that is this participant's, for a `T`, of which any bytes make
    // one; the vector has room for it, and is in other memory.
    unsafe { end.copy_from_nonoverlapping(payload.cast(), 1) };
    // SAFETY: there is one more: just written, and reserved above.
    unsafe { values.set_len(values.len() + 1) };
}

/// Copies an item out.
#[inline]
fn read<T: Plain>(payload: NonNull<u8>) -> T {
    // SAFETY: the payload of a slot that is this participant's, for a `T`, of which any bytes make
    // one.
    unsafe { payload.cast::<T>().read() }
}

impl Queue<[u8]> {
    /// A queue for `capacity` messages, 1 to 2^20, of `max_len` bytes at most, with the defaults of
    /// [`QueueOptions`].
    ///
    /// # Errors
    /// [`RegionError`]: no memory or no descriptor for it, or a capacity that cannot be.
    pub fn with_max_len(capacity: usize, max_len: usize) -> Result<Self, RegionError> {
        QueueOptions::new().create_bytes(capacity, max_len)
    }

    forms! {
        /// Puts a message behind all others.
        put, try_put, put_timeout, put_deadline, put_with
        (self: &Self, message: &[u8]) -> Result<(), QueueError>, Self::put_until,
        errors "[`TooLong`](QueueError::TooLong), [`Closed`](QueueError::Closed), and those of becoming a participant ([`QueueError`]).",
        now "[`Full`](QueueError::Full)."
    }

    forms! {
        /// Gets the first message, as a vector. To read it in place, [`receive`](Queue::receive) it.
        get, try_get, get_timeout, get_deadline, get_with
        (self: &Self) -> Result<Vec<u8>, QueueError>, Self::get_until,
        errors "[`Closed`](QueueError::Closed) once there is nothing left, and those of becoming a participant ([`QueueError`]).",
        now "[`Empty`](QueueError::Empty)."
    }

    /// A slot to write a message of `len` bytes into, in place. It holds what some earlier message
    /// left there. It does not wait, whether the queue is full or not.
    ///
    /// # Errors
    /// [`TooLong`](QueueError::TooLong), [`TooManyLoans`](QueueError::TooManyLoans), and those of
    /// becoming a participant.
    pub fn loan(&self, len: usize) -> Result<Loan<'_, [u8]>, QueueError> {
        Loan::new(&self.handle, len)
    }

    /// The most bytes that a message can have.
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.handle.memory().config.size as usize
    }

    pub(crate) fn put_until(
        &self,
        message: &[u8],
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        put_bytes(&self.handle, message, wait)
    }

    fn get_until(&self, wait: Option<impl FnOnce() -> Wait>) -> Result<Vec<u8>, QueueError> {
        let memory = self.handle.memory();
        self.handle.with(|participation| {
            participation.get(wait, |payload, slot| {
                // Relaxed: the slot is this participant's, the exchange has ordered it. No more
                // than there is room for, whatever a peer has written there.
                let len = (memory.payload_len(slot).load(Relaxed) as usize)
                    .min(memory.config.size as usize);
                // SAFETY: the payload of a slot that is this participant's, which has `config.size`
                // bytes, all of them initialised: the memory began as zeros.
                unsafe { NonNull::slice_from_raw_parts(payload, len).as_ref() }.to_vec()
            })
        })?
    }
}

fn put_bytes(
    handle: &QueueHandle,
    message: &[u8],
    wait: Option<impl FnOnce() -> Wait>,
) -> Result<(), QueueError> {
    let memory = handle.memory();
    check_len(handle, message.len())?;
    let write = |payload: NonNull<u8>, slot: usize| {
        memory.prepare(slot);
        // Relaxed: the exchange orders it.
        memory.payload_len(slot).store(message.len() as u32, Relaxed);
        // SAFETY: the payload of a slot that is this participant's has as many bytes: checked
        // above. It is shared memory, and the message is not in it, or in another slot.
        unsafe { payload.copy_from(NonNull::from(message).cast(), message.len()) };
    };
    handle.with(|participation| participation.put(wait, write))?
}

fn check_len(handle: &QueueHandle, len: usize) -> Result<(), QueueError> {
    let max = handle.memory().config.size as usize;
    if len > max { Err(QueueError::TooLong { len, max }) } else { Ok(()) }
}

impl<T: ?Sized + Item> Queue<T> {
    pub(crate) fn of(handle: QueueHandle) -> Self {
        Queue { handle, items: PhantomData }
    }

    /// Maps a queue that another process has created, from its descriptor. The descriptor is closed
    /// with the last clone, or at once if this fails. Nothing in the file is trusted, as with
    /// [`Shm::attach`](crate::Shm::attach).
    ///
    /// # Errors
    /// [`RegionError`] has a variant for everything that can be wrong with it.
    pub fn attach(file: impl Into<OwnedFd>) -> Result<Self, RegionError> {
        options::attach(
            file.into(),
            <T as item::sealed::Item>::layout(KIND),
            <T as item::sealed::Item>::name(),
            false,
        )
        .map(Queue::of)
    }

    forms! {
        /// Takes the first item out, to read it in place. Its slot stays this thread's until the guard is dropped.
        receive, try_receive, receive_timeout, receive_deadline, receive_with
        (self: &Self) -> Result<Received<'_, T>, QueueError>, Self::receive_until,
        errors "[`TooManyLoans`](QueueError::TooManyLoans); otherwise as `get`.",
        now "[`Empty`](QueueError::Empty)."
    }

    pub(crate) fn receive_until(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<Received<'_, T>, QueueError> {
        Received::new(&self.handle, wait)
    }

    /// Closes the queue: puts fail from now on, and gets once nothing is left. A put that is under
    /// way at the same time may succeed, and is got. All who wait are told. It cannot be opened
    /// again.
    ///
    /// # Errors
    /// Those of becoming a participant.
    pub fn close(&self) -> Result<(), QueueError> {
        self.handle.with(|participation| participation.memory().close(participation.thread))
    }

    /// Whether it is closed for puts. Once true it stays so.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        is_closed(&self.handle)
    }

    /// How many items there are. It may have changed by the time this returns.
    #[must_use]
    pub fn len(&self) -> usize {
        count(&self.handle, Which::Items)
    }

    /// Whether there are none. It may have changed by the time this returns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are as many as fit. It may have changed by the time this returns.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity()
    }

    /// How many items fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.handle.memory().config.capacity as usize
    }
}

fn count(handle: &QueueHandle, which: Which) -> usize {
    handle.memory().count(handle.memory().ring(which))
}

fn is_closed(handle: &QueueHandle) -> bool {
    // Acquire: what its closer did before is seen.
    handle.memory().ring(Which::Items).tail().load(Acquire) & CLOSED != 0
}

impl<T: ?Sized + Item> Clone for Queue<T> {
    /// Another handle in this process, to the same mapping.
    fn clone(&self) -> Self {
        Queue::of(self.handle.clone())
    }
}

impl<T: ?Sized + Item> AsFd for Queue<T> {
    /// The descriptor that other processes [attach](Queue::attach) to; close-on-exec.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.region().as_fd()
    }
}

impl<T: ?Sized + Item> crate::memory::Handle for Queue<T> {
    fn from_fd(fd: OwnedFd) -> Result<Self, HandleError> {
        Ok(Queue::attach(fd)?)
    }
}

impl<T: ?Sized + Item> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("is_closed", &self.is_closed())
            .finish()
    }
}
