//! `Connection`.

use core::sync::atomic::Ordering::SeqCst;
use std::thread;

use crossproc::{Connection, ConnectionError, Message, Receiver, Sender, simplex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::board::{BEFORE, Board, COMPANION, SURVIVOR, Shape, VICTIM};
use super::EXPIRES;
use crate::harness::{Case, End, Me, Operation, Subject};

mod board;
mod ends;

/// The most rounds without an end: more are no progress.
const MOST_ROUNDS: usize = 10_000;

/// What the operation under test does if it comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Sends,
    Takes,
    Nothing,
}

/// What the survivors leave for the processes that still sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// A message: each process that receives one sends one.
    Message,
    Room,
}

/// The size of the sockets' buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Buffer {
    /// As the crate sets it.
    Usual,
    /// A few short messages fill it, and a page is sent by memfd.
    Small,
}

/// Returns a case that begins with what `before` sends.
fn case(
    name: &str,
    buffer: Buffer,
    before: impl Fn(&Board) + 'static,
    effect: Effect,
    leaves: Leaves,
) -> Case<Board> {
    Case::new(format!("connection: {name}"), move || Board::new(buffer == Buffer::Small))
        .before(before)
        .survivor(move |board, me| {
            let who = SURVIVOR + me.index;
            let open = open_descriptors();
            go_round(board, who);
            assert_eq!(open_descriptors(), open, "descriptors leak");
            board.rounds.fetch_add(1, SeqCst);
            if me.index == 0 {
                while board.rounds.load(SeqCst) < 2 {
                    thread::yield_now();
                }
                match leaves {
                    Leaves::Message => drop(board.try_send(who, Shape::Short)),
                    // And a message, for a victim that receives.
                    Leaves::Room => {
                        while board.try_recv(who) {}
                        board.try_send(who, Shape::Short);
                    }
                }
            }
        })
        .may_wait(move |board, _| match leaves {
            Leaves::Message => !board.other.poll().expect("there is memory"),
            Leaves::Room => !has_room(&board.one),
        })
        .check(move |board, end| check(board, end, effect))
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("there is /proc").count()
}

/// Returns whether a process that waits for room is woken.
fn has_room(end: &Connection) -> bool {
    let mut ends = [PollFd::new(end, PollFlags::OUT)];
    poll(&mut ends, Some(&Timespec::default())).expect("there is memory") == 1
}

/// Sends and receives some messages, if no other process is faster. The others may have died, or be
/// stopped, anywhere: this does not wait for them.
fn go_round(board: &Board, who: usize) {
    let (mut sent, mut received) = (0, 0);
    for _ in 0..MOST_ROUNDS {
        sent +=
            usize::from(board.try_send(who, if sent == 2 { Shape::Handle } else { Shape::Short }));
        received += usize::from(board.try_recv(who));
        if sent >= 5 && received >= 5 {
            return;
        }
    }
    panic!("no progress: {sent} sent, {received} received");
}

/// Checks that no message of the living is lost, doubled, mixed or out of order. The operation
/// under test was done as a whole or not at all, and there is as much room as ever.
fn check(board: &Board, end: &End, effect: Effect) -> Result<(), String> {
    board.drain_at_end();
    let (victims, missing) = board.account()?;
    let of_victim = |what: &str, count: usize, is_effect: bool| {
        let is_right = match (is_effect && end.was_killed, end.had_not_begun, end.was_completed) {
            (false, ..) => true,
            (_, true, _) => count == 0,
            (.., true) => count == 1,
            _ => count <= 1,
        };
        if is_right { Ok(()) } else { Err(format!("{count} messages {what}; {end:?}")) }
    };
    of_victim("of the victim's", victims, effect == Effect::Sends)?;
    of_victim("are missing", missing, effect == Effect::Takes)?;
    if missing != 0 && !(effect == Effect::Takes && end.was_killed) {
        return Err(format!("{missing} messages are missing; {end:?}"));
    }
    board.check_room()
}

// The operations of victims. After receiving, they help the processes that still sleep, as these
// help each other.

type Operate = fn(&Board, &Operation);

fn sending(
    board: &Board,
    operation: &Operation,
    shape: Shape,
    send: impl FnOnce(&[u8]) -> Result<(), ConnectionError>,
) {
    let message = board.message(VICTIM, shape);
    let result = operation.step(|| send(&message));
    board.after_send(VICTIM, result);
}

fn receiving(
    board: &Board,
    operation: &Operation,
    receive: impl FnOnce() -> Result<Message, ConnectionError>,
) {
    // Ensures that what a thread keeps for receiving is there.
    assert!(matches!(board.one.try_recv(), Err(ConnectionError::WouldBlock)));
    let result = operation.step(receive);
    if board.after_recv(VICTIM, result) {
        board.try_send(VICTIM, Shape::Short);
    }
}

fn receiving_into<const N: usize>(board: &Board, operation: &Operation) {
    assert!(matches!(board.one.try_recv(), Err(ConnectionError::WouldBlock)));
    let mut buffer = [0; N];
    match operation.step(|| board.other.recv_into(&mut buffer)) {
        Ok(len) => board.note(VICTIM, &buffer[..len], false),
        Err(
            ConnectionError::TooShort { message, .. }
            | ConnectionError::UnexpectedHandle { message },
        ) => {
            board.after_recv(VICTIM, Ok(*message));
        }
        Err(error) => panic!("{error}"),
    }
}

fn send<const SHAPE: usize>(board: &Board, operation: &Operation) {
    let shape = Shape::ALL[SHAPE];
    sending(board, operation, shape, |message| board.send_as(message, shape));
}

fn recv(board: &Board, operation: &Operation) {
    receiving(board, operation, || board.other.recv());
}

// The companions.

fn receiver(board: &Board, me: &Me) {
    let result = board.other.recv();
    if board.after_recv(COMPANION + me.index, result) {
        board.try_send(COMPANION + me.index, Shape::Short);
    }
}

fn later_receiver(board: &Board, me: &Me) {
    me.pause();
    receiver(board, me);
}

fn later_sender(board: &Board, me: &Me) {
    me.pause();
    board.send(COMPANION + me.index, Shape::Short);
}

/// Receives as many messages as there were, and one for each companion before it. A process that is
/// left has room then.
fn drainer(board: &Board, me: &Me) {
    me.pause();
    let mut left = board.fits() + me.index;
    while left != 0 {
        match board.try_recv(COMPANION + me.index) {
            true => left -= 1,
            false => thread::yield_now(),
        }
    }
}

fn nothing(_: &Board) {}

fn fill(board: &Board) {
    while board.try_send(BEFORE, Shape::Short) {}
}

fn one<const SHAPE: usize>(board: &Board) {
    board.send(BEFORE, Shape::ALL[SHAPE]);
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    let mut cases = senders();
    cases.extend(senders_that_wait());
    cases.extend(receivers());
    cases.extend(receivers_that_wait());
    cases.extend(ends::cases());
    cases
}

fn senders() -> Vec<Box<dyn Subject>> {
    let of = |name: &str, operate: Operate| {
        case(name, Buffer::Small, nothing, Effect::Sends, Leaves::Message).victim(operate)
    };
    let usual = |name: &str, operate: Operate| {
        case(name, Buffer::Usual, nothing, Effect::Sends, Leaves::Message).victim(operate)
    };
    vec![
        Box::new(of("send, short", send::<0>)),
        Box::new(of("send, empty", send::<1>)),
        Box::new(of("send, by memfd", send::<2>)),
        Box::new(of("send_both, short", send::<3>)),
        Box::new(of("send_both, by memfd", send::<4>)),
        Box::new(of("send_handle", send::<5>)),
        Box::new(of("send, 2,000 bytes", send::<6>)),
        Box::new(usual("send, 1 MiB + 1", send::<7>)),
        Box::new(of("send, short, 1 sleeps", send::<0>).companion(receiver)),
        Box::new(of("send, short, 3 sleep", send::<0>).companions(3, receiver)),
        Box::new(of("send, by memfd, 2 sleep", send::<2>).companions(2, receiver)),
        Box::new(
            case("try_send, full", Buffer::Small, fill, Effect::Nothing, Leaves::Message).victim(
                |board, operation| {
                    sending(board, operation, Shape::Short, |message| board.one.try_send(message));
                },
            ),
        ),
    ]
}

fn senders_that_wait() -> Vec<Box<dyn Subject>> {
    let full = |name: &str| case(name, Buffer::Small, fill, Effect::Sends, Leaves::Room);
    let in_time: Operate = |board, operation| {
        sending(board, operation, Shape::Short, |message| {
            board.one.send_timeout(message, EXPIRES * 500)
        });
    };
    vec![
        Box::new(full("send, full, then room").victim(send::<0>).companion(drainer)),
        Box::new(full("send, by memfd, full, then room").victim(send::<2>).companion(drainer)),
        Box::new(full("send_both, full, then room").victim(send::<3>).companion(drainer)),
        Box::new(
            full("send, full, then room, 2 sleep behind")
                .victim(send::<0>)
                .companions(2, later_sender)
                .companion(drainer),
        ),
        Box::new(full("send_timeout, full, then room").victim(in_time).companion(drainer)),
        Box::new(
            full("send_timeout, full, then room, 2 sleep behind")
                .victim(in_time)
                .companions(2, later_sender)
                .companion(drainer),
        ),
        Box::new(
            case("send_timeout, full, expires", Buffer::Small, fill, Effect::Nothing, Leaves::Room)
                .expires()
                .victim(|board, operation| {
                    sending(board, operation, Shape::Short, |message| {
                        board.one.send_timeout(message, EXPIRES)
                    });
                }),
        ),
    ]
}

fn receivers() -> Vec<Box<dyn Subject>> {
    let of = |name: &str, before: fn(&Board), operate: Operate| {
        case(name, Buffer::Small, before, Effect::Takes, Leaves::Message).victim(operate)
    };
    let usual = |name: &str, before: fn(&Board), operate: Operate| {
        case(name, Buffer::Usual, before, Effect::Takes, Leaves::Message).victim(operate)
    };
    vec![
        Box::new(of("recv, short", one::<0>, recv)),
        Box::new(of("recv, empty", one::<1>, recv)),
        Box::new(of("recv, by memfd", one::<2>, recv)),
        Box::new(of("recv, with a handle", one::<3>, recv)),
        Box::new(of("recv, by memfd, with a handle", one::<4>, recv)),
        Box::new(of("recv, 2,000 bytes", one::<6>, recv)),
        Box::new(usual("recv, 1 MiB + 1", one::<7>, recv)),
        Box::new(of("recv_into", one::<0>, receiving_into::<64>)),
        Box::new(of("recv_into, by memfd", one::<2>, receiving_into::<8_000>).most_points(300)),
        Box::new(of("recv_into, too short", one::<0>, receiving_into::<8>)),
        Box::new(of("recv_into, with a handle", one::<3>, receiving_into::<64>)),
        Box::new(of("recv_handle", one::<5>, |board, operation| {
            assert!(matches!(board.one.try_recv(), Err(ConnectionError::WouldBlock)));
            let result = operation.step(|| board.other.recv_handle());
            match result {
                Ok(handle) => board.after_handle(VICTIM, &handle),
                // Another process was faster.
                Err(ConnectionError::NoHandle { message }) => {
                    board.after_recv(VICTIM, Ok(*message));
                }
                Err(error) => panic!("{error:?}"),
            }
        })),
        Box::new(
            case("try_recv, none", Buffer::Small, nothing, Effect::Nothing, Leaves::Message)
                .victim(|board, operation| {
                    receiving(board, operation, || board.other.try_recv());
                }),
        ),
    ]
}

fn receivers_that_wait() -> Vec<Box<dyn Subject>> {
    let full = |name: &str| case(name, Buffer::Small, fill, Effect::Takes, Leaves::Room);
    let none = |name: &str| case(name, Buffer::Small, nothing, Effect::Takes, Leaves::Message);
    let in_time: Operate =
        |board, operation| receiving(board, operation, || board.other.recv_timeout(EXPIRES * 500));
    vec![
        Box::new(
            full("recv, full, 2 senders sleep")
                .victim(recv)
                .companions(2, |board, me| board.send(COMPANION + me.index, Shape::Short)),
        ),
        Box::new(none("recv, none, then sent").victim(recv).companion(later_sender)),
        Box::new(
            none("recv, none, then sent, 2 sleep behind")
                .victim(recv)
                .companions(2, later_receiver)
                .companion(later_sender),
        ),
        Box::new(
            none("recv, none, then sent, 2 sleep before")
                .victim(recv)
                .companions(2, receiver)
                .companion(later_sender),
        ),
        Box::new(
            none("recv_into, none, then sent").victim(receiving_into::<64>).companion(later_sender),
        ),
        Box::new(none("recv_timeout, none, then sent").victim(in_time).companion(later_sender)),
        Box::new(
            none("recv_timeout, none, then sent, 2 sleep behind")
                .victim(in_time)
                .companions(2, later_receiver)
                .companion(later_sender),
        ),
        Box::new(
            case("recv_timeout, expires", Buffer::Small, nothing, Effect::Nothing, Leaves::Message)
                .expires()
                .victim(|board, operation| {
                    receiving(board, operation, || board.other.recv_timeout(EXPIRES));
                }),
        ),
        Box::new(
            case(
                "poll_timeout, none, then sent",
                Buffer::Small,
                nothing,
                Effect::Nothing,
                Leaves::Message,
            )
            .companion(later_sender)
            .victim(|board, operation| {
                assert!(
                    operation
                        .step(|| board.other.poll_timeout(EXPIRES * 500))
                        .expect("there is memory")
                );
            }),
        ),
    ]
}
