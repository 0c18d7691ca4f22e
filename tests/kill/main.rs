//! Death and stop at every single instruction that others can notice. `ci/kill.sh` runs it; see
//! [`harness`].
//!
//! Without arguments, a few points of one case in 24 are tried, in a minute or two.
//!
//! | argument | |
//! |---|---|
//! | NAME | only cases whose name contains it |
//! | `--sample` | more points, in some minutes |
//! | `--all` | every point; the exit code is 2 if there is more to do |
//! | `--for SECONDS` | with `--all`: ends after that time, if not done |
//! | `--record FILE` | with `--all`: notes what is done, and leaves out what is noted |
//! | `--report` | prints what is noted |
//! | `--fail-fast` | ends at the first violation |
//!
//! The exit code is 1 if there was a violation.

#![allow(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

mod cases;
mod every;
mod harness;

use harness::{LATE, SLICE, STRANDED_FOR, Table, can_trace};

/// The time for a run without arguments.
const QUICK: Duration = Duration::from_secs(10);
const SAMPLE: Duration = Duration::from_secs(120);
/// Without arguments, one case in this many is tried.
const ONE_OF_SO_MANY: usize = 24;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let value = |flag: &str| {
        arguments.iter().position(|argument| argument == flag).and_then(|at| arguments.get(at + 1))
    };
    let is_value =
        |at: usize| at != 0 && ["--for", "--record"].contains(&arguments[at - 1].as_str());
    let is_filter =
        |&(at, argument): &(usize, &String)| !argument.starts_with('-') && !is_value(at);
    let filters: Vec<&String> =
        arguments.iter().enumerate().filter(is_filter).map(|(_, argument)| argument).collect();
    if has("--list") {
        return ExitCode::SUCCESS;
    }
    if let Err(reason) = can_trace() {
        println!("the kill harness cannot run: {reason}");
        return if has("--all") || has("--sample") { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let mut cases = cases::all();
    if arguments.first().is_some_and(|first| first == "--piece") {
        return every::do_piece(&cases, &arguments[1..]).unwrap_or(ExitCode::FAILURE);
    }
    cases.retain(|case| {
        filters.is_empty() || filters.iter().any(|filter| case.name().contains(*filter))
    });
    if has("--all") || has("--report") {
        let order = every::Order {
            record: value("--record").map(Into::into),
            time: value("--for").map(|seconds| {
                Duration::from_secs(seconds.parse().expect("--for has a number of seconds"))
            }),
            is_fail_fast: has("--fail-fast"),
            is_report: has("--report"),
        };
        return every::run(&cases, &order).unwrap_or_else(|error| {
            println!("{error}");
            ExitCode::FAILURE
        });
    }
    let is_quick = !has("--sample");
    // Without arguments and without optimisation, a run takes so long that most cases are left out,
    // and so are the long ones. The arguments ask for them.
    let all = cases.len();
    let mut index = 0;
    cases.retain(|case| {
        let is_left_out = case.traits().most_points.is_some() || index % ONE_OF_SO_MANY != 0;
        index += 1;
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
        table.case(case.as_ref(), left / (cases.len() - index) as u32);
    }
    println!(
        "{} cases, {} runs of {} in {:.0} s; {} violations. Slices on: {SLICE:?}, late after \
         {LATE:?}; off: stranded if asleep for {STRANDED_FOR:?}.",
        cases.len(),
        table.runs,
        table.of_runs,
        began.elapsed().as_secs_f64(),
        table.violations
    );
    println!(
        "{} instructions nobody else can notice; of {} the shared memory was compared before and \
         after.",
        table.invisible, table.compared
    );
    if table.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
