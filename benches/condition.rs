//! [`crossproc::Condition`] with a [`crossproc::Lock`] beside other locks with conditions, and
//! beside bare futexes.

mod beside {
    pub(crate) mod futex_flag;
    pub(crate) mod monitor;
    pub(crate) mod pthread_monitor;
}

use core::ops::Deref;

use criterion::Criterion;
use crossproc::{Condition, Lock, Shm, shared};

use self::beside::futex_flag::FutexFlag;
use self::beside::monitor::{Monitor, Value};
use self::beside::pthread_monitor::PthreadMonitor;
use crossproc_harness::placement::Placement;
use crossproc_harness::ratios::Ratios;
use crossproc_harness::record::Operation;
use crossproc_harness::sampler::{Sampler, benchmark, repeated, rounds};
use crossproc_harness::team::{MAX_MEMBERS, Team};

fn main() {
    crossproc_harness::run("Condition", &["parking_lot"], groups, compare);
}

shared! {
    struct LockAndCondition {
        lock: Lock<Value>,
        condition: Condition,
    }
}

impl Monitor for LockAndCondition {
    #[inline]
    fn wait_while(&self, condition: impl FnMut(&mut Value) -> bool) {
        let mut value = self.lock.lock().unwrap();
        self.condition.wait_while(&mut value, condition).unwrap();
    }

    #[inline]
    fn notify_one(&self) {
        self.condition.notify_one();
    }

    #[inline]
    fn notify_all(&self) {
        self.condition.notify_all();
    }
}

#[derive(Default)]
struct Std {
    mutex: std::sync::Mutex<Value>,
    condition: std::sync::Condvar,
}

impl Monitor for Std {
    #[inline]
    fn wait_while(&self, condition: impl FnMut(&mut Value) -> bool) {
        drop(self.condition.wait_while(self.mutex.lock().unwrap(), condition).unwrap());
    }

    #[inline]
    fn notify_one(&self) {
        self.condition.notify_one();
    }

    #[inline]
    fn notify_all(&self) {
        self.condition.notify_all();
    }
}

#[derive(Default)]
struct ParkingLot {
    mutex: parking_lot::Mutex<Value>,
    condition: parking_lot::Condvar,
}

impl Monitor for ParkingLot {
    #[inline]
    fn wait_while(&self, condition: impl FnMut(&mut Value) -> bool) {
        self.condition.wait_while(&mut self.mutex.lock(), condition);
    }

    #[inline]
    fn notify_one(&self) {
        self.condition.notify_one();
    }

    #[inline]
    fn notify_all(&self) {
        self.condition.notify_all();
    }
}

/// When a change is notified.
#[derive(Clone, Copy)]
enum Notify {
    WithLock,
    AfterUnlock,
}

/// A lock with a condition, and its measurements.
struct Contestant {
    name: &'static str,
    /// A notification of one where nobody waits.
    notify_one: fn() -> Sampler,
    /// A notification of all where nobody waits.
    notify_all: fn() -> Sampler,
    /// Round trips between two processes or threads.
    ping_pong: fn(Placement, Notify) -> Sampler,
    /// Of a number of processes or threads, each wakes all others in its turn.
    broadcast: fn(usize, Placement) -> Sampler,
}

const CROSSPROC: Contestant = Contestant {
    name: "crossproc Lock + Condition",
    notify_one: || notify_one(crossproc()),
    notify_all: || notify_all(crossproc()),
    ping_pong: |placement, notify| ping_pong(placement, notify, crossproc()),
    broadcast: |members, placement| broadcast(members, placement, crossproc()),
};

const PTHREAD: Contestant = Contestant {
    name: "pthread mutex + cond pshared",
    notify_one: || notify_one(PthreadMonitor::shared()),
    notify_all: || notify_all(PthreadMonitor::shared()),
    ping_pong: |placement, notify| ping_pong(placement, notify, PthreadMonitor::shared()),
    broadcast: |members, placement| broadcast(members, placement, PthreadMonitor::shared()),
};

const STD: Contestant = Contestant {
    name: "std (threads only)",
    notify_one: || notify_one(Box::<Std>::default()),
    notify_all: || notify_all(Box::<Std>::default()),
    ping_pong: |placement, notify| ping_pong_of_threads(placement, notify, &Std::default()),
    broadcast: |members, placement| broadcast_of_threads(members, placement, &Std::default()),
};

const PARKING_LOT: Contestant = Contestant {
    name: "parking_lot (threads only)",
    notify_one: || notify_one(Box::<ParkingLot>::default()),
    notify_all: || notify_all(Box::<ParkingLot>::default()),
    ping_pong: |placement, notify| ping_pong_of_threads(placement, notify, &ParkingLot::default()),
    broadcast: |members, placement| {
        broadcast_of_threads(members, placement, &ParkingLot::default())
    },
};

const CONTESTANTS: [Contestant; 4] = [CROSSPROC, PTHREAD, STD, PARKING_LOT];

const RAW_FUTEX: &str = "raw futex, same spinning";
const SLICED_FUTEX: &str = "raw futex, same spinning and slices";
/// What a condition cannot do without: see `beside::futex_flag`.
const WATCHED_FUTEX: &str = "raw futex, same spinning and slices, on two words";

fn crossproc() -> Shm<LockAndCondition> {
    Shm::new(LockAndCondition { lock: Lock::new(Value::default()), condition: Condition::new() })
        .unwrap()
}

fn notify_one<M: Monitor + 'static>(monitor: impl Deref<Target = M> + 'static) -> Sampler {
    repeated(monitor, M::notify_one)
}

fn notify_all<M: Monitor + 'static>(monitor: impl Deref<Target = M> + 'static) -> Sampler {
    repeated(monitor, M::notify_all)
}

fn ping_pong<M: Monitor>(
    placement: Placement,
    notify: Notify,
    monitor: impl Deref<Target = M> + Sync,
) -> Sampler {
    rounds(Team::of_processes(2, placement, |index, trips| {
        take_turns(&*monitor, notify, index as u32, trips);
    }))
}

fn ping_pong_of_threads(
    placement: Placement,
    notify: Notify,
    monitor: &(impl Monitor + Sync),
) -> Sampler {
    rounds(Team::of_threads(2, placement, |index, trips| {
        take_turns(monitor, notify, index as u32, trips);
    }))
}

/// Waits for its own turn, and passes the turn to the other one, again and again.
fn take_turns(monitor: &impl Monitor, notify: Notify, own: u32, trips: u64) {
    for _ in 0..trips {
        monitor.wait_while(|[turn, _]| {
            if *turn != own {
                return true;
            }
            *turn = 1 - own;
            if let Notify::WithLock = notify {
                monitor.notify_one();
            }
            false
        });
        if let Notify::AfterUnlock = notify {
            monitor.notify_one();
        }
    }
}

/// The same without a lock, and without a value beside the futexes.
fn ping_pong_of_futexes<const SLICED: bool, const WATCHED: bool>(placement: Placement) -> Sampler {
    // Each flag has memory of its own, and so cache lines of its own.
    let turns: [Shm<FutexFlag<SLICED, WATCHED>>; 2] =
        core::array::from_fn(|_| Shm::new(FutexFlag::new()).unwrap());
    turns[0].set();
    rounds(Team::of_processes(2, placement, move |index, trips| {
        for _ in 0..trips {
            turns[index].wait();
            turns[index].clear();
            turns[1 - index].set();
        }
    }))
}

/// How many processes meet in the rows on `notify_all`.
const CROWDS: [usize; 2] = [8, MAX_MEMBERS];

fn broadcast<M: Monitor>(
    members: usize,
    placement: Placement,
    monitor: impl Deref<Target = M> + Sync,
) -> Sampler {
    rounds(Team::of_processes(members, placement, |_, phases| meet(&*monitor, members, phases)))
}

fn broadcast_of_threads(
    members: usize,
    placement: Placement,
    monitor: &(impl Monitor + Sync),
) -> Sampler {
    rounds(Team::of_threads(members, placement, |_, phases| meet(monitor, members, phases)))
}

/// Arrives, and waits for all others. The last one to arrive notifies them.
fn meet(monitor: &impl Monitor, members: usize, phases: u64) {
    for _ in 0..phases {
        let mut own_phase = None;
        let mut is_last = false;
        monitor.wait_while(|[arrived, phase]| {
            let own = *own_phase.get_or_insert_with(|| {
                let own = *phase;
                *arrived += 1;
                is_last = *arrived == members as u32;
                if is_last {
                    *arrived = 0;
                    *phase = phase.wrapping_add(1);
                }
                own
            });
            *phase == own
        });
        if is_last {
            monitor.notify_all();
        }
    }
}

fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("condition: notify one, nobody waits");
    for Contestant { name, notify_one, .. } in &CONTESTANTS {
        benchmark(&mut group, name, notify_one);
    }
    group.finish();
    let mut group = criterion.benchmark_group("condition: notify all, nobody waits");
    for Contestant { name, notify_all, .. } in &CONTESTANTS {
        benchmark(&mut group, name, notify_all);
    }
    group.finish();
    for placement in Placement::pinned() {
        let mut group = criterion
            .benchmark_group(format!("condition: ping-pong of two processes, {}", placement.name));
        for Contestant { name, ping_pong, .. } in &CONTESTANTS {
            benchmark(&mut group, name, || ping_pong(placement, Notify::AfterUnlock));
        }
        benchmark(&mut group, RAW_FUTEX, || ping_pong_of_futexes::<false, false>(placement));
        group.finish();
    }
    for members in CROWDS {
        let mut group =
            criterion.benchmark_group(format!("condition: notify all, {members} processes meet"));
        for Contestant { name, broadcast, .. } in &CONTESTANTS {
            benchmark(&mut group, name, || broadcast(members, Placement::FREE));
        }
        group.finish();
    }
}

fn compare(ratios: &mut Ratios) {
    for rival in [PTHREAD, STD, PARKING_LOT] {
        ratios.compare(
            "notify one, nobody waits",
            None,
            (CROSSPROC.notify_one)(),
            rival.name,
            (rival.notify_one)(),
        );
        ratios.compare(
            "notify all, nobody waits",
            None,
            (CROSSPROC.notify_all)(),
            rival.name,
            (rival.notify_all)(),
        );
    }
    for placement in Placement::all() {
        let operation = format!("ping-pong, {}", placement.name);
        let ours = || (CROSSPROC.ping_pong)(placement, Notify::AfterUnlock);
        ratios.compare(
            &operation,
            placement.bar(1.2, 1.0),
            ours(),
            RAW_FUTEX,
            ping_pong_of_futexes::<false, false>(placement),
        );
        ratios.compare(
            &operation,
            None,
            ours(),
            SLICED_FUTEX,
            ping_pong_of_futexes::<true, false>(placement),
        );
        ratios.compare(
            &operation,
            None,
            ours(),
            WATCHED_FUTEX,
            ping_pong_of_futexes::<true, true>(placement),
        );
        for rival in [PTHREAD, STD, PARKING_LOT] {
            ratios.compare(
                &operation,
                None,
                ours(),
                rival.name,
                (rival.ping_pong)(placement, Notify::AfterUnlock),
            );
        }
    }
    for placement in Placement::pinned() {
        let operation = format!("ping-pong, notifying with the lock, {}", placement.name);
        let ours = (CROSSPROC.ping_pong)(placement, Notify::WithLock);
        ratios.compare(
            &operation,
            None,
            ours,
            PTHREAD.name,
            (PTHREAD.ping_pong)(placement, Notify::WithLock),
        );
    }
    for members in CROWDS {
        for (rival, bar) in [(PTHREAD, Some(1.0)), (STD, None), (PARKING_LOT, None)] {
            for placement in [Placement::FREE, Placement::ONE_CPU] {
                let name = format!("notify all, {members} processes meet, {}", placement.name);
                let operation =
                    Operation::new(name).among(members, format!("notify all, {}", placement.name));
                ratios.compare(
                    operation,
                    bar,
                    (CROSSPROC.broadcast)(members, placement),
                    rival.name,
                    (rival.broadcast)(members, placement),
                );
            }
        }
    }
}
