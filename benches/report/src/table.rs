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
    let heading = Row::HEADING.map(str::to_owned);
    let mut cells = vec![around("bench".to_owned(), heading, "regime".to_owned())];
    for record in &report.records {
        cells.extend(record.rows.iter().map(|row| {
            let regime = format!("{:.2} ns", row.regime.median);
            around(record.bench.clone(), row.cells(), regime)
        }));
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

/// Returns the cells of a row between two more.
fn around(first: String, row: [String; 8], last: String) -> [String; 10] {
    let mut cells = core::array::from_fn(|_| String::new());
    cells[0] = first;
    cells[9] = last;
    cells[1..9].clone_from_slice(&row);
    cells
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
