//! The format of a packet.
//!
//! A packet *without* descriptors is a message, byte for byte. A packet *with* descriptors begins
//! with a header. Three kinds of message go that way: those that are too long for a packet, those
//! that bring a handle, and the empty one. (A packet of no bytes looks like the end of the stream.)
//!
//! | offset | what |
//! |---|---|
//! | 0 | [`MAGIC`] |
//! | 8 | flags: [`LARGE`], [`HANDLE`] |
//! | 12 | the length of the handle's kind, in bytes |
//! | 16 | the length of the message, in bytes |
//! | 24 | the handle's kind, UTF-8 |
//! | | the message, unless it is `LARGE` |
//!
//! The descriptors come in this order: a sealed memfd with the message if it is `LARGE`, then the
//! handle's if there is a `HANDLE`. All numbers have the byte order of the machine.

use std::os::fd::{BorrowedFd, OwnedFd};

use crossproc_sys::sealed::{Sealed, Unsealed};
use crossproc_sys::socket::MAX_DESCRIPTORS;

use super::MAX_LEN;
use super::error::ConnectionError;
use super::message::{Body, Message, Parcel};

/// "xpframe" and the version of the format, in the byte order of the sender.
const MAGIC: u64 = u64::from_be_bytes(*b"xpframe\x01");
/// The message is in a memfd.
const LARGE: u32 = 1;
/// A handle comes with the message.
const HANDLE: u32 = 2;

/// The length of a header.
pub(crate) const HEADER: usize = 24;
/// The maximum length of a kind's name; a longer one is cut.
pub(crate) const MAX_KIND: usize = 232;

/// A packet with descriptors, ready to be sent. Its slices are the header, the kind, and the bytes.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    header: [u8; HEADER],
    kind: &'a str,
    inline: &'a [u8],
    descriptors: [Option<BorrowedFd<'a>>; MAX_DESCRIPTORS],
}

impl<'a> Frame<'a> {
    /// Makes a frame for a message. Its bytes are those of `large`, or else go in the packet.
    pub(crate) fn new(
        bytes: &'a [u8],
        large: Option<BorrowedFd<'a>>,
        handle: Option<(BorrowedFd<'a>, &'a str)>,
    ) -> Self {
        let kind = handle.map_or("", |(_, kind)| cut(kind));
        let flags = large.map_or(0, |_| LARGE) | handle.map_or(0, |_| HANDLE);
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC.to_ne_bytes());
        header[8..12].copy_from_slice(&flags.to_ne_bytes());
        header[12..16].copy_from_slice(&(kind.len() as u32).to_ne_bytes());
        header[16..].copy_from_slice(&(bytes.len() as u64).to_ne_bytes());
        let mut all = large.into_iter().chain(handle.map(|(fd, _)| fd));
        let descriptors =
            [const { None }; MAX_DESCRIPTORS].map(|_: Option<BorrowedFd<'_>>| all.next());
        Frame { header, kind, inline: if large.is_some() { &[] } else { bytes }, descriptors }
    }

    pub(crate) fn slices(&self) -> [&[u8]; 3] {
        [&self.header, self.kind.as_bytes(), self.inline]
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'a>> + use<'a> {
        self.descriptors.into_iter().flatten()
    }
}

/// Returns as much of a name as fits, in whole characters.
fn cut(name: &str) -> &str {
    let end = (0..=MAX_KIND.min(name.len())).rev().find(|&at| name.is_char_boundary(at));
    &name[..end.unwrap_or(0)]
}

/// What a header says, checked against its packet. Nothing else in the packet is trusted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameHead {
    pub(crate) is_large: bool,
    pub(crate) has_handle: bool,
    kind_len: usize,
    len: usize,
}

impl FrameHead {
    /// Reads the header of a packet that brought `brought` descriptors.
    pub(crate) fn parse(packet: &[u8], brought: usize) -> Result<Self, ConnectionError> {
        let malformed = |what: String| ConnectionError::Malformed { what };
        let number = |at: usize| {
            packet.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)
        };
        let long = |at: usize| {
            packet.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes)
        };
        let (Some(magic), Some(flags), Some(kind_len), Some(len)) =
            (long(0), number(8), number(12), long(16))
        else {
            return Err(malformed(format!(
                "descriptors came with {} bytes, which is too short for a header",
                packet.len()
            )));
        };
        if magic != MAGIC {
            return Err(malformed(format!(
                "descriptors came with a packet that begins with {magic:#018x}: its sender is \
                 another version, or no crossproc"
            )));
        }
        if flags & !(LARGE | HANDLE) != 0 {
            return Err(malformed(format!(
                "the header has flags {flags:#x}, of which this version knows 0x3"
            )));
        }
        let announced = flags.count_ones() as usize;
        if announced != brought {
            return Err(malformed(format!(
                "the header announces {announced} descriptors, {brought} came"
            )));
        }
        let kind_len = kind_len as usize;
        if kind_len > MAX_KIND
            || kind_len > packet.len() - HEADER
            || (kind_len != 0 && flags & HANDLE == 0)
        {
            return Err(malformed(format!(
                "the header says that the handle's kind has {kind_len} bytes"
            )));
        }
        if len > MAX_LEN as u64 {
            return Err(malformed(format!(
                "the header says that the message has {len} bytes, of at most {MAX_LEN}"
            )));
        }
        let inline = packet.len() - HEADER - kind_len;
        if inline as u64 != if flags & LARGE == 0 { len } else { 0 } {
            return Err(malformed(format!(
                "the header says that the message has {len} bytes, the packet has {inline}"
            )));
        }
        Ok(FrameHead {
            is_large: flags & LARGE != 0,
            has_handle: flags & HANDLE != 0,
            kind_len,
            len: len as usize,
        })
    }

    /// Returns the handle's kind, in the words of its sender. `packet` is the one that was parsed.
    pub(crate) fn kind(self, packet: &[u8]) -> Result<String, ConnectionError> {
        match core::str::from_utf8(&packet[HEADER..self.start()]) {
            Ok(kind) => Ok(kind.to_owned()),
            Err(_) => {
                Err(ConnectionError::Malformed { what: "the handle's kind is not UTF-8".into() })
            }
        }
    }

    /// Returns where the message begins in the packet.
    pub(crate) fn start(self) -> usize {
        HEADER + self.kind_len
    }
}

/// Makes a message from a packet with descriptors. Nothing in the packet is trusted. Surplus
/// descriptors are closed.
pub(super) fn parse(
    mut packet: Vec<u8>,
    descriptors: [Option<OwnedFd>; MAX_DESCRIPTORS],
) -> Result<Message, ConnectionError> {
    let head = FrameHead::parse(&packet, descriptors.iter().flatten().count())?;
    let kind = head.kind(&packet)?;
    let mut descriptors = descriptors.into_iter().flatten();
    let large = if head.is_large { descriptors.next() } else { None };
    let body = match large {
        Some(file) => Body::Large(map(&file, head.len)?),
        None => {
            packet.drain(..head.start());
            Body::Small(packet)
        }
    };
    Ok(Message { body, parcel: descriptors.next().map(|fd| Parcel { fd, kind }) })
}

fn map(file: &OwnedFd, len: usize) -> Result<Sealed, ConnectionError> {
    Sealed::map(file, len).map_err(|unsealed| match unsealed {
        Unsealed::NotSealed => ConnectionError::Malformed {
            what: "a long message came in a descriptor that is no sealed memfd".into(),
        },
        Unsealed::HugePages => ConnectionError::Malformed {
            what: "a long message came in a memfd of huge pages".into(),
        },
        Unsealed::OtherLength(found) => ConnectionError::Malformed {
            what: format!("a message of {len} bytes came in a memfd of {found} bytes"),
        },
        Unsealed::Holes => ConnectionError::Malformed {
            what: format!("a message of {len} bytes came in a memfd with holes"),
        },
        Unsealed::Os(source) => ConnectionError::Os { what: "mapping a long message", source },
    })
}
