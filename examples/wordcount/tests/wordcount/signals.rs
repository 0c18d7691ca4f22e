//! Signals from outside, and the ends of the program and of its workers.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{Obstacle, PROGRAM, Running, Scratch, until};

#[test]
fn interruption_ends_all_workers() {
    let scratch = Scratch::new("interrupted");
    let obstacle = Obstacle::new(&scratch);
    // Ctrl-C in a terminal signals the whole group; `kill` signals the one process.
    for (signal, name, code, to_group) in [
        (Signal::INT, "SIGINT", 130, true),
        (Signal::INT, "SIGINT", 130, false),
        (Signal::TERM, "SIGTERM", 143, false),
    ] {
        let args = ["--workers=2".as_ref(), Obstacle::CHUNK.as_ref(), obstacle.path.as_os_str()];
        let running =
            Running::start_command(&scratch, Command::new(PROGRAM).args(args).process_group(0));
        running.worker_at(&obstacle.path);
        let workers =
            until("both workers", || Some(running.workers()).filter(|workers| workers.len() == 2));
        if to_group {
            kill_process_group(running.pid(), signal)
        } else {
            kill_process(running.pid(), signal)
        }
        .unwrap();
        let ended = running.end();
        assert!(workers.iter().all(|worker| worker.has_ended()), "{workers:?}");
        assert_eq!((ended.status.code(), ended.out.as_str()), (Some(code), ""), "{ended:?}");
        assert!(
            ended.err.contains(&format!("interrupted by {name}: 2 workers were ended")),
            "{ended:?}"
        );
        assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    }
}

#[test]
fn workers_end_with_their_parent() {
    let scratch = Scratch::new("orphans");
    let obstacle = Obstacle::new(&scratch);
    let running = Running::start(
        &scratch,
        ["--workers=2".as_ref(), Obstacle::CHUNK.as_ref(), obstacle.path.as_os_str()],
    );
    running.worker_at(&obstacle.path);
    let workers =
        until("both workers", || Some(running.workers()).filter(|workers| workers.len() == 2));
    kill_process(running.pid(), Signal::KILL).unwrap();
    assert_eq!(running.end().status.signal(), Some(9));
    until("the end of the workers", || {
        workers.iter().all(|worker| worker.has_ended()).then_some(())
    });
}

#[test]
fn a_stopped_worker_can_be_interrupted() {
    let scratch = Scratch::new("stopped");
    let obstacle = Obstacle::new(&scratch);
    let running = Running::start(
        &scratch,
        ["--workers=1".as_ref(), Obstacle::CHUNK.as_ref(), obstacle.path.as_os_str()],
    );
    let worker = running.worker_at(&obstacle.path);
    kill_process(Pid::from_raw(worker.pid).unwrap(), Signal::STOP).unwrap();
    kill_process(running.pid(), Signal::INT).unwrap();
    assert_eq!(running.end().status.code(), Some(130));
    assert!(worker.has_ended());
}

/// A program inherits an ignored SIGCHLD. The system then discards the exit statuses of its
/// children.
#[test]
#[allow(unsafe_code)]
fn an_ignored_sigchld_does_no_harm() {
    let scratch = Scratch::new("sigchld");
    let file = scratch.file("file", "a b\nc\n");
    let mut command = Command::new(PROGRAM);
    command.args(["--json", "--chaos=5"]).arg(&file);
    let ignore = || {
        // SAFETY: no handler is installed; `signal` is async-signal-safe.
        match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } {
            libc::SIG_ERR => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: the closure makes one async-signal-safe call, and allocates nothing.
    unsafe { command.pre_exec(ignore) };
    let ended = Running::start_command(&scratch, &mut command).end();
    assert_eq!((ended.status.code(), ended.counts()), (Some(0), (2, 3, 6)), "{ended:?}");
    assert_eq!(ended.json()["killed"], 5);
}
