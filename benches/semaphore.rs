//! [`crossproc::Semaphore`] beside `sem_t`, and beside a bare futex.

mod beside {
    pub(crate) mod futex_flag;
    pub(crate) mod limit;
    pub(crate) mod permits;
}

use criterion::Criterion;
use crossproc::{Semaphore, Shared, Shm};

use self::beside::futex_flag::FutexFlag;
use self::beside::limit::{contended, pair};
use self::beside::permits::Permits;
use crossproc_harness::placement::Placement;
use crossproc_harness::posix_semaphore::PosixSemaphore;
use crossproc_harness::ratios::Ratios;
use crossproc_harness::record::Operation;
use crossproc_harness::sampler::{Sampler, benchmark, rounds};
use crossproc_harness::team::{Team, sizes};

fn main() {
    crossproc_harness::run("Semaphore", &[], groups, compare);
}

fn semaphore(value: u32) -> Shm<Semaphore> {
    Shm::new(Semaphore::new(value)).unwrap()
}

/// Returns a flag without its permit, for the ping-pong.
fn futex_flag<const SLICED: bool>(_none: u32) -> Shm<FutexFlag<SLICED>> {
    Shm::new(FutexFlag::new()).unwrap()
}

const CROSSPROC: &str = "crossproc Semaphore";
const POSIX: &str = "sem_t pshared";
const RAW_FUTEX: &str = "raw futex, same spinning";
const SLICED_FUTEX: &str = "raw futex, same spinning and slices";

/// A flag has at most one permit, and one waiter.
impl<const SLICED: bool> Permits for FutexFlag<SLICED> {
    #[inline]
    fn acquire(&self) {
        self.wait();
        self.clear();
    }

    #[inline]
    fn release(&self) {
        self.set();
    }
}

fn ping_pong<P: Permits + Shared>(placement: Placement, permits: fn(u32) -> Shm<P>) -> Sampler {
    // Each has memory of its own, and so cache lines of its own.
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

fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("semaphore: acquire and release, uncontended");
    benchmark(&mut group, CROSSPROC, || pair(semaphore(1)));
    benchmark(&mut group, POSIX, || pair(PosixSemaphore::shared(1)));
    group.finish();
    for &processes in sizes() {
        let mut group = criterion.benchmark_group(format!(
            "semaphore: a short section, {processes} processes for one permit"
        ));
        benchmark(&mut group, CROSSPROC, || contended(processes, semaphore(1)));
        benchmark(&mut group, POSIX, || contended(processes, PosixSemaphore::shared(1)));
        group.finish();
    }
    for placement in Placement::pinned() {
        let mut group = criterion
            .benchmark_group(format!("semaphore: ping-pong of two processes, {}", placement.name));
        benchmark(&mut group, CROSSPROC, || ping_pong(placement, semaphore));
        benchmark(&mut group, POSIX, || ping_pong(placement, PosixSemaphore::shared));
        benchmark(&mut group, RAW_FUTEX, || ping_pong(placement, futex_flag::<false>));
        group.finish();
    }
}

fn compare(ratios: &mut Ratios) {
    for permits in [1, 10] {
        let operation = format!("acquire + release, of {permits}");
        ratios.compare(
            &operation,
            Some(0.95),
            pair(semaphore(permits)),
            POSIX,
            pair(PosixSemaphore::shared(permits)),
        );
    }
    for &processes in sizes() {
        let operation = Operation::new(format!("a section of {processes} processes, one permit"))
            .among(processes, "short sections, one permit");
        let theirs = contended(processes, PosixSemaphore::shared(1));
        ratios.compare(operation, None, contended(processes, semaphore(1)), POSIX, theirs);
    }
    for placement in Placement::all() {
        let operation = format!("ping-pong, {}", placement.name);
        let ours = || ping_pong(placement, semaphore);
        ratios.compare(
            &operation,
            placement.bar(1.15, 1.0),
            ours(),
            RAW_FUTEX,
            ping_pong(placement, futex_flag::<false>),
        );
        ratios.compare(
            &operation,
            None,
            ours(),
            SLICED_FUTEX,
            ping_pong(placement, futex_flag::<true>),
        );
        ratios.compare(
            &operation,
            None,
            ours(),
            POSIX,
            ping_pong(placement, PosixSemaphore::shared),
        );
    }
}
