//! What is printed and counted as the options say, and options that cannot be.

use std::path::Path;
use std::process::Command;

use super::{Obstacle, PROGRAM, Running, Scratch, run};

#[test]
fn text_names_all_figures() {
    let scratch = Scratch::new("text");
    let file = scratch.file("file", "a b\nc\n");
    let ended = run(&scratch, ["--check".as_ref(), "--chaos=2".as_ref(), file.as_os_str()]);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let figures = [
        "lines    2",
        "words    3",
        "bytes    6",
        "files    1",
        "chunks   1 of ",
        "tasks    1",
        "workers  1",
        "time     ",
        "killed   2 of 2,",
        "replaced 2",
    ];
    for line in figures.into_iter().chain(["lost     ", "checked  "]) {
        assert!(
            ended.out.lines().any(|printed| printed.starts_with(line)),
            "{line:?} is not in {}",
            ended.out
        );
    }
}

#[test]
fn without_a_path_the_sources_of_the_package_are_counted() {
    let scratch = Scratch::new("sources");
    for from in [Path::new(env!("CARGO_MANIFEST_DIR")), &scratch.0] {
        let ended =
            Running::start_command(&scratch, Command::new(PROGRAM).arg("--json").current_dir(from))
                .end();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert!(ended.json()["files"].as_u64().unwrap() > 10);
    }
}

#[test]
fn no_workers_are_an_error() {
    let scratch = Scratch::new("no-workers");
    let file = scratch.file("file", "a\n");
    for arg in ["--workers=0", "--chunk=0", "--chaos=-1", "--workers=x"] {
        let ended = run(&scratch, [arg.as_ref(), file.as_os_str()]);
        assert_eq!((ended.status.code(), ended.out.as_str()), (Some(2), ""), "{ended:?}");
        assert!(ended.err.contains(arg.split_once('=').unwrap().0), "{ended:?}");
    }
}

#[test]
fn too_many_chunks_are_an_error() {
    let scratch = Scratch::new("too-many-chunks");
    let obstacle = Obstacle::new(&scratch);
    let ended = run(&scratch, ["--chunk=1".as_ref(), obstacle.path.as_os_str()]);
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(ended.err.contains("larger --chunk"), "{ended:?}");
}
