//! [`JoinableQueue`]: a queue of tasks that outlive their workers.

use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use super::error::{PutError, PutManyError, QueueError};
use super::item::{Item, ItemSize, sealed::Item as _};
use super::loan::{HeldSlot, Loan, NO_ITEMS};
use super::options::QueueOptions;
use super::participation::QueueHandle;
use super::payload::{AT_ONCE, put_value, put_values};
use super::region::{Kind, attach, create};
use super::task::{DeadLetter, Task};
use crate::memory::HandleError;
use crate::memory::region::RegionError;
use crate::memory::shared::Plain;
use crate::wait::{Wait, Waiter, forms};

pub(super) const KIND: &str = "JoinableQueue";

/// A [`Queue`](super::Queue) of tasks, each of which is to be done once: a task that was taken and
/// not finished is given to another worker.
///
/// [`get`](JoinableQueue::get) returns a [`Task`]; [`Task::done`] finishes it. If its worker is
/// killed, panics, or drops it, the task comes back. The next `get` takes it, before all tasks that
/// still wait in the queue. [`Task::attempts`] says how often it was given out.
///
/// A task that kills its workers can be put aside ([`QueueOptions::attempts`]). It is then a [dead
/// letter](JoinableQueue::dead_letter), and counts as finished. [`join`](JoinableQueue::join) waits
/// until every task is finished. A thread may have as many tasks in hand as it may have loans.
///
/// A worker that dies may have done its task in part, or all of it but the call to
/// [`done`](Task::done). So tasks are given out *at least* once.
///
/// # Blocking and fairness
/// As [`Queue`](super::Queue). A worker's death wakes one thread that waits for a task, or for the
/// end of the last one, at once. With more than 120 other participants, or on kernels before 5.16,
/// it can take a [slice](crate::set_recheck_interval).
///
/// # Memory ordering
/// A put *synchronises with* the get of its task, and [`Task::done`] with the return of a
/// [`join`](JoinableQueue::join) that waited for it. A worker's death counts as a return of its
/// tasks.
///
/// # Process death
/// No death loses a task, other than one that the dead *producer* was about to put. Otherwise as
/// [`Queue`](super::Queue).
///
/// # Fork, signal handlers
/// As [`Queue`](super::Queue).
///
/// # Errors
/// [`QueueError`]; a put that fails gives the value back ([`PutError`]).
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{JoinableQueue, QueueError, process};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
/// tasks.put(42)?;
///
/// let theirs = tasks.clone();
/// let clumsy = process::fork(move || -> () {
///     let _task = theirs.get().unwrap();
///     std::process::abort(); // ... with the task in hand
/// })?;
/// clumsy.join()?;
///
/// let theirs = tasks.clone();
/// let worker = process::fork(move || -> Result<(), QueueError> {
///     while let Ok(task) = theirs.get() {
///         assert_eq!((*task, task.attempts()), (42, 2));
///         task.done();
///     }
///     Ok(())
/// })?;
/// tasks.join()?;
/// tasks.close()?;
/// assert!(worker.join()?.success());
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// An original algorithm; the argument is in `src/queue/ring/tasks.rs`.
pub struct JoinableQueue<T: ?Sized + Item> {
    pub(crate) handle: QueueHandle,
    items: PhantomData<fn(&T)>,
}

impl<T: Plain> JoinableQueue<T> {
    /// Creates a queue for `capacity` tasks, 1 to 2^20, with the defaults of [`QueueOptions`].
    ///
    /// ```
    /// use crossproc::JoinableQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
    /// assert_eq!((tasks.capacity(), tasks.unfinished()), (16, 0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError`]: there is no memory or no descriptor for it, or the capacity is impossible.
    pub fn new(capacity: usize) -> Result<Self, RegionError> {
        QueueOptions::new().create_joinable(capacity)
    }

    forms! {
        /// Puts a task at the end of the queue. The task is moved, several times in a build without
        /// optimisation. From some 64 KiB on, write it into a [`loan`](JoinableQueue::loan), or
        /// pass a reference to [`put_many`](JoinableQueue::put_many).
        ///
        /// ```
        /// use crossproc::{JoinableQueue, QueueError};
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let tasks: JoinableQueue<u64> = JoinableQueue::new(1)?;
        /// tasks.put(7)?;
        /// let refused = tasks.try_put(8).unwrap_err();
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
        /// Puts all of `values` at the end of the queue, in this order. Tasks of other producers
        /// may come between them. It costs less per task than single puts. Each task is copied from
        /// where it lies: one in a `Box`, passed with [`slice::from_ref`](core::slice::from_ref),
        /// is never on the stack.
        ///
        /// ```
        /// use crossproc::JoinableQueue;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
        /// tasks.put_many(&[1, 2, 3])?;
        /// assert_eq!(tasks.unfinished(), 3);
        /// # Ok(())
        /// # }
        /// ```
        put_many, try_put_many, put_many_timeout, put_many_deadline, put_many_with
        (self: &Self, values: &[T]) -> Result<(), PutManyError>, Self::put_many_until,
        errors "As [`put`](Self::put), with how many were put before.",
        now "[`Full`](QueueError::Full), with how many there was room for."
    }

    /// Returns a slot to write a task into, in place. The slot holds what some earlier task left
    /// there. The call does not wait, whether the queue is full or not.
    ///
    /// Nothing of the task is on the stack, whatever its size. Until the loan is
    /// [sent](Loan::send), no other participant sees anything of it. If the thread panics or the
    /// process dies before that, nothing is put, and the slot is free again.
    ///
    /// ```
    /// use crossproc::JoinableQueue;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let pages: JoinableQueue<[u8; 4096]> = JoinableQueue::new(16)?;
    /// let mut page = pages.loan()?;
    /// page.fill(7);
    /// page.send()?;
    /// assert_eq!(pages.get()?[100], 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TooManyLoans`](QueueError::TooManyLoans), and those of becoming a participant.
    pub fn loan(&self) -> Result<Loan<'_, T>, QueueError> {
        Loan::new(&self.handle, size_of::<T>(), AT_ONCE)
    }

    fn put_until(&self, value: T, wait: Option<impl FnOnce() -> Wait>) -> Result<(), PutError<T>> {
        put_value(&self.handle, value, wait)
    }

    fn put_many_until(
        &self,
        values: &[T],
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), PutManyError> {
        put_values(&self.handle, values, wait)
    }
}

impl QueueOptions {
    /// Creates a [`JoinableQueue`] for `capacity` tasks, 1 to 2^20.
    ///
    /// ```
    /// use crossproc::{JoinableQueue, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = QueueOptions::new().participants(9).create_joinable(16)?;
    /// tasks.put(7)?;
    /// tasks.get()?.done();
    /// assert_eq!(tasks.unfinished(), 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::UnsuitableQueue`] if the numbers are impossible, and
    /// [`RegionError::NoNamespace`].
    pub fn create_joinable<T: Plain>(
        &self,
        capacity: usize,
    ) -> Result<JoinableQueue<T>, RegionError> {
        let config = self.config(capacity, size_of::<T>(), align_of::<T>(), true, None)?;
        create(config, T::layout(KIND)).map(JoinableQueue::of)
    }
}

impl<T: ?Sized + Item> JoinableQueue<T> {
    pub(crate) fn of(handle: QueueHandle) -> Self {
        JoinableQueue { handle, items: PhantomData }
    }

    /// Maps a queue that another process has created, from its descriptor. The descriptor is closed
    /// with the last clone, or at once if this fails. As with [`Shm::attach`](crate::Shm::attach),
    /// nothing in the file is trusted.
    ///
    /// ```
    /// use crossproc::{JoinableQueue, Queue};
    /// use std::os::fd::AsFd;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
    /// // Here in the same process; other processes get the descriptor in some way.
    /// let again: JoinableQueue<u64> = JoinableQueue::attach(tasks.as_fd().try_clone_to_owned()?)?;
    /// again.put(7)?;
    /// assert_eq!(*tasks.get()?, 7);
    /// // It is not a queue of plain items.
    /// assert!(Queue::<u64>::attach(tasks.as_fd().try_clone_to_owned()?).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError`], which has a variant for everything that can be wrong with the file.
    pub fn attach(file: impl Into<OwnedFd>) -> Result<Self, RegionError> {
        const { assert!(!matches!(T::SIZE, ItemSize::Batches(_)), "a batch is not a task") };
        attach(file.into(), T::layout(KIND), T::name(), Kind::Joinable).map(JoinableQueue::of)
    }

    forms! {
        /// Gets a task: one that came back, or else the first one.
        ///
        /// ```
        /// use crossproc::{JoinableQueue, QueueError};
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
        /// tasks.put_many(&[7, 8])?;
        /// drop(tasks.get()?); // ... without `done`: it comes back, and before the others
        /// let task = tasks.get()?;
        /// assert_eq!((*task, task.attempts()), (7, 2));
        /// task.done();
        /// tasks.get()?.done();
        /// assert!(matches!(tasks.try_get(), Err(QueueError::Empty)));
        /// # Ok(())
        /// # }
        /// ```
        get, try_get, get_timeout, get_deadline, get_with
        (self: &Self) -> Result<Task<'_, T>, QueueError>, Self::get_until,
        errors "[`Closed`](QueueError::Closed) once no task of others is unfinished; \
                [`Deadlock`](QueueError::Deadlock), from all forms but the `try_` one, \
                where a closed queue is empty, others have its last tasks in hand, \
                and this thread has one, too: each would wait for what the other gives up. \
                [`TooManyLoans`](QueueError::TooManyLoans), \
                and those of becoming a participant ([`QueueError`]).",
        now "[`Empty`](QueueError::Empty), also if one may come back."
    }

    fn get_until(&self, wait: Option<impl FnOnce() -> Wait>) -> Result<Task<'_, T>, QueueError> {
        let held = HeldSlot::of::<T>(&self.handle, |participation| {
            participation.receive_task(wait).map(|place| (place, NO_ITEMS))
        })?;
        Ok(Task::new(held))
    }

    /// Waits until all tasks are finished, as long as it takes. When it returns, there was a moment
    /// in which no task was unfinished.
    ///
    /// # Process death
    /// Tasks of the dead come back, and are waited for. If a task was given out too often, this
    /// call, too, turns it into a dead letter. It cannot do so if the thread has all its loans in
    /// use. Then another thread has to get, join, or ask for letters.
    ///
    /// # Errors
    /// [`Deadlock`](QueueError::Deadlock) if this thread has a task in hand; those of becoming a
    /// participant.
    ///
    /// # Examples
    /// ```
    /// use crossproc::JoinableQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
    /// tasks.put_many(&[1, 2, 3])?;
    /// tasks.close()?;
    /// let worker = tasks.clone();
    /// let worker = std::thread::spawn(move || {
    ///     let mut sum = 0;
    ///     while let Ok(task) = worker.get() {
    ///         sum += *task;
    ///         task.done();
    ///     }
    ///     sum
    /// });
    /// tasks.join()?;
    /// assert_eq!(tasks.unfinished(), 0);
    /// assert_eq!(worker.join().unwrap(), 6);
    /// # Ok(())
    /// # }
    /// ```
    pub fn join(&self) -> Result<(), QueueError> {
        self.join_with(Wait::FOREVER)
    }

    /// Waits until all tasks are finished, for at most `timeout`. Zero looks once;
    /// [`Duration::MAX`] waits for ever.
    ///
    /// # Errors
    /// [`TimedOut`](QueueError::TimedOut); otherwise as [`join`](JoinableQueue::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), QueueError> {
        self.join_with(Wait::timeout(timeout))
    }

    /// Waits until all tasks are finished, until `deadline` at most. A past one looks once.
    ///
    /// # Errors
    /// [`TimedOut`](QueueError::TimedOut); otherwise as [`join`](JoinableQueue::join).
    pub fn join_deadline(&self, deadline: Instant) -> Result<(), QueueError> {
        self.join_with(Wait::deadline(deadline))
    }

    /// Waits until all tasks are finished, as `wait` says.
    ///
    /// # Errors
    /// [`TimedOut`](QueueError::TimedOut), and [`Interrupted`](QueueError::Interrupted) if `wait`
    /// is interruptible; otherwise as [`join`](JoinableQueue::join).
    pub fn join_with(&self, wait: Wait) -> Result<(), QueueError> {
        self.handle.with(|participation| {
            if participation.has_task() {
                return Err(QueueError::Deadlock);
            }
            Ok(participation.memory().join(
                participation.thread,
                &participation.participant,
                &mut Waiter::new(wait),
            )?)
        })?
    }

    /// Returns how many tasks are unfinished: waiting, in hand, or returned. It may have changed by
    /// the time this returns.
    ///
    /// ```
    /// use crossproc::JoinableQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
    /// tasks.put_many(&[7, 8])?;
    /// let task = tasks.get()?;
    /// assert_eq!((tasks.len(), tasks.unfinished()), (1, 2));
    /// task.done();
    /// assert_eq!((tasks.len(), tasks.unfinished()), (1, 1));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.handle.memory().count_unfinished()
    }

    /// Takes out the first dead letter.
    ///
    /// ```
    /// use crossproc::{JoinableQueue, QueueError, QueueOptions};
    /// use std::num::NonZeroU32;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = QueueOptions::new().attempts(NonZeroU32::new(1), 10);
    /// let tasks: JoinableQueue<u64> = options.create_joinable(16)?;
    /// tasks.put(7)?;
    /// drop(tasks.get()?); // ... without `done`, and there is no second attempt
    /// assert_eq!(*tasks.dead_letter()?, 7);
    /// assert!(matches!(tasks.dead_letter(), Err(QueueError::Empty)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Empty`](QueueError::Empty) if there is none, [`TooManyLoans`](QueueError::TooManyLoans),
    /// and those of becoming a participant.
    pub fn dead_letter(&self) -> Result<DeadLetter<'_, T>, QueueError> {
        let held = HeldSlot::new::<T>(&self.handle, |participation, place| {
            participation.receive_letter(place).map(|()| NO_ITEMS)
        })?;
        Ok(DeadLetter::new(held))
    }

    /// Returns how many dead letters there are. It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::{JoinableQueue, QueueOptions};
    /// use std::num::NonZeroU32;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = QueueOptions::new().attempts(NonZeroU32::new(1), 10);
    /// let tasks: JoinableQueue<u64> = options.create_joinable(16)?;
    /// tasks.put(7)?;
    /// assert_eq!(tasks.dead_letters(), 0);
    /// drop(tasks.get()?); // ... without `done`, and there is no second attempt
    /// tasks.join()?;
    /// assert_eq!(tasks.dead_letters(), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn dead_letters(&self) -> usize {
        let memory = self.handle.memory();
        if memory.config.letters == 0 { 0 } else { memory.count_letters() }
    }

    /// Closes the queue: from then on, puts fail, and gets fail once no task is unfinished. A put
    /// that is under way at the same time may succeed, and its task can be got. All waiters are
    /// woken. A closed queue cannot be opened again.
    ///
    /// ```
    /// use crossproc::{JoinableQueue, QueueError};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
    /// tasks.put(7)?;
    /// tasks.close()?;
    /// assert!(matches!(tasks.put(8).unwrap_err().error, QueueError::Closed));
    /// tasks.get()?.done();
    /// assert!(matches!(tasks.get(), Err(QueueError::Closed)));
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
    /// use crossproc::JoinableQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
    /// assert!(!tasks.is_closed());
    /// tasks.close()?;
    /// assert!(tasks.is_closed());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Returns how many tasks wait in the queue, not counting those that were taken and came back.
    /// It may have changed by the time this returns.
    ///
    /// ```
    /// use crossproc::JoinableQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
    /// tasks.put_many(&[7, 8])?;
    /// drop(tasks.get()?); // ... without `done`: it came back
    /// assert_eq!((tasks.len(), tasks.unfinished()), (1, 2));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.handle.len()
    }

    /// Returns whether [`len`](JoinableQueue::len) is 0. It may have changed by the time this
    /// returns.
    ///
    /// ```
    /// use crossproc::JoinableQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
    /// tasks.put(7)?;
    /// let task = tasks.get()?;
    /// assert!(tasks.is_empty() && tasks.unfinished() == 1);
    /// # task.done();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether [`len`](JoinableQueue::len) is the capacity. It may have changed by the time
    /// this returns.
    ///
    /// ```
    /// use crossproc::JoinableQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(1)?;
    /// tasks.put(7)?;
    /// assert!(tasks.is_full());
    /// let task = tasks.get()?;
    /// assert!(!tasks.is_full(), "a task in hand takes no room");
    /// # task.done();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity()
    }

    /// Returns how many tasks fit, not counting those that were taken.
    ///
    /// ```
    /// use crossproc::JoinableQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(1000)?;
    /// assert_eq!(tasks.capacity(), 1000);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.handle.memory().config.capacity as usize
    }
}

impl<T: ?Sized + Item> Clone for JoinableQueue<T> {
    /// Returns another handle in this process, to the same mapping.
    fn clone(&self) -> Self {
        JoinableQueue::of(self.handle.clone())
    }
}

impl<T: ?Sized + Item> AsFd for JoinableQueue<T> {
    /// Returns the descriptor that other processes [attach](JoinableQueue::attach) to;
    /// close-on-exec.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.region().as_fd()
    }
}

impl<T: ?Sized + Item> crate::memory::Handle for JoinableQueue<T> {
    fn from_fd(fd: OwnedFd) -> Result<Self, HandleError> {
        Ok(JoinableQueue::attach(fd)?)
    }
}

impl<T: ?Sized + Item> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinableQueue")
            .field("len", &self.len())
            .field("unfinished", &self.unfinished())
            .field("capacity", &self.capacity())
            .field("is_closed", &self.is_closed())
            .finish()
    }
}
