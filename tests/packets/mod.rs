//! Programs for a hostile sender and a receiver. A second implementation of the format says what
//! must come of a packet. The same must come of it in the crate, without a leak, a panic or a wait.

#![allow(unsafe_code)]

use core::sync::atomic::AtomicU64;
use std::collections::VecDeque;
use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crossproc::process::{Handle, HandleError};
use crossproc::{Connection, ConnectionError, Message, Shm, pipe};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::{Errno, write};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

const MAGIC: u64 = u64::from_be_bytes(*b"xpframe\x01");
const LARGE: u32 = 1;
const HANDLE: u32 = 2;
const MOST_STEPS: usize = 40;
/// The length of the longest valid packet.
const MAX_PACKET: usize = 24 + 232 + (1 << 20);

/// A descriptor that a packet may bring.
struct Cargo {
    fd: OwnedFd,
    /// The long message in it, if it can hold one.
    content: Option<Vec<u8>>,
    is_word: bool,
    is_end: bool,
}

fn memfd(bytes: &[u8], has_hole: bool, seals: SealFlags) -> OwnedFd {
    let file = memfd_create("packets", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    assert_eq!(write(&file, bytes).unwrap(), bytes.len());
    if has_hole {
        ftruncate(&file, 100_000).unwrap();
    }
    fcntl_add_seals(&file, seals).unwrap();
    file
}

/// Returns the descriptors to choose from.
fn cargo() -> Vec<Cargo> {
    let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    let other = |fd| Cargo { fd, content: None, is_word: false, is_end: false };
    let long = |len: usize| {
        let content: Vec<u8> = (0..len).map(|at| at as u8).collect();
        Cargo { content: Some(content.clone()), ..other(memfd(&content, false, sealed)) }
    };
    let word = Shm::new(AtomicU64::new(7)).unwrap();
    let end = pipe().unwrap().0;
    vec![
        long(100),
        long(0),
        long(5_000),
        other(memfd(&[1; 100], false, sealed - SealFlags::WRITE)),
        other(memfd(&[1; 100], true, sealed)),
        other(fs::File::open("/").unwrap().into()),
        Cargo { is_word: true, ..other(word.as_fd().try_clone_to_owned().unwrap()) },
        Cargo { is_end: true, ..other(end.as_fd().try_clone_to_owned().unwrap()) },
    ]
}

/// The expected result of a packet.
enum Expected {
    End,
    Malformed,
    Message { bytes: Vec<u8>, kind: Option<String>, handle: Option<usize> },
}

/// Parses a packet: the second implementation of the format.
fn expected(packet: &[u8], brought: &[usize], cargo: &[Cargo]) -> Expected {
    if packet.len() > MAX_PACKET || brought.len() > 2 {
        return Expected::Malformed;
    }
    if brought.is_empty() {
        return match packet {
            [] => Expected::End,
            bytes => Expected::Message { bytes: bytes.to_vec(), kind: None, handle: None },
        };
    }
    read_frame(packet, brought, cargo).unwrap_or(Expected::Malformed)
}

fn read_frame(packet: &[u8], brought: &[usize], cargo: &[Cargo]) -> Option<Expected> {
    let (magic, rest) = packet.split_first_chunk()?;
    let (flags, rest) = rest.split_first_chunk()?;
    let (kind_len, rest) = rest.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (flags, kind_len, len) = (
        u32::from_ne_bytes(*flags),
        u32::from_ne_bytes(*kind_len) as usize,
        u64::from_ne_bytes(*len),
    );
    let (kind, inline) = rest.split_at_checked(kind_len)?;
    let kind = core::str::from_utf8(kind).ok()?;
    let has_handle = flags & HANDLE != 0;
    let (content, handle) = match (flags, brought) {
        (LARGE, &[file]) => (Some(&cargo[file]), None),
        (HANDLE, &[handle]) => (None, Some(handle)),
        (3, &[file, handle]) => (Some(&cargo[file]), Some(handle)),
        _ => return None,
    };
    let is_sound =
        u64::from_ne_bytes(*magic) == MAGIC && kind.len() <= 232 && (has_handle || kind.is_empty());
    let bytes = match content {
        Some(file) if inline.is_empty() => file.content.clone()?,
        Some(_) => return None,
        None => inline.to_vec(),
    };
    (is_sound && bytes.len() as u64 == len).then(|| Expected::Message {
        bytes,
        kind: has_handle.then(|| kind.to_owned()),
        handle,
    })
}

/// The bytes of a program, with zeros after their end.
struct Bytes<'a>(core::slice::Iter<'a, u8>);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn is_at_end(&self) -> bool {
        self.0.len() == 0
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next()).collect()
    }
}

struct World {
    cargo: Vec<Cargo>,
    sender: Option<Connection>,
    receiver: Connection,
    on_their_way: VecDeque<Expected>,
}

/// Runs a program.
pub(crate) fn run(program: &[u8]) {
    let before = open_descriptors();
    let (sender, receiver) = pipe().unwrap();
    let mut world =
        World { cargo: cargo(), sender: Some(sender), receiver, on_their_way: VecDeque::new() };
    let mut bytes = Bytes(program.iter());
    for _ in 0..MOST_STEPS {
        if bytes.is_at_end() {
            break;
        }
        world.step(&mut bytes);
    }
    world.sender = None;
    while !world.on_their_way.is_empty() {
        world.receive(0, 0);
    }
    assert!(matches!(world.receiver.recv(), Err(ConnectionError::EndOfStream)));
    drop(world);
    assert_eq!(open_descriptors(), before, "descriptors leak");
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

impl World {
    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.next() % 8 {
            0 => {
                let count = bytes.next() as usize;
                let packet = bytes.take(count);
                self.send(&packet, bytes);
            }
            1..=3 => {
                let packet = frame(bytes);
                self.send(&packet, bytes);
            }
            4 => {
                // As long as a packet may be, or a little longer, or shorter.
                let (size, fill) = (bytes.next(), bytes.next());
                let len = if size < 128 {
                    usize::from(size) << 9
                } else {
                    MAX_PACKET + usize::from(size) - 192
                };
                self.send(&vec![fill; len], bytes);
            }
            5 => {
                let option = [libc::SO_PASSCRED, libc::SO_PASSSEC, libc::SO_PASSPIDFD]
                    [usize::from(bytes.next()) % 3];
                let value: i32 = 1;
                let (fd, len) =
                    (self.receiver.as_fd().as_raw_fd(), size_of::<i32>() as libc::socklen_t);
                // SAFETY: reads an integer of that size.
                unsafe {
                    libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const value).cast(), len)
                };
            }
            _ => {
                let (form, detail) = (bytes.next(), bytes.next());
                self.receive(form, detail);
            }
        }
    }

    fn send(&mut self, packet: &[u8], bytes: &mut Bytes<'_>) {
        let Some(sender) = &self.sender else { return };
        // Mostly none, one or two.
        let count = [0, 1, 2, 1, 0, 2, 3, 5][usize::from(bytes.next()) % 8];
        let brought: Vec<usize> =
            (0..count).map(|_| usize::from(bytes.next()) % self.cargo.len()).collect();
        let descriptors: Vec<BorrowedFd<'_>> =
            brought.iter().map(|&index| self.cargo[index].fd.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); 128];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        match sendmsg(sender, &[IoSlice::new(packet)], &mut control, SendFlags::DONTWAIT) {
            Ok(_) => self.on_their_way.push_back(expected(packet, &brought, &self.cargo)),
            // `MSGSIZE` for a long packet, where `net.core.wmem_max` is small.
            Err(Errno::AGAIN | Errno::MSGSIZE) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn receive(&mut self, form: u8, detail: u8) {
        let expected = self.on_their_way.pop_front();
        let mut buffer = vec![0; usize::from(detail)];
        let (receiver, detail) = (&self.receiver, detail);
        match form % 5 {
            0 => self.check_message(receiver.try_recv(), expected, detail),
            1 => self.check_into(receiver.try_recv_into(&mut buffer), &buffer, expected),
            2 => self.check_handle(receiver.try_recv_handle::<Shm<AtomicU64>>(), expected),
            3 => self.check_handle(receiver.try_recv_handle::<Connection>(), expected),
            _ => self.check_handle(receiver.try_recv_handle::<OwnedFd>(), expected),
        }
    }

    fn check_message(
        &self,
        result: Result<Message, ConnectionError>,
        expected: Option<Expected>,
        detail: u8,
    ) {
        match (result, expected) {
            (Ok(mut message), Some(Expected::Message { bytes, kind, handle })) => {
                assert!(message == bytes[..], "other bytes");
                assert_eq!(message.handle_kind(), kind.as_deref());
                match detail % 4 {
                    0 => self.check_taken::<Shm<AtomicU64>>(
                        message.take_handle(),
                        handle,
                        kind.as_deref(),
                    ),
                    1 => self.check_taken::<Connection>(
                        message.take_handle(),
                        handle,
                        kind.as_deref(),
                    ),
                    2 => {
                        self.check_taken::<OwnedFd>(message.take_handle(), handle, kind.as_deref());
                    }
                    _ => {}
                }
            }
            (result, expected) => check_error(result, expected),
        }
    }

    /// Returns whether the descriptor with this index is an `H`.
    fn is_handle<H: Handle>(&self, index: usize, kind: &str) -> bool {
        let of = &self.cargo[index];
        match H::kind() {
            "descriptor" => true,
            "Connection" => of.is_end && (kind == "Connection" || kind == "descriptor"),
            _ => of.is_word,
        }
    }

    fn check_taken<H: Handle>(
        &self,
        result: Result<H, ConnectionError>,
        handle: Option<usize>,
        kind: Option<&str>,
    ) {
        match (result, handle) {
            (Ok(_), Some(index)) => assert!(self.is_handle::<H>(index, kind.unwrap_or_default())),
            (Err(ConnectionError::NoHandle { .. }), None) => {}
            (Err(ConnectionError::OtherHandle { kind: found, message, source }), Some(index)) => {
                assert!(!self.is_handle::<H>(index, &found), "{source}");
                assert_eq!(
                    (Some(&found[..]), message.handle_kind()),
                    (kind, kind),
                    "it is there still"
                );
                assert!(matches!(
                    source,
                    HandleError::Region(_)
                        | HandleError::NotConnected { .. }
                        | HandleError::OtherKind { .. }
                ));
            }
            (Ok(_), None) => panic!("a handle out of nothing"),
            (Err(error), _) => panic!("{error:?}"),
        }
    }

    fn check_handle<H: Handle>(
        &self,
        result: Result<H, ConnectionError>,
        expected: Option<Expected>,
    ) {
        match expected {
            Some(Expected::Message { bytes, kind, handle }) => {
                if let Err(
                    ConnectionError::NoHandle { message }
                    | ConnectionError::OtherHandle { message, .. },
                ) = &result
                {
                    assert!(**message == bytes[..], "other bytes");
                }
                self.check_taken(result, handle, kind.as_deref());
            }
            expected => check_error(result, expected),
        }
    }

    fn check_into(
        &self,
        result: Result<usize, ConnectionError>,
        buffer: &[u8],
        expected: Option<Expected>,
    ) {
        match (result, expected) {
            (Ok(len), Some(Expected::Message { bytes, kind: None, .. })) => {
                assert!(buffer[..len] == bytes, "other bytes");
            }
            (
                Err(ConnectionError::TooShort { max, message }),
                Some(Expected::Message { bytes, kind: None, .. }),
            ) => {
                assert!(max == buffer.len() && bytes.len() > max && *message == bytes[..]);
            }
            (
                Err(ConnectionError::UnexpectedHandle { message }),
                Some(Expected::Message { bytes, kind: Some(kind), .. }),
            ) => {
                assert!(*message == bytes[..] && message.handle_kind() == Some(&kind));
            }
            (result, expected) => check_error(result, expected),
        }
    }
}

/// Makes a header, mostly a correct one, and what follows it.
fn frame(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let wrong = bytes.next();
    let flags = u32::from(bytes.next() % 5);
    let kind: Vec<u8> = match bytes.next() % 8 {
        0 => b"descriptor".to_vec(),
        1 => b"Connection".to_vec(),
        2 => bytes.take(3),
        3 => vec![b'k'; 231 + usize::from(bytes.next() % 4)],
        _ => Vec::new(),
    };
    let count = usize::from(bytes.next());
    let inline = if flags & LARGE == 0 { bytes.take(count) } else { Vec::new() };
    let len = match (flags & LARGE, count % 4) {
        (0, _) => inline.len() as u64,
        (_, 0) => 0,
        (_, 1) => 100,
        (_, 2) => 5_000,
        _ => 100_000,
    };
    let mut packet = [
        &MAGIC.to_ne_bytes()[..],
        &flags.to_ne_bytes(),
        &(kind.len() as u32).to_ne_bytes(),
        &len.to_ne_bytes(),
    ]
    .concat();
    packet.extend(&kind);
    packet.extend(&inline);
    match wrong % 8 {
        0 => {
            let at = usize::from(bytes.next()) % packet.len();
            packet[at] = bytes.next();
        }
        1 => packet.truncate(usize::from(bytes.next())),
        2 => packet.push(7),
        _ => {}
    }
    packet
}

fn check_error<R>(result: Result<R, ConnectionError>, expected: Option<Expected>) {
    match (result, expected) {
        (Err(ConnectionError::WouldBlock), None)
        | (Err(ConnectionError::EndOfStream), Some(Expected::End))
        | (Err(ConnectionError::Malformed { .. }), Some(Expected::Malformed)) => {}
        (Ok(_), Some(Expected::Malformed)) => panic!("a message came of a packet that is none"),
        (Ok(_), _) => panic!("something came of nothing"),
        (Err(error), _) => panic!("{error:?}"),
    }
}
