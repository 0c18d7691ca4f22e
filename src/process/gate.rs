//! How a forked child begins: not before its parent knows it by a pidfd, and not without its parent
//! learning of it.
//!
//! | step | process | action |
//! |---|---|---|
//! | 1 | parent | makes a pair of sockets, forks, opens a pidfd |
//! | 2 | parent | sends [`GO`]: from here on, the child cannot be taken for another process |
//! | 3 | child | ties itself to its parent if it is a daemon, and closes what it is not to keep |
//! | 4 | child | receives the byte, forgets what its parent has printed, and makes its settings |
//! | 5 | child | reports that it begins, or what failed and the errno; then does so, or exits |
//! | 6 | parent | receives the report: the fork is done, or an error, and then the child is reaped |
//!
//! So the body runs if and only if the report was sent, and the parent returns `Ok` only if the
//! report came.
//!
//! Either process may die at any step. The end of the stream tells the other, except in one case:
//! another thread forked meanwhile, and its child has copies of both sockets. So the parent also
//! watches the pidfd, and the child checks its parent's pid now and then.
//!
//! The channel is a pair of sockets for two reasons. A write to a pipe whose reader has died could
//! kill this process (SIGPIPE). And sockets can be shut down: a parent that gives up ends the
//! stream, whichever processes have copies.
//!
//! No signal is sent to a pid here. A child that has ended may have been reaped by then, by the
//! kernel if SIGCHLD is ignored, or by a wait for any child. Its pid may then be another process's.
//! So a child without a pidfd is told to end by its stream, and a child with a pidfd is killed
//! through that.

use core::time::Duration;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;

use crossproc_sys::descriptor::both_above_standard;
use crossproc_sys::failed::because;
use crossproc_sys::lifeline::{self, Lifeline};
use crossproc_sys::poll::{self, PollFd, PollFlags, Polled};
use crossproc_sys::process as sys;
use crossproc_sys::retry::retry;
use crossproc_sys::{clock, ids, pidfd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown,
    socketpair,
};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

use super::closing::Closing;
use super::printed;
use super::settings::{Setting, Settings};

/// What the parent sends.
const GO: u8 = 1;
/// What the child sends if it begins.
const BEGUN: ChildReport = ChildReport { step: 0, errno: 0 };
/// What can fail in the child, numbered from 1.
const STEPS: [&str; 9] = [
    "tying it to its parent",
    "being let in by its parent",
    "closing what it is not to keep",
    "letting go of what its parent has printed",
    "entering its process group",
    "ignoring a signal, or not",
    "entering its working directory",
    "setting its name",
    "setting a limit",
];
const TYING: u8 = 1;
const LETTING_IN: u8 = 2;
const CLOSING: u8 = 3;
const FORGETTING: u8 = 4;

impl Setting {
    fn step(self) -> u8 {
        match self {
            Setting::Group => 5,
            Setting::Signal => 6,
            Setting::Folder => 7,
            Setting::Name => 8,
            Setting::Limit => 9,
        }
    }
}

/// Waits for the end, and does not reap.
const UNREAPED: WaitIdOptions = WaitIdOptions::EXITED.union(WaitIdOptions::NOWAIT);
/// The exit code of a child that did not begin.
pub(super) const NOT_STARTED: i32 = 127;
/// How often a child checks that its parent is alive, in nanoseconds.
const LOOK: u64 = 100_000_000;
/// How long a child that is not let in may take to end, in nanoseconds.
const END: u64 = 10_000_000_000;

/// The child's report: five bytes, the step and the errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ChildReport {
    step: u8,
    errno: i32,
}

/// The parent's end.
#[derive(Debug)]
pub(super) struct Outside(OwnedFd);

/// The child's end.
#[derive(Debug)]
pub(super) struct Inside {
    socket: OwnedFd,
    parent: Pid,
}

/// Makes both ends, close-on-exec.
pub(super) fn gate() -> io::Result<(Inside, Outside)> {
    let made = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(crossproc_sys::failed::failed("socketpair"))?;
    let (inside, outside) = both_above_standard(made)?;
    Ok((
        Inside {
            socket: inside,
            parent: ids::this_process().map_err(crossproc_sys::failed::failed("getpid"))?,
        },
        Outside(outside),
    ))
}

impl Inside {
    /// The child's part. Returns if the child is to begin, with the socket closed; otherwise the
    /// process exits. Async-signal-safe unless it `forgets` what its parent has printed.
    pub(super) fn pass(
        self,
        line: Option<Lifeline>,
        closing: &mut Closing<'_>,
        settings: &Settings,
        forgets: bool,
    ) {
        let tied = match line {
            Some(line) => line.tie(),
            None => {
                lifeline::let_go();
                Ok(())
            }
        };
        let failed = |step| move |errno: Errno| ChildReport { step, errno: errno.raw_os_error() };
        let failed_io = |step| {
            move |error: io::Error| ChildReport { step, errno: error.raw_os_error().unwrap_or(0) }
        };
        let passed = tied
            .map_err(failed_io(TYING))
            .and_then(|()| closing.close().map_err(failed(CLOSING)))
            .and_then(|()| self.wait_for_go().map_err(failed(LETTING_IN)))
            .and_then(|()| {
                if forgets { printed::forget().map_err(failed_io(FORGETTING)) } else { Ok(()) }
            })
            // Last: a limit may leave nothing for the rest.
            .and_then(|()| settings.make().map_err(|(it, errno)| failed(it.step())(errno)));
        let report = passed.err().unwrap_or(BEGUN);
        let [a, b, c, d] = report.errno.to_ne_bytes();
        let sent = retry(|| send(&self.socket, &[report.step, a, b, c, d], SendFlags::NOSIGNAL));
        // A child that cannot report does not begin: the parent learns of it from the end of the
        // stream.
        if passed.is_err() || sent.is_err() {
            sys::exit_now(NOT_STARTED);
        }
    }

    fn wait_for_go(&self) -> Result<(), Errno> {
        loop {
            if poll::wait(&self.socket, PollFlags::IN, Some(clock::now().saturating_add(LOOK)))
                .map_err(errno)?
            {
                let mut byte = [0];
                return match retry(|| recv(&self.socket, &mut byte[..], RecvFlags::DONTWAIT))? {
                    (_, 1) if byte == [GO] => Ok(()),
                    _ => Err(Errno::PIPE),
                };
            }
            // None: the parent is in another pid namespace, so that its pid cannot be asked for, or
            // a sandbox refuses the call.
            if ids::parent().unwrap_or(None).is_some_and(|now| now != self.parent) {
                return Err(Errno::PIPE);
            }
        }
    }
}

impl Outside {
    /// The parent's part: lets the child in, and waits until it has begun. If the child does not
    /// begin, it is reaped, and the error says why. `false`: the child was to forget what its
    /// parent has printed, and waits for a lock that no thread will ever release. With `patience`,
    /// a child that has not begun by then is killed: it may be stopped.
    pub(super) fn let_in(
        self,
        child: Pid,
        pidfd: &OwnedFd,
        forgets: bool,
        patience: Option<Duration>,
    ) -> io::Result<bool> {
        let end = patience.map_or(u64::MAX, |patience| {
            clock::now().saturating_add(u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX))
        });
        let result = self.let_in_and_listen(child, pidfd, forgets, end);
        let report = match result {
            Ok(Some(BEGUN)) => return Ok(true),
            Ok(report) => report,
            Err(_) => None,
        };
        // A child that has reported a failure ends by itself. `None` without an error: it has
        // ended.
        if result.is_err() {
            // Where a sandbox refuses the signal, it refused the child as much, and the child ends
            // by itself.
            let _ = pidfd::signal(pidfd, Signal::KILL);
        }
        self.shut();
        // A child that could not be killed, and is not let in, is waited for no longer than this.
        let end = clock::now().saturating_add(END);
        let has_ended = pidfd::wait(pidfd, Some(end));
        // Where a sandbox refuses to poll, it refused that to the child, too, and the child ends.
        let has_ended = has_ended
            .or_else(|_| retry(|| waitid(WaitId::PidFd(pidfd.as_fd()), UNREAPED)).map(|_| true));
        let status = has_ended.map_err(io::Error::from).and_then(|_| pidfd::reap(pidfd));
        let message = match (result, report) {
            (Err(Errno::TIMEDOUT), _) if forgets => return Ok(false),
            (Err(errno), _) => return Err(failed("letting it in", errno)),
            (_, Some(ChildReport { step, errno })) => {
                let what = usize::from(step)
                    .checked_sub(1)
                    .and_then(|step| STEPS.get(step))
                    .unwrap_or(&"something");
                return Err(failed(what, Errno::from_raw_os_error(errno)));
            }
            (Ok(_), None) => match status {
                Ok(Some(status)) => match status.signal() {
                    Some(signal) => format!("by signal {signal}"),
                    None => format!("with exit code {}", status.code().unwrap_or(-1)),
                },
                _ => "and its status went to somebody else".to_owned(),
            },
        };
        Err(ended(&message))
    }

    /// Turns away a child that has no pidfd, and reaps it.
    pub(super) fn turn_away(self, child: Pid) {
        self.shut();
        // If the kernel reaps this process's children, there is nothing to wait for, and the pid
        // may soon be another child's.
        if !sys::ignores_children() {
            let _ = retry(|| waitpid(Some(child), WaitOptions::empty()));
        }
    }

    /// Ends the stream, even if other processes have copies of these sockets.
    fn shut(self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }

    /// Lets the child in, and returns its report, or `None` if it has ended without one. ETIMEDOUT:
    /// the child sleeps where it `forgets`, and has done so for a while. ETIME: it is `end`.
    fn let_in_and_listen(
        &self,
        child: Pid,
        pidfd: &OwnedFd,
        forgets: bool,
        end: u64,
    ) -> Result<Option<ChildReport>, Errno> {
        match retry(|| send(&self.0, &[GO], SendFlags::NOSIGNAL)) {
            // The child has ended, or is about to, and may have said why.
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(errno) => return Err(errno),
        }
        let mut ready = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(pidfd, PollFlags::IN)];
        let mut has_slept = false;
        loop {
            let until = if forgets {
                end.min(clock::now().saturating_add(printed::PATIENCE.as_nanos() as u64))
            } else {
                end
            };
            match poll::poll(&mut ready, Some(until).filter(|&until| until != u64::MAX))
                .map_err(errno)?
            {
                Polled::Ready => {}
                Polled::Interrupted => continue,
                Polled::TimedOut if clock::now() >= end => return Err(Errno::TIME),
                Polled::TimedOut => {
                    let sleeps = sleeps(child);
                    // Only the second time in a row, in case both processes were stopped the first
                    // time.
                    if sleeps && has_slept {
                        return Err(Errno::TIMEDOUT);
                    }
                    has_slept = sleeps;
                    continue;
                }
            }
            let has_ended = !{ ready[1].revents() }.is_empty();
            let mut bytes = [0; 5];
            match retry(|| recv(&self.0, &mut bytes[..], RecvFlags::DONTWAIT)) {
                Ok((_, 0)) => return Ok(None),
                Ok(_) => {
                    let [step, errno @ ..] = bytes;
                    return Ok(Some(ChildReport { step, errno: i32::from_ne_bytes(errno) }));
                }
                Err(Errno::AGAIN) if has_ended => return Ok(None),
                // The child has ended without receiving what was sent; what it has sent comes next.
                Err(Errno::AGAIN | Errno::CONNRESET) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Returns whether a child sleeps: it is not about to run, stopped, or waiting for a disk. If the
/// kernel does not tell, the child counts as sleeping.
fn sleeps(child: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero()));
    stat.map_or(true, |stat| {
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('S'))
    })
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// The error of a child that has no pidfd, and was turned away.
pub(super) fn not_known(error: io::Error) -> io::Error {
    if Errno::from_io_error(&error) == Some(Errno::SRCH) {
        return ended("and its status went to somebody else");
    }
    because("opening the descriptor of a forked child, whose closure was not run, failed")(error)
}

fn ended(how: &str) -> io::Error {
    io::Error::other(format!("the child ended before its closure was run, {how}"))
}

fn failed(what: &str, errno: Errno) -> io::Error {
    let advice =
        if errno == Errno::OPNOTSUPP { "; start it by the process's first thread" } else { "" };
    because(format!("{what} failed in a forked child, whose closure was not run{advice}"))(errno)
}
