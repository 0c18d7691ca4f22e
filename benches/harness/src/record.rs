//! What a benchmark has found, as JSON: a file for each benchmark, in the folder that the
//! environment variable [`FOLDER`] names. `crossproc-report` makes tables and plots of them.

use core::fmt;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::quartiles::Quartiles;

/// The environment variable that names the folder. If it is not set, nothing is written.
pub const FOLDER: &str = "CROSSPROC_BENCH_REPORT";

/// Everything that one benchmark has found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The benchmark's title.
    pub bench: String,
    pub machine: Machine,
    /// The name of the effort: full, quick or trial.
    pub effort: String,
    /// How many pairs a row has, if it does not take too long.
    pub pairs: usize,
    /// About how long a sample is.
    pub sample_ns: u64,
    pub rows: Vec<Row>,
    pub missing: Vec<Missing>,
}

/// The machine, and what was built and measured on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub kernel: String,
    pub libc: String,
    pub rustc: String,
    pub commit: String,
    /// The date and the time, in UTC.
    pub date: String,
    /// The scheduling policy, and the priority if it has one.
    pub scheduling: String,
    /// The versions of the rivals that are packages.
    pub rivals: BTreeMap<String, String>,
}

/// One operation beside one rival.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub operation: Operation,
    pub rival: String,
    /// crossproc's figures.
    pub ours: Quartiles,
    /// The rival's figures.
    pub theirs: Quartiles,
    /// Ours divided by the rival's, pair by pair.
    pub ratio: Quartiles,
    /// The greatest ratio that was promised.
    pub bar: Option<f64>,
    pub verdict: Verdict,
    /// How many pairs there are.
    pub pairs: usize,
    /// The host at that time: what an uncontended compare-exchange and a swap took together, in
    /// nanoseconds.
    pub regime: Quartiles,
}

impl Row {
    /// The heading of a table of rows.
    pub const HEADING: [&'static str; 8] =
        ["operation", "rival", "crossproc", "rival's", "ratio", "quartiles", "bar", ""];

    /// Returns the cells of such a table.
    pub fn cells(&self) -> [String; 8] {
        let unit = self.operation.unit;
        [
            self.operation.name.clone(),
            self.rival.clone(),
            unit.show(self.ours.median),
            unit.show(self.theirs.median),
            format!("{:.3}", self.ratio.median),
            format!("{:.3} .. {:.3}", self.ratio.first, self.ratio.third),
            self.bar.map_or(String::new(), |bar| format!("<= {bar:.2}")),
            self.verdict.to_string(),
        ]
    }
}

/// Whether a promise is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing was promised.
    None,
    /// The ratio is at the bar or below.
    Ok,
    /// The ratio is above the bar.
    Short,
}

impl Verdict {
    /// Compares a ratio with the greatest one that was promised.
    pub fn of(ratio: f64, bar: Option<f64>) -> Self {
        match bar {
            None => Verdict::None,
            Some(bar) if ratio <= bar => Verdict::Ok,
            Some(_) => Verdict::Short,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::None => "",
            Verdict::Ok => "ok",
            Verdict::Short => "short",
        })
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    pub name: String,
    pub unit: Unit,
    /// Where it stands in a plot.
    pub point: Option<Point>,
}

impl Operation {
    /// Returns an operation that is measured in nanoseconds, and is in no plot.
    pub fn new(name: impl Into<String>) -> Self {
        Operation { name: name.into(), unit: Unit::Nanoseconds, point: None }
    }

    /// Returns the same, measured in bytes.
    pub fn in_bytes(self) -> Self {
        Operation { unit: Unit::Bytes, ..self }
    }

    /// Returns the same, as a point of a plot of throughput over the number of processes.
    pub fn among(self, members: usize, plot: impl Into<String>) -> Self {
        let point = Point { plot: plot.into(), axis: Axis::Processes, at: members as f64 };
        Operation { point: Some(point), ..self }
    }

    /// Returns the same, as a point of a plot of latency over percentiles.
    pub fn percentile(self, percentile: f64, plot: impl Into<String>) -> Self {
        let point = Point { plot: plot.into(), axis: Axis::Percentile, at: percentile };
        Operation { point: Some(point), ..self }
    }
}

impl From<&str> for Operation {
    fn from(name: &str) -> Self {
        Operation::new(name)
    }
}

impl From<&String> for Operation {
    fn from(name: &String) -> Self {
        Operation::new(name)
    }
}

/// What a figure counts. Of each, less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    Nanoseconds,
    Bytes,
}

impl Unit {
    /// Returns a figure for people, in the prefix that fits.
    pub fn show(self, figure: f64) -> String {
        let scales: &[(f64, &str)] = match self {
            Unit::Nanoseconds => &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")],
            Unit::Bytes => &[(1.0, "B"), (1024.0, "KiB"), (1024.0 * 1024.0, "MiB")],
        };
        // Up to 9,999 of a unit are easy to read.
        let scale = scales.iter().rev().find(|&&(scale, _)| figure >= 10.0 * scale);
        let &(scale, name) = scale.unwrap_or(&scales[0]);
        let figure = figure / scale;
        let is_whole = self == Unit::Bytes && figure.fract() == 0.0;
        let decimals =
            if is_whole || figure >= 1000.0 { 0 } else { 2 - usize::from(figure >= 100.0) };
        format!("{figure:.decimals$} {name}")
    }
}

/// A place in a plot. The rows of a plot have its name in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub plot: String,
    pub axis: Axis,
    pub at: f64,
}

/// What a plot is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// The number of processes, or threads.
    Processes,
    /// The percentile of a latency.
    Percentile,
}

/// What could not be measured, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Empty if it is all that the rival could do.
    pub operation: String,
    pub rival: String,
    pub reason: String,
}

impl Record {
    /// Writes the record if the environment asks for it.
    pub fn write_if_asked(&self) -> io::Result<()> {
        match env::var_os(FOLDER) {
            Some(folder) => self.write(Path::new(&folder)).map(drop),
            None => Ok(()),
        }
    }

    /// Writes the record into a folder, which is made if there is none. Returns the file.
    pub fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let file = folder.join(slug(&self.bench) + ".json");
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(&file, text)?;
        Ok(file)
    }

    /// Reads a record.
    pub fn read(file: &Path) -> io::Result<Record> {
        Ok(serde_json::from_str(&fs::read_to_string(file)?)?)
    }
}

/// Returns a title as a file's name: lower-case letters and digits, with hyphens between.
pub fn slug(title: &str) -> String {
    let title = title.replace('µ', "u");
    let words = title.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let quartiles = Quartiles { first: 1.25, median: 2.0, third: 1.0 / 3.0 };
        Record {
            bench: "Queue beside crates".to_owned(),
            machine: Machine {
                cpu: "a CPU".to_owned(),
                cpus: 2,
                kernel: "6.12".to_owned(),
                libc: "glibc 2.41".to_owned(),
                rustc: "rustc 1.85.0".to_owned(),
                commit: "0123456".to_owned(),
                date: "2026-01-01 00:00".to_owned(),
                scheduling: "SCHED_FIFO, priority 50".to_owned(),
                rivals: BTreeMap::from([("a crate".to_owned(), "1.0.0".to_owned())]),
            },
            effort: "full".to_owned(),
            pairs: 41,
            sample_ns: 12_000_000,
            rows: vec![Row {
                operation: Operation::new("a section of 2").among(2, "sections"),
                rival: "another".to_owned(),
                ours: quartiles,
                theirs: quartiles,
                ratio: quartiles,
                bar: Some(1.0),
                verdict: Verdict::Short,
                pairs: 41,
                regime: quartiles,
            }],
            missing: vec![Missing {
                operation: String::new(),
                rival: "a third".to_owned(),
                reason: "it is not here".to_owned(),
            }],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = env::temp_dir().join(format!("crossproc-record-{}", std::process::id()));
        let file = record().write(&folder).unwrap();
        assert_eq!(file.file_name().unwrap(), "queue-beside-crates.json");
        assert_eq!(Record::read(&file).unwrap(), record());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_ratio_at_the_bar_is_ok() {
        assert_eq!(Verdict::of(1.05, Some(1.05)), Verdict::Ok);
        assert_eq!(Verdict::of(1.06, Some(1.05)), Verdict::Short);
        assert_eq!(Verdict::of(9.0, None), Verdict::None);
    }

    #[test]
    fn a_figure_has_the_prefix_that_fits() {
        let times = [4.891, 123.45, 4252.0, 49_160.0, 12_345_678.0, 2e10];
        let shown = times.map(|time| Unit::Nanoseconds.show(time));
        assert_eq!(shown, ["4.89 ns", "123.5 ns", "4252 ns", "49.16 µs", "12.35 ms", "20.00 s"]);
        let sizes = [40.0, 8192.0, 12_288.0, 20_000.0].map(|size| Unit::Bytes.show(size));
        assert_eq!(sizes, ["40 B", "8192 B", "12 KiB", "19.53 KiB"]);
    }

    #[test]
    fn a_title_becomes_a_file_name() {
        assert_eq!(slug("Queue beside crates"), "queue-beside-crates");
        assert_eq!(slug("ping-pong, two CPUs"), "ping-pong-two-cpus");
        assert_eq!(slug("sections of 1 µs"), "sections-of-1-us");
    }
}
