//! Peers that violate the format, or change the socket that they share. Each causes an error or
//! none, nothing leaks, and the next message is received.

#![allow(unsafe_code)]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crossproc::process::{Handle, HandleError};
use crossproc::{Connection, ConnectionError, Event, Shm, pipe};
use rustix::fs::{
    MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, ftruncate, memfd_create,
};
use rustix::io::write;
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size_force, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socket_with, socketpair,
};

mod forked;
use forked::{PATIENCE, fork, join_all};

const MAGIC: &[u8; 8] = b"\x01emarfpx";
const LARGE: u32 = 1;
const HANDLE: u32 = 2;
const SEALED: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);
/// The length of the longest valid packet.
const MAX_PACKET: usize = 24 + 232 + (1 << 20);

/// Runs a test in a process of its own, in which nothing else opens descriptors.
fn alone(test: impl FnOnce() + Send) {
    join_all([fork(test)]);
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn send_raw(to: impl AsFd, packet: &[u8], descriptors: &[OwnedFd]) {
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); 2_048];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    }
    sendmsg(to, &[IoSlice::new(packet)], &mut control, SendFlags::empty()).unwrap();
}

fn header(magic: [u8; 8], flags: u32, kind: u32, len: u64) -> Vec<u8> {
    [&magic[..], &flags.to_ne_bytes(), &kind.to_ne_bytes(), &len.to_ne_bytes()].concat()
}

fn frame(flags: u32, kind: &[u8], len: usize, inline: &[u8]) -> Vec<u8> {
    [&header(*MAGIC, flags, kind.len() as u32, len as u64)[..], kind, inline].concat()
}

fn memfd(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let file = memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    assert_eq!(write(&file, bytes).unwrap(), bytes.len());
    fcntl_add_seals(&file, seals).unwrap();
    file
}

/// Returns a sealed memfd of `len` bytes, none of which has memory.
fn hole(len: u64) -> OwnedFd {
    let file = memfd_create("hole", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, len).unwrap();
    fcntl_add_seals(&file, SEALED).unwrap();
    file
}

/// The same, but with huge pages.
fn huge(len: u64) -> OwnedFd {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = memfd_create("huge", flags).unwrap();
    ftruncate(&file, len).unwrap();
    fcntl_add_seals(&file, SEALED).unwrap();
    file
}

fn plain_file() -> OwnedFd {
    std::fs::File::open("/proc/self/stat").unwrap().into()
}

/// A packet that is no message, and a part of the error's text.
struct Malformed {
    says: &'static str,
    packet: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

fn malformed(says: &'static str, packet: Vec<u8>, descriptors: Vec<OwnedFd>) -> Malformed {
    Malformed { says, packet, descriptors }
}

fn headers() -> Vec<Malformed> {
    let whole = frame(HANDLE, b"kind", 5, b"bytes");
    let one = || vec![plain_file()];
    let mut all: Vec<_> = [0, 1, 8, 23]
        .map(|len| {
            malformed("too short for a header", frame(HANDLE, b"", 0, b"")[..len].to_vec(), one())
        })
        .into();
    let mut version = *MAGIC;
    version[0] += 1;
    all.extend([
        malformed("another version", header(*b"GET / HT", HANDLE, 0, 0), one()),
        malformed("another version", header(version, HANDLE, 0, 0), one()),
        malformed("flags 0x4", frame(4, b"", 0, b""), one()),
        malformed("flags 0x80000002", frame(HANDLE | 1 << 31, b"", 0, b""), one()),
        malformed("announces 0 descriptors, 1 came", frame(0, b"", 0, b""), one()),
        malformed("announces 2 descriptors, 1 came", frame(LARGE | HANDLE, b"", 0, b""), one()),
        malformed(
            "announces 1 descriptors, 2 came",
            frame(HANDLE, b"", 0, b""),
            vec![plain_file(), plain_file()],
        ),
        malformed(
            "more than 2 descriptors",
            frame(HANDLE, b"", 0, b""),
            vec![plain_file(), plain_file(), plain_file()],
        ),
        malformed(
            "more than 2 descriptors",
            frame(HANDLE, b"", 0, b""),
            (0..100).map(|_| plain_file()).collect(),
        ),
        malformed(
            "more than 2 descriptors",
            b"a message?".to_vec(),
            (0..253).map(|_| plain_file()).collect(),
        ),
        malformed("kind has 233 bytes", frame(HANDLE, &[b'k'; 233], 0, b""), one()),
        malformed("kind has 4294967295 bytes", header(*MAGIC, HANDLE, u32::MAX, 0), one()),
        malformed(
            "kind has 10 bytes",
            [&header(*MAGIC, HANDLE, 10, 0)[..], b"too few"].concat(),
            one(),
        ),
        malformed("kind has 4 bytes", frame(LARGE, b"kind", 1, b""), vec![memfd(b"x", SEALED)]),
        malformed("not UTF-8", frame(HANDLE, b"k\xffnd", 0, b""), one()),
        malformed(
            "message has 6 bytes, the packet has 5",
            frame(HANDLE, b"kind", 6, b"bytes"),
            one(),
        ),
        malformed(
            "message has 4 bytes, the packet has 5",
            frame(HANDLE, b"kind", 4, b"bytes"),
            one(),
        ),
        malformed(
            "message has 5 bytes, the packet has 4",
            whole[..whole.len() - 1].to_vec(),
            one(),
        ),
        malformed(
            "message has 1 bytes, the packet has 1",
            frame(LARGE, b"", 1, b"x"),
            vec![memfd(b"x", SEALED)],
        ),
        malformed(
            "message has 18446744073709551615 bytes",
            header(*MAGIC, HANDLE, 0, u64::MAX),
            one(),
        ),
        malformed(
            "message has 2147483649 bytes",
            header(*MAGIC, LARGE, 0, (1 << 31) + 1),
            vec![memfd(b"x", SEALED)],
        ),
        malformed("more than 1048832 bytes", vec![7; MAX_PACKET + 2_000], vec![]),
        malformed(
            "more than 1048832 bytes",
            frame(HANDLE, b"", MAX_PACKET, &vec![7; MAX_PACKET]),
            one(),
        ),
    ]);
    all
}

fn descriptors() -> Vec<Malformed> {
    let large = |len: usize| frame(LARGE, b"", len, b"");
    let directory = OwnedFd::from(std::fs::File::open("/").unwrap());
    let socket = pipe().unwrap().0.as_fd().try_clone_to_owned().unwrap();
    let mut all: Vec<_> = [plain_file(), directory, socket]
        .map(|other| malformed("no sealed memfd", large(100), vec![other]))
        .into();
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE, SealFlags::SEAL] {
        all.push(malformed(
            "no sealed memfd",
            large(100),
            vec![memfd(&[1; 100], SEALED - missing)],
        ));
    }
    let future = (SEALED - SealFlags::WRITE) | SealFlags::FUTURE_WRITE;
    all.extend([
        malformed("no sealed memfd", large(100), vec![memfd(&[1; 100], SealFlags::empty())]),
        malformed("no sealed memfd", large(100), vec![memfd(&[1; 100], future)]),
        malformed(
            "no sealed memfd",
            frame(LARGE | HANDLE, b"", 100, b""),
            vec![plain_file(), memfd(&[1; 100], SEALED)],
        ),
        malformed("a memfd of 100 bytes", large(101), vec![memfd(&[1; 100], SEALED)]),
        malformed("a memfd of 100 bytes", large(99), vec![memfd(&[1; 100], SEALED)]),
        malformed("a memfd of 100 bytes", large(0), vec![memfd(&[1; 100], SEALED)]),
        malformed("a memfd of 0 bytes", large(100), vec![memfd(b"", SEALED)]),
        // There may be no huge pages: the memfd must be refused without being mapped.
        malformed("huge pages", large(2 << 20), vec![huge(2 << 20)]),
        // A reader of a hole is given memory for it, as much as the sender likes.
        malformed("holes", large(1 << 31), vec![hole(1 << 31)]),
        malformed("holes", large(4_097), vec![hole(4_097)]),
    ]);
    all
}

/// Receives in one of the possible ways.
fn results(from: &Connection, way: usize) -> Result<Vec<u8>, ConnectionError> {
    let mut buffer = [0; 50];
    match way {
        0 => from.try_recv().map(Vec::from),
        1 => from.try_recv_into(&mut buffer).map(|len| buffer[..len].to_vec()),
        2 => from.recv_timeout(PATIENCE).map(Vec::from),
        3 => from.try_recv_into(&mut []).map(|_| Vec::new()),
        _ => from.try_recv_handle::<Shm<Event>>().map(|_| Vec::new()),
    }
}

#[test]
fn a_packet_that_is_no_message_is_an_error_and_the_next_one_is_received() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        set_socket_send_buffer_size_force(&one, 8 << 20)
            .or_else(|_| rustix::net::sockopt::set_socket_send_buffer_size(&one, 3 << 20))
            .unwrap();
        for Malformed { says, packet, descriptors } in
            headers().into_iter().chain(self::descriptors())
        {
            let before = open_descriptors();
            for way in 0..5 {
                send_raw(&one, &packet, &descriptors);
                one.send(b"next").unwrap();
                match results(&other, way) {
                    Err(ConnectionError::Malformed { what }) => {
                        assert!(what.contains(says), "{what}, not {says}");
                    }
                    result => panic!("{:?} and not: {says}", result.map(|bytes| bytes.len())),
                }
                assert_eq!(other.try_recv().unwrap(), b"next", "after: {says}");
                assert_eq!(open_descriptors(), before, "a descriptor leaked: {says}");
            }
        }
    });
}

#[test]
fn what_looks_like_a_frame_without_descriptors_is_a_message() {
    let (one, other) = pipe().unwrap();
    for bytes in [
        frame(0, b"", 0, b""),
        frame(HANDLE, b"kind", 5, b"bytes"),
        frame(LARGE, b"", 1 << 40, b""),
        MAGIC.to_vec(),
    ] {
        one.send(&bytes).unwrap();
        assert_eq!(other.recv().unwrap(), bytes[..]);
    }
}

#[test]
fn a_packet_without_bytes_is_an_end_and_what_follows_is_received() {
    let (one, other) = pipe().unwrap();
    for way in 0..5 {
        send_raw(&one, b"", &[]);
        one.send(b"next").unwrap();
        assert!(matches!(results(&other, way), Err(ConnectionError::EndOfStream)));
        assert_eq!(other.recv().unwrap(), b"next");
    }
}

#[test]
fn a_message_may_come_in_a_memfd_of_any_length() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        for len in [0, 1, 4_095, 4_096, 4_097, 100_000] {
            let bytes: Vec<u8> = (0..len).map(|at: usize| at as u8).collect();
            let before = open_descriptors();
            send_raw(&one, &frame(LARGE, b"", len, b""), &[memfd(&bytes, SEALED)]);
            assert_eq!(other.recv().unwrap(), bytes[..]);
            assert_eq!(open_descriptors(), before);
        }
    });
}

#[test]
fn only_an_end_that_is_connected_is_a_connection() {
    let make = |family, kind| socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    let unix = AddressFamily::UNIX;
    let others = [
        (make(unix, SocketType::SEQPACKET), "not connected"),
        (make(unix, SocketType::STREAM), "another type"),
        (make(unix, SocketType::DGRAM), "another type"),
        (
            socketpair(unix, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap().0,
            "another type",
        ),
        (make(AddressFamily::NETLINK, SocketType::RAW), "another family"),
        (plain_file(), "not a socket"),
    ];
    for (other, says) in others {
        match Connection::from_fd(other) {
            Err(HandleError::NotConnected { what }) => {
                assert!(what.contains(says), "{what}, not {says}");
            }
            result => panic!("{result:?}"),
        }
    }
}

/// Sets a socket option. Returns whether the option exists: `SO_PASSPIDFD` came with Linux 6.5.
fn set_option(socket: &Connection, option: i32) -> bool {
    let on: i32 = 1;
    // SAFETY: reads an integer of that size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const on).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    let error = std::io::Error::last_os_error();
    let is_missing = result != 0
        && option == libc::SO_PASSPIDFD
        && error.raw_os_error() == Some(libc::ENOPROTOOPT);
    assert!(result == 0 || is_missing, "option {option}: {error}");
    !is_missing
}

#[test]
fn what_the_kernel_adds_to_packets_is_in_nobodys_way() {
    alone(|| {
        let event = Shm::new(Event::new()).unwrap();
        let long = vec![3; (1 << 20) + 1];
        for options in [
            &[libc::SO_PASSCRED][..],
            &[libc::SO_PASSSEC],
            &[libc::SO_PASSPIDFD],
            &[libc::SO_PASSCRED, libc::SO_PASSSEC, libc::SO_PASSPIDFD],
        ] {
            let (one, other) = pipe().unwrap();
            // Another holder of that end sets the options.
            let shared = other.try_clone().unwrap();
            if !options.iter().all(|&option| set_option(&shared, option)) {
                continue;
            }
            one.send(b"").unwrap();
            assert_eq!(other.recv().unwrap(), b"");
            let before = open_descriptors();
            for _ in 0..3 {
                one.send(b"short").unwrap();
                assert_eq!(other.recv().unwrap(), b"short");
                one.send(b"short").unwrap();
                assert_eq!(other.recv_into(&mut [0; 8]).unwrap(), 5);
                one.send(&long).unwrap();
                assert_eq!(other.recv().unwrap(), long[..]);
                one.send_both(&long, &event).unwrap();
                let mut message = other.recv().unwrap();
                assert_eq!(message, long[..]);
                message.take_handle::<Shm<Event>>().unwrap().set();
                assert!(event.is_set());
                event.clear();
                send_raw(
                    &one,
                    &frame(HANDLE, b"", 0, b""),
                    &[plain_file(), plain_file(), plain_file()],
                );
                assert!(matches!(other.recv(), Err(ConnectionError::Malformed { .. })));
            }
            assert_eq!(open_descriptors(), before, "{options:?}");
            // A message that needs no descriptor arrives even where none is left, whatever the
            // options would add.
            one.send(b"short").unwrap();
            let hoard: Vec<OwnedFd> =
                core::iter::from_fn(|| one.as_fd().try_clone_to_owned().ok()).collect();
            assert_eq!(other.recv().unwrap(), b"short");
            drop(hoard);
            assert_eq!(open_descriptors(), before, "{options:?}");
            drop(one);
            assert!(matches!(other.recv(), Err(ConnectionError::EndOfStream)));
        }
    });
}

#[test]
fn a_socket_that_others_made_impatient_waits_all_the_same() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        // Both settings belong to the open file, which all holders of the end share.
        let impatient: [fn(&Connection); 2] = [
            |end| fcntl_setfl(end, OFlags::RDWR | OFlags::NONBLOCK).unwrap(),
            |end| {
                fcntl_setfl(end, OFlags::RDWR).unwrap();
                for way in [Timeout::Recv, Timeout::Send] {
                    set_socket_timeout(end, way, Some(Duration::from_millis(10))).unwrap();
                }
            },
        ];
        for make in impatient {
            make(&one);
            make(&other);
            let theirs = other.try_clone().unwrap();
            let child = fork(move || {
                assert_eq!(theirs.recv().unwrap(), b"late");
                theirs.send(b"answer").unwrap();
                let mut buffer = [0; 100_000];
                assert!((0..100).all(|_| theirs.recv_into(&mut buffer).unwrap() == buffer.len()));
            });
            assert!(matches!(
                one.recv_timeout(Duration::from_millis(50)),
                Err(ConnectionError::TimedOut)
            ));
            one.send(b"late").unwrap();
            assert_eq!(one.recv().unwrap(), b"answer");
            (0..100).for_each(|_| one.send(&vec![1; 100_000]).unwrap());
            join_all([child]);
        }
    });
}
