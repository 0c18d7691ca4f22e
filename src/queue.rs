//! [`Queue`]: a bounded queue between processes, lock-free, written and read in place.

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
/// The queue is lock-free in the strict sense: a participant that is stopped or killed, at any
/// instruction, keeps no other from putting and getting. Its capacity is exact, and no death
/// changes it. Items are written and read in place: [`loan`](Queue::loan) and
/// [`receive`](Queue::receive) copy nothing, whatever the size.
///
/// # Handles and participants
/// A handle is like a [`Shm`](crate::Shm): forked children inherit it, and other programs get its
/// [descriptor](AsFd) and [attach](Queue::attach). Each *thread* becomes a participant when it
/// first uses a queue, and is one until it ends.
///
/// How many participants there may be at the same time is set at creation ([`QueueOptions`]); the
/// dead do not count. A participant has some slots of its own, whose memory is allocated when it
/// first comes.
///
/// # Blocking and fairness
/// [`put`](Queue::put) waits while there is no room, [`get`](Queue::get) while there is no item;
/// neither uses the processor once it sleeps. Items are got in the order in which they were put,
/// and those of one producer in its order. An item, or room, goes to the first thread that takes
/// it. Sleepers are woken in the order in which they went to sleep.
///
/// The forms that do not wait are lock-free: some participant always makes progress. A particular
/// one may have to try again as often as others are faster.
///
/// # Memory ordering
/// A put *synchronises with* the get of its item. `Full` and `Empty` are exact: the queue was full,
/// or empty, at some time during the call.
///
/// # Process death
/// A participant that dies takes nothing with it that belongs to others. An item that it was about
/// to put is in the queue as a whole, or not at all. An item that it was about to get is still in
/// the queue, or is lost with it. Others find out which before a new participant takes its place.
///
/// Loans that were not sent are lost. If a received item must survive its receiver, use a
/// [`JoinableQueue`].
///
/// # Fork
/// A forked child takes part for itself. A guard that was carried into it does nothing when it is
/// dropped there.
///
/// # Errors
/// [`QueueError`]; a put that fails gives the value back ([`PutError`]).
///
/// # Signal handlers
/// Not for use in signal handlers.
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
///     theirs.close()?;
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
/// An original algorithm; the argument is in `src/queue/exchange.rs`.
pub struct Queue<T: ?Sized + Item> {
    pub(crate) handle: QueueHandle,
    items: PhantomData<fn(&T)>,
}

/// A [`Queue`] of messages, from 0 bytes to a maximum length that is set at its creation.
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
    /// Creates a queue for `capacity` items, 1 to 2^20, with the defaults of [`QueueOptions`].
    ///
    /// ```
    /// use crossproc::Queue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = Queue::new(16)?;
    /// assert_eq!((queue.capacity(), queue.len()), (16, 0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError`]: there is no memory or no descriptor for it, or the capacity is impossible.
    pub fn new(capacity: usize) -> Result<Self, RegionError> {
        QueueOptions::new().create(capacity)
    }

    forms! {
        /// Puts an item at the end of the queue. The item is moved, several times in a build
        /// without optimisation. From some 64 KiB on, write it into a [`loan`](Queue::loan), or
        /// pass a reference to [`put_many`](Queue::put_many).
        ///
        /// ```
        /// use crossproc::{Queue, QueueError};
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue: Queue<u64> = Queue::new(1)?;
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
        /// Gets the first item, by copy. From some 64 KiB on, [`receive`](Queue::receive) it, or
        /// append it to a vector with [`get_many`](Queue::get_many).
        ///
        /// ```
        /// use crossproc::{Queue, QueueError};
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue: Queue<u64> = Queue::new(16)?;
        /// queue.put(7)?;
        /// queue.put(8)?;
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
        /// Puts all of `values` at the end of the queue, in this order. Items of other producers
        /// may come between them. It costs less per item than single puts. Each item is copied from
        /// where it lies: one in a `Box`, passed with [`slice::from_ref`](core::slice::from_ref),
        /// is never on the stack.
        ///
        /// ```
        /// use crossproc::Queue;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue: Queue<u64> = Queue::new(4)?;
        /// queue.put_many(&[1, 2, 3])?;
        /// let numbers = [4, 5, 6];
        /// let refused = queue.try_put_many(&numbers).unwrap_err();
        /// assert_eq!(numbers[refused.put..], [5, 6]);
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
        /// `values`. Returns how many; 0 at once if `most` is 0. However fast others put meanwhile,
        /// it stops after as many as fit into the queue, or after 1,024 if that is more. It costs
        /// less per item than single gets, and no item is on the stack.
        ///
        /// ```
        /// use crossproc::Queue;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue: Queue<u64> = Queue::new(4)?;
        /// queue.put_many(&[1, 2, 3])?;
        /// let mut numbers = vec![0];
        /// assert_eq!(queue.get_many(&mut numbers, 10)?, 3);
        /// assert_eq!(numbers, [0, 1, 2, 3]);
        /// # Ok(())
        /// # }
        /// ```
        get_many, try_get_many, get_many_timeout, get_many_deadline, get_many_with
        (self: &Self, values: &mut Vec<T>, most: usize) -> Result<usize, QueueError>,
        Self::get_many_until,
        errors "As [`get`](Self::get).",
        now "[`Empty`](QueueError::Empty)."
    }

    /// Returns a slot to write an item into, in place. The slot holds what some earlier item left
    /// there. The call does not wait, whether the queue is full or not.
    ///
    /// Nothing of the item is on the stack, whatever its size. Until the loan is
    /// [sent](Loan::send), no other participant sees anything of it. If the thread panics or the
    /// process dies before that, nothing is put, and the slot is free again.
    ///
    /// ```
    /// use crossproc::Queue;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let frames: Queue<[u8; 1 << 20]> = Queue::new(4)?;
    /// let mut frame = frames.loan()?;
    /// frame.fill(0);
    /// frame[7] = 1;
    /// frame.send()?;
    /// assert_eq!(frames.receive()?[7], 1);
    /// # Ok(())
    /// # }
    /// ```
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
        // SAFETY: the payload belongs to a slot of this participant. It has room for a `T`, and is
        // aligned for it: the config was made, or checked, for `T`.
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
        // SAFETY: as in `put_value`. The item is not in the slot: no reference is left to what lies
        // in a place that is not in use. It is copied from where it lies, because it may be larger
        // than the stack.
        unsafe { payload.cast::<T>().copy_from_nonoverlapping(NonNull::from(&values[index]), 1) };
    };
    match handle.with(|participation| participation.put_many(values.len(), wait, write)) {
        Ok((_, None)) => Ok(()),
        Ok((put, Some(error))) => Err(PutManyError { put, error }),
        Err(error) => Err(PutManyError { put: 0, error }),
    }
}

/// Appends an item to `values`, copied from where it lies: it may be larger than the stack.
#[inline]
fn push<T: Plain>(values: &mut Vec<T>, payload: NonNull<u8>) {
    values.reserve(1);
    let end = NonNull::from(&mut values.spare_capacity_mut()[0]).cast::<T>();
    // SAFETY: the payload belongs to a slot of this participant. It holds a `T`, and any bytes make
    // one. The vector has room for it, and is in other memory.
    unsafe { end.copy_from_nonoverlapping(payload.cast(), 1) };
    // SAFETY: one item more, which was reserved and written above.
    unsafe { values.set_len(values.len() + 1) };
}

/// Copies an item out of its slot.
#[inline]
fn read<T: Plain>(payload: NonNull<u8>) -> T {
    // SAFETY: the payload belongs to a slot of this participant. It holds a `T`, and any bytes make
    // one.
    unsafe { payload.cast::<T>().read() }
}

impl Queue<[u8]> {
    /// Creates a queue for `capacity` messages, 1 to 2^20, of at most `max_len` bytes, with the
    /// defaults of [`QueueOptions`].
    ///
    /// ```
    /// use crossproc::{ByteQueue, QueueError};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = ByteQueue::with_max_len(8, 5)?;
    /// queue.put(b"hello")?;
    /// assert!(matches!(queue.put(b"good morning"), Err(QueueError::TooLong { len: 12, max: 5 })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError`]: there is no memory or no descriptor for it, or the capacity is impossible.
    pub fn with_max_len(capacity: usize, max_len: usize) -> Result<Self, RegionError> {
        QueueOptions::new().create_bytes(capacity, max_len)
    }

    forms! {
        /// Puts a message at the end of the queue.
        ///
        /// ```
        /// use crossproc::ByteQueue;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue = ByteQueue::with_max_len(8, 1024)?;
        /// queue.put(b"hello")?;
        /// queue.put(b"")?;
        /// assert_eq!(queue.len(), 2);
        /// # Ok(())
        /// # }
        /// ```
        put, try_put, put_timeout, put_deadline, put_with
        (self: &Self, message: &[u8]) -> Result<(), QueueError>, Self::put_until,
        errors "[`TooLong`](QueueError::TooLong), [`Closed`](QueueError::Closed), \
                and those of becoming a participant ([`QueueError`]).",
        now "[`Full`](QueueError::Full)."
    }

    forms! {
        /// Gets the first message, as a vector. To read it in place, [`receive`](Queue::receive)
        /// it.
        ///
        /// ```
        /// use crossproc::ByteQueue;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue = ByteQueue::with_max_len(8, 1024)?;
        /// queue.put("grüß dich".as_bytes())?;
        /// assert_eq!(String::from_utf8(queue.get()?)?, "grüß dich");
        /// # Ok(())
        /// # }
        /// ```
        get, try_get, get_timeout, get_deadline, get_with
        (self: &Self) -> Result<Vec<u8>, QueueError>, Self::get_until,
        errors "[`Closed`](QueueError::Closed) once there is nothing left, \
                and those of becoming a participant ([`QueueError`]).",
        now "[`Empty`](QueueError::Empty)."
    }

    /// Returns a slot to write a message of `len` bytes into, in place. The slot holds what some
    /// earlier message left there. The call does not wait, whether the queue is full or not.
    ///
    /// ```
    /// use crossproc::ByteQueue;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let queue = ByteQueue::with_max_len(8, 1024)?;
    /// let mut message = queue.loan(5)?;
    /// message.copy_from_slice(b"hello");
    /// message.send()?;
    /// assert_eq!(queue.get()?, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TooLong`](QueueError::TooLong), [`TooManyLoans`](QueueError::TooManyLoans), and those of
    /// becoming a participant.
    pub fn loan(&self, len: usize) -> Result<Loan<'_, [u8]>, QueueError> {
        Loan::new(&self.handle, len)
    }

    /// Returns the maximum length of a message, in bytes.
    ///
    /// ```
    /// use crossproc::ByteQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = ByteQueue::with_max_len(8, 1024)?;
    /// assert_eq!(queue.max_len(), 1024);
    /// # Ok(())
    /// # }
    /// ```
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
                // Relaxed: the slot is this participant's, and the exchange has ordered it. The
                // bound is the room that there is, whatever a peer has written there.
                let len = (memory.payload_len(slot).load(Relaxed) as usize)
                    .min(memory.config.size as usize);
                // SAFETY: the payload belongs to a slot of this participant. It has `config.size`
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
        // SAFETY: the payload belongs to a slot of this participant, and has as many bytes: checked
        // above. It is shared memory; the message is not in it, or is in another slot.
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
    /// with the last clone, or at once if this fails. As with [`Shm::attach`](crate::Shm::attach),
    /// nothing in the file is trusted.
    ///
    /// ```
    /// use crossproc::{Queue, RegionError};
    /// use std::os::fd::AsFd;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = Queue::new(16)?;
    /// // Here in the same process; other processes get the descriptor in some way.
    /// let again: Queue<u64> = Queue::attach(queue.as_fd().try_clone_to_owned()?)?;
    /// again.put(7)?;
    /// assert_eq!(queue.get()?, 7);
    ///
    /// let other = Queue::<[u8; 4]>::attach(queue.as_fd().try_clone_to_owned()?);
    /// assert!(matches!(other, Err(RegionError::OtherLayout { .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError`], which has a variant for everything that can be wrong with the file.
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
        /// Takes the first item out, to be read in place. Its slot stays this thread's until the
        /// guard is dropped.
        ///
        /// ```
        /// use crossproc::ByteQueue;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue = ByteQueue::with_max_len(8, 1 << 20)?;
        /// queue.put(b"6 * 7")?;
        /// let question = queue.receive()?;
        /// assert!(question.starts_with(b"6"));
        /// # Ok(())
        /// # }
        /// ```
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

    /// Closes the queue: from then on, puts fail, and gets fail once nothing is left. A put that is
    /// under way at the same time may succeed, and its item can be got. All waiters are woken. A
    /// closed queue cannot be opened again.
    ///
    /// ```
    /// use crossproc::{Queue, QueueError};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = Queue::new(16)?;
    /// queue.put(7)?;
    /// queue.close()?;
    /// assert!(matches!(queue.put(8).unwrap_err().error, QueueError::Closed));
    /// assert_eq!(queue.get()?, 7);
    /// assert!(matches!(queue.get(), Err(QueueError::Closed)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of becoming a participant.
    pub fn close(&self) -> Result<(), QueueError> {
        self.handle.with(|participation| participation.memory().close(participation.thread))
    }

    /// Returns whether the queue is closed for puts. Once true, it stays so.
    ///
    /// ```
    /// use crossproc::Queue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = Queue::new(16)?;
    /// assert!(!queue.is_closed());
    /// queue.close()?;
    /// assert!(queue.is_closed());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        is_closed(&self.handle)
    }

    /// Returns how many items there are. It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::Queue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = Queue::new(16)?;
    /// queue.put_many(&[1, 2, 3])?;
    /// assert_eq!(queue.len(), 3);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        count(&self.handle, Which::Items)
    }

    /// Returns whether there are no items. It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::Queue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = Queue::new(16)?;
    /// assert!(queue.is_empty());
    /// queue.put(7)?;
    /// assert!(!queue.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether there are as many items as fit. It may have changed by the time this
    /// returns.
    ///
    /// ```
    /// use crossproc::Queue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = Queue::new(1)?;
    /// assert!(!queue.is_full());
    /// queue.put(7)?;
    /// assert!(queue.is_full());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity()
    }

    /// Returns how many items fit.
    ///
    /// ```
    /// use crossproc::Queue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = Queue::new(1000)?;
    /// assert_eq!(queue.capacity(), 1000);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.handle.memory().config.capacity as usize
    }
}

fn count(handle: &QueueHandle, which: Which) -> usize {
    handle.memory().count(handle.memory().ring(which))
}

fn is_closed(handle: &QueueHandle) -> bool {
    // Acquire: pairs with the Release in `close`: what the closer did before is seen.
    handle.memory().ring(Which::Items).tail().load(Acquire) & CLOSED != 0
}

impl<T: ?Sized + Item> Clone for Queue<T> {
    /// Returns another handle in this process, to the same mapping.
    fn clone(&self) -> Self {
        Queue::of(self.handle.clone())
    }
}

impl<T: ?Sized + Item> AsFd for Queue<T> {
    /// Returns the descriptor that other processes [attach](Queue::attach) to; close-on-exec.
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
