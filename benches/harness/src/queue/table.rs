//! Times of all queues, row by row.

use core::time::Duration;
use std::time::Instant;

use super::rows::{Rival, Row, rows};
use super::work::SPINS;
use crate::machine::Machine;
use crate::quartiles::Quartiles;
use crate::ratios::{Effort, Paced, print_aligned};
use crate::record::Unit;

/// Measures, and prints each row's table when it is done.
pub(super) fn print(
    rivals: &[Rival],
    packages: &[&str],
    missing: &[(&str, &str)],
    effort: Effort,
    is_wanted: impl Fn(&str, &str) -> bool,
) {
    if !effort.is_trial() {
        introduce(rivals, packages, missing, effort);
    }
    let mut count = 0;
    for row in rows() {
        let wanted = rivals.iter().filter(|rival| is_wanted(&row.name, rival.name));
        let (mut runners, mut absent) = (Vec::new(), Vec::new());
        for rival in wanted {
            match rival.sampler(&row) {
                Ok(sampler) => {
                    let start = Instant::now();
                    let paced = Paced::new(sampler, effort.sample);
                    runners.push(Runner {
                        name: rival.name,
                        paced,
                        times: Vec::new(),
                        spent: start.elapsed(),
                    });
                }
                Err(reason) => absent.push(format!("{}: {reason}", rival.name)),
            }
        }
        count += runners.len();
        if !effort.is_trial() && !runners.is_empty() {
            measure(&row, rivals, &mut runners, effort);
            if !absent.is_empty() {
                println!("\nNot measured: {}.", absent.join("; "));
            }
            println!();
        }
    }
    if effort.is_trial() {
        println!("Queue: {count} measurements run");
    }
}

fn introduce(rivals: &[Rival], packages: &[&str], missing: &[(&str, &str)], effort: Effort) {
    println!(
        "Time of an item, put and got, between as many producers (p) as consumers (c), which are \
        processes.\n\
         Items of 8 bytes if nothing else is said, of which only the first 8 are written and \
         read; room for 1024, or for 16 MiB.\n\
         What did not succeed is tried again: {SPINS} times with a pause between, then with \
         sched_yield between.\n\
         {} samples of {:?} of each, in turns.\n{}\n",
        effort.pairs,
        effort.sample,
        Machine::here(packages)
    );
    for rival in rivals.iter().filter(|rival| !rival.offers.remark.is_empty()) {
        println!("- {}: {}", rival.name, rival.offers.remark);
    }
    for (name, reason) in missing {
        println!("- {name} is missing: {reason}");
    }
    println!();
}

struct Runner {
    name: &'static str,
    paced: Paced,
    times: Vec<f64>,
    spent: Duration,
}

/// Measures in turns, each time in another order, so that changes on the machine affect all queues.
fn measure(row: &Row, rivals: &[Rival], runners: &mut [Runner], effort: Effort) {
    for _ in 0..effort.pairs {
        fastrand::shuffle(runners);
        for runner in &mut *runners {
            if runner.times.len() < effort.enough || runner.spent < effort.patience {
                let start = Instant::now();
                runner.times.push(runner.paced.nanos_each());
                runner.spent += start.elapsed();
            }
        }
    }
    runners.sort_by_key(|runner| rivals.iter().position(|rival| rival.name == runner.name));
    println!("### {}, capacity {}\n", row.name, row.capacity);
    let mut cells = vec![["queue", "an item", "quartiles", "samples"].map(str::to_owned)];
    for runner in runners {
        let samples = runner.times.len().to_string();
        let Quartiles { first, median, third } = Quartiles::of(core::mem::take(&mut runner.times));
        cells.push([
            runner.name.to_owned(),
            Unit::Nanoseconds.show(median),
            format!("{} .. {}", Unit::Nanoseconds.show(first), Unit::Nanoseconds.show(third)),
            samples,
        ]);
    }
    print_aligned(&cells);
}
