//! A stranger turns the kernel against the processes that share memory with it: by waits that make
//! wakes fail, by requeues, and by what a sandbox refuses. Wakes may then come late, by a slice.
//! Nobody panics, sleeps on, or spins.

#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::{Builder, Child, Exit};
use crossproc::{
    Barrier, BarrierError, BoundedSemaphore, Condition, Event, EventError, JoinableQueue, Lock,
    LockError, Once, Permits, Queue, QueueError, RLock, Readable, RwLock, Semaphore,
    SemaphoreError, Shm, Wait, WaitAnyError, set_recheck_interval, shared, wait_any_with,
};
use crossproc_sys::memory::Mapping;
use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals};

mod forked;
mod refused;
use forked::{PATIENCE, join_all, kill, wait_until, wait_until_asleep};

/// The offset at which a region's contents begin.
const CONTENTS: usize = 4_096;
/// How long a sleeper may take that only a slice wakes: some slices, on a busy machine.
const SOME_SLICES: Duration = Duration::from_secs(5);

shared! {
    struct All {
        event: Event,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        lock: Lock<u64>,
        rlock: RLock<u64>,
        rwlock: RwLock<u64, 2>,
        permits: Permits<2>,
        condition: Condition,
        barrier: Barrier,
        once: Once,
    }
}

fn new() -> Shm<All> {
    let all = Shm::new(All {
        event: Event::new(),
        semaphore: Semaphore::new(0),
        bounded: BoundedSemaphore::new(1),
        lock: Lock::new(0),
        rlock: RLock::new(0),
        rwlock: RwLock::new(0),
        permits: Permits::new(),
        condition: Condition::new(),
        barrier: Barrier::new(2),
        once: Once::new(),
    })
    .unwrap();
    all.bounded.try_acquire().unwrap();
    all
}

/// Forks a child that dies with the test. Slices are as they are in any program.
fn fork<R: Exit>(body: impl FnOnce() -> R + Send) -> Child {
    // SAFETY: as in `forked::fork`.
    unsafe { Builder::new().daemon(true).fork_with_threads(body) }.expect("a child can be forked")
}

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

const FUTEX: i64 = libc::SYS_futex;
const WAITV: i64 = libc::SYS_futex_waitv;

/// Errnos of the kernel and of sandboxes.
const ERRNOS: [i32; 8] = [
    libc::EPERM,
    libc::EACCES,
    libc::ENOSYS,
    libc::EINVAL,
    libc::EFAULT,
    libc::ENOMEM,
    libc::EMFILE,
    libc::ENFILE,
];

/// Returns the time that this process has spent on a CPU.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Checks everything that can be waited for, in a process that the kernel lets sleep on nothing.
fn times_out_without_spinning(all: &All) {
    let short = Duration::from_millis(60);
    let (begun, spent) = (Instant::now(), cpu_time());
    assert_eq!(all.event.wait_timeout(short), Err(EventError::TimedOut));
    assert_eq!(all.semaphore.acquire_timeout(short), Err(SemaphoreError::TimedOut));
    assert!(matches!(all.rwlock.write_timeout(short), Err(LockError::TimedOut)));
    assert!(matches!(all.permits.acquire_timeout(short), Err(crossproc::PermitsError::TimedOut)));
    assert!(matches!(all.rlock.lock_timeout(short), Err(LockError::TimedOut)));
    assert!(matches!(
        all.condition.wait_timeout(&mut all.lock.lock().unwrap(), short),
        Err(crossproc::ConditionError::TimedOut)
    ));
    assert!(wait_any_with(&[&all.event, &all.semaphore], Wait::timeout(short)).is_err());
    assert!(matches!(all.barrier.wait_timeout(short), Err(BarrierError::TimedOut)));
    let (took, spent) = (begun.elapsed(), cpu_time() - spent);
    assert!(took >= 8 * short && took < 8 * short + SOME_SLICES, "{took:?}");
    assert!(spent < took / 3, "{spent:?} of {took:?} on a CPU");
}

#[test]
fn a_sandbox_that_refuses_futexes_makes_waits_slow_and_no_more() {
    for errno in ERRNOS {
        let all = new();
        let held = (
            all.rwlock.read().unwrap(),
            all.rlock.lock().unwrap(),
            all.permits.acquire().unwrap(),
            all.permits.acquire().unwrap(),
        );
        let phase = Shm::new(AtomicU32::new(0)).unwrap();
        let sandboxed = fork(|| {
            refused::refuse(&[refused::call(FUTEX, errno), refused::call(WAITV, errno)]);
            times_out_without_spinning(&all);
            set_recheck_interval(None);
            all.barrier.reset();
            times_out_without_spinning(&all);
            phase.store(1, Relaxed);
            // The process sees what another one does, although it gets no wake-up.
            all.event.wait();
            all.semaphore.release().unwrap();
            // libc ends a process that is refused futexes where two threads want one of libc's
            // locks.
            assert_eq!(
                std::fs::read_dir("/proc/self/task").unwrap().count(),
                1,
                "it has started no thread"
            );
        });
        wait_until("it has timed out everywhere", || {
            phase.load(Relaxed) == 1 || !sandboxed.is_alive().unwrap()
        });
        all.event.set();
        let status = sandboxed.join_timeout(PATIENCE).unwrap();
        assert!(status.success(), "errno {errno}: {status}");
        all.semaphore.acquire_timeout(PATIENCE).unwrap();
        drop(held);
    }
}

#[test]
fn a_sandbox_that_refuses_every_sleep_leaves_the_deadline() {
    let all = new();
    join_all([fork(|| {
        let sleeps = [FUTEX, WAITV, libc::SYS_clock_nanosleep, libc::SYS_nanosleep];
        refused::refuse(&sleeps.map(|call| refused::call(call, libc::EPERM)));
        let spent = cpu_time();
        assert_eq!(all.event.wait_timeout(Duration::from_millis(300)), Err(EventError::TimedOut));
        assert!(cpu_time() - spent < Duration::from_millis(100), "it sleeps by `ppoll`");
        refused::refuse(&[refused::call(libc::SYS_ppoll, libc::EPERM)]);
        assert_eq!(all.event.wait_timeout(Duration::from_millis(30)), Err(EventError::TimedOut));
    })]);
}

/// A sandbox answers every look at descriptors with an interruption.
#[test]
fn a_look_that_is_always_interrupted_ends() {
    let all = new();
    let (ended, lives) = (fork(|| ()), fork(|| std::thread::sleep(PATIENCE)));
    crossproc_sys::pidfd::wait(&ended, None).unwrap();
    join_all([fork(|| {
        let (here, _there) = crossproc::pipe().unwrap();
        refused::refuse(&[refused::call(libc::SYS_ppoll, libc::EINTR)]);
        let wait = Wait::timeout(Duration::from_millis(50));
        let begun = Instant::now();
        let is_interrupted = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
        assert!(matches!(
            wait_any_with(&[&here,
            &all.event], wait), Err(WaitAnyError::Os(error))
                if is_interrupted(&error)
        ));
        for child in [&ended, &lives] {
            assert!(is_interrupted(&crossproc_sys::pidfd::wait(child, Some(0)).unwrap_err()));
        }
        assert!(is_interrupted(&Builder::new().fork(|| ()).unwrap_err()));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    })]);
    kill(&lives);
}

/// As before Linux 5.16, a thread sleeps on one word at a time. No slice ends a sleep in these
/// children.
#[test]
fn without_a_wait_for_several_words_everybody_wakes_within_a_tenth_of_a_second() {
    let tasks = JoinableQueue::<u64>::new(4).unwrap();
    let (all, holds) = (new(), Shm::new(Event::new()).unwrap());
    tasks.put(1).unwrap();
    let reader = fork(|| -> () {
        let _task = tasks.get().unwrap();
        let _guard = all.rwlock.read().unwrap();
        holds.set();
        loop {
            std::thread::park();
        }
    });
    holds.wait_timeout(PATIENCE).unwrap();
    let without = |body: fn(&All, &JoinableQueue<u64>)| {
        let (all, tasks) = (&all, &tasks);
        let child = fork(move || {
            set_recheck_interval(None);
            refused::refuse(&[refused::call(WAITV, libc::ENOSYS)]);
            body(all, tasks);
        });
        wait_until_asleep(&child);
        child
    };
    let sleepers = [
        without(|_, tasks| tasks.get().unwrap().done()),
        without(|_, tasks| tasks.join().unwrap()),
        without(|all, _| drop(all.rwlock.write())),
        without(|all, _| all.event.wait()),
    ];
    kill(&reader);
    // The event was set, and is set no more.
    all.event.set();
    all.event.clear();
    let begun = Instant::now();
    join_all(sleepers);
    assert!(begun.elapsed() < Duration::from_secs(2) * forked::slowness(), "{:?}", begun.elapsed());
}

#[test]
fn a_refusal_of_some_words_is_none_of_the_others() {
    use crossproc_sys::futex::{Awake, Watch, wait_any};
    let words = [const { crossproc_sys::atomic::AtomicU32::new(0) }; 2];
    for errno in ERRNOS {
        join_all([fork(|| {
            let watches = words.each_ref().map(|word| Watch::new(word, 0));
            refused::refuse(&[refused::call(WAITV, errno).if_argument(1, 1)]);
            assert_eq!(wait_any(&watches[..1], Some(0)), None, "errno {errno}");
            assert_eq!(wait_any(&watches, Some(0)), Some(Awake::TimedOut), "errno {errno}");
        })]);
    }
}

/// The other half of the word has changed, and nobody wakes a sleeper on this half.
#[test]
fn without_a_wait_for_several_words_a_changed_half_is_seen_after_a_tenth_of_a_second() {
    use crossproc_sys::clock::now;
    use crossproc_sys::futex::{Awake, wait_whole};
    const SECOND: u64 = 1_000_000_000;
    let word = crossproc_sys::atomic::AtomicU64::new(1 << 32 | 7);
    join_all([fork(|| {
        refused::refuse(&[refused::call(WAITV, libc::ENOSYS)]);
        let begun = now();
        assert_eq!(wait_whole(&word, 7, Some(begun + 100 * SECOND)), Awake::Changed);
        assert!((SECOND / 20..10 * SECOND).contains(&(now() - begun)));
        assert_eq!(wait_whole(&word, 8, None), Awake::Changed);
        let deadline = now() + SECOND / 1_000;
        assert_eq!(wait_whole(&word, 7, Some(deadline)), Awake::TimedOut);
    })]);
}

#[test]
fn a_short_sleep_that_is_refused_takes_its_time_all_the_same() {
    use crossproc_sys::futex::{Awake, Watch, wait, wait_briefly, wait_whole};
    let word = crossproc_sys::atomic::AtomicU32::new(7);
    let whole = crossproc_sys::atomic::AtomicU64::new(7);
    assert_eq!(format!("{:?}", Watch::new(&word, 7)), "Watch(7)");
    for errno in ERRNOS {
        join_all([fork(|| {
            refused::refuse(&[FUTEX, WAITV].map(|call| refused::call(call, errno)));
            let begun = Instant::now();
            assert_eq!(wait_briefly(&word, 7, 30_000_000, None), None, "errno {errno}");
            assert!(begun.elapsed() >= Duration::from_millis(30));
            assert_eq!(Watch::new(&word, 7).wait_briefly(1_000_000, None), None, "errno {errno}");
            let deadline = crossproc_sys::clock::now() + 1_000_000;
            assert_eq!(wait(&word, 7, Some(deadline)), Awake::TimedOut);
            assert_eq!(wait_whole(&whole, 7, Some(deadline)), Awake::TimedOut);
            assert_eq!(wait(&word, 7, None), Awake::Refused);
        })]);
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Sends signals to the sleeper until it says that its waits have ended.
fn signal_until(is_told: &AtomicU32, sleeper: &Child) {
    wait_until("the sleeper is interrupted", || {
        // SAFETY: signals a child that has not been waited for.
        unsafe { libc::kill(sleeper.id() as i32, libc::SIGUSR1) };
        is_told.load(SeqCst) != 0
    });
}

#[test]
fn a_signal_interrupts_a_sleep_that_is_refused_and_a_wait_for_a_process_goes_on() {
    use crossproc_sys::futex::{Awake, wait};
    let [ready, told] = [(); 2].map(|()| Shm::new(AtomicU32::new(0)).unwrap());
    let (their_ready, their_told) = (ready.clone(), told.clone());
    let sleeper = fork(move || {
        // SAFETY: installs a handler that does nothing.
        unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t) };
        let park = || -> () {
            loop {
                thread::park();
            }
        };
        let endless = Builder::new().daemon(true).fork(park).unwrap();
        refused::refuse(&[refused::call(FUTEX, libc::EPERM)]);
        their_ready.store(1, SeqCst);
        let word = crossproc_sys::atomic::AtomicU32::new(7);
        // A signal may come between two sleeps.
        while wait(&word, 7, None) != Awake::Interrupted {}
        // Each signal ends a poll, and none ends this wait.
        let timeout = Duration::from_millis(100);
        let begun = Instant::now();
        assert_eq!(endless.join_timeout(timeout).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= timeout);
        let pid = rustix::process::Pid::from_raw(endless.id() as i32).unwrap();
        let descriptor = crossproc_sys::pidfd::open(pid).unwrap();
        let deadline = crossproc_sys::clock::now() + timeout.as_nanos() as u64;
        assert!(!crossproc_sys::pidfd::wait(&descriptor, Some(deadline)).unwrap());
        assert!(crossproc_sys::clock::now() >= deadline);
        their_told.store(1, SeqCst);
        endless.kill().unwrap();
    });
    wait_until("the sleeper is ready", || ready.load(SeqCst) != 0);
    signal_until(&told, &sleeper);
    join_all([sleeper]);
}

#[test]
fn words_that_cannot_be_slept_on_make_no_thread_spin() {
    let all = new();
    for errno in ERRNOS {
        join_all([fork(|| {
            refused::refuse(&[refused::call(WAITV, errno)]);
            let (reader, _writer) = rustix::pipe::pipe().unwrap();
            // There is a descriptor, so that a thread sleeps on the words.
            let wait = |time| wait_any_with(&[&all.event, &Readable(&reader)], Wait::timeout(time));
            // The thread starts before the measurement.
            assert!(matches!(wait(Duration::from_millis(1)), Err(WaitAnyError::TimedOut)));
            let (began, before) = (Instant::now(), cpu_time());
            assert!(matches!(wait(Duration::from_millis(500)), Err(WaitAnyError::TimedOut)));
            let (took, spent) = (began.elapsed(), cpu_time() - before);
            // A thread that spins takes all of it. Under emulation, the looks take a third or more.
            assert!(
                spent < took * if forked::slowness() > 1 { 2 } else { 1 } / 3,
                "errno {errno}: {spent:?} of {took:?}"
            );
        })]);
    }
}
