//! Counts the lines, words and bytes of all files under some paths, with worker processes that may be killed at any instruction.
//!
//! ```text
//! cargo run --release --example wordcount -- PATH...
//! cargo run --release --example wordcount -- --chaos 50 --check PATH...
//! ```
//!
//! # What is counted
//! A line is a `\n`. A word is a longest run of bytes that are not white space, which is the six bytes of `isspace` in the C locale: space, `\t`, `\n`,
//! `\v`, `\f`, `\r`; that is what Python's `bytes.split()` does. Symbolic links are followed, as by `find -L PATH -type f`; a file that is
//! reached twice counts twice. A file counts with the size that it had when it was listed.
//!
//! # Who does what
//! The parent lists the files, cuts them into chunks and forks the workers. A worker claims one chunk after the other from the
//! [dispenser](job::Job) and stores what it counted in the chunk's own entry of a shared table. A word belongs to the chunk in which it starts; to know whether
//! one does, a worker reads the one byte before its chunk. So no chunk depends on another one, whatever the length of a word.
//!
//! # What a death does
//! Work is recorded in two steps that a death cannot tear: a claim is complete when the chunk's number stands in the worker's slot, a result when the
//! state of the chunk says so. The parent notices the death and forks a worker that takes over the slot.
//!
//! | a worker is killed | what is left | who goes on |
//! |---|---|---|
//! | before it first claims, or while it waits for the gate | nothing | its replacement claims |
//! | in the dispenser, before its slot has the number | a dead owner of the lock | the next to lock finds nothing to repair |
//! | between that and the dispenser's advance | a claim that `next` does not show | the next to lock advances `next`, the replacement does the chunk |
//! | after the advance, before it unlocks | a dead owner of the lock | the next to lock finds nothing to repair, the replacement does the chunk |
//! | while it counts, or between two stores of the result | a chunk that is not done | the replacement does the chunk again and overwrites |
//! | after the state is stored, before or in its report | a report that never comes | the parent, which waits with a time-out, looks at the states |
//! | after its last chunk | nothing | its replacement finds nothing to claim, and ends |
//!
//! Nothing of this has to be believed: the parent looks at the state of every chunk before it adds them up, and has those that are missing counted.
//!
//! # Exit status
//! 0: all is counted. 1: `--check` found a difference. 2: something could not be counted (the rest is), or nothing could. 130, 143: interrupted by
//! SIGINT, SIGTERM.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

mod chaos;
mod check;
mod complaint;
mod crew;
mod job;
mod listing;
mod options;
mod progress;
mod reader;
mod report;
mod signals;
mod tally;
mod worker;

use self::chaos::Plan;
use self::complaint::complain;
use self::crew::Crew;
use self::job::Board;
use self::listing::Files;
use self::options::Options;
use self::progress::Progress;
use self::reader::Flaw;
use self::report::Report;
use self::signals::Signals;
use self::tally::Tally;

/// Everything is counted.
const ALL_COUNTED: u8 = 0;
/// `--check` came to another result.
const DIFFERS: u8 = 1;
/// Something, or everything, is not counted.
const NOT_ALL_COUNTED: u8 = 2;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(stop) => {
            let causes = successors(stop.source(), |&cause| cause.source()).map(|cause| format!(": {cause}"));
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
    #[error("no workers left: each of {workers} was given up after {} deaths in a row without a finished chunk", crew::MAX_DEATHS)]
    NoWorkersLeft { workers: usize },
    #[error("more than {} chunks: take a larger --chunk than {chunk}", listing::MAX_CHUNKS)]
    TooManyChunks { chunk: u64 },
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
            // As a shell reports a death by that signal.
            Stop::Interrupted { signal, .. } => 128 + u8::try_from(*signal).unwrap_or(0),
            _ => NOT_ALL_COUNTED,
        }
    }
}

/// The whole job; its exit status.
fn run(options: &Options) -> Result<u8, Stop> {
    let signals = Signals::catch().map_err(Stop::system("catching signals"))?;
    let begun = Instant::now();
    let listing = listing::list(&options.roots()?, options.chunk, &signals)?;
    let files = &listing.files;
    let listed = begun.elapsed();

    // More workers than chunks would have nothing to do.
    let workers = options.workers().min(files.chunks());
    let plan = Plan::draw(options.chaos_seed(), options.chaos, files.chunks(), workers);
    let board = Board::new(workers, files.chunks(), plan.is_empty()).map_err(Stop::system("making the shared tables"))?;
    let begun = Instant::now();
    let progress = Progress::new(files.chunks());
    let deaths = Crew::new(&board, files, &plan, &signals, &progress).count()?;
    drop(progress);
    let counted = begun.elapsed();

    let (total, flawed) = add_up(&board, files);
    for (file, flaw) in &flawed {
        complain(format_args!("{}: {flaw}", files.path(*file).display()));
    }
    let checked = if options.check { Some(check::count(files, &flawed, &signals)?) } else { None };
    let report = Report { files, total, flawed: listing.problems + flawed.len(), listed, counted, workers, plan: &plan, deaths, checked };
    report.print(options.json).map_err(Stop::system("writing the totals"))?;
    Ok(match checked {
        Some(checked) if checked != total => DIFFERS,
        _ if report.flawed != 0 => NOT_ALL_COUNTED,
        _ => ALL_COUNTED,
    })
}

/// The sum of all chunks, and the files that were not counted to the end, in order, each once.
fn add_up(board: &Board, files: &Files) -> (Tally, Vec<(usize, Flaw)>) {
    let mut total = Tally::default();
    let mut flawed: Vec<(usize, Flaw)> = Vec::new();
    for (number, chunk) in (0..).zip(board.chunks.iter()) {
        let (tally, flaw) = chunk.result();
        total += tally;
        if let Some(flaw) = flaw {
            let file = files.part(number).file;
            if flawed.last().is_none_or(|&(last, _)| last != file) {
                flawed.push((file, flaw));
            }
        }
    }
    (total, flawed)
}
