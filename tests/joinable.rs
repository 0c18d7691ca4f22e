//! `JoinableQueue`: tasks outlive their workers, and a join ends.

mod forked;

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use core::time::Duration;
use std::time::Instant;

use crossproc::{
    JoinableByteQueue, JoinableQueue, QueueError, QueueOptions, WaitAnyError, try_wait_any,
    wait_any,
};

use forked::{PATIENCE, fork, join_all, kill, wait_until_asleep};

#[test]
fn a_join_waits_for_the_last_task() {
    let tasks = JoinableQueue::<u64>::new(8).unwrap();
    tasks.join().unwrap();
    tasks.put(1).unwrap();
    assert!(matches!(tasks.join_timeout(Duration::ZERO), Err(QueueError::TimedOut)));
    let (began, brief) = (Instant::now(), Duration::from_millis(30));
    assert!(matches!(tasks.join_deadline(began), Err(QueueError::TimedOut)));
    assert!(matches!(tasks.join_deadline(began + brief), Err(QueueError::TimedOut)));
    assert!(began.elapsed() >= brief);
    let joiners = [(); 2].map(|()| tasks.clone());
    let joiners =
        joiners.map(|theirs| fork(move || theirs.join_deadline(Instant::now() + PATIENCE)));
    let theirs = tasks.clone();
    let joiner = fork(move || theirs.join());
    joiners.iter().chain([&joiner]).for_each(wait_until_asleep);
    let task = tasks.get().unwrap();
    assert!(matches!(tasks.join(), Err(QueueError::Deadlock)));
    assert_eq!((*task, task.attempts(), tasks.unfinished()), (1, 1, 1));
    assert!(joiner.is_alive().unwrap());
    assert!(matches!(tasks.join_deadline(began), Err(QueueError::Deadlock)));
    task.done();
    join_all(joiners);
    join_all([joiner]);
    tasks.join_deadline(began).unwrap();
}

#[test]
fn tasks_of_bytes_have_a_length_and_wait_for_room() {
    let tasks = JoinableByteQueue::with_max_len(1, 100).unwrap();
    assert_eq!((tasks.max_len(), tasks.capacity(), tasks.len()), (100, 1, 0));
    assert_eq!(try_wait_any(&[&tasks.room()]).unwrap(), [0]);
    assert!(matches!(tasks.put(&[7; 101]), Err(QueueError::TooLong { len: 101, max: 100 })));
    let longest = [7; 100];
    tasks.put(&longest).unwrap();
    assert!(tasks.is_full() && !tasks.is_empty());
    assert!(matches!(try_wait_any(&[&tasks.room()]), Err(WaitAnyError::WouldBlock)));
    let theirs = tasks.clone();
    let putter = fork(move || {
        assert_eq!(wait_any(&[&theirs.room()]).unwrap(), [0]);
        theirs.put(b"second").unwrap();
    });
    wait_until_asleep(&putter);
    let task = tasks.get().unwrap();
    assert_eq!(task[..], longest);
    join_all([putter]);
    task.done();
    let task = tasks.get().unwrap();
    assert_eq!(task[..], b"second"[..]);
    // A loan has as many bytes as were asked for.
    let mut loan = tasks.loan(3).unwrap();
    loan.copy_from_slice(b"abc");
    loan.send().unwrap();
    assert!(matches!(tasks.loan(101), Err(QueueError::TooLong { len: 101, max: 100 })));
    task.done();
    tasks.close().unwrap();
    assert_eq!(try_wait_any(&[&tasks.room()]).unwrap(), [0], "a put says that it is closed");
    let task = tasks.get().unwrap();
    assert_eq!(task[..], b"abc"[..]);
    task.done();
    assert!(matches!(tasks.get(), Err(QueueError::Closed)));
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
    let tasks: JoinableByteQueue =
        QueueOptions::new().attempts(NonZeroU32::new(3), 2).create_joinable_bytes(4, 16).unwrap();
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
    // The process that looks takes over what the dead have left.
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

#[test]
fn returned_tasks_leave_a_place_for_every_operation() {
    for loans in [1, 3, 63] {
        let tasks: JoinableQueue<u64> =
            QueueOptions::new().loans(loans).create_joinable(loans + 1).unwrap();
        let all: Vec<u64> = (0..loans as u64).collect();
        tasks.put_many(&all).unwrap();
        let in_hand: Vec<_> = (0..loans).map(|_| tasks.get().unwrap()).collect();
        drop(in_hand);
        // The tasks that it returned use as many of its places as they may.
        assert!(matches!(tasks.loan(), Err(QueueError::TooManyLoans { .. })));
        tasks.put(100).unwrap();
        let mut got: Vec<u64> = (0..loans)
            .map(|_| {
                let task = tasks.get().unwrap();
                let (value, attempts) = (*task, task.attempts());
                assert_eq!(attempts, 2);
                task.done();
                value
            })
            .collect();
        got.sort_unstable();
        assert_eq!(got, all);
        assert_eq!(*tasks.get().unwrap(), 100);
    }
}

/// Runs `turn` in this thread and `other` in another one, again and again for the same while.
fn side_by_side(other: impl Fn() + Sync, turn: impl Fn()) {
    let end = Instant::now() + Duration::from_millis(1500);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                other();
            }
        });
        while Instant::now() < end {
            turn();
        }
    });
}

#[test]
fn a_join_does_not_return_while_a_task_is_in_hand() {
    let tasks = JoinableQueue::<u64>::new(4).unwrap();
    // The state is odd while a task exists and is not done.
    let state = AtomicU64::new(0);
    let worker = || {
        tasks.put(0).unwrap();
        state.fetch_add(1, SeqCst);
        let task = tasks.get().unwrap();
        state.fetch_add(1, SeqCst);
        task.done();
    };
    side_by_side(worker, || {
        let before = state.load(SeqCst);
        let joined = tasks.join_timeout(Duration::ZERO).is_ok();
        assert!(
            !(joined && before % 2 == 1 && state.load(SeqCst) == before),
            "joined, and a task is in hand"
        );
    });
}

#[test]
fn a_task_that_moves_from_hand_to_hand_is_unfinished() {
    let tasks = JoinableQueue::<u64>::new(4).unwrap();
    tasks.put(0).unwrap();
    // Both give the task back: it is always in one of four hands and places.
    let fumble = || drop(tasks.get_timeout(Duration::from_millis(1)));
    let end = Instant::now() + Duration::from_millis(1500);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                assert!(
                    tasks.join_timeout(Duration::ZERO).is_err(),
                    "joined, and the task was never done"
                );
            }
        });
        side_by_side(fumble, fumble);
    });
    tasks.get().unwrap().done();
    tasks.join().unwrap();
}

/// Two workers with tasks in hand that wait for each other's would wait for ever.
#[test]
fn a_worker_with_a_task_in_hand_does_not_wait_for_the_last_ones_of_a_closed_queue() {
    let tasks = JoinableQueue::<u64>::new(8).unwrap();
    tasks.put_many(&[1, 2]).unwrap();
    let [go, has_one] = [(); 2].map(|()| JoinableQueue::<u64>::new(1).unwrap());
    let (theirs, told, tell) = (tasks.clone(), go.clone(), has_one.clone());
    let worker = fork(move || -> Result<(), QueueError> {
        told.get()?.done();
        let task = theirs.get()?;
        tell.put(0).unwrap();
        // The worker sleeps in this call when the queue is closed.
        assert!(matches!(theirs.get(), Err(QueueError::Deadlock)));
        tell.put(0).unwrap();
        task.done();
        assert_eq!(*theirs.get()?, 1, "which the other gives up");
        Ok(())
    });
    let task = tasks.get().unwrap();
    go.put(0).unwrap();
    has_one.get().unwrap().done();
    wait_until_asleep(&worker);
    tasks.close().unwrap();
    has_one.get().unwrap().done();
    drop(task);
    join_all([worker]);
}

/// Workers with nothing in hand wait for tasks to come back. All of them can get the dead worker's
/// task.
#[test]
fn the_last_tasks_of_a_closed_queue_come_back_to_those_who_can_wait() {
    let tasks = JoinableQueue::<u64>::new(8).unwrap();
    tasks.put_many(&[1, 2]).unwrap();
    let has_one = JoinableQueue::<u64>::new(8).unwrap();
    let (theirs, told) = (tasks.clone(), has_one.clone());
    let clumsy = fork(move || -> () {
        let _one = theirs.get().unwrap();
        told.put(1).unwrap();
        std::thread::park();
    });
    has_one.get().unwrap().done();
    let own = tasks.get().unwrap();
    tasks.close().unwrap();
    let theirs = tasks.clone();
    let waits = fork(move || -> Result<(), QueueError> {
        assert_eq!(*theirs.get()?, 1, "and it drops it");
        Ok(())
    });
    wait_until_asleep(&waits);
    assert!(matches!(tasks.get(), Err(QueueError::Deadlock)));
    assert!(matches!(tasks.try_get(), Err(QueueError::Empty)));
    kill(&clumsy);
    join_all([waits]);
    assert_eq!(*tasks.get().unwrap(), 1, "which is not waited for: it is there");
    own.done();
}
