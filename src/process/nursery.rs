//! [`Nursery`]: a helper process that forks children for a program with threads.

use core::time::Duration;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::Instant;

use super::printed::children_are_in_this_namespace;
use super::report::Report;
use super::{Builder, Child, Exit, StatusLost};
use crate::connection::{Connection, ConnectionError, Message, private_pipe};
use crate::wait::Wait;

mod functions;
mod helper;

pub use self::functions::FnNursery;

/// A helper process that forks children on request, at any time and from any thread.
///
/// [`fork`](super::fork) needs a program with one thread. A nursery is started while the program
/// has one, and gets the closure that all its children run. From then on, [`fork`](Nursery::fork)
/// works beside any threads, of a runtime or of a library, and replaces children that have died.
///
/// ```standalone_crate
/// use crossproc::ConnectionError;
/// use crossproc::process::Nursery;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // While there is one thread.
/// let nursery = Nursery::start(|parent| -> Result<(), ConnectionError> {
///     let number = parent.recv()?[0];
///     parent.send(&[number * 2])
/// })?;
///
/// std::thread::scope(|scope| {
///     for number in 1..=3 {
///         let nursery = &nursery;
///         scope.spawn(move || {
///             let (child, to_child) = nursery.fork().unwrap();
///             to_child.send(&[number]).unwrap();
///             assert_eq!(to_child.recv().unwrap(), [number * 2]);
///             assert!(child.join().unwrap().success());
///         });
///     }
/// });
/// nursery.join()?;
/// # Ok(())
/// # }
/// ```
///
/// # What children have
/// They are forked from the helper. So they have what the program had when it started the nursery:
/// its memory as it was then, its handles, its environment. Nothing that the program does later
/// changes that. What a child needs later, send it over its connection. The helper also keeps what
/// was open then. So a stream whose end the program drops later ends only with the helper and its
/// children: start the nursery early, or [close](Builder::close) such ends in it. The ends that
/// [`fork_connected`](super::fork_connected) made are closed anyway.
///
/// The helper blocks all signals, so that an interrupt from the terminal does not end it. Its
/// children have the program's mask, and are in the process group that the program had.
///
/// # Deaths
/// - **The program** dies, or its first thread ends: the helper is killed, and children that are
///   [daemons](Builder::daemon) with it. Other children go on.
/// - **A child** dies: the helper reaps it, and [`Child::join`] returns how it ended, as for other
///   children.
/// - **The helper** dies, which nothing but a kill or a lack of memory causes:
///   [`fork`](Nursery::fork) is [`NurseryError::Ended`]. Its daemons are killed, and other children
///   go on. How they end is not known any more: `join` waits for the end, and is [`StatusLost`],
///   unless the kernel has kept it (from Linux 6.15 on, once the orphan is reaped). Start another
///   nursery, if there is still one thread only.
/// - **The helper is stopped**: `fork`, and the `join` of a child, wait until it goes on. Their
///   forms with a time-out do not.
/// - **A child is stopped before it begins**: others wait for up to 10 s, then it is killed.
///
/// # Drop
/// Dropping a nursery leaves its children alone. If none is left, the helper ends, and the drop
/// waits for that, unless the helper is stopped. Otherwise the helper ends when they have ended. It
/// is a zombie then until this process next starts, joins or drops a nursery, or ends.
/// [`join`](Nursery::join) waits for all.
#[derive(Debug)]
pub struct Nursery {
    /// `None` only while it is joined or dropped.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    requests: Connection,
    helper: Child,
}

/// The helpers of this process that had children left when their nurseries were dropped.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Reaps the helpers that have ended by now, and keeps `more` for later.
fn reap_left(more: Option<Child>) {
    // If another thread is about it, or was when this process was forked: it is only about zombies.
    let Ok(mut left) = LEFT.try_lock() else { return };
    left.extend(more);
    left.retain(|helper| match helper.try_join() {
        Ok(ended) => ended.is_none(),
        // In a forked child, it is not this process's.
        Err(error) => !StatusLost::is_in(&error),
    });
}

/// Why a [`Nursery`] has not forked a child.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NurseryError {
    /// The helper has ended: it was killed, or this process is a forked child, to which the
    /// nursery does not belong.
    #[error("the nursery's helper process has ended, or is another process's: start a nursery")]
    Ended,
    /// The helper had not answered in time. There is no child, or none that runs the closure: one
    /// that is forked later for this request ends at once.
    #[error("the nursery's helper process had not forked a child at the deadline")]
    TimedOut,
    /// The fork failed, in this process or in the helper, and there is no child.
    #[error("a nursery could not fork a child")]
    Fork(#[source] io::Error),
    /// The nursery was to be started before `main`, and was not.
    #[error("the nursery was not started before main")]
    NotStarted(#[source] io::Error),
    /// The function is in another library than this crate. It may be elsewhere in the helper, or
    /// not be there.
    #[error(
        "a nursery's children run functions of the program, or of the library that this crate is \
         linked into, and not of another library"
    )]
    OtherLibrary,
    /// The argument of a function could not be made into bytes. With the feature `serde`.
    #[cfg(feature = "serde")]
    #[error("the argument for a nursery's child could not be made into bytes")]
    Argument(#[source] crate::values::CodecError),
}

impl From<NurseryError> for io::Error {
    fn from(error: NurseryError) -> Self {
        let kind = match &error {
            NurseryError::Ended => io::ErrorKind::BrokenPipe,
            NurseryError::TimedOut => io::ErrorKind::TimedOut,
            NurseryError::Fork(error) | NurseryError::NotStarted(error) => error.kind(),
            NurseryError::OtherLibrary => io::ErrorKind::Unsupported,
            #[cfg(feature = "serde")]
            NurseryError::Argument(_) => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

impl From<ConnectionError> for NurseryError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::EndOfStream
            | ConnectionError::BrokenPipe
            | ConnectionError::Closed => NurseryError::Ended,
            ConnectionError::TimedOut => NurseryError::TimedOut,
            error => NurseryError::Fork(error.into()),
        }
    }
}

/// How long it takes at most to see that a helper has died.
const DYING: Duration = Duration::from_millis(100);
/// How long a helper may take to end that has no children.
const ENDING: Duration = Duration::from_secs(1);

/// What the child of a nursery of one closure is told: nothing but that it may begin.
const GO: &[u8] = b"go";

/// Returns one deadline for all that follows.
fn within(timeout: Duration) -> Wait {
    Instant::now().checked_add(timeout).map_or(Wait::FOREVER, Wait::deadline)
}

impl Nursery {
    /// Starts a nursery whose children run `body`: [`Builder::nursery`] with the defaults. This
    /// process may have one thread only.
    ///
    /// # Errors
    /// As for [`Builder::nursery`].
    pub fn start<R: Exit>(body: impl Fn(Connection) -> R + Send + 'static) -> io::Result<Nursery> {
        Builder::new().nursery(body)
    }

    /// Forks a child, which gets one end of a connection, and this process the other, as with
    /// [`fork_connected`](super::fork_connected). It may be called by several threads at once.
    ///
    /// The child is the helper's, but may be used like any other. It exits with the [code](Exit) of
    /// what the closure returned.
    ///
    /// # Errors
    /// [`NurseryError`]. The closure has not run then, and there is no child.
    pub fn fork(&self) -> Result<(Child, Connection), NurseryError> {
        self.request(GO, Wait::FOREVER)
    }

    /// [`fork`](Nursery::fork), which waits for `timeout` at most. [`Duration::MAX`] waits for
    /// ever.
    ///
    /// ```standalone_crate
    /// use crossproc::process::Nursery;
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let nursery = Nursery::start(|_| 7)?;
    /// let (child, _) = nursery.fork_timeout(Duration::from_secs(10))?;
    /// assert_eq!(child.join()?.code(), Some(7));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NurseryError::TimedOut`]; otherwise as [`fork`](Nursery::fork).
    pub fn fork_timeout(&self, timeout: Duration) -> Result<(Child, Connection), NurseryError> {
        self.request(GO, within(timeout))
    }

    /// [`fork`](Nursery::fork), which waits until `deadline` at most.
    ///
    /// # Errors
    /// [`NurseryError::TimedOut`]; otherwise as [`fork`](Nursery::fork).
    pub fn fork_deadline(&self, deadline: Instant) -> Result<(Child, Connection), NurseryError> {
        self.request(GO, Wait::deadline(deadline))
    }

    /// Has the helper fork a child. `go`: what the child is told once this process has its pidfd.
    fn request(&self, go: &[u8], wait: Wait) -> Result<(Child, Connection), NurseryError> {
        let (reports, theirs) = private_pipe().map_err(NurseryError::Fork)?;
        let (connection, of_child) = private_pipe().map_err(NurseryError::Fork)?;
        // It is there already when the helper has the other end.
        reports.send_handle_with(&of_child, wait)?;
        let Open { requests, helper } = self.open();
        requests.send_handle_with(&theirs, wait)?;
        drop((theirs, of_child));
        let mut answer = match reports.recv_with(wait) {
            // The helper has not taken the request, or is dead. A process's sockets close before
            // its end can be seen.
            Err(ConnectionError::EndOfStream) if helper.join_timeout(DYING).is_err() => {
                return Err(NurseryError::Fork(io::Error::other(
                    "the nursery's helper could not take the request: it may have no descriptors \
                     left (RLIMIT_NOFILE)",
                )));
            }
            answer => answer?,
        };
        match Report::of(&answer) {
            Some(Report::Forked(pid)) => {
                let pidfd: OwnedFd = answer.take_handle()?;
                connection.send_with(go, wait).map_err(|error| match error {
                    // Not the helper: somebody has killed the child.
                    ConnectionError::BrokenPipe => NurseryError::Fork(io::Error::other(
                        "the child ended before its closure was run",
                    )),
                    error => error.into(),
                })?;
                Ok((Child::of_nursery(pid, pidfd, reports), connection))
            }
            Some(Report::Failed(error)) => Err(NurseryError::Fork(error)),
            _ => Err(NurseryError::Ended),
        }
    }

    /// Waits until all children have ended, and then the helper. Nothing is left of the nursery
    /// then.
    ///
    /// # Errors
    /// As [`Child::join`], for the helper.
    pub fn join(self) -> io::Result<ExitStatus> {
        self.join_with(Wait::FOREVER)
    }

    /// [`join`](Nursery::join), which waits for `timeout` at most. After that, the nursery is as if
    /// it was dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`]; otherwise as [`Child::join`], for the helper.
    pub fn join_timeout(self, timeout: Duration) -> io::Result<ExitStatus> {
        self.join_with(Wait::timeout(timeout))
    }

    /// [`join`](Nursery::join), which waits until `deadline` at most. After that, the nursery is as
    /// if it was dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`]; otherwise as [`Child::join`], for the helper.
    pub fn join_deadline(self, deadline: Instant) -> io::Result<ExitStatus> {
        self.join_with(Wait::deadline(deadline))
    }

    fn join_with(mut self, wait: Wait) -> io::Result<ExitStatus> {
        let Some(Open { requests, helper }) = self.open.take() else { unreachable!() };
        drop(requests);
        let ended = helper.join_with(wait);
        reap_left(ended.is_err().then_some(helper));
        ended
    }

    fn open(&self) -> &Open {
        self.open.as_ref().expect("it is neither joined nor dropped")
    }

    /// Returns the helper's pid.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.open().helper.id()
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        let Some(Open { requests, helper }) = self.open.take() else { return };
        // In a forked child, nobody is there who could be told.
        if requests.try_send(helper::END).is_ok() {
            // The helper closes its end: either it ends, or it has said before that children are
            // left.
            if let Err(ConnectionError::EndOfStream) = requests.recv_timeout(ENDING) {
                let _ = helper.join_timeout(ENDING);
            }
        }
        // Closed before the helper is waited for again.
        drop(requests);
        reap_left(Some(helper));
    }
}

impl Builder<'_> {
    /// Starts a [`Nursery`], whose children run `body`. They are [daemons](Builder::daemon) of the
    /// helper if that is set, and have the [name](Builder::name) and other settings. The
    /// descriptors to be [closed](Builder::close) are closed in the helper. This process may have
    /// one thread only.
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    /// use crossproc::{ConnectionError, pipe};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (one, other) = pipe()?;
    /// let nursery = Builder::new().daemon(true).close(&one).close(&other).nursery(|_| ())?;
    /// // The stream ends, since neither the helper nor a child has a copy of this end.
    /// drop(other);
    /// assert!(matches!(one.recv(), Err(ConnectionError::EndOfStream)));
    /// nursery.fork()?.0.join()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Builder::fork`]; also [`io::ErrorKind::Unsupported`] if children would be in
    /// another pid namespace.
    pub fn nursery<R: Exit>(
        &self,
        body: impl Fn(Connection) -> R + Send + 'static,
    ) -> io::Result<Nursery> {
        self.nursery_of(move |connection, _| body(connection))
    }

    /// `body` also gets what the child was told when it was to begin.
    fn nursery_of<R: Exit>(
        &self,
        body: impl Fn(Connection, Message) -> R + Send + 'static,
    ) -> io::Result<Nursery> {
        if !children_are_in_this_namespace() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a nursery cannot be in another pid namespace, where its children's pids mean \
                 nothing here: fork, and start it in the child",
            ));
        }
        reap_left(None);
        self.settings.check()?;
        let children =
            Builder { daemon: self.daemon, settings: self.settings.clone(), ..Builder::default() };
        let helper = Builder { daemon: true, closed: self.closed.clone(), ..Builder::default() };
        let (helper, requests) =
            helper.fork_connected(move |requests| helper::run(requests, children, body))?;
        Ok(Nursery { open: Some(Open { requests, helper }) })
    }
}
