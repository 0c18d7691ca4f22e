//! What becomes of tasks is told: a dead letter, and that all are done.

use std::num::NonZeroU32;

use crossproc::{
    Event, JoinableQueue, QueueError, QueueOptions, Shm, WaitAnyError, try_wait_any, wait_any,
    wait_any_timeout,
};

use crate::forked::{PATIENCE, fork, join_all, kill};
use crate::wakes;

/// Returns a queue whose tasks have one attempt, with room for so many dead letters.
pub(crate) fn with_letters(letters: usize) -> JoinableQueue<u64> {
    let options = QueueOptions::new().attempts(NonZeroU32::new(1), letters);
    options.create_joinable(4).unwrap()
}

fn is_ready(tasks: &JoinableQueue<u64>) -> [bool; 2] {
    [try_wait_any(&[&tasks.all_done()]).is_ok(), try_wait_any(&[&tasks.next_dead_letter()]).is_ok()]
}

/// Forks a worker that takes a task, and drops it, or does it, when it is told.
fn worker(
    tasks: &JoinableQueue<u64>,
    is_done: bool,
) -> (crossproc::process::Child, Shm<[Event; 2]>) {
    let events = Shm::new([Event::new(), Event::new()]).unwrap();
    let (theirs, tasks) = (events.clone(), tasks.clone());
    let child = fork(move || {
        let task = tasks.get().unwrap();
        theirs[0].set();
        theirs[1].wait();
        if is_done {
            task.done();
        }
    });
    events[0].wait_timeout(PATIENCE).unwrap();
    (child, events)
}

#[test]
fn a_dead_letter_is_told_whether_its_worker_gives_it_back_or_dies() {
    for dies in [false, true] {
        let tasks = with_letters(2);
        tasks.put(7).unwrap();
        let (child, events) = worker(&tasks, false);
        let take = || {
            let ready = wait_any(&[&events[0], &tasks.next_dead_letter()]).unwrap();
            assert_eq!(*tasks.dead_letter().unwrap(), 7);
            ready
        };
        events[0].clear();
        wakes(take, || if dies { kill(&child) } else { events[1].set() }, &[1]);
        assert_eq!(is_ready(&tasks), [true, false]);
        assert!(dies || child.join().unwrap().success());
    }
}

#[test]
fn it_is_told_when_all_is_done() {
    let tasks = with_letters(2);
    assert_eq!(is_ready(&tasks), [true, false]);
    tasks.put_many(&[1, 2, 3]).unwrap();
    let (one, go) = worker(&tasks, true);
    let (other, _) = worker(&tasks, true);
    let waits = || {
        let ready = wait_any(&[&tasks.all_done()]).unwrap();
        tasks.join_timeout(std::time::Duration::ZERO).unwrap();
        ready
    };
    let make_done = || {
        tasks.get().unwrap().done();
        assert_eq!(is_ready(&tasks), [false, false]);
        go[1].set();
        join_all([one]);
        assert_eq!(is_ready(&tasks), [false, false]);
        // Its task becomes a letter, which nobody has to wait for.
        kill(&other);
    };
    wakes(waits, make_done, &[0]);
    assert_eq!(is_ready(&tasks), [true, true]);
}

#[test]
fn a_task_for_which_there_is_no_room_among_the_letters_is_not_done() {
    let tasks = with_letters(1);
    tasks.put_many(&[1, 2]).unwrap();
    drop(tasks.get().unwrap());
    drop(tasks.get().unwrap());
    assert_eq!(is_ready(&tasks), [false, true]);
    let waits = || wait_any(&[&tasks.all_done()]).unwrap();
    wakes(waits, || assert_eq!(*tasks.dead_letter().unwrap(), 1), &[0]);
    assert_eq!(is_ready(&tasks), [true, true]);
    assert_eq!(*tasks.dead_letter().unwrap(), 2);
    assert_eq!(is_ready(&tasks), [true, false]);
}

#[test]
fn one_with_a_task_in_hand_does_not_wait_until_all_is_done() {
    let (event, tasks) = (Event::new(), with_letters(1));
    tasks.put(1).unwrap();
    let task = tasks.get().unwrap();
    let refused = wait_any(&[&event, &tasks.all_done()]);
    assert!(matches!(refused, Err(WaitAnyError::Queue { index: 1, source: QueueError::Deadlock })));
    task.done();
    assert_eq!(wait_any(&[&event, &tasks.all_done()]).unwrap(), [1]);
}

#[test]
fn a_queue_without_letters_never_has_one() {
    let tasks: JoinableQueue<u64> = JoinableQueue::new(1).unwrap();
    tasks.put(1).unwrap();
    drop(tasks.get().unwrap());
    let waited =
        wait_any_timeout(&[&tasks.next_dead_letter()], std::time::Duration::from_millis(10));
    assert!(matches!(waited, Err(WaitAnyError::TimedOut)));
}

/// Nobody sleeps when the worker dies.
#[test]
fn what_a_dead_worker_has_left_is_told_without_a_wait() {
    for letter_first in [false, true] {
        let tasks = with_letters(1);
        tasks.put(7).unwrap();
        let (child, _) = worker(&tasks, false);
        kill(&child);
        if letter_first {
            assert_eq!(try_wait_any(&[&tasks.next_dead_letter()]).unwrap(), [0]);
        }
        assert_eq!(is_ready(&tasks), [true, true]);
        assert_eq!(*tasks.dead_letter().unwrap(), 7);
        assert_eq!(is_ready(&tasks), [true, false]);
    }
}

#[test]
fn one_that_never_sleeps_finds_the_task_of_a_dead_worker() {
    let tasks = JoinableQueue::<u64>::new(4).unwrap();
    tasks.put(7).unwrap();
    let (child, _) = worker(&tasks, false);
    assert!(matches!(try_wait_any(&[&tasks]), Err(WaitAnyError::WouldBlock)));
    kill(&child);
    assert_eq!(try_wait_any(&[&tasks]).unwrap(), [0]);
    assert_eq!(*tasks.try_get().unwrap(), 7);
}
