//! The helper process of a nursery.
//!
//! It sleeps until there is a request or a child has ended. A request brings one end of the
//! connection for the [reports](super::super::report) about the child, and that has brought already the
//! child's end of the connection to the program. So requests of several threads are no concern of
//! each other: each is one packet.
//!
//! A child's descriptors are the helper's but for those that are about the nursery: a child closes
//! them before its body runs.

#![allow(unsafe_code)]

use core::mem;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crossproc_sys::clock;
use crossproc_sys::failed::failed;
use crossproc_sys::poll::{PollFd, PollFlags, poll, sleep_until};
use rustix::process::{Pid, getpgrp, setpgid};

use super::super::report::Report;
use super::super::{Builder, Child, Exit};
use crate::connection::{self, Connection, ConnectionError, Message};

/// The length of a pause, in nanoseconds, where nothing tells when it is over: the kernel refuses a
/// wait, or a debugger has not let go of a child that has ended.
const PAUSE: u64 = 1_000_000;

/// What the helper has.
struct Helper<B> {
    /// `None`: there are none any more.
    requests: Option<Connection>,
    wards: Vec<Ward>,
    are_daemons: bool,
    /// The program's process group.
    group: Pid,
    body: B,
}

/// A child that has not ended.
struct Ward {
    child: Child,
    reports: Connection,
}

/// Serves requests until there are no more, and all children have ended.
pub(super) fn run<R: Exit>(
    requests: Connection,
    are_daemons: bool,
    body: impl Fn(Connection) -> R,
) {
    let group = getpgrp();
    // So an interrupt from the terminal is not for the helper. It may be refused to the first
    // process of a session, which this is not; where a sandbox refuses it, the helper does without.
    let _ = setpgid(None, None);
    let requests = Some(requests);
    let mut helper = Helper { requests, wards: Vec::new(), are_daemons, group, body };
    while helper.requests.is_some() || !helper.wards.is_empty() {
        let ready = helper.sleep().unwrap_or_else(|_| {
            pause();
            // The kernel does not tell what is ready: for want of memory, or since there are more
            // descriptors than there may be by now.
            helper.sources()
        });
        // From the last on: an end takes its ward out of the list.
        let each = ready.into_iter().rev().map(|source| helper.attend(source));
        if !each.fold(false, |some, this| some | this) {
            pause();
        }
    }
}

fn pause() {
    let _ = sleep_until(clock::now().saturating_add(PAUSE));
}

/// What the helper sleeps on.
#[derive(Clone, Copy)]
enum Source {
    Requests,
    Ward(usize),
}

impl<R: Exit, B: Fn(Connection) -> R> Helper<B> {
    fn sources(&self) -> Vec<Source> {
        let requests = self.requests.iter().map(|_| Source::Requests);
        requests.chain((0..self.wards.len()).map(Source::Ward)).collect()
    }

    /// Sleeps until there is something to do. Returns where.
    fn sleep(&self) -> io::Result<Vec<Source>> {
        let requests = self.requests.iter().map(AsFd::as_fd);
        let mut watched: Vec<PollFd<'_>> = requests
            .chain(self.wards.iter().map(|ward| ward.child.as_fd()))
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
            .collect();
        poll(&mut watched, None)?;
        let ready = self.sources().into_iter().zip(watched);
        Ok(ready.filter(|(_, fd)| !fd.revents().is_empty()).map(|(source, _)| source).collect())
    }

    /// Does what there is to do. Returns whether that was anything.
    fn attend(&mut self, source: Source) -> bool {
        match source {
            Source::Requests => self.serve(),
            Source::Ward(index) => self.report_end(index),
        }
    }

    fn serve(&mut self) -> bool {
        let Some(requests) = &self.requests else { return false };
        match requests.try_recv() {
            Ok(request) => {
                // One that makes no sense has no answer but the end of its stream.
                let _ = self.answer(request);
            }
            Err(ConnectionError::EndOfStream) => self.requests = None,
            Err(_) => return false,
        }
        true
    }

    fn answer(&mut self, mut request: Message) -> Result<(), ConnectionError> {
        let reports: Connection = request.take_handle()?;
        let connection = reports.try_recv()?.take_handle()?;
        let mut reports = Some(reports);
        let forked = self.fork(&mut reports, connection);
        let Some(reports) = reports else { return Ok(()) };
        match forked {
            Ok((child, pidfd)) => {
                let report = Report::Forked(child.pid()).bytes();
                if let Err(error) = reports.try_send_both(&report, &pidfd) {
                    // Nobody waits for it any more.
                    let _ = child.kill().and_then(|()| child.join());
                    return Err(error);
                }
                self.wards.push(Ward { child, reports });
                Ok(())
            }
            Err(error) => reports.try_send(&Report::Failed(error).bytes()),
        }
    }

    /// Forks a child that has this end of its connection to the program. Returns it with a copy of
    /// its pidfd. In the child, `reports` are taken.
    fn fork(
        &mut self,
        reports: &mut Option<Connection>,
        connection: Connection,
    ) -> io::Result<(Child, OwnedFd)> {
        let Helper { requests, wards, are_daemons, group, body } = self;
        let number = connection.number();
        let in_child = || {
            // What is about the nursery is not the child's.
            drop((mem::take(wards), requests.take(), reports.take()));
            // So an interrupt from the terminal is for the child, too. The group may be gone.
            let _ = setpgid(None, Some(*group));
            body(connection::adopt(connection))
        };
        // SAFETY: this process has one thread, and has run no code but this file's, which holds no
        // guards.
        let child = unsafe {
            Builder::new().daemon(*are_daemons).fork_child(in_child, true, Some(number))
        }?;
        match child.as_fd().try_clone_to_owned() {
            Ok(pidfd) => Ok((child, pidfd)),
            Err(error) => {
                let _ = child.kill().and_then(|()| child.join());
                Err(failed("fcntl(F_DUPFD_CLOEXEC)")(error))
            }
        }
    }

    /// Reports that a child has ended, how, and that there is no more to report. Returns whether it
    /// has.
    fn report_end(&mut self, index: usize) -> bool {
        let ended = match self.wards[index].child.try_join() {
            Ok(None) => return false,
            Ok(Some(status)) => Some(status),
            // Its status is lost; the end of the stream says so.
            Err(_) => None,
        };
        let ward = self.wards.swap_remove(index);
        if let Some(status) = ended {
            // There may be nobody who wants to know.
            let _ = ward.reports.try_send(&Report::Ended(status).bytes());
        }
        true
    }
}
