//! Handles of all kinds go round and round through four processes. None is lost or left open
//! anywhere, even if processes are killed and replaced.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crossproc::process::{Child, Handle};
use crossproc::{
    ByteQueue, Connection, ConnectionError, JoinableQueue, Message, Queue, QueueOptions, Receiver,
    Sender, Shm, pipe, simplex,
};
use rustix::fs::{MemfdFlags, fstat, memfd_create};

mod forked;
use forked::{PATIENCE, fork, join_all, kill, wait_until};

const PROCESSES: usize = 4;
const KINDS: u64 = 8;
/// This is more than the number of tokens at any time.
const TOKENS: usize = 1_024;

/// Returns how many handles are received in all: `HANDOVERS`, or 10,000.
fn handovers() -> u64 {
    std::env::var("HANDOVERS")
        .map_or(10_000, |number| number.parse().expect("HANDOVERS is a number"))
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn inode(fd: impl AsFd) -> u64 {
    fstat(fd).unwrap().st_ino
}

/// A handle from which its id can be told.
enum Token {
    Word(Shm<AtomicU64>),
    Numbers(Queue<u64>),
    Bytes(ByteQueue),
    Tasks(JoinableQueue<u64>),
    Both(Connection),
    Sends(Sender),
    Receives(Receiver),
    File(File),
}

/// What is sent with a token: its id, how often it was received, and the file behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Label {
    id: u64,
    hops: u64,
    inode: u64,
}

impl Label {
    fn to_bytes(self) -> [u8; 24] {
        let words = [self.id, self.hops, self.inode].map(u64::to_ne_bytes);
        words.concat().try_into().unwrap()
    }

    fn of(bytes: &[u8]) -> Self {
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(bytes.len(), 24);
        Label { id: word(0), hops: word(8), inode: word(16) }
    }
}

/// The end that stays behind, of a token that has one.
enum Counterpart {
    Connection(Connection),
    Sender(Sender),
    Receiver(Receiver),
}

impl Counterpart {
    /// Returns whether no process has a descriptor of the token any more.
    fn is_alone(&self) -> bool {
        match self {
            Counterpart::Connection(end) => {
                matches!(end.try_recv(), Err(ConnectionError::EndOfStream))
            }
            Counterpart::Receiver(end) => {
                matches!(end.try_recv(), Err(ConnectionError::EndOfStream))
            }
            Counterpart::Sender(end) => {
                matches!(end.try_send(b"?"), Err(ConnectionError::BrokenPipe))
            }
        }
    }

    /// Checks that a token still leads here.
    fn is_reached_by(&self, token: &Token) {
        let word = b"is it you?";
        match (self, token) {
            (Counterpart::Connection(end), Token::Both(token)) => {
                token.send(word).unwrap();
                assert_eq!(end.recv_timeout(PATIENCE).unwrap(), word);
            }
            (Counterpart::Receiver(end), Token::Sends(token)) => {
                token.send(word).unwrap();
                assert_eq!(end.recv_timeout(PATIENCE).unwrap(), word);
            }
            (Counterpart::Sender(end), Token::Receives(token)) => {
                end.send(word).unwrap();
                assert_eq!(token.recv_timeout(PATIENCE).unwrap(), word);
            }
            _ => panic!("another kind came back"),
        }
    }
}

impl Token {
    /// Makes a token of the kind that belongs to an id.
    fn make(id: u64) -> (Token, Option<Counterpart>) {
        match id % KINDS {
            0 => (Token::Word(Shm::new(AtomicU64::new(id)).unwrap()), None),
            1 => {
                let queue: Queue<u64> =
                    QueueOptions::new().participants(PROCESSES * 2 + 2).create(2).unwrap();
                queue.put(id).unwrap();
                (Token::Numbers(queue), None)
            }
            2 => {
                let queue = ByteQueue::with_max_len(2, 8).unwrap();
                queue.put(&id.to_ne_bytes()).unwrap();
                (Token::Bytes(queue), None)
            }
            3 => {
                let queue: JoinableQueue<u64> = JoinableQueue::new(2).unwrap();
                queue.put(id).unwrap();
                (Token::Tasks(queue), None)
            }
            4 => {
                let (token, stays) = pipe().unwrap();
                (Token::Both(token), Some(Counterpart::Connection(stays)))
            }
            5 => {
                let (token, stays) = simplex().unwrap();
                (Token::Sends(token), Some(Counterpart::Receiver(stays)))
            }
            6 => {
                let (stays, token) = simplex().unwrap();
                (Token::Receives(token), Some(Counterpart::Sender(stays)))
            }
            _ => {
                let file = File::from(memfd_create("token", MemfdFlags::CLOEXEC).unwrap());
                file.write_all_at(&id.to_ne_bytes(), 0).unwrap();
                (Token::File(file), None)
            }
        }
    }

    fn take(message: &mut Message, id: u64) -> Token {
        fn handle<H: Handle>(message: &mut Message) -> H {
            message.take_handle().unwrap_or_else(|error| panic!("{error:?}"))
        }
        match id % KINDS {
            0 => Token::Word(handle(message)),
            1 => Token::Numbers(handle(message)),
            2 => Token::Bytes(handle(message)),
            3 => Token::Tasks(handle(message)),
            4 => Token::Both(handle(message)),
            5 => Token::Sends(handle(message)),
            6 => Token::Receives(handle(message)),
            _ => Token::File(handle::<OwnedFd>(message).into()),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Token::Word(handle) => handle.as_fd(),
            Token::Numbers(handle) => handle.as_fd(),
            Token::Bytes(handle) => handle.as_fd(),
            Token::Tasks(handle) => handle.as_fd(),
            Token::Both(handle) => handle.as_fd(),
            Token::Sends(handle) => handle.as_fd(),
            Token::Receives(handle) => handle.as_fd(),
            Token::File(handle) => handle.as_fd(),
        }
    }

    fn send(&self, to: &Connection, label: Label) {
        let bytes = label.to_bytes();
        let result = match self {
            Token::Word(handle) => to.send_both(&bytes, handle),
            Token::Numbers(handle) => to.send_both(&bytes, handle),
            Token::Bytes(handle) => to.send_both(&bytes, handle),
            Token::Tasks(handle) => to.send_both(&bytes, handle),
            Token::Both(handle) => to.send_both(&bytes, handle),
            Token::Sends(handle) => to.send_both(&bytes, handle),
            Token::Receives(handle) => to.send_both(&bytes, handle),
            Token::File(handle) => {
                to.send_both(&bytes, &handle.as_fd().try_clone_to_owned().unwrap())
            }
        };
        result.unwrap();
    }

    /// Checks that the token is the one that it was.
    fn check(&self, label: Label) {
        assert_eq!(inode(self.as_fd()), label.inode, "another file came for {label:?}");
        let id = label.id;
        match self {
            Token::Word(word) => assert_eq!(word.load(SeqCst), id),
            Token::Numbers(queue) => {
                assert_eq!(queue.try_get().unwrap(), id);
                queue.try_put(id).unwrap();
            }
            Token::Bytes(queue) => {
                assert_eq!(queue.try_get().unwrap()[..], id.to_ne_bytes());
                queue.try_put(&id.to_ne_bytes()).unwrap();
            }
            // The task is given back at once.
            Token::Tasks(queue) => assert_eq!(*queue.try_get().unwrap(), id),
            Token::Both(_) | Token::Sends(_) | Token::Receives(_) => {}
            Token::File(file) => {
                let mut found = [0; 8];
                file.read_exact_at(&mut found, 0).unwrap();
                assert_eq!(u64::from_ne_bytes(found), id);
            }
        }
    }
}

/// The connections from each process to the next, and how often each token was received.
struct Ring {
    to: Vec<Connection>,
    from: Vec<Connection>,
    hops: Shm<[AtomicU64]>,
    total: Shm<AtomicU64>,
}

impl Ring {
    fn new() -> Self {
        let (to, from) = (0..PROCESSES).map(|_| pipe().unwrap()).unzip();
        let ring = Ring {
            to,
            from,
            hops: Shm::from_fn(TOKENS, |_| AtomicU64::new(0)).unwrap(),
            total: Shm::new(AtomicU64::new(0)).unwrap(),
        };
        // From here on, what all empty messages share exists.
        ring.to[0].send(b"").unwrap();
        ring.from[0].recv().unwrap();
        ring
    }

    /// Adds a new token, which `from` is to receive.
    fn add(&self, id: u64, from: usize) -> Option<Counterpart> {
        let (token, stays) = Token::make(id);
        token.send(&self.to[from], Label { id, hops: 1, inode: inode(token.as_fd()) });
        stays
    }

    /// Receives a token and notes that. Returns `None` at the end, which is a message without
    /// bytes.
    fn receive(&self, me: usize) -> Option<(Token, Label)> {
        let mut message = self.from[me].recv_timeout(PATIENCE).unwrap();
        if message.is_empty() {
            return None;
        }
        let label = Label::of(&message);
        let before = self.hops[label.id as usize].swap(label.hops, SeqCst);
        assert_eq!(before + 1, label.hops, "{label:?} was lost on the way, or doubled");
        self.total.fetch_add(1, SeqCst);
        let token = Token::take(&mut message, label.id);
        token.check(label);
        Some((token, label))
    }

    fn pass_on(&self, me: usize, token: &Token, label: Label) {
        token.send(&self.to[(me + 1) % PROCESSES], Label { hops: label.hops + 1, ..label });
    }
}

#[test]
fn handles_go_round_a_ring_and_none_is_lost_or_left_open() {
    // Each token ends in the process that made it.
    let laps = handovers().div_ceil(PROCESSES as u64 * KINDS * PROCESSES as u64);
    join_long([fork(|| {
        let ring = Ring::new();
        let returned = Shm::new(AtomicU64::new(0)).unwrap();
        let last = laps * PROCESSES as u64;
        let all = PROCESSES as u64 * KINDS;
        let child = |me: usize| {
            let before = open_descriptors();
            let next = (me + 1) % PROCESSES;
            let stay: Vec<_> =
                (0..KINDS).map(|kind| ring.add(me as u64 * KINDS + kind, next)).collect();
            let mut mine: Vec<Token> = Vec::new();
            while let Some((token, label)) = ring.receive(me) {
                if label.hops < last {
                    ring.pass_on(me, &token, label);
                    continue;
                }
                assert_eq!(label.id / KINDS, me as u64, "it has come back");
                if let Some(stays) = &stay[(label.id % KINDS) as usize] {
                    stays.is_reached_by(&token);
                }
                mine.push(token);
                // The process that has the last token tells the others, and itself.
                if returned.fetch_add(1, SeqCst) + 1 == all {
                    ring.to.iter().for_each(|to| to.send(b"").unwrap());
                }
            }
            assert_eq!(mine.len() as u64, KINDS);
            drop(mine);
            assert!(
                stay.iter().flatten().all(Counterpart::is_alone),
                "somebody has a descriptor of what was handed on"
            );
            drop(stay);
            assert_eq!(open_descriptors(), before, "descriptors leak");
        };
        let child = &child;
        let children: Vec<Child> = (0..PROCESSES).map(|me| fork(move || child(me))).collect();
        join_long(children);
        assert_eq!(ring.total.load(SeqCst), all * last);
        println!("{} handles received", all * last);
    })]);
}

/// Joins the children as `join_all` does, however long they go on.
fn join_long(children: impl IntoIterator<Item = Child>) {
    for child in children {
        let status = child.join().unwrap();
        assert!(status.success(), "a child ended with {status}");
    }
}

#[test]
fn the_death_of_one_loses_what_it_had_in_hand_and_no_more() {
    const TOKENS_AT_FIRST: u64 = 3 * KINDS;
    join_long([fork(|| {
        // The first ring and the first child open what stays open.
        drop(Ring::new());
        join_all([fork(|| ())]);
        let before = open_descriptors();
        let ring = Ring::new();
        let handovers = handovers();
        let kills = (handovers / 250).min(TOKENS as u64 - TOKENS_AT_FIRST);
        let mut stay: Vec<Option<Counterpart>> =
            (0..TOKENS_AT_FIRST).map(|id| ring.add(id, id as usize % PROCESSES)).collect();
        let worker = |me: usize| {
            let ring = &ring;
            fork(move || {
                let before = open_descriptors();
                while let Some((token, label)) = ring.receive(me) {
                    ring.pass_on(me, &token, label);
                }
                assert_eq!(open_descriptors(), before, "descriptors leak");
            })
        };
        let mut workers: Vec<Child> = (0..PROCESSES).map(worker).collect();
        for round in 0..kills {
            let goal = handovers * round / kills;
            wait_until("tokens go round", || ring.total.load(SeqCst) >= goal);
            let unlucky = fastrand::usize(..PROCESSES);
            kill(&workers[unlucky]);
            workers[unlucky] = worker(unlucky);
            // Replaces the token that may be lost.
            stay.push(ring.add(TOKENS_AT_FIRST + round, unlucky));
        }
        wait_until("tokens go round", || ring.total.load(SeqCst) >= handovers);
        ring.to.iter().for_each(|to| to.send(b"").unwrap());
        join_all(workers);
        let mut is_there = vec![false; stay.len()];
        for me in 0..PROCESSES {
            while ring.from[me].poll().unwrap() {
                let (token, label) = ring.receive(me).unwrap();
                assert!(
                    !core::mem::replace(&mut is_there[label.id as usize], true),
                    "{label:?} is there twice"
                );
                if let Some(stays) = &stay[label.id as usize] {
                    stays.is_reached_by(&token);
                }
            }
        }
        let lost = is_there.iter().filter(|&&is_there| !is_there).count() as u64;
        assert!(lost <= kills, "{lost} tokens are lost, {kills} processes died");
        assert!(
            stay.iter().flatten().all(Counterpart::is_alone),
            "somebody has a descriptor of what is gone"
        );
        println!(
            "{} handles received, {kills} processes killed, {lost} handles gone with them",
            ring.total.load(SeqCst)
        );
        drop((stay, ring));
        assert_eq!(open_descriptors(), before, "descriptors leak");
    })]);
}
