//! A check that differs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;

use super::{Obstacle, Running, Scratch};

#[test]
fn a_check_that_differs_is_status_1() {
    let scratch = Scratch::new("differs");
    let changed = scratch.file("changed", "a b\n");
    let obstacle = Obstacle::new(&scratch);
    let args = [
        "--check".as_ref(),
        "--workers=1".as_ref(),
        Obstacle::CHUNK.as_ref(),
        changed.as_os_str(),
        obstacle.path.as_os_str(),
    ];
    let running = Running::start(&scratch, args);
    // The obstacle is the second file, so the first one has been counted.
    running.worker_at(&obstacle.path);
    fs::write(&changed, "\n\n\n\n").unwrap();
    obstacle.remove();
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let complaint = ended.err.lines().find(|line| line.contains("the check failed")).unwrap();
    assert!(
        complaint.contains("counted 1 lines, ")
            && complaint.contains("by one thread 4 lines, 0 words, 4 bytes"),
        "{ended:?}"
    );
}

#[test]
fn a_check_finds_words_that_differ() {
    let scratch = Scratch::new("words-differ");
    let changed = scratch.file("changed", "a b\n");
    let obstacle = Obstacle::new(&scratch);
    // The obstacle's one word is ranked behind the others.
    obstacle.file.write_all_at(b"z", 0).unwrap();
    let args = ["--check", "--top=1", "--workers=1", Obstacle::CHUNK].map(OsStr::new);
    let running = Running::start(
        &scratch,
        args.into_iter().chain([changed.as_os_str(), obstacle.path.as_os_str()]),
    );
    running.worker_at(&obstacle.path);
    obstacle.remove();
    fs::write(&changed, "a c\n").unwrap();
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        ended
            .err
            .contains("the check failed: the word b was counted 1 times, by one thread 0 times"),
        "{ended:?}"
    );
}
