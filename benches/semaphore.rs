//! [`crossproc::Semaphore`] beside `sem_t`, and beside a bare futex.

mod harness;

mod rivals {
    pub(crate) mod futex_flag;
    pub(crate) mod permits;
    pub(crate) mod posix_semaphore;
}

use core::ops::Deref;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use criterion::Criterion;
use crossproc::{Semaphore, Shared, Shm};

use self::harness::placement::Placement;
use self::harness::ratios::Ratios;
use self::harness::sampler::{Sampler, benchmark, repeated, rounds};
use self::harness::team::{Team, share};
use self::rivals::futex_flag::FutexFlag;
use self::rivals::permits::Permits;
use self::rivals::posix_semaphore::PosixSemaphore;

fn main() {
    harness::run("Semaphore", groups, compare);
}

fn semaphore(value: u32) -> Shm<Semaphore> {
    Shm::new(Semaphore::new(value)).unwrap()
}

/// Without its permit: for the ping-pong.
fn futex_flag<const SLICED: bool>(_none: u32) -> Shm<FutexFlag<SLICED>> {
    Shm::new(FutexFlag::new()).unwrap()
}

const CROSSPROC: &str = "crossproc Semaphore";
const POSIX: &str = "sem_t pshared";
const RAW_FUTEX: &str = "raw futex, same spinning";
const SLICED_FUTEX: &str = "raw futex, same spinning and slices";

fn pair<P: Permits + 'static>(permits: impl Deref<Target = P> + 'static) -> Sampler {
    repeated(permits, |permits| {
        permits.acquire();
        permits.release();
    })
}

/// So many processes that share a given number of short sections, for which there is one permit.
fn contended<P: Permits + Shared>(processes: usize, permit: Shm<P>) -> Sampler {
    let counters: Shm<[AtomicU64; 4]> = Shm::new(Default::default()).unwrap();
    rounds(Team::of_processes(processes, Placement::FREE, move |index, sections| {
        for _ in 0..share(sections, index, processes) {
            permit.acquire();
            // Relaxed, and no exchange: who has the permit is alone here, and the permit orders it.
            counters.iter().for_each(|counter| counter.store(counter.load(Relaxed) + 1, Relaxed));
            permit.release();
        }
    }))
}

fn ping_pong<P: Permits + Shared>(placement: Placement, permits: fn(u32) -> Shm<P>) -> Sampler {
    // Each in memory of its own, and so on cache lines of its own.
    let (ping, pong) = (permits(0), permits(0));
    rounds(Team::of_processes(2, placement, move |index, trips| {
        let (given, taken) = if index == 0 { (&*ping, &*pong) } else { (&*pong, &*ping) };
        for _ in 0..trips {
            if index == 0 {
                given.release();
                taken.acquire();
            } else {
                taken.acquire();
                given.release();
            }
        }
    }))
}

const PLACEMENTS: [Placement; 5] =
    [Placement::TWO_CPUS, Placement::ONE_CPU, Placement::TWO_CPUS_FROM_START, Placement::ONE_CPU_FROM_START, Placement::FREE];

fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("semaphore: acquire and release, uncontended");
    benchmark(&mut group, CROSSPROC, || pair(semaphore(1)));
    benchmark(&mut group, POSIX, || pair(PosixSemaphore::shared(1)));
    group.finish();
    for processes in [2, 4, 8] {
        let mut group = criterion.benchmark_group(format!("semaphore: a short section, {processes} processes for one permit"));
        benchmark(&mut group, CROSSPROC, || contended(processes, semaphore(1)));
        benchmark(&mut group, POSIX, || contended(processes, PosixSemaphore::shared(1)));
        group.finish();
    }
    for placement in [Placement::TWO_CPUS, Placement::ONE_CPU].into_iter().filter(|placement| placement.is_possible()) {
        let mut group = criterion.benchmark_group(format!("semaphore: ping-pong of two processes, {}", placement.name));
        benchmark(&mut group, CROSSPROC, || ping_pong(placement, semaphore));
        benchmark(&mut group, POSIX, || ping_pong(placement, PosixSemaphore::shared));
        benchmark(&mut group, RAW_FUTEX, || ping_pong(placement, futex_flag::<false>));
        group.finish();
    }
}

fn compare(ratios: &mut Ratios) {
    for permits in [1, 10] {
        let operation = format!("acquire + release, of {permits}");
        ratios.compare(&operation, Some(0.85), pair(semaphore(permits)), POSIX, pair(PosixSemaphore::shared(permits)));
    }
    for processes in [2, 4, 8] {
        let operation = format!("a section of {processes} processes, one permit");
        let theirs = contended(processes, PosixSemaphore::shared(1));
        ratios.compare(&operation, None, contended(processes, semaphore(1)), POSIX, theirs);
    }
    for placement in PLACEMENTS.into_iter().filter(|placement| placement.is_possible()) {
        let operation = format!("ping-pong, {}", placement.name);
        let ours = || ping_pong(placement, semaphore);
        ratios.compare(&operation, Some(1.1), ours(), RAW_FUTEX, ping_pong(placement, futex_flag::<false>));
        ratios.compare(&operation, None, ours(), SLICED_FUTEX, ping_pong(placement, futex_flag::<true>));
        ratios.compare(&operation, None, ours(), POSIX, ping_pong(placement, PosixSemaphore::shared));
    }
}
