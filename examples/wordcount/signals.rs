//! SIGINT and SIGTERM: noted by a handler, acted upon where the parent next looks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether this process was asked to end.
///
/// Workers inherit the handlers, and never look. That is how they ignore the Ctrl-C that the
/// terminal sends to the whole process group: it is for the parent to end them.
pub(crate) struct Signals {
    /// The signal's number, or 0. Relaxed: it orders nothing.
    caught: Arc<AtomicUsize>,
}

impl Signals {
    pub(crate) fn catch() -> io::Result<Self> {
        let caught = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM] {
            flag::register_usize(signal, Arc::clone(&caught), signal as usize)?;
        }
        // Whoever started this program may have it ignored, which is inherited, and makes the
        // system throw away how children ended.
        flag::register(SIGCHLD, Arc::new(AtomicBool::new(false)))?;
        Ok(Signals { caught })
    }

    pub(crate) fn caught(&self) -> Option<i32> {
        let signal = self.caught.load(Relaxed);
        (signal != 0).then_some(signal as i32)
    }
}

pub(crate) fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        SIGTERM => "SIGTERM",
        _ => "a signal",
    }
}
