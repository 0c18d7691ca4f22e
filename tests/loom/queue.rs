//! Models of the queue's state machine. The layers above it have no part in what loom
//! looks for.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::model::participant;
use crossproc_sys::robust::{self, Thread};

use crate::ring::ends::{Ring, Which};
use crate::ring::layout::{BlockConfig, Config, SlowConfig};
use crate::ring::memory::QueueMemory;
use crate::ring::participant::Participant;
use crate::ring::refused::Refused;
use crate::ring::waiting::{Failure, Side};
use crate::ring::words::{FULL, LIVES, ROUND, cycle, index, is_noted, over};
use crate::wait::{Wait, Waiter};
use crate::{Watched, share};

mod batches;
mod blocks;
mod broadcast;
mod dying;
mod exchanging;
mod sleeping;
mod working;

/// A queue's memory, and the contents of its slots, which loom watches.
struct Plot {
    memory: QueueMemory,
    payloads: Vec<Watched>,
    bytes: NonNull<u8>,
    layout: Layout,
}

/// Makes a queue without participants.
fn plot(capacity: u32, ids: u32, is_joinable: bool) -> Plot {
    plot_of(config(capacity, ids, is_joinable))
}

fn config(capacity: u32, ids: u32, is_joinable: bool) -> Config {
    Config {
        capacity,
        letters: 0,
        ids,
        places: 2,
        attempts: 0,
        is_joinable,
        size: 8,
        align: 8,
        batch: 0,
        blocks: BlockConfig::default(),
        slow: SlowConfig::default(),
    }
}

fn plot_of(config: Config) -> Plot {
    let offsets = config.offsets().unwrap();
    let layout = Layout::from_size_align(offsets.len, 4_096).unwrap();
    // SAFETY: the layout is not empty.
    let bytes = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
    // SAFETY: the memory has the length and alignment that `offsets` asks for, and lives as long as
    // the plot.
    let memory = unsafe { QueueMemory::new(bytes, config, offsets) };
    memory.fill();
    let plot = Plot {
        memory,
        payloads: (0..config.slots()).map(|_| Watched::default()).collect(),
        bytes,
        layout,
    };
    plot.touch();
    plot
}

/// Makes a queue with all its participants. They need no token: the model settles those that die.
fn queue(capacity: u32, ids: u32) -> Arc<Plot> {
    let plot = plot(capacity, ids, false);
    plot.furnish();
    share(plot)
}

impl Plot {
    /// Makes loom's atomics before there are threads.
    fn touch(&self) {
        let Plot { memory, .. } = self;
        let control = memory.control();
        for word in [
            &control.items.tail.0.at,
            &control.items.head.0.at,
            &control.roster.0,
            &control.returned,
            &control.moves,
            &control.joins,
        ] {
            word.load(Relaxed);
        }
        control.used.load(Relaxed);
        for position in [&control.items.tail, &control.items.head] {
            position.0.watched.load(Relaxed);
        }
        for id in 0..memory.config.ids as usize {
            let record = memory.record(id);
            record.seen.load(Relaxed);
            record.site.load(Relaxed);
            record.life.load(Relaxed);
            // A release with a waiter uses all words of the token.
            participant(1, None, || {
                record.token.try_lock_contended().unwrap();
                record.token.watch();
                record.token.unlock(1);
            });
            for place in 0..memory.config.places as usize {
                memory.place(id, place).load(Relaxed);
            }
        }
        for slot in 0..memory.config.slots() {
            memory.taker(slot).load(Relaxed);
            if memory.config.batch != 0 {
                memory.payload_len(slot).load(Relaxed);
            }
            if memory.config.is_joinable {
                memory.attempts(slot).load(Relaxed);
            }
            if memory.has_blocks() {
                memory.note(slot).load(Relaxed);
            }
        }
        if memory.config.is_broadcast() {
            control.subscriptions.load(Relaxed);
            for id in 0..memory.config.ids as usize {
                memory.subscription(id).cursor.load(Relaxed);
                memory.subscription(id).held.load(Relaxed);
            }
        }
        if memory.has_blocks() {
            let control = memory.block_control();
            control.budget.0.load(Relaxed);
            control.released.0.at.load(Relaxed);
            control.released.0.watched.load(Relaxed);
            control.used.load(Relaxed);
            for block in 0..memory.config.blocks.most as usize {
                let record = memory.block(block);
                for word in [&record.owner, &record.kept, &record.wanted, &record.allocated] {
                    word.load(Relaxed);
                }
            }
        }
    }

    /// Gives all ids their slots, as if all participants had attached.
    fn furnish(&self) {
        let Plot { memory, .. } = self;
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

    fn ring(&self) -> Ring<'_> {
        self.memory.ring(Which::Items)
    }

    /// Settles what a dead participant without a token has left.
    fn settle(&self, id: usize) {
        let life = self.memory.record(id).life.load(Acquire);
        if life & LIVES != 0 {
            self.memory.settle(id, life);
        }
    }

    /// Takes over the id of a dead participant without a token.
    fn take_over(&self, id: usize) -> Participant {
        self.settle(id);
        let life = &self.memory.record(id).life;
        let settled = life.load(Acquire);
        let _ = life.compare_exchange(settled, over(settled), Release, Relaxed);
        self.memory.begin_life(id);
        self.participant(id)
    }

    /// Returns a participant that has this id from now on, and reads from there what is in its
    /// places.
    fn participant(&self, id: usize) -> Participant {
        let participant = Participant::new(&self.memory, id);
        for place in 0..self.memory.config.places as usize {
            let word = self.memory.place(id, place).load(Acquire);
            if word != 0 {
                participant.word(place).set(word);
            }
        }
        participant
    }

    /// Writes into the slot of the place that a put takes. Returns the place.
    fn write(&self, participant: &Participant, value: u64) -> usize {
        let place = self.memory.free_place(participant);
        self.payloads[self.memory.slot(participant, place).unwrap()].set(value);
        place
    }

    fn read(&self, participant: &Participant, place: usize) -> u64 {
        self.payloads[self.memory.slot(participant, place).unwrap()].get()
    }

    fn put(&self, participant: &Participant, value: u64) -> Result<(), Refused> {
        let place = self.write(participant, value);
        self.ring().put(participant, place).map(|_| ())
    }

    fn get(&self, participant: &Participant) -> Result<u64, Refused> {
        let place = self.memory.free_place(participant);
        self.ring().get(participant, place, 0)?;
        Ok(self.read(participant, place))
    }

    /// Puts the values as the last participant, before there are threads.
    fn fill_with<const N: usize>(&self, values: [u64; N]) {
        let participant = self.participant(self.memory.config.ids as usize - 1);
        for value in values {
            self.put(&participant, value).unwrap();
        }
    }

    /// Puts, and wakes a getter that sleeps for the item.
    fn put_and_wake(&self, participant: &Participant, value: u64) -> Result<(), Refused> {
        let place = self.write(participant, value);
        self.memory.at_once(me(), Side::Putters, |ring| {
            ring.put(participant, place).map(|flags| (flags, 1))
        })
    }

    fn put_waiting(&self, participant: &Participant, value: u64) -> Result<(), Failure> {
        let place = self.write(participant, value);
        let put = |ring: Ring<'_>| ring.put(participant, place).map(|flags| (flags, 1));
        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep(Side::Putters, waiter);
        self.memory.waiting(me(), Side::Putters, &mut Waiter::new(Wait::FOREVER), put, sleep)
    }

    /// Closes the queue, as a thread that is not a participant of the queue.
    fn close(&self) {
        participant(9, None, || self.memory.close(me()));
    }

    /// Gets, and wakes a putter that sleeps for the room.
    fn get_and_wake(&self, participant: &Participant) -> Result<u64, Refused> {
        let place = self.memory.free_place(participant);
        self.memory.at_once(me(), Side::Getters, |ring| {
            ring.get(participant, place, 0).map(|flags| (flags, 1))
        })?;
        Ok(self.read(participant, place))
    }

    fn get_waiting(&self, participant: &Participant) -> Result<u64, Failure> {
        let place = self.memory.free_place(participant);
        let get = |ring: Ring<'_>| ring.get(participant, place, 0).map(|flags| (flags, 1));
        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep(Side::Getters, waiter);
        self.memory.waiting(me(), Side::Getters, &mut Waiter::new(Wait::FOREVER), get, sleep)?;
        Ok(self.read(participant, place))
    }

    /// Returns how many puts have happened.
    fn puts(&self) -> u64 {
        let entries =
            (0..self.memory.config.entries()).map(|at| self.memory.entry(at).load(Relaxed));
        entries.map(|entry| cycle(entry) / ROUND - 1 + u64::from(entry & FULL != 0)).sum()
    }

    /// Returns what is left in the queue, got by a participant that does nothing else.
    fn drain(&self, id: usize) -> Vec<u64> {
        let participant = self.participant(id);
        core::iter::from_fn(|| self.get(&participant).ok()).collect()
    }

    /// Asserts that no slot is lost or doubled, and that each participant is noted as the taker of
    /// the slots it has. Used at the end, when no operation is under way.
    fn assert_whole(&self) {
        let Plot { memory, .. } = self;
        let used = memory.used();
        let mut slots: Vec<usize> = (0..memory.config.entries())
            .map(|at| memory.slot_in(memory.entry(at).load(Acquire)))
            .collect();
        for id in 0..used {
            let record = memory.record(id);
            // What a dead participant announced stays.
            let is_anything =
                record.seen.load(Acquire) != 0 && record.life.load(Acquire) & LIVES != 0;
            assert!(!is_anything, "something is announced");
            for place in 0..memory.config.places as usize {
                let word = memory.place(id, place).load(Acquire);
                // No participant has ever attached with this id, though the id is counted.
                let slot =
                    if word == 0 { memory.config.first_slot(id) + place } else { index(word) };
                assert!(
                    word == 0 || is_noted(memory.taker(slot).load(Acquire), id),
                    "somebody's slot is known as another's"
                );
                slots.push(slot);
            }
        }
        slots.sort_unstable();
        assert!(
            slots.into_iter().eq(0..memory.config.first_slot(used)),
            "a slot is lost or doubled"
        );
    }
}

impl core::fmt::Debug for Plot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Plot").finish_non_exhaustive()
    }
}

impl Drop for Plot {
    fn drop(&mut self) {
        // SAFETY: `plot` allocated it with this layout, and only the owner of the plot uses the
        // memory.
        unsafe { dealloc(self.bytes.as_ptr(), self.layout) };
    }
}

/// Returns the calling participant's list.
fn me() -> &'static Thread {
    robust::current().unwrap()
}
