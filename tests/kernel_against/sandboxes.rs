//! A sandbox refuses system calls.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::{Builder, Child};
use crossproc::{
    BarrierError, Event, EventError, JoinableQueue, LockError, Queue, Readable, SemaphoreError,
    Shm, Wait, WaitAnyError, set_recheck_interval, wait_any_with,
};

use super::{All, SOME_SLICES, fork, new};
use crate::forked::{self, PATIENCE, join_all, kill, wait_until, wait_until_asleep};
use crate::refused;

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

/// The sleeper's own word stays as it is: it lags behind.
#[test]
fn without_a_wait_for_several_words_a_put_that_wakes_nobody_is_seen_after_a_tenth_of_a_second() {
    let queue = Queue::<u64>::new(4).unwrap();
    let getter = fork(|| {
        set_recheck_interval(None);
        refused::refuse(&[refused::call(WAITV, libc::ENOSYS)]);
        assert_eq!(queue.get().unwrap(), 7);
    });
    wait_until_asleep(&getter);
    join_all([fork(|| {
        refused::refuse(&[refused::call(FUTEX, libc::EPERM)]);
        queue.put(7).unwrap();
    })]);
    getter.join_timeout(PATIENCE).unwrap();
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
        // No wake could reach it through that half.
        assert_eq!(wait_whole(&word, 7, Some(begun + 100 * SECOND)), Awake::Refused);
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

/// Sends signals to the sleeper until it says that its waits have ended. Between two of them, the
/// sleeper gets to its next call, also in a build that is slow: a call that is interrupted a
/// hundred times in a row is taken for one that a sandbox refuses.
fn signal_until(is_told: &AtomicU32, sleeper: &Child) {
    wait_until("the sleeper is interrupted", || {
        thread::sleep(Duration::from_micros(200));
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
