//! What comes of a process that is to return a value.

#![allow(unsafe_code)]

use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::panic::{panic_any, set_hook};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::{self, Builder, JoinHandle, NotReturned, Outcome, StatusLost};
use crossproc::{Event, Shm, pipe};
use crossproc_sys::process::exit_now;
use rustix::pipe::fcntl_getpipe_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize, Serializer};

mod forked;
mod refused;
use forked::{PATIENCE, fork, join_all};
use refused::call;

/// Runs a test in a process with one thread, whose panics are not printed in its children.
fn alone(test: impl FnOnce() + Send) {
    join_all([fork(test)]);
}

fn quietly<T>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T>
where
    T: Serialize + for<'de> Deserialize<'de>,
{
    process::spawn(move || {
        set_hook(Box::new(|_| ()));
        body()
    })
    .unwrap()
}

fn came_of<T>(body: impl FnOnce() -> T + Send + 'static) -> Outcome<T>
where
    T: Serialize + for<'de> Deserialize<'de>,
{
    quietly(body).join_timeout(PATIENCE).unwrap()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Words(Vec<String>),
    Nothing { since: Option<u64> },
}

#[test]
fn a_value_comes_back_whatever_its_size() {
    alone(|| {
        for answer in [Answer::Words(vec!["Rome".into()]), Answer::Nothing { since: Some(7) }] {
            let theirs = answer.clone();
            assert_eq!(came_of(move || theirs), Outcome::Returned(answer));
        }
        assert_eq!(came_of(|| ()).into_result(), Ok(()));
        for len in [1, 1 << 10, 100 << 10, 10 << 20] {
            let Outcome::Returned(bytes) = came_of(move || vec![7_u8; len]) else { panic!() };
            assert!(bytes.len() == len && bytes.iter().all(|&byte| byte == 7));
        }
        let refused: Result<(), String> = Err("no".into());
        assert_eq!(came_of(|| Err::<(), _>("no".to_owned())), Outcome::Returned(refused));
    });
}

#[test]
fn what_a_process_does_instead_of_returning_is_told() {
    alone(|| {
        let at = black_box(7);
        assert_eq!(came_of(move || -> () { panic!("at {at}") }), Outcome::Panicked("at 7".into()));
        assert_eq!(came_of(|| -> () { panic!("late") }), Outcome::Panicked("late".into()));
        let odd = came_of(|| -> () { panic_any(7) });
        assert_eq!(odd, Outcome::Panicked("(a payload that is no text)".into()));
        assert_eq!(came_of(|| -> () { exit_now(3) }), Outcome::Exited(3));
        assert_eq!(came_of(|| -> () { exit_now(0) }), Outcome::Exited(0));
        assert_eq!(came_of(|| -> () { std::process::abort() }), Outcome::Killed(libc::SIGABRT));
    });
}

#[test]
fn the_exit_code_says_it_to_others() {
    alone(|| {
        let code = |child: &process::Child| child.join_timeout(PATIENCE).unwrap().code();
        assert_eq!(code(quietly(|| 7).child()), Some(0));
        assert_eq!(code(quietly(|| -> () { panic!() }).child()), Some(101));
        assert_eq!(code(quietly(|| Stubborn).child()), Some(1));
    });
}

#[test]
fn a_text_says_what_came_instead_of_a_value() {
    let texts = [
        (Outcome::Panicked("late".into()), "a spawned process panicked: late"),
        (Outcome::Exited(3), "a spawned process exited with code 3, and returned no value"),
        (Outcome::Killed(9), "a spawned process was killed by signal 9"),
        (
            Outcome::Unknown,
            "a spawned process has ended without a value, and how it ended is not known",
        ),
    ];
    for (outcome, text) in texts {
        let error: NotReturned = outcome.clone().into_result().unwrap_err();
        assert_eq!(error.to_string(), text);
        assert_eq!(*error.outcome(), outcome);
    }
}

/// A value that refuses to be made into bytes.
#[derive(Debug, Deserialize)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not today"))
    }
}

/// A value whose bytes are not those of its type.
#[derive(Debug)]
struct Misread;

impl Serialize for Misread {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(7)
    }
}

impl<'de> Deserialize<'de> for Misread {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|_| Misread)
    }
}

#[test]
fn a_value_that_cannot_be_sent_or_read_is_an_error_that_says_why() {
    alone(|| {
        let child = quietly(|| Stubborn);
        for _ in 0..2 {
            let error = child.join_timeout(PATIENCE).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            let text = error.to_string();
            assert!(text.contains("not today") && text.contains("Stubborn"), "{text}");
        }
        let error = quietly(|| Misread).join_timeout(PATIENCE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("Misread"), "{error}");
    });
}

#[test]
fn a_child_without_room_for_its_value_says_so() {
    alone(|| {
        let child = process::spawn(|| {
            refused::refuse(&[call(libc::SYS_memfd_create, libc::EMFILE)]);
            vec![7_u8; 10 << 20]
        });
        let error = child.unwrap().join_timeout(PATIENCE).unwrap_err();
        assert!(error.to_string().contains("could not send"), "{error}");
    });
}

/// Leaves this process no free descriptor while it acts.
fn without_descriptors<R>(act: impl FnOnce() -> R) -> R {
    let before = getrlimit(Resource::Nofile);
    let free = fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(free), ..before }).unwrap();
    let result = act();
    setrlimit(Resource::Nofile, before).unwrap();
    result
}

#[test]
fn a_join_that_fails_for_want_of_a_descriptor_loses_nothing() {
    alone(|| {
        let child = quietly(|| vec![7_u8; 2 << 20]);
        child.child().join_timeout(PATIENCE).unwrap();
        for _ in 0..2 {
            let error = without_descriptors(|| child.join_timeout(PATIENCE)).unwrap_err();
            assert_ne!(error.kind(), io::ErrorKind::TimedOut);
        }
        let Outcome::Returned(bytes) = child.join_timeout(PATIENCE).unwrap() else { panic!() };
        assert_eq!(bytes.len(), 2 << 20);
    });
}

#[test]
fn a_long_message_of_a_panic_is_told_in_part_whatever_is_refused() {
    alone(|| {
        let came = came_of(|| -> () {
            refused::refuse(&[call(libc::SYS_memfd_create, libc::EMFILE)]);
            panic_any("x".repeat(4 << 20))
        });
        assert_eq!(came, Outcome::Panicked("x".repeat(2 << 10)));
    });
}

#[test]
fn joins_of_many_threads_return_the_same() {
    alone(|| {
        let go = Shm::new(Event::new()).unwrap();
        let theirs = go.clone();
        let child = quietly(move || {
            theirs.wait_timeout(PATIENCE).unwrap();
            "Rome".to_owned()
        });
        assert_eq!(child.try_join().unwrap(), None);
        let late = child.join_timeout(Duration::from_millis(20)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let late = child.join_deadline(Instant::now()).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let joined = child.join_timeout(PATIENCE).unwrap();
                    assert_eq!(joined, Outcome::Returned("Rome".to_owned()));
                });
            }
            go.set();
        });
        assert_eq!(child.join().unwrap().into_result().unwrap(), "Rome");
        assert_eq!(child.try_join().unwrap(), Some(Outcome::Returned("Rome".to_owned())));
    });
}

#[test]
fn a_value_that_was_told_counts_though_the_process_was_killed_then() {
    alone(|| {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let child = process::spawn(move || {
            // SAFETY: puts a descriptor in the place of the standard output.
            assert_eq!(unsafe { libc::dup2(writer.as_raw_fd(), 1) }, 1);
            rustix::io::write(&writer, &vec![b'x'; fcntl_getpipe_size(&writer).unwrap()]).unwrap();
            // Buffered, since no line ends. It is flushed at the end, and the pipe is full.
            io::stdout().write_all(b"x").unwrap();
            7
        })
        .unwrap();
        let of_child = format!("/proc/{}/syscall", child.child().id());
        forked::wait_until("the child flushes", || {
            let call = fs::read_to_string(&of_child);
            call.is_ok_and(|call| call.starts_with(&format!("{} 0x1 ", libc::SYS_write)))
        });
        child.child().kill().unwrap();
        assert_eq!(child.join_timeout(PATIENCE).unwrap(), Outcome::Returned(7));
        drop(reader);
    });
}

#[test]
fn a_grandchild_that_keeps_the_end_holds_up_nobody() {
    alone(|| {
        let (kept, ended) = pipe().unwrap();
        let child = Builder::new()
            .close(&ended)
            .spawn(move || -> () {
                // SAFETY: the grandchild makes system calls alone.
                if unsafe { libc::fork() } == 0 {
                    let _ = kept.recv();
                    exit_now(0);
                }
                exit_now(3)
            })
            .unwrap();
        assert_eq!(child.join_timeout(PATIENCE).unwrap(), Outcome::Exited(3));
        drop(ended);
    });
}

#[test]
fn an_end_that_nobody_can_tell_of_is_unknown_and_a_value_counts_all_the_same() {
    alone(|| {
        refused::refuse(&[call(libc::SYS_ioctl, libc::ENOTTY).if_argument(1, 0xc040_ff0b)]);
        // SAFETY: this process's children are reaped by the kernel.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        assert_eq!(came_of(|| -> () { exit_now(3) }), Outcome::Unknown);
        assert_eq!(came_of(|| 7), Outcome::Returned(7));
    });
}

#[test]
fn another_process_cannot_join() {
    alone(not_joined_by_another);
    // As before Linux 6.15.
    alone(|| {
        refused::refuse(&[call(libc::SYS_ioctl, libc::ENOTTY).if_argument(1, 0xc040_ff0b)]);
        not_joined_by_another();
    });
}

fn not_joined_by_another() {
    let child = quietly(|| 7);
    let sibling = process::fork(move || {
        let error = child.join_timeout(PATIENCE).unwrap_err();
        assert!(error.get_ref().unwrap().is::<StatusLost>(), "{error}");
    });
    assert!(sibling.unwrap().join_timeout(PATIENCE).unwrap().success());
}
