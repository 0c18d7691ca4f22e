//! Processes.

use std::cell::RefCell;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::*};

use crossproc::process::{
    self, Builder, Child, CommandExt, FnNursery, Nursery, fork, fork_connected,
};
use crossproc::{Event, Shm, pipe};

use super::{Case, eventually};
use crate::probe::{LONG, Outcome, Probe, SHORT, require};

/// Requires that a started process is joined, and has done its work once. If it was not started, it
/// has not done it.
fn starts(probe: Probe<'_>, start: impl Fn(&Shm<AtomicU32>) -> std::io::Result<Child>) {
    let count = Shm::new(AtomicU32::new(0)).unwrap();
    let before = AtomicU32::new(0);
    let started = RefCell::new(None);
    let operation = || {
        before.store(count.load(Acquire), Relaxed);
        let mut started = started.borrow_mut();
        let child = started.insert(start(&count)?);
        require(child.join_timeout(LONG)?.success(), "it succeeds")?;
        Ok(require(count.load(Acquire) == before.load(Relaxed) + 1, "it has run once")?)
    };
    probe.operate_and_look(operation, |_| join_again(&started));
}

/// Repeats a join that failed.
fn join_again(started: &RefCell<Option<Child>>) -> Outcome {
    match started.take() {
        Some(child) => Ok(require(child.join_timeout(LONG)?.success(), "it has succeeded")?),
        None => Ok(()),
    }
}

/// Requires that the helpers of nurseries that were dropped end, and are reaped by the next one.
fn helpers_end() -> Outcome {
    eventually("the helpers end", || {
        drop(Nursery::start(|_| ()));
        fs::read_to_string("/proc/thread-self/children").is_ok_and(|children| children.is_empty())
    })
}

#[cfg(feature = "serde")]
static SERVED: process::Function<u32, u32> = process::Function::new("served", |number| number);

/// Returns a child that sleeps.
fn sleeping() -> Child {
    // SAFETY: it only sleeps.
    unsafe {
        Builder::new().daemon(true).fork_with_threads(|| -> () {
            loop {
                std::thread::park();
            }
        })
    }
    .unwrap()
}

/// Does something to a child that sleeps.
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
                // This call may be refused, too.
                let _ = connection.send(b"hello");
            })?;
            let received = connection.recv_timeout(LONG);
            require(
                received.is_err() || received.is_ok_and(|message| &*message == b"hello"),
                "what it sends comes",
            )
            .map_err(std::io::Error::other)?;
            Ok(child)
        });
    });
    #[cfg(feature = "serde")]
    case("process: a value of a spawned process", |probe| {
        let spawned = RefCell::new(None);
        let operation = || {
            let mut spawned = spawned.borrow_mut();
            // Too long for one packet.
            let child = spawned.insert(process::spawn(|| "x".repeat(2 << 20))?);
            let outcome = child.join_timeout(LONG)?;
            let is_whole = outcome == process::Outcome::Returned("x".repeat(2 << 20));
            Ok(require(is_whole, "it returns")?)
        };
        // A join that failed is repeated: the value is still there.
        probe.operate_and_look(operation, |_| {
            let Some(child) = spawned.take() else { return Ok(()) };
            match child.join_timeout(LONG) {
                Ok(outcome) => {
                    let is_whole = outcome == process::Outcome::Returned("x".repeat(2 << 20));
                    Ok(require(is_whole, "the value is still there")?)
                }
                // The child was refused what it needs to send.
                Err(error) => {
                    let is_told = error.kind() == std::io::ErrorKind::InvalidData;
                    Ok(require(is_told, "the child has told why")?)
                }
            }
        });
    });
    case("process: a nursery", |probe| {
        let count = Shm::new(AtomicU32::new(0)).unwrap();
        let operation = || {
            let before = count.load(Acquire);
            let theirs = count.clone();
            let nursery = Nursery::start(move |_| _ = theirs.fetch_add(1, Release))?;
            let (child, _) = nursery.fork_timeout(LONG)?;
            require(child.join_timeout(LONG)?.success(), "it succeeds")?;
            Ok(require(count.load(Acquire) == before + 1, "it has run once")?)
        };
        probe.operate_and_look(operation, |_| helpers_end());
    });
    #[cfg(feature = "serde")]
    case("process: a function of a nursery", |probe| {
        let operation = || {
            let nursery = FnNursery::start()?;
            // Too long for one packet.
            let argument = "x".repeat(2 << 20);
            let spawned = nursery.spawn_timeout(|text: String| text.len(), &argument, LONG)?;
            let outcome = spawned.join_timeout(LONG)?;
            Ok(require(outcome == process::Outcome::Returned(2 << 20), "it returns")?)
        };
        probe.operate_and_look(operation, |_| helpers_end());
    });
    #[cfg(feature = "serde")]
    case("process: a function of a started program", |probe| {
        let started = RefCell::new(None);
        let operation = || {
            let mut started = started.borrow_mut();
            // Another program, which serves nothing, and whose calls are not refused.
            let program = Command::new("true");
            let child = started.insert(SERVED.start_by(program, &21)?);
            let error = child.join_timeout(LONG).expect_err("it serves nothing");
            Ok(require(error.kind() != std::io::ErrorKind::TimedOut, "it has ended")?)
        };
        probe.operate_and_look(operation, |_| {
            let Some(child) = started.take() else { return Ok(()) };
            let joined = child.join_timeout(LONG);
            Ok(require(
                joined.is_err_and(|error| error.to_string().contains("serve")),
                "it says it",
            )?)
        });
    });
    case("process: a nursery that is joined", |probe| {
        let operation = || {
            let nursery = Nursery::start(|_| ())?;
            let (child, _) = nursery.fork_timeout(LONG)?;
            drop(child);
            Ok(require(nursery.join()?.success(), "the helper succeeds")?)
        };
        probe.operate_and_look(operation, |_| helpers_end());
    });
    case("process: an end closed in the child", |probe| {
        let (ours, _theirs) = pipe().unwrap();
        let started = RefCell::new(None);
        let operation = || {
            let mut started = started.borrow_mut();
            let child = started.insert(Builder::new().close(&ours).fork(|| ())?);
            Ok(require(child.join_timeout(LONG)?.success(), "it succeeds")?)
        };
        probe.operate_and_look(operation, |_| join_again(&started));
    });
    case("process: a program", |probe| {
        let started = RefCell::new(None);
        let operation = || {
            let mut started = started.borrow_mut();
            let child = started.insert(Command::new("/bin/true").start()?);
            Ok(require(child.join_timeout(LONG)?.success(), "it succeeds")?)
        };
        probe.operate_and_look(operation, |_| join_again(&started));
    });
    case("process: a program that shares, as a daemon", |probe| {
        let event = Shm::new(Event::new()).unwrap();
        let started = RefCell::new(None);
        let operation = || {
            let mut started = started.borrow_mut();
            let child = started
                .insert(Command::new("/bin/true").share("event", &event)?.daemon()?.start()?);
            Ok(require(child.join_timeout(LONG)?.success(), "it succeeds")?)
        };
        probe.operate_and_look(operation, |_| join_again(&started));
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
        let child = sleeping();
        let gone = || child.is_alive().is_ok_and(|is_alive| !is_alive);
        let look = |is_ok: bool| if is_ok { eventually("it is gone", gone) } else { Ok(()) };
        probe.operate_and_look(|| Ok(child.terminate()?), look);
    });
}
