//! Waiting for what becomes of tasks, along with other things: until [all are done](AllDone), and
//! for a [dead letter](NextDeadLetter).

use crossproc_sys::robust::Entry;

use super::participation::QueueHandle;
use super::ring::tasks::Unfinished;
use super::ring::watching::{WORDS_FOR_ALL, WORDS_FOR_LETTER};
use super::{Item, JoinableQueue};
use crate::wait::source::{Armed, Source, WatchState, Words};

/// That all tasks of a queue are done, as something to [wait for](fn@crate::wait_any) along with
/// other things. [`JoinableQueue::all_done`] returns it.
#[derive(Debug, Clone, Copy)]
pub struct AllDone<'a> {
    pub(crate) handle: &'a QueueHandle,
}

/// A dead letter of a queue of tasks, as something to [wait for](fn@crate::wait_any) along with
/// other things. [`JoinableQueue::next_dead_letter`] returns it.
#[derive(Debug, Clone, Copy)]
pub struct NextDeadLetter<'a> {
    pub(crate) handle: &'a QueueHandle,
}

impl<T: ?Sized + Item> JoinableQueue<T> {
    /// Returns that all tasks are done, to be [waited for](fn@crate::wait_any) along with other
    /// things. It is ready while no task is unfinished: from the beginning, too, and until the next
    /// put. As a [`join`](JoinableQueue::join) does, the wait moves to the dead letters what has no
    /// attempts left. So the calling thread takes part. It can move nothing while all its loans are
    /// in use. A thread that has a task in hand cannot wait for it: that is
    /// [`Deadlock`](crate::QueueError::Deadlock), as for a join. Of a future that is asked at the
    /// call only.
    ///
    /// ```
    /// use crossproc::{Event, JoinableQueue, wait_any};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (tasks, stop) = (JoinableQueue::<u64>::new(16)?, Event::new());
    /// tasks.put(7)?;
    /// let worker = tasks.clone();
    /// std::thread::spawn(move || worker.get().unwrap().done());
    /// assert_eq!(wait_any(&[&stop, &tasks.all_done()])?, [1]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn all_done(&self) -> AllDone<'_> {
        AllDone { handle: &self.handle }
    }

    /// Returns a dead letter, to be [waited for](fn@crate::wait_any) along with other things. It is
    /// ready while there is one, and never if the queue [has none](crate::QueueOptions::attempts):
    /// a close does not end the wait. A [`dead_letter`](JoinableQueue::dead_letter) that follows
    /// may find none, though nobody else asks for letters: another thread may be moving the task
    /// there. Wait again then.
    ///
    /// ```
    /// use crossproc::{JoinableQueue, QueueOptions, wait_any};
    /// use std::num::NonZeroU32;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = QueueOptions::new().attempts(NonZeroU32::new(1), 10);
    /// let tasks: JoinableQueue<u64> = options.create_joinable(16)?;
    /// tasks.put(7)?;
    /// let worker = tasks.clone();
    /// std::thread::spawn(move || drop(worker.get())); // ... without `done`
    /// assert_eq!(wait_any(&[&tasks.next_dead_letter()])?, [0]);
    /// assert_eq!(*tasks.dead_letter()?, 7);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn next_dead_letter(&self) -> NextDeadLetter<'_> {
        NextDeadLetter { handle: &self.handle }
    }
}

/// Does what a dead worker has left, as far as that is about tasks, until a deadline. A thread that
/// cannot take part leaves it to others.
fn tidy(handle: &QueueHandle, until: Option<u64>) {
    let _ = handle.with(|participation| {
        participation.memory().tidy(participation.thread, &participation.participant, until);
    });
}

/// The deadline of a look before any wait: it takes no time for others.
const AT_ONCE: Option<u64> = Some(0);

impl Source for AllDone<'_> {
    fn key(&self) -> usize {
        self.handle.memory().key_for_all()
    }

    fn is_for_all(&self) -> bool {
        true
    }

    fn begin(&self) -> WatchState {
        tidy(self.handle, AT_ONCE);
        WatchState::default()
    }

    fn look(&self, _: &WatchState) -> bool {
        // If it cannot be found out because the words make no sense, the join says so.
        self.handle.memory().unfinished(None, None) != Unfinished::Some
    }

    fn words(&self) -> usize {
        WORDS_FOR_ALL
    }

    fn more_words(&self) -> usize {
        self.handle.memory().config.ids as usize
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        self.handle.memory().arm_for_all(words, || tidy(self.handle, None))
    }

    fn pend(&self, entry: &Entry) {
        self.handle.memory().pend(entry);
    }

    fn awake(&self, _: &mut WatchState) {
        // All that sleep for it are woken together.
        self.handle.memory().awake();
    }
}

impl Source for NextDeadLetter<'_> {
    fn key(&self) -> usize {
        self.handle.memory().key_for_letter()
    }

    fn begin(&self) -> WatchState {
        tidy(self.handle, AT_ONCE);
        WatchState::default()
    }

    fn look(&self, _: &WatchState) -> bool {
        self.handle.memory().has_letter()
    }

    fn words(&self) -> usize {
        WORDS_FOR_LETTER
    }

    fn more_words(&self) -> usize {
        self.handle.memory().config.ids as usize
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        self.handle.memory().arm_for_letter(words)
    }

    fn pend(&self, entry: &Entry) {
        self.handle.memory().pend(entry);
    }

    fn awake(&self, _: &mut WatchState) {
        // As for all done.
        self.handle.memory().awake();
    }
}
