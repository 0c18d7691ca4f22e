//! [`crossproc::RwLock`] beside the pthread lock, and beside those for threads.

mod beside {
    pub(crate) mod pthread_rwlock;
    pub(crate) mod shared_exclusion;
}

use core::hint::black_box;
use core::ops::Deref;

use criterion::Criterion;
use crossproc::{RwLock, Shm};

use self::beside::pthread_rwlock::PthreadRwLock;
use self::beside::shared_exclusion::SharedExclusion;
use crossproc_harness::placement::Placement;
use crossproc_harness::ratios::Ratios;
use crossproc_harness::record::Operation;
use crossproc_harness::sampler::{Sampler, benchmark, repeated, rounds};
use crossproc_harness::team::{Team, share, sizes};

fn main() {
    crossproc_harness::run("RwLock", &["parking_lot"], groups, compare);
}

/// The value that a short section reads or increments.
type Counters = [u64; 4];

/// A lock and its measurements.
struct Contestant {
    name: &'static str,
    /// Lock for reading, and unlock.
    read: fn() -> Sampler,
    /// Lock for writing, and unlock.
    write: fn() -> Sampler,
    /// A number of processes or threads that share a given number of short sections. The second
    /// argument is the percentage of sections that write.
    contended: fn(usize, u64) -> Sampler,
}

const CROSSPROC: Contestant = Contestant {
    name: "crossproc RwLock",
    read: || read(crossproc()),
    write: || write(crossproc()),
    contended: |processes, percent| contended(processes, percent, crossproc()),
};

const PTHREAD: Contestant = Contestant {
    name: "pthread pshared",
    read: || read(PthreadRwLock::shared(Counters::default())),
    write: || write(PthreadRwLock::shared(Counters::default())),
    contended: |processes, percent| {
        contended(processes, percent, PthreadRwLock::shared(Counters::default()))
    },
};

const STD: Contestant = Contestant {
    name: "std (threads only)",
    read: || read(Box::<std::sync::RwLock<Counters>>::default()),
    write: || write(Box::<std::sync::RwLock<Counters>>::default()),
    contended: |threads, percent| {
        contended_by_threads(threads, percent, std::sync::RwLock::default())
    },
};

const PARKING_LOT: Contestant = Contestant {
    name: "parking_lot (threads only)",
    read: || read(Box::<parking_lot::RwLock<Counters>>::default()),
    write: || write(Box::<parking_lot::RwLock<Counters>>::default()),
    contended: |threads, percent| {
        contended_by_threads(threads, percent, parking_lot::RwLock::default())
    },
};

const CONTESTANTS: [Contestant; 4] = [CROSSPROC, PTHREAD, STD, PARKING_LOT];

fn crossproc() -> Shm<RwLock<Counters>> {
    Shm::new(RwLock::default()).unwrap()
}

fn read<L: SharedExclusion + 'static>(lock: impl Deref<Target = L> + 'static) -> Sampler {
    repeated(lock, |lock| lock.read(|_| {}))
}

fn write<L: SharedExclusion + 'static>(lock: impl Deref<Target = L> + 'static) -> Sampler {
    repeated(lock, |lock| lock.write(|_| {}))
}

fn contended<L: SharedExclusion<Value = Counters>>(
    processes: usize,
    percent: u64,
    lock: impl Deref<Target = L> + Sync,
) -> Sampler {
    let team = Team::of_processes(processes, Placement::FREE, |index, sections| {
        work(&*lock, index, percent, share(sections, index, processes));
    });
    rounds(team)
}

fn contended_by_threads(
    threads: usize,
    percent: u64,
    lock: impl SharedExclusion<Value = Counters> + Sync,
) -> Sampler {
    let team = Team::of_threads(threads, Placement::FREE, |index, sections| {
        work(&lock, index, percent, share(sections, index, threads));
    });
    rounds(team)
}

/// Runs a member's sections, with the least possible between them. The writing sections are spread
/// evenly, and not in step with those of other members.
fn work(lock: &impl SharedExclusion<Value = Counters>, index: usize, percent: u64, sections: u64) {
    for section in index as u64..sections + index as u64 {
        if section * percent % 100 < percent {
            lock.write(|counters| counters.iter_mut().for_each(|counter| *counter += 1));
        } else {
            lock.read(|counters| {
                black_box(counters.iter().sum::<u64>());
            });
        }
    }
}

fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rwlock: lock for reading and unlock, uncontended");
    for Contestant { name, read, .. } in &CONTESTANTS {
        benchmark(&mut group, name, read);
    }
    group.finish();
    let mut group = criterion.benchmark_group("rwlock: lock for writing and unlock, uncontended");
    for Contestant { name, write, .. } in &CONTESTANTS {
        benchmark(&mut group, name, write);
    }
    group.finish();
    for members in [2, 8] {
        for percent in [0, 10, 100] {
            let mut group = criterion.benchmark_group(format!(
                "rwlock: a short section, {members} processes, {percent} % writing"
            ));
            for Contestant { name, contended, .. } in &CONTESTANTS {
                benchmark(&mut group, name, || contended(members, percent));
            }
            group.finish();
        }
    }
}

fn compare(ratios: &mut Ratios) {
    for rival in [PTHREAD, STD, PARKING_LOT] {
        ratios.compare("read + unlock", None, (CROSSPROC.read)(), rival.name, (rival.read)());
        ratios.compare("write + unlock", None, (CROSSPROC.write)(), rival.name, (rival.write)());
    }
    for percent in [0, 10, 100] {
        for &members in sizes() {
            let operation =
                Operation::new(format!("a section of {members} processes, {percent} % writing"))
                    .among(members, format!("{percent} % writing"));
            for rival in [PTHREAD, STD, PARKING_LOT] {
                let ours = (CROSSPROC.contended)(members, percent);
                ratios.compare(
                    operation.clone(),
                    None,
                    ours,
                    rival.name,
                    (rival.contended)(members, percent),
                );
            }
        }
    }
}
