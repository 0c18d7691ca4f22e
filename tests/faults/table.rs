//! The table: the results of the faults, by call and errno.

use std::collections::{BTreeMap, BTreeSet};

use crate::ERRNOS;
use crate::calls;
use crate::run::{Fault, Report};

#[derive(Default)]
struct Cell {
    /// How often the operation succeeded all the same.
    other_ways: u32,
    /// How often it returned an error.
    errors: u32,
    violations: u32,
    /// How often it did not make the call so many times in that run.
    unmade: u32,
}

pub(crate) struct Table {
    cases: usize,
    cells: BTreeMap<(&'static str, i32), Cell>,
    errors: BTreeSet<String>,
    violations: Vec<String>,
}

const NAMES: [&str; ERRNOS.len()] =
    ["ENOSYS", "EPERM", "EACCES", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "EINTR"];

impl Table {
    pub(crate) fn new(cases: usize) -> Self {
        Table { cases, cells: BTreeMap::new(), errors: BTreeSet::new(), violations: Vec::new() }
    }

    pub(crate) fn add(
        &mut self,
        case: &str,
        fault: Fault,
        report: &Report,
        violation: Option<String>,
    ) {
        let call = calls::name(fault.number);
        let errno =
            NAMES[ERRNOS.iter().position(|&errno| errno == fault.errno).expect("one of them")];
        let cell = self.cells.entry((call, fault.errno)).or_default();
        if report.faults == 0 && violation.is_none() {
            cell.unmade += 1;
        } else if let Some(violation) = violation {
            cell.violations += 1;
            self.add_violation(format!("{case}; {call}, {:?}, {errno}: {violation}", fault.which));
        } else if let Some(error) = &report.error {
            cell.errors += 1;
            self.errors.insert(format!("{call}, {case}: {error}"));
        } else {
            cell.other_ways += 1;
        }
    }

    pub(crate) fn add_violation(&mut self, violation: String) {
        eprintln!("VIOLATION {violation}");
        self.violations.push(violation);
    }

    pub(crate) fn print(&self, with_errors: bool) {
        if with_errors {
            self.errors.iter().for_each(|error| println!("{error}"));
        }
        println!("Each cell: another way was found / an error returned / violations.\n");
        println!("| call | {} |", NAMES.join(" | "));
        println!("|---|{}", "---|".repeat(NAMES.len()));
        let calls: BTreeSet<&str> = self.cells.keys().map(|(call, _)| *call).collect();
        for call in calls {
            let cells = ERRNOS.map(|errno| match self.cells.get(&(call, errno)) {
                None => String::new(),
                Some(Cell { other_ways, errors, violations, .. }) => {
                    format!("{other_ways} / {errors} / {violations}")
                }
            });
            println!("| {call} | {} |", cells.join(" | "));
        }
        let sum = |what: fn(&Cell) -> u32| self.cells.values().map(what).sum::<u32>();
        println!();
        self.violations.iter().for_each(|violation| println!("VIOLATION {violation}"));
        println!(
            "{} cases, {} faults: {} other ways, {} errors, {} violations; {} more calls were \
             not made again",
            self.cases,
            sum(|cell| cell.other_ways + cell.errors + cell.violations),
            sum(|cell| cell.other_ways),
            sum(|cell| cell.errors),
            self.violations.len(),
            sum(|cell| cell.unmade),
        );
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}
