//! [`crossproc::Permits`] beside the System V semaphore, which gives back what the dead had, and
//! beside those that do not.

mod beside {
    pub(crate) mod limit;
    pub(crate) mod permits;
    pub(crate) mod sysv_semaphore;
}

use criterion::Criterion;
use crossproc::{Permits, Semaphore, Shm};

use self::beside::limit::{Limit, contended, pair};
use self::beside::sysv_semaphore::SysvSemaphore;
use crossproc_harness::posix_semaphore::PosixSemaphore;
use crossproc_harness::ratios::Ratios;
use crossproc_harness::record::Operation;
use crossproc_harness::sampler::{Sampler, benchmark};
use crossproc_harness::team::sizes;

fn main() {
    crossproc_harness::run("Permits", &[], groups, compare);
}

impl<const N: usize> Limit for Permits<N> {
    #[inline]
    fn with_permit(&self, section: impl FnOnce()) {
        let permit = self.acquire().unwrap();
        section();
        drop(permit);
    }
}

/// A primitive with a number of permits, and its measurements.
struct Contestant {
    name: &'static str,
    /// Acquire and release, with this number of permits.
    pair: fn(u16) -> Sampler,
    /// A number of processes that share a given number of short sections, with this number of
    /// permits.
    contended: fn(usize, u16) -> Sampler,
}

const CROSSPROC: Contestant = Contestant {
    name: "crossproc Permits",
    pair: |permits| match permits {
        1 => pair(shared::<1>()),
        10 => pair(shared::<10>()),
        64 => pair(shared::<64>()),
        _ => unreachable!("a number of permits that is not compiled in"),
    },
    contended: |processes, permits| match permits {
        1 => contended(processes, shared::<1>()),
        4 => contended(processes, shared::<4>()),
        _ => unreachable!("a number of permits that is not compiled in"),
    },
};

const POSIX: Contestant = Contestant {
    name: "sem_t pshared",
    pair: |permits| pair(PosixSemaphore::shared(permits.into())),
    contended: |processes, permits| contended(processes, PosixSemaphore::shared(permits.into())),
};

const SYSV: Contestant = Contestant {
    name: "System V, SEM_UNDO",
    pair: |permits| pair(Box::new(SysvSemaphore::new(permits))),
    contended: |processes, permits| contended(processes, Box::new(SysvSemaphore::new(permits))),
};

const SEMAPHORE: Contestant = Contestant {
    name: "crossproc Semaphore",
    pair: |permits| pair(semaphore(permits)),
    contended: |processes, permits| contended(processes, semaphore(permits)),
};

const RIVALS: [Contestant; 3] = [POSIX, SYSV, SEMAPHORE];

fn shared<const N: usize>() -> Shm<Permits<N>> {
    Shm::new(Permits::new()).unwrap()
}

fn semaphore(permits: u16) -> Shm<Semaphore> {
    Shm::new(Semaphore::new(permits.into())).unwrap()
}

fn groups(criterion: &mut Criterion) {
    for permits in [1, 10, 64] {
        let mut group = criterion
            .benchmark_group(format!("permits: acquire and release, uncontended, of {permits}"));
        for Contestant { name, pair, .. } in [CROSSPROC].iter().chain(&RIVALS) {
            benchmark(&mut group, name, || pair(permits));
        }
        group.finish();
    }
    for (processes, permits) in [(2, 1), (8, 1), (8, 4)] {
        let mut group = criterion.benchmark_group(format!(
            "permits: a short section, {processes} processes, permits for {permits}"
        ));
        for Contestant { name, contended, .. } in [CROSSPROC].iter().chain(&RIVALS) {
            benchmark(&mut group, name, || contended(processes, permits));
        }
        group.finish();
    }
}

fn compare(ratios: &mut Ratios) {
    for permits in [1, 10, 64] {
        for rival in RIVALS {
            let operation = format!("acquire + release, of {permits}");
            ratios.compare(
                &operation,
                None,
                (CROSSPROC.pair)(permits),
                rival.name,
                (rival.pair)(permits),
            );
        }
    }
    for permits in [1, 4] {
        for &processes in sizes() {
            for rival in RIVALS {
                let name = format!("a section of {processes} processes, permits for {permits}");
                let operation = Operation::new(name)
                    .among(processes, format!("short sections, permits for {permits}"));
                let ours = (CROSSPROC.contended)(processes, permits);
                ratios.compare(
                    operation,
                    None,
                    ours,
                    rival.name,
                    (rival.contended)(processes, permits),
                );
            }
        }
    }
}
