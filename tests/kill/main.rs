//! Death and stop at every single instruction: `ci/kill.sh` runs it; see [`harness`].
//!
//! Without arguments a few points of all but the longest cases are tried, in some seconds. `--sample`: more, in some minutes. `--all`: every one.
//! A NAME: only cases whose name contains it. `--fail-fast`: ends at the first violation. The exit code is 1 if there was any.

#![allow(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

mod cases;
mod harness;

use harness::{Extent, LATE, SLICE, STRANDED_FOR, Table, can_trace};

/// The time of a run without arguments.
const QUICK: Duration = Duration::from_secs(10);
const SAMPLE: Duration = Duration::from_secs(180);
/// Of the queues' and connections' cases one of so many is tried without arguments.
const ONE_OF_SO_MANY: usize = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if has("--list") {
        return ExitCode::SUCCESS;
    }
    if let Err(reason) = can_trace() {
        println!("the kill harness cannot run: {reason}");
        return if has("--all") || has("--sample") { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let mut cases = cases::all();
    cases.retain(|case| filters.is_empty() || filters.iter().any(|filter| case.name().contains(*filter)));
    let is_quick = !has("--all") && !has("--sample");
    // The long ones are for those who ask for them, and so are most of the queues' and connections', of which there are many.
    let all = cases.len();
    let mut of_many = 0;
    cases.retain(|case| {
        let is_of_many = ["queue:", "joinable:", "connection:"].iter().any(|family| case.name().starts_with(family));
        of_many += usize::from(is_of_many);
        let is_left_out = case.traits().most_points.is_some() || (is_of_many && of_many % ONE_OF_SO_MANY != 0);
        !is_quick || !filters.is_empty() || !is_left_out
    });
    if cases.len() < all {
        println!("{} cases are left to --sample and --all", all - cases.len());
    }

    let began = Instant::now();
    let whole = if is_quick { QUICK } else { SAMPLE };
    let mut table = Table::new(has("--fail-fast"));
    for (index, case) in cases.iter().enumerate() {
        let left = whole.saturating_sub(began.elapsed());
        let extent = if has("--all") { Extent::All } else { Extent::For(left / (cases.len() - index) as u32) };
        table.case(case.as_ref(), extent);
    }
    println!(
        "{} cases, {} runs of {} in {:.0} s; {} violations. Slices on: {SLICE:?}, late after {LATE:?}; off: stranded if asleep for {STRANDED_FOR:?}.",
        cases.len(),
        table.runs,
        table.of_runs,
        began.elapsed().as_secs_f64(),
        table.violations
    );
    if table.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
