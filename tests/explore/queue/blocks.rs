//! Blocks: none is lost or in two hands, and all together have no more pages than they may.

use std::io;

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::model::explorer::{End, Fate};

use super::Op::{
    Attach, Bury, GetLong, Grow, Hold, HoldWaiting, PutLong, Release, Trim, WatchMemory,
};
use super::operations::{failed, list};
use super::{Me, Op, Part, Plot, config, output, part, plot};
use crate::explore;
use crate::ring::blocks::slot_of;
use crate::ring::budget::{NoBlock, Pages, sum, units};
use crate::ring::layout::{BlockConfig, Config};
use crate::ring::words::{FULL, index, is_over};
use crate::wait::{Wait, Waiter};

const PAGE: u64 = 4_096;
/// The most units of a message.
const LONGEST: u64 = 2;
/// The bits of one block in [`Contents::pages`].
const BITS: usize = 8;

/// What is in the blocks, and the pages that they have.
#[derive(Default)]
pub(super) struct Contents {
    values: [AtomicU64; 3],
    /// How many units of each block have pages. One word, so that the sum can be read.
    pages: AtomicU64,
    /// The most that there may be.
    most: u64,
    /// Where the blocks begin.
    start: usize,
}

impl Contents {
    fn block(&self, offset: usize) -> usize {
        (offset - self.start) / (LONGEST * PAGE) as usize
    }
}

impl Pages for Contents {
    fn allocate(&self, offset: usize, len: usize) -> io::Result<()> {
        if offset < self.start {
            // The record of a block.
            return Ok(());
        }
        let at = BITS * self.block(offset);
        // Only the block's owner changes its part.
        let before = self.pages.load(Relaxed) >> at & ((1 << BITS) - 1);
        let end = (offset - self.start) as u64 / PAGE % LONGEST + len as u64 / PAGE;
        let more = end.saturating_sub(before) << at;
        let now = (self.pages.fetch_add(more, Relaxed) + more).to_le_bytes();
        assert!(now.iter().map(|&units| u64::from(units)).sum::<u64>() <= self.most, "{now:?}");
        Ok(())
    }

    fn free(&self, offset: usize, len: usize) -> io::Result<()> {
        let at = BITS * self.block(offset);
        let before = self.pages.load(Relaxed) >> at & ((1 << BITS) - 1);
        let kept = (offset - self.start) as u64 / PAGE % LONGEST;
        assert!(kept + len as u64 / PAGE <= LONGEST, "pages of the next block");
        let fewer = before.saturating_sub(kept) << at;
        self.pages.fetch_add(fewer.wrapping_neg(), Relaxed);
        Ok(())
    }
}

fn refused(no_block: NoBlock) -> u64 {
    match no_block {
        NoBlock::Failure(failure) => failed(failure),
        NoBlock::NoMemory(error) => panic!("{error}"),
    }
}

impl Plot {
    pub(super) fn use_blocks(&self, Me(participant): &Me, op: Op) -> u64 {
        let Plot { memory, blocks, .. } = self;
        let place = memory.free_place(participant);
        let block = || participant.block(place).get() as usize - 1;
        let take = |units| memory.take_block(participant, place, units, blocks, None);
        list().begin(&memory.control().roster.0);
        let result = match op {
            Op::Hold(units) => take(units).map_or_else(refused, |()| output::DONE),
            Op::HoldWaiting(units) => {
                list().end();
                let waiter = &mut Waiter::new(Wait::FOREVER);
                return memory
                    .wait_for_block(list(), participant, place, units, blocks, waiter)
                    .map_or_else(refused, |()| output::DONE);
            }
            Op::Release => {
                memory.release_block(participant, place);
                output::DONE
            }
            Op::PutLong(value, units) => match take(units) {
                Ok(()) => {
                    blocks.values[block()].store(value, Relaxed);
                    match self.ring().put(participant, place) {
                        Ok(_) => {
                            participant.block(place).set(0);
                            output::DONE
                        }
                        Err(reason) => {
                            memory.release_block(participant, place);
                            super::operations::refused(reason)
                        }
                    }
                }
                Err(no_block) => refused(no_block),
            },
            Op::GetLong => match self.ring().get(participant, place, 0) {
                Ok(_) => {
                    let slot = memory.slot(participant, place).unwrap();
                    let block = memory.find_message(participant, place, slot).unwrap().unwrap();
                    let value = blocks.values[block].load(Relaxed);
                    memory.release_block(participant, place);
                    value
                }
                Err(reason) => super::operations::refused(reason),
            },
            Op::Grow(units) => {
                let is_enough = memory.fit(block(), units, blocks, None, || Ok(false)).unwrap();
                if is_enough { output::DONE } else { output::FULL }
            }
            Op::Trim => memory.trim(participant, blocks).map_or_else(refused, |()| output::DONE),
            op => panic!("{op:?} uses no blocks"),
        };
        list().end();
        result
    }

    /// Returns the slots of full entries, and of the places of each id that was used.
    fn slots(&self) -> (Vec<usize>, Vec<Vec<usize>>) {
        let Plot { memory, .. } = self;
        let entries = (0..memory.config.entries()).map(|at| memory.entry(at).load(Relaxed));
        let full = entries.filter(|entry| entry & FULL != 0).map(|entry| memory.slot_in(entry));
        let places = |id| {
            let words = (0..memory.config.places as usize)
                .map(move |place| memory.place(id, place).load(Relaxed));
            words.filter(|&word| word != 0).map(index).collect()
        };
        (full.collect(), (0..memory.used()).map(places).collect())
    }

    /// Asserts that the blocks are those of messages, and of the participants that may have some.
    /// Returns the values of the messages.
    fn check_blocks(&self, may_have: impl Fn(usize) -> bool) -> Vec<u64> {
        let Plot { memory, blocks, .. } = self;
        let (full, places) = self.slots();
        let used = memory.block_control().used.load(Relaxed) as usize;
        let mut counted = 0;
        let mut values = Vec::new();
        for block in 0..used {
            let (budget, kept) = memory.settled_kept(block).unwrap();
            counted += units(kept);
            let record = memory.block(block);
            let pages = blocks.pages.load(Relaxed).to_le_bytes()[block];
            assert!(u32::from(pages) <= units(kept), "pages that are not counted");
            assert!(record.allocated.load(Relaxed) <= u64::from(pages), "{pages} pages");
            if block + 1 == used {
                assert_eq!(counted, sum(budget), "the sum is another one");
            }
            let Some(slot) = slot_of(record.owner.load(Relaxed)) else { continue };
            if full.contains(&slot) {
                assert_eq!(memory.note(slot).load(Relaxed), block as u32 + 1);
                values.push(blocks.values[block].load(Relaxed));
                continue;
            }
            let id = places.iter().position(|slots| slots.contains(&slot));
            assert!(id.is_some_and(&may_have), "block {block} is lost: {id:?} has slot {slot}");
        }
        assert_eq!(values.len(), full.len(), "a message has no block");
        values
    }
}

/// Makes a queue for so many messages, with `most` blocks that have `units` altogether.
fn queue(capacity: u32, ids: u32, most: u32, units: u32) -> Config {
    let blocks = BlockConfig { most, longest: LONGEST * PAGE, unit: PAGE, units };
    Config { align: 1, blocks, ..config(capacity, ids) }
}

/// Explores the operations of `parts`. Asserts at each end that no block is lost, that only threads
/// that must wait sleep, and that each value that was put is there, or was got once.
fn explore_blocks<const N: usize>(
    name: &str,
    config: Config,
    parts: [Part; N],
    [kills, stops]: [u32; 2],
) {
    let mut plot = plot(config);
    plot.blocks.most = config.blocks.units.into();
    plot.blocks.start = plot.memory.offsets.block_pages;
    let memory = plot.memory;
    let ids = parts.iter().any(|part| part.prepared.contains(&Attach));
    let setup: fn(&Plot) = if ids { |plot| plot.memory.fill() } else { Plot::furnish };
    let mut exploration = explore::<Plot, Me>(name, plot).solo(300);
    for (number, part) in parts.iter().enumerate() {
        exploration = exploration.thread(part.script(&memory, (number == 0).then_some(setup)));
    }
    let check = move |end: &mut End<'_, Plot, Me>| {
        end.look(Plot::settled);
        let fates: Vec<Fate> = (0..parts.len()).map(|thread| end.fate(thread)).collect();
        let may_have = |id: usize| {
            let is_over = is_over(memory.record(id).life.load(Relaxed));
            let is_dead = |thread: usize| fates[thread] == Fate::Killed && !is_over;
            let still_has = |thread: usize| {
                matches!(fates[thread], Fate::Stopped | Fate::Asleep)
                    || matches!(parts[thread].ops.last(), Some(Grow(_) | HoldWaiting(_)))
            };
            (0..parts.len())
                .any(|thread| parts[thread].id == id && (is_dead(thread) || still_has(thread)))
        };
        let mut left = end.look(|plot| plot.check_blocks(may_have));
        let mut put = Vec::new();
        for (thread, part) in parts.iter().enumerate() {
            let outputs = end.outputs(thread);
            for (op, &output) in part.ops.iter().zip(outputs) {
                match op {
                    GetLong if output < output::FULL => left.push(output),
                    PutLong(value, _) if output == output::DONE => put.push(*value),
                    _ => {}
                }
            }
            if let Some(op) = part.ops.get(outputs.len()).filter(|_| fates[thread] == Fate::Asleep)
            {
                let (HoldWaiting(units) | WatchMemory(units)) = *op else {
                    panic!("{op:?} does not sleep")
                };
                assert!(!memory.has_memory(units), "thread {thread} sleeps, and there is memory");
            }
        }
        left.sort_unstable();
        left.dedup();
        let is_there = |value: &u64| left.contains(value);
        let was_killed = fates.contains(&Fate::Killed) || fates.contains(&Fate::Stopped);
        assert!(
            was_killed || put.iter().all(is_there),
            "{put:?} were put, and {left:?} got or left"
        );
    };
    exploration.kills(kills).stops(stops).check(check).run();
}

#[test]
fn a_block_goes_with_its_message() {
    let parts = [part(0, [PutLong(1, 1), PutLong(2, 2)]), part(1, [GetLong, GetLong])];
    explore_blocks("queue: a_block_goes_with_its_message", queue(2, 2, 2, 3), parts, [0, 0]);
}

#[test]
fn blocks_are_released_by_whoever_buries() {
    let parts = [
        part(0, [PutLong(1, 1), GetLong]).prepared([Attach]).killable(),
        part(1, [Hold(2), Release]).prepared([Attach]),
        part(1, [Bury]).after(0),
    ];
    explore_blocks(
        "queue: blocks_are_released_by_whoever_buries",
        queue(1, 2, 2, 3),
        parts,
        [1, 0],
    );
}

#[test]
fn a_late_burier_takes_no_block_of_the_living() {
    let parts = [
        part(0, [Hold(1), Release]).prepared([Attach]).killable(),
        part(1, [Bury]).after(0),
        part(0, [Attach, PutLong(1, 1), GetLong]).after(0),
    ];
    explore_blocks(
        "queue: a_late_burier_takes_no_block_of_the_living",
        queue(1, 1, 1, 2),
        parts,
        [1, 0],
    );
}

#[test]
fn a_change_of_the_budget_is_completed_by_others() {
    let parts = [part(0, [Hold(1), Release, Trim]).killable(), part(1, [Hold(2), Release])];
    explore_blocks(
        "queue: a_change_of_the_budget_is_completed_by_others",
        queue(1, 2, 2, 3),
        parts,
        [1, 0],
    );
}

/// The units are enough for two of the three.
#[test]
fn changes_of_three_add_up() {
    let grower = |id| part(id, [Grow(2)]).prepared([Hold(1)]);
    let parts = [grower(0).killable(), grower(1).stoppable(), grower(2)];
    explore_blocks("queue: changes_of_three_add_up", queue(1, 3, 3, 5), parts, [1, 1]);
}

#[test]
fn a_stopped_one_keeps_no_more_than_it_has() {
    let parts =
        [part(0, [Hold(1), Release]).stoppable(), part(1, [Hold(1), Release, Hold(2), Release])];
    explore_blocks(
        "queue: a_stopped_one_keeps_no_more_than_it_has",
        queue(1, 2, 3, 4),
        parts,
        [0, 1],
    );
}

/// Each of two blocks keeps a unit, or is about to. Both participants need the two in one block.
#[test]
fn what_free_blocks_keep_is_reclaimed() {
    let parts = [
        part(0, [Release, Hold(2), Release]).prepared([Hold(1)]),
        part(1, [Hold(2), Release]).prepared([Hold(1), Release]),
    ];
    explore_blocks("queue: what_free_blocks_keep_is_reclaimed", queue(1, 2, 2, 2), parts, [0, 0]);
}

#[test]
fn what_a_dead_ones_blocks_keep_is_reclaimed() {
    let parts = [
        part(0, [Release, Trim]).prepared([Attach, Hold(1)]).killable(),
        part(1, [Hold(2), Release]).prepared([Attach, Hold(1), Release]),
        part(1, [Bury, Hold(2), Release]).after(0),
    ];
    explore_blocks(
        "queue: what_a_dead_ones_blocks_keep_is_reclaimed",
        queue(1, 2, 2, 2),
        parts,
        [1, 0],
    );
}

#[test]
fn a_release_wakes_whoever_waits_for_memory() {
    let parts = [
        part(0, [Release]).prepared([Hold(1)]),
        part(1, [HoldWaiting(2), Release]),
        part(2, [HoldWaiting(1), Release]),
    ];
    explore_blocks(
        "queue: a_release_wakes_whoever_waits_for_memory",
        queue(1, 3, 2, 2),
        parts,
        [0, 0],
    );
}

/// A free block keeps both units. A participant that takes it needs one of them.
#[test]
fn a_block_that_keeps_less_wakes_whoever_waits() {
    let parts = [part(0, [HoldWaiting(1)]).prepared([Hold(2), Release]), part(1, [HoldWaiting(1)])];
    explore_blocks(
        "queue: a_block_that_keeps_less_wakes_whoever_waits",
        queue(1, 2, 2, 2),
        parts,
        [0, 0],
    );
}

#[test]
fn a_death_wakes_whoever_waits_for_memory() {
    let parts = [
        part(0, [Hold(2), Release]).prepared([Attach]).killable(),
        part(1, [HoldWaiting(1), Release]).prepared([Attach]),
    ];
    explore_blocks(
        "queue: a_death_wakes_whoever_waits_for_memory",
        queue(1, 2, 2, 2),
        parts,
        [1, 0],
    );
}

#[test]
fn a_burier_that_is_stopped_keeps_the_memory_from_nobody() {
    let parts = [
        part(0, [Hold(2), Release]).prepared([Attach]).killable(),
        part(0, [Bury]).after(0).stoppable(),
        part(1, [HoldWaiting(1), Release]).prepared([Attach]),
    ];
    explore_blocks(
        "queue: a_burier_that_is_stopped_keeps_the_memory_from_nobody",
        queue(1, 2, 1, 2),
        parts,
        [1, 1],
    );
}

#[test]
fn a_watcher_is_woken_by_a_release_or_a_death() {
    let parts = [
        part(0, [Release]).prepared([Attach, Hold(2)]).killable(),
        part(1, [WatchMemory(1)]).prepared([Attach]),
    ];
    explore_blocks(
        "queue: a_watcher_is_woken_by_a_release_or_a_death",
        queue(1, 2, 1, 2),
        parts,
        [1, 0],
    );
}

/// The watcher takes nothing, and others are woken, too.
#[test]
fn a_watcher_takes_no_wake_up_from_others() {
    let parts = [
        part(0, [Release]).prepared([Hold(2)]),
        part(1, [WatchMemory(1)]),
        part(2, [HoldWaiting(2), Release]),
    ];
    explore_blocks(
        "queue: a_watcher_takes_no_wake_up_from_others",
        queue(1, 3, 1, 2),
        parts,
        [0, 0],
    );
}
