//! How this crate's benchmarks measure: first criterion's groups, for a history of each operation
//! by itself, then a table of ratios.
//!
//! `cargo bench` does both, and `cargo bench -- ratios` only the tables. With any other argument, a
//! filter or a baseline, only criterion runs. `cargo bench -- --test` and `cargo test --benches`
//! check that everything runs.

use core::time::Duration;
use std::env;

use criterion::Criterion;

pub mod machine;
pub mod pipe;
pub mod placement;
pub mod posix_semaphore;
pub mod queue;
pub mod ratios;
pub mod sampler;
pub mod team;

use self::ratios::{Effort, Ratios};

/// The benchmark's `main`.
pub fn run(
    title: &'static str,
    groups: impl FnOnce(&mut Criterion),
    compare: impl FnOnce(&mut Ratios),
) {
    let (flags, others): (Vec<String>, Vec<String>) =
        env::args().skip(1).partition(|argument| argument == "--bench" || argument == "--test");
    // Decides as criterion does: cargo passes `--bench` only for `cargo bench`.
    let is_trial = flags.iter().any(|flag| flag == "--test") || flags.is_empty();
    let ratios_alone = others == ["ratios"];
    if !ratios_alone {
        let mut criterion = Criterion::default()
            .without_plots()
            .sample_size(20)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(700))
            .configure_from_args();
        groups(&mut criterion);
        criterion.final_summary();
    }
    if ratios_alone || others.is_empty() {
        let mut ratios = Ratios::new(
            title,
            &["parking_lot"],
            if is_trial { Effort::TRIAL } else { Effort::FULL },
        );
        compare(&mut ratios);
        ratios.print();
    }
}
