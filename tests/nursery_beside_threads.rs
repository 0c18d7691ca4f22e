//! A nursery replaces a thousand children that are killed, beside eight threads and a runtime.

#![allow(unsafe_code)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::{Child, Nursery};
use crossproc::{Connection, ConnectionError};

mod forked;
use forked::{PATIENCE, fork, join_all, wait_until};

const THREADS: usize = 8;
const EACH: usize = 125;

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Returns the processes that a process's first thread has started, zombies among them.
fn children_of(id: u32) -> usize {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    children.split_whitespace().count()
}

/// Returns a new child that works.
fn worker(nursery: &Nursery) -> (Child, Connection) {
    let (child, to_child) = nursery.fork_timeout(PATIENCE).unwrap();
    assert_eq!(to_child.recv_timeout(PATIENCE).unwrap(), b"ready");
    (child, to_child)
}

/// Kills a child, and has another one in its place. Returns how long it took from the end of the
/// first one to the first word of the second one.
fn replace(nursery: &Nursery, worker_now: &mut (Child, Connection)) -> Duration {
    let (child, to_child) = worker_now;
    child.kill().unwrap();
    assert!(matches!(to_child.recv_timeout(PATIENCE), Err(ConnectionError::EndOfStream)));
    let died = Instant::now();
    let next = worker(nursery);
    let took = died.elapsed();
    assert_eq!(child.join().unwrap().signal(), Some(9));
    *worker_now = next;
    took
}

#[test]
fn a_thousand_dead_children_are_replaced_beside_threads_and_a_runtime() {
    join_all([fork(|| {
        let nursery = Nursery::start(|parent| -> Result<(), ConnectionError> {
            parent.send(b"ready")?;
            parent.recv().map(drop)
        })
        .unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (turns, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let before = open_descriptors();
        let mut times: Vec<Duration> = thread::scope(|scope| {
            scope.spawn(|| {
                runtime.block_on(async {
                    while !is_over.load(Relaxed) {
                        turns.fetch_add(1, Relaxed);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                });
            });
            let replacing = || {
                let mut now = worker(&nursery);
                let times: Vec<Duration> = (0..EACH).map(|_| replace(&nursery, &mut now)).collect();
                now.0.kill().unwrap();
                now.0.join().unwrap();
                times
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(replacing)).collect();
            let times = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            is_over.store(true, Relaxed);
            times
        });
        times.sort();
        assert_eq!(times.len(), THREADS * EACH, "none was refused");
        println!(
            "from a child's end to the next one's first word: median {:?}, worst {:?}",
            times[times.len() / 2],
            times[times.len() - 1]
        );
        assert!(turns.load(Relaxed) > 0, "the runtime went on");
        wait_until("no child is left, and no zombie", || children_of(nursery.id()) == 0);
        assert_eq!(open_descriptors(), before);
        drop(runtime);
        assert!(nursery.join_timeout(PATIENCE).unwrap().success());
        assert_eq!(children_of(std::process::id()), 0);
    })]);
}
