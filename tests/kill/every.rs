//! Every point of every case, in pieces. Each piece runs in a process of its own that is pinned to
//! a CPU, one on each CPU at a time. The processes share nothing but the machine.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::harness::{Piece, Record, Subject, Table, cpus};

/// The longest that a piece may take, its last point aside.
const PIECE: Duration = Duration::from_secs(60);
/// The prefix of the line with which a process reports the piece that it has done.
const TELLS: &str = "PIECE\t";
/// The exit code that says that there is more to do.
const UNFINISHED: u8 = 2;

/// What is to be done.
pub(crate) struct Order {
    pub(crate) record: Option<PathBuf>,
    /// The time after which no further piece begins and the last ones end.
    pub(crate) time: Option<Duration>,
    pub(crate) is_fail_fast: bool,
    /// Whether only the recorded results are printed.
    pub(crate) is_report: bool,
}

struct State {
    record: Record,
    /// The cases that are not done and that no thread works on.
    left: VecDeque<String>,
    failure: Option<String>,
}

/// Does all these cases, or continues them.
pub(crate) fn run(cases: &[Box<dyn Subject>], order: &Order) -> io::Result<ExitCode> {
    let began = Instant::now();
    let end = order.time.map(|time| began + time);
    let record = Record::open(order.record.as_deref())?;
    let names: Vec<&str> = cases.iter().map(|case| case.name()).collect();
    let left = names
        .iter()
        .filter(|name| !record.of(name).is_whole)
        .map(|&name| name.to_owned())
        .collect();
    let state = Mutex::new(State { record, left, failure: None });
    if !order.is_report {
        std::thread::scope(|scope| {
            for cpu in cpus() {
                let state = &state;
                scope.spawn(move || work(state, cpu, end, order.is_fail_fast));
            }
        });
    }
    let State { record, failure, .. } = state.into_inner().expect("no thread panics with it");
    if order.is_report {
        for name in &names {
            print(name, &record.of(name));
        }
    }
    let sum = names.iter().map(|name| record.of(name)).fold(Piece::default(), |sum, piece| Piece {
        next: sum.next + usize::from(piece.is_whole),
        runs: sum.runs + piece.runs,
        violations: sum.violations + piece.violations,
        strands: sum.strands + piece.strands,
        missed: sum.missed + piece.missed,
        seconds: sum.seconds + piece.seconds,
        ..sum
    });
    println!(
        "{} of {} cases done, {} runs; {} violations, {} strands that are known, {} points \
         missed; {:.0} s of one CPU, {:.0} s now",
        sum.next,
        names.len(),
        sum.runs,
        sum.violations,
        sum.strands,
        sum.missed,
        sum.seconds,
        began.elapsed().as_secs_f64()
    );
    if let Some(failure) = failure {
        return Err(io::Error::other(failure));
    }
    Ok(match (sum.violations, sum.next < names.len()) {
        (1.., _) => ExitCode::FAILURE,
        (0, true) => ExitCode::from(UNFINISHED),
        (0, false) => ExitCode::SUCCESS,
    })
}

fn print(name: &str, piece: &Piece) {
    let state = if piece.is_whole { "" } else { ", not done" };
    let Piece { next, runs, violations, strands, missed, seconds, .. } = piece;
    println!(
        "{name:<72} {next:>6} points {runs:>7} runs {strands:>5} strands {missed:>4} missed \
         {violations:>3} viol. {seconds:>7.1} s{state}"
    );
}

/// Does piece after piece on one CPU.
fn work(state: &Mutex<State>, cpu: usize, end: Option<Instant>, is_fail_fast: bool) {
    loop {
        let time =
            end.map_or(PIECE, |end| end.saturating_duration_since(Instant::now()).min(PIECE));
        let mut locked = state.lock().expect("no thread panics with it");
        if time.is_zero() || locked.failure.is_some() {
            return;
        }
        let Some(name) = locked.left.pop_front() else { return };
        let from = locked.record.of(&name).next;
        drop(locked);
        let done = one(&name, from, time, cpu);
        let mut locked = state.lock().expect("no thread panics with it");
        let result = done.and_then(|piece| locked.record.add(&name, piece).map(|()| piece));
        match result {
            Ok(piece) => {
                if piece.is_whole {
                    print(&name, &locked.record.of(&name));
                } else {
                    // This case continues at once, so that few cases are begun and not done.
                    locked.left.push_front(name);
                }
                if piece.violations != 0 && is_fail_fast {
                    locked.left.clear();
                }
            }
            Err(error) => locked.failure = Some(format!("{name}: {error}")),
        }
    }
}

/// Has a process of its own do one piece, and passes on what it reports.
fn one(name: &str, from: usize, time: Duration, cpu: usize) -> io::Result<Piece> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([
        "--piece",
        name,
        &from.to_string(),
        &time.as_millis().to_string(),
        &cpu.to_string(),
    ]);
    let output = command.stderr(Stdio::inherit()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut piece = None;
    for line in said.lines() {
        match line.strip_prefix(TELLS) {
            Some(told) => piece = Piece::parse(told),
            None => println!("{line}"),
        }
    }
    piece.ok_or_else(|| io::Error::other(format!("the process at it ended with {}", output.status)))
}

/// The part of such a process: `arguments` are those that [`one`] passes after `--piece`.
pub(crate) fn do_piece(cases: &[Box<dyn Subject>], arguments: &[String]) -> Option<ExitCode> {
    let [name, from, time, cpu] = arguments else { return None };
    // SAFETY: takes numbers. Without the parent that asked for the piece, nothing would read what
    // is found.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let case = cases.iter().find(|case| case.name() == *name)?;
    let deadline = Instant::now() + Duration::from_millis(time.parse().ok()?);
    let piece = Table::on(cpu.parse().ok()?).piece(case.as_ref(), from.parse().ok()?, deadline);
    println!("{TELLS}{}", piece.line());
    Some(ExitCode::SUCCESS)
}
