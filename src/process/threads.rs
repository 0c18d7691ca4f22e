//! Ensures that a process has one thread when it forks: waits for other threads to end, and makes
//! the error that names those that are left.

use core::fmt::Write;
use std::io;
use std::thread;

use crossproc_sys::clock;
use crossproc_sys::failed::because;
use crossproc_sys::poll::sleep_until;
use crossproc_sys::threads::{Others, Thread, others};

use crate::reactor;
use crate::reactor::own_threads::{self, CLOSER, SLEEPER};

/// How long a thread may take to end, in nanoseconds, if nothing can tell whether it is ending.
const ENDING: u64 = 100_000_000;
/// How long a thread that closes may take to end.
const CLOSING: u64 = 1_000_000_000;
/// How long a thread may take, on any machine, that was told to end and has nothing else to do.
const TOLD: u64 = 10_000_000_000;
/// How often the processor is yielded to others before pauses begin.
const YIELDS: u32 = 100;
/// The length of a pause, in nanoseconds.
const PAUSE: u64 = 1_000_000;
/// How many threads an error names.
const NAMED: usize = 8;

/// Waits until this is the only thread. Ends those of the crate's own threads that have nothing to
/// do.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] with the threads that are left; no `/proc`.
pub(super) fn until_alone() -> io::Result<()> {
    let begin = clock::now();
    for round in 0_u32.. {
        let failed = because(
            "whether this process has other threads cannot be told without /proc/self/task",
        );
        let found = others().map_err(failed)?;
        if found == Others::None {
            break;
        }
        let idle = reactor::end_idle();
        if clock::now().saturating_sub(begin) >= patience(&found, idle) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, refusal(&found)));
        }
        if round < YIELDS {
            thread::yield_now();
        } else {
            let _ = sleep_until(clock::now() + PAUSE);
        }
    }
    Ok(())
}

/// Returns how long to wait for these threads. `idle`: how many sleepers were told to end, or
/// `None` if any are needed.
fn patience(found: &Others, idle: Option<usize>) -> u64 {
    let Others::Some(threads) = found else { return ENDING };
    let strange = |name: &str| {
        threads.iter().filter(|thread| thread.name != SLEEPER && thread.name != name).count()
    };
    match idle {
        // A thread that has just been started still has another name.
        Some(idle) if strange(SLEEPER) <= idle => TOLD,
        Some(_) if strange(CLOSER) == 0 => CLOSING,
        _ => ENDING,
    }
}

fn refusal(found: &Others) -> String {
    let mut text = match found {
        Others::Some(threads) => format!(
            "this process has {} other threads, which a forked child would lack: ",
            threads.len()
        ),
        Others::Moving(count) => format!(
            "this process has {count} other threads that come and go, which a forked child would \
             lack"
        ),
        Others::None => String::new(),
    };
    if let Others::Some(threads) = found {
        let named: Vec<String> = threads.iter().take(NAMED).map(describe).collect();
        text += &named.join(", ");
        if threads.len() > NAMED {
            let _ = write!(text, " and {} more", threads.len() - NAMED);
        }
    }
    text + ". Join them first, or fork before they start; start a program with \
        process::CommandExt; \
        or see Builder::fork_with_threads. In a #[test] the test runner's own threads are there: \
        see \"In a test\" in the documentation of crossproc::process"
}

fn describe(thread: &Thread) -> String {
    let Thread { tid, name } = thread;
    match own_threads::duty_of(*tid, name) {
        Some(duty) => format!("{name:?} (TID {tid}, which {duty})"),
        None => format!("{name:?} (TID {tid})"),
    }
}
