//! [`JoinableQueue`]: a queue of tasks that outlive their workers.

#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::mem;
use core::ops::Deref;
use core::ptr::NonNull;
use core::time::Duration;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use crossproc_sys::atomic::Ordering::Relaxed;

use super::count;
use super::error::{PutError, PutManyError, QueueError};
use super::exchange::Which;
use super::item::Item;
use super::loan::{HeldSlot, Loan};
use super::options::{self, QueueOptions};
use super::participation::{Participation, QueueHandle};
use crate::memory::HandleError;
use crate::memory::region::RegionError;
use crate::memory::shared::Plain;
use crate::wait::{Wait, Waiter, forms};

pub(super) const KIND: &str = "JoinableQueue";

/// A [`Queue`](super::Queue) of tasks, each of which is done by somebody, once: a task that was
/// taken and not finished is given to another.
///
/// [`get`](JoinableQueue::get) gives a [`Task`]; [`Task::done`] finishes it. If its worker is
/// killed, panics, or drops it, the task comes back, and whoever gets next gets it, before all that
/// still wait in the queue. [`Task::attempts`] says how often it was given out. A task that kills
/// its workers can be put aside ([`QueueOptions::attempts`]): it is then a [dead
/// letter](JoinableQueue::dead_letter), and counts as finished. [`join`](JoinableQueue::join) waits
/// until every task is finished. A thread may have as many tasks in hand as it may have loans.
///
/// What is done for a task when its worker dies may have been done in part, or all but the word
/// that it is done: tasks are given out *at least* once.
///
/// # Blocking and fairness
/// As [`Queue`](super::Queue). A worker's death wakes one who waits for a task, or for the last
/// one, at once; where more than 120 others take part, or on kernels before 5.16, it can take a
/// [slice](crate::set_slice).
///
/// # Memory ordering
/// A put *synchronises with* the get of its task, and [`Task::done`] with the return of a
/// [`join`](JoinableQueue::join) that waited for it. A worker's death counts as a return of its
/// tasks.
///
/// # Process death
/// No task is lost, whoever dies, other than one that its *producer* was about to put. As
/// [`Queue`](super::Queue) otherwise.
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
/// Our own; the argument is in `src/queue/tasks.rs`.
pub struct JoinableQueue<T: ?Sized + Item> {
    pub(crate) handle: QueueHandle,
    items: PhantomData<fn(&T)>,
}

/// A [`JoinableQueue`] of messages.
pub type JoinableByteQueue = JoinableQueue<[u8]>;

impl<T: Plain> JoinableQueue<T> {
    /// A queue for `capacity` tasks, 1 to 2^20, with the defaults of [`QueueOptions`].
    ///
    /// # Errors
    /// [`RegionError`]: no memory or no descriptor for it, or a capacity that cannot be.
    pub fn new(capacity: usize) -> Result<Self, RegionError> {
        QueueOptions::new().create_joinable(capacity)
    }

    forms! {
        /// Puts a task behind all others. It is moved, several times in a build without optimisation:
        /// from some 64 KiB on, write it into a [`loan`](JoinableQueue::loan), or give a reference to
        /// [`put_many`](JoinableQueue::put_many).
        put, try_put, put_timeout, put_deadline, put_with
        (self: &Self, value: T) -> Result<(), PutError<T>>, Self::put_until,
        errors "[`Closed`](QueueError::Closed), and those of becoming a participant ([`QueueError`]).",
        now "[`Full`](QueueError::Full)."
    }

    forms! {
        /// Puts all of some tasks behind all others, in this order. Other producers' may come between them. It costs less for each than single puts.
        /// They are copied from where they lie: of one in a `Box`, nothing is on the stack with
        /// [`slice::from_ref`](core::slice::from_ref).
        put_many, try_put_many, put_many_timeout, put_many_deadline, put_many_with
        (self: &Self, values: &[T]) -> Result<(), PutManyError>, Self::put_many_until,
        errors "As [`put`](Self::put), with how many were put before.",
        now "[`Full`](QueueError::Full), with how many there was room for."
    }

    /// A slot to write a task into, in place. It holds what some earlier one left there. It does
    /// not wait, whether the queue is full or not.
    ///
    /// Nothing of the task is on the stack, whatever its size. Until it is [sent](Loan::send), no
    /// other participant sees anything of it. If the thread panics before, or the process dies,
    /// nothing is put, and the slot is free again.
    ///
    /// # Errors
    /// [`TooManyLoans`](QueueError::TooManyLoans), and those of becoming a participant.
    pub fn loan(&self) -> Result<Loan<'_, T>, QueueError> {
        Loan::new(&self.handle, size_of::<T>())
    }

    fn put_until(&self, value: T, wait: Option<impl FnOnce() -> Wait>) -> Result<(), PutError<T>> {
        super::put_value(&self.handle, value, wait)
    }

    fn put_many_until(
        &self,
        values: &[T],
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), PutManyError> {
        super::put_values(&self.handle, values, wait)
    }
}

impl JoinableQueue<[u8]> {
    /// A queue for `capacity` tasks, 1 to 2^20, of `max_len` bytes at most, with the defaults of
    /// [`QueueOptions`].
    ///
    /// # Errors
    /// [`RegionError`]: no memory or no descriptor for it, or a capacity that cannot be.
    pub fn with_max_len(capacity: usize, max_len: usize) -> Result<Self, RegionError> {
        QueueOptions::new().create_joinable_bytes(capacity, max_len)
    }

    forms! {
        /// Puts a task behind all others.
        put, try_put, put_timeout, put_deadline, put_with
        (self: &Self, message: &[u8]) -> Result<(), QueueError>, Self::put_until,
        errors "[`TooLong`](QueueError::TooLong), [`Closed`](QueueError::Closed), and those of becoming a participant ([`QueueError`]).",
        now "[`Full`](QueueError::Full)."
    }

    /// A slot to write a task of `len` bytes into, in place. It holds what some earlier one left
    /// there. It does not wait, whether the queue is full or not.
    ///
    /// # Errors
    /// [`TooLong`](QueueError::TooLong), [`TooManyLoans`](QueueError::TooManyLoans), and those of
    /// becoming a participant.
    pub fn loan(&self, len: usize) -> Result<Loan<'_, [u8]>, QueueError> {
        Loan::new(&self.handle, len)
    }

    /// The most bytes that a task can have.
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.handle.memory().config.size as usize
    }

    pub(crate) fn put_until(
        &self,
        message: &[u8],
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        super::put_bytes(&self.handle, message, wait)
    }
}

impl<T: ?Sized + Item> JoinableQueue<T> {
    pub(crate) fn of(handle: QueueHandle) -> Self {
        JoinableQueue { handle, items: PhantomData }
    }

    /// Maps a queue that another process has created, from its descriptor. The descriptor is closed
    /// with the last clone, or at once if this fails. Nothing in the file is trusted, as with
    /// [`Shm::attach`](crate::Shm::attach).
    ///
    /// # Errors
    /// [`RegionError`] has a variant for everything that can be wrong with it.
    pub fn attach(file: impl Into<OwnedFd>) -> Result<Self, RegionError> {
        options::attach(file.into(), T::layout(KIND), T::name(), true).map(JoinableQueue::of)
    }

    forms! {
        /// Gets a task: one that came back, or else the first one.
        get, try_get, get_timeout, get_deadline, get_with
        (self: &Self) -> Result<Task<'_, T>, QueueError>, Self::get_until,
        errors "[`Closed`](QueueError::Closed) once no task of others is unfinished; [`Deadlock`](QueueError::Deadlock), from all forms but the `try_` one, where a closed queue is empty, others have its last tasks in hand, and this thread has one, too: each would wait for what the other gives up. [`TooManyLoans`](QueueError::TooManyLoans), and those of becoming a participant ([`QueueError`]).",
        now "[`Empty`](QueueError::Empty), also if one may come back."
    }

    fn get_until(&self, wait: Option<impl FnOnce() -> Wait>) -> Result<Task<'_, T>, QueueError> {
        let held =
            HeldSlot::of::<T>(&self.handle, |participation| participation.receive_task(wait))?;
        Ok(Task { attempts: attempts(&held), held, queue: PhantomData })
    }

    /// Waits until all tasks are finished, as long as it takes: for one moment there was none that
    /// was not.
    ///
    /// # Process death
    /// Tasks of the dead come back, and are waited for. One that was given out too often becomes a
    /// dead letter by this call, too, unless the thread has all its loans in use; then somebody
    /// else has to get, join, or ask for letters.
    ///
    /// # Errors
    /// [`Deadlock`](QueueError::Deadlock) if this thread has one in hand; those of becoming a
    /// participant.
    pub fn join(&self) -> Result<(), QueueError> {
        self.join_with(Wait::FOREVER)
    }

    /// Waits until all tasks are finished, for `timeout` at most. Zero looks once;
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

    /// How many tasks are unfinished: waiting, in hand, or come back. It may have changed by the
    /// time this returns.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.handle.memory().count_unfinished()
    }

    /// Takes out the first task that was given up.
    ///
    /// # Errors
    /// [`Empty`](QueueError::Empty) if there is none, [`TooManyLoans`](QueueError::TooManyLoans),
    /// and those of becoming a participant.
    pub fn dead_letter(&self) -> Result<DeadLetter<'_, T>, QueueError> {
        let held = HeldSlot::new::<T>(&self.handle, Participation::receive_letter)?;
        Ok(DeadLetter { attempts: attempts(&held), held, queue: PhantomData })
    }

    /// How many dead letters there are. It may have changed by the time this returns.
    #[must_use]
    pub fn dead_letters(&self) -> usize {
        let memory = self.handle.memory();
        if memory.config.letters == 0 { 0 } else { memory.count_letters() }
    }

    /// Closes the queue: puts fail from now on, and gets once no task is unfinished. A put that is
    /// under way at the same time may succeed, and is got. All who wait are told. It cannot be
    /// opened again.
    ///
    /// # Errors
    /// Those of becoming a participant.
    pub fn close(&self) -> Result<(), QueueError> {
        self.handle.with(|participation| participation.memory().close(participation.thread))
    }

    /// Whether it is closed for puts. Once true it stays so.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        super::is_closed(&self.handle)
    }

    /// How many tasks wait that nobody has taken yet. It may have changed by the time this returns.
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

    /// How many tasks fit that nobody has taken yet.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.handle.memory().config.capacity as usize
    }
}

impl<T: ?Sized + Item> Clone for JoinableQueue<T> {
    /// Another handle in this process, to the same mapping.
    fn clone(&self) -> Self {
        JoinableQueue::of(self.handle.clone())
    }
}

impl<T: ?Sized + Item> AsFd for JoinableQueue<T> {
    /// The descriptor that other processes [attach](JoinableQueue::attach) to; close-on-exec.
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

/// A task in hand, read where it lies. It is finished by [`done`](Task::done); dropped without
/// that, also by a panic, it goes to somebody else. It stays in its thread.
///
/// One that is leaked stays unfinished as long as its thread lives, and the process ends with that
/// thread, as for a [`Lock`](crate::LockGuard#leaked-guards)'s.
#[must_use = "a task that is dropped is given to another"]
pub struct Task<'a, T: ?Sized + Item> {
    held: HeldSlot,
    attempts: u32,
    queue: PhantomData<(&'a (), *const T)>,
}

impl<T: ?Sized + Item> Task<'_, T> {
    /// The task is finished. It does not block. In a forked child it does nothing: the task is its
    /// parent's.
    pub fn done(self) {
        self.held.participation.finish_task(self.held.place);
        // SAFETY: `self` is forgotten below, so this is the only one that drops it.
        let held: HeldSlot = unsafe { core::ptr::read(&raw const self.held) };
        mem::forget(self);
        drop(held);
    }

    /// How often it was given out, this time included.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// Read once: a peer that changes it afterwards changes nothing for who holds the slot.
fn attempts(held: &HeldSlot) -> u32 {
    // Relaxed: the slot is this participant's.
    held.participation.memory().attempts(held.slot()).load(Relaxed)
}

impl<T: ?Sized + Item> Drop for Task<'_, T> {
    fn drop(&mut self) {
        self.held.participation.return_task(self.held.place);
    }
}

impl<T: ?Sized + Item> Deref for Task<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the slot is this thread's alone (invariant of `HeldSlot`), holds a `T`, of which
        // any bytes make one, and stays mapped with `attached`.
        unsafe { NonNull::as_ref(&self.held.item::<T>()) }
    }
}

impl<T: ?Sized + Item> fmt::Debug for Task<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("attempts", &self.attempts()).finish_non_exhaustive()
    }
}

/// A task that was given up after as many attempts as [`QueueOptions::attempts`] said. It is
/// finished, and gone when this is dropped.
///
/// One that is leaked ends the process with its thread, as a [`Task`] does.
pub struct DeadLetter<'a, T: ?Sized + Item> {
    held: HeldSlot,
    attempts: u32,
    queue: PhantomData<(&'a (), *const T)>,
}

impl<T: ?Sized + Item> DeadLetter<'_, T> {
    /// How often it was given out.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

impl<T: ?Sized + Item> Drop for DeadLetter<'_, T> {
    fn drop(&mut self) {
        self.held.participation.vacate(self.held.place);
    }
}

impl<T: ?Sized + Item> Deref for DeadLetter<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: as for a task.
        unsafe { NonNull::as_ref(&self.held.item::<T>()) }
    }
}

impl<T: ?Sized + Item> fmt::Debug for DeadLetter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter").field("attempts", &self.attempts()).finish_non_exhaustive()
    }
}
