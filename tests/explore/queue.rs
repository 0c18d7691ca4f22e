//! Explorations of the queue: of its state machine, which is compiled here from the crate's own files, so that it need not be public.

use core::hash::{Hash, Hasher};
use std::ptr::NonNull;

use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::atomic::{AtomicU32, AtomicU64};
use crossproc_sys::futex::Watch;
use crossproc_sys::model::explorer::Script;
use crossproc_sys::robust::{self, Entry, Thread};

use self::exchange::{Member, Refused, Ring, Which};
use self::ground::Ground;
use self::shape::Shape;
use self::waiting::{Failure, Side};
use self::words::{FLAGS, FULL, LIVES, ROUND, WAITERS, cycle, index, is_noted, over};
use crate::wait::{self, Wait, Waiter};
use crate::wait_any::source::{Armed, Source, State, Words};
use crate::wait_any::watching::watch;

#[allow(dead_code)]
#[path = "../../src/queue/burying.rs"]
mod burying;
#[allow(dead_code)]
#[path = "../../src/queue/exchange.rs"]
mod exchange;
#[allow(dead_code)]
#[path = "../../src/queue/ground.rs"]
mod ground;
#[allow(dead_code)]
#[path = "../../src/queue/letters.rs"]
mod letters;
#[allow(dead_code)]
#[path = "../../src/queue/looks.rs"]
mod looks;
#[allow(dead_code)]
#[path = "../../src/queue/members.rs"]
mod members;
#[allow(dead_code)]
#[path = "../../src/queue/shape.rs"]
mod shape;
#[allow(dead_code)]
#[path = "../../src/queue/tasks.rs"]
mod tasks;
#[allow(dead_code)]
#[path = "../../src/queue/waiting.rs"]
mod waiting;
#[allow(dead_code)]
#[path = "../../src/queue/watching.rs"]
mod watching;
#[allow(dead_code)]
#[path = "../../src/queue/words.rs"]
mod words;

mod burials;
mod exchanging;
mod sequential;
mod sleeping;
mod working;

/// A queue's memory, and what its slots hold.
struct Plot {
    ground: Ground,
    payloads: Vec<AtomicU64>,
    /// For each value of a task, whether somebody has done it.
    done: [AtomicU64; 4],
}

#[repr(align(4096))]
struct Page(#[allow(dead_code, reason = "it is only there")] [u64; 512]);

/// A participant: a thread's private state.
#[derive(Clone)]
struct Me(Member);

impl Me {
    fn words(&self) -> [u64; 7] {
        let Member { id, head, tail, busy, returned, .. } = &self.0;
        [*id as u64, head.get(), tail.get(), busy.get(), returned.get(), self.0.word(0).get(), self.0.word(1).get()]
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

/// What a participant does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    Put(u64),
    Get,
    PutWaiting(u64),
    GetWaiting,
    /// Waits, among other things perhaps, until there is an item, or room.
    Watch(Side),
    /// For the side, or something that does not happen.
    WatchMore(Side),
    /// Puts this and the next value.
    PutTwoWaiting(u64),
    Close,
    /// Settles what the dead one whose id this is has left, and begins its next life. Where nobody
    /// has a token.
    Settle,
    /// Only settles what the first one with this id has left.
    OnlySettle,
    /// Buries whoever is dead.
    Bury,
    /// Takes the dead one's token, as a newcomer that is stopped there.
    TakeToken,
    /// Takes a dead letter, if there is one.
    TakeLetter,
    /// Becomes a participant, that of a dead one if all others live.
    Attach,
    /// Has a place in use from now on.
    Loan,
    Take,
    TakeWaiting,
    /// Finishes the task in hand, if there is one.
    Finish,
    GiveBack,
    Join,
}

/// What the operations return, beside a value.
mod output {
    pub(super) const DONE: u64 = 0;
    pub(super) const FULL: u64 = 1 << 32;
    pub(super) const EMPTY: u64 = 2 << 32;
    pub(super) const CLOSED: u64 = 3 << 32;
}

/// One that takes part: with which id, what it does first, and then.
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
    Part { id, prepared: Vec::new(), ops: ops.to_vec(), killable: false, process: None, stoppable: false, after: None }
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

    fn script(&self, ground: &Ground, setup: Option<fn(&Plot)>) -> Script<Plot, Me> {
        let mut script = Script::new(Me(Member::new(ground, self.id)));
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

/// Something that does not happen.
struct Never(AtomicU32);

static NEVER: Never = Never(AtomicU32::new(0));

impl Source for Never {
    fn key(&self) -> usize {
        std::ptr::from_ref(&self.0).addr()
    }

    fn look(&self, _: &State) -> bool {
        false
    }

    fn words(&self) -> usize {
        1
    }

    fn arm<'a>(&'a self, _: &mut State, words: &mut Words<'a, '_>) -> Armed {
        words.add(Watch::new(&self.0, 0));
        Armed::Asleep
    }

    fn pend(&self, entry: &Entry) {
        entry.begin(&self.0);
    }

    fn awake(&self, _: &mut State) {}
}

/// A side of a queue that is waited for, as in `room`.
struct Watched(Ground, Side);

impl Source for Watched {
    fn key(&self) -> usize {
        self.0.key(self.1)
    }

    fn look(&self, _: &State) -> bool {
        self.0.is_ready(self.1)
    }

    fn words(&self) -> usize {
        watching::WORDS
    }

    fn arm<'a>(&'a self, _: &mut State, words: &mut Words<'a, '_>) -> Armed {
        self.0.arm(self.1, words)
    }

    fn pend(&self, entry: &Entry) {
        self.0.pend(entry);
    }

    fn awake(&self, state: &mut State) {
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
        // What waits says that, and nothing here does.
        Refused::Deadlock | Refused::Corrupt => panic!("{refused:?}"),
    }
}

fn failed(failure: Failure) -> u64 {
    match failure {
        Failure::Refused(reason) => refused(reason),
        failure => panic!("{failure:?}"),
    }
}

/// The calling participant's list.
fn list() -> &'static Thread {
    robust::current().unwrap()
}

fn shape(capacity: u32, ids: u32) -> Shape {
    Shape { capacity, letters: 0, ids, places: 2, attempts: 0, is_joinable: false, size: 8, align: 8 }
}

fn plot(shape: Shape) -> Plot {
    wait::set_slice(None);
    let plan = shape.plan().unwrap();
    // It stays as long as the process: a few pages for each exploration.
    let pages = (0..plan.len.div_ceil(size_of::<Page>())).map(|_| Page([0; 512])).collect::<Vec<_>>().leak();
    // SAFETY: as long and as aligned as the plan wants it, for ever, and nobody else's.
    let ground = unsafe { Ground::new(NonNull::from(pages).cast(), shape, plan) };
    Plot { ground, payloads: (0..shape.slots()).map(|_| AtomicU64::new(0)).collect(), done: Default::default() }
}

impl Plot {
    fn ring(&self) -> Ring<'_> {
        self.ground.ring(Which::Items)
    }

    /// Gives all ids their slots, as if all had attached.
    fn furnish(&self) {
        let Plot { ground, .. } = self;
        ground.fill();
        for id in 0..ground.shape.ids as usize {
            for place in 0..ground.shape.places as usize {
                let slot = ground.shape.first_slot(id) + place;
                ground.place(id, place).store(ROUND | slot as u64, Relaxed);
                ground.note_taker(slot, id);
            }
            ground.record(id).life.store(LIVES, Relaxed);
        }
        ground.control().used.store(ground.shape.ids, Relaxed);
    }

    fn payload(&self, member: &Member, place: usize) -> &AtomicU64 {
        &self.payloads[self.ground.slot(member, place).unwrap()]
    }

    /// The place with the task in hand.
    fn in_hand(&self, Me(member): &Me) -> Option<usize> {
        let busy = member.busy.get() & !member.returned.get();
        (0..self.ground.shape.places as usize).find(|place| busy & 1 << place != 0)
    }

    fn run(&self, me: &mut Me, op: Op) -> u64 {
        let Plot { ground, .. } = self;
        let Me(member) = &*me;
        let place = ground.free_place(member);
        let ring = self.ring();
        let write = |value| self.payload(member, place).store(value, Relaxed);
        let put = |ring: Ring<'_>| ground.put(member, ring, place).map(|flags| (flags, 1));
        let get = |ring: Ring<'_>| ground.get(member, ring, place, 0).map(|flags| (flags, 1));
        let sleep_for_room = |ring: Ring<'_>, waiter: &mut Waiter| ground.sleep(ring, Side::Putters, waiter);
        let sleep_for_item = |ring: Ring<'_>, waiter: &mut Waiter| ground.sleep(ring, Side::Getters, waiter);
        let waiter = &mut Waiter::new(Wait::FOREVER);
        let read = || self.payload(member, place).load(Relaxed);
        // As in `operations`.
        let put_some = |ring: Ring<'_>, from: &mut u64, to: u64| {
            let before = *from;
            while *from < to {
                write(*from);
                match ground.put(member, ring, place) {
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
                ground.put(member, ring, place).map_or_else(refused, |_| output::DONE)
            }
            Op::Get => ground.get(member, ring, place, 0).map_or_else(refused, |_| read()),
            Op::PutWaiting(value) => {
                write(value);
                ground.waiting(list(), Side::Putters, waiter, put, sleep_for_room).map_or_else(failed, |()| output::DONE)
            }
            Op::GetWaiting => ground.waiting(list(), Side::Getters, waiter, get, sleep_for_item).map_or_else(failed, |()| read()),
            Op::PutTwoWaiting(value) => {
                let mut from = value;
                while from < value + 2 {
                    let some = |ring: Ring<'_>| put_some(ring, &mut from, value + 2);
                    if let Err(failure) = ground.waiting(list(), Side::Putters, waiter, some, sleep_for_room) {
                        return failed(failure) + from - value;
                    }
                }
                output::DONE
            }
            Op::Watch(side) => {
                watch::<24>(&[&Watched(*ground, side)], &mut [State::default()], waiter).unwrap();
                output::DONE
            }
            Op::WatchMore(side) => {
                watch::<24>(&[&NEVER, &Watched(*ground, side)], &mut [State::default(); 2], waiter).unwrap();
                output::DONE
            }
            Op::Close => {
                ground.close(list());
                output::DONE
            }
            Op::OnlySettle => {
                if ground.record(member.id).life.load(Relaxed) == LIVES {
                    ground.settle(member.id, LIVES);
                }
                output::DONE
            }
            Op::Settle => {
                self.settle(member.id);
                let life = &ground.record(member.id).life;
                let settled = life.load(Relaxed);
                let _ = life.compare_exchange(settled, over(settled), Relaxed, Relaxed);
                ground.begin_life(member.id);
                // The new one knows what is in the dead one's places from there.
                for place in 0..ground.shape.places as usize {
                    member.word(place).set(ground.place(member.id, place).load(Relaxed));
                }
                output::DONE
            }
            Op::Attach => {
                me.0 = ground.attach(list(), |_| Ok(())).unwrap();
                output::DONE
            }
            Op::Loan => {
                ground.occupy(member).unwrap();
                output::DONE
            }
            Op::Take | Op::TakeWaiting | Op::Finish | Op::GiveBack | Op::Join | Op::TakeLetter => self.work(me, op),
            Op::TakeToken => {
                // Nobody else does.
                let _ = ground.record(member.id).token.try_lock_contended().unwrap();
                output::DONE
            }
            Op::Bury => {
                list().begin(&ground.control().roster.0);
                ground.bury(None);
                list().end();
                output::DONE
            }
        }
    }

    /// Settles what somebody has left who lived, or is dead and was not settled yet.
    fn settle(&self, id: usize) {
        let life = self.ground.record(id).life.load(Relaxed);
        if life & LIVES != 0 {
            self.ground.settle(id, life);
        }
    }

    fn work(&self, me: &Me, op: Op) -> u64 {
        let Plot { ground, .. } = self;
        let Me(member) = me;
        match op {
            Op::Take | Op::TakeWaiting => {
                let place = match ground.retake(list(), member) {
                    Some(place) => place,
                    None => {
                        let place = ground.occupy(member).unwrap();
                        let take = |ring: Ring<'_>| ground.take_task(member, ring, place, None);
                        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ground.sleep_for_task(member, ring, waiter);
                        let taken = if op == Op::Take {
                            ground.at_once(list(), Side::Getters, take).map_err(Failure::Refused)
                        } else {
                            ground.waiting(list(), Side::Getters, &mut Waiter::new(Wait::FOREVER), take, sleep)
                        };
                        if let Err(failure) = taken {
                            ground.vacate(member, place);
                            return failed(failure);
                        }
                        place
                    }
                };
                ground.count_attempt(member, place);
                self.payload(member, place).load(Relaxed)
            }
            Op::Finish => {
                let Some(place) = self.in_hand(me) else { return output::DONE };
                let value = self.payload(member, place).load(Relaxed);
                self.done[value as usize].store(1, Relaxed);
                list().begin(&ground.control().roster.0);
                ground.finish_task(member, place);
                list().end();
                ground.vacate(member, place);
                value
            }
            Op::GiveBack => {
                let Some(place) = self.in_hand(me) else { return output::DONE };
                list().begin(&ground.control().roster.0);
                ground.return_task(member, place);
                list().end();
                member.returned.set(member.returned.get() | 1 << place);
                output::DONE
            }
            Op::TakeLetter => {
                let place = ground.free_place(member);
                list().begin(&ground.control().roster.0);
                let taken = ground.take_letter(member, place);
                list().end();
                taken.map_or_else(refused, |()| self.payload(member, place).load(Relaxed))
            }
            _ => {
                ground.join(list(), member, &mut Waiter::new(Wait::FOREVER)).unwrap();
                self.done.iter().map(|done| done.load(Relaxed)).sum()
            }
        }
    }

    /// Settles what the dead have left, and looks whether each slot is in one place: what is in the ring.
    fn settled(&self) -> Vec<u64> {
        let Plot { ground, .. } = self;
        let used = ground.used();
        (0..used).for_each(|id| self.settle(id));
        let mut slots = Vec::new();
        let mut items = Vec::new();
        for at in 0..ground.shape.entries() {
            let entry = ground.entry(at).load(Relaxed);
            slots.push(index(entry));
            if entry & FULL != 0 {
                items.push((cycle(entry), at, self.payloads[index(entry)].load(Relaxed)));
            }
        }
        for id in 0..used {
            for place in 0..ground.shape.places as usize {
                let word = ground.place(id, place).load(Relaxed);
                if word == 0 {
                    // Whoever made room for this id has got another one.
                    slots.push(ground.shape.first_slot(id) + place);
                    continue;
                }
                slots.push(index(word));
                let taker = ground.taker(index(word)).load(Relaxed);
                assert!(ground.shape.is_joinable || is_noted(taker, id), "somebody's slot is known as another's");
                assert!(ground.shape.is_joinable || word & FLAGS == 0, "a task where there are none");
            }
        }
        slots.sort_unstable();
        assert!(slots.iter().copied().eq(0..ground.shape.first_slot(used)), "a slot is lost or doubled: {slots:?}");
        items.sort_unstable();
        items.into_iter().map(|(.., value)| value).collect()
    }
}
