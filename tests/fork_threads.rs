//! `fork` in a process with other threads: it ends the crate's own, waits for those that are
//! ending, and names the others.

#![allow(unsafe_code)]

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crossproc::directory::{Address, Directory, DirectoryClient};
use crossproc::process::{self, Child};
use crossproc::{Event, Queue, Shm, wait_any, wait_any_timeout};

mod forked;
use forked::{PATIENCE, fork, join_all, wait_until};

/// Returns the names of this process's threads.
fn names() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).collect()
}

fn refused() -> String {
    let error = process::fork(|| ()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}");
    error.to_string()
}

fn forks() -> Child {
    process::fork(|| ()).unwrap()
}

#[test]
fn a_supervisor_replaces_its_workers_at_once() {
    join_all([fork(|| {
        let results: Queue<u64> = Queue::new(16).unwrap();
        let start = |number| {
            let results = results.clone();
            process::fork(move || results.put(number).unwrap())
        };
        let mut worker = start(0).unwrap();
        for number in 1..=20 {
            // The wait is for a queue and a descriptor, so that a thread sleeps on the queue's
            // words.
            let mut got = None;
            while got.is_none() {
                wait_any_timeout(&[&results, &worker], PATIENCE).unwrap();
                got = results.try_get().ok();
            }
            assert_eq!(got, Some(number - 1));
            // Nothing comes, so the thread surely sleeps.
            let idle = Event::new();
            let (one, other) = crossproc::pipe().unwrap();
            assert!(wait_any_timeout(&[&idle, &other], Duration::from_millis(5)).is_err());
            assert!(
                names().iter().any(|name| name == "crossproc-futex"),
                "a thread that has nothing to do"
            );
            drop(one);
            assert!(worker.join().unwrap().success());
            worker = start(number).unwrap();
        }
        worker.join().unwrap();
    })]);
}

#[test]
fn a_thread_that_was_joined_is_in_nobodys_way() {
    join_all([fork(|| {
        for _ in 0..300 {
            thread::spawn(|| ()).join().unwrap();
            forks().join().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| ());
            });
            forks().join().unwrap();
        }
    })]);
}

#[test]
fn a_first_thread_that_has_ended_is_in_nobodys_way() {
    let child = fork(|| {
        thread::spawn(|| {
            let first = format!("/proc/self/task/{}/stat", std::process::id());
            wait_until("the first thread has ended", || {
                std::fs::read_to_string(&first).unwrap().contains(") Z ")
            });
            // A panic would end this thread alone, and the process would end with the first
            // thread's code.
            let code = process::fork(|| ())
                .and_then(|child| child.join())
                .map_or(3, |status| status.code().unwrap_or(4));
            // SAFETY: ends the process, which has nothing to clean up.
            unsafe { libc::_exit(code) }
        });
        // SAFETY: ends this thread alone, which holds nothing that the other one uses.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(0));
}

#[test]
fn threads_that_are_left_are_named() {
    join_all([fork(|| {
        let (end, ended) = mpsc::channel::<()>();
        let other = thread::Builder::new()
            .name("a user's".into())
            .spawn(move || ended.recv().unwrap_err())
            .unwrap();
        wait_until("it has its name", || names().iter().any(|name| name == "a user's"));
        let begin = Instant::now();
        let said = refused();
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        assert!(said.contains("1 other thread") && said.contains("\"a user's\" (TID "), "{said}");
        assert!(
            said.contains("Join them")
                && said.contains("#[test]")
                && said.contains("fork_with_threads"),
            "{said}"
        );
        drop(end);
        other.join().unwrap();
        forks().join().unwrap();
    })]);
}

#[test]
fn a_wait_in_another_thread_is_named_and_so_is_what_sleeps_for_it() {
    join_all([fork(|| {
        let event = Event::new();
        let (one, other) = crossproc::pipe().unwrap();
        thread::scope(|scope| {
            let waiting = || wait_any(&[&event, &other]).unwrap();
            let waiter =
                thread::Builder::new().name("waiter".into()).spawn_scoped(scope, waiting).unwrap();
            // One thread sleeps for the wait, and another is its stand-in.
            let are = |of: &str| names().iter().filter(|name| *name == of).count();
            wait_until("it waits", || are("waiter") == 1 && are("crossproc-futex") == 2);
            let said = refused();
            assert!(
                said.contains("3 other threads") && said.contains("\"waiter\" (TID "),
                "{said}"
            );
            assert!(said.contains("which sleeps for a wait_any or a future"), "{said}");
            // The wait was not disturbed.
            event.set();
            assert_eq!(waiter.join().unwrap(), [0]);
        });
        forks().join().unwrap();
        // A thread that was ended is started again when it is needed.
        thread::scope(|scope| {
            let waiter =
                scope.spawn(|| wait_any_timeout(&[&Event::new(), &other], PATIENCE).unwrap());
            wait_until("it waits", || names().iter().any(|name| name == "crossproc-futex"));
            one.send(b"now").unwrap();
            assert_eq!(waiter.join().unwrap(), [1]);
        });
        // The same holds in a child.
        let child = process::fork(move || {
            let event = Event::new();
            assert!(wait_any_timeout(&[&event, &one], Duration::from_millis(5)).is_err());
            forks().join().unwrap();
        });
        assert!(child.unwrap().join().unwrap().success());
    })]);
}

#[test]
fn a_directorys_idle_threads_are_ended_and_the_one_that_serves_is_named() {
    join_all([fork(|| {
        let address = Address::abstract_name(format!("fork_threads {}", std::process::id()));
        let directory = Directory::bind(&address).unwrap();
        thread::scope(|scope| {
            let server = scope.spawn(|| directory.serve());
            let mut client = DirectoryClient::connect_timeout(&address, PATIENCE).unwrap();
            client.put("event", &Shm::new(Event::new()).unwrap()).unwrap();
            drop(client);
            wait_until("what it has left is closed", || {
                names().iter().any(|name| name == "crossproc-close")
            });
            let said = refused();
            assert!(said.contains("serves the Directory") && said.contains("close it"), "{said}");
            assert!(!said.contains("crossproc-close"), "{said}");
            directory.close();
            server.join().unwrap().unwrap();
        });
        // The directory is alive, and so are those of its threads that have nothing to do.
        forks().join().unwrap();
        assert!(!names().iter().any(|name| name == "crossproc-close"));
        drop(directory);
        forks().join().unwrap();
    })]);
}

#[test]
fn the_many_are_not_all_named() {
    join_all([fork(|| {
        let (end, ended) = mpsc::channel::<()>();
        let ended = std::sync::Arc::new(std::sync::Mutex::new(ended));
        let start = |_| {
            let ended = std::sync::Arc::clone(&ended);
            thread::spawn(move || ended.lock().unwrap().recv().unwrap_err())
        };
        let others: Vec<_> = (0..20).map(start).collect();
        let said = refused();
        assert!(said.contains("20 other threads") && said.contains("and 12 more"), "{said}");
        drop(end);
        for other in others {
            other.join().unwrap();
        }
        forks().join().unwrap();
    })]);
}
