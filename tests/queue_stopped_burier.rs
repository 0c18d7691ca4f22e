//! A burier is stopped while it buries a dead worker. The worker's task still goes to others, joins
//! end, and a newcomer can take the dead worker's place. The test single-steps the burier, and
//! leaves it stopped after some of the steps.

#![allow(unsafe_code)]

mod forked;
mod spoiled;

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use crossproc::process::Child;
use crossproc::{JoinableQueue, QueueOptions, Shm};
use forked::{fork, kill, wait_until};
use spoiled::{Sizes, Spoiler, TASK};

/// The number of stopping points that are spread over all the burier's instructions.
const POINTS: usize = 10;
/// The burier also stops around the instruction that returns the task. These points reach this many
/// instructions before it and after it, and are `BETWEEN` apart.
const AROUND: usize = 400;
const BETWEEN: usize = 50;
/// How long others may take. Calls are not sliced, so nothing ends a sleep by itself.
const TIME: Duration = Duration::from_secs(10);

/// The type of libc's `ptrace` request.
#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

fn ptrace(request: Request, pid: u32, signal: usize) {
    // SAFETY: none of the requests that are used here writes to this process.
    let traced = unsafe { libc::ptrace(request, pid as i32, 0_usize, signal) };
    assert_eq!(traced, 0, "request {request}: {}", std::io::Error::last_os_error());
}

/// Returns the signal that stopped the child, or `None` if the child has ended.
fn wait_for_stop(pid: u32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: writes to `status`.
    let waited = unsafe { libc::waitpid(pid as i32, &raw mut status, libc::__WALL) };
    assert_eq!(waited, pid as i32, "{}", std::io::Error::last_os_error());
    libc::WIFSTOPPED(status).then(|| libc::WSTOPSIG(status))
}

fn stop_here() {
    // SAFETY: the signal only stops this process; the tracer continues it.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Forks a traced child: it runs `preparation`, then stops, so that `operation` can be
/// single-stepped.
fn traced(preparation: impl FnOnce() + Send, operation: impl FnOnce() + Send) -> Child {
    let child = fork(move || {
        preparation();
        // SAFETY: asks to be traced.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0_usize, 0_usize) }, 0);
        stop_here();
        operation();
        stop_here();
    });
    assert_eq!(wait_for_stop(child.id()), Some(libc::SIGSTOP));
    child
}

/// Makes one step. Returns whether the operation goes on.
fn step(child: &Child) -> bool {
    ptrace(libc::PTRACE_SINGLESTEP, child.id(), 0);
    match wait_for_stop(child.id()) {
        Some(libc::SIGTRAP) => true,
        Some(libc::SIGSTOP) => false,
        other => panic!("the burier ended, or got a signal: {other:?}"),
    }
}

/// Steps through the whole operation. Returns the numbers of steps after which other runs stop it.
/// The dead worker was the last participant to come.
fn points(queue: &JoinableQueue<u64>, participants: usize, burier: &Child) -> Vec<usize> {
    let worker = participants - 1;
    let words = Spoiler::new(queue, Sizes { entries: 4, ids: participants, places: 4 });
    let is_in_hand = || words.read(words.place(worker, 0)) & TASK != 0;
    assert!(is_in_hand(), "the task is where it was taken to");
    let (mut all, mut returned) = (0, None);
    while step(burier) {
        all += 1;
        returned = returned.or((!is_in_hand()).then_some(all));
    }
    let returned = returned.expect("the burier returns the task");
    let mut points: Vec<usize> = (0..POINTS).map(|point| all * point / POINTS).collect();
    points.extend((returned.saturating_sub(AROUND)..all.min(returned + AROUND)).step_by(BETWEEN));
    points.push(returned - 1);
    points.push(returned);
    points
}

/// Returns a queue with one task, and a table of this many participants.
fn queue_of(participants: usize) -> JoinableQueue<u64> {
    let queue: JoinableQueue<u64> =
        QueueOptions::new().participants(participants).create_joinable(4).unwrap();
    queue.put(1).unwrap();
    queue
}

/// Forks a worker that takes the task, and kills it.
fn die_with_task(queue: &JoinableQueue<u64>) {
    let has_task = Shm::new(AtomicU32::new(0)).unwrap();
    let worker = fork(|| -> () {
        let _task = queue.try_get().unwrap();
        has_task.store(1, SeqCst);
        loop {
            std::thread::park();
        }
    });
    wait_until("the worker has the task", || has_task.load(SeqCst) == 1);
    kill(&worker);
}

fn queue_of_the_dead(participants: usize) -> JoinableQueue<u64> {
    let queue = queue_of(participants);
    die_with_task(&queue);
    queue
}

fn newcomer_puts(queue: &JoinableQueue<u64>) {
    std::thread::scope(|scope| scope.spawn(|| queue.try_put(2).unwrap()).join().unwrap());
}

/// Returns a queue as above, and a participant that buries the dead worker and takes no task.
fn queue_with_burier() -> (JoinableQueue<u64>, Child) {
    let queue = queue_of(3);
    let take_part = || drop(queue.loan().unwrap());
    let burier = traced(take_part, || _ = queue.join_timeout(Duration::ZERO));
    die_with_task(&queue);
    (queue, burier)
}

fn stop_after(child: Child, steps: usize) -> Child {
    assert!((0..steps).all(|_| step(&child)), "another run takes as many steps");
    child
}

#[test]
#[cfg_attr(target_arch = "aarch64", ignore = "exclusive stores fail in single steps")]
fn a_burier_that_is_stopped_anywhere_keeps_nothing_from_others() {
    let (queue, burier) = queue_with_burier();
    for point in points(&queue, 3, &burier) {
        let (queue, burier) = queue_with_burier();
        let stopped = stop_after(burier, point);
        let is_first = point % 2 == 0;
        if is_first {
            newcomer_puts(&queue);
        }
        let task = queue
            .get_timeout(TIME)
            .unwrap_or_else(|error| panic!("stopped after {point} steps: {error}"));
        assert_eq!((*task, task.attempts()), (1, 2), "after {point} steps");
        task.done();
        if !is_first {
            newcomer_puts(&queue);
        }
        queue.try_get().unwrap().done();
        queue
            .join_timeout(TIME)
            .unwrap_or_else(|error| panic!("stopped after {point} steps: {error}"));
        kill(&stopped);
    }
}

/// The newcomer gets the dead worker's place, which is the last one, but not the task.
#[test]
#[cfg_attr(target_arch = "aarch64", ignore = "exclusive stores fail in single steps")]
fn a_newcomer_that_is_stopped_anywhere_keeps_no_task_from_others() {
    // The newcomer's thread has taken part in another queue before, which takes most of the steps.
    let warm_up = || drop(JoinableQueue::<u64>::new(1).unwrap().loan().unwrap());
    let newcomer = |queue: &JoinableQueue<u64>| traced(warm_up, || drop(queue.loan().unwrap()));
    let queue = queue_of_the_dead(2);
    for point in points(&queue, 2, &newcomer(&queue)) {
        let queue = queue_of_the_dead(2);
        let stopped = stop_after(newcomer(&queue), point);
        let task = queue
            .get_timeout(TIME)
            .unwrap_or_else(|error| panic!("stopped after {point} steps: {error}"));
        assert_eq!((*task, task.attempts()), (1, 2), "after {point} steps");
        task.done();
        queue
            .join_timeout(TIME)
            .unwrap_or_else(|error| panic!("stopped after {point} steps: {error}"));
        kill(&stopped);
    }
}

/// No thread is asleep that would notice the death.
#[test]
fn the_task_of_a_dead_worker_comes_to_those_who_only_look() {
    let queue = queue_of_the_dead(2);
    assert_eq!(*queue.try_get().unwrap(), 1);
    let queue = queue_of_the_dead(2);
    assert_eq!(*queue.get_timeout(Duration::ZERO).unwrap(), 1);
}
