//! The progress bar, for a terminal.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on the standard error if that is a terminal, otherwise nothing. It is drawn when it is
/// told something new: a thread that redraws it would keep the parent from forking.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(tasks: u32) -> Self {
        let draw = || {
            let bar = ProgressBar::new(tasks.into());
            match ProgressStyle::with_template("{wide_bar} {pos}/{len} tasks, {eta} left") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        };
        Progress { bar: stderr().is_terminal().then(draw) }
    }

    pub(crate) fn show(&self, done: u32) {
        if let Some(bar) = &self.bar {
            bar.set_position(done.into());
        }
    }

    /// Calls `print`, which prints lines, with the bar out of the way.
    pub(crate) fn aside(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
