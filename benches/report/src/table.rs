//! The one table of all rows, as text.

use std::fmt::Write as _;

use crossproc_harness::ratios::aligned;
use crossproc_harness::record::{Missing, Record, Row, Verdict};

use crate::report::Report;

/// Returns the table, with the machine before it, and what is short or missing after it.
pub(crate) fn of(report: &Report) -> String {
    let mut text = String::new();
    if let Some(record) = report.records.first() {
        let mut machine = record.machine.clone();
        machine
            .rivals
            .extend(report.records.iter().flat_map(|record| record.machine.rivals.clone()));
        text = format!("{machine}\neffort:  {}\n\n", record.effort);
    }
    let heading = [
        "bench",
        "row",
        "rival",
        "crossproc",
        "rival's",
        "ratio",
        "quartiles",
        "bar",
        "",
        "regime",
    ];
    let mut cells = vec![heading.map(str::to_owned)];
    for record in &report.records {
        cells.extend(record.rows.iter().map(|row| cells_of(record, row)));
    }
    text += &aligned(&cells);
    let count = |verdict| {
        let rows = report.records.iter().flat_map(|record| &record.rows);
        rows.filter(|row| row.verdict == verdict).count()
    };
    writeln!(
        text,
        "\n{} rows: {} ok, {} short, {} without a bar",
        cells.len() - 1,
        count(Verdict::Ok),
        count(Verdict::Short),
        count(Verdict::None)
    )
    .expect("a string takes everything");
    for line in missing(report) {
        writeln!(text, "Not measured: {line}").expect("a string takes everything");
    }
    text
}

fn cells_of(record: &Record, row: &Row) -> [String; 10] {
    let unit = row.operation.unit;
    [
        record.bench.clone(),
        row.operation.name.clone(),
        row.rival.clone(),
        unit.show(row.ours.median),
        unit.show(row.theirs.median),
        format!("{:.3}", row.ratio.median),
        format!("{:.3} .. {:.3}", row.ratio.first, row.ratio.third),
        row.bar.map_or(String::new(), |bar| format!("<= {bar:.2}")),
        row.verdict.to_string(),
        format!("{:.2} ns", row.regime.median),
    ]
}

fn missing(report: &Report) -> impl Iterator<Item = String> + '_ {
    let of_records = report.records.iter().flat_map(|record| {
        missing_of(record).into_iter().map(|line| format!("{}: {line}", record.bench))
    });
    report.missing.iter().cloned().chain(of_records)
}

/// Returns what a record has not, a line for each rival and reason.
pub(crate) fn missing_of(record: &Record) -> Vec<String> {
    let mut groups: Vec<(&Missing, Vec<&str>)> = Vec::new();
    for missing in &record.missing {
        let same = groups
            .iter_mut()
            .find(|(first, _)| (&first.rival, &first.reason) == (&missing.rival, &missing.reason));
        match same {
            Some((_, operations)) => operations.push(&missing.operation),
            None => groups.push((missing, vec![&missing.operation])),
        }
    }
    let line =
        |(Missing { rival, reason, .. }, operations): (&Missing, Vec<&str>)| match operations[..] {
            [""] => format!("{rival}: {reason}"),
            [one] => format!("{rival}: {reason} ({one})"),
            _ => format!("{rival}: {reason} ({} rows)", operations.len()),
        };
    groups.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{record, report};

    #[test]
    fn the_table_has_every_row_and_what_is_missing() {
        let table = of(&report());
        assert!(table.contains("| Lock  | lock + unlock  | std     |"), "{table}");
        assert!(table.contains("| <= 1.05 | short | 9.50 ns |"), "{table}");
        assert!(table.contains("4 rows: 1 ok, 1 short, 2 without a bar"), "{table}");
        assert!(table.contains("Not measured: wordcount: gone"), "{table}");
        assert!(table.contains("Lock: Python: python3 does not start (lock + unlock)"), "{table}");
    }

    #[test]
    fn what_is_missing_for_one_reason_is_one_line() {
        let mut record = record("Lock", Vec::new());
        record.missing.push(record.missing[0].clone());
        assert_eq!(missing_of(&record), ["Python: python3 does not start (2 rows)"]);
    }
}
