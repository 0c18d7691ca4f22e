//! The primitives as things to wait for.

use super::Waitable;
use super::sealed::{Of, Refusal, Waits};
use crate::queue::participation::Participation;
use crate::queue::{
    AllDone, Item, JoinableQueue, NextDeadLetter, NextItem, Queue, QueueError, Room,
};
use crate::sync::event::Event;
use crate::sync::semaphore::{BoundedSemaphore, Semaphore};

impl Waitable for Event {}

impl Waits for Event {
    fn of(&self) -> Of<'_> {
        Of::Source(&self.raw)
    }
}

impl Waitable for Semaphore {}

impl Waits for Semaphore {
    fn of(&self) -> Of<'_> {
        Of::Source(&self.raw)
    }
}

impl Waitable for BoundedSemaphore {}

impl Waits for BoundedSemaphore {
    fn of(&self) -> Of<'_> {
        Of::Source(&self.raw)
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
    /// The tasks that there are for a thread depend on those that it has. So the thread takes part.
    fn check(&self) -> Result<(), Refusal> {
        self.handle.with(|_| ()).map_err(Refusal::Queue)
    }

    fn of(&self) -> Of<'_> {
        Of::Source(&self.handle)
    }
}

impl Waitable for NextItem<'_> {}

impl Waits for NextItem<'_> {
    fn of(&self) -> Of<'_> {
        Of::Source(self.feed)
    }
}

impl Waitable for Room<'_> {}

impl Waits for Room<'_> {
    fn of(&self) -> Of<'_> {
        Of::Source(self)
    }
}

impl Waitable for AllDone<'_> {}

impl Waits for AllDone<'_> {
    fn check(&self) -> Result<(), Refusal> {
        match self.handle.with(Participation::has_task) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Refusal::Queue(QueueError::Deadlock)),
            Err(error) => Err(Refusal::Queue(error)),
        }
    }

    fn of(&self) -> Of<'_> {
        Of::Source(self)
    }
}

impl Waitable for NextDeadLetter<'_> {}

impl Waits for NextDeadLetter<'_> {
    fn check(&self) -> Result<(), Refusal> {
        self.handle.with(|_| ()).map_err(Refusal::Queue)
    }

    fn of(&self) -> Of<'_> {
        Of::Source(self)
    }
}
