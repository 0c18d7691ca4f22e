//! [`Handle`]: what can be handed to another process.

use core::any::type_name;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::memory::region::RegionError;
use crate::memory::shm::{Contents, Shm};

/// Something that can be handed to another process: it has a descriptor, and can be made from one.
///
/// It is given to programs that this one [starts](crate::process::CommandExt::share), sent [over a
/// connection](crate::Connection::send_handle), and served by a
/// [`Directory`](crate::directory::Directory). The recipient checks what it is.
pub trait Handle: AsFd + Sized {
    /// Returns the name of this kind of handle, which the recipient sees in errors.
    ///
    /// ```
    /// use crossproc::process::Handle;
    /// use std::os::fd::OwnedFd;
    ///
    /// assert_eq!(crossproc::Sender::kind(), "Sender");
    /// assert_eq!(OwnedFd::kind(), "descriptor");
    /// ```
    #[must_use]
    fn kind() -> &'static str {
        type_name::<Self>()
    }

    /// Checks whether a handle that was handed on as this `kind` may be a `Self` here. Only needed
    /// where [`from_fd`](Handle::from_fd) cannot tell.
    ///
    /// ```
    /// use crossproc::process::Handle;
    /// use crossproc::{Receiver, Sender};
    ///
    /// // One socket is like the other, so the kind decides.
    /// assert!(Sender::check("Sender").is_ok());
    /// assert!(Receiver::check("Sender").is_err());
    /// ```
    ///
    /// # Errors
    /// If it may not be one.
    fn check(kind: &str) -> Result<(), HandleError> {
        let _ = kind;
        Ok(())
    }

    /// Makes the handle from a descriptor, after checking that it is one of this kind. The
    /// descriptor is closed if it is not.
    ///
    /// ```
    /// use crossproc::process::{Handle, HandleError};
    /// use crossproc::{Event, Shm};
    /// use std::os::fd::OwnedFd;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let file = OwnedFd::from(std::fs::File::open("/dev/null")?);
    /// let error = Shm::<Event>::from_fd(file).unwrap_err();
    /// assert!(matches!(error, HandleError::Region(_)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A [`HandleError`] that says what is wrong with the descriptor.
    fn from_fd(fd: OwnedFd) -> Result<Self, HandleError>;
}

impl<T: ?Sized + Contents> Handle for Shm<T> {
    fn from_fd(fd: OwnedFd) -> Result<Self, HandleError> {
        Ok(Shm::attach(fd)?)
    }
}

/// A plain descriptor: of a file, a socket, anything. Nothing is checked.
impl Handle for OwnedFd {
    fn kind() -> &'static str {
        "descriptor"
    }

    fn from_fd(fd: OwnedFd) -> Result<Self, HandleError> {
        Ok(fd)
    }
}

/// Why a descriptor is not the handle that was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// It is not the memory that was expected.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// It is not the end of a connection.
    #[error("the descriptor is not the end of a connection of this crate: {what}")]
    NotConnected {
        /// What it is instead.
        what: &'static str,
    },
    /// It was another kind of handle where it came from.
    #[error("it was handed on as a {found}, not as a {expected}")]
    OtherKind {
        /// The kind that it was handed on as.
        found: String,
        /// The kind that was asked for.
        expected: &'static str,
    },
}

impl From<HandleError> for io::Error {
    fn from(error: HandleError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}
