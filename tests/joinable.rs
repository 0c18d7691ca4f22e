//! `JoinableQueue`: tasks outlive their workers, and a join ends.

mod forked;

use core::time::Duration;

use crossproc::{JoinableByteQueue, JoinableQueue, QueueError, QueueOptions};

use forked::{fork, join_all, kill, wait_until_asleep};

#[test]
fn a_join_waits_for_the_last_task() {
    let tasks = JoinableQueue::<u64>::new(8).unwrap();
    tasks.join().unwrap();
    tasks.put(1).unwrap();
    assert!(matches!(tasks.join_timeout(Duration::ZERO), Err(QueueError::TimedOut)));
    let theirs = tasks.clone();
    let joiner = fork(move || theirs.join());
    wait_until_asleep(&joiner);
    let task = tasks.get().unwrap();
    assert!(matches!(tasks.join(), Err(QueueError::Deadlock)));
    assert_eq!((*task, task.attempts(), tasks.unfinished()), (1, 1, 1));
    assert!(joiner.is_alive().unwrap());
    task.done();
    join_all([joiner]);
}

#[test]
fn a_task_that_is_dropped_is_given_to_another_before_all_others() {
    let tasks = JoinableQueue::<u64>::new(8).unwrap();
    tasks.put_many(&[1, 2]).unwrap();
    drop(tasks.get().unwrap());
    let theirs = tasks.clone();
    join_all([fork(move || -> Result<(), QueueError> {
        let task = theirs.get()?;
        assert_eq!((*task, task.attempts()), (1, 2));
        task.done();
        Ok(())
    })]);
    let task = tasks.get().unwrap();
    assert_eq!((*task, task.attempts()), (2, 1));
    task.done();
    tasks.join().unwrap();
}

#[test]
fn a_killed_workers_tasks_go_to_one_who_sleeps_for_them() {
    let tasks = JoinableQueue::<u64>::new(8).unwrap();
    tasks.put_many(&[1, 2, 3]).unwrap();
    let holds = JoinableQueue::<u64>::new(8).unwrap();
    let (theirs, told) = (tasks.clone(), holds.clone());
    let clumsy = fork(move || -> () {
        let _all = [theirs.get().unwrap(), theirs.get().unwrap(), theirs.get().unwrap()];
        told.put(3).unwrap();
        std::thread::park();
    });
    holds.get().unwrap().done();
    let theirs = tasks.clone();
    let worker = fork(move || -> Result<(), QueueError> {
        for _ in 0..3 {
            theirs.get()?.done();
        }
        Ok(())
    });
    let theirs = tasks.clone();
    let joiner = fork(move || theirs.join());
    wait_until_asleep(&worker);
    wait_until_asleep(&joiner);
    kill(&clumsy);
    join_all([worker, joiner]);
    assert_eq!(tasks.unfinished(), 0);
}

#[test]
fn a_task_that_kills_its_workers_becomes_a_dead_letter() {
    let tasks: JoinableByteQueue = QueueOptions::new().attempts(3, 2).create_joinable_bytes(4, 16).unwrap();
    tasks.put(b"poison").unwrap();
    for attempt in 1..=3 {
        let theirs = tasks.clone();
        let worker = fork(move || -> () {
            let task = theirs.get().unwrap();
            assert_eq!(task.attempts(), attempt);
            std::process::abort();
        });
        assert!(!worker.join().unwrap().success());
    }
    // Whoever looks takes over what the dead have left.
    tasks.join().unwrap();
    assert_eq!(tasks.dead_letters(), 1);
    let letter = tasks.dead_letter().unwrap();
    assert_eq!((&letter[..], letter.attempts()), (&b"poison"[..], 3));
    drop(letter);
    assert!(matches!(tasks.dead_letter(), Err(QueueError::Empty)));
}

#[test]
fn a_closed_queue_gives_out_tasks_until_all_are_finished() {
    let tasks = JoinableQueue::<u64>::new(4).unwrap();
    tasks.put(1).unwrap();
    let task = tasks.get().unwrap();
    tasks.close().unwrap();
    let theirs = tasks.clone();
    let worker = fork(move || -> Result<(), QueueError> {
        theirs.get()?.done();
        assert!(matches!(theirs.get(), Err(QueueError::Closed)));
        Ok(())
    });
    let theirs = tasks.clone();
    let idle = fork(move || -> () {
        while theirs.get().is_ok() {}
    });
    wait_until_asleep(&worker);
    wait_until_asleep(&idle);
    kill(&idle);
    drop(task);
    join_all([worker]);
}
