//! A command that fails changes nothing and says why: an `exec` that fails, and calls in an order
//! in which they make no sense.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crossproc::process::{self, CommandExt, InheritError};
use crossproc::{Lock, Shm};

mod forked;
use forked::{PATIENCE, enter_pid_namespace, fork, join_all};

const ROLE: &str = "CROSSPROC_TEST_ROLE";

/// Returns the descriptors that a program would inherit.
fn inheritable() -> Vec<i32> {
    // SAFETY: it only reads the flags of numbers that may be closed.
    (0..256).filter(|&number| unsafe { libc::fcntl(number, libc::F_GETFD) } == 0).collect()
}

fn number() -> Shm<Lock<u64>> {
    Shm::new(Lock::new(0)).unwrap()
}

/// Returns a command that runs this program again, with only the test that adds one to the number.
fn this_program() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "role_that_adds_one", "--nocapture"])
        .env(ROLE, "1")
        .stdout(Stdio::null());
    command
}

/// Not a test by itself: the body of `this_program`.
#[test]
fn role_that_adds_one() {
    if std::env::var_os(ROLE).is_some() {
        let number: Shm<Lock<u64>> = process::inherited("number").unwrap();
        *number.lock().unwrap() += 1;
    }
}

#[test]
fn after_an_exec_that_fails_nothing_that_was_shared_is_inherited() {
    join_all([fork(|| {
        let (number, before) = (number(), inheritable());
        let mut command = Command::new("/no/such/program");
        command.share("number", &number).unwrap().share("again", &number).unwrap();
        for _ in 0..2 {
            let error = command.replace();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
            assert_eq!(inheritable(), before);
        }
        // The command fails in `pre_exec`, before the program is executed.
        // SAFETY: the closure does nothing but fail.
        unsafe { command.pre_exec(|| Err(io::ErrorKind::NotSeekable.into())) };
        command.share("a_third_time", &number).unwrap();
        assert_eq!(command.replace().kind(), io::ErrorKind::NotSeekable);
        assert_eq!(inheritable(), before);
        // A start after that finds the command unchanged.
        command.start().unwrap_err();
        assert_eq!(inheritable(), before);
    })]);
}

#[test]
fn std_s_own_exec_is_refused_what_it_would_leave_open() {
    // An exit code that the program would not use.
    const REFUSED: i32 = 3;
    fn refused(command: &mut Command) {
        let before = inheritable();
        let error = command.exec();
        assert!(
            error.kind() == io::ErrorKind::Unsupported
                && error.to_string().contains("CommandExt::replace"),
            "{error}"
        );
        assert_eq!(inheritable(), before);
    }
    let number = number();
    let theirs = number.clone();
    let child = fork(move || {
        let mut command = this_program();
        command.share("number", &theirs).unwrap();
        refused(&mut command);
        // It is also refused in a process that was forked with the command.
        let child = process::fork(move || {
            refused(&mut command);
            // std's other ways to start it pass the handle on.
            assert!(command.status().unwrap().success());
            assert!(command.start().unwrap().join().unwrap().success());
            REFUSED
        });
        child.unwrap().join().unwrap().code().unwrap()
    });
    assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(REFUSED));
    assert_eq!(*number.lock().unwrap(), 2);
}

#[test]
fn the_first_process_of_a_pid_namespace_starts_programs_in_another_one() {
    join_all([fork(|| {
        enter_pid_namespace();
        let child = process::fork(|| {
            let mut command = Command::new("true");
            command.share("number", &number()).unwrap();
            enter_pid_namespace();
            // The program gets the same pid as this process: 1.
            command.status().unwrap().success().then_some(()).ok_or("it was not started")
        });
        assert!(child.unwrap().join_timeout(PATIENCE).unwrap().success());
    })]);
}

#[test]
fn a_process_is_replaced_by_a_program_that_has_what_was_shared() {
    let number = number();
    let theirs = number.clone();
    join_all([fork(move || -> i32 {
        let error = this_program().share("number", &theirs).unwrap().replace();
        panic!("{error}");
    })]);
    assert_eq!(*number.lock().unwrap(), 1);
}

#[test]
fn a_process_is_replaced_by_a_program_that_would_be_a_daemon_if_it_were_started() {
    let number = number();
    let theirs = number.clone();
    join_all([fork(move || -> i32 {
        let error = this_program().share("number", &theirs).unwrap().daemon().unwrap().replace();
        panic!("{error}");
    })]);
    assert_eq!(*number.lock().unwrap(), 1);
}

#[test]
fn what_is_shared_before_its_name_is_removed_is_an_error_that_says_so() {
    let number = number();
    let removals: [fn(&mut Command); 2] = [
        |command| {
            command.env_clear();
        },
        |command| {
            command.env_remove("CROSSPROC_HANDLE_number");
        },
    ];
    for remove in removals {
        // It is also refused where the command was started before.
        for is_started_before in [false, true] {
            let mut command = this_program();
            command.share("other", &number).unwrap();
            if is_started_before {
                command.share("number", &number).unwrap();
                join_all([command.start().unwrap()]);
            }
            command.share("number", &number).unwrap();
            remove(&mut command);
            command.env("CROSSPROC_HANDLE_other", "");
            let before = *number.lock().unwrap();
            let check = |error: io::Error| {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
                let text = error.to_string();
                assert!(
                    text.contains("env_clear") && text.contains("CROSSPROC_HANDLE_number"),
                    "{text}"
                );
            };
            check(command.start().unwrap_err());
            // `replace` runs in a process of its own, as it replaces the standard output.
            join_all([fork(|| check(command.replace()))]);
            assert_eq!(*number.lock().unwrap(), before, "nothing was started");
            // The other order works.
            command.env(ROLE, "1").share("number", &number).unwrap();
            join_all([command.start().unwrap()]);
            assert_eq!(*number.lock().unwrap(), before + 1);
        }
    }
}

#[test]
fn a_program_that_finds_nothing_is_told_what_may_have_been_done() {
    let error = process::inherited::<Shm<Lock<u64>>>("nothing_of_this_name").unwrap_err();
    assert!(
        matches!(error, InheritError::NotShared { .. }) && error.to_string().contains("env_clear"),
        "{error}"
    );
}

#[test]
fn a_command_that_is_started_often_has_no_more_to_do_each_time() {
    let mut command = Command::new("true");
    join_all([command.start().unwrap()]);
    let before = format!("{:?}", command.get_envs());
    for _ in 0..3 {
        join_all([command.start().unwrap()]);
    }
    assert_eq!(format!("{:?}", command.get_envs()), before);
}
