//! An attack on each word of each primitive, with telling values. They are stored one after the
//! other and at full speed, before each operation and while something is held.

#![allow(unsafe_code)]
#![allow(dropping_copy_types, reason = "what comes of an operation is of no moment")]

use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use crossproc::{
    Barrier, BoundedSemaphore, Condition, Event, Lock, LockError, Once, Permits, RLock, RwLock,
    Semaphore, Shm, Wait, shared, try_wait_any, wait_any_timeout,
};
use crossproc_sys::memory::Mapping;

mod forked;
use forked::{fork, join_all};

shared! {
    struct Board {
        lock: Lock<u64>,
        rlock: RLock<u64>,
        rwlock: RwLock<u64, 2>,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        permits: Permits<2>,
        event: Event,
        condition: Condition,
        barrier: Barrier,
        once: Once,
    }
}

fn board() -> Shm<Board> {
    Shm::new(Board {
        lock: Lock::new(0),
        rlock: RLock::new(0),
        rwlock: RwLock::new(0),
        semaphore: Semaphore::new(1),
        bounded: BoundedSemaphore::new(1),
        permits: Permits::new(),
        event: Event::new(),
        condition: Condition::new(),
        barrier: Barrier::new(2),
        once: Once::new(),
    })
    .unwrap()
}

/// The words of a board, as a peer sees them.
struct Words(Mapping);

impl Words {
    fn of(board: &Shm<Board>) -> Self {
        Words(Mapping::new(board.as_fd(), 4096 + size_of::<Board>()).unwrap())
    }

    fn at(&self, offset: usize) -> &AtomicU32 {
        assert!(offset < size_of::<Board>() && offset % 4 == 0);
        // SAFETY: inside the mapping.
        let at = unsafe { self.0.start().add(4096 + offset) };
        // SAFETY: as above, and aligned; a peer's accesses are of any size.
        unsafe { at.cast().as_ref() }
    }
}

/// How long an operation may wait.
const SHORT: Duration = Duration::from_millis(1);
/// How long an operation may take in all, on a busy machine and with what it does besides waiting.
const SLACK: Duration = Duration::from_secs(2);

/// A primitive: its place, and what is done with it.
struct Target {
    name: &'static str,
    offset: usize,
    len: usize,
    /// The operations, which run one after the other.
    operations: &'static [fn(&Board)],
}

macro_rules! target {
    ($field:ident: $type:ty, [$($operation:expr),* $(,)?]) => {
        Target {
            name: stringify!($field),
            offset: offset_of!(Board, $field),
            len: size_of::<$type>(),
            operations: &[$($operation),*],
        }
    };
}

const TARGETS: [Target; 10] = [
    target!(lock: Lock<u64>, [
        |board| drop(board.lock.try_lock()),
        |board| {
            if let Ok(mut guard) = board.lock.lock_or_repair_timeout(SHORT, |_| ()) {
                *guard += 1;
            }
        },
        |board| drop(try_wait_any(&[&board.lock.owner_death()])),
        |board| drop(wait_any_timeout(&[&board.lock.owner_death()], SHORT)),
        |board| assert!(!board.lock.is_owned(), "nobody holds it"),
        |board| drop(format!("{:?}", board.lock)),
    ]),
    target!(rlock: RLock<u64>, [
        |board| {
            let outer = board.rlock.lock_timeout(SHORT);
            let inner = board.rlock.lock_timeout(SHORT);
            if let (Ok(_), Ok(_)) = (&outer, &inner) {
                assert_eq!(board.rlock.depth(), 2);
            }
        },
        |board| assert_eq!(board.rlock.depth(), 0, "nobody holds it"),
    ]),
    target!(rwlock: RwLock<u64, 2>, [
        |board| drop((board.rwlock.read_timeout(SHORT), board.rwlock.try_read())),
        |board| {
            if let Ok(mut guard) = board.rwlock.write_or_repair_timeout(SHORT, |_| ()) {
                *guard += 1;
            }
        },
        |board| drop(board.rwlock.try_write()),
        |board| {
            let (readers, writer) = (board.rwlock.readers(), board.rwlock.writer());
            drop(format!("{:?} {readers} {writer:?}", board.rwlock));
        },
    ]),
    target!(semaphore: Semaphore, [
        |board| drop(board.semaphore.acquire_timeout(SHORT)),
        |board| drop(board.semaphore.access_timeout(SHORT)),
        |board| drop(board.semaphore.release()),
        |board| drop(board.semaphore.release_many(u32::MAX)),
        |board| drop(wait_any_timeout(&[&board.semaphore], SHORT)),
    ]),
    target!(bounded: BoundedSemaphore, [
        |board| drop(board.bounded.acquire_timeout(SHORT)),
        |board| drop(board.bounded.access_timeout(SHORT)),
        |board| drop(board.bounded.release()),
        |board| drop(board.bounded.release_many(u32::MAX)),
        |board| drop(wait_any_timeout(&[&board.bounded], SHORT)),
    ]),
    target!(permits: Permits<2>, [
        |board| drop([(); 3].map(|()| board.permits.acquire_timeout(SHORT))),
        |board| drop((board.permits.try_acquire(), board.permits.value())),
    ]),
    target!(event: Event, [
        |board| drop(board.event.wait_timeout(SHORT)),
        |board| board.event.set(),
        |board| drop(board.event.wait_timeout(SHORT)),
        |board| board.event.clear(),
        |board| drop(wait_any_timeout(&[&board.event], SHORT)),
    ]),
    target!(condition: Condition, [
        |board| {
            let own = Lock::new(());
            let mut guard = own.lock().unwrap();
            let _ = board.condition.wait_timeout(&mut guard, SHORT);
        },
        |board| board.condition.notify(2),
        |board| board.condition.notify_all(),
    ]),
    target!(barrier: Barrier, [
        |board| {
            if let Ok(arrival) = board.barrier.arrive() {
                let _ = board.barrier.wait_for(arrival, Wait::timeout(SHORT));
            }
        },
        |board| drop(board.barrier.wait_timeout(SHORT)),
        |board| board.barrier.abort(),
        |board| board.barrier.reset(),
        |board| drop(format!("{:?}", board.barrier)),
    ]),
    target!(once: Once, [
        |board| drop(board.once.call_once_timeout(SHORT, |_| ())),
        |board| drop(board.once.try_call_once(|_| ())),
        |board| drop(board.once.is_completed()),
    ]),
];

/// Returns the values that have a meaning in some word, for a victim with this TID.
fn telling(victim: u32) -> [u32; 12] {
    [
        0,
        1,
        2,
        victim,
        victim | 0x8000_0000,
        0x3fff_ffff,
        0x4000_0000,
        0x8000_0000,
        0xc000_0000,
        0xc000_0000 | victim,
        0x7fff_ffff,
        u32::MAX,
    ]
}

fn tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

fn timed(what: &str, operation: impl FnOnce()) {
    let began = Instant::now();
    operation();
    let took = began.elapsed();
    assert!(took < SLACK, "{what} took {took:?}");
}

/// Runs the attack on each word of each primitive, in a process for each primitive.
fn attack(attack: fn(&Target, usize, &Shm<Board>, &Words)) {
    let victims = TARGETS.iter().map(|target| {
        fork(move || {
            for offset in (target.offset..target.offset + target.len).step_by(4) {
                let board = board();
                attack(target, offset, &board, &Words::of(&board));
            }
        })
    });
    for victim in victims {
        join_all([victim]);
    }
}

#[test]
fn a_word_with_any_telling_value_leads_nobody_astray() {
    attack(|target, offset, board, words| {
        for value in telling(tid()) {
            for operation in target.operations {
                words.at(offset).store(value, SeqCst);
                timed(target.name, || operation(board));
            }
        }
    });
}

#[test]
fn nor_one_that_changes_at_full_speed() {
    attack(|target, offset, board, words| {
        let (word, values, is_over) = (words.at(offset), telling(tid()), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    for value in values {
                        word.store(value, Relaxed);
                    }
                }
            });
            for _ in 0..3 {
                for operation in target.operations {
                    timed(target.name, || operation(board));
                }
            }
            is_over.store(true, Relaxed);
        });
    });
}

/// Gives each word of what the thread holds each telling value. The thread must not get a second
/// hold of it.
fn hold_and_attack<'a, G>(
    board: &'a Shm<Board>,
    words: &Words,
    (offset, len): (usize, usize),
    hold: impl Fn(&'a Board) -> G,
    is_refused: impl Fn(&'a Board) -> bool,
) {
    for offset in (offset..offset + len).step_by(4) {
        for value in telling(tid()) {
            let held = hold(board);
            let before = words.at(offset).swap(value, SeqCst);
            assert!(is_refused(board), "word {offset} with {value:#x}");
            words.at(offset).store(before, SeqCst);
            drop(held);
        }
    }
}

#[test]
fn a_thread_gets_no_second_guard_of_what_it_holds() {
    join_all([fork(|| {
        let board = board();
        let words = Words::of(&board);
        let all: &Shm<Board> = &board;
        // The first eight bytes are the word. The entry and the hints follow; the value is not
        // attacked.
        let lock = (offset_of!(Board, lock), size_of::<Lock<()>>());
        hold_and_attack(
            all,
            &words,
            lock,
            |board| board.lock.lock().unwrap(),
            |board| {
                matches!(board.lock.try_lock(), Err(LockError::Deadlock))
                    && matches!(board.lock.lock_timeout(SHORT), Err(LockError::Deadlock))
                    && board.lock.is_owned()
            },
        );
        let rwlock = (offset_of!(Board, rwlock), size_of::<RwLock<(), 2>>());
        hold_and_attack(
            all,
            &words,
            rwlock,
            |board| board.rwlock.write().unwrap(),
            |board| {
                matches!(board.rwlock.try_write(), Err(LockError::Deadlock))
                    && matches!(board.rwlock.write_timeout(SHORT), Err(LockError::Deadlock))
                    && matches!(board.rwlock.try_read(), Err(LockError::Deadlock))
                    && matches!(board.rwlock.read_timeout(SHORT), Err(LockError::Deadlock))
            },
        );
        // A reader must not write, whatever the words say of readers and writers.
        hold_and_attack(
            all,
            &words,
            rwlock,
            |board| board.rwlock.read().unwrap(),
            |board| board.rwlock.try_write().is_err() && board.rwlock.write_timeout(SHORT).is_err(),
        );
    })]);
}

#[test]
fn how_often_an_rlock_is_held_is_not_for_a_peer_to_say() {
    join_all([fork(|| {
        let board = board();
        let words = Words::of(&board);
        for offset in
            (offset_of!(Board, rlock)..offset_of!(Board, rlock) + size_of::<RLock<()>>()).step_by(4)
        {
            for value in telling(tid()) {
                let outer = board.rlock.lock().unwrap();
                let inner = board.rlock.lock().unwrap();
                let before = words.at(offset).swap(value, SeqCst);
                drop(inner);
                assert_eq!(board.rlock.depth(), 1, "word {offset} with {value:#x}");
                words.at(offset).store(before, SeqCst);
                // The owner still holds it.
                let theirs = board.clone();
                join_all([fork(move || {
                    assert!(matches!(theirs.rlock.try_lock(), Err(LockError::WouldBlock)));
                })]);
                drop(outer);
                assert_eq!(board.rlock.depth(), 0);
            }
        }
    })]);
}
