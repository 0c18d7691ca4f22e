//! Blocks: what their owners write, and the sum of their units.

use std::io;
use std::sync::Arc;

use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::participant;

use super::{BlockConfig, Config, Plot, SlowConfig, me, plot_of};
use crate::ring::budget::{NoBlock, Pages, sum, units};
use crate::ring::participant::Participant;
use crate::ring::refused::Refused;
use crate::ring::waiting::Failure;
use crate::wait::{Wait, Waiter};
use crate::{Watched, join, model, sampled_kill_model, share, spawn};

const PAGE: u64 = 4_096;

/// A queue with blocks, and their contents.
#[derive(Debug)]
struct Blocks {
    plot: Plot,
    contents: Vec<Watched>,
}

struct AnyPages;

impl Pages for AnyPages {
    fn allocate(&self, _: usize, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn free(&self, _: usize, _: usize) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a queue with so many blocks, which have so many units altogether.
fn blocks(ids: u32, most: u32, units: u32) -> Blocks {
    let config = Config {
        capacity: 1,
        letters: 0,
        ids,
        places: 2,
        attempts: 0,
        is_joinable: false,
        size: 8,
        align: 1,
        batch: 0,
        blocks: BlockConfig { most, longest: PAGE * u64::from(units.min(2)), unit: PAGE, units },
        slow: SlowConfig::default(),
    };
    let contents = (0..most).map(|_| Watched::default()).collect();
    Blocks { plot: plot_of(config), contents }
}

/// The same, with all its participants. They need no token: none dies.
fn furnished(ids: u32, most: u32, units: u32) -> Arc<Blocks> {
    let blocks = blocks(ids, most, units);
    blocks.plot.furnish();
    share(blocks)
}

fn is_refused<T>(taken: &Result<T, NoBlock>, reason: Refused) -> bool {
    matches!(taken, Err(NoBlock::Failure(Failure::Refused(found))) if *found == reason)
}

impl Blocks {
    /// Takes a block, and adds one to what is in it. Returns whether there was one.
    fn take(&self, participant: &Participant, units: u32) -> bool {
        let memory = &self.plot.memory;
        let place = memory.free_place(participant);
        me().begin(&memory.control().roster.0);
        let taken = memory.take_block(participant, place, units, &AnyPages, None);
        me().end();
        if is_refused(&taken, Refused::Full) {
            return false;
        }
        taken.unwrap();
        self.contents[participant.block(place).get() as usize - 1].add(1);
        true
    }

    fn take_waiting(&self, participant: &Participant, units: u32) -> Result<(), NoBlock> {
        let memory = &self.plot.memory;
        let place = memory.free_place(participant);
        let waiter = &mut Waiter::new(Wait::FOREVER);
        memory.wait_for_block(me(), participant, place, units, &AnyPages, waiter)
    }

    fn release(&self, participant: &Participant) {
        let memory = &self.plot.memory;
        me().begin(&memory.control().roster.0);
        memory.release_block(participant, memory.free_place(participant));
        me().end();
    }

    /// Asserts that what is counted for all blocks is what is counted for each.
    fn assert_counted(&self) {
        let memory = &self.plot.memory;
        let used = memory.block_control().used.load(Relaxed) as usize;
        let (budget, _) = memory.settled_kept(0).unwrap();
        let kept = |block| units(memory.settled_kept(block).unwrap().1);
        assert_eq!(sum(budget), (0..used).map(kept).sum::<u32>());
    }
}

#[test]
fn an_owner_of_a_block_sees_what_the_last_one_wrote() {
    model("queue: an_owner_of_a_block_sees_what_the_last_one_wrote", Look, Some(2), || {
        let blocks = furnished(2, 1, 1);
        let take = |blocks: &Blocks, id| {
            let me = blocks.plot.participant(id);
            if blocks.take(&me, 1) {
                blocks.release(&me);
            }
        };
        let other = spawn(1, None, &blocks, move |blocks| take(blocks, 0));
        participant(2, None, || take(&blocks, 1));
        join(other);
        blocks.assert_counted();
    });
}

/// One of the two may complete the other's change.
#[test]
fn changes_of_the_budget_add_up() {
    model("queue: changes_of_the_budget_add_up", Look, Some(2), || {
        let blocks = furnished(2, 2, 3);
        let other = spawn(1, None, &blocks, |blocks| {
            assert!(blocks.take(&blocks.plot.participant(0), 1), "there are three");
        });
        participant(2, None, || {
            assert!(blocks.take(&blocks.plot.participant(1), 2), "there are three");
        });
        join(other);
        blocks.assert_counted();
    });
}

/// One takes the units that the other one's block keeps, or the block.
#[test]
fn what_a_free_block_keeps_is_counted_once() {
    model("queue: what_a_free_block_keeps_is_counted_once", Look, Some(2), || {
        let blocks = furnished(2, 2, 2);
        let take = |blocks: &Blocks, id, units| {
            let me = blocks.plot.participant(id);
            if blocks.take(&me, units) {
                blocks.release(&me);
            }
        };
        let other = spawn(1, None, &blocks, move |blocks| take(blocks, 0, 1));
        participant(2, None, || take(&blocks, 1, 2));
        join(other);
        blocks.assert_counted();
    });
}

/// One completes the other's first change when that is about to make its second one, for which
/// nothing may be left.
#[test]
fn a_helper_that_is_late_changes_nothing() {
    model("queue: a_helper_that_is_late_changes_nothing", Look, Some(2), || {
        let blocks = furnished(2, 2, 2);
        let other = spawn(1, None, &blocks, |blocks| {
            let me = blocks.plot.participant(0);
            if blocks.take(&me, 1) {
                blocks.release(&me);
                blocks.take(&me, 2);
            }
        });
        participant(2, None, || _ = blocks.take(&blocks.plot.participant(1), 1));
        join(other);
        blocks.assert_counted();
    });
}

#[test]
fn a_waiter_is_woken_by_a_release() {
    model("queue: a_waiter_is_woken_by_a_release", Sleep, Some(2), || {
        let blocks = furnished(2, 1, 1);
        let holder = blocks.plot.participant(1);
        participant(2, None, || assert!(blocks.take(&holder, 1)));
        let waiter = spawn(1, None, &blocks, |blocks| {
            blocks.take_waiting(&blocks.plot.participant(0), 1).unwrap();
        });
        participant(2, None, || blocks.release(&holder));
        join(waiter);
    });
}

#[test]
fn a_closed_queue_keeps_nobody_waiting_for_memory() {
    model("queue: a_closed_queue_keeps_nobody_waiting_for_memory", Sleep, Some(2), || {
        let blocks = furnished(2, 1, 1);
        let holder = blocks.plot.participant(1);
        participant(2, None, || assert!(blocks.take(&holder, 1)));
        let waiter = spawn(1, None, &blocks, |blocks| {
            let taken = blocks.take_waiting(&blocks.plot.participant(0), 1);
            assert!(is_refused(&taken, Refused::Closed));
        });
        participant(2, None, || blocks.plot.memory.close(me()));
        join(waiter);
    });
}

#[test]
fn a_holder_that_is_killed_leaves_its_memory() {
    sampled_kill_model(
        "queue: a_holder_that_is_killed_leaves_its_memory",
        Some(1),
        21,
        |killed_at| {
            let blocks = share(blocks(2, 1, 2));
            let attach = |plot: &Plot| plot.memory.attach(me(), false, |_| Ok(())).unwrap();
            let waiter = spawn(1, None, &blocks, move |blocks| {
                let me = attach(&blocks.plot);
                blocks.take_waiting(&me, 1).unwrap();
                blocks.release(&me);
            });
            let holder = spawn(2, Some(killed_at), &blocks, move |blocks| {
                let me = attach(&blocks.plot);
                blocks.take_waiting(&me, 2).unwrap();
                blocks.release(&me);
            });
            join(waiter);
            let end = join(holder);
            blocks.assert_counted();
            end
        },
    );
}
