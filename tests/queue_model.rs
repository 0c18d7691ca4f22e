//! Queues of every kind do exactly what a plain model of them does, whatever their participants do
//! in turn, and whichever of them die: see `model`.

mod forked;
mod model;

use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::{Duration, Instant};
use std::{env, fs};

use crossproc::{JoinableQueue, Queue, QueueOptions, Shm, Task};
use forked::{fork, kill, wait_until};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// A strategy for programs: a setup, and steps.
fn programs() -> impl Strategy<Value = Vec<u8>> {
    let steps = prop::collection::vec(any::<[u8; 2]>(), 0..120);
    (any::<[u8; 3]>(), steps)
        .prop_map(|(setup, steps)| setup.into_iter().chain(steps.into_iter().flatten()).collect())
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn programs_do_what_the_model_does(program in programs()) {
        model::run(&program);
    }
}

/// Runs the programs that the fuzzer found worth keeping.
#[test]
fn programs_of_the_corpus_do_what_the_model_does() {
    let mut count = 0;
    for file in fs::read_dir("tests/corpus/queue_ops").unwrap() {
        model::run(&fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 10, "there are {count} programs");
}

/// Runs as many further programs as the time allows, if any is given: `ci/fuzz.sh` without a
/// fuzzer.
#[test]
fn programs_do_what_the_model_does_for_as_long_as_is_said() {
    let seconds =
        env::var("CROSSPROC_MODEL_SECONDS").ok().map_or(0, |seconds| seconds.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut count = 0;
    while Instant::now() < until {
        // Each run has a seed of its own.
        TestRunner::new(config(100))
            .run(&programs(), |program| {
                model::run(&program);
                Ok(())
            })
            .unwrap();
        count += 100;
    }
    println!("{count} programs in {seconds} s");
}

/// What one participant does alone, until it is killed. For each item the test knows when it was
/// put, and how often it can have been taken.
#[derive(Debug, Clone, Copy)]
enum Act {
    Put(u64),
    PutMany(u64, u64),
    Send(u64),
    Take,
    TakeMany,
    Finish,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => Just(Act::Put(0)),
        1 => (1..5_u64).prop_map(|count| Act::PutMany(0, count)),
        2 => Just(Act::Send(0)),
        3 => Just(Act::Take),
        1 => Just(Act::TakeMany),
        2 => Just(Act::Finish),
    ];
    prop::collection::vec(act, 1..40).prop_map(|mut acts| {
        let mut next = 1;
        for act in &mut acts {
            match act {
                Act::Put(first) | Act::Send(first) => {
                    *first = next;
                    next += 1;
                }
                Act::PutMany(first, count) => {
                    *first = next;
                    next += *count;
                }
                Act::Take | Act::TakeMany | Act::Finish => {}
            }
        }
        acts
    })
}

/// Returns what may be in a queue after these acts.
fn contents_after(acts: &[Act], capacity: usize) -> Vec<u64> {
    let mut items: Vec<u64> = Vec::new();
    for act in acts {
        let (first, count) = match *act {
            Act::Put(first) | Act::Send(first) => (first, 1),
            Act::PutMany(first, count) => (first, count),
            Act::Take => {
                items = items.split_off(items.len().min(1));
                continue;
            }
            Act::TakeMany => {
                items = items.split_off(items.len().min(3));
                continue;
            }
            Act::Finish => continue,
        };
        items.extend((first..first + count).take(capacity - items.len()));
    }
    items
}

/// Returns all possible contents of a queue whose last act may have been done only in part.
fn contents_in(acts: &[Act], capacity: usize) -> Vec<Vec<u64>> {
    let Some((last, before)) = acts.split_last() else { return vec![Vec::new()] };
    let after = |last: &[Act]| contents_after(&[before, last].concat(), capacity);
    match *last {
        Act::PutMany(first, count) => {
            (0..=count).map(|count| after(&[Act::PutMany(first, count)])).collect()
        }
        Act::TakeMany => (0..=3).map(|count| after(&vec![Act::Take; count])).collect(),
        last => vec![after(&[]), after(&[last])],
    }
}

fn act(queue: &Queue<u64>, act: Act) {
    match act {
        Act::Put(item) => _ = queue.try_put(item),
        Act::PutMany(first, count) => {
            _ = queue.try_put_many(&(first..first + count).collect::<Vec<_>>());
        }
        Act::Send(item) => {
            let mut loan = queue.loan().unwrap();
            *loan = item;
            _ = loan.try_send();
        }
        Act::Take => _ = queue.try_receive().map(|item| *item),
        Act::TakeMany => _ = queue.try_get_many(&mut Vec::new(), 3),
        Act::Finish => {}
    }
}

/// Runs a child, and kills it when its count has reached `kill_after`, or a little later. Returns
/// the count that it reached.
fn run_and_kill(kill_after: usize, body: impl FnOnce(&AtomicU64) + Send) -> usize {
    let done: Shm<AtomicU64> = Shm::new(AtomicU64::new(0)).unwrap();
    let theirs = done.clone();
    let child = fork(move || -> () {
        body(&theirs);
        loop {
            std::thread::park();
        }
    });
    wait_until("it has come so far", || done.load(SeqCst) >= kill_after as u64);
    kill(&child);
    done.load(SeqCst) as usize
}

fn act_on_task<'a>(
    queue: &'a JoinableQueue<u64>,
    in_hand: &mut Vec<Task<'a, u64>>,
    states: &[AtomicU64],
    act: Act,
) {
    match act {
        Act::Put(item) | Act::Send(item) | Act::PutMany(item, _) => {
            states[item as usize].store(1, SeqCst);
            states[item as usize].store(if queue.try_put(item).is_ok() { 2 } else { 0 }, SeqCst);
        }
        Act::Take | Act::TakeMany => in_hand.extend(queue.try_get().ok()),
        Act::Finish => {
            if let Some(task) = in_hand.pop() {
                let state = &states[*task as usize];
                state.store(3, SeqCst);
                task.done();
                state.store(4, SeqCst);
            }
        }
    }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn what_one_leaves_who_is_killed_is_what_it_has_done(
        acts in acts(), capacity in 1..=9_usize, at in any::<prop::sample::Index>()
    ) {
        let queue: Queue<u64> = QueueOptions::new().participants(1).create(capacity).unwrap();
        let done = run_and_kill(at.index(acts.len() + 1), |done| {
            for &one in &acts {
                act(&queue, one);
                done.fetch_add(1, SeqCst);
            }
        });
        let possible = contents_in(&acts[..acts.len().min(done + 1)], capacity);
        let finished = contents_after(&acts[..done], capacity);
        // There is room for one participant, so this one takes over what the dead one has left.
        let mut left = Vec::new();
        _ = queue.try_get_many(&mut left, capacity);
        prop_assert!(left == finished || possible.contains(&left), "{left:?} is left, not \
            {finished:?}, or one of {possible:?}");
        // No slot is lost, and none is in two places.
        for _ in 0..2 {
            let items: Vec<u64> = (1000..1000 + capacity as u64).collect();
            queue.try_put_many(&items).unwrap();
            prop_assert!(queue.try_put(1).is_err());
            left.clear();
            prop_assert_eq!(queue.try_get_many(&mut left, capacity + 1).unwrap(), capacity);
            prop_assert_eq!(&left, &items);
        }
    }

    /// Tasks that were taken and not finished are still there, none of them twice.
    #[test]
    fn no_task_of_one_who_is_killed_is_lost_or_doubled(
        acts in acts(), capacity in 1..=9_usize, at in any::<prop::sample::Index>()
    ) {
        let queue: JoinableQueue<u64> = QueueOptions::new()
            .participants(1)
            .loans(63)
            .create_joinable(capacity)
            .unwrap();
        // The state of each item: 1 if it is about to be put, 2 if it was put, 3 if it is about to
        // be finished, 4 if it is finished.
        let states: Shm<[AtomicU64]> = Shm::from_fn(200, |_| AtomicU64::new(0)).unwrap();
        run_and_kill(at.index(acts.len() + 1), |done| {
            let mut in_hand = Vec::new();
            for &one in &acts {
                act_on_task(&queue, &mut in_hand, &states, one);
                done.fetch_add(1, SeqCst);
            }
            // The child is to be killed with all of them in hand.
            std::mem::forget(in_hand);
        });
        while let Ok(task) = queue.try_get() {
            let state = &states[*task as usize];
            prop_assert!((1..=3).contains(&state.load(SeqCst)), "{} is {state:?}", *task);
            state.store(4, SeqCst);
            task.done();
        }
        queue.join_timeout(Duration::ZERO).unwrap();
        let lost = states.iter().position(|state| state.load(SeqCst) == 2);
        prop_assert_eq!(lost, None);
    }
}
