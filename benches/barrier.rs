//! [`crossproc::Barrier`] beside the pthread barrier and the standard library's barrier for
//! threads.

mod beside {
    pub(crate) mod meeting;
    pub(crate) mod pthread_barrier;
}

use core::ops::Deref;

use criterion::Criterion;
use crossproc::{Barrier, Shm};

use self::beside::meeting::Meeting;
use self::beside::pthread_barrier::PthreadBarrier;
use crossproc_harness::placement::Placement;
use crossproc_harness::ratios::Ratios;
use crossproc_harness::record::Operation;
use crossproc_harness::sampler::{Sampler, benchmark, repeated, rounds};
use crossproc_harness::team::{Team, sizes};

fn main() {
    crossproc_harness::run("Barrier", &[], groups, compare);
}

/// A barrier and its measurements.
struct Contestant {
    name: &'static str,
    /// A phase of a single party, which never waits.
    alone: fn() -> Sampler,
    /// Phases of a number of processes or threads.
    phases: fn(usize, Placement) -> Sampler,
}

const CROSSPROC: Contestant = Contestant {
    name: "crossproc Barrier",
    alone: || alone(crossproc(1)),
    phases: |processes, placement| phases(processes, placement, crossproc(processes)),
};

const PTHREAD: Contestant = Contestant {
    name: "pthread pshared",
    alone: || alone(PthreadBarrier::shared(1)),
    phases: |processes, placement| {
        phases(processes, placement, PthreadBarrier::shared(processes as u32))
    },
};

const STD: Contestant = Contestant {
    name: "std (threads only)",
    alone: || alone(Box::new(std::sync::Barrier::new(1))),
    phases: |threads, placement| {
        let barrier = std::sync::Barrier::new(threads);
        rounds(Team::of_threads(threads, placement, |_, phases| pass(&barrier, phases)))
    },
};

const CONTESTANTS: [Contestant; 3] = [CROSSPROC, PTHREAD, STD];

fn crossproc(parties: usize) -> Shm<Barrier> {
    Shm::new(Barrier::new(parties as u32)).unwrap()
}

fn alone<M: Meeting + 'static>(barrier: impl Deref<Target = M> + 'static) -> Sampler {
    repeated(barrier, M::wait)
}

fn phases<M: Meeting>(
    processes: usize,
    placement: Placement,
    barrier: impl Deref<Target = M> + Sync,
) -> Sampler {
    rounds(Team::of_processes(processes, placement, |_, phases| pass(&*barrier, phases)))
}

fn pass(barrier: &impl Meeting, phases: u64) {
    for _ in 0..phases {
        barrier.wait();
    }
}

fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("barrier: a phase of one, alone");
    for Contestant { name, alone, .. } in &CONTESTANTS {
        benchmark(&mut group, name, alone);
    }
    group.finish();
    for &processes in sizes() {
        for placement in Placement::pinned() {
            let mut group = criterion.benchmark_group(format!(
                "barrier: a phase of {processes} processes, {}",
                placement.name
            ));
            for Contestant { name, phases, .. } in &CONTESTANTS {
                benchmark(&mut group, name, || phases(processes, placement));
            }
            group.finish();
        }
    }
}

fn compare(ratios: &mut Ratios) {
    for rival in [PTHREAD, STD] {
        ratios.compare(
            "a phase of one, alone",
            None,
            (CROSSPROC.alone)(),
            rival.name,
            (rival.alone)(),
        );
    }
    for &processes in sizes() {
        for placement in Placement::all() {
            let name = format!("a phase of {processes} processes, {}", placement.name);
            let operation = Operation::new(name).among(processes, placement.name);
            let bar = placement.bar(1.2, 0.5).filter(|_| processes == 2);
            for (rival, bar) in [(PTHREAD, bar), (STD, None)] {
                ratios.compare(
                    operation.clone(),
                    bar,
                    (CROSSPROC.phases)(processes, placement),
                    rival.name,
                    (rival.phases)(processes, placement),
                );
            }
        }
    }
}
