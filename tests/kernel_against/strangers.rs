//! A stranger waits on the words, moves who sleeps on them, or punches holes.

use std::fs;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{
    BarrierError, Condition, Event, JoinableQueue, Queue, QueueError, Shm, Wait,
    set_recheck_interval, wait_any_with,
};
use crossproc_sys::memory::Mapping;
use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals};

use super::{All, SOME_SLICES, fork, new};
use crate::forked::{PATIENCE, join_all, kill, wait_until, wait_until_asleep};

/// The offset at which a region's contents begin.
const CONTENTS: usize = 4_096;

fn futex(
    word: *mut u32,
    operation: i32,
    value: u32,
    count: usize,
    other: *mut u32,
    expected: u32,
) -> i64 {
    // SAFETY: the kernel uses these words, which are mapped, as futexes, and changes nothing else.
    unsafe { libc::syscall(libc::SYS_futex, word, operation, value, count, other, expected) }
}

/// Returns a process with a thread for each word of the memory, from its contents on. Each thread
/// does `what` to its word.
fn stranger_on(memory: impl AsFd, len: usize, what: fn(&AtomicU32, &AtomicU32)) -> Child {
    let memory = memory.as_fd().try_clone_to_owned().unwrap();
    fork(move || -> () {
        let mapping = Box::leak(Box::new(Mapping::new(&memory, CONTENTS + len).unwrap()));
        for index in 0..len / 4 {
            // SAFETY: inside the mapping, which stays.
            let at = unsafe { mapping.start().add(CONTENTS + 4 * index) };
            // SAFETY: aligned, and mapped for ever; all accesses are atomic.
            let word = unsafe { AtomicU32::from_ptr(at.cast().as_ptr()) };
            let own: &AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
            thread::Builder::new().stack_size(1 << 16).spawn(move || what(word, own)).unwrap();
        }
        loop {
            thread::park();
        }
    })
}

/// Waits on the word for ever, as for a mutex with priority inheritance. The kernel refuses to wake
/// any sleeper behind such a waiter.
fn wait_by_pi(word: &AtomicU32, own: &AtomicU32) {
    loop {
        futex(word.as_ptr(), libc::FUTEX_WAIT_REQUEUE_PI, word.load(Relaxed), 0, own.as_ptr(), 0);
    }
}

/// The number of sleepers that were moved.
static MOVED: OnceLock<Shm<AtomicU32>> = OnceLock::new();

/// Moves all sleepers from the word to another one.
fn requeue(word: &AtomicU32, own: &AtomicU32) {
    let moved = MOVED.get().unwrap();
    loop {
        let found = futex(
            word.as_ptr(),
            libc::FUTEX_CMP_REQUEUE,
            0,
            i32::MAX as usize,
            own.as_ptr(),
            word.load(Relaxed),
        );
        moved.fetch_add(found.max(0) as u32, Relaxed);
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns a stranger that waits by PI on every word, once it does so.
fn waiting_by_pi(memory: impl AsFd, len: usize) -> Child {
    let stranger = stranger_on(memory, len, wait_by_pi);
    let is_waiting = |task: &fs::DirEntry| {
        let call = fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
        let mut call = call.split(' ');
        call.next() == Some(&libc::SYS_futex.to_string())
            && call.nth(1) == Some(&format!("{:#x}", libc::FUTEX_WAIT_REQUEUE_PI))
    };
    let tasks = format!("/proc/{}/task", stranger.id());
    wait_until("the stranger waits on every word", || {
        fs::read_dir(&tasks).unwrap().flatten().filter(&is_waiting).count() == len / 4
    });
    stranger
}

/// Has a child sleep, wakes it, and checks that it notices in time.
fn ends_in_time(what: &str, sleep: impl FnOnce() + Send, wake: impl FnOnce()) {
    ends_in_time_once(&|| (), what, sleep, wake);
}

/// The same, but `ready` has to return before the wake-up.
fn ends_in_time_once(
    ready: &dyn Fn(),
    what: &str,
    sleep: impl FnOnce() + Send,
    wake: impl FnOnce(),
) {
    let sleeper = fork(sleep);
    wait_until_asleep(&sleeper);
    ready();
    let begun = Instant::now();
    wake();
    let status = sleeper.join_timeout(PATIENCE).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(status.success(), "{what}: {status}");
    assert!(begun.elapsed() < SOME_SLICES, "{what}: it took {:?}", begun.elapsed());
}

/// Checks everything that can be waited for, each in another process.
fn everybody_is_woken(all: &Shm<All>, wait: Wait, ready: &dyn Fn()) {
    ends_in_time_once(ready, "event", || all.event.wait_with(wait).unwrap(), || all.event.set());
    ends_in_time_once(
        ready,
        "semaphore",
        || all.semaphore.acquire_with(wait).unwrap(),
        || all.semaphore.release().unwrap(),
    );
    ends_in_time_once(
        ready,
        "bounded",
        || all.bounded.acquire_with(wait).unwrap(),
        || all.bounded.release().unwrap(),
    );
    let held = all.lock.lock().unwrap();
    ends_in_time_once(ready, "lock", || drop(all.lock.lock_with(wait).unwrap()), || drop(held));
    let held = all.rlock.lock().unwrap();
    ends_in_time_once(ready, "rlock", || drop(all.rlock.lock_with(wait).unwrap()), || drop(held));
    let held = all.rwlock.write().unwrap();
    ends_in_time_once(ready, "reader", || drop(all.rwlock.read_with(wait).unwrap()), || drop(held));
    let held = all.rwlock.read().unwrap();
    ends_in_time_once(
        ready,
        "writer",
        || drop(all.rwlock.write_with(wait).unwrap()),
        || drop(held),
    );
    let held = [all.permits.acquire().unwrap(), all.permits.acquire().unwrap()];
    ends_in_time_once(
        ready,
        "permits",
        || drop(all.permits.acquire_with(wait).unwrap()),
        || drop(held),
    );
    for notify in [Condition::notify_one, Condition::notify_all] {
        let wait_for_it = || all.condition.wait_with(&mut all.lock.lock().unwrap(), wait).unwrap();
        ends_in_time_once(ready, "condition", wait_for_it, || notify(&all.condition));
    }
    let pass = || assert!(all.barrier.wait_with(wait).is_ok());
    ends_in_time_once(ready, "barrier", pass, pass);
    let fail = || assert!(matches!(all.barrier.wait_with(wait), Err(BarrierError::Broken)));
    ends_in_time_once(ready, "broken barrier", fail, || all.barrier.abort());
    all.barrier.reset();
    all.event.clear();
    let any = || drop(wait_any_with(&[&all.event, &all.semaphore], wait).unwrap());
    ends_in_time_once(ready, "any", any, || all.event.set());
    all.event.clear();
    let lead = all.lock.lock().unwrap();
    let call = || all.once.call_once_with(wait, |_| drop(all.lock.lock().unwrap())).unwrap();
    ends_in_time_once(ready, "once", call, || drop(lead));
}

#[test]
fn a_stranger_that_waits_by_pi_makes_no_wake_fail() {
    let all = new();
    let stranger = waiting_by_pi(&all, size_of::<All>());
    everybody_is_woken(&all, Wait::FOREVER, &|| ());
    let all = new();
    let another = waiting_by_pi(&all, size_of::<All>());
    everybody_is_woken(&all, Wait::timeout(PATIENCE), &|| ());
    kill(&stranger);
    kill(&another);
}

#[test]
fn one_that_was_passed_over_for_a_stranger_is_woken_at_once_when_that_is_gone() {
    let all = new();
    let stranger = waiting_by_pi(&all, size_of::<All>());
    // A release that woke nobody leaves the flag for a sleeper in the word.
    let sleeper = fork(|| {
        set_recheck_interval(None);
        all.semaphore.acquire_timeout(PATIENCE).unwrap();
        all.semaphore.acquire_timeout(PATIENCE).unwrap();
    });
    wait_until_asleep(&sleeper);
    all.semaphore.release().unwrap();
    kill(&stranger);
    let begun = Instant::now();
    all.semaphore.release().unwrap();
    join_all([sleeper]);
    assert!(begun.elapsed() < SOME_SLICES, "it took {:?}, to its deadline", begun.elapsed());
}

#[test]
fn a_stranger_that_waits_by_pi_on_the_word_as_on_a_lock_makes_no_wake_fail() {
    fn lock_by_pi(word: &AtomicU32, _: &AtomicU32) {
        futex(word.as_ptr(), libc::FUTEX_LOCK_PI, 0, 0, core::ptr::null_mut(), 0);
        thread::park();
    }
    let event = Shm::new(Event::new()).unwrap();
    // One stranger takes the word, and another waits for it.
    let one = stranger_on(&event, 4, lock_by_pi);
    let word = Mapping::new(event.as_fd(), CONTENTS + 4).unwrap();
    // SAFETY: inside the mapping.
    let at = unsafe { word.start().add(CONTENTS) };
    // SAFETY: aligned, and mapped as long as it is used here.
    let word = unsafe { AtomicU32::from_ptr(at.cast().as_ptr()) };
    wait_until("a stranger has the word", || word.load(Relaxed) != 0);
    let another = stranger_on(&event, 4, lock_by_pi);
    wait_until("another waits for it", || word.load(Relaxed) & libc::FUTEX_WAITERS != 0);
    word.store(0, Relaxed);
    ends_in_time("event", || event.wait(), || event.set());
    kill(&another);
    kill(&one);
}

#[test]
fn a_stranger_that_waits_by_pi_makes_no_wake_of_a_queue_fail() {
    let queue: Queue<u64> = Queue::new(2).unwrap();
    let strangers = [waiting_by_pi(&queue, 2_048)];
    ends_in_time("get", || assert_eq!(queue.get().unwrap(), 1), || queue.put(1).unwrap());
    queue.put(2).unwrap();
    queue.put(3).unwrap();
    ends_in_time("put", || queue.put(4).unwrap(), || assert_eq!(queue.get().unwrap(), 2));
    assert_eq!([queue.get().unwrap(), queue.get().unwrap()], [3, 4]);
    ends_in_time(
        "close",
        || assert!(matches!(queue.get(), Err(QueueError::Closed))),
        || queue.close().unwrap(),
    );
    let tasks: JoinableQueue<u64> = JoinableQueue::new(2).unwrap();
    let more = [waiting_by_pi(&tasks, 2_048)];
    ends_in_time("task", || tasks.get().unwrap().done(), || tasks.put(1).unwrap());
    tasks.put(2).unwrap();
    ends_in_time("join", || tasks.join().unwrap(), || tasks.get().unwrap().done());
    strangers.iter().chain(&more).for_each(kill);
}

#[test]
fn sleepers_that_a_stranger_requeues_wake_within_a_slice() {
    let all = new();
    let moved = MOVED.get_or_init(|| Shm::new(AtomicU32::new(0)).unwrap());
    let stranger = stranger_on(&all, size_of::<All>(), requeue);
    everybody_is_woken(&all, Wait::FOREVER, &|| {
        let before = moved.load(Relaxed);
        wait_until("the sleeper is moved", || moved.load(Relaxed) != before);
    });
    kill(&stranger);
}

#[test]
fn a_hole_that_a_stranger_punches_later_is_zeros_and_kills_nobody() {
    let all = new();
    let again: Shm<All> = Shm::attach(all.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let held = all.lock.lock().unwrap();
    join_all([fork(|| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&all, flags, CONTENTS as u64, size_of::<All>().next_multiple_of(CONTENTS) as u64)
            .unwrap();
    })]);
    assert!(!again.event.is_set());
    // The word that named the owner is gone, and so the lock is free.
    drop(held);
    *again.lock.lock_timeout(PATIENCE).unwrap() = 1;
    again.event.set();
    assert!(all.event.is_set() && *all.lock.lock().unwrap() == 1);
}

#[test]
fn a_stranger_can_seal_nothing_later() {
    let all = new();
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE, SealFlags::GROW] {
        assert_eq!(fcntl_add_seals(&all, seal), Err(rustix::io::Errno::PERM), "{seal:?}");
    }
    // This came with Linux 6.3; older kernels do not know it.
    let refused = fcntl_add_seals(&all, SealFlags::EXEC);
    assert!(
        matches!(refused, Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL)),
        "{refused:?}"
    );
}
