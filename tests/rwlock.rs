//! `RwLock` between processes.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{Event, LockError, RwLock, RwLockWriteGuard, Shm, Wait, shared};

mod forked;
use forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};

shared! {
    struct Book {
        pages: RwLock<[u64; 2], 4>,
        opened: Event,
        go_on: Event,
        over: AtomicU32,
    }
}

fn book() -> Shm<Book> {
    Shm::new(Book {
        pages: RwLock::new([0; 2]),
        opened: Event::new(),
        go_on: Event::new(),
        over: AtomicU32::new(0),
    })
    .unwrap()
}

fn write(book: &Book) -> RwLockWriteGuard<'_, [u64; 2], 4> {
    book.pages.write_timeout(PATIENCE).unwrap()
}

/// Forks a process that reads until it is told to go on.
fn reader(book: &Shm<Book>) -> Child {
    let theirs = book.clone();
    book.opened.clear();
    let child = fork(move || {
        let _pages = theirs.pages.read().unwrap();
        theirs.opened.set();
        theirs.go_on.wait();
    });
    book.opened.wait();
    child
}

#[test]
fn readers_see_whole_writes_only() {
    let book = book();
    let writers = [(); 2].map(|()| {
        let book = book.clone();
        fork(move || {
            for _ in 0..3_000 {
                let mut pages = book.pages.write().unwrap();
                pages[0] += 1;
                pages[1] += 1;
            }
        })
    });
    let readers = [(); 3].map(|()| {
        let book = book.clone();
        fork(move || {
            while book.over.load(Relaxed) == 0 {
                let pages = book.pages.read().unwrap();
                assert_eq!(pages[0], pages[1]);
            }
        })
    });
    join_all(writers);
    book.over.store(1, Relaxed);
    join_all(readers);
    assert_eq!(*book.pages.read().unwrap(), [6_000; 2]);
}

#[test]
fn as_many_read_as_there_are_places_and_the_next_one_waits() {
    let book = book();
    let readers = [(); 4].map(|()| reader(&book));
    assert_eq!(book.pages.readers(), 4);
    assert!(matches!(book.pages.try_read(), Err(LockError::WouldBlock)));
    assert!(matches!(book.pages.read_timeout(Duration::from_millis(5)), Err(LockError::TimedOut)));
    let theirs = book.clone();
    let fifth = fork(move || drop(theirs.pages.read().unwrap()));
    wait_until_asleep(&fifth);
    book.go_on.set();
    join_all(readers);
    join_all([fifth]);
    assert_eq!(book.pages.readers(), 0);
}

#[test]
fn a_waiting_writer_keeps_new_readers_out() {
    let book = book();
    let reader = reader(&book);
    let theirs = book.clone();
    let writer = fork(move || write(&theirs)[0] = 1);
    wait_until_asleep(&writer);
    assert_eq!(book.pages.writer(), Some(writer.id()));
    assert!(matches!(book.pages.try_read(), Err(LockError::WouldBlock)));
    assert!(matches!(book.pages.try_write(), Err(LockError::WouldBlock)));
    let theirs = book.clone();
    let later = fork(move || assert_eq!(theirs.pages.read().unwrap()[0], 1));
    wait_until_asleep(&later);
    book.go_on.set();
    join_all([reader, writer, later]);
}

#[test]
fn a_dead_reader_blocks_nobody() {
    let book = book();
    let readers = [(); 3].map(|()| reader(&book));
    let theirs = book.clone();
    let writer = fork(move || write(&theirs)[0] = 1);
    wait_until_asleep(&writer);
    readers.iter().for_each(kill);
    join_all([writer]);
    assert_eq!(book.pages.readers(), 0);
    assert_eq!(book.pages.read().unwrap()[0], 1);
}

#[test]
fn a_dead_writer_is_told_to_readers_and_writers_until_one_recovers() {
    let book = book();
    let theirs = book.clone();
    let writer = fork(move || {
        let mut pages = write(&theirs);
        pages[0] = 1;
        theirs.opened.set();
        thread::park();
    });
    book.opened.wait();
    let waiting = [(); 2].map(|()| {
        let book = book.clone();
        let child = fork(move || {
            let pages = book.pages.read_unrepaired(Wait::FOREVER).unwrap();
            assert!(pages.is_inconsistent() && *pages == [1, 0]);
            drop(pages);
            assert_eq!(book.pages.read().map(drop), Err(LockError::OwnerDied));
        });
        wait_until_asleep(&child);
        child
    });
    kill(&writer);
    join_all(waiting);
    let pages = book.pages.read_unrepaired(Wait::FOREVER).unwrap();
    assert!(pages.is_inconsistent());
    drop(pages);
    assert_eq!(book.pages.write().map(drop), Err(LockError::OwnerDied));
    assert_eq!(book.pages.try_write().map(drop), Err(LockError::OwnerDied));
    let pages = book.pages.write_unrepaired(Wait::FOREVER).unwrap();
    assert!(pages.is_inconsistent());
    drop(pages);
    let pages = book.pages.write_unrepaired(Wait::NONE).unwrap();
    let mut pages = pages.recover();
    assert!(!pages.is_inconsistent());
    pages[1] = 1;
    drop(pages);
    let pages = book.pages.read().unwrap();
    assert!(*pages == [1, 1] && !pages.is_inconsistent());
    drop(pages);
    assert!(!book.pages.try_write().unwrap().is_inconsistent());
}

#[test]
fn a_writer_that_dies_waiting_has_changed_nothing() {
    let book = book();
    let reader = reader(&book);
    let theirs = book.clone();
    let writer = fork(move || write(&theirs)[0] = 1);
    wait_until_asleep(&writer);
    let theirs = book.clone();
    let next = fork(move || write(&theirs)[1] = 2);
    wait_until_asleep(&next);
    kill(&writer);
    book.go_on.set();
    join_all([reader, next]);
    assert_eq!(*book.pages.read().unwrap(), [0, 2]);
}

/// For a dead reader the kernel wakes one waiter: the writer. It must pass the wake-up on to the
/// reader that waits for a place.
#[test]
fn a_writer_passes_a_dead_readers_wake_up_on() {
    shared! {
        struct Single {
            pages: RwLock<u64, 1>,
            opened: Event,
        }
    }
    let book = Shm::new(Single { pages: RwLock::new(0), opened: Event::new() }).unwrap();
    let theirs = book.clone();
    let reader = fork(move || {
        let _pages = theirs.pages.read().unwrap();
        theirs.opened.set();
        thread::park();
    });
    book.opened.wait();
    let theirs = book.clone();
    let second = fork(move || drop(theirs.pages.read().unwrap()));
    wait_until_asleep(&second);
    let theirs = book.clone();
    let writer = fork(move || *theirs.pages.write().unwrap() += 1);
    wait_until_asleep(&writer);
    // The second reader queues again, behind the writer.
    second.stop().unwrap();
    let state = format!("/proc/{}/stat", second.id());
    wait_until("it is stopped", || std::fs::read_to_string(&state).unwrap().contains(") T "));
    second.resume().unwrap();
    wait_until("it has gone on", || !std::fs::read_to_string(&state).unwrap().contains(") T "));
    wait_until_asleep(&second);
    kill(&reader);
    join_all([writer, second]);
}

#[test]
fn whoever_would_wait_for_itself_is_told() {
    let book = book();
    let pages = book.pages.read().unwrap();
    assert!(matches!(book.pages.write(), Err(LockError::Deadlock)));
    assert!(matches!(book.pages.try_write(), Err(LockError::Deadlock)));
    assert_eq!(*book.pages.read().unwrap(), *pages);
    let theirs = book.clone();
    let writer = fork(move || write(&theirs)[0] = 1);
    wait_until_asleep(&writer);
    assert!(matches!(book.pages.read(), Err(LockError::Deadlock)));
    drop(pages);
    join_all([writer]);
    let pages = book.pages.write().unwrap();
    assert!(matches!(book.pages.read(), Err(LockError::Deadlock)));
    assert!(matches!(book.pages.try_read(), Err(LockError::Deadlock)));
    assert!(matches!(book.pages.write(), Err(LockError::Deadlock)));
    drop(pages);
}

#[test]
fn time_outs_in_every_form_leave_nothing_behind() {
    let book = book();
    let reader = reader(&book);
    let began = Instant::now();
    assert!(matches!(book.pages.write_timeout(Duration::ZERO), Err(LockError::TimedOut)));
    assert!(matches!(book.pages.write_deadline(began), Err(LockError::TimedOut)));
    assert!(matches!(
        book.pages.write_with(Wait::timeout(Duration::from_millis(20))),
        Err(LockError::TimedOut)
    ));
    assert!(began.elapsed() >= Duration::from_millis(20));
    // The lock does not even show that a writer waited.
    assert!(book.pages.read_timeout(Duration::ZERO).is_ok() && book.pages.writer().is_none());
    book.go_on.set();
    join_all([reader]);
    let pages = book.pages.write_timeout(Duration::MAX).unwrap();
    let theirs = book.clone();
    join_all([fork(move || {
        assert!(matches!(
            theirs.pages.read_timeout(Duration::from_millis(5)),
            Err(LockError::TimedOut)
        ));
        assert!(matches!(theirs.pages.read_deadline(Instant::now()), Err(LockError::TimedOut)));
        assert!(matches!(
            theirs.pages.write_timeout(Duration::from_millis(5)),
            Err(LockError::TimedOut)
        ));
    })]);
    drop(pages);
    assert!(book.pages.try_write().is_ok());
}

#[test]
fn participants_killed_at_random_moments_strand_nobody() {
    let book = book();
    let work = |book: &Book| {
        while book.over.load(Relaxed) == 0 {
            match book.pages.read() {
                Ok(pages) => assert_eq!(pages[0], pages[1]),
                Err(LockError::OwnerDied) => {}
                Err(error) => panic!("{error}"),
            }
            let mut pages = book.pages.write_or_repair(|pages| pages[1] = pages[0]).unwrap();
            assert_eq!(pages[0], pages[1]);
            pages[0] += 1;
            std::sync::atomic::compiler_fence(SeqCst);
            pages[1] += 1;
        }
    };
    let start = || {
        let book = book.clone();
        fork(move || work(&book))
    };
    let survivors = [(); 3].map(|()| start());
    for _ in 0..300 {
        let victim = start();
        let until = Instant::now() + Duration::from_micros(fastrand::u64(50..1_500));
        while Instant::now() < until {
            thread::yield_now();
        }
        kill(&victim);
    }
    book.over.store(1, Relaxed);
    join_all(survivors);
    wait_until("all are out", || book.pages.readers() == 0 && book.pages.writer().is_none());
}
