//! [`Message`]: what was received.

use core::fmt;
use core::ops::Deref;
use std::os::fd::OwnedFd;

use crossproc_sys::sealed::Sealed;

/// A message: bytes that read as a slice, and perhaps a handle.
///
/// A long message lies in memory that its sender has sealed, so nobody can change it any more. It
/// was copied once, by the sender. [`into_vec`](Message::into_vec) copies it a second time; for a
/// short message it returns the existing vector.
///
/// Dropping a message closes its handle, unless that was taken out.
///
/// ```
/// use crossproc::pipe;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (one, other) = pipe()?;
/// one.send(&vec![7; 10 << 20])?; // goes through sealed memory
/// let message = other.recv()?;
/// assert_eq!((message.len(), message[5 << 20]), (10 << 20, 7));
/// # Ok(())
/// # }
/// ```
pub struct Message {
    pub(super) body: Body,
    pub(super) parcel: Option<Parcel>,
}

pub(super) enum Body {
    Small(Vec<u8>),
    Large(Sealed),
}

/// A handle that has not been checked yet.
pub(super) struct Parcel {
    pub(super) fd: OwnedFd,
    /// Its kind, in the words of its sender.
    pub(super) kind: String,
}

impl Message {
    pub(super) fn small(bytes: Vec<u8>) -> Self {
        Message { body: Body::Small(bytes), parcel: None }
    }

    /// Returns the bytes as a vector.
    ///
    /// ```
    /// use crossproc::pipe;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (one, other) = pipe()?;
    /// one.send("grüß dich".as_bytes())?;
    /// assert_eq!(String::from_utf8(other.recv()?.into_vec())?, "grüß dich");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        match self.body {
            Body::Small(bytes) => bytes,
            Body::Large(sealed) => sealed.to_vec(),
        }
    }

    /// Returns the kind of the handle that came with the message, in the words of its sender;
    /// `None` without a handle.
    ///
    /// ```
    /// use crossproc::pipe;
    /// use std::os::fd::OwnedFd;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (one, other) = pipe()?;
    /// one.send(b"without")?;
    /// one.send_both(b"with", &OwnedFd::from(std::fs::File::open("/dev/null")?))?;
    /// assert_eq!(other.recv()?.handle_kind(), None);
    /// assert_eq!(other.recv()?.handle_kind(), Some("descriptor"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn handle_kind(&self) -> Option<&str> {
        self.parcel.as_ref().map(|parcel| parcel.kind.as_str())
    }
}

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.body {
            Body::Small(bytes) => bytes,
            Body::Large(sealed) => sealed,
        }
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Message> for Vec<u8> {
    fn from(message: Message) -> Self {
        message.into_vec()
    }
}

impl PartialEq<[u8]> for Message {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl<const N: usize> PartialEq<[u8; N]> for Message {
    fn eq(&self, other: &[u8; N]) -> bool {
        **self == *other
    }
}

impl<const N: usize> PartialEq<&[u8; N]> for Message {
    fn eq(&self, other: &&[u8; N]) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("len", &self.len())
            .field("handle", &self.handle_kind())
            .finish_non_exhaustive()
    }
}
