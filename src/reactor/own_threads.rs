//! What threads do for this crate, for [`fork`](crate::process::fork), which must be alone: those
//! that have nothing to do are ended, and of the others it says what they do.
//!
//! | thread | started by | ends |
//! |---|---|---|
//! | [`SLEEPER`] | the [driver], or a [stand-in], for a wait | a second after the last wait, or for a fork |
//! | [`CLOSER`] | a directory | after a second without work, or for a fork |
//! | one that serves | the user | when the directory is closed |

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crossproc_sys::threads::own_tid;

use super::{driver, stand_in};
use crate::memory::per_process::PerProcess;

/// The name of a thread that sleeps on futexes for others.
pub(crate) const SLEEPER: &str = "crossproc-futex";
/// The name of a thread that closes what a directory's clients have left.
pub(crate) const CLOSER: &str = "crossproc-close";

/// Something that has threads, which end when they have nothing to do.
pub(crate) trait HasThreads: Send + Sync {
    /// Has those end now that have nothing to do.
    fn end_idle(&self);
}

#[derive(Default)]
struct Known {
    with_threads: Vec<Weak<dyn HasThreads>>,
    /// Threads that serve a directory, and which.
    serving: Vec<(u32, String)>,
}

static KNOWN: PerProcess<Mutex<Known>> = PerProcess::new();

/// Nothing panics under it.
fn with<R>(known: &Mutex<Known>, act: impl FnOnce(&mut Known) -> R) -> R {
    act(&mut known.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Notes somebody whose idle threads a fork ends.
pub(crate) fn ended_by_forks(somebody: Weak<dyn HasThreads>) -> io::Result<()> {
    with(KNOWN.get()?, |known| {
        known.with_threads.retain(|other| other.strong_count() != 0);
        known.with_threads.push(somebody);
    });
    Ok(())
}

/// Has the threads end that have nothing to do. How many sleepers that are, or `None` if others are
/// needed.
pub(crate) fn end_idle() -> Option<usize> {
    let somebody: Vec<_> = KNOWN
        .existing()
        .map_or_else(Vec::new, |known| with(known, |known| known.with_threads.clone()));
    for somebody in somebody.iter().filter_map(Weak::upgrade) {
        somebody.end_idle();
    }
    let (sleepers, about_to_be_given_back) = driver::end_idle();
    let stand_ins = stand_in::end_idle(about_to_be_given_back);
    Some(sleepers? + stand_ins?)
}

/// Notes that the calling thread serves a directory, as long as what it gets lives. Without `/proc`
/// it is not noted: nobody can look for threads then.
pub(crate) fn serves(address: String) -> Option<Serving> {
    let (known, tid) = (KNOWN.get().ok()?, own_tid().ok()?);
    with(known, |known| known.serving.push((tid, address)));
    Some(Serving { tid })
}

/// What a thread does for this crate, and how it is ended.
pub(crate) fn duty_of(tid: u32, name: &str) -> Option<String> {
    let address = |known: &mut Known| {
        known.serving.iter().find(|serving| serving.0 == tid).map(|serving| serving.1.clone())
    };
    if let Some(address) = KNOWN.existing().and_then(|known| with(known, address)) {
        return Some(format!("serves the Directory {address}: close it"));
    }
    match name {
        SLEEPER => Some("sleeps for a wait_any or a future: let that end, or drop it".to_owned()),
        CLOSER => {
            Some("closes what a Directory's client has left, and is held up in that".to_owned())
        }
        _ => None,
    }
}

/// A thread that serves, until this is dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    tid: u32,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(known) = KNOWN.existing() {
            with(known, |known| known.serving.retain(|serving| serving.0 != self.tid));
        }
    }
}

/// A directory's own, as something that a fork may ask.
pub(crate) fn weak<T: HasThreads + 'static>(somebody: &Arc<T>) -> Weak<dyn HasThreads> {
    let weak: Weak<T> = Arc::downgrade(somebody);
    weak
}
