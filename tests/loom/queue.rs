//! Models of the queue: of its state machine, which is compiled here from the crate's own files, so that it need not be public. What is above it has no part in what loom looks for.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::model::participant;
use crossproc_sys::robust::{self, Thread};

use self::exchange::{Member, Refused, Ring, Which};
use self::ground::Ground;
use self::shape::Shape;
use self::waiting::{Failure, Side};
use self::words::{FULL, LIVES, ROUND, cycle, index, is_noted, over};
use crate::wait::{Wait, Waiter};
use crate::{Watched, share};

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

mod dying;
mod exchanging;
mod sleeping;
mod working;

/// A queue's memory, and what its slots hold, which loom watches.
struct Plot {
    ground: Ground,
    payloads: Vec<Watched>,
    memory: NonNull<u8>,
    layout: Layout,
}

/// A queue without participants.
fn plot(capacity: u32, ids: u32, is_joinable: bool) -> Plot {
    let shape = Shape { capacity, letters: 0, ids, places: 2, attempts: 0, is_joinable, size: 8, align: 8 };
    let plan = shape.plan().unwrap();
    let layout = Layout::from_size_align(plan.len, 4_096).unwrap();
    // SAFETY: the layout is not empty.
    let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
    // SAFETY: as long and as aligned as the plan wants it; it goes with the plot.
    let ground = unsafe { Ground::new(memory, shape, plan) };
    ground.fill();
    let plot = Plot { ground, payloads: (0..shape.slots()).map(|_| Watched::default()).collect(), memory, layout };
    plot.touch();
    plot
}

/// A queue with all its participants, who need no token: who dies is settled by the model.
fn queue(capacity: u32, ids: u32) -> Arc<Plot> {
    let plot = plot(capacity, ids, false);
    plot.furnish();
    share(plot)
}

impl Plot {
    /// Makes loom's atomics, before there are threads.
    fn touch(&self) {
        let Plot { ground, .. } = self;
        let control = ground.control();
        for word in
            [&control.items.tail.0.at, &control.items.head.0.at, &control.roster.0, &control.returned, &control.moves, &control.joins]
        {
            word.load(Relaxed);
        }
        control.used.load(Relaxed);
        for position in [&control.items.tail, &control.items.head] {
            position.0.watched.load(Relaxed);
        }
        for id in 0..ground.shape.ids as usize {
            let record = ground.record(id);
            record.seen.load(Relaxed);
            record.site.load(Relaxed);
            record.life.load(Relaxed);
            // A release with somebody waiting is what uses all its words.
            participant(1, None, || {
                record.token.try_lock_contended().unwrap();
                record.token.watch();
                record.token.unlock(1);
            });
            for place in 0..ground.shape.places as usize {
                ground.place(id, place).load(Relaxed);
            }
        }
        for slot in 0..ground.shape.slots() {
            ground.taker(slot).load(Relaxed);
            if ground.shape.is_joinable {
                ground.attempts(slot).load(Relaxed);
            }
        }
    }

    /// Gives all ids their slots, as if all had attached.
    fn furnish(&self) {
        let Plot { ground, .. } = self;
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

    fn ring(&self) -> Ring<'_> {
        self.ground.ring(Which::Items)
    }

    /// Settles what a dead one has left who had no token.
    fn settle(&self, id: usize) {
        let life = self.ground.record(id).life.load(Acquire);
        if life & LIVES != 0 {
            self.ground.settle(id, life);
        }
    }

    /// Takes over the id of such a one.
    fn take_over(&self, id: usize) -> Member {
        self.settle(id);
        let life = &self.ground.record(id).life;
        let settled = life.load(Acquire);
        let _ = life.compare_exchange(settled, over(settled), Release, Relaxed);
        self.ground.begin_life(id);
        self.member(id)
    }

    /// A participant that has this id from now on, and knows what is in its places from there.
    fn member(&self, id: usize) -> Member {
        let member = Member::new(&self.ground, id);
        for place in 0..self.ground.shape.places as usize {
            let word = self.ground.place(id, place).load(Acquire);
            if word != 0 {
                member.word(place).set(word);
            }
        }
        member
    }

    /// Writes into the slot of the place that a put takes.
    fn write(&self, member: &Member, value: u64) -> usize {
        let place = self.ground.free_place(member);
        self.payloads[self.ground.slot(member, place).unwrap()].set(value);
        place
    }

    fn read(&self, member: &Member, place: usize) -> u64 {
        self.payloads[self.ground.slot(member, place).unwrap()].get()
    }

    fn put(&self, member: &Member, value: u64) -> Result<(), Refused> {
        let place = self.write(member, value);
        self.ground.put(member, self.ring(), place).map(|_| ())
    }

    fn get(&self, member: &Member) -> Result<u64, Refused> {
        let place = self.ground.free_place(member);
        self.ground.get(member, self.ring(), place, 0)?;
        Ok(self.read(member, place))
    }

    /// Puts, before there are threads, by the last participant.
    fn fill_with<const N: usize>(&self, values: [u64; N]) {
        let member = self.member(self.ground.shape.ids as usize - 1);
        for value in values {
            self.put(&member, value).unwrap();
        }
    }

    /// Puts, and wakes who sleeps for it.
    fn put_and_wake(&self, member: &Member, value: u64) -> Result<(), Refused> {
        let place = self.write(member, value);
        self.ground.at_once(me(), Side::Putters, |ring| self.ground.put(member, ring, place).map(|flags| (flags, 1)))
    }

    fn put_waiting(&self, member: &Member, value: u64) -> Result<(), Failure> {
        let place = self.write(member, value);
        let put = |ring: Ring<'_>| self.ground.put(member, ring, place).map(|flags| (flags, 1));
        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| self.ground.sleep(ring, Side::Putters, waiter);
        self.ground.waiting(me(), Side::Putters, &mut Waiter::new(Wait::FOREVER), put, sleep)
    }

    /// Closes it, as somebody who is no participant otherwise.
    fn close(&self) {
        participant(9, None, || self.ground.close(me()));
    }

    /// Gets, and wakes who sleeps for the room.
    fn get_and_wake(&self, member: &Member) -> Result<u64, Refused> {
        let place = self.ground.free_place(member);
        self.ground.at_once(me(), Side::Getters, |ring| self.ground.get(member, ring, place, 0).map(|flags| (flags, 1)))?;
        Ok(self.read(member, place))
    }

    fn get_waiting(&self, member: &Member) -> Result<u64, Failure> {
        let place = self.ground.free_place(member);
        let get = |ring: Ring<'_>| self.ground.get(member, ring, place, 0).map(|flags| (flags, 1));
        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| self.ground.sleep(ring, Side::Getters, waiter);
        self.ground.waiting(me(), Side::Getters, &mut Waiter::new(Wait::FOREVER), get, sleep)?;
        Ok(self.read(member, place))
    }

    /// How many puts have happened.
    fn puts(&self) -> u64 {
        let entries = (0..self.ground.shape.entries()).map(|at| self.ground.entry(at).load(Relaxed));
        entries.map(|entry| cycle(entry) / ROUND - 1 + u64::from(entry & FULL != 0)).sum()
    }

    /// What is left in it, got by a participant that is doing nothing else.
    fn drain(&self, id: usize) -> Vec<u64> {
        let member = self.member(id);
        core::iter::from_fn(|| self.get(&member).ok()).collect()
    }

    /// No slot is lost or doubled, and everybody is known to have taken those that it has. At the end, when nobody is in the middle of anything.
    fn assert_whole(&self) {
        let Plot { ground, .. } = self;
        let used = ground.used();
        let mut slots: Vec<usize> = (0..ground.shape.entries()).map(|at| index(ground.entry(at).load(Acquire))).collect();
        for id in 0..used {
            let record = ground.record(id);
            // What a dead one announced stays.
            let is_anything = record.seen.load(Acquire) != 0 && record.life.load(Acquire) & LIVES != 0;
            assert!(!is_anything, "something is announced");
            for place in 0..ground.shape.places as usize {
                let word = ground.place(id, place).load(Acquire);
                // Nobody has ever attached with this id, though it is counted.
                let slot = if word == 0 { ground.shape.first_slot(id) + place } else { index(word) };
                assert!(word == 0 || is_noted(ground.taker(slot).load(Acquire), id), "somebody's slot is known as another's");
                slots.push(slot);
            }
        }
        slots.sort_unstable();
        assert!(slots.into_iter().eq(0..ground.shape.first_slot(used)), "a slot is lost or doubled");
    }
}

impl core::fmt::Debug for Plot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Plot").finish_non_exhaustive()
    }
}

impl Drop for Plot {
    fn drop(&mut self) {
        // SAFETY: `plot` has allocated it with this layout, and who has the plot uses the memory.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// The calling participant's list.
fn me() -> &'static Thread {
    robust::current().unwrap()
}
