//! Ratios, which are reliable where single times are not. Each is of two times that were taken one
//! right after the other, many times over.

use core::time::Duration;
use std::time::Instant;

use crate::machine::Machine;
use crate::quartiles::Quartiles;
use crate::record::{Missing, Operation, Record, Row, Verdict};
use crate::regime;
use crate::sampler::Sampler;

/// How thoroughly to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub name: &'static str,
    pub pairs: usize,
    /// The approximate length of one sample.
    pub sample: Duration,
    /// A comparison that has taken this long makes do with fewer pairs.
    pub patience: Duration,
    /// The number of pairs that it makes do with.
    pub enough: usize,
}

impl Effort {
    /// The effort for a result.
    pub const FULL: Effort = Effort {
        name: "full",
        pairs: 41,
        sample: Duration::from_millis(12),
        patience: Duration::from_secs(3),
        enough: 5,
    };
    /// The effort for a first impression.
    pub const QUICK: Effort = Effort {
        name: "quick",
        pairs: 5,
        sample: Duration::from_millis(5),
        patience: Duration::from_millis(400),
        enough: 3,
    };
    /// The effort for a check that everything runs.
    pub const TRIAL: Effort = Effort {
        name: "trial",
        pairs: 1,
        sample: Duration::from_micros(20),
        patience: Duration::ZERO,
        enough: 1,
    };

    pub fn is_trial(self) -> bool {
        self.pairs == Effort::TRIAL.pairs
    }

    /// Returns one of three, by the effort: for a result, for an impression, for a check.
    pub fn choose<T>(self, full: T, quick: T, trial: T) -> T {
        match self.name {
            "full" => full,
            "quick" => quick,
            _ => trial,
        }
    }
}

/// No figure is taken to be less, be it a time in nanoseconds or a number of bytes.
const LEAST: f64 = 1e-3;

/// The comparisons of one benchmark.
pub struct Ratios {
    title: &'static str,
    /// The packages whose versions the table names.
    rivals: &'static [&'static str],
    effort: Effort,
    regime: Paced,
    rows: Vec<Row>,
    missing: Vec<Missing>,
}

/// Takes a sample of several figures at once.
pub type Figures = Box<dyn FnMut() -> Vec<f64>>;

impl Ratios {
    /// `rivals` are the packages whose versions the table names.
    pub fn new(title: &'static str, rivals: &'static [&'static str], effort: Effort) -> Self {
        let regime = Paced::new(regime::sampler(), effort.sample / 8);
        Ratios { title, rivals, effort, regime, rows: Vec::new(), missing: Vec::new() }
    }

    /// How thoroughly everything is measured.
    pub fn effort(&self) -> Effort {
        self.effort
    }

    /// Measures `ours` against `theirs`, which do the same `operation`. `bar` is the greatest ratio
    /// that was promised.
    pub fn compare(
        &mut self,
        operation: impl Into<Operation>,
        bar: Option<f64>,
        ours: Sampler,
        rival: &str,
        theirs: Sampler,
    ) {
        let mut ours = Paced::new(ours, self.effort.sample);
        let mut theirs = Paced::new(theirs, self.effort.sample);
        self.compare_figures(
            vec![(operation.into(), bar)],
            Box::new(move || vec![ours.nanos_each()]),
            rival,
            Box::new(move || vec![theirs.nanos_each()]),
        );
    }

    /// The same with samples that have several figures, each of which makes a row. They are in the
    /// order of `operations`.
    pub fn compare_figures(
        &mut self,
        operations: Vec<(Operation, Option<f64>)>,
        mut ours: Figures,
        rival: &str,
        mut theirs: Figures,
    ) {
        let Effort { pairs, patience, enough, .. } = self.effort;
        let (mut our_samples, mut their_samples) = (Vec::new(), Vec::new());
        let mut regime = Vec::new();
        let start = Instant::now();
        while our_samples.len() < pairs
            && (our_samples.len() < enough || start.elapsed() < patience)
        {
            // Which one is first changes at random. So what the first one leaves in caches and
            // clock rates does not always come from the same one.
            if fastrand::bool() {
                our_samples.push(ours());
                their_samples.push(theirs());
            } else {
                their_samples.push(theirs());
                our_samples.push(ours());
            }
            regime.push(self.regime.nanos_each());
        }
        let regime = Quartiles::of(regime);
        for (index, (operation, bar)) in operations.into_iter().enumerate() {
            // A figure of nothing would make a ratio that is no number.
            let column = |samples: &[Vec<f64>]| -> Vec<f64> {
                samples.iter().map(|sample| sample[index].max(LEAST)).collect()
            };
            let (ours, theirs) = (column(&our_samples), column(&their_samples));
            let ratio = Quartiles::of(
                ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect(),
            );
            self.rows.push(Row {
                operation,
                rival: rival.to_owned(),
                pairs: ours.len(),
                ours: Quartiles::of(ours),
                theirs: Quartiles::of(theirs),
                ratio,
                bar,
                verdict: Verdict::of(ratio.median, bar),
                regime,
            });
        }
    }

    /// Notes what cannot be measured, and why. `operation` is empty if it is all that the rival
    /// could do.
    pub fn miss(&mut self, operation: &str, rival: &str, reason: impl Into<String>) {
        self.missing.push(Missing {
            operation: operation.to_owned(),
            rival: rival.to_owned(),
            reason: reason.into(),
        });
    }

    /// Prints the table, and writes the [record](Record) if there is to be one. After a trial,
    /// prints how many rows it would have.
    pub fn finish(self) {
        let Effort { name, pairs, sample, .. } = self.effort;
        let record = Record {
            bench: self.title.to_owned(),
            machine: Machine::here(self.rivals),
            effort: name.to_owned(),
            pairs,
            sample_ns: sample.as_nanos() as u64,
            rows: self.rows,
            missing: self.missing,
        };
        record.write_if_asked().expect("the record cannot be written");
        if self.effort.is_trial() {
            println!("{} ratios: {} comparisons run", record.bench, record.rows.len());
        } else {
            print(&record, sample);
        }
    }
}

fn print(record: &Record, sample: Duration) {
    println!("\n{}: crossproc / the rival", record.bench);
    println!(
        "Medians of {} alternated pairs of samples of {sample:?}, with the quartiles of the pairs' \
        ratios.\n{}\n",
        record.pairs, record.machine
    );
    let mut cells = vec![Row::HEADING.map(str::to_owned)];
    cells.extend(record.rows.iter().map(Row::cells));
    print_aligned(&cells);
    for Missing { operation, rival, reason } in &record.missing {
        let between = if operation.is_empty() { "" } else { ": " };
        println!("Not measured: {operation}{between}{rival}: {reason}");
    }
}

/// A sampler that does as much as takes about a given time.
pub struct Paced {
    sampler: Sampler,
    amount: u64,
    sample: Duration,
}

impl Paced {
    pub fn new(sampler: Sampler, sample: Duration) -> Paced {
        let mut paced = Paced { sampler, amount: 1, sample };
        loop {
            let took = (paced.sampler)(paced.amount);
            if took * 4 >= sample {
                paced.adapt(took);
                return paced;
            }
            paced.amount *= 2;
        }
    }

    /// Takes one sample. Returns the time of each operation.
    pub fn nanos_each(&mut self) -> f64 {
        let took = (self.sampler)(self.amount);
        let nanos = took.as_nanos() as f64 / self.amount as f64;
        // Some operations become a thousand times slower once they hinder each other, which cannot
        // be known beforehand.
        if took > self.sample * 4 || took * 4 < self.sample {
            self.adapt(took);
        }
        nanos
    }

    fn adapt(&mut self, took: Duration) {
        let exact = self.amount as f64 * self.sample.as_secs_f64() / took.as_secs_f64();
        self.amount = (exact as u64).clamp(1, self.amount.saturating_mul(4));
    }
}

/// Prints a table in Markdown. The columns are aligned for a reader of the plain text.
pub fn print_aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) {
    print!("{}", aligned(rows));
}

/// Returns such a table.
pub fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let widths: [usize; COLUMNS] = core::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let mut lines = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        lines.push(format!("| {} |\n", cells.join(" | ")));
        if index == 0 {
            lines.push(format!("|{}|\n", widths.map(|width| "-".repeat(width + 2)).join("|")));
        }
    }
    lines.concat()
}
