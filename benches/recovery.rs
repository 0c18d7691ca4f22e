//! How long it takes from a process's death by SIGKILL until another one, which sleeps, has what
//! the dead one held: a lock, a task of a queue, or the room that a subscriber did not leave.
//! Beside a robust pthread mutex.

mod beside {
    pub(crate) mod mutual_exclusion;
    pub(crate) mod pthread_mutex;
}

use core::mem::forget;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread;

use crossproc::{Broadcast, JoinableQueue, Lock, Shm};

use self::beside::pthread_mutex::PthreadMutex;
use self::beside::pthread_mutex::Robustness::Robust;
use crossproc_harness::asleep::wait_until;
use crossproc_harness::latencies::{Latencies, rows};
use crossproc_harness::placement::Placement;
use crossproc_harness::ratios::{Figures, Ratios};
use crossproc_harness::team::{Team, fork};

const PERCENTS: [f64; 2] = [50.0, 99.0];

/// The deaths before the first that is measured.
const FIRST_ROUND: u64 = 1;

fn main() {
    crossproc_harness::run("Recovery", &[], |_| {}, compare);
}

/// Returns what measures so many deaths. A process calls `hold`, and is killed; another one waits
/// in `take_over` at that time. What this returns is dropped before the next one.
fn deaths<R>(times: u64, hold: impl Fn() + Sync, take_over: impl Fn() -> R + Sync) -> Figures {
    let latencies = Latencies::new(times as usize);
    let is_held = Shm::new(AtomicU32::new(0)).unwrap();
    let hold_and_tell = || {
        hold();
        // Release: pairs with the Acquire below.
        is_held.store(1, Release);
        loop {
            thread::park();
        }
    };
    let prepare = || {
        // Relaxed: the fork comes after it.
        is_held.store(0, Relaxed);
        let holder = fork(hold_and_tell);
        // Acquire: pairs with the Release above.
        wait_until(|| is_held.load(Acquire) == 1);
        holder
    };
    let team = Team::of_processes_warmed_up(2, Placement::FREE, FIRST_ROUND, |index, times| {
        if index == 0 {
            latencies.end(times, prepare, |holder| {
                holder.kill().unwrap();
                holder.join().unwrap();
            });
        } else {
            latencies.wait(times, &take_over);
        }
    });
    latencies.clone().sampler(team, times, &PERCENTS)
}

/// Unlocks when it is dropped.
struct Unlock<'a>(&'a PthreadMutex<u64>);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

fn of_lock(times: u64) -> Figures {
    let lock = Shm::new(Lock::new(0_u64)).unwrap();
    deaths(times, || forget(lock.lock().unwrap()), || lock.lock_or_repair(|_| ()).unwrap())
}

fn of_mutex(times: u64) -> Figures {
    let mutex = PthreadMutex::shared(Robust, 0);
    deaths(
        times,
        || mutex.hold(),
        || {
            mutex.take_over();
            Unlock(&mutex)
        },
    )
}

/// The holder puts a task and takes it, and its successor is done with it.
fn of_queue(times: u64) -> Figures {
    let queue = JoinableQueue::<u64>::new(1).unwrap();
    let hold = || {
        queue.put(1).unwrap();
        forget(queue.get().unwrap());
    };
    deaths(times, hold, || queue.get().unwrap().done())
}

/// The holder subscribes and does not read, and its successor sends.
fn of_broadcast(times: u64) -> Figures {
    let broadcast = Broadcast::<u64>::new(1).unwrap();
    let hold = || {
        forget(broadcast.subscribe().unwrap());
        broadcast.send(1).unwrap();
    };
    deaths(times, hold, || broadcast.send(2).unwrap())
}

fn compare(ratios: &mut Ratios) {
    let times = ratios.effort().choose(200, 50, 1);
    let rival = "pthread robust pshared";
    let operation = rows("a killed owner's lock", &PERCENTS);
    ratios.compare_figures(operation, of_lock(times), rival, of_mutex(times));
    // There is no other queue of the system's or of POSIX's that hands on a task. So this is beside
    // the least that hands on anything.
    let operation = rows("a killed worker's task", &PERCENTS);
    ratios.compare_figures(operation, of_queue(times), rival, of_mutex(times));
    let operation = rows("a killed subscriber's room", &PERCENTS);
    ratios.compare_figures(operation, of_broadcast(times), rival, of_mutex(times));
}
