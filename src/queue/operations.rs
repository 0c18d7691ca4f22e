//! Operations of a participant, with the waits and the places that they need: the layer between the
//! public types and the state machine.

#![allow(unsafe_code)]

use core::ops::Range;
use core::ptr::NonNull;

use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::clock;

use super::error::QueueError;
use super::participation::Participation;
use super::ring::budget::NoBlock;
use super::ring::ends::Ring;
use super::ring::refused::Refused;
use super::ring::tasks::Unfinished;
use super::ring::waiting::{Failure, Side};
use super::ring::words::{TASK, WAITERS};
use crate::wait::{Wait, Waiter};

/// The least bound on the items of one `get_many`, for queues of a smaller capacity.
const LEAST_BOUND: usize = 1 << 10;

impl Participation {
    /// Writes an item into a slot of the participant's own, and puts it.
    #[inline(always)]
    pub(crate) fn put(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        write: impl FnOnce(NonNull<u8>, usize),
    ) -> Result<(), QueueError> {
        let place = self.memory().free_place(&self.participant);
        let slot = self.memory().slot_in_free(&self.participant, place)?;
        write(self.memory().payload(slot), slot);
        self.send(place, wait)
    }

    /// Writes a message into a block of so many units, and puts it.
    #[cold]
    pub(crate) fn put_in_block(
        &self,
        units: u32,
        wait: Option<impl FnOnce() -> Wait>,
        write: impl FnOnce(NonNull<u8>, usize),
    ) -> Result<(), QueueError> {
        let place = self.memory().free_place(&self.participant);
        // Both waits end at the same time.
        let wait = wait.map(|wait| wait());
        let block = self.take_block(place, units, wait)?;
        let slot = self.memory().slot_in_free(&self.participant, place)?;
        write(self.memory().block_payload(block), slot);
        let sent = self.send(place, wait.map(|wait| move || wait));
        if sent.is_err() {
            self.release_block(place);
        }
        sent
    }

    /// Takes a block of so many units for the slot in a place. Returns the block.
    pub(crate) fn take_block(
        &self,
        place: usize,
        units: u32,
        wait: Option<Wait>,
    ) -> Result<usize, QueueError> {
        let (memory, participant, pages) = (self.memory(), &self.participant, self.region());
        let mut waiter = wait.map(Waiter::new);
        // What can be done at once is done, though the deadline has passed.
        let until = waiter.as_ref().and_then(Waiter::until).filter(|&until| until > clock::now());
        self.thread.begin(&memory.control().roster.0);
        let mut taken = memory.take_block(participant, place, units, pages, until);
        // The dead may have the memory, with no sleeper to notice the death. One call may bury only
        // some of them.
        for _ in 0..memory.used() {
            if !is_full(&taken) || !memory.bury(Some(0)) {
                break;
            }
            taken = memory.take_block(participant, place, units, pages, until);
        }
        self.thread.end();
        if is_full(&taken) && memory.is_closed() {
            return Err(QueueError::Closed);
        }
        match &mut waiter {
            Some(waiter) if is_full(&taken) => {
                memory.wait_for_block(self.thread, participant, place, units, pages, waiter)?;
            }
            _ => taken?,
        }
        participant
            .block(place)
            .get()
            .checked_sub(1)
            .map(|block| block as usize)
            .ok_or(QueueError::Spoiled)
    }

    /// Sees to it that the slot in a place has room for a message of so many bytes.
    pub(crate) fn make_room(
        &self,
        place: usize,
        len: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        match self.memory().units(len) {
            0 => self.memory().note_in_slot(self.memory().slot(&self.participant, place)?),
            units => _ = self.take_block(place, units, wait.map(|wait| wait()))?,
        }
        Ok(())
    }

    /// Releases the block that the slot in a place has, if it has one.
    #[cold]
    fn release_block(&self, place: usize) {
        self.thread.begin(&self.memory().control().roster.0);
        self.memory().release_block(&self.participant, place);
        self.thread.end();
    }

    /// Frees the pages of all free blocks.
    pub(crate) fn trim(&self) -> Result<(), QueueError> {
        if !self.memory().has_blocks() {
            return Ok(());
        }
        self.thread.begin(&self.memory().control().roster.0);
        let trimmed = self.memory().trim(&self.participant, self.region());
        self.thread.end();
        Ok(trimmed?)
    }

    /// Puts the item in a place.
    #[inline(always)]
    pub(crate) fn send(
        &self,
        place: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        let put = |ring: Ring<'_>| ring.put(&self.participant, place).map(|flags| (flags, 1));
        match (self.memory().at_once(self.thread, Side::Putters, put), wait) {
            (Err(Refused::Full), Some(wait)) => self.send_waiting(place, wait())?,
            (result, _) => result?,
        }
        // A block has gone with the slot.
        self.participant.block(place).set(0);
        Ok(())
    }

    #[cold]
    fn send_waiting(&self, place: usize, wait: Wait) -> Result<(), QueueError> {
        let put = |ring: Ring<'_>| ring.put(&self.participant, place).map(|flags| (flags, 1));
        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep(Side::Putters, waiter);
        Ok(self.memory().waiting(self.thread, Side::Putters, &mut Waiter::new(wait), put, sleep)?)
    }

    /// Gets the first item into a place. Not for tasks.
    #[inline(always)]
    pub(crate) fn receive(
        &self,
        place: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        let get = |ring: Ring<'_>| ring.get(&self.participant, place, 0).map(|flags| (flags, 1));
        match (self.memory().at_once(self.thread, Side::Getters, get), wait) {
            (Err(Refused::Empty), Some(wait)) => self.receive_waiting(place, wait()),
            (result, _) => Ok(result?),
        }
    }

    #[cold]
    fn receive_waiting(&self, place: usize, wait: Wait) -> Result<(), QueueError> {
        let get = |ring: Ring<'_>| ring.get(&self.participant, place, 0).map(|flags| (flags, 1));
        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep(Side::Getters, waiter);
        Ok(self.memory().waiting(self.thread, Side::Getters, &mut Waiter::new(wait), get, sleep)?)
    }

    /// Takes a task. Returns the place that it is in.
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
        // Refused if a peer has made it a slot that this thread has already.
        if let Err(refused) = self.memory().slot(&self.participant, place) {
            self.vacate(place);
            return Err(refused.into());
        }
        self.memory().count_attempt(&self.participant, place);
        Ok(place)
    }

    /// Occupies a place for a task, for a participant that has no task to take back.
    fn occupy_for_task(&self) -> Result<usize, QueueError> {
        match self.memory().occupy(&self.participant) {
            Some(place) => Ok(place),
            // Others have taken all that was returned, so their places could have been reclaimed.
            None if self.participant.returned.get() != 0 => Err(QueueError::Spoiled),
            None => Err(self.too_many_loans()),
        }
    }

    fn take_task(
        &self,
        place: usize,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        // A call that can wait looks briefly at first, as if its deadline had passed. It looks
        // longer while it waits.
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

    /// Waits for a task, if `wait` allows it, after a call has found none. The dead may have the
    /// only tasks, with no sleeper to notice the death. So a call that does not sleep buries the
    /// dead, too.
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

    /// Buries the dead. Returns whether there were any.
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
                // Once the dead are buried, their tasks can be taken. Waiting for them would be in
                // vain.
                memory.bury(until);
                let again = memory.take_task(&self.participant, ring, place, until);
                again.map_err(|refused| self.deadlock_or(refused, until))
            }
            result => result,
        };
        Ok(memory.waiting(self.thread, Side::Getters, waiter, take, sleep)?)
    }

    /// Gets the first item and reads it. It needs a place for the call only. Not for tasks.
    #[inline(always)]
    pub(crate) fn get<R>(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        read: impl FnOnce(NonNull<u8>, usize) -> R,
    ) -> Result<R, QueueError> {
        let place = self.memory().free_place(&self.participant);
        self.receive(place, wait)?;
        let slot = self.memory().slot_in_free(&self.participant, place)?;
        Ok(read(self.memory().payload(slot), slot))
    }

    /// Gets the first message and reads it. It needs a place for the call only. Not for tasks.
    #[inline]
    pub(crate) fn get_message<R>(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, QueueError> {
        let place = self.memory().free_place(&self.participant);
        self.receive(place, wait)?;
        let slot = self.memory().slot_in_free(&self.participant, place)?;
        let (payload, len) = self.message(place, slot)?;
        let _block = Borrowed { participation: self, place };
        // SAFETY: the payload is that of a slot of this participant, or of its block (`message`).
        // It has as many bytes, all of them initialised: the memory began as zeros.
        Ok(read(unsafe { NonNull::slice_from_raw_parts(payload, len).as_ref() }))
    }

    /// Returns where the message in a slot of the participant's own is, and how long it is. A block
    /// that it is in is the participant's from then on. One that the participant has taken for the
    /// slot is known, whatever a peer has noted there since: it has room for what it was taken for.
    #[inline]
    pub(crate) fn message(
        &self,
        place: usize,
        slot: usize,
    ) -> Result<(NonNull<u8>, usize), QueueError> {
        let memory = self.memory();
        // Loaded once. Relaxed: the slot is this participant's, and the exchange has ordered it.
        // The bound is the room that there is, whatever a peer has written there.
        let len = memory.payload_len(slot).load(Relaxed) as usize;
        let taken = self.participant.block(place).get().checked_sub(1);
        let block = match taken {
            Some(block) => Some(block as usize),
            None => memory.find_message(&self.participant, place, slot)?,
        };
        let (payload, room) = match block {
            None => (memory.payload(slot), memory.config.size),
            Some(block) => (memory.block_payload(block), memory.config.blocks.longest),
        };
        Ok((payload, len.min(room as usize)))
    }

    /// Puts `count` items, `each` of them in a slot, where `write` writes them, given their
    /// indices. Returns how many were put, and the error that stopped it, if any. With `wait`, it
    /// waits for room for all of them.
    pub(crate) fn put_many(
        &self,
        count: usize,
        each: usize,
        wait: Option<impl FnOnce() -> Wait>,
        write: impl Fn(NonNull<u8>, usize, Range<usize>),
    ) -> (usize, Option<QueueError>) {
        let memory = self.memory();
        let place = memory.free_place(&self.participant);
        let mut put = 0;
        // Puts one after the other, until a waiter has to be woken.
        let some = |ring: Ring<'_>, put: &mut usize| {
            let before = *put;
            while *put < count {
                let slot = memory.slot_in_free(&self.participant, place)?;
                let end = count.min(*put + each);
                write(memory.payload(slot), slot, *put..end);
                match ring.put(&self.participant, place) {
                    Ok(flags) => {
                        *put = end;
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
                    let sleep =
                        |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep(Side::Putters, waiter);
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

    /// Gets as many items as there are, at least one and at most `most`, and has `read` read each.
    /// Returns how many; 0 at once if `most` is 0. Not for tasks.
    ///
    /// If there are fewer than `most`, the queue was found empty after the last of them. A very
    /// large `most` is the exception: the call stops after as many items as fit, or [`LEAST_BOUND`]
    /// if that is more, however fast others put meanwhile.
    pub(crate) fn get_many(
        &self,
        most: usize,
        wait: Option<impl FnOnce() -> Wait>,
        mut read: impl FnMut(NonNull<u8>, usize),
    ) -> Result<usize, QueueError> {
        let memory = self.memory();
        let most = most.min(self.most_at_a_time());
        let place = memory.free_place(&self.participant);
        // Gets one after the other, until a waiter has to be woken.
        let mut some = |ring: Ring<'_>, got: &mut usize| {
            let before = *got;
            while *got < most {
                match ring.get(&self.participant, place, 0) {
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
                let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep(Side::Getters, waiter);
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
        // The rest of what is there.
        while got < most
            && memory.at_once(self.thread, Side::Getters, |ring| some(ring, &mut got)).is_ok()
        {
        }
        Ok(got)
    }

    /// Returns how many items, or batches, one call gets at most, however fast others put.
    pub(super) fn most_at_a_time(&self) -> usize {
        (self.memory().config.capacity as usize).max(LEAST_BOUND)
    }

    /// Occupies a place for a loan, or for a received item.
    #[inline(always)]
    pub(crate) fn occupy(&self) -> Result<usize, QueueError> {
        self.memory().occupy(&self.participant).ok_or_else(|| self.too_many_loans())
    }

    #[cold]
    fn too_many_loans(&self) -> QueueError {
        QueueError::TooManyLoans { limit: self.memory().most_loans() }
    }

    /// Frees a place. Does nothing in a forked child, where the place is the parent's.
    #[inline]
    pub(crate) fn vacate(&self, place: usize) {
        if self.is_of_this_thread() {
            if self.participant.block(place).get() != 0 {
                self.release_block(place);
            }
            self.memory().vacate(&self.participant, place);
        }
    }

    /// Finishes the task in a place.
    pub(crate) fn finish_task(&self, place: usize) {
        if self.is_of_this_thread() {
            self.thread.begin(&self.memory().control().roster.0);
            self.memory().finish_task(&self.participant, place);
            self.memory().release_block(&self.participant, place);
            self.thread.end();
            self.memory().vacate(&self.participant, place);
        }
    }

    /// Gives the task in a place to another worker.
    pub(crate) fn return_task(&self, place: usize) {
        if self.is_of_this_thread() {
            self.thread.begin(&self.memory().control().roster.0);
            self.memory().return_task(&self.participant, place);
            self.thread.end();
            // A block has gone with the task.
            self.participant.block(place).set(0);
            // The worker that takes the task leaves another slot there, and `reclaim` then makes
            // the place usable again. So it does if the task became a dead letter: the put left
            // another slot there, too.
            self.participant.returned.set(self.participant.returned.get() | 1 << place);
        }
    }

    /// Turns `Empty` into `Deadlock` if others have unfinished tasks. A participant that has a task
    /// in hand does not wait for the last ones to come back: those that have them may wait in the
    /// same way.
    fn deadlock_or(&self, refused: Refused, until: Option<u64>) -> Refused {
        let is_some =
            || self.memory().unfinished(Some(self.participant.id), until) == Unfinished::Some;
        if refused == Refused::Empty && is_some() { Refused::Deadlock } else { refused }
    }

    /// Returns whether the participant has a task in hand.
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

/// A message that is read where it lies, in a place that is not in use otherwise. If it is in a
/// block, that is released when this is dropped.
struct Borrowed<'a> {
    participation: &'a Participation,
    place: usize,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if self.participation.participant.block(self.place).get() != 0 {
            self.participation.release_block(self.place);
        }
    }
}

/// Returns whether a participant got no block because messages have the memory.
fn is_full(taken: &Result<(), NoBlock>) -> bool {
    matches!(taken, Err(NoBlock::Failure(Failure::Refused(Refused::Full))))
}
