//! Processes.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::*};

use crossproc::process::{Builder, Child, CommandExt, fork, fork_connected};
use crossproc::{Event, Shm, pipe};

use super::{Case, eventually};
use crate::probe::{LONG, Outcome, Probe, SHORT, require};

/// What is started is joined, and has done what it was to do, once. One that was not has not.
fn starts(probe: Probe<'_>, start: impl Fn(&Shm<AtomicU32>) -> std::io::Result<Child>) {
    let count = Shm::new(AtomicU32::new(0)).unwrap();
    let before = AtomicU32::new(0);
    let operation = || {
        before.store(count.load(Acquire), Relaxed);
        let child = start(&count)?;
        require(child.join_timeout(LONG)?.success(), "it succeeds")?;
        Ok(require(count.load(Acquire) == before.load(Relaxed) + 1, "it has run once")?)
    };
    probe.operate(operation);
}

/// A child that sleeps.
fn sleeping() -> Child {
    // SAFETY: it only sleeps.
    unsafe { Builder::new().daemon(true).fork_with_threads(|| -> () { loop { std::thread::park() } }) }.unwrap()
}

/// What is done to a child that sleeps.
fn treats(probe: Probe<'_>, treat: impl Fn(&Child) -> Outcome) {
    let child = sleeping();
    probe.operate(|| treat(&child));
    let _ = child.kill();
}

pub(super) fn add(all: &mut Vec<Case>) {
    let mut case = |name, run| all.push(Case { name, run });
    case("process: fork and join", |probe| {
        starts(probe, |count| {
            let count = count.clone();
            fork(move || _ = count.fetch_add(1, Release))
        });
    });
    case("process: a daemon", |probe| {
        starts(probe, |count| {
            let count = count.clone();
            Builder::new().daemon(true).fork(move || _ = count.fetch_add(1, Release))
        });
    });
    case("process: fork_connected", |probe| {
        starts(probe, |count| {
            let count = count.clone();
            let (child, connection) = fork_connected(move |connection| {
                count.fetch_add(1, Release);
                connection.send(b"hello").unwrap_or_else(|_| std::process::exit(1));
            })?;
            let received = connection.recv_timeout(LONG);
            require(received.is_err() || received.is_ok_and(|message| &*message == b"hello"), "what it sends comes").map_err(std::io::Error::other)?;
            Ok(child)
        });
    });
    case("process: an end closed in the child", |probe| {
        let (ours, _theirs) = pipe().unwrap();
        probe.operate(|| {
            let child = Builder::new().close(&ours).fork(|| ())?;
            Ok(require(child.join_timeout(LONG)?.success(), "it succeeds")?)
        });
    });
    case("process: a program", |probe| {
        probe.operate(|| {
            let child = Command::new("/bin/true").start()?;
            Ok(require(child.join_timeout(LONG)?.success(), "it succeeds")?)
        });
    });
    case("process: a program that shares, as a daemon", |probe| {
        let event = Shm::new(Event::new()).unwrap();
        probe.operate(|| {
            let child = Command::new("/bin/true").share("event", &event)?.daemon()?.start()?;
            Ok(require(child.join_timeout(LONG)?.success(), "it succeeds")?)
        });
    });
    case("process: a program that is not there", |probe| {
        probe.operate(|| match Command::new("/no/such/program").start() {
            Ok(_) => Ok(require(false, "it cannot be started")?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        });
    });
    case("process: join times out", |probe| {
        treats(probe, |child| match child.join_timeout(SHORT) {
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Ok(()),
            other => Ok(other.map(|_| ())?),
        });
    });
    case("process: looked at", |probe| {
        treats(probe, |child| {
            require(child.is_alive()?, "it is alive")?;
            Ok(require(child.try_join()?.is_none(), "it has not ended")?)
        });
    });
    case("process: stopped and resumed", |probe| {
        treats(probe, |child| {
            child.stop()?;
            Ok(child.resume()?)
        });
    });
    case("process: killed and joined", |probe| {
        let child = sleeping();
        probe.operate(|| {
            child.kill()?;
            Ok(require(!child.join_timeout(LONG)?.success(), "it was killed")?)
        });
    });
    case("process: terminated", |probe| {
        treats(probe, |child| {
            child.terminate()?;
            eventually("it is gone", || child.is_alive().is_ok_and(|is_alive| !is_alive))
        });
    });
}
