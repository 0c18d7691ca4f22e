//! Whatever a hostile sender makes of a packet, the result is what the format says, or an error:
//! see `packets`.

mod packets;

use std::time::{Duration, Instant};
use std::{env, fs};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// All run in one test, one after the other, because each run counts descriptors.
#[test]
fn packets_become_what_the_format_says() {
    let mut count = 0;
    for file in fs::read_dir("tests/corpus/connection_recv").unwrap() {
        packets::run(&fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 10, "there are {count} programs in the corpus");
    // Then runs as many more as there is time for, if any is given: `ci/fuzz.sh`, without a fuzzer.
    let seconds =
        env::var("CROSSPROC_MODEL_SECONDS").ok().map_or(0, |seconds| seconds.parse().unwrap());
    let (mut count, until) = (0, Instant::now() + Duration::from_secs(seconds));
    while count == 0 || Instant::now() < until {
        let run = |program: Vec<u8>| {
            packets::run(&program);
            Ok(())
        };
        TestRunner::new(config(1_000))
            .run(&prop::collection::vec(any::<u8>(), 0..400), run)
            .unwrap();
        count += 1_000;
    }
    println!("{count} programs");
}
