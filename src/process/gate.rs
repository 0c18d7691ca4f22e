//! How a forked child begins: not before its parent knows it by a pidfd, and not without its parent
//! learning of it.
//!
//! | step | who | what |
//! |---|---|---|
//! | 1 | parent | makes a pair of sockets, forks, opens a pidfd |
//! | 2 | parent | sends [`GO`]: nobody can take the child for another any more |
//! | 3 | child | ties itself to its parent if it is a daemon, and closes what it is not to keep |
//! | 4 | child | receives the byte, and forgets what its parent has printed |
//! | 5 | child | reports that it begins, or what failed and the errno; then does so, or exits |
//! | 6 | parent | receives the report: the fork is done, or an error, and then the child is reaped |
//!
//! So the body runs if and only if the report was sent, and the parent returns `Ok` only if it
//! came.
//!
//! Each may die at any step. The end of the stream tells the other one, but for one case: another
//! thread forked meanwhile, and that child has copies of both sockets. So the parent watches the
//! pidfd besides, and the child looks for its parent's pid now and then.
//!
//! Sockets, because writing to a pipe whose reader has died could kill this process (SIGPIPE), and
//! because they can be shut down: the parent that gives up ends the stream, whoever has copies.
//!
//! No signal is sent to a pid here. A child that has ended may have been reaped by then, by the
//! kernel if SIGCHLD is ignored or by a wait for any child, and its pid be another's. So a child
//! without a pidfd is told to end by its stream, and one with a pidfd is killed by that.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;

use crossproc_sys::descriptor::both_above_standard;
use crossproc_sys::poll::{self, PollFd, PollFlags, Polled};
use crossproc_sys::process::{self as sys, Lifeline};
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

/// What the parent sends.
const GO: u8 = 1;
/// What the child sends if it begins.
const BEGUN: ChildReport = ChildReport { step: 0, errno: 0 };
/// What can fail in the child, from 1 on.
const STEPS: [&str; 4] = [
    "tying it to its parent",
    "being let in by its parent",
    "closing what it is not to keep",
    "letting go of what its parent has printed",
];
const TYING: u8 = 1;
const LETTING_IN: u8 = 2;
const CLOSING: u8 = 3;
const FORGETTING: u8 = 4;

/// Waits for the end, and reaps nobody.
const UNREAPED: WaitIdOptions = WaitIdOptions::EXITED.union(WaitIdOptions::NOWAIT);
/// The exit code of a child that did not begin.
const NOT_STARTED: i32 = 127;
/// How often a child looks whether its parent lives, in nanoseconds.
const LOOK: u64 = 100_000_000;
/// How long a child may take to end that is not let in, in nanoseconds.
const END: u64 = 10_000_000_000;

/// What the child has to say: five bytes, the step and the errno.
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

/// Both ends, close-on-exec.
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
    /// The child's part. It returns if the child is to begin, and has closed the socket then;
    /// otherwise the process exits. Async-signal-safe unless it `forgets` what its parent has
    /// printed.
    pub(super) fn pass(self, line: Option<Lifeline>, closing: &mut Closing<'_>, forgets: bool) {
        let tied = match line {
            Some(line) => line.tie(),
            None => {
                sys::let_go();
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
            });
        let report = passed.err().unwrap_or(BEGUN);
        let [a, b, c, d] = report.errno.to_ne_bytes();
        let sent = retry(|| send(&self.socket, &[report.step, a, b, c, d], SendFlags::NOSIGNAL));
        // What cannot be reported does not happen: the parent learns it from the end of the stream.
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
            // None: it is in another pid namespace, and cannot be asked for, nor where that is
            // refused.
            if ids::parent().unwrap_or(None).is_some_and(|now| now != self.parent) {
                return Err(Errno::PIPE);
            }
        }
    }
}

impl Outside {
    /// The parent's part: lets the child in, and waits until it has begun. If it does not, it is
    /// reaped, and the error says why. `false`: it was to forget what its parent has printed, and
    /// waits for a lock that nobody will ever let go of.
    pub(super) fn let_in(self, child: Pid, pidfd: &OwnedFd, forgets: bool) -> io::Result<bool> {
        let result = self.let_in_and_listen(child, pidfd, forgets);
        let report = match result {
            Ok(Some(BEGUN)) => return Ok(true),
            Ok(report) => report,
            Err(_) => None,
        };
        // One that has reported a failure ends by itself, and one that has ended has done that.
        if result.is_err() {
            // Where it is refused, the child was refused as much, and ends by itself.
            let _ = pidfd::signal(pidfd, Signal::KILL);
        }
        self.shut();
        // One that could not be killed, and is not let in, is not waited for longer than this.
        let end = clock::now().saturating_add(END);
        let has_ended = pidfd::wait(pidfd, Some(end));
        // Where to poll is refused, the child was refused it, too, and ends.
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

    /// Turns away a child that there is no pidfd for, and reaps it.
    pub(super) fn turn_away(self, child: Pid) {
        self.shut();
        // If this process's children are reaped by the kernel, there is nothing to wait for, and
        // the pid may be another child's soon.
        if !sys::ignores_children() {
            let _ = retry(|| waitpid(Some(child), WaitOptions::empty()));
        }
    }

    /// Ends the stream, also for whoever has copies of these sockets.
    fn shut(self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }

    /// Lets the child in, and receives its report; `None` if it has ended without one. ETIMEDOUT:
    /// it sleeps where it `forgets`, and has done so for a while.
    fn let_in_and_listen(
        &self,
        child: Pid,
        pidfd: &OwnedFd,
        forgets: bool,
    ) -> Result<Option<ChildReport>, Errno> {
        match retry(|| send(&self.0, &[GO], SendFlags::NOSIGNAL)) {
            // It has ended, or is about to, and may have said why.
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(errno) => return Err(errno),
        }
        let mut ready = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(pidfd, PollFlags::IN)];
        let mut has_slept = false;
        loop {
            let until =
                forgets.then(|| clock::now().saturating_add(printed::PATIENCE.as_nanos() as u64));
            match poll::poll(&mut ready, until).map_err(errno)? {
                Polled::Ready => {}
                Polled::Interrupted => continue,
                Polled::TimedOut => {
                    let sleeps = sleeps(child);
                    // Twice, in case both processes were stopped for the first time.
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
                // It has ended without having received what was sent; what it has sent comes next.
                Err(Errno::AGAIN | Errno::CONNRESET) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Whether a child sleeps, and is not about to run, stopped, or waiting for a disk. One of which
/// the kernel does not tell may.
fn sleeps(child: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero()));
    stat.map_or(true, |stat| {
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('S'))
    })
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// That there is no pidfd of a child, which was turned away.
pub(super) fn not_known(error: &io::Error) -> io::Error {
    if Errno::from_io_error(error) == Some(Errno::SRCH) {
        return ended("and its status went to somebody else");
    }
    io::Error::new(
        error.kind(),
        format!(
            "opening the descriptor of a forked child, whose closure was not run, failed: {error}"
        ),
    )
}

fn ended(how: &str) -> io::Error {
    io::Error::other(format!("the child ended before its closure was run, {how}"))
}

fn failed(what: &str, errno: Errno) -> io::Error {
    let source = io::Error::from(errno);
    let advice =
        if errno == Errno::OPNOTSUPP { "; start it by the process's first thread" } else { "" };
    io::Error::new(
        source.kind(),
        format!("{what} failed in a forked child, whose closure was not run: {source}{advice}"),
    )
}
