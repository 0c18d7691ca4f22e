//! Workers that die are replaced, and what kills them is given up.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use super::{Obstacle, PROGRAM, Running, Scratch, random_tree, until};

#[test]
fn a_worker_killed_by_others_is_replaced() {
    let scratch = Scratch::new("replaced");
    let obstacle = Obstacle::new(&scratch);
    let (tree, (lines, words, _)) = random_tree(&scratch, 5, 50);
    let args = [
        "--json".as_ref(),
        "--workers=2".as_ref(),
        Obstacle::CHUNK.as_ref(),
        obstacle.path.as_os_str(),
        tree.as_os_str(),
    ];
    let running = Running::start(&scratch, args);
    let first = running.worker_at(&obstacle.path);
    first.kill();
    until("a replacement", || {
        Some(running.workers()).filter(|workers| workers.len() == 2 && !workers.contains(&first))
    });
    running.worker_at(&obstacle.path);
    obstacle.remove();
    let ended = running.end();
    let json = ended.json();
    assert_eq!(
        (ended.status.code(), &json["died"], &json["replaced"]),
        (Some(2), &1.into(), &1.into()),
        "{ended:?}"
    );
    assert_eq!(ended.counts().0, lines);
    assert!((words..=words + 1).contains(&ended.counts().1), "{ended:?}");
    assert!(ended.err.contains("ended before its time: signal: 9"), "{ended:?}");
}

/// Kills the worker at the obstacle, and each worker that does its task after that, until the task
/// is given up.
fn kill_five_at(running: &Running, obstacle: &Obstacle) {
    let mut killed = BTreeSet::new();
    for _ in 0..5 {
        let worker = running.worker_at(&obstacle.path);
        assert!(killed.insert(worker.pid), "the worker {worker:?} was killed already");
        worker.kill();
    }
}

#[test]
fn a_task_that_five_workers_died_at_is_given_up_and_the_rest_counted() {
    for workers in ["--workers=1", "--workers=2"] {
        let scratch = Scratch::new("given-up");
        let obstacle = Obstacle::new(&scratch);
        let (tree, expected) = random_tree(&scratch, 6, 50);
        let chunk = Obstacle::ALL_IN_ONE_CHUNK;
        let args = [
            "--json".as_ref(),
            workers.as_ref(),
            chunk.as_ref(),
            obstacle.path.as_os_str(),
            tree.as_os_str(),
        ];
        let running = Running::start(&scratch, args);
        kill_five_at(&running, &obstacle);
        let ended = running.end();
        assert_eq!((ended.status.code(), ended.counts()), (Some(2), expected), "{ended:?}");
        assert!(ended.complains(&obstacle.path, "5 workers died at its task"), "{ended:?}");
        let json = ended.json();
        assert_eq!(
            (&json["flawed"], &json["died"], &json["replaced"]),
            (&1.into(), &5.into(), &5.into()),
            "{ended:?}"
        );
    }
}

#[test]
fn all_files_of_a_task_that_is_given_up_are_named() {
    let scratch = Scratch::new("all-given-up");
    let (before, obstacle) = (scratch.file("before", "a\n"), Obstacle::new(&scratch));
    // Each worker gets at least some tasks, so it takes this many files for the first ones to share
    // a task.
    let args = ["--json", "--workers=1", "--chunk=18446744073709551615"]
        .map(OsStr::new)
        .into_iter()
        .chain([before.as_os_str()]);
    let running = Running::start(&scratch, args.chain([obstacle.path.as_os_str(); 40]));
    kill_five_at(&running, &obstacle);
    obstacle.remove();
    let ended = running.end();
    assert_eq!((ended.status.code(), ended.counts().0), (Some(2), 0), "{ended:?}");
    for path in [&before, &obstacle.path] {
        assert!(ended.complains(path, "5 workers died at its task"), "{ended:?}");
    }
    assert!(ended.complains(&obstacle.path, "shrank"), "{ended:?}");
}

#[test]
fn a_slot_whose_workers_die_without_a_task_is_given_up_and_others_do_the_rest() {
    let scratch = Scratch::new("slot");
    let (obstacle, rest) = (Obstacle::new(&scratch), scratch.file("rest", "a b\nc\n"));
    let args = [
        "--json".as_ref(),
        "--workers=2".as_ref(),
        Obstacle::ALL_IN_ONE_CHUNK.as_ref(),
        obstacle.path.as_os_str(),
        rest.as_os_str(),
    ];
    let running = Running::start(&scratch, args);
    let busy = running.worker_at(&obstacle.path);
    until("a slot that is given up", || {
        if let Some(idle) = running.workers().into_iter().find(|&worker| worker != busy) {
            idle.kill();
        }
        fs::read_to_string(&running.err)
            .unwrap()
            .contains("is given up after 5 deaths in a row without a task")
            .then_some(())
    });
    assert_eq!(running.workers(), [busy]);
    obstacle.remove();
    let ended = running.end();
    assert_eq!((ended.status.code(), ended.counts().0), (Some(2), 2), "{ended:?}");
    assert!(ended.complains(&obstacle.path, "shrank"), "{ended:?}");
}

/// Starting a worker takes descriptors. With one too few, everything but that works.
#[test]
fn when_no_worker_can_be_started_none_are_left() {
    let scratch = Scratch::new("no-start");
    let file = scratch.file("file", "a b\nc\n");
    let with_descriptors = |most: u32| {
        let mut limited = Command::new("sh");
        limited
            .args(["-c", "ulimit -n $1; shift; exec \"$@\"", "sh", &most.to_string()])
            .arg(PROGRAM)
            .args(["--json".as_ref(), file.as_os_str()]);
        Running::start_command(&scratch, &mut limited).end()
    };
    let enough = (4..64).find(|&most| with_descriptors(most).status.success()).unwrap();
    let ended = with_descriptors(enough - 1);
    assert_eq!((ended.status.code(), ended.out.as_str()), (Some(2), ""), "{ended:?}");
    assert!(
        ended.err.contains("slot 0 is given up")
            && ended.err.contains("no worker could be started"),
        "{ended:?}"
    );
    assert!(ended.err.contains("no workers left"), "{ended:?}");
}
