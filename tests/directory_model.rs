//! A directory's state machine does exactly what a plain model of it does, whatever its clients
//! send: see `directory_model`.

#[path = "directory_model/mod.rs"]
mod directory_model;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn programs() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..600)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(2_000))]

    #[test]
    fn programs_do_what_the_model_does(program in programs()) {
        directory_model::run(&program);
    }
}

/// Runs the programs that the fuzzer starts from.
#[test]
fn programs_of_the_corpus_do_what_the_model_does() {
    let mut count = 0;
    for file in std::fs::read_dir("tests/corpus/directory_serve").unwrap() {
        directory_model::run(&std::fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 10, "there are {count} programs");
}

/// Runs as many more programs as there is time for, if any is given: `ci/fuzz.sh`, without a
/// fuzzer.
#[test]
fn programs_do_what_the_model_does_for_as_long_as_is_said() {
    let seconds =
        std::env::var("CROSSPROC_MODEL_SECONDS").ok().map_or(0, |seconds| seconds.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut count = 0;
    while Instant::now() < until {
        let run = |program: Vec<u8>| {
            directory_model::run(&program);
            Ok(())
        };
        TestRunner::new(config(100)).run(&programs(), run).unwrap();
        count += 100;
    }
    println!("{count} programs in {seconds} s");
}
