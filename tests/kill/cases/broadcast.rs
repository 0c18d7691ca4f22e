//! `Broadcast`, for two items.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use core::time::Duration;
use std::collections::BTreeMap;

use crossproc::{
    Broadcast, BroadcastOptions, QueueError, SlowSubscribers, Subscriber, try_wait_any,
};

use super::{WAKER_STOPPED, warm_up};
use crate::harness::{Case, End, Fate, Me, Mode, Operation, Subject};

/// The senders. An item consists of its sender and its number among that sender's items.
const BEFORE: usize = 0;
const VICTIM: usize = 1;
const PEER: usize = 2;
const COMPANION: usize = 3;
const SURVIVOR: usize = 6;
const JUDGE: usize = 8;
const ALL: usize = 9;

const LOGGED: usize = 512;
const CAPACITY: usize = 2;
/// The most rounds without an end: more are no progress.
const MOST_ROUNDS: usize = 1_000;

/// They are marked at the first look.
const AT_ONCE: SlowSubscribers = SlowSubscribers::Expel(Duration::ZERO);

/// The broadcast, and an account of it.
struct Board {
    broadcast: Broadcast<u64>,
    slow: SlowSubscribers,
    /// How many items each sender has begun to send, and has sent.
    begun: [AtomicU64; ALL],
    sent: [AtomicU64; ALL],
    /// The stream and the item of each receive. A stream is what one subscriber got in a row.
    got: [AtomicU64; LOGGED],
    logged: AtomicUsize,
    streams: AtomicU64,
    /// How many companions wait for room, or for an item after `newest`.
    senders: AtomicU32,
    receivers: AtomicU32,
    newest: AtomicU64,
    /// The victim's item that it has sent once its operation is complete; 0 if it need not be.
    victims: AtomicU64,
}

/// A subscriber and its stream.
struct Reader {
    subscriber: Subscriber<u64>,
    stream: u64,
}

impl Board {
    fn new(slow: SlowSubscribers) -> Self {
        let options = BroadcastOptions::new().participants(24).slow_subscribers(slow);
        Board {
            broadcast: options.create(CAPACITY).expect("there is memory"),
            slow,
            begun: [const { AtomicU64::new(0) }; ALL],
            sent: [const { AtomicU64::new(0) }; ALL],
            got: [const { AtomicU64::new(0) }; LOGGED],
            logged: AtomicUsize::new(0),
            streams: AtomicU64::new(0),
            senders: AtomicU32::new(0),
            receivers: AtomicU32::new(0),
            newest: AtomicU64::new(0),
            victims: AtomicU64::new(0),
        }
    }

    fn begin(&self, who: usize) -> u64 {
        (who as u64) << 16 | (self.begun[who].fetch_add(1, SeqCst) + 1)
    }

    fn note_sent(&self, who: usize) {
        self.sent[who].fetch_add(1, SeqCst);
    }

    fn send(&self, who: usize) {
        let item = self.begin(who);
        self.broadcast.send(item).expect("it is open");
        self.note_sent(who);
    }

    /// Sends an item if there is room.
    fn try_send(&self, who: usize) -> bool {
        let item = self.begin(who);
        let result = self.broadcast.try_send(item).map_err(|refused| refused.error);
        match result {
            Ok(()) => self.note_sent(who),
            Err(QueueError::Full | QueueError::Closed) => {}
            Err(error) => panic!("{error}"),
        }
        result.is_ok()
    }

    fn reader(&self, subscriber: Result<Subscriber<u64>, QueueError>) -> Option<Reader> {
        match subscriber {
            Ok(subscriber) => {
                Some(Reader { subscriber, stream: self.streams.fetch_add(1, SeqCst) + 1 })
            }
            Err(QueueError::Expelled) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn newcomer(&self) -> Reader {
        self.reader(self.broadcast.subscribe()).expect("nobody sends")
    }

    /// Notes what a reader got. Returns whether there may be more.
    fn note(&self, reader: &mut Reader, result: Result<u64, QueueError>) -> bool {
        match result {
            Ok(item) => {
                let at = self.logged.fetch_add(1, SeqCst);
                self.got[at].store(reader.stream << 32 | item, SeqCst);
                true
            }
            Err(QueueError::Lagged { missed }) => {
                assert!(missed > 0);
                reader.stream = self.streams.fetch_add(1, SeqCst) + 1;
                true
            }
            Err(QueueError::Empty | QueueError::Closed | QueueError::Expelled) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn drain(&self, reader: &mut Reader) {
        for _ in 0..MOST_ROUNDS {
            let result = reader.subscriber.try_recv();
            if !self.note(reader, result) {
                return;
            }
        }
        panic!("there is no end");
    }

    /// Returns the last item that was sent.
    fn last(&self) -> u64 {
        let mut last = 0;
        let mut subscriber = self.broadcast.subscribe_from_oldest().expect("nobody sends");
        while let Ok(item) = subscriber.try_recv() {
            last = item;
        }
        last
    }

    /// Whether the companions that sleep have a reason.
    fn may_wait(&self) -> bool {
        let is_full = || try_wait_any(&[&self.broadcast.room()]).is_err();
        let is_closed = self.broadcast.is_closed();
        let may_senders = self.senders.load(SeqCst) == 0 || (!is_closed && is_full());
        let is_empty = || self.last() == self.newest.load(SeqCst);
        may_senders && (self.receivers.load(SeqCst) == 0 || (!is_closed && is_empty()))
    }
}

fn survive(board: &Board, me: &Me) {
    let who = SURVIVOR + me.index;
    let mut reader = board.reader(board.broadcast.subscribe_from_oldest());
    for _ in 0..4 {
        if let Some(reader) = &mut reader {
            board.drain(reader);
        }
        board.try_send(who);
    }
    if let Some(mut reader) = reader {
        board.drain(&mut reader);
    }
    // For those that still sleep.
    board.try_send(who);
}

/// Returns a case that begins with so many items.
fn case(name: &str, slow: SlowSubscribers, items: usize) -> Case<Board> {
    let policy = match slow {
        SlowSubscribers::Wait => "wait",
        SlowSubscribers::Lag => "lag",
        _ => "expel",
    };
    Case::new(format!("broadcast: {policy}, {name}, {items}"), move || Board::new(slow))
        .before(move |board| {
            for _ in 0..items {
                board.send(BEFORE);
            }
            board.newest.store(board.last(), SeqCst);
        })
        .survivor(survive)
        .may_wait(|board, _| board.may_wait())
        .check(check)
}

fn check(board: &Board, end: &End) -> Result<(), String> {
    board.drain(&mut board.reader(board.broadcast.subscribe_from_oldest()).expect("nobody sends"));
    let mut streams = BTreeMap::<u64, Vec<u64>>::new();
    for logged in &board.got[..board.logged.load(SeqCst)] {
        let logged = logged.load(SeqCst);
        streams.entry(logged >> 32).or_default().push(logged & 0xffff_ffff);
    }
    let streams: Vec<_> = streams.into_values().collect();
    for one in &streams {
        for other in &streams {
            agree(one, other)?;
        }
    }
    // Each item is whole: it was begun, and those that were not sent were not got, but for the one
    // of which its dead sender could not learn.
    for who in 0..ALL {
        let (begun, sent) = (board.begun[who].load(SeqCst), board.sent[who].load(SeqCst));
        let got = streams.iter().flatten().filter(|&&item| item >> 16 == who as u64);
        let got: std::collections::BTreeSet<_> = got.collect();
        if got.iter().any(|&&item| item & 0xffff > begun) {
            return Err(format!("{who} has not begun all of {got:x?}"));
        }
        let may_know_less = end.was_killed && who == VICTIM || who == PEER;
        if got.len() as u64 > sent + u64::from(may_know_less) {
            return Err(format!("{who} has sent {sent}, not {got:x?}; {end:?}"));
        }
    }
    // Survivors get what was sent before they came, or this did.
    let victims = board.victims.load(SeqCst);
    let is_sent = victims != 0 && (end.was_completed || !end.was_killed);
    let is_got = streams.iter().any(|stream| stream.contains(&victims));
    if board.slow == SlowSubscribers::Wait && is_sent && !is_got {
        return Err(format!("nobody got {victims:x} of {streams:x?}; {end:?}"));
    }
    if board.broadcast.is_closed() {
        return Ok(());
    }
    // Nobody is left who holds up others.
    if board.broadcast.subscribers() != 0 {
        return Err(format!("{} subscribers are left", board.broadcast.subscribers()));
    }
    let mut reader = board.newcomer();
    for _ in 0..2 * CAPACITY {
        if !board.try_send(JUDGE) {
            return Err("there is no room".into());
        }
        board.drain(&mut reader);
    }
    Ok(())
}

/// Two streams are parts of one: what they have in common, they have in the same order, with
/// nothing between.
fn agree(one: &[u64], other: &[u64]) -> Result<(), String> {
    let Some(from) = one.iter().position(|item| other.contains(item)) else { return Ok(()) };
    let rest = one[from..].iter();
    let also = other.iter().skip_while(|item| **item != one[from]);
    let common = one.iter().filter(|item| other.contains(item)).count();
    let in_a_row = rest.zip(also).take_while(|(one, other)| one == other).count();
    if common == in_a_row { Ok(()) } else { Err(format!("{one:x?}, but {other:x?}")) }
}

type Operate = fn(&Board, &Operation);

/// Returns the case with a victim that sends. It has sent one item before.
fn sending(case: Case<Board>, operate: Operate) -> Case<Board> {
    case.victim(move |board, operation| {
        warm_up();
        board.send(VICTIM);
        board.newest.store((VICTIM as u64) << 16 | 1, SeqCst);
        operate(board, operation);
    })
}

type Read = fn(&Board, Reader, &Operation);

/// Returns the case with a victim that has subscribed.
fn reading(case: Case<Board>, read: Read) -> Case<Board> {
    case.victim(move |board, operation| {
        warm_up();
        let reader = board.newcomer();
        read(board, reader, operation);
    })
}

fn send(board: &Board, operation: &Operation) {
    let item = board.begin(VICTIM);
    board.victims.store(item, SeqCst);
    operation.step(|| board.broadcast.send(item)).expect("it is open");
    board.note_sent(VICTIM);
}

fn try_send(board: &Board, operation: &Operation) {
    let item = board.begin(VICTIM);
    if operation.step(|| board.broadcast.try_send(item)).is_ok() {
        board.note_sent(VICTIM);
    }
}

/// The item that a peer sends.
const OF_PEER: u64 = (PEER as u64) << 16 | 1;

fn peer(board: &Board, operation: &Operation) {
    warm_up();
    let item = board.begin(PEER);
    if operation.step(|| board.broadcast.try_send(item)).is_ok() {
        board.note_sent(PEER);
    }
}

fn close(board: &Board, operation: &Operation) {
    operation.step(|| board.broadcast.close()).expect("it is a participant");
}

fn try_recv(board: &Board, mut reader: Reader, operation: &Operation) {
    let result = operation.step(|| reader.subscriber.try_recv());
    board.note(&mut reader, result);
}

fn recv(board: &Board, mut reader: Reader, operation: &Operation) {
    let result = operation.step(|| reader.subscriber.recv());
    board.note(&mut reader, result);
}

fn view(board: &Board, mut reader: Reader, operation: &Operation) {
    operation.begin();
    let result = reader.subscriber.try_view().map(|view| *view);
    operation.end();
    board.note(&mut reader, result);
}

fn leave(_: &Board, reader: Reader, operation: &Operation) {
    operation.step(|| drop(reader));
}

fn subscribe(board: &Board, operation: &Operation) {
    if let Some(mut reader) = board.reader(operation.step(|| board.broadcast.subscribe())) {
        board.drain(&mut reader);
    }
}

fn subscribe_from_oldest(board: &Board, operation: &Operation) {
    let subscriber = operation.step(|| board.broadcast.subscribe_from_oldest());
    if let Some(mut reader) = board.reader(subscriber) {
        board.drain(&mut reader);
    }
}

/// A companion that receives what comes next.
fn receiver(board: &Board, _: &Me) {
    let mut reader = board.newcomer();
    board.receivers.fetch_add(1, SeqCst);
    let result = reader.subscriber.recv();
    board.receivers.fetch_sub(1, SeqCst);
    board.note(&mut reader, result);
}

/// A companion that sends, until there is no room.
fn sender(board: &Board, me: &Me) {
    let who = COMPANION + me.index;
    while board.try_send(who) {}
    let item = board.begin(who);
    board.senders.fetch_add(1, SeqCst);
    let sent = board.broadcast.send(item);
    board.senders.fetch_sub(1, SeqCst);
    if sent.is_ok() {
        board.note_sent(who);
    }
}

/// A companion that has subscribed and leaves no room. It reads once the victim sleeps or has
/// ended.
fn in_the_way(board: &Board, me: &Me) {
    let mut reader = board.newcomer();
    for _ in 0..CAPACITY {
        board.send(COMPANION + me.index);
    }
    me.pause();
    board.drain(&mut reader);
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    let wait = SlowSubscribers::Wait;
    let lag = SlowSubscribers::Lag;
    let mut cases: Vec<Case<Board>> = Vec::new();
    for slow in [wait, lag, AT_ONCE] {
        cases.push(sending(case("send", slow, 1), send));
        cases.push(reading(case("try_recv", slow, 1), try_recv).companion(|board, _| {
            board.try_send(COMPANION);
        }));
        cases.push(case("subscribe", slow, 2).victim(subscribe_alone(subscribe)));
        cases.push(
            case("subscribe_from_oldest", slow, 2).victim(subscribe_alone(subscribe_from_oldest)),
        );
        cases.push(
            sending(case("send, 2 sleep", slow, 1), send)
                .companions(2, receiver)
                .known_strand(Mode::Stop, WAKER_STOPPED),
        );
        cases.push(
            sending(case("close, 2 sleep", slow, 1), close)
                .companions(2, receiver)
                .known_strand(Mode::Stop, WAKER_STOPPED),
        );
        cases.push(reading(case("recv, sleeps", slow, 1), recv).companion(|board, me| {
            me.pause();
            board.send(COMPANION);
        }));
    }
    // The victim is in the way of senders that sleep.
    for (name, read) in [("recv", recv as Read), ("view, drop", view), ("drop", leave)] {
        let name = format!("{name}, 1 waits for room");
        cases.push(
            reading(case(&name, wait, 1), read)
                .companions(1, sender)
                .known_strand(Mode::Stop, WAKER_STOPPED),
        );
    }
    cases.push(
        reading(case("recv, 2 wait for room", wait, 1), recv)
            .companions(2, sender)
            .known_strand(Mode::Stop, WAKER_STOPPED),
    );
    cases.push(
        reading(case("drop, 2 wait for room", wait, 1), leave)
            .companions(2, sender)
            .known_strand(Mode::Stop, WAKER_STOPPED),
    );
    // A companion is in the way.
    cases.push(sending(case("send, sleeps", wait, 1), send).companion(in_the_way));
    cases.push(sending(case("try_send, full", wait, 1), try_send).companion(in_the_way));
    cases.push(sending(case("send, expels", AT_ONCE, 1), send).companion(in_the_way));
    cases.push(
        sending(case("close, 1 waits for room", wait, 1), close)
            .companion(in_the_way)
            .companion(sender)
            .known_strand(Mode::Stop, WAKER_STOPPED),
    );
    // The victim is told that it has missed something, or is out.
    for slow in [lag, AT_ONCE] {
        cases.push(reading(case("try_recv, too late", slow, 1), try_recv).companion(|board, _| {
            for _ in 0..=CAPACITY {
                board.send(COMPANION);
            }
        }));
    }
    // A peer has sent, and has not got further.
    for fate in [Fate::Dies, Fate::Stops] {
        let does = if fate == Fate::Dies { "died" } else { "stopped" };
        let beside = |case: Case<Board>| case.peer(fate, peer, |board| board.last() == OF_PEER);
        let name = |operation: &str| format!("{operation}, a sender {does}");
        for slow in [wait, lag, AT_ONCE] {
            cases.push(beside(sending(case(&name("send"), slow, 1), send)));
            cases.push(beside(reading(case(&name("try_recv"), slow, 1), try_recv)));
            let newcomer = case(&name("subscribe_from_oldest"), slow, 1);
            cases.push(beside(newcomer.victim(subscribe_alone(subscribe_from_oldest))));
        }
    }
    cases.into_iter().map(|case| Box::new(case) as Box<dyn Subject>).collect()
}

fn subscribe_alone(operate: Operate) -> impl Fn(&Board, &Operation) {
    move |board, operation| {
        warm_up();
        operate(board, operation);
    }
}
