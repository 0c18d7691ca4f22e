//! Runs of a case: without a fault, to see which calls it makes, and with a fault.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::Builder;

use crate::board::{Phase, SharedBoard};
use crate::calls::{self, Call};
use crate::cases::Case;
use crate::probe::Probe;
use crate::supervisor::{Supervised, Verdict};

/// The longest that a run may take: the deadlines of a case are shorter, all together.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest that what a run has started may outlive it.
const GRACE: Duration = Duration::from_secs(2);

/// Which of the calls with one number fails.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Which {
    /// The nth one, from 1 on.
    Nth(u32),
    /// All of them, as in a sandbox.
    Every,
}

/// What goes wrong in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) number: i32,
    pub(crate) which: Which,
    pub(crate) errno: i32,
}

/// The result of a run.
pub(crate) struct Report {
    /// How often each call was made that is not spared.
    pub(crate) calls: BTreeMap<i32, u32>,
    /// How many calls were made to fail.
    pub(crate) faults: u32,
    /// The error that the operation returned.
    pub(crate) error: Option<String>,
    pub(crate) violation: Option<String>,
    /// How much more of each resource there is than before.
    pub(crate) left: [(&'static str, isize); 4],
}

/// Runs a case. `flawless` is a run without a fault, to compare what is left.
pub(crate) fn run(case: &Case, fault: Option<Fault>, flawless: Option<&Report>) -> Report {
    let board = SharedBoard::new();
    for (index, allowed) in board.allowed.iter().enumerate() {
        allowed
            .store(flawless.map_or(isize::MAX, |flawless| flawless.left[index].1.max(0)), Relaxed);
    }
    let live = || {
        // SAFETY: takes integers.
        unsafe { libc::setpgid(0, 0) };
        (case.run)(Probe { board: &board });
    };
    // SAFETY: the child uses the crate, system calls, and those parts of std that its fork leaves
    // usable.
    let child = unsafe { Builder::new().daemon(true).fork_with_threads(live) };
    let child = child.expect("a child can be forked");
    let start = Instant::now();
    let listener = loop {
        match board.listener() {
            Some(listener) => break listener,
            None if start.elapsed() > PATIENCE => {
                child.kill().expect("it is ours");
                panic!("{}: it had not prepared after {PATIENCE:?}", case.name);
            }
            None if child.is_alive().expect("it is ours") => {
                thread::sleep(Duration::from_micros(100));
            }
            None => panic!(
                "{}: it ended with {} while it prepared",
                case.name,
                child.join().expect("it is ours")
            ),
        }
    };
    let supervised = Supervised::new(child, listener);
    board.take();
    let mut report = Report {
        calls: BTreeMap::new(),
        faults: 0,
        error: None,
        violation: None,
        left: Default::default(),
    };
    let mut executed = HashSet::new();
    let end = supervised.run(PATIENCE, GRACE, |call: &Call| {
        if board.phase() != Phase::Operating
            || executed.contains(&call.thread)
            || call.spared().is_some()
        {
            return Verdict::Continue;
        }
        let count = report.calls.entry(call.number).or_default();
        *count += 1;
        let is_hit = |fault: &Fault| {
            fault.number == call.number && [Which::Every, Which::Nth(*count)].contains(&fault.which)
        };
        let is_endless = |fault: &Fault| {
            fault.which == Which::Every
                && fault.errno == libc::EINTR
                && call.is_tried_again_by_std()
        };
        if let Some(fault) = fault.filter(is_hit).filter(|fault| !is_endless(fault)) {
            report.faults += 1;
            return Verdict::Fail(fault.errno);
        }
        if call.is_exec() {
            executed.insert(call.thread);
        }
        Verdict::Continue
    });
    report.error = board.outcome.read();
    report.left = board.after.since(&board.before);
    report.violation = board.violation.read().or_else(|| match &end.status {
        Err(about) => Some(format!("it hangs{about}")),
        Ok(status) if !status.success() => Some(format!("it ends with {status}")),
        Ok(_) if board.phase() != Phase::Looking => {
            Some("it ends in the middle of the operation".to_owned())
        }
        Ok(_) if end.is_something_left => {
            Some("a process that it has started is still there".to_owned())
        }
        Ok(_) => None,
    });
    report
}

/// Returns what is wrong with a run with this fault, compared with a run without one.
pub(crate) fn judge(report: &Report, fault: Fault, flawless: &Report) -> Option<String> {
    if let Some(violation) = &report.violation {
        return Some(violation.clone());
    }
    if let Some(error) = &report.error {
        if *error == io::Error::from_raw_os_error(fault.errno).to_string() {
            return Some(format!("its error says no more than {error:?}"));
        }
    }
    // If `munmap` or the reaping is refused, what was to be unmapped or reaped is left, of course.
    // So is a program whose pidfd was not received, as `start` says.
    let is_reaping = calls::name(fault.number) == "waitid" && fault.which == Which::Every;
    let is_told =
        report.error.as_ref().is_some_and(|error| error.contains("which was started and goes on"));
    if calls::name(fault.number) == "munmap" || is_reaping || is_told {
        return None;
    }
    let leaks =
        report.left.iter().zip(&flawless.left).find(|(now, before)| now.1 > before.1.max(0));
    leaks.map(|((what, now), (_, before))| format!("{now} more {what} are there, not {before}"))
}
