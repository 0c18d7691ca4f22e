//! Explorations of the queue's state machine.

use core::hash::{Hash, Hasher};
use std::ptr::NonNull;

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::model::explorer::Script;

use crate::ring::ends::{Ring, Which};
use crate::ring::layout::{BlockConfig, Config, SlowConfig};
use crate::ring::memory::QueueMemory;
use crate::ring::participant::Participant;
use crate::ring::waiting::Side;
use crate::ring::words::{FLAGS, FULL, LIVES, ROUND, cycle, index, is_noted, taken};
use crate::wait;

mod batches;
mod blocks;
mod broadcast;
mod burials;
mod exchanging;
mod operations;
mod progress;
mod sequential;
mod sleeping;
mod sources;
mod working;

/// A queue's memory, and the contents of its slots.
struct Plot {
    memory: QueueMemory,
    payloads: Vec<AtomicU64>,
    /// For each task's value, whether the task was done.
    done: [AtomicU64; 4],
    blocks: blocks::Contents,
}

#[repr(align(4096))]
struct Page(#[allow(dead_code, reason = "it is only there")] [u64; 512]);

/// A participant: a thread's private state.
#[derive(Clone)]
struct Me(Participant);

impl Me {
    fn words(&self) -> [u64; 11] {
        let Participant { id, head, tail, limit, busy, returned, .. } = &self.0;
        [
            *id as u64,
            head.get(),
            tail.get(),
            limit.at.get(),
            limit.subscriptions.get(),
            busy.get(),
            returned.get(),
            self.0.word(0).get(),
            self.0.word(1).get(),
            self.0.block(0).get().into(),
            self.0.block(1).get().into(),
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
    /// Puts as many values, from this one on, as one batch.
    PutBatch(u64, u32),
    PutBatchWaiting(u64, u32),
    /// Gets at most so many items of the first batch.
    GetBatched(u32),
    GetBatchedWaiting(u32),
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
    /// Waits until all tasks are done, or for something that never happens.
    WatchAll,
    /// Waits for a dead letter.
    WatchLetter,
    /// Takes a block of so many units, and keeps it.
    Hold(u32),
    HoldWaiting(u32),
    /// Waits for memory among other things.
    WatchMemory(u32),
    /// Has so many units counted for that block.
    Grow(u32),
    /// Releases that block.
    Release,
    /// Puts the value in a block of so many units.
    PutLong(u64, u32),
    GetLong,
    /// Frees the pages of all free blocks.
    Trim,
    /// Sends the value to everybody.
    Send(u64),
    SendWaiting(u64),
    /// Attaches as a subscriber, from the oldest item there is or from now on.
    Subscribe(bool),
    Unsubscribe,
    Receive,
    ReceiveWaiting,
    /// Waits for room, or for an item, of a broadcast, or for something that never happens.
    WatchRoom,
    WatchItem,
}

/// The results of the operations, other than a value.
mod output {
    pub(super) const DONE: u64 = 0;
    pub(super) const FULL: u64 = 1 << 32;
    pub(super) const EMPTY: u64 = 2 << 32;
    pub(super) const CLOSED: u64 = 3 << 32;
    pub(super) const EXPELLED: u64 = 4 << 32;
    /// And how many.
    pub(super) const MISSED: u64 = 5 << 32;

    /// Some items of a batch, from `first` on.
    pub(super) fn items(first: u64, count: u32) -> u64 {
        first | u64::from(count) << 16
    }
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
        batch: 0,
        blocks: BlockConfig::default(),
        slow: SlowConfig::default(),
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
        blocks: blocks::Contents::default(),
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

    /// Settles what a participant has left, if it lived or is dead and not yet settled.
    fn settle(&self, id: usize) {
        let life = self.memory.record(id).life.load(Relaxed);
        if life & LIVES != 0 {
            self.memory.settle(id, life);
        }
    }

    /// Returns the values in a full entry. Those of a batch follow each other.
    fn left(&self, entry: u64) -> impl Iterator<Item = u64> {
        let slot = self.memory.slot_in(entry);
        let first = self.payloads[slot].load(Relaxed);
        let all = if self.memory.config.batch == 0 {
            0..1
        } else {
            u64::from(taken(entry))..u64::from(self.memory.batch_len(slot))
        };
        all.map(move |index| first + index)
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
            slots.push(memory.slot_in(entry));
            if entry & FULL != 0 {
                items.push((cycle(entry), at, entry));
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
        items.into_iter().flat_map(|(.., entry)| self.left(entry)).collect()
    }
}
