//! Children: how they end, what they inherit, and which of them die with their parent.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::{self, Builder, Child, CommandExt, HandleError, InheritError};
use crossproc::{Event, Lock, RegionError, Semaphore, Shm, shared};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

mod forked;
use forked::{PATIENCE, fork, join_all, kill, wait_until};

fn park() -> ! {
    loop {
        thread::park();
    }
}

#[test]
fn a_child_tells_how_it_ended() {
    let code = |child: Child| child.join_timeout(PATIENCE).unwrap().code();
    assert_eq!(code(fork(|| ())), Some(0));
    assert_eq!(code(fork(|| 7)), Some(7));
    assert_eq!(code(fork(|| Ok::<(), ()>(()))), Some(0));
    assert_eq!(code(fork(|| Err::<i32, &str>("a message on the standard error"))), Some(1));
    assert_eq!(code(fork(|| -> () { std::panic::resume_unwind(Box::new(())) })), Some(101));
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new(()));
        }
    }
    assert_eq!(
        code(fork(|| -> () { std::panic::panic_any(Bomb) })),
        Some(101),
        "nothing unwinds into the parent's code"
    );
    let child = fork(|| -> () { park() });
    assert!(child.is_alive().unwrap());
    assert_eq!(child.try_join().unwrap(), None);
    child.terminate().unwrap();
    assert_eq!(child.join_timeout(PATIENCE).unwrap().signal(), Some(libc::SIGTERM));
    let child = fork(|| -> () { park() });
    child.kill().unwrap();
    let status = child.join().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    assert!(!child.is_alive().unwrap());
    assert_eq!(
        (child.join().unwrap(), child.try_join().unwrap()),
        (status, Some(status)),
        "the second time it is the same"
    );
    // Signals to a child that is gone do nothing, even if its pid has been reused.
    child.kill().unwrap();
    child.terminate().unwrap();
}

#[test]
fn joining_times_out_in_every_form() {
    let child = fork(|| -> () { park() });
    for result in [
        child.join_timeout(Duration::ZERO),
        child.join_timeout(Duration::from_millis(30)),
        child.join_deadline(Instant::now()),
    ] {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
    kill(&child);
    child.join_timeout(Duration::ZERO).unwrap();
    child.join_timeout(Duration::MAX).unwrap();
}

#[test]
fn several_threads_may_join_one_child() {
    for _ in 0..50 {
        let child = fork(|| 3);
        let joins = || assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(3));
        thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(joins));
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}

#[test]
fn a_stopped_child_goes_on_when_it_is_resumed() {
    let count = Shm::new(AtomicU32::new(0)).unwrap();
    let theirs = count.clone();
    let child = fork(move || -> () {
        loop {
            theirs.fetch_add(1, Relaxed);
        }
    });
    child.stop().unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    wait_until("it is stopped", || state().contains(") T "));
    let stopped_at = count.load(Relaxed);
    assert!(child.is_alive().unwrap() && count.load(Relaxed) == stopped_at);
    child.resume().unwrap();
    wait_until("it goes on", || count.load(Relaxed) != stopped_at);
    kill(&child);
}

#[test]
fn forking_with_threads_is_refused_unless_it_is_asked_for() {
    // The test harness has threads.
    let refused = process::fork(|| ()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::Unsupported, "{refused}");
    assert!(refused.to_string().contains("threads"));
    // A forked child has one thread, and may fork.
    join_all([fork(|| {
        let grandchild = process::fork(|| 5).unwrap();
        assert_eq!(grandchild.join_timeout(PATIENCE).unwrap().code(), Some(5));
    })]);
}

#[test]
fn children_that_end_leave_no_descriptors() {
    join_all([fork(|| {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        // The first daemon opens the descriptor of the line.
        Builder::new().daemon(true).fork(|| ()).unwrap().join().unwrap();
        let before = open();
        for daemon in [false, true].repeat(20) {
            Builder::new().daemon(daemon).fork(|| ()).unwrap().join().unwrap();
        }
        assert_eq!(open(), before);
    })]);
}

#[test]
fn a_fork_that_fails_leaves_nothing() {
    join_all([fork(|| {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        let most = before as u64 + 1;
        rustix::process::setrlimit(
            rustix::process::Resource::Nofile,
            rustix::process::Rlimit { current: Some(most), maximum: Some(most + 10) },
        )
        .unwrap();
        // Room for the gate's ends, then for one of them and the pidfd, and so on: each way of
        // failing.
        for room in 0..4 {
            let limit = rustix::process::Rlimit {
                current: Some(most - 2 + room),
                maximum: Some(most + 10),
            };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
            let result = process::fork(|| ());
            if let Ok(child) = &result {
                child.join_timeout(PATIENCE).unwrap();
            }
        }
        let limit = rustix::process::Rlimit { current: Some(most + 10), maximum: Some(most + 10) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        assert_eq!(open(), before);
        // No child is left behind, neither a zombie nor a living one.
        let mut status = 0;
        // SAFETY: asks for any child and writes its status.
        assert_eq!(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }, -1);
    })]);
}

shared! {
    struct Family {
        pids: [AtomicU32; 3],
        ready: Semaphore,
        go: Event,
    }
}

fn family() -> Shm<Family> {
    Shm::new(Family { pids: Default::default(), ready: Semaphore::new(0), go: Event::new() })
        .unwrap()
}

/// Forks a child that records its pid and then parks for ever.
fn descendant(family: &Shm<Family>, index: usize, builder: &Builder) -> Child {
    let theirs = family.clone();
    // SAFETY: the child uses the crate and atomics.
    unsafe {
        builder.fork_with_threads(move || -> () {
            theirs.pids[index].store(std::process::id(), Relaxed);
            theirs.ready.release().unwrap();
            park()
        })
    }
    .unwrap()
}

fn pidfds_of(family: &Family, count: usize) -> Vec<OwnedFd> {
    for _ in 0..count {
        family.ready.acquire_timeout(PATIENCE).unwrap();
    }
    let pidfd = |pid: &AtomicU32| {
        pidfd_open(Pid::from_raw(pid.load(Relaxed) as i32).unwrap(), PidfdFlags::empty()).unwrap()
    };
    family.pids[..count].iter().map(pidfd).collect()
}

fn has_ended(process: &OwnedFd, patience: Duration) -> bool {
    let deadline = crossproc_sys::clock::now() + patience.as_nanos() as u64;
    crossproc_sys::pidfd::wait(process, Some(deadline)).unwrap()
}

#[test]
fn daemons_die_with_a_parent_that_is_killed_and_others_do_not() {
    let family = family();
    let theirs = family.clone();
    let parent = fork(move || -> () {
        // Each child inherits the descriptors that its elder siblings depend on.
        descendant(&theirs, 0, &Builder::new().daemon(true));
        descendant(&theirs, 1, &Builder::new().daemon(true));
        descendant(&theirs, 2, &Builder::new());
        park()
    });
    let children = pidfds_of(&family, 3);
    kill(&parent);
    assert!(has_ended(&children[0], PATIENCE) && has_ended(&children[1], PATIENCE));
    assert!(!has_ended(&children[2], Duration::ZERO));
    crossproc_sys::pidfd::signal(&children[2], rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_daemons_daemons_die_with_their_grandparent() {
    let family = family();
    let theirs = family.clone();
    let grandparent = fork(move || -> () {
        let mine = theirs.clone();
        let parent = Builder::new().daemon(true).fork(move || -> () {
            descendant(&mine, 0, &Builder::new().daemon(true));
            park()
        });
        assert!(parent.is_ok());
        park()
    });
    let children = pidfds_of(&family, 1);
    kill(&grandparent);
    assert!(has_ended(&children[0], PATIENCE));
}

#[test]
fn a_daemon_outlives_the_thread_that_started_it() {
    let family = family();
    let theirs = family.clone();
    let parent = fork(move || -> () {
        thread::scope(|scope| {
            scope
                .spawn(|| drop(descendant(&theirs, 0, &Builder::new().daemon(true))))
                .join()
                .unwrap();
        });
        // The kernel has finished with the thread when the thread is off the list.
        wait_until("the thread is gone", || {
            std::fs::read_dir("/proc/self/task").unwrap().count() == 1
        });
        theirs.go.set();
        park()
    });
    let children = pidfds_of(&family, 1);
    family.go.wait_timeout(PATIENCE).unwrap();
    assert!(!has_ended(&children[0], Duration::from_millis(50)));
    kill(&parent);
    assert!(has_ended(&children[0], PATIENCE));
}

#[test]
fn a_fork_by_someone_else_does_not_keep_daemons_alive() {
    let family = family();
    let theirs = family.clone();
    let parent = fork(move || -> () {
        descendant(&theirs, 0, &Builder::new().daemon(true));
        // A library that forks by itself.
        // SAFETY: the child parks.
        if unsafe { libc::fork() } == 0 {
            theirs.pids[1].store(std::process::id(), Relaxed);
            theirs.ready.release().unwrap();
        }
        park()
    });
    let children = pidfds_of(&family, 2);
    kill(&parent);
    assert!(has_ended(&children[0], PATIENCE));
    crossproc_sys::pidfd::signal(&children[1], rustix::process::Signal::KILL).unwrap();
}

shared! {
    #[derive(Debug)]
    struct Board {
        hits: Lock<u64>,
        started: Event,
        end: Event,
    }
}

fn board() -> Shm<Board> {
    Shm::new(Board { hits: Lock::new(0), started: Event::new(), end: Event::new() }).unwrap()
}

/// Returns a command that runs this program again, with only the test of this name.
fn this_program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, "1").stdout(Stdio::null());
    command
}

const ROLE: &str = "CROSSPROC_TEST_ROLE";

/// Not a test by itself: the body of `this_program`.
#[test]
fn role_of_a_started_program() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let board: Shm<Board> = process::inherited("board").unwrap();
    let again: Shm<Board> = process::inherited("board").unwrap();
    *again.hits.lock().unwrap() += 1;
    let number: Shm<AtomicU32> = process::inherited("number_2").unwrap();
    assert_eq!(number.load(Relaxed), 42);
    assert!(matches!(
        process::inherited::<Shm<Board>>("other"),
        Err(InheritError::NotShared { .. })
    ));
    let wrong = process::inherited::<Shm<Event>>("board").unwrap_err();
    assert!(
        matches!(
            wrong,
            InheritError::Attach {
                source: HandleError::Region(RegionError::OtherLayout { .. }),
                ..
            }
        ),
        "{wrong}"
    );
    // A program that this one starts inherits the variable, but not the descriptor.
    let grandchild = this_program("role_of_a_grandchild").start().unwrap();
    assert!(grandchild.join_timeout(PATIENCE).unwrap().success());
    board.started.set();
    board.end.wait();
}

/// Not a test by itself: `role_of_a_started_program` runs it.
#[test]
fn role_of_a_grandchild() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let error = process::inherited::<Shm<Board>>("board").unwrap_err();
    assert!(matches!(error, InheritError::NotOpen { .. }), "{error}");
}

#[test]
fn a_started_program_gets_handles_by_name() {
    let (board, number) = (board(), Shm::new(AtomicU32::new(42)).unwrap());
    let mut command = this_program("role_of_a_started_program");
    command.share("board", &board).unwrap().share("number_2", &number).unwrap();
    // A command can be started more than once.
    for round in 1..=2 {
        board.started.clear();
        board.end.clear();
        let child = command.start().unwrap();
        board.started.wait_timeout(PATIENCE).unwrap();
        assert_eq!(*board.hits.lock().unwrap(), round);
        board.end.set();
        assert!(child.join_timeout(PATIENCE).unwrap().success());
    }
}

#[test]
fn a_started_program_can_be_a_daemon() {
    let (board, number) = (board(), Shm::new(AtomicU32::new(42)).unwrap());
    let family = family();
    let (theirs, board_of_parent) = (family.clone(), board.clone());
    let parent = fork(move || -> () {
        let mut command = this_program("role_of_a_started_program");
        command.share("board", &board_of_parent).unwrap().share("number_2", &number).unwrap();
        // The second call changes nothing.
        command.daemon().unwrap().daemon().unwrap();
        // Two children of one command: each depends on the line by itself.
        for index in 0..2 {
            let child = command.start().unwrap();
            theirs.pids[index].store(child.id(), Relaxed);
            theirs.ready.release().unwrap();
        }
        park()
    });
    let children = pidfds_of(&family, 2);
    board.started.wait_timeout(PATIENCE).unwrap();
    assert!(!has_ended(&children[0], Duration::ZERO) && !has_ended(&children[1], Duration::ZERO));
    kill(&parent);
    assert!(has_ended(&children[0], PATIENCE) && has_ended(&children[1], PATIENCE));
}

#[test]
fn names_that_cannot_be_are_refused() {
    let board = board();
    for name in ["", "a b", "a=b", "ü", "a\0b", "a-b"] {
        let refused = Command::new("true").share(name, &board).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{refused}");
    }
}

#[test]
fn a_program_that_does_not_exist_is_an_error() {
    assert_eq!(
        Command::new("/nonexistent/program").start().unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
}

#[test]
fn a_childs_descriptor_is_readable_when_it_has_ended() {
    let child = fork(|| ());
    assert!(
        crossproc_sys::pidfd::wait(
            child.as_fd(),
            Some(crossproc_sys::clock::now() + PATIENCE.as_nanos() as u64)
        )
        .unwrap()
    );
    assert_eq!(child.join().unwrap().code(), Some(0));
}
