//! The child's side of a run. The child prepares, hands its system calls over to the supervisor,
//! carries out the operation, and checks what is left.

use core::fmt;
use core::time::Duration;
use std::error::Error;
use std::fs;
use std::panic;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

use crossproc::process::fork;

use crate::board::{Board, Left, Phase};
use crate::supervisor::be_supervised;

/// The outcome of an operation: nothing, an error of the crate, or [`Wrong`].
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// The operation reported, or did, what it must not, whatever the kernel refuses.
#[derive(Debug)]
pub(crate) struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Wrong {}

/// Fails with `what` unless the requirement holds.
pub(crate) fn require(holds: bool, what: &str) -> Result<(), Wrong> {
    if holds { Ok(()) } else { Err(Wrong(what.to_owned())) }
}

/// Reports success, and drops what the operation made.
pub(crate) fn done<T>(made: T) -> Outcome {
    drop(made);
    Ok(())
}

/// One run of one case, in a child.
pub(crate) struct Probe<'a> {
    pub(crate) board: &'a Board,
}

impl Probe<'_> {
    /// Carries out `operation` while calls may fail, and a second time while none does: then it
    /// must succeed.
    pub(crate) fn operate(self, operation: impl FnMut() -> Outcome) {
        self.operate_and_look(operation, |_| Ok(()));
    }

    /// Does the same, and calls `look` after each time, while no call fails, to check that nothing
    /// is half made. `look` is told whether the operation succeeded.
    pub(crate) fn operate_and_look(
        self,
        mut operation: impl FnMut() -> Outcome,
        mut look: impl FnMut(bool) -> Outcome,
    ) {
        let board = self.board;
        // The board is mapped as long as the child lives.
        // SAFETY: only the lifetime differs, and nothing of the hook outlives the process.
        let forever: &'static Board = unsafe { &*core::ptr::from_ref(board) };
        panic::set_hook(Box::new(move |info| {
            forever.violation.write(format_args!("it panics: {info}"));
            // SAFETY: ends the process.
            unsafe { libc::_exit(101) };
        }));
        // Ends the crate's idle threads, which have descriptors.
        let _ = fork(|| ()).and_then(|child| child.join());
        count(&board.before);
        board.hand_over(be_supervised());
        board.set_phase(Phase::Operating);
        let outcome = operation();
        board.set_phase(Phase::Looking);
        match &outcome {
            Ok(()) => {}
            Err(error) if error.is::<Wrong>() => board.violation.write(format_args!("{error}")),
            Err(error) => board.outcome.write(format_args!("{}", Chain(&**error))),
        }
        for (time, is_ok) in [("", outcome.is_ok()), (", the second time", true)] {
            if !time.is_empty() {
                if let Err(error) = operation() {
                    board.violation.write(format_args!(
                        "it fails again, though nothing is refused any more: {}",
                        Chain(&*error)
                    ));
                }
            }
            if let Err(error) = look(is_ok) {
                board.violation.write(format_args!("left half made{time}: {}", Chain(&*error)));
            }
        }
        drop(outcome);
        // Ends the crate's idle threads, which otherwise take a second.
        let _ = fork(|| ()).and_then(|child| child.join());
        let deadline = Instant::now() + LONG;
        loop {
            count(&board.after);
            let more = board.after.since(&board.before);
            let is_allowed = more
                .iter()
                .zip(&board.allowed)
                .all(|((_, more), most)| *more <= most.load(Relaxed));
            if is_allowed || Instant::now() > deadline {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Counts what this process has.
fn count(left: &Left) {
    let entries = |folder: &str| fs::read_dir(folder).map_or(0, Iterator::count);
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let shares = |line: &&str| line.split(' ').nth(1).is_some_and(|rights| rights.ends_with('s'));
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children =
        tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let children = children.map(|children| children.split_whitespace().count()).sum();
    left.descriptors.store(entries("/proc/self/fd"), Relaxed);
    left.mappings.store(maps.lines().filter(shares).count(), Relaxed);
    left.threads.store(entries("/proc/self/task"), Relaxed);
    left.children.store(children, Relaxed);
}

/// An error and all its sources, except a source whose text the error before it contains already.
struct Chain<'a>(&'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !last.contains(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            source = error.source();
        }
        Ok(())
    }
}

/// The deadline of a wait that is expected to time out.
pub(crate) const SHORT: Duration = Duration::from_millis(4);
/// The deadline of a wait that is expected to succeed.
pub(crate) const LONG: Duration = Duration::from_secs(8);
/// The longest that anything may take that nobody refuses: a supervised call takes as long as its
/// supervisor waits for a processor.
pub(crate) const UNREFUSED: Duration = Duration::from_secs(40);
