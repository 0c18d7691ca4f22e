//! Checks the results of an exploration's operations. A plain queue must return the same if the
//! operations run one after the other in some order.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};

use crossproc_sys::model::explorer::{End, Fate};

use super::{Me, Op, Part, Plot, Side, output};
use crate::explore;

/// What a thread has done: its operations with their results, and without a result those in which
/// it was killed.
type History = Vec<(Op, Option<u64>)>;

/// Makes a thread's history. A batch becomes one operation for each item.
fn history(ops: &[Op], outputs: &[u64], was_killed: bool) -> History {
    let mut history = Vec::new();
    for (index, &op) in ops.iter().enumerate().take(outputs.len() + usize::from(was_killed)) {
        let result = outputs.get(index).copied();
        let Op::PutTwoWaiting(value) = op else {
            history.push((op, result));
            continue;
        };
        // How many items were put, and why no more.
        let put = match result {
            None => 0,
            Some(output::DONE) => 2,
            Some(refused) => refused & u64::from(u32::MAX),
        };
        (0..put).for_each(|more| history.push((Op::Put(value + more), Some(output::DONE))));
        match result {
            None => history.extend([(Op::Put(value), None), (Op::Put(value + 1), None)]),
            Some(output::DONE) => {}
            Some(refused) => history.push((Op::Put(value + put), Some(refused - put))),
        }
    }
    history
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Queue {
    /// Each with whether it is the last of its batch.
    items: VecDeque<(u64, bool)>,
    is_closed: bool,
    /// Whether a getter was told that the queue is closed and empty.
    is_sealed: bool,
    next: Vec<usize>,
}

impl Queue {
    /// Gets at most so many items of the first batch. Returns how many.
    fn get(&mut self, most: u32) -> u32 {
        for count in 1..=most {
            if self.items.pop_front().is_some_and(|(_, is_last)| is_last) {
                return count;
            }
        }
        most
    }
}

/// Returns the items that a put puts.
fn batch(op: Op) -> impl Iterator<Item = (u64, bool)> {
    let (first, len) = match op {
        Op::Put(value) | Op::PutWaiting(value) => (value, 1),
        Op::PutBatch(value, len) | Op::PutBatchWaiting(value, len) => (value, u64::from(len)),
        _ => (0, 0),
    };
    (0..len).map(move |index| (first + index, index + 1 == len))
}

struct Search<'a> {
    histories: &'a [History],
    items: &'a [u64],
    capacity: usize,
    tried: HashSet<Queue>,
}

impl Search<'_> {
    /// Returns whether all remaining operations can be done from this queue on.
    fn finish(&mut self, queue: &Queue) -> bool {
        if !self.tried.insert(queue.clone()) {
            return false;
        }
        let is_over = self
            .histories
            .iter()
            .zip(&queue.next)
            .all(|(history, &next)| history[next..].iter().all(|(_, result)| result.is_none()));
        if is_over && queue.items.iter().map(|(value, _)| value).eq(self.items) {
            return true;
        }
        (0..self.histories.len()).any(|thread| {
            let Some(&(op, result)) = self.histories[thread].get(queue.next[thread]) else {
                return false;
            };
            let mut after = queue.clone();
            after.next[thread] += 1;
            self.happens(&mut after, op, result) && self.finish(&after)
        })
    }

    /// Does the operation. Returns whether it can have this result, if it has one.
    fn happens(&self, queue: &mut Queue, op: Op, result: Option<u64>) -> bool {
        let returned = match op {
            Op::Put(_) | Op::PutWaiting(_) | Op::PutBatch(..) | Op::PutBatchWaiting(..) => {
                // A put that was under way when the queue was closed may come after the close.
                let is_refused =
                    queue.is_sealed || (queue.is_closed && result == Some(output::CLOSED));
                if is_refused {
                    output::CLOSED
                } else if queue.items.iter().filter(|(_, is_last)| *is_last).count()
                    == self.capacity
                {
                    output::FULL
                } else {
                    queue.items.extend(batch(op));
                    output::DONE
                }
            }
            Op::Get | Op::GetWaiting | Op::GetBatched(_) | Op::GetBatchedWaiting(_) => {
                match queue.items.front() {
                    Some(&(first, _)) => match op {
                        Op::GetBatched(most) | Op::GetBatchedWaiting(most) => {
                            output::items(first, queue.get(most))
                        }
                        _ => {
                            queue.get(1);
                            first
                        }
                    },
                    None if queue.is_closed => {
                        queue.is_sealed = true;
                        output::CLOSED
                    }
                    None => output::EMPTY,
                }
            }
            Op::Close => {
                queue.is_closed = true;
                output::DONE
            }
            Op::Settle
            | Op::OnlySettle
            | Op::Bury
            | Op::Attach
            | Op::Loan
            | Op::Watch(_)
            | Op::WatchMore(_) => output::DONE,
            _ => panic!("{op:?} is not one operation of a plain queue"),
        };
        result.is_none_or(|result| result == returned)
    }
}

/// Explores the operations of `parts`. Asserts at each end that only threads that must wait sleep,
/// that each slot is in one place, and that a plain queue could have done the same.
pub(super) fn explore_parts<const N: usize>(name: &str, plot: Plot, parts: [Part; N], kills: u32) {
    let ids = parts.iter().any(|part| part.prepared.contains(&Op::Attach));
    let setup: fn(&Plot) = if ids { |plot| plot.memory.fill() } else { Plot::furnish };
    let memory = plot.memory;
    let mut exploration = explore::<Plot, Me>(name, plot);
    for (index, part) in parts.iter().enumerate() {
        exploration = exploration.thread(part.script(&memory, (index == 0).then_some(setup)));
    }
    let first: VecDeque<_> =
        parts.iter().flat_map(|part| &part.prepared).flat_map(|&op| batch(op)).collect();
    let parts = parts.map(|part| part.ops).to_vec();
    let known = RefCell::new(HashSet::new());
    let check = move |end: &mut End<'_, Plot, Me>| {
        let items = end.look(Plot::settled);
        let capacity = memory.config.capacity as usize;
        let of = |thread: usize| {
            history(&parts[thread], end.outputs(thread), end.fate(thread) == Fate::Killed)
        };
        let histories: Vec<_> = (0..end.threads()).map(of).collect();
        let mut is_closed = false;
        for (thread, ops) in parts.iter().enumerate() {
            is_closed |= ops.iter().zip(end.outputs(thread)).any(|(op, _)| *op == Op::Close);
        }
        for (thread, ops) in parts.iter().enumerate() {
            if end.fate(thread) == Fate::Asleep {
                let need = match ops[end.outputs(thread).len()] {
                    Op::GetWaiting
                    | Op::GetBatchedWaiting(_)
                    | Op::Watch(Side::Getters)
                    | Op::WatchMore(Side::Getters) => items.is_empty(),
                    // Of batches, there may be more items than that.
                    _ => items.len() >= capacity,
                };
                assert!(need && !is_closed, "thread {thread} sleeps, and {items:?} are there");
            }
        }
        if !known.borrow_mut().insert((histories.clone(), items.clone())) {
            return;
        }
        let queue = Queue {
            items: first.clone(),
            is_closed: false,
            is_sealed: false,
            next: vec![0; parts.len()],
        };
        let mut search =
            Search { histories: &histories, items: &items, capacity, tried: HashSet::new() };
        // A killed getter's item is gone, as if the getter had got it.
        assert!(search.finish(&queue), "no queue does that: {histories:?}, with {items:?} in it");
    };
    exploration.kills(kills).check(check).run();
}
