//! Very many futures, in a process of their own, whose threads are counted.

#![allow(unsafe_code)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crossproc::{Event, Queue, Shm, set_recheck_interval};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

mod forked;
use forked::{fork, join_all, wait_until};

/// Returns the number of the crate's threads in this process.
fn driver_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter(|task| {
            fs::read_to_string(task.path().join("comm"))
                .is_ok_and(|name| name.trim() == "crossproc-futex")
        })
        .count()
}

/// Allows read, write, exit and sigreturn; any other call kills the process.
fn enter_strict_mode() {
    // SAFETY: it only changes what this process may do.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) }, 0);
}

#[test]
fn ten_thousand_tasks_on_a_hundred_queues_have_few_threads_and_leave_nothing_behind() {
    const QUEUES: usize = 100;
    const TASKS: usize = 10_000;
    const SERVERS: usize = 4;
    const EACH: u64 = 300;
    let queues: Arc<Vec<Queue<u64>>> =
        Arc::new((0..QUEUES).map(|_| Queue::new(64).unwrap()).collect());
    let go = Shm::new(Event::new()).unwrap();
    let children: Vec<_> = (0..SERVERS)
        .map(|server| {
            let (queues, go) = (Arc::clone(&queues), go.clone());
            fork(move || {
                go.wait();
                for number in 0..EACH {
                    queues
                        .iter()
                        .skip(server)
                        .step_by(SERVERS)
                        .for_each(|queue| queue.put(number).unwrap());
                }
            })
        })
        .collect();
    set_recheck_interval(None);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (begun, sum, got) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (queues, begun, sum, got) =
            (Arc::clone(&queues), Arc::clone(&begun), Arc::clone(&sum), Arc::clone(&got));
        let get = async move {
            begun.fetch_add(1, SeqCst);
            loop {
                sum.fetch_add(queues[task % QUEUES].get_async().await.unwrap(), SeqCst);
                got.fetch_add(1, SeqCst);
            }
        };
        tasks.spawn_on(get, runtime.handle());
    }
    wait_until("all wait", || begun.load(SeqCst) == TASKS as u64);
    // Six words for each queue, 127 on a sleeping thread. One thread is parked for each queue. A
    // second one is parked if it was armed before a notified future had looked.
    let most = (QUEUES * 6).div_ceil(127) + 2 * QUEUES;
    assert!(driver_threads() <= most, "{} threads", driver_threads());
    go.set();
    wait_until("all is got", || got.load(SeqCst) == QUEUES as u64 * EACH);
    assert_eq!(sum.load(SeqCst), QUEUES as u64 * (0..EACH).sum::<u64>());
    join_all(children);
    assert!(driver_threads() <= most, "{} threads", driver_threads());

    runtime.block_on(async { tasks.shutdown().await });
    wait_until("no thread is left", || driver_threads() == 0);
    // The first put of each queue finds the marks of the former waiters, and removes them. After
    // that, no put wakes anything, which would be a system call.
    let theirs = Arc::clone(&queues);
    join_all([fork(move || -> () {
        theirs.iter().for_each(|queue| queue.put(0).unwrap());
        enter_strict_mode();
        theirs.iter().for_each(|queue| queue.put(1).unwrap());
        // SAFETY: it ends the only thread, as strict mode allows.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    })]);
    assert!(queues.iter().all(|queue| queue.len() == 2));
}
