//! Functions that are called in started programs, from tests beside the runner's threads.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr;
use std::thread;

use crossproc::process::{self, CommandExt, Function, JoinHandle, Outcome};
use crossproc::{Lock, Shm, serve};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod forked;
use forked::PATIENCE;

static SPELL: Function<u32, String> = Function::new("spell", |number| number.to_string());
static LENGTHEN: Function<Vec<u8>, Vec<u8>> = Function::new("lengthen", |mut bytes| {
    bytes.push(8);
    bytes
});
static END: Function<i32, ()> = Function::new("end", |how| match how {
    0 => std::process::abort(),
    1 => panic!("at {how}"),
    code => std::process::exit(code),
});
static STAY: Function<(), ()> = Function::new("stay", |()| {
    loop {
        thread::park();
    }
});
static ADD: Function<u64, ()> = Function::new("add", |number| {
    let total: Shm<Lock<u64>> = process::inherited("total").unwrap();
    *total.lock().unwrap() += number;
});
static ON_BROKEN_PIPES: Function<(), u64> = Function::new("on broken pipes", |()| {
    // SAFETY: zeroes are a valid action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: changes nothing, and writes a whole action.
    assert_eq!(unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), &raw mut action) }, 0);
    action.sa_sigaction as u64
});
static OPENED: Function<(), i32> =
    Function::new("opened", |()| std::fs::File::open("/dev/null").unwrap().as_raw_fd());
static TAKE: Function<Odd, ()> = Function::new("take", |_| ());
/// Is itself called in a started program, and starts another one.
static NEST: Function<u32, String> = Function::new("nest", |number| match number {
    0 => "bottom".to_owned(),
    _ => format!(
        "{} {number}",
        NEST.start(&(number - 1)).unwrap().join().unwrap().into_result().unwrap()
    ),
});

serve!(SPELL, LENGTHEN, END, STAY, ADD, ON_BROKEN_PIPES, OPENED, TAKE, NEST);

/// These are not served, or not as this.
static ABSENT: Function<(), ()> = Function::new("absent", |()| ());
static SPELL_OTHERWISE: Function<u64, String> = Function::new("spell", |_| String::new());

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

fn came_of<T: for<'de> Deserialize<'de>>(started: &JoinHandle<T>) -> Outcome<T> {
    started.join_timeout(PATIENCE).unwrap()
}

fn this_program() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

/// Returns the text of a join's error, which is the same each time.
fn refusal<T: for<'de> Deserialize<'de> + std::fmt::Debug>(started: &JoinHandle<T>) -> String {
    let [error, again] = [(); 2].map(|()| started.join_timeout(PATIENCE).unwrap_err());
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert_eq!(error.to_string(), again.to_string());
    error.to_string()
}

#[test]
fn values_come_back_to_any_number_of_threads() {
    thread::scope(|scope| {
        for first in [0, 100, 200, 300] {
            scope.spawn(move || {
                for number in first..first + 5 {
                    let started = SPELL.start(&number).unwrap();
                    assert_eq!(came_of(&started), Outcome::Returned(number.to_string()));
                }
            });
        }
    });
}

#[test]
fn a_large_argument_and_a_large_value_arrive() {
    let long = vec![7; 4 << 20];
    let Outcome::Returned(longer) = came_of(&LENGTHEN.start(&long).unwrap()) else { panic!() };
    assert_eq!((&longer[..4 << 20], &longer[4 << 20..]), (&long[..], &[8][..]));
}

#[test]
fn what_a_function_does_instead_of_returning_is_told() {
    let started = |how| came_of(&END.start(&how).unwrap());
    assert_eq!(started(0), Outcome::Killed(libc::SIGABRT));
    assert_eq!(started(1), Outcome::Panicked("at 1".into()));
    assert_eq!(started(7), Outcome::Exited(7));
    let stays = STAY.start(&()).unwrap();
    assert_eq!(stays.try_join().unwrap(), None);
    stays.child().kill().unwrap();
    assert_eq!(came_of(&stays), Outcome::Killed(libc::SIGKILL));
}

#[test]
fn a_command_shares_handles_and_makes_a_daemon() {
    let total = Shm::new(Lock::new(5_u64)).unwrap();
    let mut program = this_program();
    program.share("total", &total).unwrap().daemon().unwrap();
    assert_eq!(came_of(&ADD.start_by(program, &7).unwrap()), Outcome::Returned(()));
    assert_eq!(*total.lock().unwrap(), 12);
}

#[test]
fn broken_pipes_are_ignored_as_in_rust_programs() {
    let came = came_of(&ON_BROKEN_PIPES.start(&()).unwrap());
    assert_eq!(came, Outcome::Returned(libc::SIG_IGN as u64));
}

fn close_standard_streams() -> io::Result<()> {
    for number in 0..3 {
        // SAFETY: a program is about to take this one's place.
        unsafe { libc::close(number) };
    }
    Ok(())
}

#[test]
fn closed_standard_streams_are_no_files_of_a_functions() {
    let mut program = this_program();
    // SAFETY: the closure makes system calls alone.
    unsafe { program.pre_exec(close_standard_streams) };
    assert!(matches!(came_of(&OPENED.start_by(program, &()).unwrap()), Outcome::Returned(3..)));
}

#[test]
fn a_function_may_start_others() {
    assert_eq!(came_of(&NEST.start(&3).unwrap()), Outcome::Returned("bottom 1 2 3".into()));
}

#[test]
fn a_function_that_is_not_served_or_not_as_this_is_an_error_that_says_so() {
    let text = refusal(&ABSENT.start(&()).unwrap());
    assert!(text.contains(r#"serves no function "absent""#), "{text}");
    let text = refusal(&SPELL_OTHERWISE.start(&7).unwrap());
    assert!(text.contains("fn(u32) -> alloc::string::String, not as fn(u64)"), "{text}");
}

#[test]
fn a_program_that_does_not_serve_is_an_error_unless_it_was_killed() {
    let text = refusal(&SPELL.start_by(Command::new("true"), &7).unwrap());
    assert!(text.contains("exited with code 0, and had not called process::serve"), "{text}");
    let mut sleeps = Command::new("sleep");
    sleeps.arg("1000");
    let started = SPELL.start_by(sleeps, &7).unwrap();
    started.child().kill().unwrap();
    assert_eq!(came_of(&started), Outcome::Killed(libc::SIGKILL));
}

#[test]
fn what_cannot_be_started_is_an_error() {
    let error = SPELL.start_by(Command::new("/no/such/program"), &7).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let error = TAKE.start(&Odd { is_sent: false }).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("not today"), "{error}");
}

#[test]
fn an_argument_that_cannot_be_read_is_a_panic_that_says_why() {
    let Outcome::Panicked(text) = came_of(&TAKE.start(&Odd { is_sent: true }).unwrap()) else {
        panic!()
    };
    assert!(text.contains("did not arrive") && text.contains("what is this"), "{text}");
}

#[test]
fn serving_returns_at_once_in_a_program_that_nobody_has_started_for_a_function() {
    process::serve(&[&SPELL, &END]);
}

#[test]
#[should_panic(expected = r#"two functions that are served are called "spell""#)]
fn two_functions_of_one_name_are_refused() {
    process::serve(&[&SPELL, &END, &SPELL_OTHERWISE]);
}

/// The name of a variable that has this program start a function before it serves.
const EARLY: &str = "CROSSPROC_TEST_EARLY";

/// Runs before what `serve!` runs: the number says in which order.
#[used]
#[unsafe(link_section = ".init_array.00200")]
static START_EARLY: extern "C" fn() = {
    extern "C" fn start_early() {
        if std::env::var_os(EARLY).is_some() {
            let mut program = this_program();
            program.env_remove(EARLY);
            let error = SPELL.start_by(program, &7).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            assert!(error.to_string().contains("process::serve"), "{error}");
            std::process::exit(42);
        }
    }
    start_early
};

#[test]
fn a_program_that_starts_functions_before_it_serves_does_not_start_itself_without_end() {
    let mut program = this_program();
    program.env(EARLY, "");
    let text = refusal(&SPELL.start_by(program, &7).unwrap());
    assert!(text.contains("exited with code 42, and had not called"), "{text}");
}
