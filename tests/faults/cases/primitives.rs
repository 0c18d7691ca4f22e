//! The synchronisation primitives, each while it sleeps and while it wakes.

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::Instant;

use crossproc::{
    Barrier, BarrierError, BoundedSemaphore, Condition, ConditionError, Event, EventError, Lock,
    LockError, Once, OnceError, Permits, PermitsError, RLock, RwLock, Semaphore, SemaphoreError,
    Shm, Wait, shared,
};

use super::{Case, Peer, eventually};
use crate::probe::{LONG, Outcome, Probe, SHORT, done, require};

shared! {
    struct All {
        lock: Lock<u64>,
        rlock: RLock<u64>,
        rwlock: RwLock<u64>,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        permits: Permits<1>,
        event: Event,
        condition: Condition,
        barrier: Barrier,
        once: Once,
        woken: AtomicU32,
    }
}

fn objects() -> Shm<All> {
    let all = Shm::new(All {
        lock: Lock::new(0),
        rlock: RLock::new(0),
        rwlock: RwLock::new(0),
        semaphore: Semaphore::new(0),
        bounded: BoundedSemaphore::new(1),
        permits: Permits::new(),
        event: Event::new(),
        condition: Condition::new(),
        barrier: Barrier::new(2),
        once: Once::new(),
        woken: AtomicU32::new(0),
    });
    all.unwrap()
}

/// Requires that a wait times out, and not too early. `is_late` recognises the error for that.
fn times_out<T, E: Error + 'static>(
    wait: impl FnOnce() -> Result<T, E>,
    is_late: impl FnOnce(&E) -> bool,
) -> Outcome {
    let begun = Instant::now();
    match wait() {
        Ok(_) => Ok(require(false, "the time is over")?),
        Err(error) if is_late(&error) => {
            Ok(require(begun.elapsed() >= SHORT, "it waits until the time is over")?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Runs a wait that a peer ends.
fn woken(probe: Probe<'_>, all: &All, wake: impl FnMut() + Send, wait: impl Fn(&All) -> Outcome) {
    let peer = Peer::new(wake);
    let operation = || {
        peer.ask();
        wait(all)
    };
    probe.operate_and_look(operation, |_| peer.finish());
}

/// Runs a wake-up that a peer sleeps for. It arrives, a slice later if the kernel refuses it.
fn wakes(
    probe: Probe<'_>,
    all: &All,
    sleep: impl Fn(&All) + Send + Sync,
    wake: impl Fn(&All) -> Outcome,
) {
    let peer = Peer::new(|| {
        sleep(all);
        all.woken.fetch_add(1, Release);
    });
    peer.ask();
    // In the first look, the operation has woken the peer. In the second look, its repetition has.
    let look = |has_waked| {
        if has_waked {
            peer.finish()?;
            peer.ask();
        }
        Ok(())
    };
    probe.operate_and_look(|| wake(all), look);
}

pub(super) fn add(all: &mut Vec<Case>) {
    let mut case = |name, run| all.push(Case { name, run });
    case("lock: a thread's first", |probe| {
        let all = objects();
        probe.operate(|| {
            *all.lock.lock()? += 1;
            Ok(())
        });
    });
    case("lock: another thread's first", |probe| {
        let all = objects();
        let locks = || all.lock.lock().map(drop);
        let operation = || {
            thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, locks) {
                Ok(thread) => Ok(thread.join().unwrap()?),
                Err(error) => Err(format!("std spawns no thread: {error}").into()),
            })
        };
        probe.operate(operation);
    });
    case("lock: times out", |probe| {
        let all = objects();
        let holder = Peer::new(|| core::mem::forget(all.lock.lock().unwrap()));
        holder.ask();
        holder.finish().unwrap();
        probe.operate(|| {
            times_out(|| all.lock.lock_timeout(SHORT), |error| matches!(error, LockError::TimedOut))
        });
    });
    case("lock: is woken", |probe| {
        let all = objects();
        let peer = Peer::new(|| {
            let held = all.lock.lock().unwrap();
            all.woken.fetch_add(1, Release);
            thread::sleep(SHORT);
            drop(held);
        });
        let operation = || {
            let before = all.woken.load(Acquire);
            peer.ask();
            eventually("the peer has the lock", || all.woken.load(Acquire) > before)?;
            done(all.lock.lock_timeout(LONG)?)
        };
        probe.operate_and_look(operation, |_| peer.finish());
    });
    case("lock: a dead owner's", |probe| {
        let all = objects();
        let operation = || done(all.lock.lock_or_repair_timeout(LONG, |_| ())?);
        let dead = Peer::new(|| {
            core::mem::forget(all.lock.lock().unwrap());
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) };
        });
        dead.ask();
        dead.end().unwrap();
        probe.operate(operation);
    });
    case("rlock: times out", |probe| {
        let all = objects();
        let holder = Peer::new(|| core::mem::forget(all.rlock.lock().unwrap()));
        holder.ask();
        holder.finish().unwrap();
        probe.operate(|| {
            times_out(
                || all.rlock.lock_timeout(SHORT),
                |error| matches!(error, LockError::TimedOut),
            )
        });
    });
    case("rwlock: a reader times out", |probe| {
        let all = objects();
        let holder = Peer::new(|| core::mem::forget(all.rwlock.write().unwrap()));
        holder.ask();
        holder.finish().unwrap();
        probe.operate(|| {
            times_out(
                || all.rwlock.read_timeout(SHORT),
                |error| matches!(error, LockError::TimedOut),
            )
        });
    });
    case("rwlock: a writer times out", |probe| {
        let all = objects();
        let holder = Peer::new(|| core::mem::forget(all.rwlock.read().unwrap()));
        holder.ask();
        holder.finish().unwrap();
        probe.operate(|| {
            times_out(
                || all.rwlock.write_timeout(SHORT),
                |error| matches!(error, LockError::TimedOut),
            )
        });
    });
    case("rwlock: a thread's first", |probe| {
        let all = objects();
        let operation = || {
            *all.rwlock.write()? += 1;
            Ok(())
        };
        probe.operate(operation);
    });
    case("semaphore: times out", |probe| {
        let all = objects();
        probe.operate(|| {
            times_out(
                || all.semaphore.acquire_timeout(SHORT),
                |error| *error == SemaphoreError::TimedOut,
            )
        });
    });
    case("semaphore: is woken", |probe| {
        let all = objects();
        woken(
            probe,
            &all,
            || all.semaphore.release().unwrap(),
            |all| Ok(all.semaphore.acquire_timeout(LONG)?),
        );
    });
    case("semaphore: wakes", |probe| {
        let all = objects();
        wakes(probe, &all, |all| all.semaphore.acquire(), |all| Ok(all.semaphore.release()?));
    });
    case("bounded semaphore: times out", |probe| {
        let all = objects();
        all.bounded.acquire();
        probe.operate(|| {
            times_out(
                || all.bounded.acquire_timeout(SHORT),
                |error| *error == SemaphoreError::TimedOut,
            )
        });
    });
    case("permits: time out", |probe| {
        let all = objects();
        let holder = Peer::new(|| core::mem::forget(all.permits.acquire().unwrap()));
        holder.ask();
        holder.finish().unwrap();
        probe.operate(|| {
            times_out(
                || all.permits.acquire_timeout(SHORT),
                |error| matches!(error, PermitsError::TimedOut),
            )
        });
    });
    case("permits: a thread's first", |probe| {
        let all = objects();
        probe.operate(|| done(all.permits.acquire()?));
    });
    case("event: times out", |probe| {
        let all = objects();
        probe.operate(|| {
            times_out(|| all.event.wait_timeout(SHORT), |error| *error == EventError::TimedOut)
        });
    });
    case("event: is woken", |probe| {
        let all = objects();
        woken(
            probe,
            &all,
            || all.event.set(),
            |all| {
                all.event.wait_timeout(LONG)?;
                all.event.clear();
                Ok(())
            },
        );
    });
    case("event: wakes", |probe| {
        let all = objects();
        let sleeps = |all: &All| {
            all.event.wait();
            all.event.clear();
        };
        wakes(probe, &all, sleeps, |all| {
            all.event.set();
            Ok(())
        });
    });
    case("condition: times out", |probe| {
        let all = objects();
        probe.operate(|| {
            let mut held = all.lock.lock()?;
            times_out(
                || all.condition.wait_timeout(&mut held, SHORT),
                |error| matches!(error, ConditionError::TimedOut),
            )
        });
    });
    case("condition: is woken", |probe| {
        let all = objects();
        let notifies = || {
            *all.lock.lock().unwrap() += 1;
            all.condition.notify_one();
        };
        woken(probe, &all, notifies, |all| {
            let mut held = all.lock.lock()?;
            Ok(all
                .condition
                .wait_while_timeout(&mut held, LONG, |value| *value == 0)
                .map(|()| *held = 0)?)
        });
    });
    case("condition: wakes", |probe| {
        let all = objects();
        let sleeps = |all: &All| {
            let mut held = all.lock.lock().unwrap();
            all.condition.wait_while(&mut held, |value| *value == 0).unwrap();
            *held = 0;
        };
        wakes(probe, &all, sleeps, |all| {
            *all.lock.lock()? = 1;
            all.condition.notify_all();
            Ok(())
        });
    });
    case("barrier: times out", |probe| {
        let all = objects();
        probe.operate(|| {
            all.barrier.reset();
            times_out(
                || all.barrier.wait_timeout(SHORT),
                |error| matches!(error, BarrierError::TimedOut),
            )
        });
    });
    case("barrier: is passed", |probe| {
        let all = objects();
        woken(
            probe,
            &all,
            || _ = all.barrier.wait().unwrap(),
            |all| Ok(all.barrier.wait_timeout(LONG).map(|_| ())?),
        );
    });
    case("once: called", |probe| {
        let all = objects();
        probe.operate(|| Ok(all.once.call_once(|_| ())?));
    });
    case("once: times out", |probe| {
        let all = objects();
        let caller = Peer::new(|| {
            let _ = all.once.call_once(|_| {
                all.event.set();
                loop {
                    thread::park();
                }
            });
        });
        caller.ask();
        all.event.wait();
        probe.operate(|| {
            times_out(
                || all.once.call_once_with(Wait::timeout(SHORT), |_| ()),
                |error| matches!(error, OnceError::TimedOut),
            )
        });
    });
}
