//! The ends of pipes.
//!
//! Everything is inlined. On some kernels a system call makes the processor forget its predictions.
//! Then a return from a function that was called before the system call costs a quarter of a
//! microsecond.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use crossproc::{Connection, pipe};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use syscalls::{Sysno, syscall};

/// The buffer size that [`pipe`] asks for, in bytes.
const BUFFER: usize = 1 << 20;

/// One of two connected ends, for both directions.
pub trait End: Sized + Sync + 'static {
    /// The longest message, in bytes.
    const MAX: usize;

    fn pair() -> (Self, Self);
    fn send(&self, message: &[u8]);
    /// Receives into a buffer that is exactly as long as the message.
    fn recv(&self, buffer: &mut [u8]);
}

/// crossproc's end, which receives into a buffer.
pub struct Crossproc(Connection);

impl End for Crossproc {
    const MAX: usize = Connection::MAX_LEN;

    fn pair() -> (Self, Self) {
        let (one, other) = pipe().unwrap();
        (Crossproc(one), Crossproc(other))
    }

    #[inline(always)]
    fn send(&self, message: &[u8]) {
        self.0.send(message).unwrap();
    }

    #[inline(always)]
    fn recv(&self, buffer: &mut [u8]) {
        assert_eq!(self.0.recv_into(buffer).unwrap(), buffer.len());
    }
}

/// crossproc's end, which receives a message as a new vector.
pub struct CrossprocMessage(Connection);

impl End for CrossprocMessage {
    const MAX: usize = Connection::MAX_LEN;

    fn pair() -> (Self, Self) {
        let (one, other) = pipe().unwrap();
        (CrossprocMessage(one), CrossprocMessage(other))
    }

    #[inline(always)]
    fn send(&self, message: &[u8]) {
        self.0.send(message).unwrap();
    }

    #[inline(always)]
    fn recv(&self, buffer: &mut [u8]) {
        assert_eq!(self.0.recv().unwrap().len(), buffer.len());
    }
}

/// A socketpair of packets, with a buffer as large as crossproc's.
pub struct RawPacket(OwnedFd);

impl End for RawPacket {
    const MAX: usize = 1 << 20;

    fn pair() -> (Self, Self) {
        let (one, other) = sockets(SocketType::SEQPACKET);
        (RawPacket(one), RawPacket(other))
    }

    #[inline(always)]
    fn send(&self, message: &[u8]) {
        assert_eq!(send(&self.0, message, SendFlags::NOSIGNAL).unwrap(), message.len());
    }

    #[inline(always)]
    fn recv(&self, buffer: &mut [u8]) {
        let len = buffer.len();
        assert_eq!(recv(&self.0, buffer, RecvFlags::empty()).unwrap().1, len);
    }
}

/// The same, but received by the one call that can receive a descriptor, too. The call is inlined,
/// as crossproc and rustix do with their calls.
pub struct RawPacketWithControl(OwnedFd);

impl End for RawPacketWithControl {
    const MAX: usize = RawPacket::MAX;

    fn pair() -> (Self, Self) {
        let (one, other) = sockets(SocketType::SEQPACKET);
        (RawPacketWithControl(one), RawPacketWithControl(other))
    }

    #[inline(always)]
    fn send(&self, message: &[u8]) {
        assert_eq!(send(&self.0, message, SendFlags::NOSIGNAL).unwrap(), message.len());
    }

    #[inline(always)]
    fn recv(&self, buffer: &mut [u8]) {
        let mut vector =
            libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = [0_u64; 4];
        let mut header = MaybeUninit::<libc::msghdr>::zeroed();
        // SAFETY: the header consists of integers and pointers, for which zero is valid.
        let header = unsafe { header.assume_init_mut() };
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the header is the same for glibc and the kernel. It leads to the buffer and the
        // control buffer, with their lengths.
        let len = unsafe {
            syscall!(Sysno::recvmsg, self.0.as_raw_fd(), &raw mut *header, libc::MSG_CMSG_CLOEXEC)
        };
        assert_eq!(len, Ok(buffer.len()));
    }
}

/// A stream, on which a message is a length and bytes.
pub struct RawStream(OwnedFd);

impl End for RawStream {
    const MAX: usize = usize::MAX;

    fn pair() -> (Self, Self) {
        let (one, other) = sockets(SocketType::STREAM);
        (RawStream(one), RawStream(other))
    }

    #[inline(always)]
    fn send(&self, message: &[u8]) {
        for mut bytes in [&(message.len() as u64).to_ne_bytes(), message] {
            while !bytes.is_empty() {
                let sent = send(&self.0, bytes, SendFlags::NOSIGNAL).unwrap();
                bytes = &bytes[sent..];
            }
        }
    }

    #[inline(always)]
    fn recv(&self, buffer: &mut [u8]) {
        let mut len = [0; 8];
        assert_eq!(recv(&self.0, &mut len, RecvFlags::WAITALL).unwrap().1, 8);
        assert_eq!(u64::from_ne_bytes(len), buffer.len() as u64);
        let mut filled = 0;
        while filled < buffer.len() {
            filled += recv(&self.0, &mut buffer[filled..], RecvFlags::empty()).unwrap().1;
        }
    }
}

fn sockets(of: SocketType) -> (OwnedFd, OwnedFd) {
    let (one, other) = socketpair(AddressFamily::UNIX, of, SocketFlags::CLOEXEC, None).unwrap();
    for socket in [&one, &other] {
        set_socket_send_buffer_size(socket, BUFFER).unwrap();
    }
    (one, other)
}
