//! `wait_any` between processes.

#![allow(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{
    BoundedSemaphore, Event, JoinableQueue, Lock, LockError, Queue, QueueError, RLock, Readable,
    Semaphore, Shm, Wait, WaitAnyError, Waitable, Writable, shared, try_wait_any, wait_any,
    wait_any_deadline, wait_any_timeout, wait_any_with,
};

mod deaths;
#[path = "../forked/mod.rs"]
mod forked;
mod progress;
mod sharing;

use forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};

shared! {
    struct Board {
        event: Event,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        lock: Lock<u64>,
        rlock: RLock<u64>,
        held: Event,
        counts: [AtomicU64; 8],
    }
}

fn board() -> Shm<Board> {
    let board = Shm::new(Board {
        event: Event::new(),
        semaphore: Semaphore::new(0),
        bounded: BoundedSemaphore::new(1),
        lock: Lock::new(0),
        rlock: RLock::new(0),
        held: Event::new(),
        counts: [const { AtomicU64::new(0) }; 8],
    })
    .unwrap();
    board.bounded.acquire();
    board
}

/// One waitable of each kind, none of them ready.
struct All {
    board: Shm<Board>,
    items: Queue<u64>,
    tasks: JoinableQueue<u64>,
    /// With one unfinished task each.
    ending: JoinableQueue<u64>,
    failing: JoinableQueue<u64>,
    full: Queue<u64>,
    ours: UnixStream,
    theirs: UnixStream,
    /// The process that holds the lock until it is killed.
    owner: Child,
    /// The same for the `RLock`.
    rowner: Child,
}

/// The number of kinds, and of those that are no descriptors, which come first.
const KINDS: usize = 11;
const SOURCES: usize = 10;

impl All {
    fn new() -> Self {
        let board = board();
        let full = Queue::<u64>::new(1).unwrap();
        full.put(1).unwrap();
        let (ending, failing) = (progress::with_letters(1), progress::with_letters(1));
        ending.put(1).unwrap();
        failing.put(1).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let owner = owner_of(&board, |board| core::mem::forget(board.lock.lock()));
        let rowner = owner_of(&board, |board| core::mem::forget(board.rlock.lock()));
        All {
            board,
            items: Queue::new(4).unwrap(),
            tasks: JoinableQueue::new(4).unwrap(),
            ending,
            failing,
            full,
            ours,
            theirs,
            owner,
            rowner,
        }
    }

    /// Waits for the first `kinds` kinds.
    fn wait(&self, kinds: usize, wait: Wait) -> Result<Vec<usize>, WaitAnyError> {
        let (death, rdeath, room) =
            (self.board.lock.owner_death(), self.board.rlock.owner_death(), self.full.room());
        let (all_done, letter) = (self.ending.all_done(), self.failing.next_dead_letter());
        let readable = Readable(&self.theirs);
        let all: [&dyn Waitable; KINDS] = [
            &self.board.event,
            &self.board.semaphore,
            &self.board.bounded,
            &self.items,
            &self.tasks,
            &room,
            &death,
            &rdeath,
            &all_done,
            &letter,
            &readable,
        ];
        wait_any_with(&all[..kinds], wait)
    }

    /// Makes one kind ready.
    fn make_ready(&self, kind: usize) {
        match kind {
            0 => self.board.event.set(),
            1 => self.board.semaphore.release().unwrap(),
            2 => self.board.bounded.release().unwrap(),
            3 => self.items.put(1).unwrap(),
            4 => self.tasks.put(1).unwrap(),
            5 => assert_eq!(self.full.get().unwrap(), 1),
            6 => kill(&self.owner),
            7 => kill(&self.rowner),
            8 => self.ending.get().unwrap().done(),
            9 => drop(self.failing.get().unwrap()),
            _ => (&self.ours).write_all(b"x").unwrap(),
        }
    }
}

/// Forks a child that locks and then keeps the lock.
fn owner_of(board: &Shm<Board>, lock: impl FnOnce(&Board) + Send) -> Child {
    board.held.clear();
    let theirs = board.clone();
    let child = fork(move || -> () {
        lock(&theirs);
        theirs.held.set();
        loop {
            thread::park();
        }
    });
    board.held.wait_timeout(PATIENCE).unwrap();
    child
}

fn is_timed_out(result: Result<Vec<usize>, WaitAnyError>) -> bool {
    matches!(result, Err(WaitAnyError::TimedOut))
}

/// Asserts that a child sleeps in `waits` until `make_ready`, and that it then finds what is
/// expected.
fn wakes(waits: impl FnOnce() -> Vec<usize> + Send, make_ready: impl FnOnce(), expected: &[usize]) {
    let child = fork(move || assert_eq!(waits(), expected));
    wait_until_asleep(&child);
    make_ready();
    join_all([child]);
}

#[test]
fn each_kind_alone_wakes() {
    let All { board, items, tasks, ending, failing, full, ours, theirs, owner, rowner } =
        &All::new();
    wakes(|| wait_any(&[&board.event]).unwrap(), || board.event.set(), &[0]);
    wakes(|| wait_any(&[&board.semaphore]).unwrap(), || board.semaphore.release().unwrap(), &[0]);
    wakes(|| wait_any(&[&board.bounded]).unwrap(), || board.bounded.release().unwrap(), &[0]);
    wakes(|| wait_any(&[items]).unwrap(), || items.put(1).unwrap(), &[0]);
    wakes(|| wait_any(&[tasks]).unwrap(), || tasks.put(1).unwrap(), &[0]);
    wakes(|| wait_any(&[&full.room()]).unwrap(), || assert_eq!(full.get().unwrap(), 1), &[0]);
    wakes(|| wait_any(&[&board.lock.owner_death()]).unwrap(), || kill(owner), &[0]);
    wakes(|| wait_any(&[&board.rlock.owner_death()]).unwrap(), || kill(rowner), &[0]);
    wakes(|| wait_any(&[&ending.all_done()]).unwrap(), || ending.get().unwrap().done(), &[0]);
    wakes(
        || wait_any(&[&failing.next_dead_letter()]).unwrap(),
        || drop(failing.get().unwrap()),
        &[0],
    );
    wakes(
        || wait_any(&[&Readable(theirs)]).unwrap(),
        || {
            let mut ours = ours;
            ours.write_all(b"x").unwrap();
        },
        &[0],
    );
}

#[test]
fn each_kind_wakes_one_who_waits_for_all() {
    for kinds in [SOURCES, KINDS] {
        for kind in 0..kinds {
            let all = &All::new();
            assert!(is_timed_out(all.wait(kinds, Wait::NONE)));
            wakes(|| all.wait(kinds, Wait::FOREVER).unwrap(), || all.make_ready(kind), &[kind]);
            assert_eq!(all.wait(kinds, Wait::NONE).unwrap(), [kind], "it has taken nothing");
        }
    }
}

#[test]
fn all_that_are_ready_are_told_in_order() {
    for kinds in [SOURCES, KINDS] {
        let all = All::new();
        for kind in (0..kinds).rev() {
            all.make_ready(kind);
            assert_eq!(all.wait(kinds, Wait::FOREVER).unwrap(), (kind..kinds).collect::<Vec<_>>());
        }
    }
}

#[test]
fn descriptors_and_children_alone_wake() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    assert_eq!(try_wait_any(&[&Readable(&theirs), &Writable(&theirs)]).unwrap(), [1]);
    let child = fork(|| {
        thread::park_timeout(Duration::from_millis(20));
        7
    });
    assert_eq!(wait_any(&[&Readable(&theirs), &child]).unwrap(), [1]);
    assert_eq!(child.try_join().unwrap().unwrap().code(), Some(7));
    // Children that other tests have forked meanwhile hold copies of this end, too.
    ours.shutdown(Shutdown::Both).unwrap();
    assert_eq!(wait_any(&[&Readable(&theirs), &child]).unwrap(), [0, 1], "the other end is closed");
    let event = Event::new();
    assert_eq!(wait_any(&[&event, &child]).unwrap(), [1]);
}

#[test]
fn room_is_written_to_a_descriptor_that_was_full() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    while (&ours).write(&[0; 4096]).is_ok() {}
    let event = Shm::new(Event::new()).unwrap();
    for with_event in [false, true] {
        let (ours, event) = (&ours, &event);
        let waits = move || {
            if with_event {
                wait_any(&[&**event, &Writable(ours)])
            } else {
                wait_any(&[&Writable(ours)])
            }
            .unwrap()
        };
        let mut read = || while theirs.read(&mut [0; 1 << 20]).unwrap() == 1 << 20 {};
        wakes(waits, &mut read, &[usize::from(with_event)]);
        while (&*ours).write(&[0; 4096]).is_ok() {}
    }
}

#[test]
fn the_end_of_a_queue_is_told_on_both_sides() {
    let (items, tasks) = (Queue::<u64>::new(1).unwrap(), JoinableQueue::<u64>::new(1).unwrap());
    for side in 0..2 {
        let items = Queue::<u64>::new(1).unwrap();
        if side == 1 {
            items.put(1).unwrap();
        }
        let waits =
            || if side == 0 { wait_any(&[&items]) } else { wait_any(&[&items.room()]) }.unwrap();
        wakes(waits, || items.close().unwrap(), &[0]);
    }
    items.close().unwrap();
    assert_eq!(wait_any(&[&items]).unwrap(), [0]);
    // A task that another thread has in hand may come back.
    tasks.put(1).unwrap();
    let task = tasks.get().unwrap();
    tasks.close().unwrap();
    let waiting = || {
        fork(|| {
            let ready = wait_any(&[&tasks]).unwrap();
            assert_eq!(ready, [0]);
            i32::from(matches!(tasks.try_get(), Err(QueueError::Closed)))
        })
    };
    let child = waiting();
    wait_until_asleep(&child);
    task.done();
    assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(1));
    assert_eq!(wait_any(&[&tasks]).unwrap(), [0]);
}

#[test]
fn a_task_that_comes_back_is_told() {
    for dies in [false, true] {
        let tasks = JoinableQueue::<u64>::new(1).unwrap();
        tasks.put(1).unwrap();
        let (taken, give_back) = (Shm::new(Event::new()).unwrap(), Shm::new(Event::new()).unwrap());
        let (theirs, told, go) = (tasks.clone(), taken.clone(), give_back.clone());
        let worker = fork(move || {
            let task = theirs.get().unwrap();
            told.set();
            go.wait();
            drop(task);
        });
        taken.wait();
        let waits = || {
            let ready = wait_any(&[&tasks]).unwrap();
            tasks.try_get().unwrap().done();
            ready
        };
        wakes(waits, || if dies { kill(&worker) } else { give_back.set() }, &[0]);
    }
}

#[test]
fn a_set_that_is_cleared_at_once_is_seen() {
    for kinds in [SOURCES, KINDS] {
        for _ in 0..10 {
            let all = &All::new();
            let pulse = || {
                all.board.event.set();
                all.board.event.clear();
            };
            wakes(|| all.wait(kinds, Wait::FOREVER).unwrap(), pulse, &[0]);
        }
    }
}

#[test]
fn a_dead_owner_is_told_until_somebody_locks() {
    let All { board, owner, .. } = &All::new();
    let deaths: [&dyn Waitable; 1] = [&board.lock.owner_death()];
    kill(owner);
    assert_eq!(try_wait_any(&deaths).unwrap(), [0]);
    assert_eq!(board.lock.try_lock().map(drop), Err(LockError::OwnerDied));
    let guard = board.lock.lock_unrepaired(Wait::NONE).unwrap();
    assert!(matches!(try_wait_any(&deaths), Err(WaitAnyError::Deadlock { index: 0 })));
    drop(guard.recover());
    assert!(matches!(try_wait_any(&deaths), Err(WaitAnyError::WouldBlock)));
    // It does not matter whether the lock is free or who holds it: only the death counts.
    let child = fork(|| assert_eq!(wait_any(&[&board.lock.owner_death()]).unwrap(), [0]));
    wait_until_asleep(&child);
    for _ in 0..3 {
        drop(board.lock.lock().unwrap());
        wait_until_asleep(&child);
    }
    let second = owner_of(board, |board| core::mem::forget(board.lock.lock()));
    wait_until_asleep(&child);
    assert!(child.is_alive().unwrap());
    kill(&second);
    join_all([child]);
}

#[test]
fn mistakes_are_told() {
    assert!(matches!(wait_any(&[]), Err(WaitAnyError::Nothing)));
    let (event, lock, rlock) = (Event::new(), Lock::new(0_u64), RLock::new(0_u64));
    let (_guard, _rguard) = (lock.lock().unwrap(), rlock.lock().unwrap());
    assert!(matches!(
        wait_any(&[&event, &lock.owner_death()]),
        Err(WaitAnyError::Deadlock { index: 1 })
    ));
    assert!(matches!(wait_any(&[&rlock.owner_death()]), Err(WaitAnyError::Deadlock { index: 0 })));
}

#[test]
fn deadlines_are_kept() {
    let all = All::new();
    let timeout = Duration::from_millis(30);
    let (theirs, event) = (&all.theirs, &all.board.event);
    let lists: [&[&dyn Waitable]; 3] =
        [&[event, &all.items], &[&Readable(theirs)], &[event, &Readable(theirs)]];
    for list in lists {
        let began = Instant::now();
        assert!(is_timed_out(wait_any_timeout(list, timeout)));
        assert!(is_timed_out(wait_any_deadline(list, Instant::now() + timeout)));
        assert!(began.elapsed() >= 2 * timeout, "it has waited for {:?}", began.elapsed());
        assert!(is_timed_out(wait_any_deadline(list, began)));
        assert!(is_timed_out(wait_any_timeout(list, Duration::ZERO)));
        assert!(matches!(try_wait_any(list), Err(WaitAnyError::WouldBlock)));
    }
}

/// Returns the child's CPU time, in clock ticks.
fn processor_time(child: &Child) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<u64> = stat[stat.rfind(')').unwrap() + 2..]
        .split(' ')
        .filter_map(|field| field.parse().ok())
        .collect();
    // Only the state, the first field, is not a number.
    fields[10] + fields[11]
}

/// Returns how often the threads of a child have gone to sleep, all together.
fn switches(child: &Child) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let of = |status: String| -> u64 {
        let line =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse().unwrap()
    };
    tasks.map(|task| of(fs::read_to_string(task.unwrap().path().join("status")).unwrap())).sum()
}

#[test]
fn who_sleeps_uses_no_processor() {
    let all = &All::new();
    let free = Shm::new(Lock::new(0_u64)).unwrap();
    // Two of each, so that they could wake each other.
    let waiters = [SOURCES, SOURCES, KINDS, KINDS]
        .map(|kinds| fork(move || all.wait(kinds, Wait::FOREVER).unwrap()[0] as i32));
    let watchers = [(); 2].map(|()| {
        let free = free.clone();
        fork(move || assert_eq!(wait_any(&[&free.owner_death()]).unwrap(), [0]))
    });
    let everybody = || waiters.iter().chain(&watchers);
    everybody().for_each(wait_until_asleep);
    // The watchers are woken without a death, and go back to sleep.
    drop(free.lock().unwrap());
    everybody().for_each(wait_until_asleep);
    let used = || -> Vec<_> {
        everybody().map(|child| (processor_time(child), switches(child))).collect()
    };
    // They may be asleep for a moment while they start a thread. After that, only time passes, and
    // no child may do anything in it.
    wait_until("nobody does anything for a while", || {
        let before = used();
        thread::sleep(Duration::from_millis(300));
        used() == before
    });
}
