//! Ratios, which are reliable where single times are not. Each is of two times that were taken one
//! right after the other, many times over.

use core::fmt;
use core::time::Duration;
use std::time::Instant;

use crate::machine;
use crate::sampler::Sampler;

/// How thoroughly to measure.
#[derive(Clone, Copy)]
pub struct Effort {
    pub pairs: usize,
    /// The approximate length of one sample.
    pub sample: Duration,
}

impl Effort {
    /// The effort for a result.
    pub const FULL: Effort = Effort { pairs: 41, sample: Duration::from_millis(12) };
    /// The effort for a check that everything runs.
    pub const TRIAL: Effort = Effort { pairs: 1, sample: Duration::from_micros(20) };

    pub fn is_trial(self) -> bool {
        self.pairs == Effort::TRIAL.pairs
    }
}

/// The comparisons of one benchmark.
pub struct Ratios {
    title: &'static str,
    /// The packages whose versions the table names.
    rivals: &'static [&'static str],
    effort: Effort,
    rows: Vec<Row>,
}

struct Row {
    operation: String,
    rival: String,
    ours: Quartiles,
    theirs: Quartiles,
    ratio: Quartiles,
    bar: Option<f64>,
}

impl Ratios {
    /// `rivals` are the packages whose versions the table names.
    pub fn new(title: &'static str, rivals: &'static [&'static str], effort: Effort) -> Self {
        Ratios { title, rivals, effort, rows: Vec::new() }
    }

    /// Measures `ours` against `theirs`, which do the same `operation`. `bar` is the greatest ratio
    /// that was promised.
    pub fn compare(
        &mut self,
        operation: &str,
        bar: Option<f64>,
        ours: Sampler,
        rival: &str,
        theirs: Sampler,
    ) {
        let mut ours = Paced::new(ours, self.effort.sample);
        let mut theirs = Paced::new(theirs, self.effort.sample);
        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        let start = Instant::now();
        while our_times.len() < self.effort.pairs
            && (our_times.len() < ENOUGH || start.elapsed() < PATIENCE)
        {
            // Which one is first changes at random. So what the first one leaves in caches and
            // clock rates does not always come from the same one.
            if fastrand::bool() {
                our_times.push(ours.nanos_each());
                their_times.push(theirs.nanos_each());
            } else {
                their_times.push(theirs.nanos_each());
                our_times.push(ours.nanos_each());
            }
        }
        let ratios =
            our_times.iter().zip(&their_times).map(|(ours, theirs)| ours / theirs).collect();
        self.rows.push(Row {
            operation: operation.to_owned(),
            rival: rival.to_owned(),
            ours: Quartiles::of(our_times),
            theirs: Quartiles::of(their_times),
            ratio: Quartiles::of(ratios),
            bar,
        });
    }

    /// Prints the table. After a trial, prints how many rows it would have.
    pub fn print(&self) {
        if self.effort.is_trial() {
            println!("{} ratios: {} comparisons run", self.title, self.rows.len());
            return;
        }
        let Effort { pairs, sample } = self.effort;
        println!("\n{}: time of crossproc / time of the rival", self.title);
        println!(
            "Medians of {pairs} alternated pairs of samples of {sample:?}, with the quartiles of \
             the pairs' ratios.\n{}\n",
            machine::description(self.rivals)
        );
        let mut cells = vec![
            ["operation", "rival", "crossproc", "rival", "ratio", "quartiles", "bar", ""]
                .map(str::to_owned),
        ];
        cells.extend(self.rows.iter().map(Row::cells));
        print_aligned(&cells);
    }
}

impl Row {
    fn cells(&self) -> [String; 8] {
        let bar = self.bar.map_or(String::new(), |bar| format!("<= {bar:.2}"));
        let verdict = match self.bar {
            None => "",
            Some(bar) if self.ratio.median <= bar => "ok",
            Some(_) => "MISSED",
        };
        [
            self.operation.clone(),
            self.rival.clone(),
            Nanos(self.ours.median).to_string(),
            Nanos(self.theirs.median).to_string(),
            format!("{:.3}", self.ratio.median),
            format!("{:.3} .. {:.3}", self.ratio.first, self.ratio.third),
            bar,
            verdict.to_owned(),
        ]
    }
}

pub struct Nanos(pub f64);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = if self.0 < 100.0 { 2 } else { 0 };
        write!(f, "{:.decimals$} ns", self.0)
    }
}

/// A comparison that has taken this long makes do with fewer pairs.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// The number of pairs that it makes do with.
pub const ENOUGH: usize = 5;

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

pub struct Quartiles {
    pub first: f64,
    pub median: f64,
    pub third: f64,
}

impl Quartiles {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (values.len() - 1) as f64;
            let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Quartiles { first: at(0.25), median: at(0.5), third: at(0.75) }
    }
}

/// Prints a table in Markdown. The columns are aligned for a reader of the plain text.
pub fn print_aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) {
    let widths: [usize; COLUMNS] = core::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("| {} |", cells.join(" | "));
        if index == 0 {
            println!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
        }
    }
}
