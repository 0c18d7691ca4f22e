//! What the helper of a nursery tells about a child.

use core::sync::atomic::{AtomicBool, Ordering::*};
use core::time::Duration;
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::Pid;

use crate::connection::{Connection, ConnectionError};

/// A message about one child. The first byte tells which one it is, the next four are an integer.
#[derive(Debug)]
pub(super) enum Report {
    /// It was forked, with this pid. The message has its pidfd.
    Forked(Pid),
    /// It was not forked. Behind the errno, the message has what failed.
    Failed(io::Error),
    /// It has ended.
    Ended(ExitStatus),
}

const FORKED: u8 = 1;
const FAILED: u8 = 2;
const ENDED: u8 = 3;

impl Report {
    /// Returns the message's bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (tag, number, text) = match self {
            Report::Forked(pid) => (FORKED, pid.as_raw_nonzero().get(), String::new()),
            Report::Failed(error) => (FAILED, errno_of(error), error.to_string()),
            Report::Ended(status) => (ENDED, status.into_raw(), String::new()),
        };
        [&[tag][..], &number.to_ne_bytes(), text.as_bytes()].concat()
    }

    /// Returns what a message says. `None` if no helper has sent it.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        let (number, text) = rest.split_first_chunk()?;
        let number = i32::from_ne_bytes(*number);
        Some(match tag {
            FORKED => Report::Forked(Pid::from_raw(number)?),
            FAILED => {
                let text = String::from_utf8_lossy(text).into_owned();
                Report::Failed(match number {
                    0 => io::Error::other(text),
                    errno => {
                        let source = io::Error::from_raw_os_error(errno);
                        io::Error::new(source.kind(), Relayed { text, source })
                    }
                })
            }
            ENDED => Report::Ended(ExitStatus::from_raw(number)),
            _ => return None,
        })
    }
}

/// Where the helper of a nursery reports the end of a child.
#[derive(Debug)]
pub(super) struct Reports {
    connection: Connection,
    are_over: AtomicBool,
}

impl Reports {
    pub(super) fn of(connection: Connection) -> Self {
        Reports { connection, are_over: AtomicBool::new(false) }
    }

    /// Returns the status that was reported, if it was. If none will ever be, the reports are over.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`] in another process than the one that has the child; the
    /// system's.
    pub(super) fn look(&self) -> Result<Option<ExitStatus>, ConnectionError> {
        match self.connection.try_recv() {
            Ok(message) => {
                if let Some(Report::Ended(status)) = Report::of(&message) {
                    return Ok(Some(status));
                }
            }
            Err(ConnectionError::EndOfStream) => {}
            Err(ConnectionError::WouldBlock) => return Ok(None),
            Err(error) => return Err(error),
        }
        // Relaxed: it orders nothing.
        self.are_over.store(true, Relaxed);
        Ok(None)
    }

    /// Waits a moment for a report, or for the end of the reports.
    pub(super) fn wait(&self) {
        let _ = self.connection.poll_timeout(IMMINENT);
    }

    /// Returns whether no report will come: the helper is dead, or could not tell.
    pub(super) fn are_over(&self) -> bool {
        // Relaxed: as above.
        self.are_over.load(Relaxed)
    }
}

/// How long a report of a process that has ended may take: the helper may be stopped.
const IMMINENT: Duration = Duration::from_millis(100);

impl AsFd for Reports {
    /// Is readable when the end is reported, and once the reports are over.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// An error of the helper's: its text, which has the system's error, and that error.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Relayed {
    text: String,
    source: io::Error,
}

/// Returns the errno behind an error, or 0 if there is none.
fn errno_of(error: &io::Error) -> i32 {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let system = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if let Some(errno) = system {
            return errno;
        }
        next = error.source();
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossproc_sys::failed::failed;

    #[test]
    fn a_report_comes_as_it_was_sent() {
        let sent = |report: Report| Report::of(&report.bytes());
        let pid = Pid::from_raw(7).unwrap();
        assert!(matches!(sent(Report::Forked(pid)), Some(Report::Forked(got)) if got == pid));
        let status = ExitStatus::from_raw(9);
        assert!(matches!(sent(Report::Ended(status)), Some(Report::Ended(got)) if got == status));
        let error = failed("fork")(io::Error::from_raw_os_error(11));
        let text = error.to_string();
        let Some(Report::Failed(error)) = sent(Report::Failed(error)) else { panic!() };
        assert_eq!((error.to_string(), error.kind()), (text, io::ErrorKind::WouldBlock));
        let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(source.raw_os_error(), Some(11));
        let Some(Report::Failed(error)) = sent(Report::Failed(io::Error::other("gone"))) else {
            panic!()
        };
        assert_eq!((error.to_string().as_str(), error.kind()), ("gone", io::ErrorKind::Other));
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for bytes in [&b""[..], b"\x01", b"\x01\0\0\0\0", b"\x04\x07\0\0\0"] {
            assert!(Report::of(bytes).is_none(), "{bytes:?}");
        }
    }
}
