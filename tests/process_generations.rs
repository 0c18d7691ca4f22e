//! The number of descriptors does not grow with the generations of forked children and started
//! programs.

#![allow(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;

use crossproc::process::{self, Builder, CommandExt};
use crossproc::{Event, Shm, shared};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, setrlimit};

mod forked;
use forked::{PATIENCE, fork, join_all, kill};

/// Returns the descriptors that this process has open, without opening any.
fn descriptors() -> Vec<i32> {
    // SAFETY: it only reads the flags of numbers that may be closed.
    (0..256).filter(|&number| unsafe { libc::fcntl(number, libc::F_GETFD) } != -1).collect()
}

/// Forks a child that does the same, `left` times over, and waits for it. Counts the generations.
fn generation(left: u32, builder: Builder<'static>, count: Shm<AtomicU32>) {
    count.fetch_add(1, Relaxed);
    if left > 0 {
        let (theirs, same) = (count.clone(), builder.clone());
        let child = builder.fork(move || generation(left - 1, same, theirs)).unwrap();
        assert!(child.join_timeout(PATIENCE).unwrap().success());
    }
}

#[test]
fn each_generation_of_forked_children_has_as_many_descriptors() {
    for daemon in [false, true] {
        join_all([fork(move || {
            const GENERATIONS: u32 = 100;
            let count = Shm::new(AtomicU32::new(0)).unwrap();
            // Each process has a handle, a child's descriptor and a line, and a few more while it
            // forks. (The limit does not count numbers beyond that, which may be open already.)
            let limit = Some(descriptors().len() as u64 + 30);
            setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
            generation(GENERATIONS, Builder::new().daemon(daemon), count.clone());
            assert_eq!(count.load(Relaxed), GENERATIONS + 1);
        })]);
    }
}

const LEFT: &str = "CROSSPROC_TEST_LEFT";
const OPEN: &str = "CROSSPROC_TEST_OPEN";

/// Returns a command that runs this program again, with only the test of this name.
fn this_program(test: &str, left: u32) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(LEFT, left.to_string())
        .stdout(Stdio::null());
    command
}

#[test]
fn each_generation_of_started_programs_has_as_many_descriptors() {
    join_all([this_program("role_of_a_generation", 6).daemon().unwrap().start().unwrap()]);
}

/// Not a test by itself: the body of a generation.
#[test]
fn role_of_a_generation() {
    let Ok(left) = std::env::var(LEFT) else { return };
    let left: u32 = left.parse().unwrap();
    // The descriptors that the program was started with.
    let open = descriptors().len().to_string();
    if let Ok(parents) = std::env::var(OPEN) {
        assert_eq!(open, parents, "{left} generations before the last");
    }
    if left == 0 {
        return;
    }
    let mut command = this_program("role_of_a_generation", left - 1);
    command.env(OPEN, open);
    match left % 3 {
        0 => join_all([command.daemon().unwrap().start().unwrap()]),
        1 => join_all([fork(move || join_all([command.daemon().unwrap().start().unwrap()]))]),
        // Not a daemon: it inherits the descriptor that ties its parent, which has not looked for
        // it.
        _ => join_all([command.start().unwrap()]),
    }
}

shared! {
    struct Board {
        pid: AtomicU32,
        ready: Event,
    }
}

#[test]
fn a_started_daemon_that_has_daemons_itself_dies_with_its_parent() {
    let board = Shm::new(Board { pid: AtomicU32::new(0), ready: Event::new() }).unwrap();
    let theirs = board.clone();
    let parent = fork(move || -> () {
        // A thread other than the first one starts it, so that it depends on the descriptor alone.
        let start = move || {
            let mut command = this_program("role_of_a_daemon_that_has_daemons", 0);
            command.share("board", &theirs).unwrap().daemon().unwrap().start().unwrap()
        };
        let _child = thread::spawn(start).join().unwrap();
        loop {
            thread::park();
        }
    });
    board.ready.wait_timeout(PATIENCE).unwrap();
    let pid = Pid::from_raw(board.pid.load(Relaxed) as i32).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    kill(&parent);
    let deadline = crossproc_sys::clock::now() + PATIENCE.as_nanos() as u64;
    assert!(crossproc_sys::pidfd::wait(&pidfd, Some(deadline)).unwrap());
}

/// Not a test by itself: the program that has daemons.
#[test]
fn role_of_a_daemon_that_has_daemons() {
    if std::env::var_os(LEFT).is_none() {
        return;
    }
    let board: Shm<Board> = process::inherited("board").unwrap();
    join_all([fork(|| ())]);
    board.pid.store(std::process::id(), Relaxed);
    board.ready.set();
    loop {
        thread::park();
    }
}

#[test]
fn a_process_without_standard_streams_has_daemons() {
    for closed in 0..3 {
        join_all([fork(move || {
            {
                let (reader, writer) = rustix::pipe::pipe().unwrap();
                // SAFETY: only std's streams use this number, and std copes with closed ones.
                unsafe { libc::close(closed) };
                let mut command = Command::new("sh");
                command
                    .args(["-c", "echo up; exec sleep 1000"])
                    .stdin(Stdio::null())
                    .stdout(writer)
                    .stderr(Stdio::null());
                let child = command.daemon().unwrap().start().unwrap();
                drop(command);
                let mut line = String::new();
                let mut reader = BufReader::new(std::fs::File::from(reader));
                reader.read_line(&mut line).unwrap();
                assert_eq!(line, "up\n", "it lives, with {closed} closed");
                kill(&child);
            }
            // A forked daemon works, too.
            let child = Builder::new().daemon(true).fork(|| 3).unwrap();
            assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(3));
        })]);
    }
}
