//! SIGINT and SIGTERM: a handler notes them, and the parent acts when it next looks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether this process was asked to end.
///
/// Workers inherit the handlers and never look. So they ignore the Ctrl-C that the terminal sends
/// to the whole process group: the parent ends them.
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
        // This program may inherit an ignored SIGCHLD. The system then discards the exit statuses
        // of its children.
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
