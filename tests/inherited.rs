//! Handles of every kind, given by name to a program that is started.

use std::error::Error;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use crossproc::process::{self, CommandExt, Handle, HandleError, InheritError};
use crossproc::{
    ByteQueue, Connection, ConnectionError, Event, JoinableQueue, Lock, Queue, Receiver,
    RegionError, Sender, Shm, pipe, shared, simplex,
};

mod forked;
use forked::{PATIENCE, wait_until};

const ROLE: &str = "CROSSPROC_TEST_ROLE";

/// Returns a command that runs this program again, with only the test of this name.
fn this_program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, "1").stdout(Stdio::null());
    command
}

fn is_started() -> bool {
    std::env::var_os(ROLE).is_some()
}

fn ends_well(mut command: Command) {
    let child = command.start().unwrap();
    // This closes the command's descriptors of the pipes' other ends.
    drop(command);
    assert!(child.join_timeout(PATIENCE).unwrap().success());
}

shared! {
    struct Board {
        hits: Lock<u64>,
        done: Event,
    }
}

#[test]
fn every_kind_of_handle_is_inherited_and_used() {
    let board = Shm::new(Board { hits: Lock::new(0), done: Event::new() }).unwrap();
    let row: Shm<[Lock<u64>]> = Shm::from_fn(5, |index| Lock::new(index as u64)).unwrap();
    let numbers: Queue<u64> = Queue::new(4).unwrap();
    let bytes = ByteQueue::with_max_len(4, 100).unwrap();
    let tasks: JoinableQueue<u64> = JoinableQueue::new(4).unwrap();
    let (connection, theirs) = pipe().unwrap();
    let (to_us, ours) = simplex().unwrap();
    let (mine, from_me) = simplex().unwrap();
    let mut file = std::fs::File::from(
        rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
    );
    let mut command = this_program("role_that_uses_every_kind");
    command
        .share("board", &board)
        .unwrap()
        .share("row", &row)
        .unwrap()
        .share("numbers", &numbers)
        .unwrap();
    command
        .share("bytes", &bytes)
        .unwrap()
        .share("tasks", &tasks)
        .unwrap()
        .share("connection", &theirs)
        .unwrap();
    command.share("sender", &to_us).unwrap().share("receiver", &from_me).unwrap();
    command.share("file", &OwnedFd::from(file.try_clone().unwrap())).unwrap();
    drop((theirs, to_us, from_me));
    numbers.put(20).unwrap();
    bytes.put(b"to a program").unwrap();
    tasks.put(7).unwrap();
    connection.send(b"question").unwrap();
    mine.send(b"one way").unwrap();
    ends_well(command);
    assert!(
        board.done.is_set() && *board.hits.lock().unwrap() == 1 && *row[4].lock().unwrap() == 40
    );
    assert_eq!(numbers.try_get().unwrap(), 21);
    assert_eq!(bytes.try_get().unwrap()[..], b"from a program"[..]);
    tasks.join_timeout(PATIENCE).unwrap();
    assert_eq!(connection.recv_timeout(PATIENCE).unwrap(), b"answer");
    assert_eq!(connection.recv_handle_timeout::<Queue<u64>>(PATIENCE).unwrap().capacity(), 4);
    assert!(
        matches!(connection.recv_timeout(PATIENCE), Err(ConnectionError::EndOfStream)),
        "nobody kept the other end"
    );
    assert_eq!(ours.recv_timeout(PATIENCE).unwrap(), b"the other way");
    // A program that another test starts also has a copy of that end until it begins.
    wait_until("nobody has the other end", || {
        matches!(mine.try_send(b"more"), Err(ConnectionError::BrokenPipe))
    });
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "written");
}

/// Not a test by itself.
#[test]
fn role_that_uses_every_kind() {
    if !is_started() {
        return;
    }
    let board: Shm<Board> = process::inherited("board").unwrap();
    let row: Shm<[Lock<u64>]> = process::inherited("row").unwrap();
    let numbers: Queue<u64> = process::inherited("numbers").unwrap();
    let bytes: ByteQueue = process::inherited("bytes").unwrap();
    let tasks: JoinableQueue<u64> = process::inherited("tasks").unwrap();
    let connection: Connection = process::inherited("connection").unwrap();
    let (sender, receiver): (Sender, Receiver) =
        (process::inherited("sender").unwrap(), process::inherited("receiver").unwrap());
    let file: OwnedFd = process::inherited("file").unwrap();
    *board.hits.lock().unwrap() += 1;
    *row[4].lock().unwrap() *= 10;
    numbers.put(numbers.get().unwrap() + 1).unwrap();
    assert_eq!(bytes.get().unwrap()[..], b"to a program"[..]);
    bytes.put(b"from a program").unwrap();
    let task = tasks.get().unwrap();
    assert_eq!(*task, 7);
    task.done();
    assert_eq!(connection.recv().unwrap(), b"question");
    connection.send(b"answer").unwrap();
    connection.send_handle(&numbers).unwrap();
    assert_eq!(receiver.recv().unwrap(), b"one way");
    sender.send(b"the other way").unwrap();
    std::fs::File::from(file).write_all(b"written").unwrap();
    board.done.set();
}

/// A type with the same name and other contents.
mod of_another_build {
    use super::*;
    shared! {
        pub(super) struct Board {
            hits: Lock<u64>,
            done: Event,
            more: Lock<u32>,
        }
    }
}

mod of_a_third_build {
    use super::*;
    shared! {
        pub(super) struct Board {
            hits: Lock<i64>,
            done: Event,
        }
    }
}

#[test]
fn what_is_asked_for_as_something_else_is_an_error_that_names_both() {
    let board = Shm::new(Board { hits: Lock::new(0), done: Event::new() }).unwrap();
    let numbers: Queue<u64> = Queue::new(4).unwrap();
    let tasks: JoinableQueue<u64> = JoinableQueue::new(4).unwrap();
    let (connection, _) = pipe().unwrap();
    let (sender, receiver) = simplex().unwrap();
    let file = OwnedFd::from(std::fs::File::open("/").unwrap());
    let mut command = this_program("role_that_asks_for_something_else");
    command
        .share("board", &board)
        .unwrap()
        .share("numbers", &numbers)
        .unwrap()
        .share("tasks", &tasks)
        .unwrap();
    command
        .share("connection", &connection)
        .unwrap()
        .share("sender", &sender)
        .unwrap()
        .share("receiver", &receiver)
        .unwrap();
    command.share("file", &file).unwrap();
    ends_well(command);
}

/// Asks for a handle as `H`. Returns the error, and its text with those of its sources.
fn error_of<H: Handle>(name: &str) -> (HandleError, String) {
    let Err(error) = process::inherited::<H>(name) else { panic!("{name} is no {}", H::kind()) };
    let mut text = format!("{error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        text += &format!(": {source}");
        cause = source.source();
    }
    let InheritError::Attach { source, .. } = error else { panic!("{text}") };
    (source, text)
}

/// Not a test by itself.
#[test]
fn role_that_asks_for_something_else() {
    if !is_started() {
        return;
    }
    let other_layout = |(error, text): (HandleError, String), found: &str, expected: &str| {
        assert!(matches!(error, HandleError::Region(RegionError::OtherLayout { .. })), "{error:?}");
        assert!(text.contains(found) && text.contains(expected), "{text}");
    };
    other_layout(
        error_of::<Shm<of_another_build::Board>>("board"),
        "inherited::Board",
        "of_another_build::Board",
    );
    other_layout(
        error_of::<Shm<of_a_third_build::Board>>("board"),
        "inherited::Board",
        "of_a_third_build::Board",
    );
    other_layout(error_of::<Shm<[Board]>>("board"), "Shm<inherited::Board>", "[inherited::Board]");
    other_layout(error_of::<Queue<u64>>("board"), "Board", "Queue<u64>");
    other_layout(error_of::<Queue<u32>>("numbers"), "Queue<u64>", "Queue<u32>");
    other_layout(error_of::<ByteQueue>("numbers"), "Queue<u64>", "Queue<[u8]>");
    other_layout(
        error_of::<JoinableQueue<u64>>("numbers"),
        "fifo::Queue<u64>",
        "JoinableQueue<u64>",
    );
    other_layout(error_of::<Queue<u64>>("tasks"), "JoinableQueue<u64>", "fifo::Queue<u64>");
    other_layout(error_of::<Shm<Event>>("numbers"), "Queue<u64>", "Event");
    let other_kind = |(error, text): (HandleError, String), found: &str, expected: &str| {
        assert!(matches!(error, HandleError::OtherKind { .. }), "{error:?}");
        assert!(
            text.contains(&format!("as a {found}"))
                && text.contains(&format!("the {expected} that")),
            "{text}"
        );
    };
    other_kind(error_of::<Sender>("connection"), "Connection", "Sender");
    other_kind(error_of::<Receiver>("sender"), "Sender", "Receiver");
    other_kind(error_of::<Connection>("receiver"), "Receiver", "Connection");
    let not_memory = error_of::<Shm<Board>>("sender");
    assert!(
        matches!(not_memory.0, HandleError::Region(RegionError::NotMemfd))
            && not_memory.1.contains("Sender"),
        "{}",
        not_memory.1
    );
    let not_a_socket = error_of::<Connection>("file");
    assert!(
        matches!(not_a_socket.0, HandleError::NotConnected { .. })
            && not_a_socket.1.contains("descriptor"),
        "{}",
        not_a_socket.1
    );
    // Nothing was spoilt.
    process::inherited::<Shm<Board>>("board").unwrap();
}

#[test]
fn a_program_of_another_version_is_told_so() {
    let board = Shm::new(Board { hits: Lock::new(0), done: Event::new() }).unwrap();
    // This is where a region's header has its version.
    rustix::io::pwrite(board.as_fd(), &77_u32.to_ne_bytes(), 8).unwrap();
    let mut command = this_program("role_of_another_version");
    command.share("board", &board).unwrap();
    ends_well(command);
}

/// Not a test by itself.
#[test]
fn role_of_another_version() {
    if !is_started() {
        return;
    }
    let (error, text) = error_of::<Shm<Board>>("board");
    assert!(
        matches!(error, HandleError::Region(RegionError::OtherAbi { found: 77, .. })),
        "{error:?}"
    );
    assert!(text.contains("ABI 77"), "{text}");
}
