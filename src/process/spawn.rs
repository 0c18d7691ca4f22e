//! [`spawn`]: a process that returns a value.
//!
//! The child has one end of a connection, over which it sends one message: the value that its
//! closure returned, or the message of its panic. The parent looks for that once the child has
//! ended. So a child that is killed in the middle has sent the whole message or nothing.

use core::any::Any;
use core::fmt;
use core::marker::PhantomData;
use core::mem;
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::outcome::Outcome;
use super::{Builder, Child, PANICKED, StatusLost};
use crate::connection::{Connection, ConnectionError, Message};
use crate::values::{decode, encode_into};
use crate::wait::Wait;

/// Spawns a process that runs `body`, whose value comes back: [`Builder::spawn`] with the
/// defaults. With the feature `serde`.
///
/// # Errors
/// As for [`Builder::spawn`].
///
/// # Examples
/// ```no_run
/// use crossproc::process;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let words = process::spawn(|| "to be or not to be".split(' ').count())?;
///     assert_eq!(words.join()?.into_result()?, 6);
///     Ok(())
/// }
/// ```
pub fn spawn<T>(body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>>
where
    T: Serialize + DeserializeOwned,
{
    Builder::new().spawn(body)
}

impl Builder<'_> {
    /// [`fork`](Builder::fork)s a child that runs `body`, and whose value comes back. With the
    /// feature `serde`.
    ///
    /// The value, of [almost any type](crate::values#what-can-be-a-value), is copied. If it has no
    /// serde traits, such as an [`io::Error`], return something that has, such as its text. The
    /// value is sent when the closure has returned, also if the process that started the child
    /// never looks for it: nothing waits for that.
    ///
    /// The child exits with code 0 if it has sent the value, with 101 if the closure panicked, and
    /// with 1 if the value could not be sent, which it prints. Otherwise all that is said of
    /// [`fork`](Builder::fork) is true.
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let parsed =
    ///     Builder::new().daemon(true).spawn(|| "x".parse::<u32>().map_err(|e| e.to_string()))?;
    /// assert_eq!(parsed.join()?.into_result()?, Err("invalid digit found in string".into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`fork`](Builder::fork).
    pub fn spawn<T>(&self, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        let (child, told) = self.fork_connected(|parent| tell(&parent, body))?;
        Ok(JoinHandle::new(child, told))
    }
}

/// A process that was [spawned](spawn), and the value that it will return. With the feature
/// `serde`.
///
/// Several threads may use it at once, but only in the process that spawned it. Dropping it leaves
/// the process alone, as dropping a [`Child`] does.
///
/// The descriptor ([`AsFd`]) becomes readable when the process ends, for use with `poll`.
pub struct JoinHandle<T> {
    child: Child,
    connection: Connection,
    told: Mutex<Told>,
    /// What a process that has not begun has not done.
    unless: &'static str,
    returns: PhantomData<fn() -> T>,
}

/// What a process has told so far.
#[derive(Debug, Clone)]
struct Told {
    /// False of one that may do something else. It tells that it has [`BEGUN`].
    has_begun: bool,
    /// What came of it. Several joins may share it.
    message: Option<Arc<Message>>,
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("child", &self.child).finish_non_exhaustive()
    }
}

impl<T> AsFd for JoinHandle<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

impl<T> JoinHandle<T> {
    /// `connection`: this process's end of that over which the child [tells](tell).
    pub(super) fn new(child: Child, connection: Connection) -> Self {
        let told = Mutex::new(Told { has_begun: true, message: None });
        JoinHandle { child, connection, told, unless: "", returns: PhantomData }
    }

    /// The process first tells that it has [`BEGUN`]. `unless`: what it has not done otherwise.
    pub(super) fn of_beginning(child: Child, connection: Connection, unless: &'static str) -> Self {
        let told = Mutex::new(Told { has_begun: false, message: None });
        JoinHandle { child, connection, told, unless, returns: PhantomData }
    }

    /// Returns the process, by which it may be killed, stopped and waited for.
    ///
    /// ```standalone_crate
    /// use crossproc::process::{self, Outcome};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let endless = process::spawn(|| -> () {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// })?;
    /// endless.child().kill()?;
    /// assert_eq!(endless.join()?, Outcome::Killed(9)); // SIGKILL
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Receives what the process has told, which has ended.
    fn told(&self) -> Result<Told, ConnectionError> {
        // Held while receiving, so that no other thread finds nothing there and nothing stored
        // yet. Nothing in between panics.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nothing, and no end of the stream either, if a process that something other than
        // this crate has forked from the child keeps its end.
        while told.message.is_none() && self.connection.poll_timeout(Duration::ZERO)? {
            match self.connection.try_recv_or_leave() {
                Ok(begun) if *begun == [BEGUN] => told.has_begun = true,
                Ok(message) => told.message = Some(Arc::new(message)),
                Err(ConnectionError::EndOfStream) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(told.clone())
    }
}

impl<T: DeserializeOwned> JoinHandle<T> {
    /// Waits until the process has ended, as long as it takes. Returns what came of it. Later calls
    /// return the same.
    ///
    /// ```standalone_crate
    /// use crossproc::process::{self, Outcome};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let name = process::spawn(|| vec!["Rome".to_owned()])?;
    /// assert_eq!(name.join()?, Outcome::Returned(vec!["Rome".to_owned()]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`]: a value was returned, and could not be made into bytes, or
    /// not sent, for want of a descriptor or of memory, or the bytes not made into a value.
    /// [`io::ErrorKind::Unsupported`]: a started program has not called the function. The text says
    /// why. [`StatusLost`]: this process did not spawn it. Otherwise the system's.
    pub fn join(&self) -> io::Result<Outcome<T>> {
        self.join_with(Wait::FOREVER)
    }

    /// [`join`](JoinHandle::join), which waits for `timeout` at most. Zero looks once;
    /// [`Duration::MAX`] waits for ever.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`]; otherwise as [`join`](JoinHandle::join).
    pub fn join_timeout(&self, timeout: Duration) -> io::Result<Outcome<T>> {
        self.join_with(Wait::timeout(timeout))
    }

    /// [`join`](JoinHandle::join), which waits until `deadline` at most. A deadline in the past
    /// looks once.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`]; otherwise as [`join`](JoinHandle::join).
    pub fn join_deadline(&self, deadline: Instant) -> io::Result<Outcome<T>> {
        self.join_with(Wait::deadline(deadline))
    }

    /// [`join`](JoinHandle::join), which waits as `wait` says.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`], and [`io::ErrorKind::Interrupted`] if `wait` is interruptible;
    /// otherwise as [`join`](JoinHandle::join).
    pub fn join_with(&self, wait: Wait) -> io::Result<Outcome<T>> {
        self.came_of(self.child.join_with(wait))
    }

    /// Returns what came of the process if it has ended, or `None` while it runs.
    ///
    /// # Errors
    /// As [`join`](JoinHandle::join).
    pub fn try_join(&self) -> io::Result<Option<Outcome<T>>> {
        match self.child.try_join().transpose() {
            None => Ok(None),
            Some(ended) => self.came_of(ended).map(Some),
        }
    }

    /// What has come of the process is what it has told, or else how it `ended`.
    fn came_of(&self, ended: io::Result<ExitStatus>) -> io::Result<Outcome<T>> {
        let ended = match ended {
            Ok(status) => Outcome::of_status(status),
            Err(error) if StatusLost::is_in(&error) => Outcome::Unknown,
            Err(error) => return Err(error),
        };
        let error = |kind, what: &str, text: &[u8]| {
            let (id, text) = (self.child.id(), String::from_utf8_lossy(text));
            Err(io::Error::new(kind, format!("process {id} {what}: {text}")))
        };
        let told = match self.told() {
            // It is another process's child: before Linux 6.15, nothing else tells that.
            Err(ConnectionError::Closed) => return Err(self.child.is_anothers()),
            told => told?,
        };
        match (told.message.as_deref().and_then(|message| message.split_first()), &ended) {
            (Some((&RETURNED, value)), _) => Ok(Outcome::Returned(decode(value)?)),
            (Some((&PANICKED_WITH, text)), _) => {
                Ok(Outcome::Panicked(String::from_utf8_lossy(text).into_owned()))
            }
            (Some((&NOT_SENT, text)), _) => error(
                io::ErrorKind::InvalidData,
                "has returned a value that it could not send",
                text,
            ),
            (Some((&NOT_CALLED, text)), _) => {
                error(io::ErrorKind::Unsupported, "has not called the function", text)
            }
            (None, Outcome::Exited(code)) if !told.has_begun => error(
                io::ErrorKind::Unsupported,
                "has not called the function",
                format!("it exited with code {code}, and had not {}", self.unless).as_bytes(),
            ),
            _ => Ok(ended),
        }
    }
}

/// The first byte of what a child tells: the rest is the value.
const RETURNED: u8 = 0;
/// The first byte: the rest is the message of a panic.
const PANICKED_WITH: u8 = 1;
/// The first byte: there is a value, and the rest says why it was not sent.
const NOT_SENT: u8 = 2;
/// The first byte: nothing was called, and the rest says why.
const NOT_CALLED: u8 = 3;
/// All of an earlier message: a started program is about to call the function.
const BEGUN: u8 = 4;

/// The child's part: runs `body`, and tells its parent what came of that. Returns the exit code.
///
/// It waits for nobody: a packet is taken as long as the buffer is not full, and before this one
/// there is at most the one that it has [`BEGUN`].
pub(super) fn tell<T: Serialize>(parent: &Connection, body: impl FnOnce() -> T) -> io::Result<i32> {
    let returned = catch_unwind(AssertUnwindSafe(|| {
        let value = body();
        let mut bytes = vec![RETURNED];
        let encoded = encode_into(&value, &mut bytes);
        // It is the parent's now. Nothing that the child has is dropped at its end.
        mem::forget(value);
        encoded.map(|()| bytes)
    }));
    let error = match returned {
        Ok(Ok(bytes)) => match parent.send(&bytes) {
            Ok(()) | Err(ConnectionError::BrokenPipe) => return Ok(0),
            Err(error) => io::Error::from(error),
        },
        Ok(Err(error)) => io::Error::from(error),
        Err(payload) => {
            let text = text_of(&*payload);
            // The payload's destructor might panic, too.
            mem::forget(payload);
            // Without it, the parent is told by the exit code.
            tell_text(parent, PANICKED_WITH, &text);
            return Ok(PANICKED);
        }
    };
    tell_text(parent, NOT_SENT, &error.to_string());
    Err(error)
}

/// Tells that nothing is called, and why.
pub(super) fn tell_why_not(parent: &Connection, why: &str) {
    tell_text(parent, NOT_CALLED, why);
}

/// Tells that the function is about to be called. Without it, what comes of that says as much.
pub(super) fn tell_beginning(parent: &Connection) {
    let _ = parent.try_send(&[BEGUN]);
}

/// The most bytes of a text that is told: as many as need no memory of their own, whatever is
/// refused.
const MAX_TEXT: usize = 2_048;

/// Tells the beginning of a text. If that is refused, too, the exit code tells something.
fn tell_text(parent: &Connection, tag: u8, text: &str) {
    let text = &text.as_bytes()[..text.len().min(MAX_TEXT)];
    let _ = parent.send(&[&[tag][..], text].concat());
}

/// Returns a panic's message.
fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("(a payload that is no text)").to_owned()
}
