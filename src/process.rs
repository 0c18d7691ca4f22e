//! Processes that share handles: [`fork`] for a closure, [`CommandExt`] for another program,
//! [`Child`] for both.
//!
//! # What a forked child inherits
//! Handles: the mappings are shared, as are the descriptors. No locks: what a thread of the parent
//! holds stays its own, and for the child it is held by another. The crate's state of the calling
//! thread is not copied but made anew, in however the child was forked.
//!
//! What the crate has open to start children and to tie daemons, a forked child does not keep: a
//! chain of children has as many descriptors in each generation. Nor do programs that are
//! [started](CommandExt::start), but for what is shared with them and, for a daemon, the one
//! descriptor that ties it to its parent. A child of [`Builder::fork_with_threads`] has copies
//! besides of whatever other threads have open at that moment, by this crate or not.
//!
//! And no guards, since the child would use what its parent holds: [`fork`] is an error while the
//! process has a guard of a [`Lock`](crate::Lock), an [`RLock`](crate::RLock) or an
//! [`RwLock`](crate::RwLock), a loan, a received item, a task or a dead letter. Drop it first, or
//! fork first. A [`Permit`](crate::Permit), and what was acquired without a guard, may stay: there
//! is nothing that the child could reach through it.
//!
//! # Fork in a program with threads
//! Only the thread that forks exists in the child. Whatever another thread was in the middle of
//! stays so for ever: a lock of the standard output, of an allocator that does not know about
//! `fork`, of any library. A child may then do only what is async-signal-safe, and with glibc also
//! allocate. [`fork`] therefore refuses if there are other threads; [`Builder::fork_with_threads`]
//! leaves it to its caller. To start workers from such a program, fork before the first thread, or
//! start a program with [`CommandExt`].
//!
//! A thread that has ended, or was joined, is in nobody's way: [`fork`] waits until the kernel has
//! finished with it. Since nobody can tell a thread that is about to end from one that is not, it
//! waits 100 ms before it refuses, and then names the threads that are left.
//!
//! This crate starts threads, too: `crossproc-futex` where somebody waits for its primitives and
//! for something that is no futex at once, in a future, or for descriptors besides;
//! `crossproc-close` where a [`Directory`](crate::Directory) is served. They end a second after
//! their last work, and [`fork`] has those end at once that have none, for which it waits up to 10
//! s, and 1 s for one that closes what a client has left. They are started again when they are
//! needed. A forked child has none of them, and starts its own. A thread that sleeps for a wait, or
//! for a future that was polled and not dropped, is needed, and so is the one that serves a
//! directory: they are an error of `fork`, which says what ends them.
//!
//! # In a test
//! In a `#[test]` there are the test runner's own threads: its first one waits for each test, which
//! runs in another, with `--test-threads=1`, too. Nothing that the test could do ends them, so
//! [`fork`] refuses. A test that forks has a program of its own, which is a `main` without them:
//!
//! ```toml
//! [[test]]
//! name = "forks"
//! harness = false
//! ```
//!
//! Or it forks once with [`Builder::fork_with_threads`], which is `unsafe` and leaves to it what
//! the child uses, and does the rest in that child, which has one thread.
//!
//! Locks of this crate are no problem in either: they belong to their thread, and the child's are
//! its own.
//!
//! # The standard streams
//! Starting a child does not depend on them: neither a full disk, nor a reader that is gone or
//! reads nothing, nor another thread that has one locked, fails or holds up a fork, or changes what
//! a child's exit status is. For that, a fork flushes nothing. What std has buffered of the
//! standard output stays the parent's, which writes it when it would have anyway: flush it before
//! the fork if it is to come before what the child prints.
//!
//! [`fork`] has the child forget its copy of the buffer, so that nothing is there twice, and what
//! the child prints itself is flushed at its end. That waits for a slow reader, as printing does,
//! and for a second at most for a thread of the child's that has the standard output locked. What
//! cannot be written then is lost, as at the end of a program.
//!
//! [`Builder::fork_with_threads`] does neither, since another thread may have had std's buffer
//! locked: the child may print a second time what was in the buffer when it was forked, and if it
//! prints, it flushes by itself. So it is in the children of such a child, if the thread did have
//! the buffer locked: then it is locked for ever. So it is, too, where a thread has ended and left
//! it locked. The first [`fork`] finds that out: its child waits for two seconds, is killed, and
//! another one is forked in its place. No `fork` flushes anything from then on. One whose child is
//! the first of another pid namespace does not try, if it may be so, since that namespace would not
//! survive it.
//!
//! An [error](Exit) that is a child's result is printed without std's lock; a panic's message takes
//! locks of std, which another thread may have had.
//!
//! # Errors
//! An [`io::Error`] of this module says which call or which step failed. Its kind is that of the
//! system's error, which is its [source](std::error::Error::source), and has the errno.
//!
//! # SIGCHLD
//! A process that ignores SIGCHLD, which it may have inherited, has its children reaped by the
//! kernel. A wait for any child, by a library or a handler, takes them from this crate, too. That
//! does no harm here: a child is known by a pidfd from before it does anything, so that no signal
//! can hit another process that was given its pid. From Linux 6.15 on the kernel keeps the exit
//! status for whoever has such a descriptor, and [`Child::join`] returns it. Before that, nothing
//! in the kernel tells how such a child ended: joining it waits for its end, and is the error
//! [`StatusLost`], which says why. Give SIGCHLD its default before the first child.
//!
//! std's own `Command::spawn` panics if a program cannot be executed and the forked child's status
//! was taken; [`CommandExt::start`] makes an error of that.
//!
//! # Daemons
//! A [daemon](Builder::daemon) is killed (SIGKILL) when the process that started it ends or calls
//! `exec`, also when that is killed itself. A daemon that changes its user while it starts cannot
//! be tied, and that is an error of the fork; one that changes it later cannot be killed that way.
//!
//! How it is tied depends on the thread that starts it, of which the safe [`fork`] has but one, and
//! nearly always the first.
//!
//! | | the process's first thread | another |
//! |---|---|---|
//! | what it hangs on | the thread (`PR_SET_PDEATHSIG`), and a descriptor | a descriptor |
//! | that thread ends before its process | the daemon is killed | nothing |
//! | the daemon closes what it does not know (`closefrom`, Python's `close_fds`) | it is tied still; `exec` by its starter does nothing any more | it is tied no more |
//! | the daemon is the first of a pid namespace | tied; as above | an error: `EOPNOTSUPP` |
//! | before Linux 5.6 | tied; as above | an error: `EOPNOTSUPP` |
//!
//! A first thread does not end before its process, unless it is ended by `pthread_exit`. A command
//! that is made a [daemon](CommandExt::daemon) is tied to the process that made it one, by the
//! thread that starts it: started by a child of that process it is `EBADF`, and the process's own
//! `exec` of it ties nothing. The descriptor is one that stays open in the daemon, never a standard
//! stream's.

#![allow(unsafe_code)]

use core::mem;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossproc_sys::pidfd;
use crossproc_sys::process::{self as sys, Lifeline};
use crossproc_sys::robust::{self, Thread};
mod child;
mod closing;
mod command;
mod gate;
mod printed;
mod start;
mod threads;

use self::closing::Closing;
use crate::connection::{self, Connection};
use crossproc_sys::failed::failed;

pub use self::child::{Child, StatusLost};
pub use self::command::{CommandExt, InheritError, inherited};
pub use crate::memory::{Handle, HandleError};

/// The exit status of a child whose closure panicked, that of a Rust program whose `main` did.
const PANICKED: i32 = 101;

/// Forks a child that runs `body` and exits with the [code](Exit) of its result: [`Builder::fork`]
/// with the defaults.
///
/// # Errors
/// As for [`Builder::fork`].
///
/// # Examples
/// ```no_run
/// use crossproc::{Lock, Shm, process};
///
/// fn main() -> std::io::Result<()> {
///     let total = Shm::new(Lock::new(0_u64))?;
///     let theirs = total.clone();
///     let child = process::fork(move || *theirs.lock().unwrap() += 1)?;
///     assert!(child.join()?.success());
///     assert_eq!(*total.lock()?, 1);
///     Ok(())
/// }
/// ```
pub fn fork<R: Exit>(body: impl FnOnce() -> R + Send + 'static) -> io::Result<Child> {
    Builder::new().fork(body)
}

/// Forks a child that is connected to this process: [`Builder::fork_connected`] with the defaults.
///
/// # Errors
/// As for [`Builder::fork_connected`].
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Connection, ConnectionError, process};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let double = |parent: Connection| -> Result<(), ConnectionError> {
///     loop {
///         match parent.recv() {
///             Ok(number) => parent.send(&[number[0] * 2])?,
///             // The parent is gone, however it ended.
///             Err(ConnectionError::EndOfStream) => return Ok(()),
///             Err(error) => return Err(error),
///         }
///     }
/// };
/// let (one, to_one) = process::fork_connected(double)?;
/// let (other, to_other) = process::fork_connected(double)?;
/// to_one.send(&[21])?;
/// assert_eq!(to_one.recv()?, [42]);
/// // The other child keeps nothing of this connection.
/// drop(to_one);
/// assert!(one.join()?.success());
/// other.kill()?;
/// assert!(matches!(to_other.recv(), Err(ConnectionError::EndOfStream)));
/// # other.join()?;
/// # Ok(())
/// # }
/// ```
pub fn fork_connected<R: Exit>(
    body: impl FnOnce(Connection) -> R + Send + 'static,
) -> io::Result<(Child, Connection)> {
    Builder::new().fork_connected(body)
}

/// How to start a child.
#[derive(Debug, Clone, Default)]
pub struct Builder<'a> {
    daemon: bool,
    closed: Vec<BorrowedFd<'a>>,
}

impl<'a> Builder<'a> {
    /// A child that may outlive this process.
    #[must_use]
    pub fn new() -> Self {
        Builder::default()
    }

    /// Whether the child is killed when this process ends. See the [module](self).
    #[must_use]
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = daemon;
        self
    }

    /// Closes a descriptor in the child, before `body`: the end of a connection that is not the
    /// child's, a file, anything. The other end of a stream is told of its end when nobody has this
    /// one any more, so a child that keeps it has others wait for ever. The parent keeps it.
    ///
    /// The child may have the owner still, in a `static`, an `Arc`, or leaked. Its descriptor is
    /// dead then: whatever is done with it is `EBADF`, for a [`Connection`]
    /// [`ConnectionError::Closed`](crate::ConnectionError::Closed), but for dropping it, which does
    /// nothing. Nothing else gets its number before that. Memory that was attached stays so: of a
    /// [`Shm`](crate::Shm) it is the descriptor alone that is closed. A queue needs its own to get
    /// memory for items, and a put may be an error without it.
    ///
    /// Other descriptors of the same end are not closed: clones, and copies in other processes.
    ///
    /// # Examples
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    /// use crossproc::{ConnectionError, pipe};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (ours, theirs) = pipe()?;
    /// let child = Builder::new().close(&ours).fork(move || {
    ///     // No process has the other end any more once the parent has dropped it.
    ///     matches!(theirs.recv(), Err(ConnectionError::EndOfStream)).then_some(()).ok_or("a message")
    /// })?;
    /// drop(ours);
    /// assert!(child.join()?.success());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn close(mut self, end: &'a impl AsFd) -> Self {
        self.closed.push(end.as_fd());
        self
    }

    /// Forks a child that runs `body` and exits with the [code](Exit) of its result; 101 if it
    /// panics.
    ///
    /// The child ends as by `_exit`: no destructor of what it inherited runs, no handler of the
    /// parent's `atexit`. What the parent has printed and not flushed stays the parent's; what the
    /// child has printed is flushed at its end. See the [module](self).
    ///
    /// No guard gets into the child: `body` borrows nothing, and it is an error if this process
    /// holds any, also one that was leaked, or that is in a `static` or a `thread_local!`. See the
    /// [module](self).
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if this process has other threads that do not end, which the
    /// error names; see the [module](self), also for `#[test]`s.
    /// [`io::ErrorKind::ResourceBusy`] if it holds a guard. Otherwise what the system says: no
    /// memory, no descriptor, too many processes, no `/proc`; also what the child was refused
    /// before `body`, or that it was killed. `body` has not run then, and there is no child.
    pub fn fork<R: Exit>(&self, body: impl FnOnce() -> R + Send + 'static) -> io::Result<Child> {
        check_what_is_held()?;
        // SAFETY: there are no other threads, and only this one could start any. No guard is held,
        // and what is `'static` otherwise leads to nothing that only a guard's owner may use.
        unsafe { self.fork_child(body, true, None) }
    }

    /// [`fork`](Builder::fork)s a child that is connected to this process: `body` gets its end, and
    /// this process the other one.
    ///
    /// Each has its own end alone. So `recv` is
    /// [`EndOfStream`](crate::ConnectionError::EndOfStream), and `send`
    /// [`BrokenPipe`](crate::ConnectionError::BrokenPipe), as soon as the other process has dropped
    /// its end or is dead, however it died.
    ///
    /// That holds for any number of children, and for children of theirs: no process that this
    /// crate forks later keeps either end, nor a [clone](Connection::try_clone) of one. One that is
    /// to have it is let have it by [`Connection::inheritable`], or is sent it, over a connection.
    /// Programs that are started have what is [shared](CommandExt::share) with them. What does keep
    /// a copy is a child that something else than this crate forks, until it calls `exec`.
    ///
    /// # Errors
    /// As [`fork`](Builder::fork). There is no connection then.
    pub fn fork_connected<R: Exit>(
        &self,
        body: impl FnOnce(Connection) -> R + Send + 'static,
    ) -> io::Result<(Child, Connection)> {
        check_what_is_held()?;
        let (ours, theirs) = connection::private_pipe()?;
        let number = theirs.number();
        let body = move || body(connection::adopt(theirs));
        // SAFETY: as for `fork`.
        let child = unsafe { self.fork_child(body, true, Some(number)) }?;
        Ok((child, ours))
    }

    /// [`fork`](Builder::fork), also if this process has other threads. The child does not flush
    /// the standard output, and has what its parent had not flushed in its buffer, too. See the
    /// [module](self).
    ///
    /// # Safety
    /// If this process has other threads, `body` calls only what is async-signal-safe, or what its
    /// caller knows not to depend on anything that another thread may be in the middle of.
    ///
    /// The child uses no guard of a lock, loan, received item or task that this process holds, and
    /// no reference that came from one: they are the parent's. It may drop them, which does
    /// nothing.
    ///
    /// # Errors
    /// What the system says: no memory, no descriptor, too many processes, no `/proc`; also what
    /// the child was refused before `body`, or that it was killed. `body` has not run then, and
    /// there is no child.
    pub unsafe fn fork_with_threads<R: Exit>(
        &self,
        body: impl FnOnce() -> R + Send,
    ) -> io::Result<Child> {
        // SAFETY: the caller's.
        unsafe { self.fork_child(body, false, None) }
    }

    /// `kept`: the number of the end of a connection that is the child's own.
    ///
    /// # Safety
    /// As for `fork_with_threads`; `is_alone` only if there are no other threads.
    unsafe fn fork_child<R: Exit>(
        &self,
        body: impl FnOnce() -> R,
        is_alone: bool,
        kept: Option<RawFd>,
    ) -> io::Result<Child> {
        let line = if self.daemon {
            Some(Lifeline::of_this_process().map_err(failed(LINE))?)
        } else {
            None
        };
        loop {
            // The child waits until the parent has its pidfd, so that it cannot be reaped by
            // anybody before that.
            let (inside, outside) = gate::gate()?;
            let mut closing = Closing::new(&self.closed, kept)?;
            let forgets = is_alone && printed::is_to_be_forgotten();
            // SAFETY: the caller's; until `body`, the child only sends, receives, polls, opens and
            // closes, and prints nothing unless it is alone.
            let pid = match unsafe { sys::fork() }.map_err(failed("fork"))? {
                None => {
                    drop(outside);
                    let begin = || inside.pass(line, &mut closing, forgets);
                    sys::exit_now(run(begin, body, is_alone))
                }
                Some(pid) => pid,
            };
            drop((inside, closing));
            let pidfd = match pidfd::open(pid) {
                Ok(pidfd) => pidfd,
                Err(error) => {
                    outside.turn_away(pid);
                    return Err(gate::not_known(&error));
                }
            };
            let has_begun = outside.let_in(pid, &pidfd, forgets)?;
            if forgets {
                printed::is_known(has_begun);
            }
            if has_begun {
                return Ok(Child::new(pid, pidfd));
            }
            // The next one is to forget nothing.
        }
    }
}

/// What fails where a child cannot be tied to this process.
const LINE: &str = "making the line that ties a daemon to this process";

/// That this process is one thread, which holds no guard.
fn check_what_is_held() -> io::Result<()> {
    threads::until_alone()?;
    let guards = robust::ready().map_or(0, Thread::guards);
    if guards != 0 {
        let message = format!(
            "this process holds {guards} guards, loans, received items or tasks, \
             which the child would have, too: drop them before the fork, or fork earlier"
        );
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    Ok(())
}

/// Ends the process when it is dropped: nothing may unwind out of a forked child into its copy of
/// the parent's code.
struct NoWayBack;

impl Drop for NoWayBack {
    fn drop(&mut self) {
        sys::exit_now(PANICKED)
    }
}

/// The child's life, and its exit code.
fn run<R: Exit>(begin: impl FnOnce(), body: impl FnOnce() -> R, is_alone: bool) -> i32 {
    let no_way_back = NoWayBack;
    begin();
    start::this_process_is_forked();
    if !is_alone {
        printed::a_thread_may_have_had_it_locked();
    }
    let code = match catch_unwind(AssertUnwindSafe(|| body().code())) {
        Ok(code) => code,
        Err(payload) => {
            // Its destructor might panic, too.
            mem::forget(payload);
            PANICKED
        }
    };
    if is_alone {
        printed::write(code);
    }
    mem::forget(no_way_back);
    code
}

/// What a forked child's closure may return, and the exit code that it means.
pub trait Exit {
    /// The exit code: 0 is success; the system keeps the lowest 8 bits.
    fn code(self) -> i32;
}

impl Exit for () {
    fn code(self) -> i32 {
        0
    }
}

impl Exit for i32 {
    fn code(self) -> i32 {
        self
    }
}

impl<T: Exit, E: core::fmt::Debug> Exit for Result<T, E> {
    /// An error is printed to the standard error and means 1, as from `main`, and also if it cannot
    /// be printed. No lock is taken for that; a reader that reads nothing is waited for for a
    /// second with each 512 bytes.
    fn code(self) -> i32 {
        match self {
            Ok(value) => value.code(),
            Err(error) => {
                printed::complain_of(&error);
                1
            }
        }
    }
}
