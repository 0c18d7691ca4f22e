//! [`Queue`]: a bounded queue of items.

use core::fmt;
use core::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::error::{PutError, PutManyError, QueueError};
use super::item::{Item, sealed::Item as _};
use super::loan::{Loan, Received};
use super::options::QueueOptions;
use super::participation::QueueHandle;
use super::payload::{AT_ONCE, push, put_value, put_values, read};
use super::region::{Kind, attach, create};
use crate::memory::HandleError;
use crate::memory::region::RegionError;
use crate::memory::shared::Plain;
use crate::wait::{Wait, forms};

pub(super) const KIND: &str = "Queue";

/// A bounded first-in-first-out queue of [`Plain`] data, or of [messages](super::ByteQueue), for
/// any number of producers and consumers in any processes.
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
/// [`JoinableQueue`](super::JoinableQueue).
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
/// An original algorithm; the argument is in `src/queue/ring.rs`.
pub struct Queue<T: ?Sized + Item> {
    pub(crate) handle: QueueHandle,
    items: PhantomData<fn(&T)>,
}

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
        Loan::new(&self.handle, size_of::<T>(), AT_ONCE)
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

impl QueueOptions {
    /// Creates a [`Queue`] for `capacity` items, 1 to 2^20.
    ///
    /// ```
    /// use crossproc::{Queue, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = QueueOptions::new();
    /// let queue: Queue<u64> = options.create(16)?;
    /// assert_eq!(queue.capacity(), 16);
    /// assert!(options.create::<u64>(0).is_err(), "there is no queue for nothing");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::UnsuitableQueue`] if the numbers are impossible, and
    /// [`RegionError::NoNamespace`].
    pub fn create<T: Plain>(&self, capacity: usize) -> Result<Queue<T>, RegionError> {
        let config = self.config(capacity, size_of::<T>(), align_of::<T>(), false, None)?;
        create(config, T::layout(KIND)).map(Queue::of)
    }
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
        attach(file.into(), T::layout(KIND), T::name(), Kind::Queue).map(Queue::of)
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
        self.handle.is_closed()
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
        self.handle.len()
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
