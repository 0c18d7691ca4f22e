//! Waiting for a queue along with other things: for an item or a task by the queue itself, for room by [`Room`].

use crossproc_sys::robust::Entry;

use super::attached::Handle;
use super::waiting::Side;
use super::watching::{WORDS, WORDS_FOR_TASK};
use super::{Item, JoinableQueue, Queue};
use crate::wait_any::Waitable;
use crate::wait_any::sealed::{Of, Refusal, Waits};
use crate::wait_any::source::{Armed, Source, State, Words};

/// Room to put into a queue, as something to [wait for](fn@crate::wait_any) along with other things: ready while there is some, or the queue is closed. [`Queue::room`] and [`JoinableQueue::room`] make it.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    pub(super) handle: &'a Handle,
}

impl<T: ?Sized + Item> Queue<T> {
    /// Room to put, to be [waited for](fn@crate::wait_any) along with other things.
    ///
    /// ```
    /// use crossproc::{Queue, wait_any};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (from, to): (Queue<u64>, Queue<u64>) = (Queue::new(1)?, Queue::new(1)?);
    /// from.put(7)?;
    /// assert_eq!(wait_any(&[&from, &to.room()])?, [0, 1]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn room(&self) -> Room<'_> {
        Room { handle: &self.handle }
    }
}

impl<T: ?Sized + Item> JoinableQueue<T> {
    /// Room to put, to be [waited for](fn@crate::wait_any) along with other things.
    #[must_use]
    pub fn room(&self) -> Room<'_> {
        Room { handle: &self.handle }
    }
}

impl<T: ?Sized + Item> Waitable for Queue<T> {}

impl<T: ?Sized + Item> Waits for Queue<T> {
    fn of(&self) -> Of<'_> {
        Of::Source(&self.handle)
    }
}

impl<T: ?Sized + Item> Waitable for JoinableQueue<T> {}

impl<T: ?Sized + Item> Waits for JoinableQueue<T> {
    /// Which tasks there are for a thread depends on which it has: it takes part.
    fn check(&self) -> Result<(), Refusal> {
        self.handle.with(|_| ()).map_err(Refusal::Queue)
    }

    fn of(&self) -> Of<'_> {
        Of::Source(&self.handle)
    }
}

impl Waitable for Room<'_> {}

impl Waits for Room<'_> {
    fn of(&self) -> Of<'_> {
        Of::Source(self)
    }
}

/// Of items or tasks.
impl Source for Handle {
    fn key(&self) -> usize {
        self.ground().key(Side::Getters)
    }

    fn begin(&self) -> State {
        let id = if self.ground().shape.is_joinable { self.with(|attached| attached.member.id).ok() } else { None };
        // One that takes part in nothing has no tasks: no id.
        State { begun: id.map_or(u64::MAX, |id| id as u64), ..State::default() }
    }

    /// The end comes to each thread when the others have no task any more.
    fn is_for_each(&self) -> bool {
        self.ground().shape.is_joinable && self.ground().is_closed()
    }

    /// Which tasks there are depends on the thread.
    fn go_on(&self, state: &mut State) {
        *state = self.begin();
    }

    fn look(&self, state: &State) -> bool {
        let ground = self.ground();
        if ground.shape.is_joinable { ground.has_task_for(state.begun as usize) } else { ground.is_ready(Side::Getters) }
    }

    fn words(&self) -> usize {
        if self.ground().shape.is_joinable { WORDS_FOR_TASK } else { WORDS }
    }

    fn more_words(&self) -> usize {
        // Also for those who come while it sleeps.
        if self.ground().shape.is_joinable { self.ground().shape.ids as usize } else { 0 }
    }

    fn arm<'a>(&'a self, state: &mut State, words: &mut Words<'a, '_>) -> Armed {
        let ground = self.ground();
        if ground.shape.is_joinable { ground.arm_for_task(state.begun as usize, words) } else { ground.arm(Side::Getters, words) }
    }

    fn pend(&self, entry: &Entry) {
        self.ground().pend(entry);
    }

    fn awake(&self, state: &mut State) {
        self.ground().awake();
        if self.look(state) {
            self.ground().wake_side(Side::Getters);
        }
    }
}

impl Source for Room<'_> {
    fn key(&self) -> usize {
        self.handle.ground().key(Side::Putters)
    }

    fn look(&self, _: &State) -> bool {
        self.handle.ground().is_ready(Side::Putters)
    }

    fn words(&self) -> usize {
        WORDS
    }

    fn arm<'a>(&'a self, _: &mut State, words: &mut Words<'a, '_>) -> Armed {
        self.handle.ground().arm(Side::Putters, words)
    }

    fn pend(&self, entry: &Entry) {
        self.handle.ground().pend(entry);
    }

    fn awake(&self, state: &mut State) {
        self.handle.ground().awake();
        if self.look(state) {
            self.handle.ground().wake_side(Side::Putters);
        }
    }
}
