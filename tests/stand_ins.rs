//! A thread or future that waits for several things keeps the word of each pending. When its
//! process is killed, the kernel wakes one waiter for each word. Without that, those waiters would
//! sleep on if the dead process had been given their wake-up.

#![allow(unsafe_code)]

mod forked;

use std::fs;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{
    Event, Readable, Semaphore, Shm, WaitAnyError, Waitable, process, shared, wait_any,
    wait_any_timeout,
};
use crossproc_sys::clock;
use crossproc_sys::futex::{self, Awake};
use forked::{PATIENCE, join_all, kill, slowness, wait_until};

const EACH: usize = 40;

shared! {
    struct Board {
        events: [Event; EACH],
        semaphores: [Semaphore; EACH],
        /// Set when all futures have been polled.
        polled: Event,
    }
}

/// The bit of a futex word that says a waiter may sleep on it.
const WAITERS: u32 = 1 << 31;

impl Board {
    fn new() -> Arc<Shm<Board>> {
        let board = Board {
            events: [const { Event::new() }; EACH],
            semaphores: [const { Semaphore::new(0) }; EACH],
            polled: Event::new(),
        };
        Arc::new(Shm::new(board).unwrap())
    }

    /// Returns this many events and as many semaphores.
    fn things(&self, count: usize) -> Vec<&dyn Waitable> {
        let events = self.events[..count].iter().map(|event| event as &dyn Waitable);
        events
            .chain(self.semaphores[..count].iter().map(|semaphore| semaphore as &dyn Waitable))
            .collect()
    }

    /// Returns the futex words of the same things.
    fn words(&self, count: usize) -> Vec<&AtomicU32> {
        let low = usize::from(cfg!(target_endian = "big"));
        let futex = |word: *const u64| {
            let half = word.cast::<u32>().cast_mut().wrapping_add(low);
            // SAFETY: each is one 64-bit word of atomics. The futex is a half of it, and lives as
            // long.
            unsafe { AtomicU32::from_ptr(half) }
        };
        let events =
            self.events[..count].iter().map(|event| futex(std::ptr::from_ref(event).cast()));
        events
            .chain(
                self.semaphores[..count]
                    .iter()
                    .map(|semaphore| futex(std::ptr::from_ref(semaphore).cast())),
            )
            .collect()
    }
}

/// Returns the state letter of a process or thread.
fn state_of(path: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("{path}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Lets a child sleep for `count` events and semaphores, and kills it. Asserts that the kernel
/// wakes one waiter for each.
///
/// Threads mark the words after they are pending, futures before. So futures say when they have
/// been polled.
///
/// The child is stopped first: a stopped process is in no futex's queue, so that it cannot itself
/// get any of those wakes.
fn each_wakes_one(count: usize, are_futures: bool, sleep: impl FnOnce(&Board) + Send) {
    let board = Board::new();
    let theirs = Arc::clone(&board);
    let child = forked::fork(move || sleep(&theirs));
    wait_until("the child is about to sleep", || {
        board.words(count).iter().all(|word| word.load(SeqCst) & WAITERS != 0)
    });
    wait_until("futures are polled", || !are_futures || board.polled.is_set());
    stop(&child);
    let sleepers: Vec<_> = (0..2 * count)
        .map(|index| {
            let board = Arc::clone(&board);
            let sleeper = thread::Builder::new().stack_size(64 << 10);
            let (tell, told) = std::sync::mpsc::channel();
            let sleeper = sleeper.spawn(move || {
                tell.send(crossproc_sys::threads::own_tid().unwrap()).unwrap();
                let word = board.words(count)[index];
                futex::wait(
                    word,
                    word.load(SeqCst),
                    Some(clock::now() + PATIENCE.as_nanos() as u64),
                )
            });
            (sleeper.unwrap(), told.recv().unwrap())
        })
        .collect();
    for ((_, tid), word) in sleepers.iter().zip(board.words(count)) {
        let path = format!("/proc/self/task/{tid}/syscall");
        // On this word: before that, the thread may sleep on another one.
        let call = format!("{} {:#x} ", libc::SYS_futex, std::ptr::from_ref(word).addr());
        wait_until("a thread sleeps", || {
            fs::read_to_string(&path).is_ok_and(|now| now.starts_with(&call))
        });
    }
    kill(&child);
    let woken = sleepers.into_iter().map(|(sleeper, _)| sleeper.join().unwrap());
    assert_eq!(woken.filter(|&awake| awake == Awake::Woken).count(), 2 * count);
}

fn stop(child: &Child) {
    // SAFETY: it sends a signal to a child that is not joined yet.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGSTOP) }, 0);
    let tasks = format!("/proc/{}/task", child.id());
    wait_until("all threads of the child are stopped", || {
        let mut tasks = fs::read_dir(&tasks).unwrap();
        tasks.all(|task| state_of(task.unwrap().path().to_str().unwrap()) == Some('T'))
    });
}

#[test]
fn a_thread_that_waits_for_several_things() {
    each_wakes_one(3, false, |board| {
        let _ = wait_any(&board.things(3));
    });
}

#[test]
fn a_thread_that_waits_for_things_and_a_descriptor() {
    each_wakes_one(2, false, |board| {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let readable = Readable(ours);
        let mut things = board.things(2);
        things.push(&readable);
        let _ = wait_any(&things);
    });
}

#[test]
fn a_thread_that_waits_for_more_than_the_kernel_watches() {
    each_wakes_one(EACH, false, |board| {
        let _ = wait_any(&board.things(EACH));
    });
}

#[cfg(feature = "tokio")]
#[test]
fn futures() {
    each_wakes_one(3, true, |board| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let [first, second, third, ..] = &board.events;
            let [fourth, fifth, sixth, ..] = &board.semaphores;
            let _ = tokio::join!(
                first.wait_async(),
                second.wait_async(),
                third.wait_async(),
                fourth.acquire_async(),
                fifth.acquire_async(),
                sixth.acquire_async(),
                async { board.polled.set() },
            );
        });
    });
}

/// How long stand-ins stay idle before they end.
const IDLE: Duration = Duration::from_secs(1);

/// Returns the number of threads of this process.
fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// Waits in vain for this many events and semaphores, for long enough to start all the stand-ins
/// that this needs.
fn wait_in_vain(board: &Board, count: usize) {
    let waited = wait_any_timeout(&board.things(count), Duration::from_millis(10) * slowness());
    assert!(matches!(waited, Err(WaitAnyError::TimedOut)));
}

#[test]
fn threads_that_stand_in_are_used_again_and_end() {
    let child = forked::fork(|| {
        let board = Board::new();
        wait_in_vain(&board, 2);
        assert_eq!(threads(), 4, "the first of four has the thread's own entry");
        wait_in_vain(&board, 3);
        wait_in_vain(&board, 2);
        assert_eq!(threads(), 6, "the same ones again, and two more");
        wait_until("those that nobody needs have ended", || threads() == 1);
    });
    join_all([child]);
}

/// A fork that takes less time than the stand-ins would stay idle has ended them.
#[test]
fn a_fork_ends_threads_that_stand_in() {
    let child = forked::fork(|| {
        let board = Board::new();
        let has_ended_them = (0..30).any(|_| {
            wait_in_vain(&board, 2);
            let begin = Instant::now();
            let theirs = Arc::clone(&board);
            let grandchild = process::fork(move || {
                wait_in_vain(&theirs, 1);
                assert_eq!(threads(), 2, "a child has none of its parent's, and its own");
            });
            let took = begin.elapsed();
            assert!(grandchild.unwrap().join().unwrap().success());
            took < IDLE / 2
        });
        assert!(has_ended_them, "each fork took as long as they would wait");
    });
    join_all([child]);
}
