//! Every system call of every operation made to fail: the first, second, ..., fifth time that the
//! operation makes it, and every time, as in a sandbox. Another way is found, or an error returned
//! that says what failed. Nothing panics, aborts, hangs or leaks, and the operation succeeds
//! afterwards.
//!
//! Which calls an operation makes is seen in a run without a fault. Arguments are parts of the names
//! of cases to run, all by default; `--errors` prints the errors, too.

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

const ERRNOS: [i32; 8] =
    [libc::ENOSYS, libc::EPERM, libc::EACCES, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::EINTR];
/// What may be tried again for ever.
const PASSING: [i32; 2] = [libc::EAGAIN, libc::EINTR];
/// One that is made more often fails at these times only.
const TIMES: u32 = 5;

fn main() -> ExitCode {
    let (flags, filters): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|argument| argument.starts_with('-'));
    let has = |flag: &str| flags.iter().any(|argument| argument == flag);
    if has("--list") {
        return ExitCode::SUCCESS;
    }
    let mut cases = cases::all();
    cases.retain(|case| filters.is_empty() || filters.iter().any(|filter| case.name.contains(filter.as_str())));
    let (table, next) = (Mutex::new(Table::new(cases.len())), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Relaxed)) {
                    try_all(case, &table);
                }
            });
        }
    });
    let table = table.into_inner().expect("nobody has panicked");
    table.print(has("--errors"));
    if table.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All faults of a case.
fn try_all(case: &Case, table: &Mutex<Table>) {
    let flawless = run(case, None);
    let complaint = flawless.violation.clone().or_else(|| flawless.error.clone());
    assert!(complaint.is_none(), "{}, without a fault: {complaint:?}", case.name);
    for (&number, &count) in &flawless.calls {
        let times = (1..=count.min(TIMES)).map(Which::Nth).chain([Which::Every]);
        for which in times {
            for errno in ERRNOS {
                if which == Which::Every && PASSING.contains(&errno) {
                    continue;
                }
                let fault = Fault { number, which, errno };
                let report = run(case, Some(fault));
                let violation = judge(&report, fault, &flawless);
                table.lock().expect("nobody has panicked").add(case.name, fault, &report, violation);
            }
        }
    }
}
