//! [`Task`] and [`DeadLetter`]: what a worker, and a caretaker, has in hand.

#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::mem;
use core::ops::Deref;
use core::ptr::NonNull;

use crossproc_sys::atomic::Ordering::Relaxed;

use super::item::Item;
use super::loan::HeldSlot;

/// A task in hand, to be read in place. [`done`](Task::done) finishes it. If it is dropped without
/// that, also by a panic, it goes to another worker. It stays in its thread.
///
/// A leaked task stays unfinished until its thread ends. The process ends with that thread, as it
/// does for a [leaked lock guard](crate::LockGuard#leaked-guards).
#[must_use = "a task that is dropped is given to another"]
pub struct Task<'a, T: ?Sized + Item> {
    held: HeldSlot,
    attempts: u32,
    queue: PhantomData<(&'a (), *const T)>,
}

impl<T: ?Sized + Item> Task<'_, T> {
    pub(super) fn new(held: HeldSlot) -> Self {
        Task { attempts: attempts(&held), held, queue: PhantomData }
    }

    /// Finishes the task. It does not block. In a forked child it does nothing: the task is the
    /// parent's.
    ///
    /// ```
    /// use crossproc::JoinableQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
    /// tasks.put(7)?;
    /// let task = tasks.get()?;
    /// let square = *task * *task;
    /// task.done();
    /// assert_eq!((square, tasks.unfinished()), (49, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn done(self) {
        self.held.participation.finish_task(self.held.place);
        // SAFETY: `self` is forgotten below, so only this copy is dropped.
        let held: HeldSlot = unsafe { core::ptr::read(&raw const self.held) };
        mem::forget(self);
        drop(held);
    }

    /// Returns how often the task was given out, this time included.
    ///
    /// ```
    /// use crossproc::JoinableQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(16)?;
    /// tasks.put(7)?;
    /// assert_eq!(tasks.get()?.attempts(), 1);
    /// assert_eq!(tasks.get()?.attempts(), 2, "the first was dropped");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// Returns how often the task was given out. It is read once: a later change by a peer does not
/// reach the holder of the slot.
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
        // SAFETY: the slot is this thread's alone (invariant of `HeldSlot`), and stays mapped as
        // long as `participation` exists. It holds a `T`, and any bytes make one.
        unsafe { NonNull::as_ref(&self.held.item::<T>()) }
    }
}

impl<T: ?Sized + Item> fmt::Debug for Task<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("attempts", &self.attempts()).finish_non_exhaustive()
    }
}

/// A task that was given up after as many attempts as
/// [`QueueOptions::attempts`](super::QueueOptions::attempts) allows. It counts as finished, and is
/// gone once this is dropped.
///
/// A leaked dead letter ends the process with its thread, as a leaked [`Task`] does.
pub struct DeadLetter<'a, T: ?Sized + Item> {
    held: HeldSlot,
    attempts: u32,
    queue: PhantomData<(&'a (), *const T)>,
}

impl<T: ?Sized + Item> DeadLetter<'_, T> {
    pub(super) fn new(held: HeldSlot) -> Self {
        DeadLetter { attempts: attempts(&held), held, queue: PhantomData }
    }

    /// Returns how often the task was given out.
    ///
    /// ```
    /// use crossproc::{JoinableQueue, QueueOptions};
    /// use std::num::NonZeroU32;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = QueueOptions::new().attempts(NonZeroU32::new(2), 10);
    /// let tasks: JoinableQueue<u64> = options.create_joinable(16)?;
    /// tasks.put(7)?;
    /// drop(tasks.get()?);
    /// drop(tasks.get()?);
    /// let letter = tasks.dead_letter()?;
    /// assert_eq!((*letter, letter.attempts()), (7, 2));
    /// # Ok(())
    /// # }
    /// ```
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
