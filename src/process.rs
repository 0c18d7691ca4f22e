//! Processes that share handles: [`fork`] runs a closure in a child, a [`Nursery`] does so in a
//! program with threads, [`CommandExt`] starts another program, and [`Child`] stands for any of
//! them. With the feature `serde`, `spawn` runs a closure in a child whose value comes back, and a
//! `Function` is called in a program that is started for it.
//!
//! # What a forked child inherits
//! A child inherits handles: the mappings and the descriptors are shared. It inherits no locks.
//! What a thread of the parent holds stays that thread's, and the child finds it held by another.
//! The crate's state of the calling thread is made anew, not copied, whichever way the child is
//! forked.
//!
//! A forked child keeps none of the descriptors that the crate uses to start children and to tie
//! daemons. So in a chain of children, each generation has the same number of descriptors. A
//! [started](CommandExt::start) program keeps none of them either. It has what is shared with it
//! and, as a daemon, the one descriptor that ties it to its parent. A child of
//! [`Builder::fork_with_threads`] also has copies of whatever other threads have open at that
//! moment, opened by this crate or not.
//!
//! A child inherits no guards, since it would use what its parent holds. [`fork`] is an error while
//! the process has a guard of a [`Lock`](crate::Lock), an [`RLock`](crate::RLock) or an
//! [`RwLock`](crate::RwLock), a loan, a received item, a task or a dead letter. Drop it first, or
//! fork first. A [`Permit`](crate::Permit) may stay, and so may anything acquired without a guard:
//! the child could reach nothing through it.
//!
//! # Fork in a program with threads
//! Only the thread that forks exists in the child. Whatever another thread was in the middle of
//! stays that way for ever. That may be a lock of the standard output, of an allocator that does
//! not know about `fork`, or of any library. A child may then do only what is async-signal-safe
//! and, with glibc, also allocate. [`fork`] therefore refuses if there are other threads;
//! [`Builder::fork_with_threads`] leaves the decision to its caller. To start workers from such a
//! program, fork before the first thread, start a [`Nursery`] or an [`FnNursery`] before the first
//! thread, which forks at any time, or start a program with [`CommandExt`].
//!
//! A child of [`Builder::fork_with_threads`] that starts threads with std may wait for ever: std
//! takes a lock where a thread begins and where it ends, and another thread may have had it at the
//! fork (Rust 1.95: `set_current_info` in std's `thread_info.rs`). The threads that this crate
//! starts there take no such lock.
//!
//! A thread that has ended, or was joined, does not count: [`fork`] waits until the kernel has
//! finished with it. A thread that is about to end cannot be told from one that is not. So `fork`
//! waits 100 ms before it refuses, and then names the threads that are left.
//!
//! This crate starts threads, too. A `crossproc-futex` thread exists where a wait covers its
//! primitives and something that is no futex at once: in a future, or for descriptors besides. A
//! `crossproc-close` thread exists where a [`Directory`](crate::directory::Directory) is served.
//! They end one second after their last work, and start again when they are needed. A forked child
//! has none of them, and starts its own.
//!
//! [`fork`] ends those of the crate's threads that have nothing to do. It waits up to 10 s for
//! that, and 1 s for a thread that closes what a client has left. A thread is needed while it
//! sleeps for a wait, or for a future that was polled and not dropped. So is the thread that serves
//! a directory. Threads that are needed are an error of `fork`, which says what ends them.
//!
//! # In a test
//! A `#[test]` runs beside the test runner's own threads. The runner's first thread waits for each
//! test, which runs in another thread, even with `--test-threads=1`. Nothing that the test could do
//! ends them, so [`fork`] refuses. A nursery that is started [before `main`](crate::nursery) runs
//! what the test is to have run in other processes:
//!
//! ```
//! crossproc::nursery!(static NURSERY);
//!
//! # /*
//! #[test]
//! # */
//! fn a_killed_child_is_told_from_one_that_returns() {
//!     let (child, _to_child) = NURSERY.fork(|parent| drop(parent.recv())).unwrap();
//!     child.kill().unwrap();
//!     assert!(!child.join().unwrap().success());
//! }
//! # a_killed_child_is_told_from_one_that_returns();
//! ```
//!
//! Or the tests are a program of their own, with a `main` without those threads:
//!
//! ```toml
//! [[test]]
//! name = "forks"
//! harness = false
//! ```
//!
//! Or a test forks once with [`Builder::fork_with_threads`], and does the rest in that child, which
//! has one thread. That function is `unsafe`: the test answers for what the child uses. If the
//! child starts threads, run the tests with `RUST_TEST_THREADS=1`. Then the runner starts none
//! meanwhile.
//!
//! Locks of this crate are no problem in either case: they belong to their thread, and the child's
//! are its own.
//!
//! # The standard streams
//! Starting a child does not depend on the standard streams. A full disk, a reader that is gone or
//! reads nothing, or another thread that has a stream locked does not fail or hold up a fork. Nor
//! does it change a child's exit status. So a fork flushes nothing. What std has buffered of the
//! standard output stays the parent's, which writes it when it would have anyway. Flush it before
//! the fork if it is to come before what the child prints.
//!
//! [`fork`] has the child forget its copy of the buffer, so that nothing is printed twice. What the
//! child prints itself is flushed at its end. That flush waits for a slow reader, as printing does.
//! It waits one second at most for a thread of the child that has the standard output locked. What
//! cannot be written then is lost, as at the end of a program.
//!
//! [`Builder::fork_with_threads`] does neither, since another thread may have had std's buffer
//! locked. The child may print a second time what was in the buffer when it was forked. If it
//! prints, it flushes by itself.
//!
//! The same is true of the children of such a child if the thread did have the buffer locked: it is
//! then locked for ever. It is also true where a thread has ended and left the buffer locked. The
//! first [`fork`] finds that out: its child waits for two seconds, is killed, and another one is
//! forked in its place. From then on, no `fork` flushes anything. While it is unknown whether
//! another thread had the buffer locked, a `fork` into another pid namespace does not try: killing
//! a namespace's first process would end the namespace.
//!
//! An [error](Exit) that is a child's result is printed without std's lock. A panic's message takes
//! locks of std, which another thread may have had.
//!
//! # Errors
//! An [`io::Error`] of this module says which call or which step failed. Its kind is that of the
//! system's error, and its text has that error. Where the system refused something, its error is
//! the [source](std::error::Error::source), with the errno.
//!
//! # SIGCHLD
//! A process that ignores SIGCHLD, which it may have inherited, has its children reaped by the
//! kernel. A wait for any child, in a library or a handler, also takes them from this crate.
//! Neither does harm here: a child is known by a pidfd before it does anything. So no signal can
//! hit another process that was given its pid.
//!
//! From Linux 6.15 on, the kernel keeps the exit status for every holder of such a descriptor, and
//! [`Child::join`] returns it. Before that, nothing in the kernel tells how such a child ended.
//! Joining it waits for its end, and is the error [`StatusLost`], which says why. Give SIGCHLD its
//! default before the first child.
//!
//! std's own `Command::spawn` panics if a program cannot be executed and the forked child's status
//! was taken; [`CommandExt::start`] makes an error of that.
//!
//! # Daemons
//! A [daemon](Builder::daemon) is killed (SIGKILL) when the process that started it ends, even if
//! that process is killed itself, or calls `exec`. A daemon that changes its user while it starts
//! cannot be tied, and that is an error of the fork. A daemon that changes its user later cannot be
//! killed that way.
//!
//! How a daemon is tied depends on the thread that starts it. With the safe [`fork`] that is the
//! only thread, and nearly always the process's first.
//!
//! | | started by the process's first thread | started by another |
//! |---|---|---|
//! | what it is tied to | the thread (`PR_SET_PDEATHSIG`), and a descriptor | a descriptor |
//! | that thread ends before its process | the daemon is killed | nothing happens |
//! | the daemon closes what it does not know (`closefrom`, Python's `close_fds`) | it is still tied, but `exec` by its starter does nothing | it is not tied |
//! | the daemon is the first of a pid namespace | tied; as above | an error: `EOPNOTSUPP` |
//! | before Linux 5.6 | tied; as above | an error: `EOPNOTSUPP` |
//!
//! A first thread does not end before its process, unless it is ended by `pthread_exit`.
//!
//! A command that is made a [daemon](CommandExt::daemon) is tied to the process that made it one,
//! by the thread that starts it. Started by a child of that process it is `EBADF`, and the
//! process's own `exec` of it ties nothing. The descriptor stays open in the daemon, and never has
//! the number of a standard stream.

#![allow(unsafe_code)]

use core::mem;
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossproc_sys::lifeline::Lifeline;
use crossproc_sys::pidfd;
use crossproc_sys::process as sys;
use crossproc_sys::robust::{self, Thread};
mod child;
mod closing;
mod command;
mod exit;
mod gate;
mod nursery;
#[cfg(feature = "serde")]
mod outcome;
mod printed;
mod report;
#[cfg(feature = "serde")]
mod serve;
mod settings;
#[cfg(feature = "serde")]
mod spawn;
mod start;
mod threads;

use self::closing::Closing;
use self::settings::Settings;
use crate::connection::{self, Connection};
use crossproc_sys::failed::failed;

pub use self::child::{Child, StatusLost};
pub use self::command::{CommandExt, InheritError, inherited};
pub use self::exit::Exit;
pub use self::nursery::{FnNursery, Nursery, NurseryError};
#[cfg(feature = "serde")]
pub use self::outcome::{NotReturned, Outcome};
#[cfg(feature = "serde")]
#[doc(hidden)]
pub use self::serve::serve_before_main;
#[cfg(feature = "serde")]
pub use self::serve::{Function, Served, serve};
pub use self::settings::Limit;
#[cfg(feature = "serde")]
pub use self::spawn::{JoinHandle, spawn};
pub use crate::memory::{Handle, HandleError};

/// The exit status of a child whose closure panicked: that of a Rust program whose `main` panicked.
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

/// Options for starting a child.
#[derive(Debug, Clone, Default)]
pub struct Builder<'a> {
    daemon: bool,
    closed: Vec<BorrowedFd<'a>>,
    settings: Settings,
    /// How long a child may take to begin, if anything else waits for it.
    patience: Option<Duration>,
}

impl<'a> Builder<'a> {
    /// Creates the defaults: a child that may outlive this process.
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = Builder::new().fork(|| 7)?;
    /// assert_eq!(child.join()?.code(), Some(7));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Builder::default()
    }

    /// Sets whether the child is killed when this process ends. See the [module](self).
    ///
    /// ```standalone_crate
    /// use crossproc::process::{self, Builder};
    /// use crossproc::{ConnectionError, simplex};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (kept, watch) = simplex()?;
    /// let starter = process::fork(move || -> std::io::Result<()> {
    ///     Builder::new().daemon(true).fork(move || -> ! {
    ///         let _kept = kept;
    ///         loop {
    ///             std::thread::park();
    ///         }
    ///     })?;
    ///     Ok(())
    /// })?;
    /// assert!(starter.join()?.success());
    /// // The daemon ends, too, and with it the pipe.
    /// assert!(matches!(watch.recv(), Err(ConnectionError::EndOfStream)));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = daemon;
        self
    }

    /// Closes a descriptor in the child before `body` runs: a connection's end that is not the
    /// child's, a file, anything. The parent keeps it. The other end of a stream is told of its end
    /// only when no process has this one any more. So a child that keeps it leaves others waiting
    /// for ever.
    ///
    /// The child may still have the descriptor's owner, in a `static`, an `Arc`, or leaked. That
    /// owner's descriptor is dead: every use of it is `EBADF`, or for a [`Connection`]
    /// [`ConnectionError::Closed`](crate::ConnectionError::Closed). Dropping the owner does
    /// nothing, and nothing else gets the number before that. Attached memory stays attached: of a
    /// [`Shm`](crate::Shm), only the descriptor is closed. A queue needs its descriptor to get
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
    ///     matches!(theirs.recv(), Err(ConnectionError::EndOfStream))
    ///         .then_some(())
    ///         .ok_or("a message")
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

    /// Forks a child that runs `body` and exits with the [code](Exit) of its result, or with 101 if
    /// it panics.
    ///
    /// The child ends as by `_exit`: no destructor of what it inherited runs, and no handler of the
    /// parent's `atexit`. What the parent has printed and not flushed stays the parent's. What the
    /// child has printed is flushed at its end. See the [module](self).
    ///
    /// No guard gets into the child. `body` borrows nothing, and it is an error if this process
    /// holds any guard, even one that was leaked, or is in a `static` or a `thread_local!`. See the
    /// [module](self).
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    /// use crossproc::{Lock, Shm};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let total = Shm::new(Lock::new(5_u64))?;
    /// let theirs = total.clone();
    /// let child = Builder::new().daemon(true).fork(move || -> std::io::Result<()> {
    ///     *theirs.lock()? += 1;
    ///     Ok(())
    /// })?;
    /// assert!(child.join()?.success());
    /// assert_eq!(*total.lock()?, 6);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if this process has other threads that do not end. The error
    /// names them; see the [module](self), also for `#[test]`s. [`io::ErrorKind::ResourceBusy`] if
    /// it holds a guard. Otherwise the system's error: no memory, no descriptor, too many
    /// processes, no `/proc`. Also an error that stopped the child before `body`, or that it was
    /// killed. In every case `body` has not run, and there is no child.
    pub fn fork<R: Exit>(&self, body: impl FnOnce() -> R + Send + 'static) -> io::Result<Child> {
        check_what_is_held()?;
        // SAFETY: there are no other threads, and only this one could start any. No guard is held,
        // and nothing else that is `'static` leads to what only a guard's owner may use.
        unsafe { self.fork_child(body, true, None) }
    }

    /// [`fork`](Builder::fork)s a child that is connected to this process: `body` gets one end, and
    /// this process the other.
    ///
    /// Each process has only its own end. So `recv` is
    /// [`EndOfStream`](crate::ConnectionError::EndOfStream), and `send`
    /// [`BrokenPipe`](crate::ConnectionError::BrokenPipe), as soon as the other process has dropped
    /// its end or is dead, however it died.
    ///
    /// That holds for any number of children, and for their children: no process that this crate
    /// forks later keeps either end, nor a [clone](Connection::try_clone) of one. To let a child
    /// keep an end, use [`Connection::inheritable`], or send it the end over a connection. Programs
    /// that are started have what is [shared](CommandExt::share) with them. Only a child that
    /// something other than this crate forks keeps a copy, until it calls `exec`.
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (child, to_child) = Builder::new().daemon(true).fork_connected(|parent| {
    ///     let name = parent.recv()?;
    ///     parent.send(&[b"hello, ", &name[..]].concat())
    /// })?;
    /// to_child.send(b"Rome")?;
    /// assert_eq!(to_child.recv()?, b"hello, Rome");
    /// assert!(child.join()?.success());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`fork`](Builder::fork). There is no connection then.
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

    /// Does what [`fork`](Builder::fork) does, even if this process has other threads. The child
    /// does not flush the standard output, and its buffer also holds what its parent had not
    /// flushed. See the [module](self).
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let other = std::thread::spawn(|| std::thread::park());
    /// // SAFETY: the child calls nothing.
    /// let child = unsafe { Builder::new().fork_with_threads(|| 7) }?;
    /// assert_eq!(child.join()?.code(), Some(7));
    /// # other.thread().unpark();
    /// # other.join().unwrap();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Safety
    /// If this process has other threads, `body` calls only async-signal-safe functions, or ones
    /// known not to depend on anything that another thread may be in the middle of.
    ///
    /// The child uses no guard of a lock, loan, received item or task that this process holds, and
    /// no reference that came from one: they are the parent's. It may drop them, which does
    /// nothing.
    ///
    /// # Errors
    /// The system's error: no memory, no descriptor, too many processes, no `/proc`. Also an error
    /// that stopped the child before `body`, or that it was killed. In every case `body` has not
    /// run, and there is no child.
    pub unsafe fn fork_with_threads<R: Exit>(
        &self,
        body: impl FnOnce() -> R + Send,
    ) -> io::Result<Child> {
        // SAFETY: as the caller promises.
        unsafe { self.fork_child(body, false, None) }
    }

    /// `kept`: the number of the connection's end that is the child's own.
    ///
    /// # Safety
    /// As for `fork_with_threads`; `is_alone` only if there are no other threads.
    unsafe fn fork_child<R: Exit>(
        &self,
        body: impl FnOnce() -> R,
        is_alone: bool,
        kept: Option<RawFd>,
    ) -> io::Result<Child> {
        self.settings.check()?;
        let line = if self.daemon {
            Some(Lifeline::of_this_process().map_err(failed(LINE))?)
        } else {
            None
        };
        loop {
            // The child waits until the parent has its pidfd, so that nothing can reap it before
            // that.
            let (inside, outside) = gate::gate()?;
            let mut closing = Closing::new(&self.closed, kept)?;
            let forgets = is_alone && printed::is_to_be_forgotten();
            // SAFETY: as the caller promises. Until `body`, the child only sends, receives, polls,
            // opens and closes, and prints nothing unless it is alone.
            let pid = match unsafe { sys::fork() }.map_err(failed("fork"))? {
                None => {
                    drop(outside);
                    let begin = || inside.pass(line, &mut closing, &self.settings, forgets);
                    sys::exit_now(run(begin, body, is_alone))
                }
                Some(pid) => pid,
            };
            drop((inside, closing));
            let pidfd = match pidfd::open(pid) {
                Ok(pidfd) => pidfd,
                Err(error) => {
                    outside.turn_away(pid);
                    return Err(gate::not_known(error));
                }
            };
            let has_begun = outside.let_in(pid, &pidfd, forgets, self.patience)?;
            if forgets {
                printed::is_known(has_begun);
            }
            if has_begun {
                return Ok(Child::new(pid, pidfd));
            }
            // The next child is to forget nothing.
        }
    }
}

/// What fails if a child cannot be tied to this process.
const LINE: &str = "making the line that ties a daemon to this process";

/// Checks that this process has one thread, which holds no guard.
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

/// Ends the process when dropped: nothing may unwind out of a forked child into its copy of the
/// parent's code.
struct NoWayBack;

impl Drop for NoWayBack {
    fn drop(&mut self) {
        sys::exit_now(PANICKED)
    }
}

/// Runs the child's part, and returns its exit code.
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
            // The payload's destructor might panic, too.
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
