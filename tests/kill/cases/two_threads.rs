//! The victim has a second thread, which sleeps for what the first thread gives, and dies with it.
//!
//! The first thread dies first: the second one is still in the kernel's queue when the kernel does
//! its work for the dead thread. It sleeps before all others, so it is the one that is woken.

use core::sync::atomic::{AtomicI64, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crossproc::{Event, Lock, LockGuard, Queue, QueueOptions, Semaphore};
use crossproc::{Waitable, try_wait_any, wait_any};

use super::warm_up;
use crate::harness::{Case, End, Me, Mode, Operation, Subject, asleep};

const WAKER_STOPPED: &str = "the stopped one has given it and woken nobody yet, or its other \
    thread was woken and has not woken the others; the next to give wakes";
/// At least as much room as is ever wanted.
const ROOM: usize = 16;

/// What is given and slept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Permit,
    Item,
    Room,
    Set,
    Lock,
}

/// How the second thread sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Plainly,
    /// In `wait_any`, after something that does not happen.
    AnySecond,
    /// In `wait_any`, before something that does not happen.
    AnyFirst,
}

struct Board {
    kind: Kind,
    semaphore: Semaphore,
    /// Empty, or full for those that wait for room.
    queue: Queue<u64>,
    event: Event,
    lock: Lock<u64>,
    never: Event,
    /// Given less taken, by all but the victim.
    balance: AtomicI64,
    /// What the victim's first thread has given, if its operation has returned.
    victims: AtomicI64,
    /// How many processes are about to lock.
    lockers: AtomicI64,
    /// The TID of the victim's second thread, once it is about to sleep.
    second: AtomicU32,
}

impl Board {
    fn new(kind: Kind) -> Self {
        Board {
            kind,
            semaphore: Semaphore::new(0),
            queue: QueueOptions::new().participants(12).create(ROOM).expect("there is memory"),
            event: Event::new(),
            lock: Lock::new(0),
            never: Event::new(),
            balance: AtomicI64::new(0),
            victims: AtomicI64::new(0),
            lockers: AtomicI64::new(0),
            second: AtomicU32::new(0),
        }
    }

    fn lock(&self) -> LockGuard<'_, u64> {
        self.lock.lock_or_repair(|_| ()).unwrap()
    }

    /// Gives one. For a lock, the owner gives by letting go of it.
    fn give(&self) {
        match self.kind {
            Kind::Permit => self.semaphore.release().expect("few permits"),
            Kind::Item => self.queue.put(7).expect("there is room"),
            Kind::Room => assert_eq!(self.queue.get().expect("an item"), 7),
            Kind::Set => self.event.set(),
            Kind::Lock => {}
        }
    }

    fn take(&self) {
        match self.kind {
            Kind::Permit => self.semaphore.acquire(),
            Kind::Item => assert_eq!(self.queue.get().expect("an item"), 7),
            Kind::Room => self.queue.put(7).expect("it is open"),
            Kind::Set => self.event.wait(),
            Kind::Lock => {
                self.lockers.fetch_add(1, SeqCst);
                drop(self.lock());
                self.lockers.fetch_sub(1, SeqCst);
            }
        }
    }

    /// Returns how much there is to take, of a kind that can be counted.
    fn count(&self) -> i64 {
        match self.kind {
            Kind::Permit => self.semaphore.value().into(),
            Kind::Item => self.queue.len() as i64,
            Kind::Room => (ROOM - self.queue.len()) as i64,
            Kind::Set | Kind::Lock => 0,
        }
    }

    fn is_counted(&self) -> bool {
        !matches!(self.kind, Kind::Set | Kind::Lock)
    }

    fn is_there(&self) -> bool {
        match self.kind {
            Kind::Permit => self.semaphore.value() != 0,
            Kind::Item => try_wait_any(&[&self.queue]).is_ok(),
            Kind::Room => try_wait_any(&[&self.queue.room()]).is_ok(),
            Kind::Set => self.event.is_set(),
            Kind::Lock => self.lock.owner().is_none() && self.lockers.load(SeqCst) != 0,
        }
    }

    fn watch(&self, is_first: bool) {
        let (room, death) = (self.queue.room(), self.lock.owner_death());
        let it: &dyn Waitable = match self.kind {
            Kind::Permit => &self.semaphore,
            Kind::Item => &self.queue,
            Kind::Room => &room,
            Kind::Set => &self.event,
            Kind::Lock => &death,
        };
        drop(
            wait_any(&if is_first { [it, &self.never] } else { [&self.never, it] })
                .expect("there is memory"),
        );
    }

    /// Does what a thread does at its first operations only.
    fn warm_up(&self) {
        warm_up();
        drop(self.queue.loan());
    }

    /// Starts the second thread of this process, and waits until it sleeps.
    fn start_second(&'static self, how: How) {
        thread::spawn(move || {
            self.warm_up();
            // SAFETY: no arguments.
            self.second.store(unsafe { libc::gettid() } as u32, SeqCst);
            match how {
                How::Plainly => self.take(),
                How::AnySecond => self.watch(false),
                How::AnyFirst => self.watch(true),
            }
        });
        let second = loop {
            let second = self.second.load(SeqCst) as i32;
            if second != 0 && asleep(second).is_some() {
                break second;
            }
            // This polls, since nothing reports that a thread has fallen asleep. While this thread
            // runs the other one does not, for there is one CPU.
            thread::sleep(Duration::from_micros(50));
        };
        // The raw system call, since musl's function refuses.
        let (call, priority) = (libc::SYS_sched_setscheduler, 0_i32);
        // SAFETY: reads the priority, for a thread of this process. From now on that thread runs
        // after the first one, also to its end.
        let failed = unsafe { libc::syscall(call, second, libc::SCHED_IDLE, &raw const priority) };
        assert_eq!(failed, 0, "a thread can always be made one that waits");
    }
}

/// Runs a survivor. The survivors give what sleepers still wait for, one for each of the victim's
/// threads, and then give and take one more each.
fn survive(board: &Board, me: &Me) {
    let give = || {
        if board.is_counted() {
            board.balance.fetch_add(1, SeqCst);
        }
        board.give();
    };
    if me.index == 0 {
        (0..me.unfinished() + 2).for_each(|_| give());
    }
    give();
    take(board, me);
}

fn take(board: &Board, _: &Me) {
    board.take();
    if board.is_counted() {
        board.balance.fetch_sub(1, SeqCst);
    }
}

/// Checks that what the first thread gives is there as a whole or not at all. The second thread may
/// have taken one.
fn check(board: &Board, end: &End, how: How) -> Result<(), String> {
    if board.kind == Kind::Lock && board.lock.owner().is_some() {
        return Err("the lock is owned at the end".into());
    }
    if !board.is_counted() {
        return Ok(());
    }
    let done = board.count() - board.balance.load(SeqCst);
    let given = match (end.was_killed, end.had_not_begun, end.was_completed) {
        (false, _, _) => board.victims.load(SeqCst)..=board.victims.load(SeqCst),
        (true, true, _) => 0..=0,
        (true, false, true) => 1..=1,
        (true, false, false) => 0..=1,
    };
    let most_taken = i64::from(how == How::Plainly);
    let is_right = (given.start() - most_taken..=*given.end()).contains(&done);
    if is_right {
        Ok(())
    } else {
        Err(format!("{} there at the end, {done} too many; {end:?}", board.count()))
    }
}

/// The operation: the victim's first thread gives.
fn give(board: &'static Board, operation: &Operation, how: How) {
    board.warm_up();
    if board.kind == Kind::Lock {
        let guard = board.lock();
        board.start_second(how);
        operation.step(|| drop(guard));
        return;
    }
    board.start_second(how);
    operation.step(|| board.give());
    board.victims.store(1, SeqCst);
}

fn case(kind: Kind, how: How, takers: usize) -> Box<dyn Subject> {
    let name =
        format!("two threads: {kind:?} is given, the other thread sleeps {how:?}, {takers} behind");
    Box::new(
        Case::new(name, move || Board::new(kind))
            .before(|board| while board.kind == Kind::Room && board.queue.try_put(7).is_ok() {})
            .companions(takers, take)
            .victim(move |board, operation| {
                let board: *const Board = board;
                // SAFETY: the board stays where it is as long as this process lives, which ends
                // with all its threads before the board does.
                give(unsafe { &*board }, operation, how);
            })
            .survivor(survive)
            .may_wait(|board, _| !board.is_there())
            .check(move |board, end| check(board, end, how))
            .known_strand(Mode::Stop, WAKER_STOPPED),
    )
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    let mut cases = Vec::new();
    for kind in [Kind::Permit, Kind::Item, Kind::Room, Kind::Set, Kind::Lock] {
        for how in [How::Plainly, How::AnySecond, How::AnyFirst] {
            cases.extend([1, 2].map(|takers| case(kind, how, takers)));
        }
    }
    cases
}
