//! A fork does not depend on the standard streams, and everything that was printed appears once.
//!
//! Each test runs in a program of its own, which this program starts: the streams belong to the
//! process, and the test harness prints, too.

#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::{self, Builder, CommandExt};
use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, memfd_create};

mod forked;
mod refused;
use forked::{PATIENCE, fork, join_all};

const ROLE: &str = "CROSSPROC_TEST_ROLE";

/// Runs `body` in a single-threaded process of a program that runs nothing but this test.
fn alone(test: &str, body: fn()) {
    if std::env::var_os(ROLE).is_some() {
        return join_all([fork(body)]);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, "1").stdout(Stdio::null());
    join_all([command.start().unwrap()]);
}

/// Replaces the standard output or the standard error with a file.
fn put_at(number: i32, file: impl AsFd) {
    // SAFETY: only std's streams use this number, and they are meant to write to the file.
    assert_eq!(unsafe { libc::dup2(file.as_fd().as_raw_fd(), number) }, number);
}

fn set_sigpipe(action: libc::sighandler_t) {
    // SAFETY: it installs no handler.
    unsafe { libc::signal(libc::SIGPIPE, action) };
}

/// Returns both ends of a pipe that is full, and that nothing reads.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

fn pipe_without_reader() -> OwnedFd {
    rustix::pipe::pipe().unwrap().1
}

fn file() -> File {
    File::from(memfd_create("printed", MemfdFlags::CLOEXEC).unwrap())
}

fn text_of(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// Prints without a newline, so that the text stays in the buffer. It avoids `print!`, which the
/// harness may catch.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Forks children that succeed, with and without output, and children that fail.
fn forks(with_output: bool) {
    for _ in 0..3 {
        say("not a line");
        let child = process::fork(|| ()).unwrap();
        assert!(child.join_timeout(PATIENCE).unwrap().success());
        let child = process::fork(|| 7).unwrap();
        assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(7));
        if with_output {
            let child = process::fork(|| say("a child's")).unwrap();
            assert!(child.join_timeout(PATIENCE).unwrap().success());
        }
        // SAFETY: this process has one thread.
        let child = unsafe { Builder::new().fork_with_threads(|| ()) }.unwrap();
        assert!(child.join_timeout(PATIENCE).unwrap().success());
    }
}

#[test]
fn a_full_disk_fails_neither_a_fork_nor_a_child() {
    alone("a_full_disk_fails_neither_a_fork_nor_a_child", || {
        put_at(1, File::options().write(true).open("/dev/full").unwrap());
        forks(true);
    });
}

#[test]
fn neither_does_a_reader_that_is_gone() {
    alone("neither_does_a_reader_that_is_gone", || {
        put_at(1, pipe_without_reader());
        for action in [libc::SIG_IGN, libc::SIG_DFL] {
            set_sigpipe(action);
            forks(true);
        }
        // What this process itself prints at its end is not under test.
        set_sigpipe(libc::SIG_IGN);
    });
}

#[test]
fn neither_does_one_that_reads_nothing() {
    alone("neither_does_one_that_reads_nothing", || {
        let (_reader, writer) = full_pipe();
        put_at(1, writer);
        forks(false);
    });
}

#[test]
fn neither_does_a_standard_output_that_is_closed() {
    alone("neither_does_a_standard_output_that_is_closed", || {
        // SAFETY: only std's stream uses this number, and std copes with a closed one.
        unsafe { libc::close(1) };
        forks(true);
    });
}

#[test]
fn what_was_printed_before_a_fork_is_there_once() {
    alone("what_was_printed_before_a_fork_is_there_once", || {
        // More than fits into the child's copy of the buffer.
        let long = "x".repeat(5_000);
        for theirs in ["child's", "", long.leak()] {
            let mut printed = file();
            put_at(1, &printed);
            say("parent's");
            join_all([process::fork(move || {
                let grandchild = process::fork(|| ()).unwrap();
                assert!(grandchild.join_timeout(PATIENCE).unwrap().success());
                say(theirs);
            })
            .unwrap()]);
            assert_eq!(text_of(&mut printed), theirs, "the child printed its own, all of it");
            printed.seek(io::SeekFrom::End(0)).unwrap();
            io::stdout().flush().unwrap();
            assert_eq!(text_of(&mut printed), format!("{theirs}parent's"));
        }
    });
}

#[test]
fn a_child_has_its_parents_standard_output() {
    alone("a_child_has_its_parents_standard_output", || {
        for flags in [0, libc::FD_CLOEXEC] {
            let printed = file();
            put_at(1, &printed);
            // SAFETY: takes an integer.
            assert_eq!(unsafe { libc::fcntl(1, libc::F_SETFD, flags) }, 0);
            let inode = rustix::fs::fstat(&printed).unwrap().st_ino;
            join_all([process::fork(move || {
                assert_eq!(rustix::fs::fstat(io::stdout()).unwrap().st_ino, inode);
                // SAFETY: takes no argument.
                assert_eq!(unsafe { libc::fcntl(1, libc::F_GETFD) }, flags);
            })
            .unwrap()]);
        }
    });
}

#[test]
fn a_child_ends_while_its_own_thread_has_the_standard_output_locked() {
    alone("a_child_ends_while_its_own_thread_has_the_standard_output_locked", || {
        join_all([process::fork(|| {
            let (locked, is_locked) = mpsc::channel();
            thread::spawn(move || {
                let _lock = io::stdout().lock();
                locked.send(()).unwrap();
                loop {
                    thread::park();
                }
            });
            is_locked.recv().unwrap();
        })
        .unwrap()]);
    });
}

#[test]
fn a_child_that_has_threads_waits_for_its_reader_too() {
    alone("a_child_that_has_threads_waits_for_its_reader_too", || {
        let (reader, writer) = full_pipe();
        put_at(1, writer);
        let child = process::fork(|| {
            thread::spawn(|| {
                loop {
                    thread::park();
                }
            });
            say("a child's");
        })
        .unwrap();
        // Longer than the child waits for its threads.
        let error = child.join_timeout(Duration::from_secs(2)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        put_at(1, file());
        let mut printed = Vec::new();
        File::from(reader).read_to_end(&mut printed).unwrap();
        assert!(printed.ends_with(b"a child's"));
        join_all([child]);
    });
}

#[test]
fn a_process_whose_parents_thread_had_the_standard_output_locked_forks() {
    alone("a_process_whose_parents_thread_had_the_standard_output_locked_forks", || {
        let (locked, is_locked) = mpsc::channel();
        let (done, is_done) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                let _lock = io::stdout().lock();
                locked.send(()).unwrap();
                let _ = is_done.recv();
            });
            is_locked.recv().unwrap();
            // The second time nothing is left to find out, nor in the child.
            let forks = || {
                for _ in 0..2 {
                    let child = process::fork(|| {
                        process::fork(|| 7).unwrap().join().unwrap().code().unwrap()
                    })
                    .unwrap();
                    assert_eq!(child.join().unwrap().code(), Some(7));
                }
            };
            // SAFETY: the child uses nothing that belongs to the other thread.
            let child = unsafe { Builder::new().fork_with_threads(forks) }.unwrap();
            let status = child.join_timeout(PATIENCE);
            drop(done);
            assert!(status.unwrap().success());
        });
    });
}

/// Leaves the standard output locked for ever, by a thread that ends.
fn leave_it_locked() {
    thread::spawn(|| std::mem::forget(io::stdout().lock())).join().unwrap();
}

#[test]
fn a_process_whose_own_thread_left_the_standard_output_locked_forks() {
    alone("a_process_whose_own_thread_left_the_standard_output_locked_forks", || {
        leave_it_locked();
        // The first round finds the lock, by means of a child that is gone when the fork returns.
        for _ in 0..3 {
            let child =
                process::fork(|| process::fork(|| 7).unwrap().join().unwrap().code().unwrap())
                    .unwrap();
            assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(7));
        }
        assert_eq!(
            // SAFETY: it asks for any child, and for no details.
            unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) },
            -1,
            "a child is left"
        );
    });
}

#[test]
fn a_child_whose_own_thread_left_the_standard_output_locked_ends() {
    alone("a_child_whose_own_thread_left_the_standard_output_locked_ends", || {
        let child = process::fork(|| {
            leave_it_locked();
            7
        });
        assert_eq!(child.unwrap().join_timeout(PATIENCE).unwrap().code(), Some(7));
    });
}

/// The alarm ends a child that is flushing, but an alarm that was pending before does not.
#[test]
fn a_child_to_which_an_alarm_is_pending_flushes_all_the_same() {
    alone("a_child_to_which_an_alarm_is_pending_flushes_all_the_same", || {
        let mut printed = file();
        put_at(1, &printed);
        let child = process::fork(|| {
            std::mem::forget(crossproc_sys::signals::Blocked::all().unwrap());
            // SAFETY: sends a signal to the calling thread, where it is blocked.
            unsafe { libc::raise(libc::SIGALRM) };
            say("a child's");
        });
        join_all([child.unwrap()]);
        assert_eq!(text_of(&mut printed), "a child's");
    });
}

/// Nor does it where the handler is refused, and the signal itself would end the child.
#[test]
fn a_child_whose_alarm_cannot_be_handled_flushes_all_the_same() {
    alone("a_child_whose_alarm_cannot_be_handled_flushes_all_the_same", || {
        let mut printed = file();
        put_at(1, &printed);
        let child = process::fork(|| {
            std::mem::forget(crossproc_sys::signals::Blocked::all().unwrap());
            // SAFETY: sends a signal to the calling thread, where it is blocked.
            unsafe { libc::raise(libc::SIGALRM) };
            refused::refuse(&[refused::call(libc::SYS_rt_sigaction, libc::EPERM)]);
            say("a child's");
        });
        join_all([child.unwrap()]);
        assert_eq!(text_of(&mut printed), "a child's");
    });
}

/// An error whose message comes in many pieces, and is longer than any of them.
struct Long;

impl fmt::Debug for Long {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..1_000).try_for_each(|number| write!(f, "{number} ä "))
    }
}

#[test]
fn an_error_is_told_while_another_thread_has_the_standard_error_locked() {
    alone("an_error_is_told_while_another_thread_has_the_standard_error_locked", || {
        let mut told = file();
        put_at(2, &told);
        let (locked, is_locked) = mpsc::channel();
        let (done, is_done) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                let _lock = io::stderr().lock();
                locked.send(()).unwrap();
                let _ = is_done.recv();
            });
            is_locked.recv().unwrap();
            // SAFETY: the children make system calls alone.
            let child = unsafe { Builder::new().fork_with_threads(|| Err::<(), _>(7)) }.unwrap();
            let status = child.join_timeout(PATIENCE).map(|status| status.code());
            // SAFETY: as above.
            let other = unsafe { Builder::new().fork_with_threads(|| Err::<(), _>(Long)) }.unwrap();
            let other = other.join_timeout(PATIENCE).map(|status| status.code());
            drop(done);
            assert_eq!((status.unwrap(), other.unwrap()), (Some(1), Some(1)));
        });
        assert_eq!(text_of(&mut told), format!("Error: 7\nError: {Long:?}\n"));
    });
}

#[test]
fn an_error_that_cannot_be_told_is_the_same_exit_status() {
    alone("an_error_that_cannot_be_told_is_the_same_exit_status", || {
        let (_reader, full) = full_pipe();
        let disk = OwnedFd::from(File::options().write(true).open("/dev/full").unwrap());
        let stderr = io::stderr().as_fd().try_clone_to_owned().unwrap();
        for action in [libc::SIG_IGN, libc::SIG_DFL] {
            set_sigpipe(action);
            for file in [&full, &disk, &pipe_without_reader()] {
                put_at(2, file);
                let began = Instant::now();
                let status = process::fork(|| Err::<(), _>(Long))
                    .and_then(|child| child.join_timeout(PATIENCE));
                put_at(2, &stderr);
                let status = status.unwrap();
                assert_eq!((status.code(), status.signal()), (Some(1), None));
                // Up to a second for the first piece, which nothing reads, and no time for the
                // others.
                assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            }
        }
    });
}

#[test]
fn a_sigpipe_of_before_is_still_to_come() {
    alone("a_sigpipe_of_before_is_still_to_come", || {
        use crossproc_sys::streams::without_sigpipe;
        let is_pending = || {
            // SAFETY: zeroes are a set.
            let mut pending = unsafe { std::mem::zeroed() };
            // SAFETY: writes a set.
            assert_eq!(unsafe { libc::sigpending(&raw mut pending) }, 0);
            // SAFETY: written by the line above.
            unsafe { libc::sigismember(&raw const pending, libc::SIGPIPE) == 1 }
        };
        set_sigpipe(libc::SIG_DFL);
        let broken = pipe_without_reader();
        let write = || assert_eq!(rustix::io::write(&broken, b"x"), Err(rustix::io::Errno::PIPE));
        without_sigpipe(|| {
            write();
            assert!(is_pending());
            without_sigpipe(write);
            assert!(is_pending(), "the one of the outer write");
        });
        assert!(!is_pending());
        without_sigpipe(write);
    });
}
