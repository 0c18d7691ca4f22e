//! Children that something else reaps: the kernel, since SIGCHLD is ignored, or a wait for any
//! child.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt};
use std::process::Command;
use std::ptr;

use crossproc::process::{self, Child, CommandExt, StatusLost};
use crossproc::{Event, Shm};

mod forked;
mod refused;
use forked::{PATIENCE, close_all_but_standard_streams, fork, join_all};
use refused::call;

/// Returns whether this kernel keeps the exit status for holders of a pidfd.
fn keeps_statuses() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(|byte: char| !byte.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

/// Refuses PIDFD_GET_INFO, as older kernels do.
fn be_an_older_kernel() {
    refused::refuse(&[call(libc::SYS_ioctl, libc::ENOTTY).if_argument(1, 0xc040_ff0b)]);
}

extern "C" fn reap_all(_: i32) {
    // SAFETY: it asks for no status; a handler may call it.
    let wait = || unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) };
    // SAFETY: always the errno of this thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { errno.read() };
    while wait() > 0 {}
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Ignoring,
    NoChildWait,
    Handler,
}

impl By {
    const ALL: [By; 3] = [By::Ignoring, By::NoChildWait, By::Handler];

    /// Lets the children of this process be reaped in this way.
    fn set(self) {
        // SAFETY: zeroes are a valid action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        (action.sa_sigaction, action.sa_flags) = match self {
            By::Ignoring => (libc::SIG_IGN, 0),
            By::NoChildWait => (libc::SIG_DFL, libc::SA_NOCLDWAIT),
            By::Handler => (reap_all as extern "C" fn(i32) as libc::sighandler_t, libc::SA_RESTART),
        };
        assert_eq!(
            // SAFETY: the handler only makes a system call.
            unsafe { libc::sigaction(libc::SIGCHLD, &raw const action, ptr::null_mut()) },
            0
        );
    }
}

/// Asserts that the end of a child is reported with this code or signal, or that it is reported as
/// lost.
fn assert_told(child: &Child, code: Option<i32>, signal: Option<i32>, by: By) {
    let result = child.join_timeout(PATIENCE);
    // A handler may come too late to reap the child.
    if keeps_statuses() || (by == By::Handler && result.is_ok()) {
        let status = result.unwrap();
        assert_eq!((status.code(), status.signal()), (code, signal));
        assert_eq!(child.join().unwrap(), status, "the second time it is the same");
    } else {
        assert_lost(&result.unwrap_err(), child, by);
        assert_lost(&child.try_join().unwrap_err(), child, by);
    }
    assert!(!child.is_alive().unwrap());
    // Signals to a child that is gone do nothing, even if its pid has been reused.
    child.kill().unwrap();
}

fn assert_lost(error: &io::Error, child: &Child, by: By) {
    let lost = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<StatusLost>())
        .unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(lost.id(), child.id());
    let text = error.to_string();
    let reason = if by == By::Handler { "a wait for any child" } else { "ignores SIGCHLD" };
    assert!(text.contains(reason) && text.contains("its exit status is lost"), "{text}");
}

#[test]
fn a_forked_child_that_somebody_else_reaps_is_told_of() {
    for by in By::ALL {
        join_all([fork(move || {
            by.set();
            for code in [0, 7, 255] {
                assert_told(&process::fork(move || code).unwrap(), Some(code), None, by);
            }
            let child = process::fork(|| -> () {
                loop {
                    std::thread::park();
                }
            });
            let child = child.unwrap();
            assert_eq!(child.try_join().unwrap(), None);
            child.kill().unwrap();
            assert_told(&child, None, Some(libc::SIGKILL), by);
        })]);
    }
}

#[test]
fn a_started_program_that_somebody_else_reaps_is_told_of() {
    for by in By::ALL {
        join_all([fork(move || {
            by.set();
            // Many rounds: each child may or may not have ended before `start` returns.
            for round in 0..60 {
                let (script, code, signal) = [
                    ("exit 0", Some(0), None),
                    ("exit 7", Some(7), None),
                    ("kill -9 $$", None, Some(libc::SIGKILL)),
                ][round % 3];
                let child = Command::new("sh").args(["-c", script]).start().unwrap();
                assert_told(&child, code, signal, by);
            }
            // A living child is the program that was started.
            let child = Command::new("sleep").arg("1000").start().unwrap();
            let name = std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
            assert_eq!(name, "sleep\n");
            child.terminate().unwrap();
            assert_told(&child, None, Some(libc::SIGTERM), by);
        })]);
    }
}

#[test]
fn a_started_program_that_closes_what_it_does_not_know_is_told_of() {
    for by in By::ALL {
        join_all([fork(move || {
            by.set();
            let mut command = Command::new("sh");
            command.args(["-c", "exit 7"]);
            // SAFETY: the closure only makes system calls. The parent learns that the program runs
            // from the end of a stream, even of one that is closed here.
            unsafe {
                command.pre_exec(|| {
                    close_all_but_standard_streams();
                    Ok(())
                })
            };
            // The first start, and a later one, which adds no second closure.
            for _ in 0..2 {
                assert_told(&command.start().unwrap(), Some(7), None, by);
            }
        })]);
    }
}

#[test]
fn on_an_older_kernel_its_status_is_lost_and_the_error_says_why() {
    for by in By::ALL {
        join_all([fork(move || {
            be_an_older_kernel();
            by.set();
            let forked = process::fork(|| 7).unwrap();
            let started = Command::new("true").start().unwrap();
            for child in [forked, started] {
                match child.join_timeout(PATIENCE) {
                    // The handler came too late.
                    Ok(_) if by == By::Handler => {}
                    result => assert_lost(&result.unwrap_err(), &child, by),
                }
            }
        })]);
    }
    join_all([fork(|| {
        be_an_older_kernel();
        let child = process::fork(|| ()).unwrap();
        // SAFETY: it waits for any child and asks for no status.
        assert!(unsafe { libc::waitpid(-1, ptr::null_mut(), 0) } > 0);
        assert_lost(&child.join_timeout(PATIENCE).unwrap_err(), &child, By::Handler);
    })]);
}

#[test]
fn only_the_process_that_started_it_can_join_one_that_lives() {
    join_all([fork(|| {
        let end = Shm::new(Event::new()).unwrap();
        let theirs = end.clone();
        let sibling = process::fork(move || theirs.wait()).unwrap();
        let other = process::fork(move || {
            let error = sibling.try_join().unwrap_err();
            let is_lost = error
                .get_ref()
                .is_some_and(<dyn std::error::Error + Send + Sync>::is::<StatusLost>);
            assert!(
                is_lost && (!keeps_statuses() || error.to_string().contains("did not start it")),
                "{error}"
            );
            end.set();
        });
        assert!(other.unwrap().join_timeout(PATIENCE).unwrap().success());
    })]);
}

#[test]
fn a_program_that_cannot_be_executed_is_an_error_there_too() {
    for by in By::ALL {
        join_all([fork(move || {
            by.set();
            let error = Command::new("/no/such/program").start().unwrap_err();
            let is_told = error.kind() == io::ErrorKind::NotFound
                || error.to_string().contains("could not be executed");
            assert!(is_told, "{error:?}");
            // Nothing of it is left.
            assert_told(&process::fork(|| 7).unwrap(), Some(7), None, by);
        })]);
    }
}
