//! `RwLock`.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::hint;
use std::thread;

use crossproc::{LockError, RwLock, RwLockReadGuard, RwLockWriteGuard, Wait};

use super::{EXPIRES, WAKER_STOPPED, warm_up};
use crate::harness::{Case, End, Me, Mode, Operation, Subject};

const READERS: usize = 3;

/// A lock, and an independent account of its value.
struct Board {
    /// Both halves are equal whenever the value is whole. They are the number of sections.
    lock: RwLock<[u64; 2], READERS>,
    sections: AtomicU64,
    writers: AtomicU32,
    readers: AtomicU32,
    /// How often a process was told of a death, and has recovered.
    deaths: AtomicU32,
}

type ReadGuard<'a> = RwLockReadGuard<'a, [u64; 2], READERS>;
type WriteGuard<'a> = RwLockWriteGuard<'a, [u64; 2], READERS>;

impl Board {
    /// Reads, while no process may write.
    fn read(&self, outcome: Result<ReadGuard<'_>, LockError>) {
        let guard = match outcome {
            Ok(guard) => guard,
            // The value may be half written, and the dead process may still be counted as a writer.
            Err(LockError::OwnerDied | LockError::TimedOut | LockError::WouldBlock) => return,
            Err(error) => panic!("{error}"),
        };
        self.readers.fetch_add(1, SeqCst);
        assert_eq!(self.writers.load(SeqCst), 0, "reads while one writes");
        let first = hint::black_box(&guard)[0];
        thread::yield_now();
        let second = hint::black_box(&guard)[1];
        assert_eq!(first, second, "the value is half written and nobody said so");
        self.readers.fetch_sub(1, SeqCst);
    }

    /// Makes the value whole, which a dead writer may have left half written.
    fn repair(&self, value: &mut [u64; 2]) {
        self.deaths.fetch_add(1, SeqCst);
        self.writers.store(0, SeqCst);
        *value = [self.sections.load(SeqCst); 2];
    }

    fn acquire(&self) -> Result<WriteGuard<'_>, LockError> {
        self.lock.write_unrepaired(Wait::FOREVER)
    }

    /// Writes, alone.
    fn write(&self, outcome: Result<WriteGuard<'_>, LockError>) {
        let mut guard = match outcome {
            Ok(guard) => guard,
            Err(LockError::TimedOut | LockError::WouldBlock) => return,
            Err(error) => panic!("{error}"),
        };
        if guard.is_inconsistent() {
            self.repair(&mut guard);
            guard = guard.recover();
        }
        assert_eq!(self.writers.swap(1, SeqCst), 0, "two writers at once");
        assert_eq!(self.readers.load(SeqCst), 0, "writes while one reads");
        assert_eq!(
            *guard,
            [self.sections.load(SeqCst); 2],
            "the value was lost, or is half written and nobody said so"
        );
        guard[0] += 1;
        hint::black_box(&mut guard);
        thread::yield_now();
        guard[1] += 1;
        hint::black_box(&mut guard);
        self.sections.fetch_add(1, SeqCst);
        assert_eq!(self.readers.load(SeqCst), 0, "writes while one reads");
        self.writers.store(0, SeqCst);
    }

    /// Returns whether the thread is the writer, or waits to be it.
    fn is_writer(&self, tid: u32) -> bool {
        self.lock.writer() == Some(tid)
    }
}

/// Returns a case whose survivors read and write twice. If the victim died while it wrote, one of
/// them is told of its death. Otherwise none is.
fn case(name: &str) -> Case<Board> {
    let make = || Board {
        lock: RwLock::new([0; 2]),
        sections: AtomicU64::new(0),
        writers: AtomicU32::new(0),
        readers: AtomicU32::new(0),
        deaths: AtomicU32::new(0),
    };
    Case::new(format!("rwlock: {name}"), make)
        .survivor(|board, _| {
            for _ in 0..2 {
                board.read(board.lock.read());
                board.write(board.acquire());
            }
        })
        .may_wait(|board, now| {
            // No sleeping process has a cell, so it is the victim's.
            let reads = board.lock.readers() != 0 && board.lock.writer().is_some()
                || board.lock.readers() == READERS;
            now.is_stopped && (board.is_writer(now.victim) || reads)
        })
        .observe(|board, victim| board.is_writer(victim).into())
        .check(|board, end| check(board, end, 0..=0))
}

/// `known`: how many are told of a death before the victim's.
fn check(board: &Board, end: &End, known: core::ops::RangeInclusive<u32>) -> Result<(), String> {
    let deaths = board.deaths.load(SeqCst);
    // As the writer, the victim has begun to write when it has the guard, and has not ended before
    // it gives it back. In between, it may or may not have.
    let expected =
        match (end.was_killed && end.observed == 1, end.was_completed || end.had_not_begun) {
            _ if *known.end() != 0 => known,
            (false, _) => 0..=0,
            (true, true) => 1..=1,
            (true, false) => 0..=1,
        };
    if !expected.contains(&deaths) {
        return Err(format!(
            "{deaths} were told that a writer died, and not {expected:?}; {end:?}"
        ));
    }
    match (board.lock.writer(), board.lock.readers()) {
        (None, 0) => Ok(()),
        (writer, readers) => Err(format!("writer {writer:?} and {readers} readers at the end")),
    }
}

fn reader(board: &Board, _: &Me) {
    board.read(board.lock.read());
}

fn writer(board: &Board, _: &Me) {
    board.write(board.acquire());
}

fn later_reader(board: &Board, me: &Me) {
    me.pause();
    reader(board, me);
}

fn later_writer(board: &Board, me: &Me) {
    me.pause();
    writer(board, me);
}

/// Reads until the victim sleeps.
fn reads_on(board: &Board, me: &Me) {
    let guard = board.lock.read();
    me.pause();
    board.read(guard);
}

/// Writes until the victim sleeps.
fn writes_on(board: &Board, me: &Me) {
    let guard = board.acquire();
    me.pause();
    board.write(guard);
}

/// Dies while it writes.
fn die(board: &Board) {
    let mut guard = board.lock.write().expect("nobody died yet");
    guard[0] += 7;
    core::mem::forget(guard);
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    [reading(), writing(), ending(), expiring()].into_iter().flatten().collect()
}

/// Adds a reader that dies inside when the victim sleeps.
fn with_dying_reader(case: Case<Board>) -> Case<Board> {
    let dies = |board: &Board, operation: &Operation| {
        warm_up();
        let _guard = board.lock.read();
        operation.step(|| ());
    };
    case.dying(dies, |_| true)
}

/// Adds a writer that dies inside when the victim sleeps.
fn with_dying_writer(case: Case<Board>) -> Case<Board> {
    let dies = |board: &Board, operation: &Operation| {
        warm_up();
        let _guard = board.lock.write();
        operation.step(|| ());
    };
    case.dying(dies, |_| true).check(|board, end| check(board, end, 1..=1))
}

fn reading() -> Vec<Box<dyn Subject>> {
    let reads = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            board.read(operation.step(|| board.lock.read()));
        })
        .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    vec![
        Box::new(reads(case("read, free"))),
        Box::new(reads(case("read, 1 reads").companion(reads_on))),
        Box::new(reads(case("read, 1 writes").companion(writes_on))),
        Box::new(reads(
            case("read, 1 writes, 2 readers sleep before")
                .companion(writes_on)
                .companions(2, reader),
        )),
        Box::new(reads(
            case("read, 1 writes, 2 readers sleep behind")
                .companions(2, later_reader)
                .companion(writes_on),
        )),
        Box::new(reads(
            case("read, 1 writes, a writer and a reader sleep behind")
                .companion(later_writer)
                .companion(later_reader)
                .companion(writes_on),
        )),
        Box::new(reads(
            case("read, 1 reads and a writer sleeps").companion(reads_on).companion(writer),
        )),
        Box::new(reads(case("read, all cells taken").companions(READERS, reads_on))),
        Box::new(reads(
            case("read, all cells taken, 2 sleep behind")
                .companions(2, later_reader)
                .companions(READERS, reads_on),
        )),
        Box::new(reads(with_dying_reader(
            case("read, all cells taken, 1 of a reader that dies, 2 sleep behind")
                .companions(2, later_reader)
                .companions(2, |board, me| {
                    let guard = board.lock.read();
                    me.pause();
                    me.pause();
                    board.read(guard);
                }),
        ))),
        Box::new(
            reads(case("read, a writer died").before(die))
                .check(|board, end| check(board, end, 1..=1)),
        ),
        Box::new(reads(with_dying_writer(
            case("read, 1 writes and dies, 2 readers sleep behind").companions(2, later_reader),
        ))),
    ]
}

fn writing() -> Vec<Box<dyn Subject>> {
    let writes = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            board.write(operation.step(|| board.acquire()));
        })
        .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    vec![
        Box::new(writes(case("write, free"))),
        Box::new(case("write, change, end").victim(|board, operation| {
            warm_up();
            operation.step(|| board.write(board.acquire()));
        })),
        Box::new(writes(case("write, 1 reads").companion(reads_on))),
        Box::new(writes(case("write, 2 read").companions(2, reads_on))),
        Box::new(writes(
            case("write, 2 read, 2 readers sleep behind")
                .companions(2, later_reader)
                .companions(2, reads_on),
        )),
        Box::new(writes(case("write, 1 writes").companion(writes_on))),
        Box::new(writes(
            case("write, 1 writes, 2 readers sleep before")
                .companion(writes_on)
                .companions(2, reader),
        )),
        Box::new(writes(
            case("write, 1 writes, a reader and a writer sleep behind")
                .companion(later_reader)
                .companion(later_writer)
                .companion(writes_on),
        )),
        Box::new(writes(with_dying_reader(case("write, 1 reads and dies")))),
        Box::new(writes(with_dying_reader(
            case("write, 2 read and 1 of them dies, 2 readers sleep behind")
                .companions(2, later_reader)
                .companion(reads_on),
        ))),
        Box::new(
            writes(case("write, a writer died").before(die))
                .check(|board, end| check(board, end, 1..=1)),
        ),
        Box::new(
            writes(
                case("write, a writer died, and the next has not recovered")
                    .before(die)
                    .companion(|board, _| drop(board.lock.write())),
            )
            .check(|board, end| check(board, end, 1..=1)),
        ),
        Box::new(writes(with_dying_writer(
            case("write, 1 writes and dies, 2 readers sleep behind").companions(2, later_reader),
        ))),
    ]
}

fn ending() -> Vec<Box<dyn Subject>> {
    let ends_read = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            let guard = board.lock.read();
            operation.step(|| drop(guard));
        })
        .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    let ends_write = |case: Case<Board>| {
        case.victim(|board, operation| {
            warm_up();
            let guard = board.lock.write();
            operation.step(|| drop(guard));
        })
        .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    vec![
        Box::new(ends_read(case("end of read"))),
        Box::new(ends_read(case("end of read, a writer sleeps").companion(writer))),
        Box::new(ends_read(
            case("end of read, a writer and 2 readers sleep")
                .companion(writer)
                .companions(2, reader),
        )),
        Box::new(ends_read(
            case("end of read, another reads, a writer sleeps")
                .companion(reads_on)
                .companion(writer),
        )),
        Box::new(ends_read(
            case("end of read, all cells taken, 2 readers sleep")
                .companions(2, reads_on)
                .companions(2, reader),
        )),
        Box::new(ends_write(case("end of write"))),
        Box::new(ends_write(case("end of write, 2 readers sleep").companions(2, reader))),
        Box::new(ends_write(
            case("end of write, 2 readers and a writer sleep")
                .companions(2, reader)
                .companion(writer),
        )),
        Box::new(ends_write(
            case("end of write, a writer and 2 readers sleep")
                .companion(writer)
                .companions(2, reader),
        )),
        Box::new(
            case("recover, end of write, 2 readers sleep")
                .before(die)
                .companions(2, reader)
                .victim(|board, operation| {
                    warm_up();
                    let mut guard = board.lock.write_unrepaired(Wait::FOREVER).unwrap();
                    assert!(guard.is_inconsistent(), "a writer died");
                    *guard = [0; 2];
                    operation.step(|| drop(guard.recover()));
                })
                .known_strand(Mode::Stop, WAKER_STOPPED),
        ),
    ]
}

fn expiring() -> Vec<Box<dyn Subject>> {
    let reads = |case: Case<Board>| {
        case.expires().victim(|board, operation| {
            warm_up();
            board.read(operation.step(|| board.lock.read_timeout(EXPIRES)));
        })
    };
    let writes = |case: Case<Board>| {
        case.expires()
            .victim(|board, operation| {
                warm_up();
                board.write(operation.step(|| board.lock.write_timeout(EXPIRES)));
            })
            .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    vec![
        Box::new(reads(
            case("read_timeout, 1 writes, a reader sleeps, expires")
                .companion(writes_on)
                .companion(reader),
        )),
        Box::new(reads(
            case("read_timeout, all cells taken, a reader sleeps, expires")
                .companions(READERS, reads_on)
                .companion(reader),
        )),
        Box::new(writes(
            case("write_timeout, 1 writes, a reader sleeps, expires")
                .companion(writes_on)
                .companion(reader),
        )),
        Box::new(writes(case("write_timeout, 1 reads, expires").companion(reads_on))),
    ]
}
