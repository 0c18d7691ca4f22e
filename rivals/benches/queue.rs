//! [`crossproc::Queue`](https://docs.rs/crossproc) beside its rivals.
//!
//! `cargo bench --bench queue` prints the times of all, row by row; `-- ratios` compares
//! crossproc's queue with each of the others in alternated pairs; `-- --test` runs everything once.
//! Another argument is a filter: only rows, or rivals, whose names contain it.

#![allow(missing_docs, reason = "a program")]

#[path = "../../benches/harness/mod.rs"]
#[allow(dead_code, reason = "the library's benchmarks use the rest")]
mod harness;

#[path = "../../benches/rivals"]
mod rivals {
    pub(crate) mod posix_semaphore;
}

#[path = "queue/rows.rs"]
mod rows;
#[path = "queue/table.rs"]
mod table;
#[path = "queue/work.rs"]
mod work;

use std::env;

use self::harness::ratios::{Effort, Ratios};
use self::rows::{RIVALS, Rival, rows};

/// The packages whose versions are printed.
const PACKAGES: &[&str] = &[
    #[cfg(feature = "shaq")]
    "shaq",
    "cloudtoid-interprocess",
    "iceoryx2",
    "ipc-channel",
    "crossbeam-queue",
    "crossbeam-channel",
];

fn main() {
    let (flags, others): (Vec<String>, Vec<String>) =
        env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let is_trial = flags.iter().any(|flag| flag == "--test") || flags.is_empty();
    let effort = if is_trial { Effort::TRIAL } else { Effort::FULL };
    let (modes, filters): (Vec<String>, Vec<String>) =
        others.into_iter().partition(|argument| argument == "ratios");
    let is_wanted = |row: &str, rival: &str| {
        filters.iter().all(|filter| row.contains(filter) || rival.contains(filter))
    };
    table::print(effort, is_wanted);
    if is_trial || !modes.is_empty() {
        compare(rows::ours(), effort, is_wanted);
    }
}

/// Compares crossproc's times with each rival's, as ratios.
fn compare(ours: &Rival, effort: Effort, is_wanted: impl Fn(&str, &str) -> bool) {
    let mut ratios = Ratios::new("Queue", PACKAGES, effort);
    for row in rows() {
        for rival in RIVALS
            .iter()
            .filter(|rival| rival.name != ours.name && is_wanted(&row.name, rival.name))
        {
            let Ok(theirs) = rival.sampler(&row) else { continue };
            let ours = ours.sampler(&row).expect("crossproc offers everything");
            ratios.compare(&row.name, rival.bar(&row), ours, rival.name, theirs);
        }
    }
    ratios.print();
}
