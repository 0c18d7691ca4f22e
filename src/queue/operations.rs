//! What a participant does, with the waiting and the places that it takes: between the public types
//! and the state machine.

#![allow(unsafe_code)]

use core::ptr::NonNull;

use super::error::QueueError;
use super::exchange::{Refused, Ring};
use super::participation::Participation;
use super::tasks::Unfinished;
use super::waiting::Side;
use super::words::{TASK, WAITERS};
use crate::wait::{Wait, Waiter};

/// Where fewer items fit, as many may be got at once all the same.
const LEAST_BOUND: usize = 1 << 10;

impl Participation {
    /// Writes an item into a slot of the participant's own, and puts that.
    #[inline(always)]
    pub(crate) fn put(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        write: impl FnOnce(NonNull<u8>, usize),
    ) -> Result<(), QueueError> {
        let place = self.memory().free_place(&self.participant);
        let slot = self.memory().slot(&self.participant, place)?;
        write(self.memory().payload(slot), slot);
        self.send(place, wait)
    }

    /// Puts what is in a place.
    #[inline(always)]
    pub(crate) fn send(
        &self,
        place: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        let put = |ring: Ring<'_>| {
            self.memory().put(&self.participant, ring, place).map(|flags| (flags, 1))
        };
        match (self.memory().at_once(self.thread, Side::Putters, put), wait) {
            (Err(Refused::Full), Some(wait)) => self.send_waiting(place, wait()),
            (result, _) => Ok(result?),
        }
    }

    #[cold]
    fn send_waiting(&self, place: usize, wait: Wait) -> Result<(), QueueError> {
        let put = |ring: Ring<'_>| {
            self.memory().put(&self.participant, ring, place).map(|flags| (flags, 1))
        };
        let sleep =
            |ring: Ring<'_>, waiter: &mut Waiter| self.memory().sleep(ring, Side::Putters, waiter);
        Ok(self.memory().waiting(self.thread, Side::Putters, &mut Waiter::new(wait), put, sleep)?)
    }

    /// Gets the first item into a place. Not for tasks.
    #[inline(always)]
    pub(crate) fn receive(
        &self,
        place: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        let get = |ring: Ring<'_>| {
            self.memory().get(&self.participant, ring, place, 0).map(|flags| (flags, 1))
        };
        match (self.memory().at_once(self.thread, Side::Getters, get), wait) {
            (Err(Refused::Empty), Some(wait)) => self.receive_waiting(place, wait()),
            (result, _) => Ok(result?),
        }
    }

    #[cold]
    fn receive_waiting(&self, place: usize, wait: Wait) -> Result<(), QueueError> {
        let get = |ring: Ring<'_>| {
            self.memory().get(&self.participant, ring, place, 0).map(|flags| (flags, 1))
        };
        let sleep =
            |ring: Ring<'_>, waiter: &mut Waiter| self.memory().sleep(ring, Side::Getters, waiter);
        Ok(self.memory().waiting(self.thread, Side::Getters, &mut Waiter::new(wait), get, sleep)?)
    }

    /// Takes a task: the place that it is in.
    pub(crate) fn receive_task(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<usize, QueueError> {
        let place = match self.memory().retake(self.thread, &self.participant) {
            Some(place) => place,
            None => {
                let place = self.occupy_for_task()?;
                if let Err(error) = self.take_task(place, wait) {
                    self.vacate(place);
                    return Err(error);
                }
                place
            }
        };
        // Not if a peer has made it one that this thread has already.
        if let Err(refused) = self.memory().slot(&self.participant, place) {
            self.vacate(place);
            return Err(refused.into());
        }
        self.memory().count_attempt(&self.participant, place);
        Ok(place)
    }

    /// A place for a task, for one who has none that it could take back.
    fn occupy_for_task(&self) -> Result<usize, QueueError> {
        match self.memory().occupy(&self.participant) {
            Some(place) => Ok(place),
            // Others have taken all that was returned, so its places could have been reclaimed.
            None if self.participant.returned.get() != 0 => Err(QueueError::Spoiled),
            None => Err(self.too_many_loans()),
        }
    }

    fn take_task(
        &self,
        place: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        // One who can wait looks shortly at first, as if its time was over, and longer while it
        // waits.
        let at_first = wait.is_some().then_some(0);
        match self.take_task_at_once(place, at_first) {
            Err(Refused::Empty) => self.take_task_later(place, wait.map(|wait| wait())),
            result => Ok(result?),
        }
    }

    fn take_task_at_once(&self, place: usize, until: Option<u64>) -> Result<(), Refused> {
        let memory = self.memory();
        memory.at_once(self.thread, Side::Getters, |ring| {
            memory.take_task(&self.participant, ring, place, until)
        })
    }

    /// For one who has found none. What the dead had may be all there is, and nobody asleep who
    /// would notice a death: so who does not sleep buries them, too.
    #[cold]
    fn take_task_later(&self, place: usize, wait: Option<Wait>) -> Result<(), QueueError> {
        let result = match wait {
            Some(wait) => self.take_task_waiting(place, &mut Waiter::new(wait)),
            None => Err(QueueError::Empty),
        };
        match result {
            Err(QueueError::Empty | QueueError::TimedOut) if self.bury() => {
                match self.take_task_at_once(place, Some(0)) {
                    Err(Refused::Empty) => result,
                    again => Ok(again?),
                }
            }
            result => result,
        }
    }

    /// Whether there was anybody to bury.
    fn bury(&self) -> bool {
        self.thread.begin(&self.memory().control().roster.0);
        let any = self.memory().bury(Some(0));
        self.thread.end();
        any
    }

    fn take_task_waiting(&self, place: usize, waiter: &mut Waiter) -> Result<(), QueueError> {
        let memory = self.memory();
        let until = waiter.until();
        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| {
            memory.sleep_for_task(&self.participant, ring, waiter)
        };
        let take = |ring: Ring<'_>| match memory.take_task(&self.participant, ring, place, until) {
            Err(Refused::Empty) if self.has_task() && memory.is_at_end(ring) => {
                // What the dead had can be taken, and is waited for in vain otherwise.
                memory.bury(until);
                let again = memory.take_task(&self.participant, ring, place, until);
                again.map_err(|refused| self.deadlock_or(refused, until))
            }
            result => result,
        };
        Ok(memory.waiting(self.thread, Side::Getters, waiter, take, sleep)?)
    }

    /// Gets the first item and reads it, for which it needs no place for longer. Not for tasks.
    #[inline(always)]
    pub(crate) fn get<R>(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        read: impl FnOnce(NonNull<u8>, usize) -> R,
    ) -> Result<R, QueueError> {
        let place = self.memory().free_place(&self.participant);
        self.receive(place, wait)?;
        let slot = self.memory().slot(&self.participant, place)?;
        Ok(read(self.memory().payload(slot), slot))
    }

    /// Puts `count` items, each written by `write` from its number: how many there were before an
    /// error. With `wait`, it waits for room for all of them.
    pub(crate) fn put_many(
        &self,
        count: usize,
        wait: Option<impl FnOnce() -> Wait>,
        write: impl Fn(NonNull<u8>, usize, usize),
    ) -> (usize, Option<QueueError>) {
        let memory = self.memory();
        let place = memory.free_place(&self.participant);
        let mut put = 0;
        // One after the other, until somebody is to be woken.
        let some = |ring: Ring<'_>, put: &mut usize| {
            let before = *put;
            while *put < count {
                let slot = memory.slot(&self.participant, place)?;
                write(memory.payload(slot), slot, *put);
                match memory.put(&self.participant, ring, place) {
                    Ok(flags) => {
                        *put += 1;
                        if flags & WAITERS != 0 {
                            return Ok((flags, *put - before));
                        }
                    }
                    Err(refused) if *put == before => return Err(refused),
                    Err(_) => break,
                }
            }
            Ok((0, *put - before))
        };
        let mut waiter = None;
        let mut wait = wait;
        while put < count {
            let refused =
                match memory.at_once(self.thread, Side::Putters, |ring| some(ring, &mut put)) {
                    Ok(()) => continue,
                    Err(refused) => refused,
                };
            if let Some(wait) = wait.take() {
                waiter = Some(Waiter::new(wait()));
            }
            let result = match (&mut waiter, refused) {
                (Some(waiter), Refused::Full) => {
                    let sleep = |ring: Ring<'_>, waiter: &mut Waiter| {
                        memory.sleep(ring, Side::Putters, waiter)
                    };
                    memory
                        .waiting(
                            self.thread,
                            Side::Putters,
                            waiter,
                            |ring| some(ring, &mut put),
                            sleep,
                        )
                        .map_err(QueueError::from)
                }
                _ => Err(refused.into()),
            };
            if let Err(error) = result {
                return (put, Some(error));
            }
        }
        (put, None)
    }

    /// Gets as many items as there are, but no more than `most`, and at least one, each read by
    /// `read`. Not for tasks.
    ///
    /// If it is fewer than `most`, the queue was found empty after them, but for very many: it ends
    /// after as many as fit, however fast others put meanwhile.
    pub(crate) fn get_many(
        &self,
        most: usize,
        wait: Option<impl FnOnce() -> Wait>,
        mut read: impl FnMut(NonNull<u8>, usize),
    ) -> Result<usize, QueueError> {
        let memory = self.memory();
        let most = most.min((memory.config.capacity as usize).max(LEAST_BOUND));
        let place = memory.free_place(&self.participant);
        // One after the other, until somebody is to be woken.
        let mut some = |ring: Ring<'_>, got: &mut usize| {
            let before = *got;
            while *got < most {
                match memory.get(&self.participant, ring, place, 0) {
                    Ok(flags) => {
                        *got += 1;
                        let slot = memory.slot(&self.participant, place)?;
                        read(memory.payload(slot), slot);
                        if flags & WAITERS != 0 {
                            return Ok((flags, *got - before));
                        }
                    }
                    Err(refused) if *got == before => return Err(refused),
                    Err(_) => break,
                }
            }
            Ok((0, *got - before))
        };
        let mut got = 0;
        match (memory.at_once(self.thread, Side::Getters, |ring| some(ring, &mut got)), wait) {
            (Err(Refused::Empty), Some(wait)) => {
                let sleep =
                    |ring: Ring<'_>, waiter: &mut Waiter| memory.sleep(ring, Side::Getters, waiter);
                let waiter = &mut Waiter::new(wait());
                memory.waiting(
                    self.thread,
                    Side::Getters,
                    waiter,
                    |ring| some(ring, &mut got),
                    sleep,
                )?;
            }
            (result, _) => result?,
        }
        // What is there besides.
        while got < most
            && memory.at_once(self.thread, Side::Getters, |ring| some(ring, &mut got)).is_ok()
        {
        }
        Ok(got)
    }

    /// A place for a loan, or something received.
    pub(crate) fn occupy(&self) -> Result<usize, QueueError> {
        self.memory().occupy(&self.participant).ok_or_else(|| self.too_many_loans())
    }

    fn too_many_loans(&self) -> QueueError {
        QueueError::TooManyLoans { limit: self.memory().most_loans() }
    }

    /// The place is not in use any more. Nothing in a forked child: it is the parent's.
    pub(crate) fn vacate(&self, place: usize) {
        if self.is_of_this_thread() {
            self.memory().vacate(&self.participant, place);
        }
    }

    /// The task in a place is done.
    pub(crate) fn finish_task(&self, place: usize) {
        if self.is_of_this_thread() {
            self.thread.begin(&self.memory().control().roster.0);
            self.memory().finish_task(&self.participant, place);
            self.thread.end();
            self.memory().vacate(&self.participant, place);
        }
    }

    /// The task in a place is for somebody else.
    pub(crate) fn return_task(&self, place: usize) {
        if self.is_of_this_thread() {
            self.thread.begin(&self.memory().control().roster.0);
            self.memory().return_task(&self.participant, place);
            self.thread.end();
            // Whoever takes it leaves another slot there, which `reclaim` then makes usable; or a
            // dead letter's.
            self.participant.returned.set(self.participant.returned.get() | 1 << place);
        }
    }

    /// Why one that has a task in hand does not wait for the last ones to come back: those who have
    /// them may wait in the same way.
    fn deadlock_or(&self, refused: Refused, until: Option<u64>) -> Refused {
        let is_some =
            || self.memory().unfinished(Some(self.participant.id), until) == Unfinished::Some;
        if refused == Refused::Empty && is_some() { Refused::Deadlock } else { refused }
    }

    /// Whether the participant has a task in hand.
    pub(crate) fn has_task(&self) -> bool {
        let busy = self.participant.busy.get() & !self.participant.returned.get();
        (0..64)
            .any(|place| busy & 1 << place != 0 && self.participant.word(place).get() & TASK != 0)
    }

    /// Takes the first dead letter into a place.
    pub(crate) fn receive_letter(&self, place: usize) -> Result<(), QueueError> {
        let memory = self.memory();
        if memory.config.letters == 0 {
            return Err(QueueError::Empty);
        }
        self.thread.begin(&memory.control().roster.0);
        let result = memory.take_letter(&self.participant, place);
        self.thread.end();
        Ok(result?)
    }
}
