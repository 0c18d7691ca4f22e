//! Queues of messages: [`ByteQueue`] and [`JoinableByteQueue`].

use super::error::QueueError;
use super::fifo::{self, Queue};
use super::item::sealed::Item as _;
use super::joinable::{self, JoinableQueue};
use super::loan::Loan;
use super::options::QueueOptions;
use super::participation::Participation;
use super::payload::{max_len, put_bytes};
use super::region::create;
use crate::memory::region::RegionError;
use crate::wait::{Wait, forms};

/// A [`Queue`] of messages, from 0 bytes to a maximum length that is set at its creation. Each slot
/// has room for that. For messages that may be much longer than most,
/// [`long_messages`](QueueOptions::long_messages) has memory beside the slots.
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

/// A [`JoinableQueue`] of messages.
///
/// ```
/// use crossproc::JoinableByteQueue;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tasks = JoinableByteQueue::with_max_len(8, 1024)?;
/// tasks.put(b"sweep the floor")?;
/// let task = tasks.get()?;
/// assert_eq!(*task, *b"sweep the floor");
/// task.done();
/// # Ok(())
/// # }
/// ```
pub type JoinableByteQueue = JoinableQueue<[u8]>;

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

    forms! {
        /// Returns room to write a message of `len` bytes into, in place. It holds what some
        /// earlier message left there. The call does not wait for room in the queue. It waits only
        /// for memory, for a [long message](QueueOptions::long_messages).
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
        loan, try_loan, loan_timeout, loan_deadline, loan_with
        (self: &Self, len: usize) -> Result<Loan<'_, [u8]>, QueueError>, Self::loan_until,
        errors "[`TooLong`](QueueError::TooLong), [`TooManyLoans`](QueueError::TooManyLoans), \
                [`NoMemory`](QueueError::NoMemory), and those of becoming a participant.",
        now "[`Full`](QueueError::Full) if long messages have the memory."
    }

    /// Frees the memory that is kept for the next [long
    /// messages](QueueOptions::long_messages). It does nothing if there can be none. Messages that
    /// are in the queue, or in somebody's hand, keep theirs.
    ///
    /// ```
    /// use crossproc::{ByteQueue, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = QueueOptions::new().long_messages(1 << 20, 1 << 24);
    /// let queue: ByteQueue = options.create_bytes(8, 1024)?;
    /// queue.put(&[7; 1 << 20])?;
    /// assert_eq!(queue.get()?.len(), 1 << 20);
    /// queue.trim()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NoMemory`](QueueError::NoMemory) if the system refuses to free it, and those of becoming a
    /// participant.
    pub fn trim(&self) -> Result<(), QueueError> {
        self.handle.with(Participation::trim)?
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
        max_len(&self.handle)
    }

    fn loan_until(
        &self,
        len: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<Loan<'_, [u8]>, QueueError> {
        Loan::new(&self.handle, len, wait)
    }

    pub(crate) fn put_until(
        &self,
        message: &[u8],
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        put_bytes(&self.handle, message, wait)
    }

    fn get_until(&self, wait: Option<impl FnOnce() -> Wait>) -> Result<Vec<u8>, QueueError> {
        self.handle.with(|participation| participation.get_message(wait, <[u8]>::to_vec))?
    }
}

impl JoinableQueue<[u8]> {
    /// Creates a queue for `capacity` tasks, 1 to 2^20, of at most `max_len` bytes, with the
    /// defaults of [`QueueOptions`].
    ///
    /// ```
    /// use crossproc::{JoinableByteQueue, QueueError};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = JoinableByteQueue::with_max_len(8, 5)?;
    /// tasks.put(b"sweep")?;
    /// assert!(matches!(tasks.put(b"wash up"), Err(QueueError::TooLong { len: 7, max: 5 })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError`]: there is no memory or no descriptor for it, or the capacity is impossible.
    pub fn with_max_len(capacity: usize, max_len: usize) -> Result<Self, RegionError> {
        QueueOptions::new().create_joinable_bytes(capacity, max_len)
    }

    forms! {
        /// Puts a task at the end of the queue.
        ///
        /// ```
        /// use crossproc::JoinableByteQueue;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let tasks = JoinableByteQueue::with_max_len(8, 1024)?;
        /// tasks.put(b"sweep the floor")?;
        /// assert_eq!(tasks.unfinished(), 1);
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
        /// Returns room to write a task of `len` bytes into, in place. It holds what some earlier
        /// task left there. The call does not wait for room in the queue. It waits only for memory,
        /// for a [long message](QueueOptions::long_messages).
        ///
        /// ```
        /// use crossproc::JoinableByteQueue;
        ///
        /// # fn main() -> std::io::Result<()> {
        /// let tasks = JoinableByteQueue::with_max_len(8, 1024)?;
        /// let mut task = tasks.loan(5)?;
        /// task.copy_from_slice(b"sweep");
        /// task.send()?;
        /// assert_eq!(*tasks.get()?, *b"sweep");
        /// # Ok(())
        /// # }
        /// ```
        loan, try_loan, loan_timeout, loan_deadline, loan_with
        (self: &Self, len: usize) -> Result<Loan<'_, [u8]>, QueueError>, Self::loan_until,
        errors "[`TooLong`](QueueError::TooLong), [`TooManyLoans`](QueueError::TooManyLoans), \
                [`NoMemory`](QueueError::NoMemory), and those of becoming a participant.",
        now "[`Full`](QueueError::Full) if long messages have the memory."
    }

    /// Frees the memory that is kept for the next [long
    /// messages](QueueOptions::long_messages), as [`Queue::trim`] does.
    ///
    /// ```
    /// use crossproc::{JoinableByteQueue, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = QueueOptions::new().long_messages(1 << 20, 1 << 24);
    /// let tasks: JoinableByteQueue = options.create_joinable_bytes(8, 1024)?;
    /// tasks.put(&[7; 1 << 20])?;
    /// tasks.get()?.done();
    /// tasks.trim()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Queue::trim`].
    pub fn trim(&self) -> Result<(), QueueError> {
        self.handle.with(Participation::trim)?
    }

    /// Returns the maximum length of a task, in bytes.
    ///
    /// ```
    /// use crossproc::JoinableByteQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = JoinableByteQueue::with_max_len(8, 1024)?;
    /// assert_eq!(tasks.max_len(), 1024);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn max_len(&self) -> usize {
        max_len(&self.handle)
    }

    fn loan_until(
        &self,
        len: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<Loan<'_, [u8]>, QueueError> {
        Loan::new(&self.handle, len, wait)
    }

    pub(crate) fn put_until(
        &self,
        message: &[u8],
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        put_bytes(&self.handle, message, wait)
    }
}

impl QueueOptions {
    /// Creates a [`ByteQueue`] for `capacity` messages, 1 to 2^20, of at most
    /// `max_len` bytes, which are fewer than 2^32.
    ///
    /// ```
    /// use crossproc::{ByteQueue, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: ByteQueue = QueueOptions::new().loans(8).create_bytes(16, 1024)?;
    /// assert_eq!((queue.capacity(), queue.max_len()), (16, 1024));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::UnsuitableQueue`] if the numbers are impossible, and
    /// [`RegionError::NoNamespace`].
    pub fn create_bytes(
        &self,
        capacity: usize,
        max_len: usize,
    ) -> Result<Queue<[u8]>, RegionError> {
        create(self.config_of_bytes(capacity, max_len, false)?, <[u8]>::layout(fifo::KIND))
            .map(Queue::of)
    }

    /// Creates a [`JoinableByteQueue`] for `capacity` tasks, 1 to 2^20,
    /// of at most `max_len` bytes, which are fewer than 2^32.
    ///
    /// ```
    /// use crossproc::{JoinableByteQueue, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableByteQueue = QueueOptions::new().create_joinable_bytes(16, 1024)?;
    /// assert_eq!((tasks.capacity(), tasks.max_len()), (16, 1024));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::UnsuitableQueue`] if the numbers are impossible, and
    /// [`RegionError::NoNamespace`].
    pub fn create_joinable_bytes(
        &self,
        capacity: usize,
        max_len: usize,
    ) -> Result<JoinableQueue<[u8]>, RegionError> {
        create(self.config_of_bytes(capacity, max_len, true)?, <[u8]>::layout(joinable::KIND))
            .map(JoinableQueue::of)
    }
}
