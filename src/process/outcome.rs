//! [`Outcome`]: what came of a process that was to return a value.

use core::fmt;
use std::error::Error;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// What came of the closure or function that a process was [spawned](super::spawn()) for. With the
/// feature `serde`.
///
/// ```standalone_crate
/// use crossproc::process::{self, Outcome};
///
/// # fn main() -> std::io::Result<()> {
/// let sum = process::spawn(|| (1..=10).sum::<u32>())?;
/// assert_eq!(sum.join()?, Outcome::Returned(55));
/// let late = process::spawn(|| -> () { panic!("too late") })?;
/// assert_eq!(late.join()?, Outcome::Panicked("too late".into()));
/// let left = process::spawn(|| -> () { std::process::exit(7) })?;
/// assert_eq!(left.join()?, Outcome::Exited(7));
/// let killed = process::spawn(|| -> () { std::process::abort() })?;
/// assert_eq!(killed.join()?, Outcome::Killed(6)); // SIGABRT
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub enum Outcome<T> {
    /// It returned this value. The process may have been killed after that.
    Returned(T),
    /// It panicked, with this message, or with the first 2 KiB of it. A payload that is no text has
    /// a message that says so.
    Panicked(String),
    /// It has told neither, and the process ended by itself, with this exit code.
    Exited(i32),
    /// It has told neither, and the process was killed by this signal.
    Killed(i32),
    /// It has told neither, and nobody can tell how the process ended: see
    /// [`StatusLost`](super::StatusLost).
    Unknown,
}

impl<T> Outcome<T> {
    /// Returns the value, if there is one. What came instead is an error, whose text says it.
    ///
    /// ```standalone_crate
    /// use crossproc::process;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// assert_eq!(process::spawn(|| 7)?.join()?.into_result()?, 7);
    /// let killed = process::spawn(|| -> () { std::process::abort() })?;
    /// let error = killed.join()?.into_result().unwrap_err();
    /// assert_eq!(error.to_string(), "a spawned process was killed by signal 6");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Any other outcome.
    pub fn into_result(self) -> Result<T, NotReturned> {
        Err(NotReturned(match self {
            Outcome::Returned(value) => return Ok(value),
            Outcome::Panicked(message) => Outcome::Panicked(message),
            Outcome::Exited(code) => Outcome::Exited(code),
            Outcome::Killed(signal) => Outcome::Killed(signal),
            Outcome::Unknown => Outcome::Unknown,
        }))
    }

    /// What a status tells of a process that has told nothing itself.
    pub(super) fn of_status(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Outcome::Exited(code),
            (None, Some(signal)) => Outcome::Killed(signal),
            (None, None) => Outcome::Unknown,
        }
    }
}

/// The error of a process that was [spawned](super::spawn()) and returned no value. With the
/// feature `serde`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReturned(Outcome<()>);

impl NotReturned {
    /// Returns what came of it instead: any outcome but [`Outcome::Returned`].
    pub fn outcome(&self) -> &Outcome<()> {
        &self.0
    }
}

impl fmt::Display for NotReturned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a spawned process ")?;
        match &self.0 {
            Outcome::Returned(()) => f.write_str("has returned"),
            Outcome::Panicked(message) => write!(f, "panicked: {message}"),
            Outcome::Exited(code) => write!(f, "exited with code {code}, and returned no value"),
            Outcome::Killed(signal) => write!(f, "was killed by signal {signal}"),
            Outcome::Unknown => {
                f.write_str("has ended without a value, and how it ended is not known")
            }
        }
    }
}

impl Error for NotReturned {}
