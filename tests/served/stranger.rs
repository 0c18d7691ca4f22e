//! A client that sends anything that it likes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crossproc::directory::Address;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, sendmsg, socket_with,
};

#[path = "../../src/directory/protocol.rs"]
#[allow(dead_code, clippy::all, reason = "the crate's own, of which a stranger needs the requests")]
pub(crate) mod protocol;

use protocol::{Ask, Request};

/// A connection on which nothing is checked.
pub(crate) struct Stranger(OwnedFd);

impl Stranger {
    pub(crate) fn connect(address: &Address) -> Result<Self, Errno> {
        let place = match address.path() {
            Some(path) => SocketAddrUnix::new(path)?,
            None => SocketAddrUnix::new_abstract_name(&address.to_string().as_bytes()[1..])?,
        };
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &place)?;
        Ok(Stranger(socket))
    }

    /// Sends a packet, when there is room.
    pub(crate) fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        sendmsg(&self.0, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
            .map(|_| ())
    }

    /// Returns how many bytes the next reply has, or 0 if the connection is over. May wait.
    pub(crate) fn receive(&self, flags: RecvFlags) -> Result<usize, Errno> {
        self.receive_packet(flags).map(|packet| packet.len())
    }

    /// Returns the next reply. Its handle is lost.
    pub(crate) fn receive_packet(&self, flags: RecvFlags) -> Result<Vec<u8>, Errno> {
        let mut packet = vec![0; 16_384];
        loop {
            match recv(&self.0, &mut packet[..], flags) {
                // What the server has not read is lost, and what it has sent comes next.
                Err(Errno::CONNRESET) => {}
                Ok((_, len)) => {
                    packet.truncate(len);
                    return Ok(packet);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Stranger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Encodes a request.
pub(crate) fn request(number: u64, ask: Ask<'_>) -> Vec<u8> {
    Request { number, ask }.encode()
}

/// The beginning of a packet with a handle.
#[allow(dead_code, reason = "each test program uses a part")]
pub(crate) const FRAME: [u8; 8] = u64::from_be_bytes(*b"xpframe\x01").to_ne_bytes();

/// Returns a request in the frame that it has with a handle.
pub(crate) fn framed(request: &[u8]) -> Vec<u8> {
    let kind = b"descriptor";
    let mut packet = FRAME.to_vec();
    packet.extend_from_slice(&2_u32.to_ne_bytes());
    packet.extend_from_slice(&(kind.len() as u32).to_ne_bytes());
    packet.extend_from_slice(&(request.len() as u64).to_ne_bytes());
    packet.extend_from_slice(kind);
    packet.extend_from_slice(request);
    packet
}
