//! A process without standard streams: nothing that the crate opens takes a standard stream's
//! number.

#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;

use crossproc::directory::{Address, Directory, DirectoryClient};
use crossproc::process::{Builder, CommandExt};
use crossproc::{Connection, Event, JoinableQueue, Queue, Shm, pipe, simplex, wait_any_timeout};

mod forked;
use forked::{PATIENCE, fork};

/// Returns the standard streams' numbers that are open.
fn taken() -> Vec<i32> {
    // SAFETY: it only reads the flags of numbers that may be closed.
    (0..3).filter(|&number| unsafe { libc::fcntl(number, libc::F_GETFD) } != -1).collect()
}

/// Runs `make` in a process without standard streams. Asserts that nothing it makes has one of
/// their numbers.
fn none_is_taken<T>(what: &str, make: impl FnOnce() -> T + Send) {
    let child = fork(|| {
        for number in 0..3 {
            // SAFETY: nothing in this process uses a standard stream's number as its own.
            unsafe { libc::close(number) };
        }
        let made = make();
        let taken = taken();
        drop(made);
        taken.iter().fold(0, |sum, number| sum | 1 << number)
    });
    let code = child.join_timeout(PATIENCE).unwrap().code();
    assert_eq!(code, Some(0), "{what}: the bits of what it took, or 101 if it failed");
}

#[test]
fn memory_takes_none() {
    none_is_taken("a value", || Shm::new(AtomicU32::new(1)).unwrap());
    none_is_taken("a slice", || Shm::<[AtomicU32]>::from_fn(3, |_| AtomicU32::new(0)).unwrap());
    none_is_taken("a queue", || Queue::<u64>::new(4).unwrap());
    none_is_taken("a queue of tasks", || JoinableQueue::<u64>::new(4).unwrap());
    none_is_taken("a clone", || {
        let value = Shm::new(AtomicU32::new(1)).unwrap();
        value.as_fd().try_clone_to_owned().unwrap()
    });
}

#[test]
fn connections_take_none_nor_what_they_bring() {
    none_is_taken("a pipe", || pipe().unwrap());
    none_is_taken("one that goes one way", || simplex().unwrap());
    none_is_taken("a clone", || pipe().unwrap().0.try_clone().unwrap());
    none_is_taken("an empty message", || {
        let (one, other) = pipe().unwrap();
        one.send(b"").unwrap();
        (other.recv().unwrap(), one, other)
    });
    none_is_taken("a long message", || {
        let (one, other) = pipe().unwrap();
        let sending = thread::spawn(move || one.send(&vec![7; 5 << 20]).unwrap());
        let message = other.recv().unwrap();
        sending.join().unwrap();
        message
    });
    none_is_taken("a handle", || {
        let (one, other) = pipe().unwrap();
        one.send_handle(&Shm::new(AtomicU32::new(1)).unwrap()).unwrap();
        one.send_handle(&pipe().unwrap().0).unwrap();
        let value: Shm<AtomicU32> = other.recv_handle().unwrap();
        (value, other.recv_handle::<Connection>().unwrap())
    });
}

#[test]
fn processes_take_none() {
    for daemon in [false, true] {
        none_is_taken("a child", || {
            let child = Builder::new().daemon(daemon).fork(move || {
                // A daemon also opens the line that it depends on.
                assert!(taken().is_empty());
                Builder::new()
                    .daemon(daemon)
                    .fork(|| assert!(taken().is_empty()))
                    .unwrap()
                    .join()
                    .unwrap()
                    .code()
                    .unwrap_or(1)
            });
            assert_eq!(child.as_ref().unwrap().join().unwrap().code(), Some(0));
            child
        });
        none_is_taken("a child that is not joined", || {
            Builder::new().daemon(daemon).fork(|| ()).unwrap()
        });
    }
    none_is_taken("a program", || Command::new("true").start().unwrap());
}

#[test]
fn a_daemon_that_gets_standard_streams_keeps_what_it_hangs_on() {
    for closed in [&[0][..], &[1], &[2], &[0, 1, 2]] {
        let child = fork(move || {
            for &number in closed {
                // SAFETY: as above.
                unsafe { libc::close(number) };
            }
            let mut command = Command::new("sh");
            command
                .args(["-c", "exit 7"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.daemon().unwrap().start().unwrap().join().unwrap().code().unwrap_or(1)
        });
        assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(7), "without {closed:?}");
    }
}

#[test]
fn waits_take_none() {
    none_is_taken("a wait", || {
        let (event, done) = (Event::new(), Event::new());
        let (one, other) = pipe().unwrap();
        let taken_meanwhile = thread::scope(|scope| {
            scope.spawn(|| assert_eq!(wait_any_timeout(&[&event, &other], PATIENCE).unwrap(), [1]));
            // The process sleeps, and so does the thread that sleeps for it.
            let names = || {
                let tasks = std::fs::read_dir("/proc/self/task").unwrap();
                tasks
                    .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
                    .collect::<Vec<_>>()
            };
            forked::wait_until("a thread sleeps in its place", || {
                names().iter().any(|name| name.starts_with("crossproc-futex"))
            });
            let taken = taken();
            one.send(b"now").unwrap();
            taken
        });
        done.set();
        assert!(taken_meanwhile.is_empty());
    });
}

#[test]
fn a_directory_takes_none() {
    let folder = std::env::temp_dir().join(format!("crossproc-streams-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("directory");
    let name = format!("streams {}", std::process::id());
    for address in [Address::abstract_name(name), Address::from(&*path)] {
        // The second time, the lock's file already exists.
        for _ in 0..2 {
            let address = address.clone();
            none_is_taken("a directory", move || {
                let directory = Directory::bind(address.clone()).unwrap();
                thread::scope(|scope| {
                    let server = scope.spawn(|| directory.serve());
                    let mut client = DirectoryClient::connect_timeout(&address, PATIENCE).unwrap();
                    client.put("value", &Shm::new(AtomicU32::new(1)).unwrap()).unwrap();
                    directory.put("event", &Shm::new(Event::new()).unwrap()).unwrap();
                    let got: (Shm<AtomicU32>, Shm<Event>) =
                        (client.get("value").unwrap(), client.get("event").unwrap());
                    assert_eq!(got.0.load(Relaxed), 1);
                    let taken = taken();
                    directory.close();
                    server.join().unwrap().unwrap();
                    assert!(taken.is_empty());
                });
                if let Some(path) = address.path() {
                    // The state that a killed server leaves.
                    std::mem::forget(directory);
                    assert!(path.exists());
                }
            });
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
