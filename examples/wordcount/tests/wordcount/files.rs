//! Files that cannot be read, or that change meanwhile, are named, and the rest is counted.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::geteuid;

use super::{Obstacle, PROGRAM, Running, Scratch, run};

#[test]
fn a_missing_path_is_named_and_the_rest_counted() {
    let scratch = Scratch::new("missing");
    let file = scratch.file("file", "a b\nc\n");
    let missing = scratch.path("missing");
    let ended = run(&scratch, ["--json".as_ref(), missing.as_os_str(), file.as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(2), (2, 3, 6)), "{ended:?}");
    assert!(ended.complains(&missing, "No such file"), "{ended:?}");
    assert_eq!(ended.json()["flawed"], 1);

    let ended = run(&scratch, ["--json".as_ref(), missing.as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(2), (0, 0, 0)), "{ended:?}");
}

#[test]
fn a_loop_of_links_is_named_and_the_rest_counted() {
    let scratch = Scratch::new("loop");
    scratch.file("tree/above/file", "a b\nc\n");
    let link = scratch.path("tree/above/back");
    symlink("..", &link).unwrap();
    let ended = run(&scratch, ["--json".as_ref(), scratch.path("tree").as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(2), (2, 3, 6)), "{ended:?}");
    assert!(ended.complains(&link, "leads back to"), "{ended:?}");
}

#[test]
fn links_are_followed_and_what_is_no_file_is_skipped() {
    let scratch = Scratch::new("links");
    scratch.file("elsewhere/file", "a b\nc\n");
    scratch.file("tree/file", "d e\n");
    symlink("../elsewhere", scratch.path("tree/directory")).unwrap();
    symlink("file", scratch.path("tree/again")).unwrap();
    symlink("nothing", scratch.path("tree/dangling")).unwrap();
    let fifo = scratch.path("tree/fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let ended = run(&scratch, ["--json".as_ref(), scratch.path("tree").as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(0), (4, 7, 14)), "{ended:?}");
    assert_eq!(ended.err, "");

    let ended =
        run(&scratch, ["--json".as_ref(), fifo.as_os_str(), scratch.path("tree/file").as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(2), (1, 2, 4)), "{ended:?}");
    assert!(ended.complains(&fifo, "neither a regular file nor a directory"), "{ended:?}");
}

#[test]
fn an_unreadable_file_is_named_and_the_rest_counted() {
    const NOBODY: u32 = 65_534;
    let scratch = Scratch::new("unreadable");
    let (secret, empty_secret) =
        (scratch.file("tree/secret", "x y z\n"), scratch.file("tree/empty secret", ""));
    let closed = scratch.file("tree/closed/file", "x y z\n");
    let closed = closed.parent().unwrap();
    scratch.file("tree/file", "a b\nc\n");
    for path in [&secret, &empty_secret, closed] {
        fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
    }
    let mut command = Command::new(PROGRAM);
    command.arg("--json").arg(scratch.path("tree"));
    if geteuid().is_root() {
        // Permissions do not stop root, so the program runs as the user `nobody`. That user cannot
        // start the program if a directory above it is private.
        command.uid(NOBODY).gid(NOBODY);
        let mut probe = Command::new(PROGRAM);
        if probe.arg("--help").stdout(Stdio::null()).uid(NOBODY).gid(NOBODY).status().is_err() {
            eprintln!("not tested: only root may start {}", PROGRAM);
            return;
        }
    }
    let ended = Running::start_command(&scratch, &mut command).end();
    // With its old mode, the directory could not be removed.
    fs::set_permissions(closed, Permissions::from_mode(0o700)).unwrap();
    assert_eq!((ended.status.code(), ended.counts()), (Some(2), (2, 3, 6)), "{ended:?}");
    for path in [&secret, &empty_secret, closed] {
        assert!(ended.complains(path, "Permission denied"), "{ended:?}");
    }
    assert_eq!(ended.json()["flawed"], 3);
}

#[test]
fn a_file_that_shrinks_is_named_and_the_rest_counted() {
    let scratch = Scratch::new("shrinks");
    let obstacle = Obstacle::new(&scratch);
    let rest = scratch.file("rest", "a b\nc\n");
    let args = [
        "--json".as_ref(),
        "--workers=1".as_ref(),
        Obstacle::CHUNK.as_ref(),
        obstacle.path.as_os_str(),
        rest.as_os_str(),
    ];
    let running = Running::start(&scratch, args);
    running.worker_at(&obstacle.path);
    obstacle.remove();
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(ended.complains(&obstacle.path, "shrank"), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "one complaint for all chunks: {ended:?}");
    let (lines, words, bytes) = ended.counts();
    assert!(
        lines == 2 && (3..=4).contains(&words) && (6..Obstacle::LEN).contains(&bytes),
        "{ended:?}"
    );
}

#[test]
fn a_file_that_goes_after_the_listing_is_named_and_the_rest_counted() {
    let scratch = Scratch::new("goes");
    let obstacle = Obstacle::new(&scratch);
    let (gone, swapped, rest) = (
        scratch.file("gone", "x\n"),
        scratch.file("swapped", "y\n"),
        scratch.file("rest", "a b\nc\n"),
    );
    let paths = [&obstacle.path, &gone, &swapped, &rest].map(|path| path.clone().into_os_string());
    let running = Running::start(
        &scratch,
        ["--json", "--workers=1", Obstacle::CHUNK].map(OsString::from).into_iter().chain(paths),
    );
    running.worker_at(&obstacle.path);
    fs::remove_file(&gone).unwrap();
    fs::remove_file(&swapped).unwrap();
    mknodat(CWD, &swapped, FileType::Fifo, Mode::RWXU, 0).unwrap();
    obstacle.remove();
    let ended = running.end();
    assert_eq!((ended.status.code(), ended.counts().0), (Some(2), 2), "{ended:?}");
    assert!(ended.complains(&gone, "No such file"), "{ended:?}");
    assert!(ended.complains(&swapped, "os error 29"), "{ended:?}");
    assert_eq!(ended.json()["flawed"], 3);
}
