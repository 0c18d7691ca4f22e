//! Ends that only one process holds, which dies.

use super::*;

/// Returns a case whose victim alone has one end of another pipe. That pipe's other end is on its
/// way over the board's pipe. One survivor runs `survivor`, and the other one does nothing.
fn case(
    name: &str,
    victim: impl Fn(&Board, &Operation) + 'static,
    survivor: impl Fn(&Board) -> u32 + 'static,
    count: impl Fn(&End, u32) -> bool + 'static,
) -> Case<Board> {
    Case::new(format!("connection: {name}"), || Board::new(true))
        .victim(victim)
        .survivor(move |board, me| {
            if me.index == 0 {
                board.rounds.store(survivor(board), SeqCst);
            }
        })
        // The end does not come before the victim's.
        .may_wait(|_, now| now.is_stopped)
        .check(move |board, end| {
            let found = board.rounds.load(SeqCst);
            if count(end, found) { Ok(()) } else { Err(format!("{found} messages; {end:?}")) }
        })
}

/// Sends an end to any process that takes it.
fn hand_on<H: crossproc::process::Handle>(board: &Board, end: H) {
    board.one.send_handle(&end).expect("there is room");
}

const WORDS: [&[u8]; 2] = [b"the first one", &[7; 5_000]];

/// Returns how many of the words arrive, whole and in order, before the end of the stream.
fn words_until_the_end(receiver: &Receiver) -> u32 {
    let mut count = 0;
    loop {
        match receiver.recv() {
            Ok(message) => assert_eq!(message[..], *WORDS[count as usize]),
            Err(ConnectionError::EndOfStream) => return count,
            Err(error) => panic!("{error:?}"),
        }
        count += 1;
    }
}

/// Sends until no process can receive it.
fn send_until_broken(sender: &Sender) -> u32 {
    for count in 0.. {
        match sender.send(WORDS[0]) {
            Ok(()) => {}
            Err(ConnectionError::BrokenPipe) => return count,
            Err(error) => panic!("{error:?}"),
        }
    }
    u32::MAX
}

fn small_simplex() -> (Sender, Receiver) {
    let (sender, receiver) = simplex().expect("there are descriptors");
    rustix::net::sockopt::set_socket_send_buffer_size(&sender, 2_304).expect("it is a socket");
    (sender, receiver)
}

pub(super) fn cases() -> Vec<Box<dyn Subject>> {
    let to_the_end =
        |board: &Board| words_until_the_end(&board.other.recv_handle().expect("a receiver"));
    let to_nobody =
        |board: &Board| send_until_broken(&board.other.recv_handle().expect("a sender"));
    let whole_or_not =
        |end: &End, found: u32| match (end.was_killed, end.had_not_begun, end.was_completed) {
            (true, true, _) => found == 0,
            (true, _, false) => found <= 2,
            _ => found == 2,
        };
    vec![
        Box::new(case(
            "send, short and by memfd, the only sender",
            |board, operation| {
                let (sender, receiver) = small_simplex();
                hand_on(board, receiver);
                operation.step(|| WORDS.map(|word| sender.send(word).expect("there is room")));
            },
            to_the_end,
            whole_or_not,
        )),
        Box::new(case(
            "recv, the only receiver",
            |board, operation| {
                let (sender, receiver) = small_simplex();
                sender.send(WORDS[1]).expect("there is room");
                hand_on(board, sender);
                assert_eq!(operation.step(|| receiver.recv()).expect("a message")[..], *WORDS[1]);
            },
            to_nobody,
            |_, _| true,
        )),
        Box::new(ended("recv, none, then the end", |board, operation| {
            let (sender, receiver) = small_simplex();
            hand_on(board, sender);
            let result = operation.step(|| receiver.recv());
            assert!(matches!(result, Err(ConnectionError::EndOfStream)), "{result:?}");
        })),
        Box::new(ended("recv_timeout, none, then the end", |board, operation| {
            let (sender, receiver) = small_simplex();
            hand_on(board, sender);
            let result = operation.step(|| receiver.recv_timeout(EXPIRES * 500));
            assert!(matches!(result, Err(ConnectionError::EndOfStream)), "{result:?}");
        })),
        Box::new(ended("send, full, then broken", |board, operation| {
            let (sender, receiver) = small_simplex();
            while sender.try_send(WORDS[0]).is_ok() {}
            hand_on(board, receiver);
            let result = operation.step(|| sender.send(WORDS[0]));
            assert!(matches!(result, Err(ConnectionError::BrokenPipe)), "{result:?}");
        })),
        Box::new(ended("send_timeout, full, then broken", |board, operation| {
            let (sender, receiver) = small_simplex();
            while sender.try_send(WORDS[0]).is_ok() {}
            hand_on(board, receiver);
            let result = operation.step(|| sender.send_timeout(WORDS[0], EXPIRES * 500));
            assert!(matches!(result, Err(ConnectionError::BrokenPipe)), "{result:?}");
        })),
    ]
}

/// Returns a case whose companion has the other end of the victim's, and ends when the victim
/// sleeps.
fn ended(name: &str, victim: impl Fn(&Board, &Operation) + 'static) -> Case<Board> {
    super::case(name, Buffer::Small, nothing, Effect::Nothing, Leaves::Message)
        .victim(victim)
        .companion(|board, me| {
            let end: std::os::fd::OwnedFd = board.other.recv_handle().expect("an end");
            me.pause();
            drop(end);
        })
}
