//! Explorations of the queue's state machine.

use core::hash::{Hash, Hasher};
use std::ptr::NonNull;

use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::atomic::{AtomicU32, AtomicU64};
use crossproc_sys::futex::Watch;
use crossproc_sys::model::explorer::Script;
use crossproc_sys::robust::{self, Entry, Thread};

use crate::ring::ends::{Ring, Which};
use crate::ring::layout::Config;
use crate::ring::memory::QueueMemory;
use crate::ring::participant::Participant;
use crate::ring::refused::Refused;
use crate::ring::waiting::{Failure, Side};
use crate::ring::words::{FLAGS, FULL, LIVES, ROUND, WAITERS, cycle, index, is_noted, over};
use crate::wait::source::{Armed, Source, WatchState, Words};
use crate::wait::{self, Wait, Waiter};
use crate::wait_any::watching::watch;

mod burials;
mod exchanging;
mod sequential;
mod sleeping;
mod working;

/// A queue's memory, and the contents of its slots.
struct Plot {
    memory: QueueMemory,
    payloads: Vec<AtomicU64>,
    /// For each task's value, whether the task was done.
    done: [AtomicU64; 4],
}

#[repr(align(4096))]
struct Page(#[allow(dead_code, reason = "it is only there")] [u64; 512]);

/// A participant: a thread's private state.
#[derive(Clone)]
struct Me(Participant);

impl Me {
    fn words(&self) -> [u64; 7] {
        let Participant { id, head, tail, busy, returned, .. } = &self.0;
        [
            *id as u64,
            head.get(),
            tail.get(),
            busy.get(),
            returned.get(),
            self.0.word(0).get(),
            self.0.word(1).get(),
        ]
    }
}

impl PartialEq for Me {
    fn eq(&self, other: &Self) -> bool {
        self.words() == other.words()
    }
}

impl Eq for Me {}

impl Hash for Me {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.words().hash(state);
    }
}

/// An operation of a participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    Put(u64),
    Get,
    PutWaiting(u64),
    GetWaiting,
    /// Waits for an item or for room, perhaps among other things.
    Watch(Side),
    /// Waits for the side, or for something that never happens.
    WatchMore(Side),
    /// Puts this and the next value.
    PutTwoWaiting(u64),
    Close,
    /// Settles what the dead participant with this id has left, and begins the id's next life. Used
    /// where no participant has a token.
    Settle,
    /// Only settles what the first participant with this id has left.
    OnlySettle,
    /// Buries all dead participants.
    Bury,
    /// Takes the dead participant's token, as a newcomer that is stopped there.
    TakeToken,
    /// Takes a dead letter, if there is one.
    TakeLetter,
    /// Attaches as a participant, with the id of a dead one if all others live.
    Attach,
    /// Occupies a place from now on.
    Loan,
    Take,
    TakeWaiting,
    /// Finishes the task in hand, if there is one.
    Finish,
    GiveBack,
    Join,
}

/// The results of the operations, other than a value.
mod output {
    pub(super) const DONE: u64 = 0;
    pub(super) const FULL: u64 = 1 << 32;
    pub(super) const EMPTY: u64 = 2 << 32;
    pub(super) const CLOSED: u64 = 3 << 32;
}

/// A participant: its id, what it does before the exploration, and what it does in it.
struct Part {
    id: usize,
    prepared: Vec<Op>,
    ops: Vec<Op>,
    killable: bool,
    process: Option<usize>,
    stoppable: bool,
    after: Option<usize>,
}

fn part<const N: usize>(id: usize, ops: [Op; N]) -> Part {
    Part {
        id,
        prepared: Vec::new(),
        ops: ops.to_vec(),
        killable: false,
        process: None,
        stoppable: false,
        after: None,
    }
}

impl Part {
    fn prepared<const N: usize>(self, ops: [Op; N]) -> Self {
        Part { prepared: ops.to_vec(), ..self }
    }

    fn killable(self) -> Self {
        Part { killable: true, ..self }
    }

    fn of_process(self, process: usize) -> Self {
        Part { process: Some(process), ..self }
    }

    fn stoppable(self) -> Self {
        Part { stoppable: true, ..self }
    }

    fn after(self, victim: usize) -> Self {
        Part { after: Some(victim), ..self }
    }

    fn script(&self, memory: &QueueMemory, setup: Option<fn(&Plot)>) -> Script<Plot, Me> {
        let mut script = Script::new(Me(Participant::new(memory, self.id)));
        if let Some(setup) = setup {
            script = script.prepared(move |plot: &Plot, _| {
                setup(plot);
                0
            });
        }
        for &op in &self.prepared {
            script = script.prepared(move |plot: &Plot, me| plot.run(me, op));
        }
        for &op in &self.ops {
            script = script.then(move |plot: &Plot, me| plot.run(me, op));
        }
        if let Some(process) = self.process {
            script = script.of_process(process);
        }
        if self.killable {
            script = script.killable();
        }
        if self.stoppable {
            script = script.stoppable();
        }
        if let Some(victim) = self.after {
            script = script.after_death_of(victim);
        }
        script
    }
}

/// Something that never happens.
struct Never(AtomicU32);

static NEVER: Never = Never(AtomicU32::new(0));

impl Source for Never {
    fn key(&self) -> usize {
        std::ptr::from_ref(&self.0).addr()
    }

    fn look(&self, _: &WatchState) -> bool {
        false
    }

    fn words(&self) -> usize {
        1
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        words.add(Watch::new(&self.0, 0));
        Armed::Asleep
    }

    fn pend(&self, entry: &Entry) {
        entry.begin(&self.0);
    }

    fn awake(&self, _: &mut WatchState) {}
}

/// A side of a queue to wait for, as in `room`.
struct Watched(QueueMemory, Side);

impl Source for Watched {
    fn key(&self) -> usize {
        self.0.key(self.1)
    }

    fn look(&self, _: &WatchState) -> bool {
        self.0.is_ready(self.1)
    }

    fn words(&self) -> usize {
        crate::ring::watching::WORDS
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        self.0.arm(self.1, words)
    }

    fn pend(&self, entry: &Entry) {
        self.0.pend(entry);
    }

    fn awake(&self, state: &mut WatchState) {
        self.0.awake();
        if self.look(state) {
            self.0.wake_side(self.1);
        }
    }
}

fn refused(refused: Refused) -> u64 {
    match refused {
        Refused::Full => output::FULL,
        Refused::Empty => output::EMPTY,
        Refused::Closed => output::CLOSED,
        // The public waiting operations report `Deadlock`, and none of them is used here.
        Refused::Deadlock | Refused::Corrupt => panic!("{refused:?}"),
    }
}

fn failed(failure: Failure) -> u64 {
    match failure {
        Failure::Refused(reason) => refused(reason),
        failure => panic!("{failure:?}"),
    }
}

/// Returns the calling participant's list.
fn list() -> &'static Thread {
    robust::current().unwrap()
}

fn config(capacity: u32, ids: u32) -> Config {
    Config {
        capacity,
        letters: 0,
        ids,
        places: 2,
        attempts: 0,
        is_joinable: false,
        size: 8,
        align: 8,
    }
}

fn plot(config: Config) -> Plot {
    wait::set_recheck_interval(None);
    let offsets = config.offsets().unwrap();
    // The pages are leaked: a few for each exploration.
    let pages = (0..offsets.len.div_ceil(size_of::<Page>()))
        .map(|_| Page([0; 512]))
        .collect::<Vec<_>>()
        .leak();
    // SAFETY: the memory has the length and alignment that `offsets` asks for, lives for ever, and
    // is used by nothing else.
    let memory = unsafe { QueueMemory::new(NonNull::from(pages).cast(), config, offsets) };
    Plot {
        memory,
        payloads: (0..config.slots()).map(|_| AtomicU64::new(0)).collect(),
        done: Default::default(),
    }
}

impl Plot {
    fn ring(&self) -> Ring<'_> {
        self.memory.ring(Which::Items)
    }

    /// Gives all ids their slots, as if all participants had attached.
    fn furnish(&self) {
        let Plot { memory, .. } = self;
        memory.fill();
        for id in 0..memory.config.ids as usize {
            for place in 0..memory.config.places as usize {
                let slot = memory.config.first_slot(id) + place;
                memory.place(id, place).store(ROUND | slot as u64, Relaxed);
                memory.note_taker(slot, id);
            }
            memory.record(id).life.store(LIVES, Relaxed);
        }
        memory.control().used.store(memory.config.ids, Relaxed);
    }

    fn payload(&self, participant: &Participant, place: usize) -> &AtomicU64 {
        &self.payloads[self.memory.slot(participant, place).unwrap()]
    }

    /// Returns the place with the task in hand.
    fn in_hand(&self, Me(participant): &Me) -> Option<usize> {
        let busy = participant.busy.get() & !participant.returned.get();
        (0..self.memory.config.places as usize).find(|place| busy & 1 << place != 0)
    }

    fn run(&self, me: &mut Me, op: Op) -> u64 {
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
                me.0 = memory.attach(list(), |_| Ok(())).unwrap();
                output::DONE
            }
            Op::Loan => {
                memory.occupy(participant).unwrap();
                output::DONE
            }
            Op::Take | Op::TakeWaiting | Op::Finish | Op::GiveBack | Op::Join | Op::TakeLetter => {
                self.work(me, op)
            }
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

    /// Settles what a participant has left, if it lived or is dead and not yet settled.
    fn settle(&self, id: usize) {
        let life = self.memory.record(id).life.load(Relaxed);
        if life & LIVES != 0 {
            self.memory.settle(id, life);
        }
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
            _ => {
                memory.join(list(), participant, &mut Waiter::new(Wait::FOREVER)).unwrap();
                self.done.iter().map(|done| done.load(Relaxed)).sum()
            }
        }
    }

    /// Settles what the dead have left, and asserts that each slot is in one place. Returns the
    /// values in the ring.
    fn settled(&self) -> Vec<u64> {
        let Plot { memory, .. } = self;
        let used = memory.used();
        (0..used).for_each(|id| self.settle(id));
        let mut slots = Vec::new();
        let mut items = Vec::new();
        for at in 0..memory.config.entries() {
            let entry = memory.entry(at).load(Relaxed);
            slots.push(index(entry));
            if entry & FULL != 0 {
                items.push((cycle(entry), at, self.payloads[index(entry)].load(Relaxed)));
            }
        }
        for id in 0..used {
            for place in 0..memory.config.places as usize {
                let word = memory.place(id, place).load(Relaxed);
                if word == 0 {
                    // The participant that made room for this id has got another one.
                    slots.push(memory.config.first_slot(id) + place);
                    continue;
                }
                slots.push(index(word));
                let taker = memory.taker(index(word)).load(Relaxed);
                assert!(
                    memory.config.is_joinable || is_noted(taker, id),
                    "somebody's slot is known as another's"
                );
                assert!(
                    memory.config.is_joinable || word & FLAGS == 0,
                    "a task where there are none"
                );
            }
        }
        slots.sort_unstable();
        assert!(
            slots.iter().copied().eq(0..memory.config.first_slot(used)),
            "a slot is lost or doubled: {slots:?}"
        );
        items.sort_unstable();
        items.into_iter().map(|(.., value)| value).collect()
    }
}
