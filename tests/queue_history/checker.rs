//! Histories for the checker, and the plain queue that it compares them with.

use std::collections::{BTreeMap, VecDeque};

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::Entry;

/// A plain bounded queue.
#[derive(Clone)]
struct Plain {
    capacity: usize,
    items: VecDeque<u64>,
    /// How many steps of each `put_many` and `get_many` have been done.
    done: BTreeMap<usize, usize>,
}

/// One step of a call: which call, and which of its steps.
#[derive(Clone, Copy, Debug)]
struct Step {
    call: usize,
    index: usize,
    /// The item of a put.
    item: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Result {
    Put,
    Full,
    Got(u64),
    Empty,
    OutOfTurn,
}

impl SequentialSpec for Plain {
    type Op = Step;
    type Ret = Result;

    fn invoke(&mut self, step: &Step) -> Result {
        let done = self.done.entry(step.call).or_default();
        if *done != step.index {
            return Result::OutOfTurn;
        }
        let result = match step.item {
            Some(_) if self.items.len() == self.capacity => Result::Full,
            Some(item) => {
                self.items.push_back(item);
                Result::Put
            }
            None => self.items.pop_front().map_or(Result::Empty, Result::Got),
        };
        if matches!(result, Result::Put | Result::Got(_)) {
            *done += 1;
        }
        result
    }
}

/// An event for the checker: a process called a step, or a step returned.
type Event = (u64, (usize, usize), std::result::Result<Step, Result>);

fn events_of(number: usize, entry: &Entry) -> Vec<Event> {
    let step = |index| {
        let item = entry.call.is_put().then_some(entry.call.first + index as u64);
        (entry.called, (entry.process, index), Ok(Step { call: number, index, item }))
    };
    let Some((until, outcome)) = &entry.returned else {
        return (0..entry.call.count as usize).map(step).collect();
    };
    let succeeded = outcome
        .items
        .iter()
        .map(|&item| if entry.call.is_put() { Result::Put } else { Result::Got(item) });
    let refused = outcome.is_refused.then_some(if entry.call.is_put() {
        Result::Full
    } else {
        Result::Empty
    });
    let results = succeeded.chain(refused).enumerate();
    results
        .flat_map(|(index, result)| [step(index), (*until, (entry.process, index), Err(result))])
        .collect()
}

pub(super) fn check(capacity: usize, history: &[Entry]) {
    let mut events: Vec<Event> =
        history.iter().enumerate().flat_map(|(number, entry)| events_of(number, entry)).collect();
    // At equal times calls come first, so that they overlap with the operations that return.
    events.sort_by_key(|&(time, _, what)| (time, what.is_err()));
    let mut tester = LinearizabilityTester::new(Plain {
        capacity,
        items: VecDeque::new(),
        done: BTreeMap::new(),
    });
    for (_, thread, what) in events {
        match what {
            Ok(step) => tester.on_invoke(thread, step).map(|_| ()),
            Err(result) => tester.on_return(thread, result).map(|_| ()),
        }
        .unwrap();
    }
    if !tester.is_consistent() {
        let mut history: Vec<&Entry> = history.iter().collect();
        history.sort_by_key(|entry| entry.called);
        let lines: Vec<String> = history.iter().map(|entry| format!("{entry:?}\n")).collect();
        panic!(
            "no order of these explains what came of them, with room for {capacity}:\n{}",
            lines.concat()
        );
    }
}
