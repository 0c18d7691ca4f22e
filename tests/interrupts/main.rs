//! Every interruptible wait reports a signal within a slice, whenever the signal comes.

#![allow(unsafe_code)]

#[path = "../forked/mod.rs"]
mod forked;
#[path = "../served/mod.rs"]
mod served;
mod waits;

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::directory::DirectoryOptions;
use crossproc::process::Child;
use crossproc::{
    Barrier, BoundedSemaphore, Condition, Event, Lock, Once, Permits, Queue, RLock, RwLock,
    Semaphore, Shm, Wait, pipe, set_recheck_interval, shared, wait_any_with,
};

use forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};
use served::{Folder, abstract_address, serve};
use waits::{Waiting, ended, every_wait};

shared! {
    struct All {
        lock: Lock<()>,
        rlock: RLock<()>,
        read: RwLock<u32, 1>,
        write: RwLock<u32, 2>,
        all_reading: RwLock<u32, 1>,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        permits: Permits<2>,
        event: Event,
        condition: Condition,
        with: Lock<()>,
        with_rlock: RLock<()>,
        barrier: Barrier,
        once: Once,
        held: Event,
    }
}

fn all() -> Shm<All> {
    Shm::new(All {
        lock: Lock::new(()),
        rlock: RLock::new(()),
        read: RwLock::new(0),
        write: RwLock::new(0),
        all_reading: RwLock::new(0),
        semaphore: Semaphore::new(0),
        bounded: BoundedSemaphore::new(0),
        permits: Permits::new(),
        event: Event::new(),
        condition: Condition::new(),
        with: Lock::new(()),
        with_rlock: RLock::new(()),
        barrier: Barrier::new(2),
        once: Once::new(),
        held: Event::new(),
    })
    .unwrap()
}

/// Returns all primitives, and a process that holds what can be held.
fn all_held() -> (Shm<All>, Child) {
    let all = all();
    let theirs = all.clone();
    let holder = fork(move || {
        let _locks = (theirs.lock.lock().unwrap(), theirs.rlock.lock().unwrap());
        let _rwlocks = (
            theirs.read.write().unwrap(),
            theirs.write.read().unwrap(),
            theirs.all_reading.read().unwrap(),
        );
        let _permits = [theirs.permits.acquire().unwrap(), theirs.permits.acquire().unwrap()];
        theirs
            .once
            .call_once(|_| {
                theirs.held.set();
                loop {
                    thread::park();
                }
            })
            .unwrap();
    });
    all.held.wait();
    (all, holder)
}

static SIGNALLED: AtomicBool = AtomicBool::new(false);
static SIGNALS: AtomicU32 = AtomicU32::new(0);
/// How often the thread had gone to sleep when its handler ran.
static SLEPT_BEFORE: AtomicI64 = AtomicI64::new(0);

/// Returns how often the calling thread has gone to sleep.
fn slept() -> i64 {
    // SAFETY: zeroes are valid for every field.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: fills the structure. It disturbs nothing that a handler interrupts: it is a system
    // call and nothing else.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) }, 0);
    usage.ru_nvcsw
}

extern "C" fn on_signal(_: libc::c_int) {
    SLEPT_BEFORE.store(slept(), SeqCst);
    SIGNALS.fetch_add(1, SeqCst);
    SIGNALLED.store(true, SeqCst);
}

extern "C" fn on_other_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, SeqCst);
}

fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int), flags: libc::c_int) {
    // SAFETY: zeroes are valid for every field.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags;
    // SAFETY: the handlers store to atomics and make a system call, which is allowed in any
    // context.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) }, 0);
}

/// Sends a SIGALRM to this process after a time. Its other threads block all signals.
fn signal_after(time: Duration) {
    let once = libc::timeval { tv_sec: 0, tv_usec: time.as_micros().max(1) as i64 };
    let timer =
        libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: once };
    // SAFETY: reads the timer.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) }, 0);
}

const SLICE: Duration = Duration::from_millis(1);
const SIGNALS_PER_WAIT: u32 = 300;
/// The number of times that a thread may go to sleep after its handler has run. It does so for one
/// slice, and where it has to leave what other threads of its process work on.
const MOST_SLEEPS: i64 = 3;

/// Every second signal comes at the end of a slice, and the others at any time. On a busy machine,
/// a signal may be late, and so may a woken thread. So the test counts sleeps, and does not measure
/// time.
fn every_signal_is_told(name: &str, waiting: &mut Waiting, flags: libc::c_int) {
    handle(libc::SIGALRM, on_signal, flags);
    let mut random = fastrand::Rng::with_seed(name.len() as u64);
    for number in 0..SIGNALS_PER_WAIT {
        let micros = SLICE.as_micros() as u64;
        let after =
            if number % 2 == 0 { micros * random.u64(1..4) } else { random.u64(1..4 * micros) };
        signal_after(Duration::from_micros(after));
        let ended = waiting(Wait::timeout(Duration::from_secs(5)).interruptible_by(&SIGNALLED));
        assert_eq!(
            ended,
            io::ErrorKind::Interrupted,
            "{name}, after {after} µs: signal {number} of {} was missed",
            SIGNALS.load(SeqCst)
        );
        assert!(SIGNALLED.swap(false, SeqCst), "{name} was interrupted by nobody");
        let sleeps = slept() - SLEPT_BEFORE.load(SeqCst);
        assert!(
            sleeps <= MOST_SLEEPS,
            "{name} slept {sleeps} times after the handler of signal {number} had run"
        );
    }
    assert_eq!(SIGNALS.load(SeqCst), SIGNALS_PER_WAIT);
}

#[test]
fn every_wait_tells_of_every_signal_within_a_slice() {
    let folder = Folder::new();
    for flags in [0, libc::SA_RESTART] {
        let served = abstract_address();
        let server = serve(&served, DirectoryOptions::new());
        let (all, holder) = all_held();
        let _ = std::fs::remove_file(folder.path().join("crowd"));
        // A few run at a time, so that they are late now and then.
        let mut waits = every_wait(&all, &served, &folder).into_iter().peekable();
        while waits.peek().is_some() {
            let some: Vec<_> = waits.by_ref().take(8).collect();
            join_all(
                some.into_iter()
                    .map(|(name, make)| {
                        fork(move || {
                            let mut waiting = make();
                            set_recheck_interval(Some(SLICE));
                            every_signal_is_told(name, &mut waiting, flags);
                        })
                    })
                    .collect::<Vec<_>>(),
            );
        }
        kill(&holder);
        kill(&server);
    }
}

/// The kernel's report is enough where the thread is asleep when the signal comes, even without
/// slices.
#[test]
fn a_signal_ends_a_sleep_at_once() {
    let folder = Folder::new();
    let served = abstract_address();
    let server = serve(&served, DirectoryOptions::new());
    let (all, holder) = all_held();
    for (name, make) in every_wait(&all, &served, &folder) {
        // The first two look again every 20 ms or every 1 ms, and the last one sleeps in
        // connect(2).
        if ["server at a name", "debugger", "crowd"].iter().any(|part| name.contains(part)) {
            continue;
        }
        let waits = fork(move || {
            handle(libc::SIGALRM, on_signal, 0);
            let mut waiting = make();
            assert_eq!(
                waiting(Wait::FOREVER.interruptible_by(&SIGNALLED)),
                io::ErrorKind::Interrupted,
                "{name}"
            );
        });
        let pid = waits.id() as libc::pid_t;
        wait_until("the handler is there", || handles(pid, libc::SIGALRM));
        wait_until_asleep(&waits);
        // The process may have been asleep for another reason, before its wait. So signals are sent
        // until one ends it.
        wait_until("it has ended", || {
            // SAFETY: signals a child that is not reaped yet.
            assert_eq!(unsafe { libc::kill(pid, libc::SIGALRM) }, 0);
            waits.join_timeout(Duration::from_millis(10)).is_ok()
        });
        assert!(waits.join().unwrap().success(), "{name}");
    }
    kill(&holder);
    kill(&server);
}

/// Returns whether the process catches the signal.
fn handles(pid: libc::pid_t, signal: libc::c_int) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << (signal - 1) != 0
}

/// The flag is set as by a handler that runs in another thread. Nothing tells the kernel: only the
/// looks see it.
#[test]
fn a_flag_that_another_thread_sets_ends_every_wait() {
    let folder = Folder::new();
    let served = abstract_address();
    let server = serve(&served, DirectoryOptions::new());
    let (all, holder) = all_held();
    for (name, make) in every_wait(&all, &served, &folder) {
        join_all([fork(move || {
            let mut waiting = make();
            set_recheck_interval(Some(SLICE));
            thread::scope(|scope| {
                scope.spawn(|| {
                    let path = format!("/proc/self/task/{}/syscall", std::process::id());
                    let calls = [
                        libc::SYS_futex,
                        libc::SYS_futex_waitv,
                        libc::SYS_ppoll,
                        libc::SYS_connect,
                        libc::SYS_clock_nanosleep,
                    ];
                    let sleeps = |call: &str| {
                        calls.iter().any(|sleeps| call.starts_with(&format!("{sleeps} ")))
                    };
                    wait_until("it sleeps", || {
                        std::fs::read_to_string(&path).is_ok_and(|call| sleeps(&call))
                    });
                    SIGNALLED.store(true, SeqCst);
                });
                assert_eq!(
                    waiting(Wait::timeout(PATIENCE / 3).interruptible_by(&SIGNALLED)),
                    io::ErrorKind::Interrupted,
                    "{name}"
                );
            });
        })]);
    }
    kill(&holder);
    kill(&server);
}

#[test]
fn a_handler_that_leaves_the_flag_alone_ends_no_wait() {
    let folder = Folder::new();
    let served = abstract_address();
    let server = serve(&served, DirectoryOptions::new());
    let (all, holder) = all_held();
    for (name, make) in every_wait(&all, &served, &folder) {
        join_all([fork(move || {
            handle(libc::SIGALRM, on_other_signal, 0);
            let mut waiting = make();
            set_recheck_interval(Some(Duration::from_millis(100)));
            for time in [1, 3] {
                signal_after(Duration::from_millis(time));
                let began = Instant::now();
                let timeout = Duration::from_millis(10);
                assert_eq!(
                    waiting(Wait::timeout(timeout).interruptible_by(&SIGNALLED)),
                    io::ErrorKind::TimedOut,
                    "{name}"
                );
                assert!(began.elapsed() >= timeout, "{name}");
            }
            assert_eq!(SIGNALS.load(SeqCst), 2);
        })]);
    }
    kill(&holder);
    kill(&server);
}

#[test]
fn what_can_be_done_at_once_is_done_and_a_deadline_counts_though_the_flag_is_set() {
    static SET: AtomicBool = AtomicBool::new(true);
    let wait = Wait::timeout(PATIENCE).interruptible_by(&SET);
    let all = all();
    drop(all.lock.lock_with(wait).unwrap());
    all.event.set();
    all.event.wait_with(wait).unwrap();
    let queue: Queue<u64> = Queue::new(2).unwrap();
    queue.put_with(7, wait).unwrap();
    assert_eq!(queue.get_with(wait).unwrap(), 7);
    let (one, other) = pipe().unwrap();
    one.send_with(b"x", wait).unwrap();
    assert!(other.poll_with(wait).unwrap());
    assert_eq!(wait_any_with(&[&other], wait).unwrap(), [0]);
    assert_eq!(wait_any_with(&[&all.event], wait).unwrap(), [0]);
    assert_eq!(wait_any_with(&[&all.event, &other], wait).unwrap(), [0, 1]);
    assert_eq!(&*other.recv_with(wait).unwrap(), b"x");
    all.event.clear();
    assert_eq!(ended(all.event.wait_with(wait)), io::ErrorKind::Interrupted);
    assert_eq!(
        ended(all.event.wait_with(Wait::NONE.interruptible_by(&SET))),
        io::ErrorKind::TimedOut
    );
    assert_eq!(ended(queue.get_with(Wait::NONE.interruptible_by(&SET))), io::ErrorKind::TimedOut);
    assert_eq!(ended(other.recv_with(Wait::NONE.interruptible_by(&SET))), io::ErrorKind::TimedOut);
}
