//! [`crossproc::Lock`] beside other mutexes for processes, and those for threads.

mod beside {
    pub(crate) mod futex_lock;
    pub(crate) mod mutual_exclusion;
    pub(crate) mod pthread_mutex;
}

use core::ops::Deref;

use criterion::Criterion;
use crossproc::{Lock, Shm};

use self::beside::futex_lock::FutexLock;
use self::beside::mutual_exclusion::MutualExclusion;
use self::beside::pthread_mutex::PthreadMutex;
use self::beside::pthread_mutex::Robustness::{Plain, Robust};
use crossproc_harness::placement::Placement;
use crossproc_harness::ratios::Ratios;
use crossproc_harness::record::Operation;
use crossproc_harness::sampler::{Sampler, benchmark, repeated, rounds};
use crossproc_harness::team::{Team, share, sizes};

fn main() {
    crossproc_harness::run("Lock", &["parking_lot"], groups, compare);
}

/// The value that a short critical section increments.
type Counters = [u64; 4];

/// A lock and its measurements.
struct Contestant {
    name: &'static str,
    /// Lock and unlock, with nothing to protect.
    pair: fn() -> Sampler,
    /// Lock and unlock around a number that is incremented.
    increment: fn() -> Sampler,
    /// A number of processes or threads that share a given number of short sections.
    contended: fn(usize) -> Sampler,
}

const CROSSPROC: Contestant = Contestant {
    name: "crossproc Lock",
    pair: || pair(Shm::new(Lock::new(())).unwrap()),
    increment: || increment(Shm::new(Lock::new(0)).unwrap()),
    contended: |processes| {
        contended(processes, Placement::FREE, Shm::new(Lock::new(Counters::default())).unwrap())
    },
};

const PTHREAD_ROBUST: Contestant = Contestant {
    name: "pthread robust pshared",
    pair: || pair(PthreadMutex::shared(Robust, ())),
    increment: || increment(PthreadMutex::shared(Robust, 0)),
    contended: |processes| {
        contended(processes, Placement::FREE, PthreadMutex::shared(Robust, Counters::default()))
    },
};

const PTHREAD_PLAIN: Contestant = Contestant {
    name: "pthread plain pshared",
    pair: || pair(PthreadMutex::shared(Plain, ())),
    increment: || increment(PthreadMutex::shared(Plain, 0)),
    contended: |processes| {
        contended(processes, Placement::FREE, PthreadMutex::shared(Plain, Counters::default()))
    },
};

const BARE: Contestant = Contestant {
    name: "bare CAS + swap",
    pair: || pair(Shm::new(FutexLock::new(())).unwrap()),
    increment: || increment(Shm::new(FutexLock::new(0)).unwrap()),
    contended: |processes| {
        contended(
            processes,
            Placement::FREE,
            Shm::new(FutexLock::new(Counters::default())).unwrap(),
        )
    },
};

const STD: Contestant = Contestant {
    name: "std (threads only)",
    pair: || pair(Box::new(std::sync::Mutex::new(()))),
    increment: || increment(Box::new(std::sync::Mutex::new(0))),
    contended: |threads| contended_by_threads(threads, std::sync::Mutex::new(Counters::default())),
};

const PARKING_LOT: Contestant = Contestant {
    name: "parking_lot (threads only)",
    pair: || pair(Box::new(parking_lot::Mutex::new(()))),
    increment: || increment(Box::new(parking_lot::Mutex::new(0))),
    contended: |threads| {
        contended_by_threads(threads, parking_lot::Mutex::new(Counters::default()))
    },
};

const CONTESTANTS: [Contestant; 6] =
    [CROSSPROC, PTHREAD_ROBUST, PTHREAD_PLAIN, BARE, STD, PARKING_LOT];

fn pair<L: MutualExclusion<Value = ()> + 'static>(
    lock: impl Deref<Target = L> + 'static,
) -> Sampler {
    repeated(lock, |lock| lock.with(|()| {}))
}

fn increment<L: MutualExclusion<Value = u64> + 'static>(
    lock: impl Deref<Target = L> + 'static,
) -> Sampler {
    repeated(lock, |lock| lock.with(|number| *number += 1))
}

fn contended<L: MutualExclusion<Value = Counters>>(
    processes: usize,
    placement: Placement,
    lock: impl Deref<Target = L> + Sync,
) -> Sampler {
    rounds(Team::of_processes(processes, placement, |index, sections| {
        work(&*lock, share(sections, index, processes));
    }))
}

fn contended_by_threads(
    threads: usize,
    lock: impl MutualExclusion<Value = Counters> + Sync,
) -> Sampler {
    rounds(Team::of_threads(threads, Placement::FREE, |index, sections| {
        work(&lock, share(sections, index, threads));
    }))
}

/// Runs a member's sections, with the least possible between them.
fn work(lock: &impl MutualExclusion<Value = Counters>, sections: u64) {
    for _ in 0..sections {
        lock.with(|counters| counters.iter_mut().for_each(|counter| *counter += 1));
    }
}

fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lock and unlock, uncontended");
    for Contestant { name, pair, .. } in &CONTESTANTS {
        benchmark(&mut group, name, pair);
    }
    group.finish();
    let mut group = criterion.benchmark_group("lock, increment, unlock, uncontended");
    for Contestant { name, increment, .. } in &CONTESTANTS {
        benchmark(&mut group, name, increment);
    }
    group.finish();
    for &members in sizes() {
        let mut group =
            criterion.benchmark_group(format!("a short section, {members} processes contending"));
        for Contestant { name, contended, .. } in &CONTESTANTS {
            benchmark(&mut group, name, || contended(members));
        }
        group.finish();
    }
}

/// The greatest ratios that were promised.
const PAIR_TO_ROBUST: Option<f64> = Some(0.85);
const PAIR_TO_PLAIN: Option<f64> = Some(1.05);
const PAIR_TO_BARE: Option<f64> = Some(1.35);

/// The same, for the sections of a number of processes beside the robust mutex.
fn sections_to_robust(members: usize) -> Option<f64> {
    match members {
        2 => Some(1.0),
        4 | 8 => Some(0.5),
        _ => None,
    }
}

fn compare(ratios: &mut Ratios) {
    for (rival, bar) in [
        (PTHREAD_ROBUST, PAIR_TO_ROBUST),
        (PTHREAD_PLAIN, PAIR_TO_PLAIN),
        (BARE, PAIR_TO_BARE),
        (STD, None),
        (PARKING_LOT, None),
    ] {
        ratios.compare("lock + unlock", bar, (CROSSPROC.pair)(), rival.name, (rival.pair)());
    }
    for (rival, bar) in
        [(PTHREAD_ROBUST, PAIR_TO_ROBUST), (PTHREAD_PLAIN, PAIR_TO_PLAIN), (BARE, PAIR_TO_BARE)]
    {
        ratios.compare(
            "lock + increment + unlock",
            bar,
            (CROSSPROC.increment)(),
            rival.name,
            (rival.increment)(),
        );
    }
    for &members in sizes() {
        let operation = Operation::new(format!("a section of {members} processes"))
            .among(members, "short sections");
        for (rival, bar) in [
            (PTHREAD_ROBUST, sections_to_robust(members)),
            (PTHREAD_PLAIN, Some(1.0)),
            (BARE, None),
            (STD, Some(1.0)),
            (PARKING_LOT, Some(1.2)),
        ] {
            ratios.compare(
                operation.clone(),
                bar,
                (CROSSPROC.contended)(members),
                rival.name,
                (rival.contended)(members),
            );
        }
    }
    for placement in [
        Placement::TWO_CPUS,
        Placement::ONE_CPU,
        Placement::TWO_CPUS_FROM_START,
        Placement::ONE_CPU_FROM_START,
    ] {
        if placement.is_possible() {
            let operation = format!("a section of 2 processes, {}", placement.name);
            let ours = contended(2, placement, Shm::new(Lock::new(Counters::default())).unwrap());
            let theirs = contended(2, placement, PthreadMutex::shared(Plain, Counters::default()));
            ratios.compare(&operation, None, ours, PTHREAD_PLAIN.name, theirs);
        }
    }
}
