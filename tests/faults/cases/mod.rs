//! The cases. Each one prepares in a child of its own, and carries out one operation.

mod broadcast;
mod connection;
mod directory;
mod futures;
mod primitives;
mod process;
mod queue;
mod region;
mod wait_any;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::Shm;
use crossproc::process::{Builder, Child};

use crate::probe::{Outcome, Probe, UNREFUSED, require};

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Probe<'_>),
}

pub(crate) fn all() -> Vec<Case> {
    let mut all = Vec::new();
    region::add(&mut all);
    primitives::add(&mut all);
    wait_any::add(&mut all);
    queue::add(&mut all);
    broadcast::add(&mut all);
    connection::add(&mut all);
    process::add(&mut all);
    directory::add(&mut all);
    futures::add(&mut all);
    all
}

/// Another process, whose calls are never refused.
pub(crate) struct Peer {
    asked: Shm<AtomicU32>,
    done: Shm<AtomicU32>,
    child: Child,
}

impl Peer {
    /// Creates a peer that acts each time that it is asked.
    pub(crate) fn new(mut act: impl FnMut() + Send) -> Self {
        let number = || Shm::new(AtomicU32::new(0)).expect("memory");
        let (asked, done) = (number(), number());
        let acts = || {
            for round in 1.. {
                while asked.load(Acquire) < round {
                    thread::sleep(Duration::from_micros(200));
                }
                // By then the process that asked mostly sleeps. The case is valid even if it does
                // not.
                thread::sleep(Duration::from_millis(1));
                act();
                done.store(round, Release);
            }
        };
        // SAFETY: the child uses the crate and system calls.
        let child = unsafe { Builder::new().daemon(true).fork_with_threads(acts) }
            .expect("a peer can be forked");
        Peer { asked, done, child }
    }

    /// Asks the peer to act soon.
    pub(crate) fn ask(&self) {
        self.asked.fetch_add(1, Release);
    }

    /// Waits until the peer has ended.
    pub(crate) fn end(&self) -> Outcome {
        eventually("the peer ends", || !self.child.is_alive().expect("it is ours"))
    }

    pub(crate) fn has_finished(&self) -> bool {
        self.done.load(Acquire) >= self.asked.load(Acquire)
    }

    /// Waits until the peer has done all that it was asked for.
    pub(crate) fn finish(&self) -> Outcome {
        eventually("the peer gets on", || self.has_finished())
    }
}

/// Returns another descriptor of the same file.
pub(crate) fn duplicate(of: impl AsFd) -> io::Result<OwnedFd> {
    of.as_fd()
        .try_clone_to_owned()
        .map_err(|error| io::Error::other(format!("this case cannot duplicate: {error}")))
}

/// Requires that `holds` becomes true before long.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Outcome {
    let deadline = Instant::now() + UNREFUSED;
    while !holds() {
        require(Instant::now() < deadline, what)?;
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
