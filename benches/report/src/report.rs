//! [`Report`]: the records of all benchmarks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crossproc_harness::record::{Machine, Record, Row};
use serde::{Deserialize, Serialize};

/// Everything that one run of `ci/bench.sh` has found.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// In the order of their titles.
    pub(crate) records: Vec<Record>,
    /// What could not be run at all.
    pub(crate) missing: Vec<String>,
}

impl Report {
    /// Reads all records of a folder.
    pub(crate) fn merge(folder: &Path, missing: Vec<String>) -> io::Result<Self> {
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(folder)? {
            files.push(entry?.path());
        }
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        let mut records: Vec<Record> =
            files.iter().map(|file| Record::read(file)).collect::<Result<_, _>>()?;
        records.sort_by(|one, other| one.bench.cmp(&other.bench));
        Ok(Report { records, missing })
    }

    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(file).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", file.display()))
        })?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(file, text)
    }

    /// Returns a benchmark's record.
    pub(crate) fn record(&self, bench: &str) -> Result<&Record, String> {
        let found = self.records.iter().find(|record| record.bench == bench);
        found.ok_or_else(|| format!("there is no record of \"{bench}\""))
    }

    /// Returns the row of an operation beside a rival.
    pub(crate) fn row(&self, bench: &str, operation: &str, rival: &str) -> Result<&Row, String> {
        let mut rows = self.record(bench)?.rows.iter();
        rows.find(|row| row.operation.name == operation && row.rival == rival)
            .ok_or_else(|| format!("{bench} has no row \"{operation}\" beside \"{rival}\""))
    }

    /// Returns the machine, if everything was measured on one, at one commit, with full effort.
    /// Only such figures are published.
    pub(crate) fn machine(&self) -> Result<&Machine, String> {
        let first = &self.records.first().ok_or("there are no records")?.machine;
        for Record { bench, effort, machine, .. } in &self.records {
            if effort != "full" {
                return Err(format!("{bench} was measured with {effort} effort"));
            }
            let is_same = (&machine.cpu, &machine.kernel, &machine.commit)
                == (&first.cpu, &first.kernel, &first.commit);
            if !is_same {
                return Err(format!("{bench} was measured on another machine, or commit"));
            }
        }
        Ok(first)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use crossproc_harness::quartiles::Quartiles;
    use crossproc_harness::record::{Missing, Operation, Verdict};

    use super::*;

    pub(crate) fn machine() -> Machine {
        Machine {
            cpu: "a CPU".to_owned(),
            cpus: 2,
            kernel: "6.12".to_owned(),
            libc: "glibc 2.41".to_owned(),
            rustc: "rustc 1.85.0".to_owned(),
            commit: "0123456".to_owned(),
            date: "2026-01-01 00:00".to_owned(),
            scheduling: "real-time priority".to_owned(),
            rivals: BTreeMap::from([("parking_lot".to_owned(), "0.12.5".to_owned())]),
        }
    }

    pub(crate) fn row(operation: Operation, rival: &str, ratio: f64, bar: Option<f64>) -> Row {
        let around = |median: f64| Quartiles { first: median * 0.9, median, third: median * 1.1 };
        Row {
            operation,
            rival: rival.to_owned(),
            ours: around(10.0 * ratio),
            theirs: around(10.0),
            ratio: around(ratio),
            bar,
            verdict: Verdict::of(ratio, bar),
            pairs: 41,
            regime: around(9.5),
        }
    }

    pub(crate) fn record(bench: &str, rows: Vec<Row>) -> Record {
        Record {
            bench: bench.to_owned(),
            machine: machine(),
            effort: "full".to_owned(),
            pairs: 41,
            sample_ns: 12_000_000,
            rows,
            missing: vec![Missing {
                operation: "lock + unlock".to_owned(),
                rival: "Python".to_owned(),
                reason: "python3 does not start".to_owned(),
            }],
        }
    }

    pub(crate) fn report() -> Report {
        let rows = vec![
            row("lock + unlock".into(), "pthread", 0.6, Some(0.85)),
            row("lock + unlock".into(), "std", 1.1, Some(1.05)),
            row(Operation::new("a section of 2").among(2, "sections"), "pthread", 0.5, None),
            row(Operation::new("a section of 4").among(4, "sections"), "pthread", 0.25, None),
        ];
        Report { records: vec![record("Lock", rows)], missing: vec!["wordcount: gone".to_owned()] }
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let file = std::env::temp_dir().join(format!("crossproc-report-{}", std::process::id()));
        report().write(&file).unwrap();
        assert_eq!(Report::read(&file).unwrap(), report());
        fs::remove_file(&file).unwrap();
    }

    #[test]
    fn only_full_effort_is_published() {
        let mut report = report();
        assert_eq!(report.machine(), Ok(&machine()));
        report.records[0].effort = "quick".to_owned();
        assert_eq!(report.machine(), Err("Lock was measured with quick effort".to_owned()));
    }

    #[test]
    fn two_commits_are_not_published_together() {
        let mut report = report();
        report.records.push(record("Pipe", Vec::new()));
        report.records[1].machine.commit = "another".to_owned();
        assert!(report.machine().unwrap_err().contains("Pipe"));
    }
}
