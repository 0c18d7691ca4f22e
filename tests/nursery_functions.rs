//! A nursery that runs functions, in tests beside the runner's threads.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::{Builder, FnNursery, JoinHandle, Limit, NurseryError, Outcome};
use crossproc::{Connection, Lock, Shm, nursery};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod forked;
use forked::{PATIENCE, fork, join_all};

nursery! {
    /// Started before the test runner has any thread.
    static NURSERY
}

nursery!(static ANOTHER);
// A name that the macro might use itself.
nursery!(static START);

fn came_of<T: for<'de> Deserialize<'de>>(spawned: &JoinHandle<T>) -> Outcome<T> {
    spawned.join_timeout(PATIENCE).unwrap()
}

fn spelled(number: u32) -> String {
    format!("{number}")
}

#[test]
fn values_come_back_to_any_number_of_threads() {
    thread::scope(|scope| {
        for first in [0, 100, 200, 300] {
            scope.spawn(move || {
                for number in first..first + 25 {
                    let spawned = NURSERY.spawn(spelled, &number).unwrap();
                    assert_eq!(came_of(&spawned), Outcome::Returned(number.to_string()));
                }
            });
        }
    });
}

#[test]
fn a_large_argument_and_a_large_value_arrive() {
    let long = vec![7_u8; 4 << 20];
    let spawned = NURSERY.spawn(|bytes: Vec<u8>| [&bytes[..], &[8]].concat(), &long).unwrap();
    let Outcome::Returned(longer) = came_of(&spawned) else { panic!() };
    assert_eq!((&longer[..4 << 20], &longer[4 << 20..]), (&long[..], &[8][..]));
}

/// Adds one to whatever it is sent.
fn count(parent: Connection) -> i32 {
    let count: Shm<Lock<u32>> = parent.recv_handle().unwrap();
    *count.lock().unwrap() += 1;
    7
}

#[test]
fn functions_are_sent_handles_and_exit_with_their_codes() {
    let count_of_all = Shm::new(Lock::new(0_u32)).unwrap();
    let forked: Vec<_> = (0..4).map(|_| NURSERY.fork(count).unwrap()).collect();
    for (child, to_child) in forked {
        to_child.send_handle(&count_of_all).unwrap();
        assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(7));
    }
    assert_eq!(*count_of_all.lock().unwrap(), 4);
    // Of other types, by a time-out and a deadline.
    let (child, _) = NURSERY.fork_timeout(|_| (), PATIENCE).unwrap();
    assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(0));
    let until = Instant::now() + PATIENCE;
    let (child, _) = NURSERY.fork_deadline(|_| Err::<(), _>("no"), until).unwrap();
    assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(1));
    let spawned = NURSERY.spawn_timeout(spelled, &7, PATIENCE).unwrap();
    assert_eq!(came_of(&spawned), Outcome::Returned("7".into()));
    let spawned = NURSERY.spawn_deadline(spelled, &8, until).unwrap();
    assert_eq!(came_of(&spawned), Outcome::Returned("8".into()));
}

#[test]
fn nurseries_are_apart() {
    let parent = |()| crossproc_sys::ids::parent().unwrap().unwrap().as_raw_nonzero().get() as u32;
    for nursery in [&NURSERY, &ANOTHER, &START] {
        let spawned = nursery.spawn(parent, &()).unwrap();
        assert_eq!(came_of(&spawned), Outcome::Returned(nursery.id().unwrap()));
    }
    assert_ne!(NURSERY.id().unwrap(), ANOTHER.id().unwrap());
}

#[test]
fn what_a_function_does_instead_of_returning_is_told() {
    let came_of_it = |end: fn(i32)| came_of(&NURSERY.spawn(end, &7).unwrap());
    assert_eq!(came_of_it(|code| std::process::exit(code)), Outcome::Exited(7));
    assert_eq!(came_of_it(|_| std::process::abort()), Outcome::Killed(libc::SIGABRT));
    assert_eq!(came_of_it(|seven| panic!("at {seven}")), Outcome::Panicked("at 7".into()));
    let endless = |()| loop {
        thread::park();
    };
    let spawned: JoinHandle<()> = NURSERY.spawn(endless, &()).unwrap();
    assert_eq!(spawned.try_join().unwrap(), None);
    spawned.child().kill().unwrap();
    assert_eq!(came_of(&spawned), Outcome::Killed(libc::SIGKILL));
}

/// An argument that cannot be sent, or not be read.
#[derive(Debug)]
struct Odd {
    is_sent: bool,
}

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_sent {
            serializer.serialize_u8(7)
        } else {
            Err(serde::ser::Error::custom("not today"))
        }
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("what is this"))
    }
}

#[test]
fn an_argument_that_does_not_arrive_is_an_error_or_a_panic_that_says_why() {
    let error = NURSERY.spawn(|_: Odd| (), &Odd { is_sent: false }).unwrap_err();
    let NurseryError::Argument(error) = error else { panic!("{error}") };
    assert!(error.to_string().contains("not today"), "{error}");
    let spawned = NURSERY.spawn(|_: Odd| (), &Odd { is_sent: true }).unwrap();
    let Outcome::Panicked(text) = came_of(&spawned) else { panic!() };
    assert!(text.contains("did not arrive") && text.contains("what is this"), "{text}");
}

/// In a static program, libc is in the same object.
#[cfg(not(target_feature = "crt-static"))]
#[test]
fn a_function_of_another_library_is_refused() {
    // SAFETY: it is not called.
    let job = unsafe {
        std::mem::transmute::<*const (), fn(Connection) -> i32>(libc::getpid as *const ())
    };
    assert!(matches!(NURSERY.fork(job), Err(NurseryError::OtherLibrary)));
}

#[test]
fn children_ignore_broken_pipes_as_rust_programs_do() {
    let action = |()| {
        // SAFETY: zeroes are a valid action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: changes nothing, and writes a whole action.
        assert_eq!(unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), &raw mut action) }, 0);
        action.sa_sigaction as u64
    };
    assert_eq!(came_of(&NURSERY.spawn(action, &()).unwrap()), {
        Outcome::Returned(libc::SIG_IGN as u64)
    });
}

#[test]
fn one_that_was_not_started_says_why() {
    static NEVER: FnNursery = FnNursery::not_started();
    let Err(NurseryError::NotStarted(error)) = NEVER.fork(|_| ()) else { panic!() };
    assert!(error.to_string().contains(".init_array"), "{error}");
    assert!(matches!(NEVER.id(), Err(NurseryError::NotStarted(_))));
    assert!(FnNursery::not_started().join().is_err());
    // As in a library that is loaded late.
    static LATE: FnNursery = FnNursery::not_started();
    LATE.start_before_main();
    for _ in 0..2 {
        let Err(NurseryError::NotStarted(error)) = LATE.fork(|_| ()) else { panic!() };
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("thread"), "{error}");
    }
}

#[test]
fn a_forked_child_has_no_part_in_it() {
    join_all([fork(|| {
        assert!(matches!(NURSERY.fork(|_| ()), Err(NurseryError::Ended)));
        assert!(matches!(NURSERY.spawn(spelled, &7), Err(NurseryError::Ended)));
    })]);
    assert_eq!(came_of(&NURSERY.spawn(spelled, &7).unwrap()), Outcome::Returned("7".into()));
}

#[test]
fn a_process_that_has_ended_is_joined_without_waiting() {
    for _ in 0..50 {
        let spawned = NURSERY.spawn(spelled, &7).unwrap();
        assert!(crossproc_sys::pidfd::wait(&spawned, None).unwrap());
        assert_eq!(spawned.try_join().unwrap(), Some(Outcome::Returned("7".into())));
    }
}

#[test]
fn a_child_has_no_part_in_its_own_nursery() {
    let is_ended = |()| matches!(NURSERY.fork(|_| ()), Err(NurseryError::Ended));
    assert_eq!(came_of(&NURSERY.spawn(is_ended, &()).unwrap()), Outcome::Returned(true));
    let starts_again = |()| NURSERY.start_before_main();
    assert_eq!(came_of(&NURSERY.spawn(starts_again, &()).unwrap()), Outcome::Returned(()));
}

#[test]
fn an_argument_that_a_child_has_no_descriptor_for_is_an_error() {
    join_all([fork(|| {
        let nursery = Builder::new().limit(Limit::Descriptors, 3).fn_nursery().unwrap();
        let spawned = nursery.spawn(|bytes: Vec<u8>| bytes.len(), &vec![7; 4 << 20]).unwrap();
        let error = spawned.join_timeout(PATIENCE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("had not received what it was to call"), "{error}");
        // A short one needs none.
        let spawned = nursery.spawn(spelled, &8).unwrap();
        assert_eq!(came_of(&spawned), Outcome::Returned("8".into()));
    })]);
}

/// Returns the number of a file that is opened.
fn opened(_: ()) -> i32 {
    std::fs::File::open("/dev/null").unwrap().as_raw_fd()
}

#[test]
#[ignore = "the next test runs it, with the standard streams closed"]
fn with_closed_streams() {
    assert!(matches!(came_of(&NURSERY.spawn(opened, &()).unwrap()), Outcome::Returned(3..)));
}

fn close_standard_streams() -> io::Result<()> {
    for number in 0..3 {
        // SAFETY: a program is about to take this one's place.
        unsafe { libc::close(number) };
    }
    Ok(())
}

#[test]
fn closed_standard_streams_are_no_files_of_a_childs() {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--ignored", "--exact", "with_closed_streams"]);
    // SAFETY: the closure makes system calls alone.
    unsafe { program.pre_exec(close_standard_streams) };
    assert!(program.status().unwrap().success());
}

#[test]
fn a_stopped_helper_holds_up_nobody_past_a_time_out() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    join_all([fork(|| {
        let nursery = Builder::new().daemon(true).fn_nursery().unwrap();
        let helper = rustix::process::Pid::from_raw(nursery.id().unwrap() as i32).unwrap();
        rustix::process::kill_process(helper, rustix::process::Signal::STOP).unwrap();
        let short = Duration::from_millis(20);
        let late = nursery.fork_timeout(|_| _ = RUNS.fetch_add(1, AcqRel), short);
        assert!(matches!(late, Err(NurseryError::TimedOut)), "{late:?}");
        let late = nursery.spawn_timeout(spelled, &7, short);
        assert!(matches!(late, Err(NurseryError::TimedOut)), "{late:?}");
        rustix::process::kill_process(helper, rustix::process::Signal::CONT).unwrap();
        let spawned = nursery.spawn(spelled, &8).unwrap();
        assert_eq!(came_of(&spawned), Outcome::Returned("8".into()));
        assert!(nursery.join().unwrap().success());
    })]);
    assert_eq!(RUNS.load(Acquire), 0, "a child has its own, and this process has run nothing");
}
