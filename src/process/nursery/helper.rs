//! The helper process of a nursery.
//!
//! It sleeps until there is a request or a child has ended. A request brings one end of the
//! connection for the [reports](super::super::report) about the child. That connection has brought
//! already the child's end of its connection to the program. So each request is one packet, and
//! requests of several threads do not get mixed up.
//!
//! A child begins when the program has its pidfd, and says so over that connection. So one that
//! nobody knows of does nothing: the program gave up, or died.
//!
//! A child has the helper's descriptors but for those that are about the nursery: it closes them
//! before its body runs.

#![allow(unsafe_code)]

use core::mem;
use core::time::Duration;
use std::io;
use std::os::fd::AsFd;

use crossproc_sys::clock;
use crossproc_sys::failed::failed;
use crossproc_sys::poll::{PollFd, PollFlags, poll, sleep_until};
use crossproc_sys::signals::Blocked;

use super::super::gate::NOT_STARTED;
use super::super::report::Report;
use super::super::{Builder, Child, Exit, StatusLost};
use crate::connection::{self, Connection, ConnectionError, Message};
use crate::wait::Wait;

/// A message instead of a request: there are no more requests.
pub(super) const END: &[u8] = b"end";
/// The answer to that, unless there are no children.
const LEFT: &[u8] = b"children are left";

/// How many times the helper, or a child, tries again what the system has refused, with a pause
/// before each. It is a second.
const TRIES: u32 = 1_000;
/// How long a child may take to begin. Others wait meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// The length of a pause, in nanoseconds, where nothing tells when it is over: the kernel refuses a
/// wait, or a debugger has not let go of a child that has ended.
const PAUSE: u64 = 1_000_000;

/// What the helper has.
struct Helper<B> {
    /// `None`: there are none any more.
    requests: Option<Connection>,
    wards: Vec<Ward>,
    /// As its children are forked.
    children: Builder<'static>,
    /// The program's signals are blocked: neither do they end the helper, nor does it run the
    /// program's handlers. A child has its mask from before.
    blocked: Option<Blocked>,
    body: B,
}

/// A child that has not ended.
struct Ward {
    child: Child,
    reports: Connection,
    /// How many times the system may still refuse to reap it.
    tries: u32,
}

/// Serves requests until there are no more, and all children have ended.
pub(super) fn run<R: Exit>(
    requests: Connection,
    children: Builder<'static>,
    body: impl Fn(Connection, Message) -> R,
) {
    let mut helper = Helper {
        requests: Some(requests),
        wards: Vec::new(),
        children: Builder { patience: Some(PATIENCE), ..children },
        // Where a sandbox refuses it, the helper does without.
        blocked: Blocked::all().ok(),
        body,
    };
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

impl<R: Exit, B: Fn(Connection, Message) -> R> Helper<B> {
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
            Ok(request) if *request == *END => {
                if !self.wards.is_empty() {
                    // Without it, the program waits a moment for an end that does not come.
                    let _ = requests.try_send(LEFT);
                }
                self.requests = None;
            }
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
        // No child keeps it, also one that is stopped before it has closed anything.
        let reports = connection::adopt(request.take_handle()?);
        let connection = reports.try_recv()?.take_handle()?;
        let mut reports = Some(reports);
        let forked = self.fork(&mut reports, connection);
        let Some(reports) = reports else { return Ok(()) };
        let child = match forked {
            Ok(child) => child,
            Err(error) => return reports.try_send(&Report::Failed(error).bytes()),
        };
        let told = match child.as_fd().try_clone_to_owned() {
            Ok(pidfd) => reports.try_send_both(&Report::Forked(child.pid()).bytes(), &pidfd),
            Err(error) => {
                let error = failed("fcntl(F_DUPFD_CLOEXEC)")(error);
                reports.try_send(&Report::Failed(error).bytes()).and(Err(ConnectionError::Closed))
            }
        };
        if told.is_err() {
            // Nobody knows of it, so it does nothing, and would end by itself.
            let _ = child.kill();
        }
        self.wards.push(Ward { child, reports, tries: TRIES });
        told
    }

    /// Forks a child that has this end of its connection to the program. In the child, `reports`
    /// are taken.
    fn fork(
        &mut self,
        reports: &mut Option<Connection>,
        connection: Connection,
    ) -> io::Result<Child> {
        let Helper { requests, wards, children, blocked, body } = self;
        let number = connection.number();
        let in_child = || {
            // What is about the nursery is not the child's.
            drop((mem::take(wards), requests.take(), reports.take()));
            drop(blocked.take());
            let connection = connection::adopt(connection);
            match wait_for_go(&connection) {
                Ok(told) => body(connection, told).code(),
                Err(_) => NOT_STARTED,
            }
        };
        // SAFETY: this process has one thread, which runs this file's code and the program's
        // handlers for a fork. It holds no guard: the nursery was started without any.
        unsafe { children.fork_child(in_child, true, Some(number)) }
    }

    /// Reports that a child has ended, how, and that there is no more to report. Returns whether it
    /// has.
    fn report_end(&mut self, index: usize) -> bool {
        let ward = &mut self.wards[index];
        let ended = match ward.child.try_join() {
            Ok(None) => return false,
            Ok(Some(status)) => Some(status),
            Err(error) if ward.tries == 0 || StatusLost::is_in(&error) => None,
            Err(_) => {
                ward.tries -= 1;
                return false;
            }
        };
        if let Some(status) = ended {
            match ward.reports.try_send(&Report::Ended(status).bytes()) {
                // There may be nobody who wants to know.
                Ok(()) | Err(ConnectionError::BrokenPipe) => {}
                Err(_) if ward.tries == 0 => {}
                Err(_) => {
                    ward.tries -= 1;
                    return false;
                }
            }
        }
        self.wards.swap_remove(index);
        true
    }
}

/// The child's part: waits until the program knows of it. Returns what the program tells it then.
/// What cannot be received is received again: it stays there.
fn wait_for_go(connection: &Connection) -> Result<Message, ConnectionError> {
    let mut tries = TRIES;
    loop {
        let received =
            connection.poll_until(Wait::FOREVER).and_then(|_| connection.try_recv_or_leave());
        match received {
            Err(error @ (ConnectionError::EndOfStream | ConnectionError::Closed)) => {
                return Err(error);
            }
            Err(_) if tries > 0 => {
                tries -= 1;
                pause();
            }
            received => return received,
        }
    }
}
