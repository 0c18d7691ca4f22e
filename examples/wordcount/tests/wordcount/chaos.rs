//! The program kills its own workers, and counts exactly all the same.

use std::ffi::OsStr;

use super::{Scratch, naive_count, naive_ranking, random_tree, run, texts};

#[test]
fn top_is_exact_though_workers_are_killed() {
    let scratch = Scratch::new("top-chaos");
    let (tree, expected) = random_tree(&scratch, 8, 150);
    let ranking = naive_ranking(texts(&tree));
    for (chunk, workers) in [("7", "2"), ("64", "3"), ("1048576", "2")] {
        let args = [
            "--json",
            "--check",
            "--top=1000000",
            "--chaos=30",
            "--chunk",
            chunk,
            "--workers",
            workers,
            tree.to_str().unwrap(),
        ];
        let ended = run(&scratch, args);
        assert_eq!((ended.status.code(), ended.counts()), (Some(0), expected), "{ended:?}");
        assert!(ended.top() == ranking, "chunks of {chunk}, {workers} workers");
        assert_eq!(ended.json()["killed"], 30);
    }
}

/// Results take several messages each, more than the parent can read at once. So many killed
/// workers are about to send.
#[test]
fn half_a_result_does_not_count() {
    let scratch = Scratch::new("half");
    let mut random = fastrand::Rng::with_seed(9);
    let text: Vec<u8> =
        (0..250_000).flat_map(|_| format!("{:x} ", random.u32(..1 << 18)).into_bytes()).collect();
    let file = scratch.file("file", &text);
    let ranking = naive_ranking([text.clone()]);
    for workers in ["--workers=2", "--workers=3", "--workers=4", "--workers=5"] {
        let args = ["--json", "--top=50", "--check", "--chaos=50", "--chunk=150000", workers]
            .map(OsStr::new);
        let ended = run(&scratch, args.into_iter().chain([file.as_os_str()]));
        assert_eq!(
            (ended.status.code(), ended.counts()),
            (Some(0), naive_count(&text)),
            "{ended:?}"
        );
        assert_eq!(
            (ended.top().as_slice(), &ended.json()["distinct"]),
            (&ranking[..50], &ranking.len().into())
        );
    }
}

#[test]
fn totals_are_exact_though_workers_are_killed() {
    let scratch = Scratch::new("chaos");
    let (tree, expected) = random_tree(&scratch, 3, 300);
    for (chunk, workers) in [("7", "2"), ("64", "3"), ("1048576", "1"), ("1048576", "2")] {
        let args = [
            "--json",
            "--check",
            "--chaos=30",
            "--chunk",
            chunk,
            "--workers",
            workers,
            tree.to_str().unwrap(),
        ];
        let ended = run(&scratch, args);
        assert_eq!((ended.status.code(), ended.counts()), (Some(0), expected), "{ended:?}");
        let json = ended.json();
        assert_eq!(
            (&json["killed"], &json["died"], &json["replaced"]),
            (&30.into(), &0.into(), &30.into()),
            "{ended:?}"
        );
        assert!(json["lost_seconds"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn a_single_chunk_survives_many_kills() {
    let scratch = Scratch::new("single-chunk");
    let file = scratch.file("file", "a b\nc\n");
    let ended = run(&scratch, ["--json".as_ref(), "--chaos=10".as_ref(), file.as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(0), (2, 3, 6)), "{ended:?}");
    assert_eq!(ended.json()["killed"], 10);
}

#[test]
fn the_same_seed_draws_the_same_plan() {
    let scratch = Scratch::new("seed");
    let (tree, expected) = random_tree(&scratch, 4, 50);
    let plan = |seed: &str| {
        let ended = run(
            &scratch,
            ["--json", "--chaos=20", "--chunk=64", "--workers=2", seed, tree.to_str().unwrap()],
        );
        assert_eq!((ended.status.code(), ended.counts()), (Some(0), expected), "{ended:?}");
        ended.json()["chaos"].clone()
    };
    let first = plan("--seed=17");
    assert_eq!(first["plan"].as_array().unwrap().len(), 20);
    assert_eq!(first, plan("--seed=17"));
    assert_ne!(first["plan"], plan("--seed=18")["plan"]);
}
