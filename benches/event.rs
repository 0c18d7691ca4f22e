//! [`crossproc::Event`] beside an event made of a mutex and a condition variable, and beside a bare
//! futex.

mod beside {
    pub(crate) mod flag;
    pub(crate) mod futex_flag;
    pub(crate) mod monitor;
    pub(crate) mod pthread_monitor;
}

use core::ops::Deref;

use criterion::Criterion;
use crossproc::{Event, Shared, Shm};

use self::beside::flag::Flag;
use self::beside::futex_flag::FutexFlag;
use self::beside::pthread_monitor::PthreadMonitor;
use crossproc_harness::placement::Placement;
use crossproc_harness::ratios::Ratios;
use crossproc_harness::sampler::{Sampler, benchmark, repeated, rounds};
use crossproc_harness::team::Team;

fn main() {
    crossproc_harness::run("Event", &[], groups, compare);
}

/// An event and its measurements.
struct Contestant {
    name: &'static str,
    /// Set, wait and clear in one thread.
    alone: fn() -> Sampler,
    /// Round trips between two processes.
    ping_pong: fn(Placement) -> Sampler,
}

const CROSSPROC: Contestant = Contestant {
    name: "crossproc Event",
    alone: || alone(event()),
    ping_pong: |on| ping_pong(on, event),
};
const PTHREAD: Contestant = Contestant {
    name: "pthread mutex + cond pshared",
    alone: || alone(PthreadMonitor::shared()),
    ping_pong: |on| ping_pong(on, PthreadMonitor::shared),
};
const RAW_FUTEX: Contestant = Contestant {
    name: "raw futex, same spinning",
    alone: || alone(futex_flag::<false, false>()),
    ping_pong: |on| ping_pong(on, futex_flag::<false, false>),
};
const SLICED_FUTEX: Contestant = Contestant {
    name: "raw futex, same spinning and slices",
    alone: || alone(futex_flag::<true, false>()),
    ping_pong: |on| ping_pong(on, futex_flag::<true, false>),
};
/// What an event cannot do without: see `beside::futex_flag`.
const WATCHED_FUTEX: Contestant = Contestant {
    name: "raw futex, same spinning and slices, on two words",
    alone: || alone(futex_flag::<true, true>()),
    ping_pong: |on| ping_pong(on, futex_flag::<true, true>),
};

const CONTESTANTS: [Contestant; 5] = [CROSSPROC, PTHREAD, RAW_FUTEX, SLICED_FUTEX, WATCHED_FUTEX];

fn event() -> Shm<Event> {
    Shm::new(Event::new()).unwrap()
}

fn futex_flag<const SLICED: bool, const WATCHED: bool>() -> Shm<FutexFlag<SLICED, WATCHED>> {
    Shm::new(FutexFlag::new()).unwrap()
}

fn alone<F: Flag + 'static>(flag: impl Deref<Target = F> + 'static) -> Sampler {
    repeated(flag, |flag| {
        flag.set();
        flag.wait();
        flag.clear();
    })
}

fn ping_pong<F: Flag + Shared>(placement: Placement, flag: fn() -> Shm<F>) -> Sampler {
    // Each event has memory of its own, and so cache lines of its own.
    let (ping, pong) = (flag(), flag());
    rounds(Team::of_processes(2, placement, move |index, trips| {
        for _ in 0..trips {
            if index == 0 {
                ping.set();
                pong.wait();
                pong.clear();
            } else {
                ping.wait();
                ping.clear();
                pong.set();
            }
        }
    }))
}

fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("event: set, wait, clear in one thread");
    for Contestant { name, alone, .. } in &CONTESTANTS {
        benchmark(&mut group, name, alone);
    }
    group.finish();
    for placement in Placement::pinned() {
        let mut group = criterion
            .benchmark_group(format!("event: ping-pong of two processes, {}", placement.name));
        for Contestant { name, ping_pong, .. } in &CONTESTANTS {
            benchmark(&mut group, name, || ping_pong(placement));
        }
        group.finish();
    }
}

fn compare(ratios: &mut Ratios) {
    for rival in [PTHREAD, RAW_FUTEX] {
        ratios.compare(
            "set + wait + clear",
            None,
            (CROSSPROC.alone)(),
            rival.name,
            (rival.alone)(),
        );
    }
    for placement in Placement::all() {
        let operation = format!("ping-pong, {}", placement.name);
        let bar = placement.bar(1.2, 1.0);
        for (rival, bar) in
            [(RAW_FUTEX, bar), (SLICED_FUTEX, None), (WATCHED_FUTEX, None), (PTHREAD, None)]
        {
            ratios.compare(
                &operation,
                bar,
                (CROSSPROC.ping_pong)(placement),
                rival.name,
                (rival.ping_pong)(placement),
            );
        }
    }
}
