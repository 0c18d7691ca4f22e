//! A child and its parent are told of each other's end, whatever siblings there are.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};

use crossproc::process::{self, Builder, Child};
use crossproc::{
    Connection, ConnectionError, Event, Readable, Semaphore, Shm, pipe, shared, try_wait_any,
};

mod forked;
mod refused;
use forked::{PATIENCE, fork, join_all, kill, wait_until};

shared! {
    struct Board {
        ready: Semaphore,
        seen: Semaphore,
        end: Event,
        word: AtomicU32,
    }
}

fn board() -> Shm<Board> {
    Shm::new(Board {
        ready: Semaphore::new(0),
        seen: Semaphore::new(0),
        end: Event::new(),
        word: AtomicU32::new(0),
    })
    .unwrap()
}

fn is_end<T>(received: Result<T, ConnectionError>) -> bool {
    matches!(received, Err(ConnectionError::EndOfStream))
}

fn is_closed<T>(result: Result<T, ConnectionError>) -> bool {
    matches!(result, Err(ConnectionError::Closed))
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Returns a child that reports when it runs, waits for the end of the stream, and reports that. It
/// lives on until it is told to end.
fn watches(board: &Shm<Board>) -> (Child, Connection) {
    let theirs = board.clone();
    process::fork_connected(move |parent| {
        theirs.ready.release().unwrap();
        assert!(is_end(parent.recv_timeout(PATIENCE)));
        theirs.seen.release().unwrap();
        theirs.end.wait();
    })
    .unwrap()
}

#[test]
fn each_of_several_children_is_told_of_its_parents_death() {
    let board = board();
    let theirs = board.clone();
    let parent = fork(move || -> () {
        let children = [watches(&theirs), watches(&theirs), watches(&theirs)];
        // This child has no connection, and takes no part.
        let bystander = theirs.clone();
        let _other = process::fork(move || {
            bystander.ready.release().unwrap();
            bystander.end.wait();
        });
        loop {
            std::hint::black_box(&children);
            std::thread::park();
        }
    });
    for _ in 0..4 {
        board.ready.acquire_timeout(PATIENCE).unwrap();
    }
    kill(&parent);
    // None of the children ends before all have seen it.
    for seen in 0..3 {
        board
            .seen
            .acquire_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("{seen} of 3 children were told: {error}"));
    }
    board.end.set();
}

#[test]
fn a_parent_is_told_of_each_childs_death_while_the_others_live() {
    join_all([fork(|| {
        let board = board();
        let before = open_descriptors();
        let children = [watches(&board), watches(&board), watches(&board)];
        assert_eq!(open_descriptors(), before + 6, "a pidfd and an end for each");
        for _ in 0..3 {
            board.ready.acquire_timeout(PATIENCE).unwrap();
        }
        for (child, connection) in &children {
            kill(child);
            assert!(is_end(connection.recv_timeout(PATIENCE)));
            assert!(matches!(connection.send(b"too late"), Err(ConnectionError::BrokenPipe)));
        }
        drop(children);
        assert_eq!(open_descriptors(), before);
    })]);
}

#[test]
fn a_grandchild_does_not_keep_its_parents_end() {
    join_all([fork(|| {
        let board = board();
        let theirs = board.clone();
        let (child, connection) = process::fork_connected(move |parent| -> () {
            let before = open_descriptors();
            let to_grandchild = theirs.clone();
            let grandchild = process::fork(move || {
                to_grandchild.ready.release().unwrap();
                to_grandchild.end.wait();
            });
            assert_eq!(open_descriptors(), before + 1);
            // The child's own connection, to which the one to the parent does not matter.
            let (other, to_other) =
                process::fork_connected(|child| is_end(child.recv()).then_some(()).ok_or(()))
                    .unwrap();
            drop(to_other);
            assert!(other.join().unwrap().success());
            parent.send(b"both").unwrap();
            assert!(is_end(parent.recv()));
            drop(grandchild);
        })
        .unwrap();
        assert_eq!(connection.recv_timeout(PATIENCE).unwrap(), b"both");
        board.ready.acquire_timeout(PATIENCE).unwrap();
        kill(&child);
        assert!(is_end(connection.recv_timeout(PATIENCE)), "though the grandchild lives");
        board.end.set();
    })]);
}

/// A thread that closes an end is stopped in `close` until another thread has forked, or waits for
/// it.
#[test]
fn a_child_that_is_forked_while_an_end_is_closed_does_not_keep_it() {
    static NUMBER: AtomicU32 = AtomicU32::new(u32::MAX);
    static IS_CLOSING: AtomicBool = AtomicBool::new(false);
    static MAY_CLOSE: AtomicBool = AtomicBool::new(false);

    extern "C" fn close(_: i32) {
        IS_CLOSING.store(true, SeqCst);
        while !MAY_CLOSE.load(SeqCst) {
            std::hint::spin_loop();
        }
        let number = NUMBER.load(SeqCst);
        // SAFETY: closes what the thread was about to close.
        unsafe { libc::syscall(libc::SYS_close_range, number, number, 0) };
    }

    join_all([fork(|| {
        let board = board();
        let theirs = board.clone();
        let (child, connection) = watches(&board);
        NUMBER.store(connection.as_fd().as_raw_fd() as u32, SeqCst);
        // SAFETY: the handler uses atomics and system calls alone.
        let before = unsafe { libc::signal(libc::SIGSYS, close as *const () as usize) };
        assert_ne!(before, libc::SIG_ERR);
        let main = format!("/proc/self/task/{}/syscall", std::process::id());
        let has_forked = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                refused::refuse(&[
                    refused::traps(libc::SYS_close).if_argument(0, NUMBER.load(SeqCst))
                ]);
                drop(connection);
            });
            scope.spawn(|| {
                let waits = || {
                    fs::read_to_string(&main)
                        .is_ok_and(|now| now.starts_with(&format!("{} ", libc::SYS_futex)))
                };
                wait_until("an end is being closed", || IS_CLOSING.load(SeqCst));
                wait_until("a thread has forked, or waits", || has_forked.load(SeqCst) || waits());
                MAY_CLOSE.store(true, SeqCst);
            });
            wait_until("an end is being closed", || IS_CLOSING.load(SeqCst));
            // SAFETY: the child uses nothing that another thread may be in the middle of.
            let sibling =
                unsafe { Builder::new().daemon(true).fork_with_threads(move || theirs.end.wait()) };
            has_forked.store(true, SeqCst);
            board
                .seen
                .acquire_timeout(PATIENCE)
                .expect("the child is told, though its sibling lives");
            board.end.set();
            assert!(child.join().unwrap().success() && sibling.unwrap().join().unwrap().success());
        });
    })]);
}

#[test]
fn what_a_child_was_not_to_keep_is_an_error_that_says_so() {
    join_all([fork(|| {
        static LEFT: OnceLock<Connection> = OnceLock::new();
        static CLONE: OnceLock<Connection> = OnceLock::new();
        let (first, connection) =
            process::fork_connected(|parent| is_end(parent.recv()).then_some(()).ok_or(()))
                .unwrap();
        CLONE.set(connection.try_clone().unwrap()).unwrap();
        LEFT.set(connection).unwrap();
        let child = process::fork(|| {
            for left in [&LEFT, &CLONE].map(|left| left.get().unwrap()) {
                assert!(
                    is_closed(left.recv())
                        && is_closed(left.try_recv())
                        && is_closed(left.recv_timeout(PATIENCE))
                );
                assert!(
                    is_closed(left.send(b"no"))
                        && is_closed(left.send(b""))
                        && is_closed(left.send(&[7; 3 << 20]))
                );
                assert!(is_closed(left.poll()) && is_closed(left.poll_timeout(PATIENCE)));
                assert!(is_closed(left.send_handle(&Shm::new(AtomicU32::new(0)).unwrap())));
                let said = left.recv().unwrap_err().to_string();
                assert!(
                    said.contains("Connection::inheritable") && said.contains("Builder::close"),
                    "{said}"
                );
                assert_eq!(try_wait_any(&[left]).unwrap(), [0], "it is not waited for");
                drop(left.try_clone().unwrap());
                // The clone of a dead end is not an end that a later child would lack.
                assert!(process::fork(|| ()).unwrap().join().unwrap().success());
            }
        });
        assert!(child.unwrap().join().unwrap().success());
        // The parent's ends are as they were.
        LEFT.get().unwrap().send(b"this ends it").unwrap();
        assert_eq!(first.join().unwrap().code(), Some(1));
    })]);
}

#[test]
fn an_end_that_children_are_to_have_is_theirs() {
    join_all([fork(|| {
        let (first, connection) = process::fork_connected(|parent| {
            assert_eq!(parent.recv().unwrap(), b"from a sibling");
        })
        .unwrap();
        let connection = connection.inheritable();
        let second = process::fork(move || connection.send(b"from a sibling")).unwrap();
        assert!(second.join().unwrap().success() && first.join().unwrap().success());
    })]);
}

#[test]
fn a_number_that_was_given_back_is_not_closed_in_a_child() {
    join_all([fork(|| {
        let (child, connection) = process::fork_connected(|_| ()).unwrap();
        let number = connection.as_fd().as_raw_fd();
        let clone = connection.try_clone().unwrap();
        drop((connection, clone));
        let file = File::open("/proc/self/comm").unwrap();
        assert_eq!(file.as_raw_fd(), number);
        let reads = process::fork(move || {
            let mut name = String::new();
            (&file).read_to_string(&mut name)?;
            Ok::<_, std::io::Error>(i32::from(name.is_empty()))
        });
        assert!(reads.unwrap().join().unwrap().success() && child.join().unwrap().success());
    })]);
}

#[test]
fn a_descriptor_that_is_named_is_closed_in_the_child_alone() {
    join_all([fork(|| {
        static FILE: OnceLock<File> = OnceLock::new();
        static FOLDER: OnceLock<OwnedFd> = OnceLock::new();
        let file = FILE.get_or_init(|| File::open("/proc/self/comm").unwrap());
        let folder = FOLDER.get_or_init(|| File::open("/").unwrap().into());
        let (ours, theirs) = pipe().unwrap();
        let memory = board();
        let in_child = memory.clone();
        let before = open_descriptors();
        let builder = Builder::new().close(&ours).close(file).close(folder).close(&memory);
        let child = builder
            .fork(move || {
                // This process is a daemon. The child is not tied to what this process is tied to.
                assert_eq!(
                    open_descriptors(),
                    before - 1,
                    "each number is taken, and nothing else was opened"
                );
                let error = FILE.get().unwrap().read(&mut [0; 9]).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error}");
                let nowhere = rustix::fs::openat(
                    FOLDER.get().unwrap(),
                    "proc",
                    rustix::fs::OFlags::PATH,
                    rustix::fs::Mode::empty(),
                );
                assert_eq!(
                    nowhere.unwrap_err(),
                    rustix::io::Errno::NOTDIR,
                    "it leads to no folder"
                );
                assert_eq!(try_wait_any(&[&Readable(FILE.get().unwrap())]).unwrap(), [0]);
                // Memory stays mapped.
                in_child.word.store(7, Relaxed);
                in_child.ready.release().unwrap();
                is_end(theirs.recv_timeout(PATIENCE)).then_some(()).ok_or("not the end")
            })
            .unwrap();
        drop(builder);
        memory.ready.acquire_timeout(PATIENCE).unwrap();
        assert_eq!(memory.word.load(Relaxed), 7);
        let mut name = String::new();
        (&*file).read_to_string(&mut name).unwrap();
        assert!(!name.is_empty());
        drop(ours);
        assert!(child.join().unwrap().success());
    })]);
}

#[test]
fn a_child_that_cannot_close_does_not_begin() {
    for (connected, errno) in
        [(false, libc::EBUSY), (true, libc::EBUSY), (false, libc::EPERM), (true, libc::EPERM)]
    {
        let child = fork(move || {
            let (_first, connection) =
                process::fork_connected(|parent| drop(parent.recv())).unwrap();
            let (ours, _theirs) = pipe().unwrap();
            let before = open_descriptors();
            refused::refuse(&[refused::call(libc::SYS_dup3, errno)]);
            let begin = |parent: Option<Connection>| -> () {
                std::process::exit(i32::from(parent.is_some()))
            };
            let said = if connected {
                process::fork_connected(move |parent| begin(Some(parent))).map(drop).unwrap_err()
            } else {
                Builder::new().close(&ours).fork(move || begin(None)).map(drop).unwrap_err()
            };
            assert!(said.to_string().contains("closing what it is not to keep"), "{said}");
            assert_eq!(open_descriptors(), before);
            drop(connection);
        });
        assert_eq!(
            child.join_timeout(PATIENCE).map(|status| (status.code(), status.signal())).unwrap(),
            (Some(0), None)
        );
    }
}

#[test]
fn without_a_dead_descriptor_there_is_no_fork() {
    join_all([fork(|| {
        let (ours, _theirs) = pipe().unwrap();
        let before = open_descriptors();
        let path = libc::O_PATH as u32;
        refused::refuse(&[refused::call(libc::SYS_openat, libc::ENOENT).if_masked(2, path, path)]);
        let said = Builder::new().close(&ours).fork(|| ()).unwrap_err();
        assert!(said.to_string().contains("/dev/null"), "{said}");
        assert_eq!(open_descriptors(), before);
        assert!(process::fork(|| ()).unwrap().join().unwrap().success());
    })]);
}
