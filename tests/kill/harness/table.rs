//! The points of a case, and the row that reports it.

use core::ops::Range;
use core::time::Duration;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::process::Command;
use std::time::Instant;

use super::arena::Arena;
use super::case::{Mode, Subject};
use super::process;
use super::record::Piece;
use super::run::{Fault, Plan, Report, run};
use super::victim::Passed;
use super::visible::Meanings;

/// The most violations of a case that are printed.
const PRINTED: usize = 5;
/// A case ends when this many runs in a row were over before their point.
const MOST_BEYOND: usize = 5;
/// How often a late run, or one with a strand, is tried in all: only what happens each time counts.
/// A change of shared memory is treated the same, because processes whose time is over may cause
/// it.
const LATE_TRIES: usize = 3;
const STRANDED_TRIES: usize = 2;
/// How often a point that was passed and not tried is tried again.
const MISSED_TRIES: usize = 3;

/// The ways in which the victim ends, with and without slices.
const WAYS: [(Mode, bool); 4] =
    [(Mode::Kill, false), (Mode::Kill, true), (Mode::Stop, false), (Mode::Stop, true)];

/// Runs cases and prints a row for each.
pub(crate) struct Table {
    arena: Arena,
    meanings: Meanings,
    is_fail_fast: bool,
    pub(crate) runs: usize,
    pub(crate) of_runs: usize,
    /// Of the undisturbed runs: the number of instructions taken for invisible, and how many of
    /// them were seen to leave the shared memory as it was.
    pub(crate) invisible: usize,
    pub(crate) compared: usize,
    pub(crate) violations: usize,
}

/// What is known of the runs of one way.
///
/// Runs are only nearly the same: one may fall asleep where another finds what it wants. So the
/// runs to one point and to the next may both miss an instruction in between.
#[derive(Default)]
struct Way {
    mode: Mode,
    has_slices: bool,
    /// How many runs in a row were over before their point.
    beyond: usize,
    /// The instructions that runs passed, each with the number of the point after it.
    passed: HashMap<Passed, usize>,
    /// The last instruction that each run passed.
    ended: HashSet<Passed>,
}

impl Way {
    fn plan(&self, point: usize) -> Plan {
        Plan { mode: self.mode, has_slices: self.has_slices, point }
    }

    fn note(&mut self, report: &Report) {
        let trail = &report.walk.trail;
        self.passed.extend(trail.iter().zip(1..).map(|(&passed, point)| (passed, point)));
        self.ended.extend(trail.last());
    }

    /// Returns the numbers of the points that were passed, and at which no run ended.
    fn missed(&self, among: Range<usize>) -> Vec<usize> {
        let is_missed = |(passed, point): &(&Passed, &usize)| {
            among.contains(point) && !self.ended.contains(*passed)
        };
        self.passed.iter().filter(is_missed).map(|(_, &point)| point).collect()
    }
}

#[derive(Default)]
struct Row {
    instructions: usize,
    points: usize,
    sleeps: usize,
    kills: usize,
    stops: usize,
    of_runs: usize,
    worst: [Duration; 2],
    /// The known strands of kills, and of stops.
    known_strands: [usize; 2],
    violations: usize,
}

impl Table {
    /// Creates a table that runs on one CPU, without printing a heading.
    pub(crate) fn on(cpu: usize) -> Self {
        let arena = Arena::map();
        process::set_up(&arena, cpu);
        Table {
            arena,
            meanings: Meanings::default(),
            is_fail_fast: false,
            runs: 0,
            of_runs: 0,
            invisible: 0,
            compared: 0,
            violations: 0,
        }
    }

    pub(crate) fn new(is_fail_fast: bool) -> Self {
        println!(
            "{:<66} {:>6} {:>6} {:>6} {:>6} {:>6} {:>9} {:>9} {:>7} {:>5}",
            "operation",
            "instr.",
            "points",
            "sleeps",
            "kills",
            "stops",
            "worst on",
            "worst off",
            "strands",
            "viol."
        );
        Table { is_fail_fast, ..Table::on(process::this_cpu()) }
    }

    /// Does a run without a kill or a stop, and begins the case's row with it.
    fn undisturbed(&mut self, subject: &dyn Subject) -> (Report, Row) {
        let mut row = Row::default();
        let undisturbed = Plan { mode: Mode::Stop, has_slices: false, point: usize::MAX };
        let whole = self.judge(subject, undisturbed, &mut row);
        self.invisible += whole.walk.instructions - whole.walk.points;
        self.compared += whole.walk.compared;
        row = Row {
            instructions: whole.walk.instructions,
            points: whole.walk.points,
            sleeps: whole.walk.asleep.len(),
            violations: row.violations,
            ..Row::default()
        };
        (whole, row)
    }

    /// Kills and stops at some points of one case, with slices on and off. As many points are tried
    /// as fit into this time, evenly spread, the most telling ones first.
    pub(crate) fn case(&mut self, subject: &dyn Subject, time: Duration) {
        let (whole, mut row) = self.undisturbed(subject);
        for (mode, has_slices) in WAYS {
            let began = Instant::now();
            for point in
                telling_first(&whole).take(subject.traits().most_points.unwrap_or(usize::MAX))
            {
                self.judge(subject, Plan { mode, has_slices, point }, &mut row);
                if began.elapsed() > time / WAYS.len() as u32 {
                    break;
                }
            }
            row.of_runs += whole.walk.points + 1;
        }
        self.print(subject, &row);
        self.runs += row.kills + row.stops;
        self.of_runs += row.of_runs;
        self.violations += row.violations;
    }

    /// Kills and stops at every point of one case from the `from`th on, until the deadline. A case
    /// that is too long for that says how many points to try.
    pub(crate) fn piece(&mut self, subject: &dyn Subject, from: usize, deadline: Instant) -> Piece {
        let began = Instant::now();
        let (whole, mut row) = self.undisturbed(subject);
        let mut ways = WAYS.map(|(mode, has_slices)| Way { mode, has_slices, ..Way::default() });
        let is_over = |ways: &[Way]| ways.iter().all(|way| way.beyond == MOST_BEYOND);
        let mut next = from;
        for point in points(subject, &whole).skip(from) {
            // At least one point, or a case with a slow beginning would never end.
            if is_over(&ways) || (next != from && Instant::now() >= deadline) {
                break;
            }
            for way in ways.iter_mut().filter(|way| way.beyond < MOST_BEYOND) {
                let report = self.judge(subject, way.plan(point), &mut row);
                let was_over = report.walk.points < point && report.fault.is_none();
                way.beyond = if was_over { way.beyond + 1 } else { 0 };
                way.note(&report);
            }
            next += 1;
        }
        let mut missed = 0;
        if subject.traits().most_points.is_none() {
            for way in &mut ways {
                for _ in 0..MISSED_TRIES {
                    for point in way.missed(from..next) {
                        let report = self.judge(subject, way.plan(point), &mut row);
                        way.note(&report);
                    }
                }
                missed += way.missed(from..next).len();
            }
        }
        Piece {
            from,
            next,
            is_whole: is_over(&ways) || points(subject, &whole).nth(next).is_none(),
            runs: row.kills + row.stops,
            violations: row.violations,
            strands: row.known_strands.iter().sum(),
            missed,
            seconds: began.elapsed().as_secs_f64(),
        }
    }

    /// Does one run, repeats it if a fault could be the machine's, and notes the result in the row.
    fn judge(&mut self, subject: &dyn Subject, plan: Plan, row: &mut Row) -> Report {
        let mut tries = 0;
        let report = loop {
            let report = run(&self.arena, &mut self.meanings, subject, plan);
            tries += 1;
            let most = match report.fault {
                Some(Fault::Late(_) | Fault::Noticed(_)) => LATE_TRIES,
                Some(Fault::Stranded(_)) => STRANDED_TRIES,
                Some(Fault::Broken(_)) | None => 1,
            };
            if tries >= most {
                break report;
            }
        };
        match plan.mode {
            Mode::Kill => row.kills += 1,
            Mode::Stop => row.stops += 1,
        }
        let worst = &mut row.worst[usize::from(plan.has_slices)];
        *worst = (*worst).max(report.took.unwrap_or_default());
        if report.was_known_strand {
            row.known_strands[usize::from(plan.mode == Mode::Stop)] += 1;
            self.judge(subject, Plan { has_slices: true, ..plan }, row);
        }
        if let Some(fault) = &report.fault {
            row.violations += 1;
            if row.violations <= PRINTED {
                complain(subject, plan, &report, fault);
            }
            if self.is_fail_fast {
                std::process::exit(1);
            }
        }
        report
    }

    fn print(&self, subject: &dyn Subject, row: &Row) {
        let [off, on] = row.worst.map(|worst| format!("{:.1} ms", worst.as_secs_f64() * 1e3));
        println!(
            "{:<66} {:>6} {:>6} {:>6} {:>6} {:>6} {:>9} {:>9} {:>7} {:>5}",
            subject.name(),
            row.instructions,
            row.points,
            row.sleeps,
            row.kills,
            row.stops,
            on,
            off,
            row.known_strands.iter().sum::<usize>(),
            row.violations
        );
        for (mode, reason) in &subject.traits().known_strands {
            let strands = row.known_strands[usize::from(*mode == Mode::Stop)];
            if strands != 0 {
                println!("    {strands} strands with slices off ({mode:?}): {reason}");
            }
        }
    }
}

/// Returns all points to try, in this order.
fn points(subject: &dyn Subject, whole: &Report) -> Box<dyn Iterator<Item = usize>> {
    match subject.traits().most_points {
        // The range is cut short when some points are found to be beyond the end.
        None => Box::new(0..whole.walk.points.saturating_mul(2) + 100),
        Some(most) => Box::new(telling_first(whole).take(most)),
    }
}

/// Yields the sleeps, the two ends and the system calls first. All other points follow, in an order
/// whose beginning is always evenly spread.
fn telling_first(whole: &Report) -> impl Iterator<Item = usize> + use<> {
    let last = whole.walk.points;
    let calls = whole.walk.calls.iter().flat_map(|&call| [call, call + 1]);
    let telling: Vec<usize> = whole
        .walk
        .asleep
        .iter()
        .copied()
        .chain([last, 0])
        .chain(calls)
        .filter(|&point| point <= last)
        .collect();
    let bits = (last + 1).next_power_of_two().ilog2();
    let spread = (0..1_usize << bits)
        .map(move |index| index.reverse_bits().checked_shr(usize::BITS - bits).unwrap_or(0));
    let mut seen = BTreeSet::new();
    telling
        .into_iter()
        .chain(spread.filter(move |&point| point <= last))
        .filter(move |&point| seen.insert(point))
}

fn complain(subject: &dyn Subject, plan: Plan, report: &Report, fault: &Fault) {
    let what = match (plan.mode, plan.point) {
        (_, usize::MAX) => "undisturbed".into(),
        (Mode::Kill, point) => format!("killed after {point}"),
        (Mode::Stop, point) => format!("stopped after {point}"),
    };
    let slices = if plan.has_slices { "on" } else { "off" };
    let asleep = if report.walk.asleep.contains(&report.walk.points) { ", asleep" } else { "" };
    println!("VIOLATION {}: {what}{asleep}, slices {slices}: {fault}", subject.name());
    let at = if let Fault::Noticed(at) = fault { *at } else { report.walk.at };
    if let Some(place) = at.and_then(source_of) {
        println!("    before {place}");
    }
}

/// Returns the function and line of an instruction, if they can be found out.
fn source_of(at: u64) -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let name = program.to_str()?;
    let of_program = |line: &&str| line.ends_with(name);
    let base = u64::from_str_radix(maps.lines().find(of_program)?.split('-').next()?, 16).ok()?;
    let offset = at.checked_sub(base)?;
    let output = Command::new("addr2line")
        .args(["-f", "-i", "-C", "-s", "-e", name, &format!("{offset:#x}")])
        .output()
        .ok()?;
    let lines = String::from_utf8(output.stdout).ok()?;
    Some(lines.lines().take(6).collect::<Vec<_>>().join(" "))
        .filter(|place| !place.starts_with("??"))
}
