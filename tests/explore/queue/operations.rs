//! The operations, as the crate carries them out.

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::robust::{self, Thread};

use super::sources::{NEVER, Watched, WatchedMemory, WatchedTasks};
use super::{Me, Op, Plot, output};
use crate::ring::batches::Got;
use crate::ring::ends::Ring;
use crate::ring::participant::Participant;
use crate::ring::refused::Refused;
use crate::ring::waiting::{Failure, Side};
use crate::ring::words::{LIVES, WAITERS, over};
use crate::wait::source::{Source, WatchState};
use crate::wait::{Wait, Waiter};
use crate::wait_any::watching::watch;

pub(super) fn refused(refused: Refused) -> u64 {
    match refused {
        Refused::Full => output::FULL,
        Refused::Empty => output::EMPTY,
        Refused::Closed => output::CLOSED,
        Refused::Missed(count) => output::MISSED + count,
        Refused::Expelled => output::EXPELLED,
        // The public waiting operations report `Deadlock`, and none of them is used here.
        Refused::Deadlock | Refused::Corrupt => panic!("{refused:?}"),
    }
}

pub(super) fn failed(failure: Failure) -> u64 {
    match failure {
        Failure::Refused(reason) => refused(reason),
        failure => panic!("{failure:?}"),
    }
}

/// Returns the calling participant's list.
pub(super) fn list() -> &'static Thread {
    robust::current().unwrap()
}

impl Plot {
    fn payload(&self, participant: &Participant, place: usize) -> &AtomicU64 {
        &self.payloads[self.memory.slot(participant, place).unwrap()]
    }

    fn write_batch(&self, participant: &Participant, place: usize, value: u64, len: u32) {
        self.memory.begin_batch(self.memory.slot(participant, place).unwrap(), len);
        self.payload(participant, place).store(value, Relaxed);
    }

    /// Returns the first item that was got, and how many were.
    fn got_batched(
        &self,
        participant: &Participant,
        place: usize,
        most: u32,
        got: Got,
        copied: u64,
    ) -> u64 {
        match got {
            Got::Some => output::items(copied, most),
            Got::Rest { from, end } => {
                let first = self.payload(participant, place).load(Relaxed);
                output::items(first + u64::from(from), end - from)
            }
        }
    }

    /// Returns the place with the task in hand.
    fn in_hand(&self, Me(participant): &Me) -> Option<usize> {
        let busy = participant.busy.get() & !participant.returned.get();
        (0..self.memory.config.places as usize).find(|place| busy & 1 << place != 0)
    }

    pub(super) fn run(&self, me: &mut Me, op: Op) -> u64 {
        let Plot { memory, .. } = self;
        let Me(participant) = &*me;
        let place = memory.free_place(participant);
        let ring = self.ring();
        let write = |value| self.payload(participant, place).store(value, Relaxed);
        let put = |ring: Ring<'_>| ring.put(participant, place).map(|flags| (flags, 1));
        let get = |ring: Ring<'_>| ring.get(participant, place, 0).map(|flags| (flags, 1));
        let sleep_for_room =
            |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep(Side::Putters, waiter);
        let sleep_for_item =
            |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep(Side::Getters, waiter);
        let waiter = &mut Waiter::new(Wait::FOREVER);
        let read = || self.payload(participant, place).load(Relaxed);
        // As in `operations`.
        let put_some = |ring: Ring<'_>, from: &mut u64, to: u64| {
            let before = *from;
            while *from < to {
                write(*from);
                match ring.put(participant, place) {
                    Ok(flags) => {
                        *from += 1;
                        if flags & WAITERS != 0 {
                            return Ok((flags, (*from - before) as usize));
                        }
                    }
                    Err(refused) if *from == before => return Err(refused),
                    Err(_) => break,
                }
            }
            Ok((0, (*from - before) as usize))
        };
        match op {
            Op::Put(value) => {
                write(value);
                ring.put(participant, place).map_or_else(refused, |_| output::DONE)
            }
            Op::Get => ring.get(participant, place, 0).map_or_else(refused, |_| read()),
            Op::PutWaiting(value) => {
                write(value);
                memory
                    .waiting(list(), Side::Putters, waiter, put, sleep_for_room)
                    .map_or_else(failed, |()| output::DONE)
            }
            Op::GetWaiting => memory
                .waiting(list(), Side::Getters, waiter, get, sleep_for_item)
                .map_or_else(failed, |()| read()),
            Op::PutTwoWaiting(value) => {
                let mut from = value;
                while from < value + 2 {
                    let some = |ring: Ring<'_>| put_some(ring, &mut from, value + 2);
                    if let Err(failure) =
                        memory.waiting(list(), Side::Putters, waiter, some, sleep_for_room)
                    {
                        return failed(failure) + from - value;
                    }
                }
                output::DONE
            }
            Op::PutBatch(value, len) => {
                self.write_batch(participant, place, value, len);
                ring.put(participant, place).map_or_else(refused, |_| output::DONE)
            }
            Op::PutBatchWaiting(value, len) => {
                self.write_batch(participant, place, value, len);
                let put = |ring: Ring<'_>| {
                    ring.put(participant, place).map(|flags| (flags, len as usize))
                };
                memory
                    .waiting(list(), Side::Putters, waiter, put, sleep_for_room)
                    .map_or_else(failed, |()| output::DONE)
            }
            Op::GetBatched(most) => {
                let mut copied = 0;
                ring.get_batched(participant, place, most, |slot, from| {
                    copied = self.payloads[slot].load(Relaxed) + u64::from(from);
                })
                .map_or_else(refused, |(got, _)| {
                    self.got_batched(participant, place, most, got, copied)
                })
            }
            Op::GetBatchedWaiting(most) => {
                let mut copied = 0;
                let mut got = Got::Some;
                let get = |ring: Ring<'_>| {
                    let copy = |slot: usize, from: u32| {
                        copied = self.payloads[slot].load(Relaxed) + u64::from(from);
                    };
                    let (some, flags) = ring.get_batched(participant, place, most, copy)?;
                    got = some;
                    Ok((flags, 1))
                };
                match memory.waiting(list(), Side::Getters, waiter, get, sleep_for_item) {
                    Ok(()) => self.got_batched(participant, place, most, got, copied),
                    Err(failure) => failed(failure),
                }
            }
            Op::Watch(side) => {
                watch::<24>(&[&Watched(*memory, side)], &mut [WatchState::default()], waiter)
                    .unwrap();
                output::DONE
            }
            Op::WatchMore(side) => {
                watch::<24>(
                    &[&NEVER, &Watched(*memory, side)],
                    &mut [WatchState::default(); 2],
                    waiter,
                )
                .unwrap();
                output::DONE
            }
            Op::Close => {
                memory.close(list());
                output::DONE
            }
            Op::OnlySettle => {
                if memory.record(participant.id).life.load(Relaxed) == LIVES {
                    memory.settle(participant.id, LIVES);
                }
                output::DONE
            }
            Op::Settle => {
                self.settle(participant.id);
                let life = &memory.record(participant.id).life;
                let settled = life.load(Relaxed);
                let _ = life.compare_exchange(settled, over(settled), Relaxed, Relaxed);
                memory.begin_life(participant.id);
                // The new participant learns from these words what is in the dead one's places.
                for place in 0..memory.config.places as usize {
                    participant.word(place).set(memory.place(participant.id, place).load(Relaxed));
                }
                output::DONE
            }
            Op::Attach => {
                me.0 = memory.attach(list(), false, |_| Ok(())).unwrap();
                output::DONE
            }
            Op::Loan => {
                memory.occupy(participant).unwrap();
                output::DONE
            }
            Op::Take
            | Op::TakeWaiting
            | Op::Finish
            | Op::GiveBack
            | Op::Join
            | Op::TakeLetter
            | Op::WatchAll
            | Op::WatchLetter => self.work(me, op),
            Op::WatchMemory(units) => {
                let watched = WatchedMemory(*memory, units);
                watch::<24>(&[&NEVER, &watched], &mut [WatchState::default(); 2], waiter).unwrap();
                output::DONE
            }
            Op::Hold(_)
            | Op::HoldWaiting(_)
            | Op::Grow(_)
            | Op::Release
            | Op::PutLong(..)
            | Op::GetLong
            | Op::Trim => self.use_blocks(me, op),
            Op::Send(_)
            | Op::SendWaiting(_)
            | Op::Subscribe(_)
            | Op::Unsubscribe
            | Op::Receive
            | Op::ReceiveWaiting
            | Op::WatchRoom
            | Op::WatchItem => self.cast(me, op),
            Op::TakeToken => {
                // No other thread takes it.
                let _ = memory.record(participant.id).token.try_lock_contended().unwrap();
                output::DONE
            }
            Op::Bury => {
                list().begin(&memory.control().roster.0);
                memory.bury(None);
                list().end();
                output::DONE
            }
        }
    }

    /// Returns how many tasks have been done.
    pub(super) fn count_done(&self) -> u64 {
        self.done.iter().map(|done| done.load(Relaxed)).sum()
    }

    fn work(&self, me: &Me, op: Op) -> u64 {
        let Plot { memory, .. } = self;
        let Me(participant) = me;
        match op {
            Op::Take | Op::TakeWaiting => {
                let place = match memory.retake(list(), participant) {
                    Some(place) => place,
                    None => {
                        let place = memory.occupy(participant).unwrap();
                        let take =
                            |ring: Ring<'_>| memory.take_task(participant, ring, place, None);
                        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| {
                            memory.sleep_for_task(participant, ring, waiter)
                        };
                        let taken = if op == Op::Take {
                            memory.at_once(list(), Side::Getters, take).map_err(Failure::Refused)
                        } else {
                            memory.waiting(
                                list(),
                                Side::Getters,
                                &mut Waiter::new(Wait::FOREVER),
                                take,
                                sleep,
                            )
                        };
                        if let Err(failure) = taken {
                            memory.vacate(participant, place);
                            return failed(failure);
                        }
                        place
                    }
                };
                memory.count_attempt(participant, place);
                self.payload(participant, place).load(Relaxed)
            }
            Op::Finish => {
                let Some(place) = self.in_hand(me) else { return output::DONE };
                let value = self.payload(participant, place).load(Relaxed);
                self.done[value as usize].store(1, Relaxed);
                list().begin(&memory.control().roster.0);
                memory.finish_task(participant, place);
                list().end();
                memory.vacate(participant, place);
                value
            }
            Op::GiveBack => {
                let Some(place) = self.in_hand(me) else { return output::DONE };
                list().begin(&memory.control().roster.0);
                memory.return_task(participant, place);
                list().end();
                participant.returned.set(participant.returned.get() | 1 << place);
                output::DONE
            }
            Op::TakeLetter => {
                let place = memory.free_place(participant);
                list().begin(&memory.control().roster.0);
                let taken = memory.take_letter(participant, place);
                list().end();
                taken.map_or_else(refused, |()| self.payload(participant, place).load(Relaxed))
            }
            Op::WatchLetter | Op::WatchAll => {
                let is_letter = op == Op::WatchLetter;
                let watched = WatchedTasks { memory: *memory, participant, is_letter };
                let waiter = &mut Waiter::new(Wait::FOREVER);
                let states = &mut [WatchState::default(), watched.begin()];
                watch::<24>(&[&NEVER, &watched], states, waiter).unwrap();
                self.count_done()
            }
            _ => {
                memory.join(list(), participant, &mut Waiter::new(Wait::FOREVER)).unwrap();
                self.count_done()
            }
        }
    }
}
