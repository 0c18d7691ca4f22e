//! Packets over `AF_UNIX` sockets, with descriptors (`SCM_RIGHTS`): `socketpair(2)`, `send(2)`,
//! `sendmsg(2)`, `recvmsg(2)`. Also the identity of the process at the other end.
//!
//! All sockets here are of type `SOCK_SEQPACKET`: a packet is sent and received whole, by one call
//! each, no matter which processes share the socket or die. No call here raises SIGPIPE, and each
//! received descriptor is close-on-exec from the start.
//!
//! References: <https://man7.org/linux/man-pages/man7/unix.7.html>,
//! <https://man7.org/linux/man-pages/man2/recvmsg.2.html>

#![allow(unsafe_code)]
#![allow(clippy::unnecessary_cast, reason = "these lengths are of other types in musl")]

use core::mem::{self, MaybeUninit};
use core::ptr::{self, NonNull};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::descriptor::above_standard;
use crate::retry::last_errno;

/// The largest number of descriptors that a packet may bring; those beyond it are closed.
pub const MAX_DESCRIPTORS: usize = 2;

/// A pidfd of the sender, a type that libc has no name for.
const SCM_PIDFD: i32 = 4;
/// The longest label of a security module. Longer ones are cut, and that looks as if descriptors
/// were missing.
const MAX_LABEL: usize = 256;

/// Returns how many bytes a control message with `len` bytes of data takes.
const fn space(len: usize) -> usize {
    // SAFETY: the macro only calculates.
    unsafe { libc::CMSG_SPACE(len as u32) as usize }
}

/// The bytes that a control message with `MAX_DESCRIPTORS` descriptors takes.
const SPACE: usize = space(MAX_DESCRIPTORS * size_of::<RawFd>());

/// The bytes that the kernel adds to each packet if any process that shares the socket has asked
/// for them (SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD). They come before the descriptors, and would
/// take their place.
const ADDED: usize = space(size_of::<libc::ucred>()) + space(MAX_LABEL) + space(size_of::<RawFd>());

/// Room for the control message with `MAX_DESCRIPTORS` descriptors, aligned as the kernel wants it.
/// At least as large as CMSG_SPACE says, which is checked below.
type Outgoing = [u64; 4];
/// The same for everything that may arrive.
type Incoming = [MaybeUninit<u64>; (SPACE + ADDED) / size_of::<u64>()];

const _: () = assert!(
    SPACE <= size_of::<Outgoing>() && align_of::<Outgoing>() >= align_of::<libc::cmsghdr>()
);
const _: () = assert!(SPACE + ADDED == size_of::<Incoming>());

/// Sends one packet: all of `bytes`, or an error. `wait`: whether the call may block while there is
/// no room.
///
/// # Errors
/// EAGAIN: there is no room, and the call may not block, or the socket is non-blocking. EINTR: a
/// signal handler ran. EPIPE, ECONNRESET: the other end is gone. EMSGSIZE: longer than the socket's
/// buffer. ENOBUFS, ENOMEM: no memory. All go to the caller.
#[inline(always)]
pub fn send(socket: impl AsFd, bytes: &[u8], wait: bool) -> Result<(), Errno> {
    let (fd, flags) = (socket.as_fd().as_raw_fd(), libc::MSG_NOSIGNAL | dont_wait(wait));
    // SAFETY: reads the bytes of a slice.
    unsafe { call::send(fd, bytes.as_ptr(), bytes.len(), flags) }.map(|_| ())
}

/// Sends one packet from several slices, with at most [`MAX_DESCRIPTORS`] descriptors.
///
/// # Errors
/// As [`send`]. ETOOMANYREFS: this user has too many descriptors on the way already (more than
/// RLIMIT_NOFILE).
///
/// # Panics
/// If there are more descriptors.
pub fn send_with_descriptors(
    socket: impl AsFd,
    slices: &[&[u8]],
    descriptors: &[BorrowedFd<'_>],
    wait: bool,
) -> Result<(), Errno> {
    // `iovec` has a mutable pointer, which the kernel does not write through here.
    let vectors: Vec<_> = slices.iter().map(|bytes| vector(NonNull::from(*bytes))).collect();
    send_vectors(socket, &vectors, descriptors, wait)
}

/// Sends one packet with one descriptor, without waiting for room. Async-signal-safe: it allocates
/// nothing.
///
/// # Errors
/// As [`send_with_descriptors`].
pub fn send_descriptor(
    socket: impl AsFd,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
) -> Result<(), Errno> {
    send_vectors(socket, &[vector(NonNull::from(bytes))], &[descriptor], false)
}

fn send_vectors(
    socket: impl AsFd,
    vectors: &[libc::iovec],
    descriptors: &[BorrowedFd<'_>],
    wait: bool,
) -> Result<(), Errno> {
    assert!(
        descriptors.len() <= MAX_DESCRIPTORS,
        "at most {MAX_DESCRIPTORS} descriptors with a packet"
    );
    let mut control: Outgoing = [0; 4];
    let mut header = message(vectors);
    if !descriptors.is_empty() {
        let len = size_of_val(descriptors) as u32;
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: the macro only calculates.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(len) } as _;
        // SAFETY: the header has room for a control message: checked by the constant above.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: integers only, for which zero is valid. (Its padding differs between libcs.)
        let mut filled: libc::cmsghdr = unsafe { mem::zeroed() };
        filled.cmsg_level = libc::SOL_SOCKET;
        filled.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: the macro only calculates.
        filled.cmsg_len = unsafe { libc::CMSG_LEN(len) } as _;
        // SAFETY: points into `control`, which is aligned for it and not borrowed otherwise.
        unsafe { first.write(filled) };
        // SAFETY: the header is followed by its data. No reference narrows the pointer to the
        // header alone.
        let data = unsafe { libc::CMSG_DATA(first) };
        // SAFETY: a `BorrowedFd` is a `RawFd` (`repr(transparent)`), and there is room for `len`
        // bytes after the header.
        unsafe { ptr::copy_nonoverlapping(descriptors.as_ptr().cast::<u8>(), data, len as usize) };
    }
    let flags = libc::MSG_NOSIGNAL | dont_wait(wait);
    // SAFETY: the header leads to the slices and the control message, which are all alive here.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const header, flags) };
    check(sent).map(|_| ())
}

/// What [`receive`] received.
#[derive(Debug)]
pub struct Packet {
    /// The number of bytes: the first buffer is filled first, then the second. 0 at the end of the
    /// stream.
    pub len: usize,
    /// Whether the packet was longer than both buffers: the rest is lost.
    pub is_cut: bool,
    /// The descriptors that the packet brought, in order.
    pub descriptors: [Option<OwnedFd>; MAX_DESCRIPTORS],
    /// Whether the packet brought more than these, or more than this process could have: those are
    /// closed.
    pub is_missing_descriptors: bool,
}

/// Receives one packet into two buffers, one after the other. `wait`: whether the call may block
/// while there is no packet.
///
/// # Errors
/// EAGAIN: there is no packet, and the call may not block, or the socket is non-blocking. EINTR: a
/// signal handler ran. ECONNRESET: once, when the other end has gone with unread packets in it; the
/// next call goes on. ENOMEM: no memory. All go to the caller.
#[inline(always)]
pub fn receive(
    socket: impl AsFd,
    buffers: [&mut [MaybeUninit<u8>]; 2],
    wait: bool,
) -> Result<Packet, Errno> {
    receive_by(socket, buffers, dont_wait(wait))
}

/// Does what [`receive`] does, and leaves the packet where it is. It does not block.
///
/// # Errors
/// As for [`receive`].
pub fn peek(socket: impl AsFd, buffers: [&mut [MaybeUninit<u8>]; 2]) -> Result<Packet, Errno> {
    receive_by(socket, buffers, libc::MSG_PEEK | dont_wait(false))
}

#[inline(always)]
fn receive_by(
    socket: impl AsFd,
    buffers: [&mut [MaybeUninit<u8>]; 2],
    flags: i32,
) -> Result<Packet, Errno> {
    let vectors = buffers.map(|buffer| vector(NonNull::from(buffer)));
    // One buffer is less work for the kernel than two.
    let vectors = if vectors[0].iov_len == 0 { &vectors[1..] } else { &vectors[..] };
    let mut control: Incoming = [MaybeUninit::uninit(); size_of::<Incoming>() / size_of::<u64>()];
    let mut header = message(vectors);
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<Incoming>() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | flags;
    // SAFETY: the header leads to buffers that are borrowed mutably, and to the control buffer with
    // its length.
    let len = unsafe { call::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) }?;
    let mut packet = Packet {
        len,
        is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        descriptors: [const { None }; MAX_DESCRIPTORS],
        is_missing_descriptors: header.msg_flags & libc::MSG_CTRUNC != 0,
    };
    if header.msg_controllen as usize >= size_of::<libc::cmsghdr>() {
        let mut free = packet.descriptors.iter_mut();
        let mut is_missing = false;
        take_descriptors(&header, |descriptor| match (free.next(), descriptor) {
            (Some(free), Some(descriptor)) => *free = Some(descriptor),
            _ => is_missing = true,
        });
        packet.is_missing_descriptors |= is_missing;
    }
    Ok(packet)
}

/// Takes the descriptors out of the control messages that the kernel has written, and closes those
/// that no peer has sent. `None` stands for one that had a standard stream's number when no other
/// number was free.
fn take_descriptors(header: &libc::msghdr, mut take: impl FnMut(Option<OwnedFd>)) {
    // SAFETY: the kernel has filled in the header of this message.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !at.is_null() {
        // SAFETY: a control message inside the buffer, aligned, which the kernel has written. It is
        // copied, so that no reference narrows the pointer to the header alone: the data follows
        // it.
        let found = unsafe { at.read() };
        let was_sent = found.cmsg_type == libc::SCM_RIGHTS;
        if found.cmsg_level == libc::SOL_SOCKET && (was_sent || found.cmsg_type == SCM_PIDFD) {
            // SAFETY: the macro only calculates.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (found.cmsg_len as usize).saturating_sub(before) / size_of::<RawFd>();
            // SAFETY: data follows the header.
            let data = unsafe { libc::CMSG_DATA(at) };
            for index in 0..count {
                // SAFETY: inside the control message, by its length.
                let number = unsafe { data.cast::<RawFd>().add(index) };
                // SAFETY: as above; the data need not be aligned.
                let number = unsafe { number.read_unaligned() };
                // For a pidfd that could not be made, it is an errno.
                if number < 0 {
                    continue;
                }
                // SAFETY: the kernel has just made this descriptor for us, and no other code knows
                // it.
                let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
                if was_sent {
                    take(above_standard(descriptor).ok());
                }
            }
        }
        // SAFETY: `at` is a control message of this header.
        at = unsafe { libc::CMSG_NXTHDR(header, at) };
    }
}

/// Room for the control message with as many descriptors as any sender can attach to a packet.
type WideControl = [u64; 130];

const _: () = {
    // SCM_MAX_FD, which the libc crate lacks.
    const MAX_ATTACHED: usize = 253;
    // SAFETY: the macro only calculates.
    let space = unsafe { libc::CMSG_SPACE((MAX_ATTACHED * size_of::<RawFd>()) as u32) as usize };
    assert!(space <= size_of::<WideControl>());
};

/// What [`receive_all`] received.
#[derive(Debug)]
pub struct Delivery {
    /// The number of bytes in the buffer. 0 at the end of the stream.
    pub len: usize,
    /// Whether the packet was longer than the buffer: the rest is lost.
    pub is_cut: bool,
    /// All descriptors that the packet brought, in order, except those that this process had no
    /// room for.
    pub descriptors: Vec<OwnedFd>,
    /// Whether this process had no room for some of them: the kernel has closed those, in this
    /// thread.
    pub is_missing_descriptors: bool,
}

/// Receives one packet without waiting, with however many descriptors it brought. With [`receive`],
/// the kernel closes those that there is no room for, before the call returns. Closing a descriptor
/// that a stranger has made may take as long as the stranger likes.
///
/// # Errors
/// As [`receive`].
pub fn receive_all(socket: impl AsFd, buffer: &mut [u8]) -> Result<Delivery, Errno> {
    let vectors = [vector(NonNull::from(buffer))];
    let mut control: WideControl = [0; 130];
    let mut header = message(&vectors);
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<WideControl>() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the header leads to a buffer that is borrowed mutably, and to the control buffer with
    // its length.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
    let len = check(received)?;
    let mut descriptors = Vec::new();
    let mut is_missing = false;
    if header.msg_controllen as usize >= size_of::<libc::cmsghdr>() {
        take_descriptors(&header, |descriptor| match descriptor {
            Some(descriptor) => descriptors.push(descriptor),
            None => is_missing = true,
        });
    }
    Ok(Delivery {
        len,
        is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        descriptors,
        is_missing_descriptors: is_missing || header.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// Returns whether the next packet brings descriptors, without receiving it and without waiting.
///
/// # Errors
/// As [`receive`].
pub fn brings_descriptors(socket: impl AsFd) -> Result<bool, Errno> {
    let mut first = [0_u8];
    let vectors = [vector(NonNull::from(&mut first[..]))];
    // Without room for control messages none are returned, and the kernel reports them as cut off.
    let mut header = message(&vectors);
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the header leads to a buffer that is borrowed mutably.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
    check(received)?;
    Ok(header.msg_flags & libc::MSG_CTRUNC != 0)
}

/// The process at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The process that connected or, seen from a client, that began to listen. 0 if it is in a pid
    /// namespace that cannot be seen from here. It may have ended since.
    pub pid: u32,
    /// The effective user of that process at that time.
    pub uid: u32,
}

/// Returns which process is at the other end of a connected socket (`SO_PEERCRED`).
///
/// # Errors
/// None is expected of a Unix socket; they go to the caller.
pub fn peer(socket: impl AsFd) -> Result<Peer, Errno> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, level, name) = (socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: writes at most `len` bytes into a struct of that size, for which any bytes are valid.
    let result =
        unsafe { libc::getsockopt(fd, level, name, (&raw mut found).cast(), &raw mut len) };
    check(result as isize)?;
    Ok(Peer { pid: u32::try_from(found.pid).unwrap_or(0), uid: found.uid })
}

/// Returns how many bytes of memory the packets take that were sent and that the other end has not
/// received yet (`SIOCOUTQ`).
///
/// # Errors
/// None is expected of a Unix socket; they go to the caller.
pub fn unread(socket: impl AsFd) -> Result<usize, Errno> {
    let mut found: libc::c_int = 0;
    // SAFETY: writes one integer.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut found) };
    check(result as isize)?;
    Ok(usize::try_from(found).unwrap_or(0))
}

fn dont_wait(wait: bool) -> i32 {
    if wait { 0 } else { libc::MSG_DONTWAIT }
}

fn vector<T>(bytes: NonNull<[T]>) -> libc::iovec {
    const { assert!(size_of::<T>() == 1) };
    libc::iovec { iov_base: bytes.as_ptr().cast(), iov_len: bytes.len() }
}

fn message(vectors: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: all fields are integers and pointers, for which zero is valid. (Its padding differs
    // between libcs, so it cannot be written out.)
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = vectors.as_ptr().cast_mut();
    header.msg_iovlen = vectors.len() as _;
    header
}

/// The two calls that every message takes, inline. libc puts cancellation points of threads around
/// them. That takes a quarter of a microsecond where the kernel makes the processor forget its
/// predictions with each call.
#[cfg(all(
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
mod call {
    use rustix::io::Errno;
    use syscalls::{Sysno, syscall};

    /// # Safety
    /// `bytes` leads to `len` bytes.
    #[inline(always)]
    pub(super) unsafe fn send(
        fd: i32,
        bytes: *const u8,
        len: usize,
        flags: i32,
    ) -> Result<usize, Errno> {
        // SAFETY: the caller's; the call reads nothing else.
        unsafe { syscall!(Sysno::sendto, fd, bytes, len, flags, 0, 0) }.map_err(errno)
    }

    /// # Safety
    /// As for libc's function, whose header is the kernel's own with glibc.
    #[inline(always)]
    pub(super) unsafe fn recvmsg(
        fd: i32,
        header: *mut libc::msghdr,
        flags: i32,
    ) -> Result<usize, Errno> {
        // SAFETY: the caller's.
        unsafe { syscall!(Sysno::recvmsg, fd, header, flags) }.map_err(errno)
    }

    #[cold]
    fn errno(errno: syscalls::Errno) -> Errno {
        Errno::from_raw_os_error(errno.into_raw())
    }
}

#[cfg(not(all(
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
)))]
mod call {
    use rustix::io::Errno;

    /// # Safety
    /// `bytes` leads to `len` bytes.
    pub(super) unsafe fn send(
        fd: i32,
        bytes: *const u8,
        len: usize,
        flags: i32,
    ) -> Result<usize, Errno> {
        // SAFETY: the caller's.
        super::check(unsafe { libc::send(fd, bytes.cast(), len, flags) })
    }

    /// # Safety
    /// As for libc's function.
    pub(super) unsafe fn recvmsg(
        fd: i32,
        header: *mut libc::msghdr,
        flags: i32,
    ) -> Result<usize, Errno> {
        // SAFETY: the caller's.
        super::check(unsafe { libc::recvmsg(fd, header, flags) })
    }
}

fn check(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| last_errno())
}
