//! How this crate's benchmarks measure: first criterion's groups, for a history of each operation
//! by itself, then a table of ratios.
//!
//! `cargo bench` does both, and `cargo bench -- ratios` only the tables. With any other argument, a
//! filter or a baseline, only criterion runs. `cargo bench -- --test` and `cargo test --benches`
//! check that everything runs. `cargo bench -- ratios --quick` takes fewer and shorter samples.
//!
//! If [`record::FOLDER`] is set in the environment, the rows of the tables are also written there.

use core::time::Duration;
use std::env;

use criterion::Criterion;

pub mod asleep;
pub mod broadcast;
pub mod latencies;
pub mod machine;
pub mod pipe;
pub mod placement;
pub mod posix_semaphore;
pub mod python;
pub mod quartiles;
pub mod queue;
pub mod ratios;
pub mod record;
pub mod regime;
pub mod sampler;
pub mod team;

use self::ratios::{Effort, Ratios};

/// The benchmark's `main`. `packages` are the rivals whose versions are named.
pub fn run(
    title: &'static str,
    packages: &'static [&'static str],
    groups: impl FnOnce(&mut Criterion),
    compare: impl FnOnce(&mut Ratios),
) {
    let Arguments { effort, others } = Arguments::of_program();
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
        let mut ratios = Ratios::new(title, packages, effort);
        compare(&mut ratios);
        ratios.finish();
    }
}

/// The arguments of a benchmark's program.
pub(crate) struct Arguments {
    pub(crate) effort: Effort,
    /// What does not begin with `--`.
    pub(crate) others: Vec<String>,
}

impl Arguments {
    pub(crate) fn of_program() -> Self {
        let (flags, others): (Vec<String>, Vec<String>) =
            env::args().skip(1).partition(|argument| argument.starts_with("--"));
        let has = |name: &str| flags.iter().any(|flag| flag == name);
        // Decides as criterion does: cargo passes `--bench` only for `cargo bench`.
        let effort = if has("--test") || !has("--bench") {
            Effort::TRIAL
        } else if has("--quick") {
            Effort::QUICK
        } else {
            Effort::FULL
        };
        Arguments { effort, others }
    }
}
