//! The threads that work for this crate, for [`fork`](crate::process::fork), which must be alone.
//! Idle threads are ended. Of the others it says what they do.
//!
//! | thread | started by | ends |
//! |---|---|---|
//! | [`SLEEPER`] | the [driver](super::driver), or a [stand-in], for a wait | a second after the last wait, or for a fork |
//! | [`CLOSER`] | a directory | after a second without work, or for a fork |
//! | a serving thread | the user | when the directory is closed |

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crossproc_sys::per_process::PerProcess;
use crossproc_sys::threads::own_tid;

/// The name of a thread that sleeps on futexes for others.
pub(crate) const SLEEPER: &str = "crossproc-futex";
/// The name of a thread that closes what a directory's clients have left.
pub(crate) const CLOSER: &str = "crossproc-close";

/// Something with threads that end when they have nothing to do.
pub(crate) trait HasThreads: Send + Sync {
    /// Ends those that have nothing to do now.
    fn end_idle(&self);
}

#[derive(Default)]
struct Known {
    with_threads: Vec<Weak<dyn HasThreads>>,
    /// The threads that serve a directory, each with its directory's address.
    serving: Vec<(u32, String)>,
}

static KNOWN: PerProcess<Mutex<Known>> = PerProcess::new();

/// Runs `act` under the mutex. Poison is ignored: nothing panics under it.
fn with<R>(known: &Mutex<Known>, act: impl FnOnce(&mut Known) -> R) -> R {
    act(&mut known.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Notes an object whose idle threads a fork ends.
pub(crate) fn ended_by_forks(somebody: Weak<dyn HasThreads>) -> io::Result<()> {
    with(KNOWN.get()?, |known| {
        known.with_threads.retain(|other| other.strong_count() != 0);
        known.with_threads.push(somebody);
    });
    Ok(())
}

/// Has those that were noted end their idle threads.
pub(super) fn end_idle_of_others() {
    let somebody: Vec<_> = KNOWN
        .existing()
        .map_or_else(Vec::new, |known| with(known, |known| known.with_threads.clone()));
    for somebody in somebody.iter().filter_map(Weak::upgrade) {
        somebody.end_idle();
    }
}

/// Notes that the calling thread serves a directory, until the result is dropped. Without `/proc`
/// it notes nothing: nobody can look for threads then.
pub(crate) fn serves(address: String) -> Option<Serving> {
    let (known, tid) = (KNOWN.get().ok()?, own_tid().ok()?);
    with(known, |known| known.serving.push((tid, address)));
    Some(Serving { tid })
}

/// Returns what a thread does for this crate, and how to end it.
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

/// Returns a reference through which a fork can ask a directory to end its threads.
pub(crate) fn weak<T: HasThreads + 'static>(somebody: &Arc<T>) -> Weak<dyn HasThreads> {
    let weak: Weak<T> = Arc::downgrade(somebody);
    weak
}
