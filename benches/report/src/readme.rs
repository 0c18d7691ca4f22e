//! The README's table of speed.

use crate::markers::{replaced, wrapped};
use crate::report::Report;

/// Its rows: the benchmark, the operation, the rival, and the operation's name in the README.
const ROWS: [[&str; 4]; 12] = [
    ["Lock", "lock + unlock", "pthread robust pshared", "lock and unlock"],
    ["Lock", "lock + unlock", "std (threads only)", "lock and unlock"],
    [
        "Lock",
        "a section of 2 processes",
        "pthread robust pshared",
        "a short section of two processes",
    ],
    [
        "Lock",
        "a section of 2 processes",
        "parking_lot (threads only)",
        "a short section of two processes",
    ],
    ["RwLock", "read + unlock", "pthread pshared", "a readers' lock, read"],
    ["RwLock", "write + unlock", "pthread pshared", "a readers' lock, write"],
    ["Semaphore", "acquire + release, of 10", "sem_t pshared", "a permit, acquired and released"],
    [
        "Event",
        "set + wait + clear",
        "pthread mutex + cond pshared",
        "an event, set, waited for, cleared",
    ],
    [
        "Event",
        "ping-pong, same CPU",
        "raw futex, same spinning",
        "two events, there and back, one CPU",
    ],
    ["Barrier", "a phase of 2 processes, same CPU", "pthread pshared", "a barrier of two, one CPU"],
    [
        "Pipe",
        "there and back, 8 B",
        "raw seqpacket, send and recv",
        "a message of 8 bytes, there and back",
    ],
    ["Queue beside crates", "put + get, one thread", "shaq", "an item through a queue, one thread"],
];

/// Returns the README with a new table. A row that was not measured is an error.
pub(crate) fn rewritten(readme: &str, report: &Report) -> Result<String, String> {
    replaced(readme, |_| table(report))
}

fn table(report: &Report) -> Result<String, String> {
    let machine = report.machine()?;
    let mut text = wrapped(&format!(
        "Below 1, crossproc is faster. Medians; crossproc and its rival were run in turns. On \
         {}, {} CPUs, Linux {}; commit {} (`ci/bench.sh`):",
        machine.cpu, machine.cpus, machine.kernel, machine.commit
    ));
    text.push_str(
        "\n| operation | rival | crossproc | rival's time | ratio |\n|---|---|---|---|---|\n",
    );
    for [bench, operation, rival, name] in ROWS {
        let row = report.row(bench, operation, rival)?;
        let unit = row.operation.unit;
        text.push_str(&format!(
            "| {name} | {rival} | {} | {} | {:.3} |\n",
            unit.show(row.ours.median),
            unit.show(row.theirs.median),
            row.ratio.median
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{record, row};

    const README: &str = "# Speed\n<!-- begin: by ci/bench.sh -->\nold\n<!-- end -->\n";

    fn report() -> Report {
        let records = ROWS.map(|[bench, operation, rival, _]| {
            record(bench, vec![row(operation.into(), rival, 0.5, None)])
        });
        let mut merged: Vec<crossproc_harness::record::Record> = Vec::new();
        for record in records {
            match merged.iter_mut().find(|merged| merged.bench == record.bench) {
                Some(merged) => merged.rows.extend(record.rows),
                None => merged.push(record),
            }
        }
        Report { records: merged, missing: Vec::new() }
    }

    #[test]
    fn the_table_has_the_machine_the_commit_and_every_row() {
        let new = rewritten(README, &report()).unwrap();
        let prose = new.replace('\n', " ");
        assert!(prose.contains("On a CPU, 2 CPUs, Linux 6.12; commit 0123456 (`ci/bench.sh`):"));
        assert!(
            new.contains("| lock and unlock | std (threads only) | 5.00 ns | 10.00 ns | 0.500 |")
        );
        assert_eq!(new.lines().filter(|line| line.ends_with("| 0.500 |")).count(), ROWS.len());
    }

    #[test]
    fn a_row_that_is_missing_is_named() {
        let mut report = report();
        report.records.retain(|record| record.bench != "Pipe");
        assert_eq!(rewritten(README, &report), Err("there is no record of \"Pipe\"".to_owned()));
    }
}
