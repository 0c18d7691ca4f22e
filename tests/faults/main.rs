//! Makes every system call of every operation fail: the first, second, ..., fifth time that the
//! operation makes it, and every time, as in a sandbox. The operation finds another way, or returns
//! an error that says what failed. Nothing panics, aborts, hangs or leaks, and the operation
//! succeeds afterwards.
//!
//! A run without a fault shows which calls an operation makes. By default, one fault is tried for
//! each call of each case, a different one for each call. With `--all` all faults are tried, in
//! some ten minutes. Other arguments are parts of the names of cases to run. `--errors` prints the
//! errors, too.

#![allow(unsafe_code)]

mod board;
mod calls;
mod cases;
mod probe;
mod run;
mod supervisor;
mod table;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use cases::Case;
use run::{Fault, Which, judge, run};
use table::Table;

const ERRNOS: [i32; 8] = [
    libc::ENOSYS,
    libc::EPERM,
    libc::EACCES,
    libc::ENOMEM,
    libc::EMFILE,
    libc::ENFILE,
    libc::EAGAIN,
    libc::EINTR,
];
/// If a call is made more often, only its first this many times are made to fail, or all of them.
const TIMES: u32 = 5;
/// How many runs are in progress for each CPU: a run mostly waits.
const WORKERS: usize = 4;

fn main() -> ExitCode {
    let (flags, filters): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with('-'));
    let has = |flag: &str| flags.iter().any(|argument| argument == flag);
    if has("--list") {
        return ExitCode::SUCCESS;
    }
    let is_all = has("--all");
    let mut cases = cases::all();
    cases.retain(|case| {
        filters.is_empty() || filters.iter().any(|filter| case.name.contains(filter.as_str()))
    });
    let (table, next) = (Mutex::new(Table::new(cases.len())), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..WORKERS * thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Relaxed);
                    let Some(case) = cases.get(place) else { break };
                    try_faults(case, place, is_all, &table);
                }
            });
        }
    });
    let table = table.into_inner().expect("nobody has panicked");
    table.print(has("--errors"));
    if table.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tries the faults of a case: all, or one for each call.
fn try_faults(case: &Case, place: usize, is_all: bool, table: &Mutex<Table>) {
    let flawless = run(case, None, None);
    if let Some(complaint) = flawless.violation.as_ref().or(flawless.error.as_ref()) {
        return table
            .lock()
            .expect("nobody has panicked")
            .add_violation(format!("{}, without a fault: {complaint}", case.name));
    }
    for (index, (&number, &count)) in flawless.calls.iter().enumerate() {
        let faults = possible_faults(number, count);
        let chosen = if is_all {
            &faults[..]
        } else {
            core::slice::from_ref(&faults[(place * 5 + index * 7) % faults.len()])
        };
        for &fault in chosen {
            let report = run(case, Some(fault), Some(&flawless));
            let violation = judge(&report, fault, &flawless);
            table.lock().expect("nobody has panicked").add(case.name, fault, &report, violation);
        }
    }
}

/// Returns all faults for a call that is made `count` times.
fn possible_faults(number: i32, count: u32) -> Vec<Fault> {
    let times = (1..=count.min(TIMES)).map(Which::Nth).chain([Which::Every]);
    let all = times.flat_map(|which| ERRNOS.map(|errno| Fault { number, which, errno }));
    // A call that always fails with EAGAIN may be repeated for ever.
    all.filter(|fault| fault.which != Which::Every || fault.errno != libc::EAGAIN).collect()
}
