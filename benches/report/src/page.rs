//! The page with the tables of all rows, `docs/benchmarks.md`. Each section of the page names the
//! benchmarks whose tables it has.

use std::collections::{BTreeMap, BTreeSet};

use crossproc_harness::quartiles::Quartiles;
use crossproc_harness::record::{Record, Row, Verdict};

use crate::markers::{replaced, wrapped};
use crate::report::Report;
use crate::table::missing_of;

/// Returns the page with new tables. A benchmark that no section names is an error, as is a section
/// that names one without a record.
pub(crate) fn rewritten(page: &str, report: &Report) -> Result<String, String> {
    report.machine()?;
    let mut written = BTreeSet::new();
    let new = replaced(page, |names| {
        let names: Vec<&str> = names.split(',').map(str::trim).collect();
        let records: Vec<&Record> =
            names.iter().map(|name| report.record(name)).collect::<Result<_, _>>()?;
        written.extend(names.into_iter().map(str::to_owned));
        Ok(section(&records))
    })?;
    match report.records.iter().find(|record| !written.contains(&record.bench)) {
        Some(Record { bench, .. }) => Err(format!("the page has no section for \"{bench}\"")),
        None => Ok(new),
    }
}

/// Returns where and how it was measured, a table for each record, and what is missing.
fn section(records: &[&Record]) -> String {
    let mut text = introduction(records);
    for record in records {
        text.push('\n');
        text.push_str(&table(record));
    }
    let missing: Vec<String> = records.iter().flat_map(|record| missing_of(record)).collect();
    if !missing.is_empty() {
        text.push_str("\nNot measured:\n");
        for line in missing {
            text.push_str(&wrapped(&format!("- {line}")));
        }
    }
    text
}

fn introduction(records: &[&Record]) -> String {
    let Some(first) = records.first() else { return String::new() };
    let machine = &first.machine;
    let rivals: BTreeMap<_, _> = records.iter().flat_map(|record| &record.machine.rivals).collect();
    let versions: String =
        rivals.iter().map(|(rival, version)| format!(", {rival} {version}")).collect();
    let regimes = records.iter().flat_map(|record| &record.rows).map(|row| row.regime.median);
    let regimes: Vec<f64> = regimes.collect();
    let mut text = wrapped(&format!(
        "- Machine: {}, {} CPUs, Linux {}, {}; {}.",
        machine.cpu, machine.cpus, machine.kernel, machine.libc, machine.scheduling
    ));
    text += &wrapped(&format!(
        "- Commit {}, measured at {} UTC. Versions: {}{versions}.",
        machine.commit, machine.date, machine.rustc
    ));
    if !regimes.is_empty() {
        let Quartiles { first, median, third } = Quartiles::of(regimes);
        text += &wrapped(&format!(
            "- An uncontended compare-exchange and a swap took {median:.1} ns together, with \
             quartiles of {first:.1} and {third:.1}."
        ));
    }
    text + &wrapped(&format!(
        "- Medians of up to {} alternated pairs. Under a rival stands the ratio of crossproc's \
         figure to its own: below 1, crossproc is better. After it, the bar if there is one.",
        first.pairs
    ))
}

/// Returns a table with a line for each operation, and a column for each rival.
fn table(record: &Record) -> String {
    let (mut operations, mut rivals): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for row in &record.rows {
        if !operations.contains(&row.operation.name.as_str()) {
            operations.push(&row.operation.name);
        }
        if !rivals.contains(&row.rival.as_str()) {
            rivals.push(&row.rival);
        }
    }
    let heading: String = rivals.iter().map(|rival| format!(" {rival} |")).collect();
    let mut text = format!("| {} | crossproc |{heading}\n", record.bench);
    text += &format!("|---|---|{}\n", "---|".repeat(rivals.len()));
    for operation in operations {
        let rows: Vec<&Row> =
            record.rows.iter().filter(|row| row.operation.name == operation).collect();
        let ours = Quartiles::of(rows.iter().map(|row| row.ours.median).collect());
        text += &format!("| {operation} | {} |", rows[0].operation.unit.show(ours.median));
        for rival in &rivals {
            let cell = rows.iter().find(|row| row.rival == *rival).map_or(String::new(), cell);
            text += &format!(" {cell} |");
        }
        text.push('\n');
    }
    text
}

/// Returns a ratio, and how it stands to its bar.
fn cell(row: &&Row) -> String {
    let ratio = row.ratio.median;
    match (row.bar, row.verdict) {
        (Some(bar), Verdict::Short) => format!("{ratio:.2} (≤ {bar:.2}, short)"),
        (Some(bar), _) => format!("{ratio:.2} (≤ {bar:.2})"),
        (None, _) => format!("{ratio:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{record, report};

    const PAGE: &str = "# All\n<!-- begin: by ci/bench.sh: Lock -->\nold\n<!-- end -->\nprose\n";

    #[test]
    fn a_section_has_a_line_for_each_operation_losses_too() {
        let new = rewritten(PAGE, &report()).unwrap();
        assert!(new.contains("| Lock | crossproc | pthread | std |\n|---|---|---|---|\n"), "{new}");
        assert!(
            new.contains("| lock + unlock | 8.50 ns | 0.60 (≤ 0.85) | 1.10 (≤ 1.05, short) |"),
            "{new}"
        );
        assert!(new.contains("| a section of 4 | 2.50 ns | 0.25 |  |"), "{new}");
        assert!(new.contains("- Python: python3 does not start (lock + unlock)"), "{new}");
        assert!(new.contains("Commit 0123456"), "{new}");
        assert!(new.ends_with("<!-- end -->\nprose\n"), "{new}");
    }

    #[test]
    fn a_benchmark_without_a_section_is_an_error() {
        let mut report = report();
        report.records.push(record("Pipe", Vec::new()));
        let error = rewritten(PAGE, &report).unwrap_err();
        assert_eq!(error, "the page has no section for \"Pipe\"");
    }

    #[test]
    fn a_section_without_its_record_is_an_error() {
        let report = Report { records: vec![record("Pipe", Vec::new())], missing: Vec::new() };
        assert_eq!(rewritten(PAGE, &report).unwrap_err(), "there is no record of \"Lock\"");
    }
}
