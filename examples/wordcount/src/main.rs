//! Counts the lines, words and bytes of all files under some paths, with worker processes that may
//! be killed at any instruction.
//!
//! ```text
//! cargo run --release -p wordcount -- PATH...
//! cargo run --release -p wordcount -- --chaos 50 --top 20 --check PATH...
//! ```
//!
//! # What is counted
//! A line is a `\n`. A word is a longest run of bytes that are not white space. White space is the
//! six bytes of `isspace` in the C locale: space, `\t`, `\n`, `\v`, `\f`, `\r`. Python's
//! `bytes.split()` does the same. Symbolic links are followed, as by `find -L PATH -type f`. A file
//! that is reached twice counts twice. A file counts with the size that it had when it was listed.
//!
//! With `--top`, each word is counted by its bytes, at any length. The process that counts a word
//! holds the whole word in memory.
//!
//! # Who does what
//! The parent lists the files, cuts them into chunks, and puts runs of chunks as
//! [tasks](task::Task) into a queue. It forks the workers, which get the tasks from there. A worker
//! sends its result for a task through another queue, and then marks the task as done. The parent
//! adds up the results. A word belongs to the chunk in which it starts. A worker reads the one byte
//! before its chunk to see whether a word starts there. It reads on behind the chunk to the end of
//! the last word. So no chunk depends on another one, whatever the length of a word.
//!
//! # What a death does
//! A task may be done twice, but never not at all. The queue gives it to another worker until one
//! marks it as done, which is after the result was sent. A result counts once: the parent takes the
//! first whole result of each task, and drops others.
//!
//! | when the worker is killed | what is left | what happens next |
//! |---|---|---|
//! | while it waits for a task | nothing | its replacement waits |
//! | while it takes one | the task, in the queue or in its hand | the next worker to get a task takes it |
//! | while it counts | the task | the next worker to get it does it again |
//! | while it sends, or waits for room to do so | the task, and perhaps some messages of a result | the same; the parent drops the messages when the slot's next result begins |
//! | after the last message, before the task is done | the task, and its result | the same; the parent has counted the first result, and drops the second |
//! | after the task is done | nothing | its replacement gets another task |
//! | as the last of too many, at one task | a dead letter | the parent names the files; the rest is counted |
//!
//! The parent never waits for room in the queue of tasks. It waits for workers only in turns, and
//! reads results in between. So workers that wait for room in the queue of results make progress.
//!
//! # Exit status
//! 0: everything is counted. 1: `--check` found a difference. 2: something could not be counted
//! (the rest is), or nothing could. 130, 143: interrupted by SIGINT, SIGTERM.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;

mod buffer;
mod chaos;
mod check;
mod complaint;
mod crew;
mod job;
mod ledger;
mod listing;
mod options;
mod progress;
mod reader;
mod report;
mod results;
mod sheet;
mod signals;
mod tally;
mod task;
mod words;
mod worker;

use self::chaos::Plan;
use self::complaint::complain;
use self::crew::Crew;
use self::job::Board;
use self::options::Options;
use self::progress::Progress;
use self::report::Report;
use self::signals::Signals;
use self::task::Tasks;

/// Everything is counted.
const ALL_COUNTED: u8 = 0;
/// `--check` found a difference.
const DIFFERS: u8 = 1;
/// Something, or everything, is not counted.
const NOT_ALL_COUNTED: u8 = 2;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(stop) => {
            let causes = successors(stop.source(), |&cause| cause.source())
                .map(|cause| format!(": {cause}"));
            complain(format_args!("{stop}{}", causes.collect::<String>()));
            ExitCode::from(stop.status())
        }
    }
}

/// Why there are no totals.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("interrupted by {}: {what}", signals::name(*signal))]
    Interrupted { signal: i32, what: String },
    #[error(
        "no workers left: each of {workers} was given up after {} deaths in a row without a task",
        crew::MAX_DEATHS
    )]
    NoWorkersLeft { workers: usize },
    #[error("more than {} chunks: take a larger --chunk than {chunk}", listing::MAX_CHUNKS)]
    TooManyChunks { chunk: u64 },
    #[error("a worker sent a result that makes no sense")]
    SenselessResult,
    #[error("no PATH given, and the sources of this program are not in {}", .0.display())]
    NoSources(PathBuf),
    #[error("{what} failed")]
    System { what: &'static str, source: io::Error },
}

impl Stop {
    fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Stop {
        move |error| Stop::System { what, source: error.into() }
    }

    fn status(&self) -> u8 {
        match self {
            // The status that a shell reports for a death by that signal.
            Stop::Interrupted { signal, .. } => 128 + u8::try_from(*signal).unwrap_or(0),
            _ => NOT_ALL_COUNTED,
        }
    }
}

/// Does the whole job. Returns its exit status.
fn run(options: &Options) -> Result<u8, Stop> {
    let signals = Signals::catch().map_err(Stop::system("catching signals"))?;
    let begun = Instant::now();
    let listing = listing::list(&options.roots()?, options.chunk, &signals)?;
    // Shared with the workers: a forked child must own what it uses.
    let files = &Arc::new(listing.files);
    let listed = begun.elapsed();

    let tasks = Tasks::of(files, options.workers());
    // More workers than tasks would have nothing to do.
    let workers = options.workers().min(tasks.len());
    let plan = Plan::draw(options.chaos_seed(), options.chaos, tasks.len(), workers);
    // Any of the planned kills may hit the same task.
    let board = Arc::new(
        Board::new(workers, options.chaos + crew::MAX_DEATHS)
            .map_err(Stop::system("making the queues"))?,
    );
    let begun = Instant::now();
    let progress = Progress::new(tasks.len());
    let has_words = options.top != 0;
    let (ledger, deaths) =
        Crew::new(&board, files, &tasks, &plan, &signals, &progress, has_words).count()?;
    drop(progress);
    let counted = begun.elapsed();

    let (total, flawed) = ledger.close(&tasks, files);
    for (file, flaw) in &flawed {
        complain(format_args!("{}: {flaw}", files.path(*file).display()));
    }
    let checked =
        if options.check { Some(check::count(files, has_words, &flawed, &signals)?) } else { None };
    let report = Report {
        files,
        total: &total,
        top: options.top,
        flawed: listing.problems + flawed.len(),
        listed,
        counted,
        tasks: tasks.len(),
        workers,
        plan: &plan,
        deaths,
        checked: checked.as_ref(),
    };
    let is_same = report.print(options.json).map_err(Stop::system("writing the totals"))?;
    Ok(match is_same {
        false => DIFFERS,
        true if report.flawed != 0 => NOT_ALL_COUNTED,
        true => ALL_COUNTED,
    })
}
