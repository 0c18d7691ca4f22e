//! What an ending thread still holds stays held: no other thread gets it while a reference to it
//! may live on.

#![allow(unsafe_code)]

use core::cell::RefCell;
use core::ffi::c_void;
use core::mem;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU32, Ordering::*};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::os::unix::thread::JoinHandleExt;
use std::sync::mpsc::channel;
use std::sync::{Mutex, OnceLock};
use std::thread;

use crossproc::{
    Broadcast, Condition, Event, JoinableQueue, Lock, LockError, LockGuard, Permits, Queue,
    QueueOptions, RLock, RwLock, RwLockReadGuard, Shm, Subscriber, Wait, shared,
};

mod forked;
use forked::{PATIENCE, fork, join_all, wait_until};

shared! {
    struct Board {
        lock: Lock<u64>,
        rlock: RLock<u64>,
        rwlock: RwLock<u64, 4>,
        bare: Lock<()>,
        condition: Condition,
        permits: Permits<2>,
        /// How far the leaking process has come.
        stage: AtomicU32,
        go_on: Event,
    }
}

fn board() -> Shm<Board> {
    Shm::new(Board {
        lock: Lock::new(0),
        rlock: RLock::new(0),
        rwlock: RwLock::new(0),
        bare: Lock::new(()),
        condition: Condition::new(),
        permits: Permits::new(),
        stage: AtomicU32::new(0),
        go_on: Event::new(),
    })
    .unwrap()
}

/// Runs `act` on a thread of another process, which then ends. Returns what the process wrote to
/// its standard error if it was ended for that.
fn process_ends_with_thread(board: &Shm<Board>, act: fn(&'static Board)) -> Option<String> {
    let (mut reads, writes) = UnixStream::pair().unwrap();
    let end = writes.try_clone().unwrap();
    let theirs = board.clone();
    let child = fork(move || {
        rustix::stdio::dup2_stderr(&writes).unwrap();
        drop(writes);
        let board: &'static Shm<Board> = Box::leak(Box::new(theirs));
        thread::spawn(move || act(board)).join().unwrap();
        board.stage.store(1, SeqCst);
    });
    let status = child.join_timeout(PATIENCE).unwrap();
    // Children that other tests have forked meanwhile hold copies of this end, too.
    end.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    reads.read_to_string(&mut said).unwrap();
    if status.success() {
        assert_eq!((board.stage.load(SeqCst), said.as_str()), (1, ""));
        return None;
    }
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{said}");
    assert_eq!(board.stage.load(SeqCst), 0, "nobody got to see the thread's end");
    assert!(said.starts_with("crossproc: the process is ended"), "{said}");
    Some(said)
}

fn assert_is_ended(what: &str, act: fn(&'static Board)) {
    let board = board();
    let said = process_ends_with_thread(&board, act)
        .unwrap_or_else(|| panic!("{what}: the process lives on"));
    assert!(said.contains("leaked"), "{what}: {said}");
}

#[test]
fn a_leaked_guard_ends_the_process_with_its_thread_and_the_next_owner_is_told() {
    let board = board();
    let said = process_ends_with_thread(&board, |board| mem::forget(board.lock.lock().unwrap()));
    assert!(said.is_some_and(|said| said.contains("leaked")));
    assert!(matches!(board.lock.lock_timeout(PATIENCE), Err(LockError::OwnerDied)));
}

#[test]
fn the_guards_of_all_locks_end_it() {
    assert_is_ended("RLock", |board| mem::forget(board.rlock.lock().unwrap()));
    assert_is_ended("RLock, the inner guard", |board| {
        let _outer = board.rlock.lock().unwrap();
        mem::forget(board.rlock.lock().unwrap());
    });
    assert_is_ended("RwLock, a writer", |board| mem::forget(board.rwlock.write().unwrap()));
    assert_is_ended("RwLock, a reader", |board| mem::forget(board.rwlock.read().unwrap()));
    assert_is_ended("Box::leak", |board| {
        let guard: &'static mut LockGuard<'static, u64> =
            Box::leak(Box::new(board.lock.lock().unwrap()));
        let value: &'static mut u64 = &mut *guard;
        *value = 1;
    });
    assert_is_ended("one behind others that were dropped", |board| {
        let (first, second) = (board.lock.lock().unwrap(), board.rwlock.read().unwrap());
        mem::forget(board.rlock.lock().unwrap());
        drop((first, second));
    });
    assert_is_ended("one that an owner's death came with", |board| {
        let died = thread::spawn(|| board.lock.acquire(Wait::FOREVER).unwrap());
        let _ = died.join().unwrap();
        wait_until("the lock is free", || board.lock.owner().is_none());
        let guard = board.lock.lock_unrepaired(Wait::FOREVER).unwrap();
        assert!(guard.is_inconsistent(), "its owner has died");
        mem::forget(guard);
    });
}

#[test]
fn what_a_queue_gives_out_ends_it() {
    fn queue() -> &'static Queue<u64> {
        let queue: &Queue<u64> = Box::leak(Box::new(Queue::new(4).unwrap()));
        queue.put(1).unwrap();
        queue
    }
    fn tasks() -> &'static JoinableQueue<u64> {
        let tasks: JoinableQueue<u64> =
            QueueOptions::new().attempts(NonZeroU32::new(1), 1).create_joinable(4).unwrap();
        tasks.put(1).unwrap();
        Box::leak(Box::new(tasks))
    }
    fn subscriber() -> (Broadcast<u64>, &'static mut Subscriber<u64>) {
        let broadcast: Broadcast<u64> = Broadcast::new(4).unwrap();
        broadcast.send(1).unwrap();
        let subscriber = broadcast.subscribe_from_oldest().unwrap();
        (broadcast, Box::leak(Box::new(subscriber)))
    }
    assert_is_ended("a loan", |_| mem::forget(queue().loan().unwrap()));
    assert_is_ended("a received item", |_| {
        let item: &'static u64 = Box::leak(Box::new(queue().receive().unwrap()));
        assert_eq!(*item, 1);
    });
    assert_is_ended("a task", |_| mem::forget(tasks().get().unwrap()));
    assert_is_ended("a dead letter", |_| {
        let tasks = tasks();
        drop(tasks.get().unwrap());
        mem::forget(tasks.dead_letter().unwrap());
    });
    assert_is_ended("one of several", |_| {
        let queue = queue();
        let loan = queue.loan().unwrap();
        mem::forget(queue.receive().unwrap());
        drop(loan);
    });
    assert_is_ended("of a queue that is gone", |_| {
        let queue: Queue<u64> = Queue::new(4).unwrap();
        mem::forget(queue.loan().unwrap());
    });
    assert_is_ended("an item that is read in place", |_| {
        let (_broadcast, subscriber) = subscriber();
        mem::forget(subscriber.view().unwrap());
    });
    let all_is_given_back = |_: &'static Board| {
        let (queue, tasks) = (queue(), tasks());
        queue.loan().unwrap().send().unwrap();
        drop((queue.receive().unwrap(), queue.loan().unwrap()));
        tasks.get().unwrap().done();
        drop(subscriber().1.view().unwrap());
    };
    assert_eq!(process_ends_with_thread(&board(), all_is_given_back), None);
}

#[test]
fn nobody_gets_the_lock_while_the_process_can_still_write() {
    for _ in 0..20 {
        let board = board();
        let theirs = board.clone();
        // The value behind the leaked reference changes as long as the process lives.
        let child = fork(move || {
            let board: &'static Shm<Board> = Box::leak(Box::new(theirs));
            let (send, receive) = std::sync::mpsc::channel::<&'static mut u64>();
            thread::spawn(move || {
                let value = receive.recv().unwrap();
                board.stage.store(1, SeqCst);
                loop {
                    *core::hint::black_box(&mut *value) += 1;
                }
            });
            let leaks = thread::spawn(move || {
                send.send(&mut **Box::leak(Box::new(board.lock.lock().unwrap()))).unwrap();
                board.go_on.wait();
            });
            leaks.join().unwrap();
        });
        wait_until("the reference is in use", || board.stage.load(SeqCst) == 1);
        assert!(matches!(board.lock.try_lock(), Err(LockError::WouldBlock)));
        board.go_on.set();
        let guard = board.lock.lock_unrepaired(Wait::timeout(PATIENCE)).unwrap();
        assert!(guard.is_inconsistent(), "its owner died");
        let values = [(); 100].map(|()| *core::hint::black_box(&*guard));
        assert_eq!(values, [values[0]; 100], "nobody writes but the owner");
        assert_eq!(child.join_timeout(PATIENCE).unwrap().signal(), Some(libc::SIGABRT));
        drop(guard.recover());
    }
}

#[test]
fn a_guard_that_a_thread_local_drops_was_not_leaked() {
    thread_local! {
        static KEPT: RefCell<Option<LockGuard<'static, u64>>> = const { RefCell::new(None) };
        static READ: RefCell<Vec<RwLockReadGuard<'static, u64, 4>>> =
            const { RefCell::new(Vec::new()) };
    }
    let board = board();
    let ended = process_ends_with_thread(&board, |board| {
        KEPT.set(Some(board.lock.lock().unwrap()));
        READ.with_borrow_mut(|all| {
            all.extend([board.rwlock.read().unwrap(), board.rwlock.read().unwrap()]);
        });
    });
    assert_eq!(ended, None);
    assert!(board.lock.try_lock().is_ok() && board.rwlock.try_write().is_ok());
}

#[test]
fn nor_was_one_that_thread_specific_data_keeps() {
    // The guard is dropped in each round of destructors, before or after the crate's own
    // destructor. In the last round it is dropped before that.
    static GUARD: Mutex<Option<Sent>> = Mutex::new(None);
    struct Sent(LockGuard<'static, u64>);
    // SAFETY: a thread gets its own guard back.
    unsafe impl Send for Sent {}
    fn keep(board: &'static Board, round: u32) {
        *GUARD.lock().unwrap() = Some(Sent(board.lock.lock().unwrap()));
        at_end_of_thread(board, round, |board| {
            drop(GUARD.lock().unwrap().take().map(|sent| sent.0));
            board.go_on.set();
        });
    }
    let all: [fn(&'static Board); 3] =
        [|board| keep(board, 1), |board| keep(board, 2), |board| keep(board, 3)];
    for act in all {
        let board = board();
        assert_eq!(process_ends_with_thread(&board, act), None);
        assert!(board.go_on.is_set() && board.lock.try_lock().is_ok());
    }
}

#[test]
fn what_destructors_lock_and_leak_is_seen_too() {
    struct Leaks(Option<&'static Board>);
    impl Drop for Leaks {
        fn drop(&mut self) {
            mem::forget(self.0.unwrap().lock.lock().unwrap());
        }
    }
    thread_local!(static LEAKS: RefCell<Leaks> = const { RefCell::new(Leaks(None)) });
    assert_is_ended("a thread-local's destructor", |board| {
        LEAKS.with_borrow_mut(|leaks| leaks.0 = Some(board));
    });
    // The thread has never locked before.
    assert_is_ended("a destructor of thread-specific data", |board| {
        at_end_of_thread(board, 1, |board| mem::forget(board.lock.lock().unwrap()));
    });
    assert_is_ended("... that is called a third time", |board| {
        drop(board.lock.lock().unwrap());
        at_end_of_thread(board, 3, |board| mem::forget(board.lock.lock().unwrap()));
    });
}

#[test]
fn a_destructor_that_comes_last_of_all_can_lock_nothing() {
    let board = board();
    let ended = process_ends_with_thread(&board, |board| {
        // The crate's own destructor is called before one that was made later.
        drop(board.lock.lock().unwrap());
        at_end_of_thread(board, 4, |board| {
            let Err(LockError::Unavailable(why)) = board.lock.lock() else {
                panic!("the thread has ended")
            };
            assert!(why.to_string().contains("about to end"), "{why}");
            assert!(board.rwlock.read().is_err() && board.permits.acquire().is_err());
            assert!(Queue::<u64>::new(4).unwrap().loan().is_err());
            board.go_on.set();
        });
    });
    assert_eq!(ended, None);
    assert!(board.go_on.is_set(), "the destructor was called");
}

/// Makes libc call `act` in the given round of a thread's destructors of thread-specific data.
fn at_end_of_thread(board: &'static Board, round: u32, act: fn(&'static Board)) {
    struct Rounds {
        left: u32,
        key: libc::pthread_key_t,
        board: &'static Board,
        act: fn(&'static Board),
    }
    extern "C" fn call(rounds: *mut c_void) {
        // SAFETY: the pointer that is set below; nothing else uses it.
        let this = unsafe { &mut *rounds.cast::<Rounds>() };
        this.left -= 1;
        if this.left == 0 {
            return (this.act)(this.board);
        }
        // SAFETY: the key exists.
        assert_eq!(unsafe { libc::pthread_setspecific(this.key, rounds) }, 0);
    }
    let mut key = 0;
    // SAFETY: writes a key.
    assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(call)) }, 0);
    let rounds = Box::into_raw(Box::new(Rounds { left: round, key, board, act }));
    // SAFETY: the key was made above.
    assert_eq!(unsafe { libc::pthread_setspecific(key, rounds.cast()) }, 0);
}

#[test]
fn a_queue_that_was_used_last_of_all_gives_nothing_out_any_more() {
    let board = board();
    let ended = process_ends_with_thread(&board, |board| {
        drop(board.lock.lock().unwrap());
        // The thread becomes a participant in the first round, when thread-locals are gone. No
        // round ends that.
        static QUEUE: OnceLock<Queue<u64>> = OnceLock::new();
        let queue = QUEUE.get_or_init(|| Queue::new(4).unwrap());
        at_end_of_thread(board, 1, |_| QUEUE.get().unwrap().try_put(1).unwrap());
        at_end_of_thread(board, 4, |board| {
            assert!(QUEUE.get().unwrap().loan().is_err());
            board.go_on.set();
        });
        assert_eq!(queue.len(), 0);
    });
    assert_eq!(ended, None);
    assert!(board.go_on.is_set(), "the destructor was called");
}

#[test]
fn what_was_acquired_without_a_guard_is_handed_on() {
    let board = board();
    let ended = process_ends_with_thread(&board, |board| {
        let _ = (
            board.lock.acquire(Wait::FOREVER).unwrap(),
            board.rlock.acquire(Wait::FOREVER).unwrap(),
        );
        mem::forget(board.permits.acquire().unwrap());
        // Neither a guard beside it counts, nor a forgotten one whose lock is released.
        drop(board.rlock.lock().unwrap());
        mem::forget(board.bare.lock().unwrap());
        board.bare.release().unwrap();
        // A condition gives back the lock that it was given.
        let _ = board.bare.acquire(Wait::FOREVER).unwrap();
        let timed_out = board.condition.wait_with(&mut &board.bare, Wait::NONE);
        assert!(timed_out.is_err());
    });
    assert_eq!(ended, None);
    assert!(matches!(board.lock.lock(), Err(LockError::OwnerDied)));
    assert!(matches!(board.rlock.lock(), Err(LockError::OwnerDied)));
    assert!(board.bare.acquire(Wait::NONE).unwrap().owner_died);
    assert_eq!(board.permits.value(), 2);
}

#[test]
fn a_condition_gives_a_leaked_guard_back_as_a_guard() {
    assert_is_ended("Lock", |board| {
        let mut guard = board.lock.lock().unwrap();
        assert!(board.condition.wait_with(&mut guard, Wait::NONE).is_err());
        mem::forget(guard);
    });
    assert_is_ended("RLock, of which it has one without a guard, too", |board| {
        let _ = board.rlock.acquire(Wait::FOREVER).unwrap();
        let mut guard = board.rlock.lock().unwrap();
        assert!(board.condition.wait_with(&mut guard, Wait::NONE).is_err());
        mem::forget(guard);
        // SAFETY: this releases one of the two acquisitions, and no reference is used.
        unsafe { board.rlock.force_release() }.unwrap();
    });
}

#[test]
fn what_is_held_in_memory_that_may_be_freed_ends_the_process() {
    let all: [fn(&'static Board); 3] = [
        |_| {
            let lock = Box::new(Lock::new(0_u64));
            let _ = lock.acquire(Wait::FOREVER).unwrap();
        },
        |_| {
            let lock = Box::new(RLock::new(0_u64));
            let _ = lock.acquire(Wait::FOREVER).unwrap();
        },
        |_| {
            let permits = Box::new(Permits::<3>::new());
            mem::forget(permits.acquire().unwrap());
        },
    ];
    for act in all {
        let said = process_ends_with_thread(&board(), act).expect("the memory was freed");
        assert!(said.contains("may have been freed"), "{said}");
    }
}

#[test]
fn the_message_waits_for_no_reader() {
    let board = board();
    let (reads, mut writes) = UnixStream::pair().unwrap();
    writes.set_nonblocking(true).unwrap();
    while writes.write(&[0; 4096]).is_ok() {}
    writes.set_nonblocking(false).unwrap();
    let theirs = board.clone();
    let child = fork(move || {
        rustix::stdio::dup2_stderr(&writes).unwrap();
        let board: &'static Shm<Board> = Box::leak(Box::new(theirs));
        thread::spawn(|| mem::forget(board.lock.lock().unwrap())).join().unwrap();
    });
    assert_eq!(child.join_timeout(PATIENCE).unwrap().signal(), Some(libc::SIGABRT));
    drop(reads);
}

#[test]
#[cfg_attr(target_env = "musl", ignore = "musl joins only threads that end by it")]
fn a_thread_that_ends_without_libc_is_not_taken_for_the_next() {
    let ended = process_ends_with_thread(&board(), |board| {
        let (tell, told) = channel();
        let killed = thread::spawn(|| {
            drop(board.lock.lock().unwrap());
            // SAFETY: ends this thread alone, without destructors.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
        // With musl, the id is a pointer in libc and a number in std.
        #[allow(clippy::unnecessary_cast, reason = "with glibc it is the same type")]
        let id = killed.as_pthread_t() as libc::pthread_t;
        // SAFETY: it is joined once, since the handle is forgotten.
        assert_eq!(unsafe { libc::pthread_join(id, core::ptr::null_mut()) }, 0);
        mem::forget(killed);
        // The second thread gets the descriptor. The third gets the record, and holds a guard when
        // the second ends.
        let (go, waits) = channel::<()>();
        let second = thread::spawn(move || {
            let _ = waits.recv();
        });
        let third = thread::spawn(move || {
            let _guard = board.lock.lock().unwrap();
            tell.send(()).unwrap();
            board.go_on.wait();
        });
        told.recv().unwrap();
        drop(go);
        second.join().unwrap();
        board.go_on.set();
        third.join().unwrap();
    });
    assert_eq!(ended, None);
}

#[test]
fn a_thread_that_comes_after_another_is_looked_at_anew() {
    let board = board();
    // The record of an ended thread goes to the next one.
    let ended = process_ends_with_thread(&board, |board| {
        for _ in 0..3 {
            thread::spawn(|| drop(board.lock.lock().unwrap())).join().unwrap();
            let _ = thread::spawn(|| board.rlock.acquire(Wait::FOREVER).unwrap()).join().unwrap();
            wait_until("it is handed on", || board.rlock.owner().is_none());
        }
    });
    assert_eq!(ended, None);
    assert_is_ended("after others", |board| {
        thread::spawn(|| drop(board.lock.lock().unwrap())).join().unwrap();
        thread::spawn(|| mem::forget(board.lock.lock().unwrap())).join().unwrap();
    });
    join_all([fork(move || drop(board.lock.lock().unwrap()))]);
}
