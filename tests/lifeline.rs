//! What a forked child does about its parent's lifeline, whatever the numbers lead to by then.

#![allow(unsafe_code)]

use std::fs::File;
use std::hint::spin_loop;
use std::process::Command;
use std::thread;

use crossproc::process::{Builder, CommandExt};
use crossproc_sys::lifeline::Lifeline;
use crossproc_sys::process::exit_now;

mod forked;
mod refused;
use forked::{close_all_but_standard_streams, fork, join_all};

/// Forks past the crate, and returns the child's wait status. The child runs libc's handlers alone
/// and then `body`.
fn forked_past_the_crate(body: impl FnOnce()) -> i32 {
    // SAFETY: the child makes system calls alone.
    let child = unsafe { libc::fork() };
    if child == 0 {
        body();
        exit_now(0);
    }
    let mut status = -1;
    // SAFETY: waits for the child above and writes its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

/// The kernel copies descriptors before it copies memory. So a child may know the numbers of a line
/// that it does not have.
#[test]
fn a_child_is_forked_while_another_thread_makes_the_line() {
    /// Without the check, one in 50 had a child that aborted.
    const ROUNDS: u32 = 100;
    for round in 0..ROUNDS / forked::slowness() {
        let making = fork(move || {
            let forking = thread::spawn(|| (0..40).all(|_| forked_past_the_crate(|| ()) == 0));
            for _ in 0..round * 37 % 20_000 {
                spin_loop();
            }
            Lifeline::of_this_process().unwrap();
            assert!(forking.join().unwrap(), "a child was aborted");
        });
        join_all([making]);
    }
}

#[test]
fn a_daemon_is_not_tied_to_what_has_taken_the_lines_number() {
    let process = fork(|| {
        let mut program = Command::new("true");
        program.daemon().unwrap();
        close_all_but_standard_streams();
        let _taken = [(); 16].map(|()| File::open("/proc/self/exe").unwrap());
        let error = program.start().unwrap_err();
        assert!(error.to_string().contains("os error 9"), "EBADF: {error}");
    });
    join_all([process]);
}

#[test]
fn a_child_keeps_no_write_end_though_a_sandbox_does_not_tell_which_file_it_is() {
    let process = fork(|| {
        Lifeline::of_this_process().unwrap();
        let open = || (0..64).filter(|&number| is_open(number)).count();
        let before = open();
        let calls = [libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx];
        refused::refuse(&calls.map(|call| refused::call(call, libc::EPERM)));
        // Nor does it keep what ties this process to its own parent.
        assert_eq!(forked_past_the_crate(|| assert_eq!(open(), before - 2)), 0);
    });
    join_all([process]);
}

fn is_open(number: i32) -> bool {
    // SAFETY: takes no argument; the number may be closed.
    unsafe { libc::fcntl(number, libc::F_GETFD) != -1 }
}

#[test]
fn a_child_leaves_alone_what_has_taken_the_numbers_of_a_closed_line() {
    let process = fork(|| {
        Lifeline::of_this_process().unwrap();
        close_all_but_standard_streams();
        assert_eq!(forked_past_the_crate(|| ()), 0, "the numbers lead nowhere");
        let taken = [(); 16].map(|()| File::open("/dev/null").unwrap());
        let generations = || {
            let are_open = || taken.iter().all(|file| file.metadata().is_ok());
            assert!(are_open());
            // The read end is inherited, and closed by the next generation.
            assert_eq!(forked_past_the_crate(|| assert!(are_open())), 0);
        };
        assert_eq!(forked_past_the_crate(generations), 0);
        // A daemon hangs on a new line.
        assert!(Builder::new().daemon(true).fork(|| ()).unwrap().join().unwrap().success());
        assert!(taken.iter().all(|file| file.metadata().is_ok()));
    });
    join_all([process]);
}
