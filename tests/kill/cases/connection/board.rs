//! A pipe, and an account of it.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use crossproc::{Connection, ConnectionError, Message, Shm, pipe};
use rustix::net::sockopt::set_socket_send_buffer_size;

/// The numbers of those that send and receive.
pub(super) const BEFORE: usize = 0;
pub(super) const VICTIM: usize = 1;
pub(super) const COMPANION: usize = 2;
pub(super) const SURVIVOR: usize = 6;
const JUDGE: usize = 8;
const ALL: usize = 9;

const LOGGED: usize = 512;
/// The smallest size that the kernel allows.
const SMALL: usize = 2_304;
/// The value in `handle`.
const MARK: u64 = 0x6d61_726b;

/// The shape of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Short,
    Empty,
    /// Too long for a small buffer.
    Page,
    Handle,
    PageAndHandle,
    HandleAlone,
    Long,
    Longest,
}

impl Shape {
    pub(super) const ALL: [Shape; 8] = [
        Shape::Short,
        Shape::Empty,
        Shape::Page,
        Shape::Handle,
        Shape::PageAndHandle,
        Shape::HandleAlone,
        Shape::Long,
        Shape::Longest,
    ];

    fn has_handle(self) -> bool {
        matches!(self, Shape::Handle | Shape::PageAndHandle | Shape::HandleAlone)
    }

    fn len(self) -> usize {
        match self {
            Shape::Short | Shape::Handle => 40,
            Shape::Empty | Shape::HandleAlone => 0,
            Shape::Page | Shape::PageAndHandle => 5_000,
            Shape::Long => 2_000,
            Shape::Longest => (1 << 20) + 1,
        }
    }
}

/// A pipe, and an account of it. A message consists of its sender, its number among that sender's
/// messages, from 1 on, its shape, and a pattern of these. An empty one is the only one of its run.
pub(super) struct Board {
    pub(super) one: Connection,
    pub(super) other: Connection,
    handle: Shm<AtomicU64>,
    /// How many short messages fit.
    fits: Option<usize>,
    /// How many messages each sender has sent.
    sent: [AtomicU64; ALL],
    /// The receiver and the message of each receive, in order for each receiver.
    got: [AtomicU64; LOGGED],
    logged: AtomicUsize,
    /// The sender of a message without bytes.
    sender_of_empty: AtomicUsize,
    /// How many survivors have gone round.
    pub(super) rounds: AtomicU32,
}

fn pattern(who: usize, number: u64, at: usize) -> u8 {
    (who as u64 * 97 + number * 31 + at as u64 * 7 + (at as u64 >> 8)) as u8
}

impl Board {
    pub(super) fn new(is_small: bool) -> Self {
        let (one, other) = pipe().expect("there are descriptors");
        if is_small {
            set_socket_send_buffer_size(&one, SMALL).expect("it is a socket");
        }
        // All empty messages share a descriptor, which all processes have from the first such
        // message on.
        one.send(b"").and_then(|()| other.recv()).expect("an empty message");
        let mut board = Board {
            one,
            other,
            handle: Shm::new(AtomicU64::new(MARK)).expect("there is memory"),
            fits: None,
            sent: [const { AtomicU64::new(0) }; ALL],
            got: [const { AtomicU64::new(0) }; LOGGED],
            logged: AtomicUsize::new(0),
            sender_of_empty: AtomicUsize::new(0),
            rounds: AtomicU32::new(0),
        };
        board.fits = is_small.then(|| board.count_room());
        board
    }

    /// Returns the next message of a sender.
    pub(super) fn message(&self, who: usize, shape: Shape) -> Vec<u8> {
        let number = self.sent[who].load(SeqCst) + 1;
        if shape.len() == 0 {
            self.sender_of_empty.store(who, SeqCst);
        }
        let mut bytes: Vec<u8> = (0..shape.len()).map(|at| pattern(who, number, at)).collect();
        if let Some(head) = bytes.get_mut(..3) {
            head.copy_from_slice(&[who as u8, number as u8, shape as u8]);
        }
        bytes
    }

    pub(super) fn send_as(&self, message: &[u8], shape: Shape) -> Result<(), ConnectionError> {
        match shape {
            Shape::HandleAlone => self.one.send_handle(&self.handle),
            Shape::Handle | Shape::PageAndHandle => self.one.send_both(message, &self.handle),
            _ => self.one.send(message),
        }
    }

    /// Returns whether the message was sent. A refusal without a valid reason is a failure.
    pub(super) fn after_send(&self, who: usize, result: Result<(), ConnectionError>) -> bool {
        match result {
            Ok(()) => {
                self.sent[who].fetch_add(1, SeqCst);
                true
            }
            Err(ConnectionError::WouldBlock | ConnectionError::TimedOut) => false,
            Err(error) => panic!("{error:?}"),
        }
    }

    pub(super) fn send(&self, who: usize, shape: Shape) {
        let message = self.message(who, shape);
        self.after_send(who, self.send_as(&message, shape));
    }

    pub(super) fn try_send(&self, who: usize, shape: Shape) -> bool {
        let message = self.message(who, shape);
        let result = if shape.has_handle() {
            self.one.try_send_both(&message, &self.handle)
        } else {
            self.one.try_send(&message)
        };
        self.after_send(who, result)
    }

    pub(super) fn after_recv(&self, who: usize, result: Result<Message, ConnectionError>) -> bool {
        match result {
            Ok(mut message) => {
                let has_handle = message.handle_kind().is_some();
                if has_handle {
                    let handle: Shm<AtomicU64> = message.take_handle().expect("it is one of these");
                    assert_eq!(handle.load(SeqCst), MARK, "another handle");
                }
                self.note(who, &message, has_handle);
                true
            }
            Err(ConnectionError::WouldBlock | ConnectionError::TimedOut) => false,
            Err(error) => panic!("{error:?}"),
        }
    }

    pub(super) fn after_handle(&self, who: usize, handle: &Shm<AtomicU64>) {
        assert_eq!(handle.load(SeqCst), MARK, "another handle");
        self.note(who, &[], true);
    }

    pub(super) fn try_recv(&self, who: usize) -> bool {
        self.after_recv(who, self.other.try_recv())
    }

    /// Notes a message, after checking that it is whole.
    pub(super) fn note(&self, who: usize, bytes: &[u8], has_handle: bool) {
        let (sender, number) = match bytes {
            [] => (self.sender_of_empty.load(SeqCst), 1),
            [sender, number, shape, ..] => {
                let shape = Shape::ALL[usize::from(*shape)];
                assert_eq!(
                    (bytes.len(), has_handle),
                    (shape.len(), shape.has_handle()),
                    "a message of {sender}, cut or without its handle"
                );
                (usize::from(*sender), u64::from(*number))
            }
            _ => panic!("a message of {} bytes, which nobody has sent", bytes.len()),
        };
        let is_whole =
            bytes.iter().enumerate().skip(3).all(|(at, &byte)| byte == pattern(sender, number, at));
        assert!(is_whole, "a message of {sender} is mixed with another one");
        let at = self.logged.fetch_add(1, SeqCst);
        self.got[at].store((who as u64) << 48 | (sender as u64) << 32 | number, SeqCst);
    }

    pub(super) fn drain_at_end(&self) {
        while self.try_recv(JUDGE) {}
    }

    /// Returns how many messages of the victim were received, and how many sent messages are
    /// missing. A killed victim may have sent a message without noting it.
    pub(super) fn account(&self) -> Result<(usize, usize), String> {
        let mut last = [[0; ALL]; ALL];
        let mut counts = [0_u64; ALL];
        let mut seen = std::collections::BTreeSet::new();
        for logged in &self.got[..self.logged.load(SeqCst)] {
            let logged = logged.load(SeqCst);
            let (who, sender, number) =
                ((logged >> 48) as usize, (logged >> 32) as usize & 0xffff, logged & 0xffff_ffff);
            if !seen.insert((sender, number)) {
                return Err(format!("{who} received {number} of {sender} a second time"));
            }
            if number <= last[who][sender] {
                return Err(format!(
                    "{who} received {number} of {sender} after {}",
                    last[who][sender]
                ));
            }
            last[who][sender] = number;
            counts[sender] += 1;
        }
        let mut missing = 0;
        for (sender, &count) in counts.iter().enumerate() {
            let sent = self.sent[sender].load(SeqCst);
            if sender != VICTIM && count > sent {
                return Err(format!("{count} messages of {sender}, who has sent {sent}"));
            }
            missing += sent.saturating_sub(count);
        }
        Ok((counts[VICTIM] as usize, missing as usize))
    }

    /// Returns how many short messages fit into an empty buffer, and leaves it empty.
    fn count_room(&self) -> usize {
        let count = (0..LOGGED).take_while(|_| self.one.try_send(&[0; 40]).is_ok()).count();
        for _ in 0..count {
            self.other.try_recv().expect("it was sent");
        }
        count
    }

    /// Returns how many short messages a small buffer takes.
    pub(super) fn fits(&self) -> usize {
        self.fits.expect("the buffer is small")
    }

    pub(super) fn check_room(&self) -> Result<(), String> {
        match self.fits {
            Some(fits) if self.count_room() != fits => {
                Err(format!("not {fits} messages find room any more"))
            }
            _ => Ok(()),
        }
    }
}
