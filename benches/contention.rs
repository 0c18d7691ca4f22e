//! [`crossproc::Lock`] under contention beside other mutexes, with sections of several lengths: how
//! many sections there are, and the longest wait for one.

mod beside {
    pub(crate) mod mutual_exclusion;
    pub(crate) mod pthread_mutex;
}

use core::hint::black_box;
use core::ops::Deref;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;

use crossproc::{Lock, Shm};
use crossproc_sys::clock;

use self::beside::mutual_exclusion::MutualExclusion;
use self::beside::pthread_mutex::PthreadMutex;
use self::beside::pthread_mutex::Robustness::Robust;
use crossproc_harness::placement::Placement;
use crossproc_harness::ratios::{Figures, Paced, Ratios};
use crossproc_harness::record::Operation;
use crossproc_harness::sampler::{repeated, rounds};
use crossproc_harness::team::{Team, share, sizes};

/// How long the sections are, and what they are called.
const LENGTHS: [(Duration, &str); 3] = [
    (Duration::ZERO, "0 ns"),
    (Duration::from_nanos(100), "100 ns"),
    (Duration::from_micros(1), "1 µs"),
];

/// Samples are so many times as long as those of single operations. They must have room for waits
/// that are longer than a scheduler's slice.
const LONGER: u32 = 4;

fn main() {
    crossproc_harness::run("Contention", &["parking_lot"], |_| {}, compare);
}

/// A lock, and what measures it: with so many members and this work in a section.
struct Contestant {
    name: &'static str,
    contended: fn(usize, Busy, Duration) -> Figures,
}

const CROSSPROC: Contestant = Contestant {
    name: "crossproc Lock",
    contended: |members, busy, sample| {
        by_processes(members, busy, sample, Shm::new(Lock::new(0)).unwrap())
    },
};

const RIVALS: [Contestant; 3] = [
    Contestant {
        name: "pthread robust pshared",
        contended: |members, busy, sample| {
            by_processes(members, busy, sample, PthreadMutex::shared(Robust, 0))
        },
    },
    Contestant {
        name: "std (threads only)",
        contended: |members, busy, sample| {
            by_threads(members, busy, sample, &std::sync::Mutex::new(0))
        },
    },
    Contestant {
        name: "parking_lot (threads only)",
        contended: |members, busy, sample| {
            by_threads(members, busy, sample, &parking_lot::Mutex::new(0))
        },
    },
];

/// Work that takes a given time, if nothing else runs on the CPU.
#[derive(Clone, Copy)]
struct Busy {
    steps: u64,
}

impl Busy {
    fn new(length: Duration, nanos_a_step: f64) -> Self {
        Busy { steps: (length.as_nanos() as f64 / nanos_a_step) as u64 }
    }

    /// Returns how long a step takes.
    fn nanos_a_step() -> f64 {
        const STEPS: u64 = 1000;
        let many = repeated(Box::new(Busy { steps: STEPS }), |busy| busy.spend());
        Paced::new(many, Duration::from_millis(5)).nanos_each() / STEPS as f64
    }

    fn spend(self) {
        let mut number = 1_u64;
        for _ in 0..self.steps {
            // Each step needs the one before.
            number = black_box(number.wrapping_mul(3));
        }
    }
}

fn by_processes<L: MutualExclusion<Value = u64>>(
    members: usize,
    busy: Busy,
    sample: Duration,
    lock: impl Deref<Target = L> + Sync,
) -> Figures {
    let longest = Shm::new(AtomicU64::new(0)).unwrap();
    let team = Team::of_processes(members, Placement::FREE, |index, sections| {
        work(&*lock, busy, &longest, share(sections, index, members));
    });
    figures(team, longest, sample)
}

fn by_threads(
    members: usize,
    busy: Busy,
    sample: Duration,
    lock: &(impl MutualExclusion<Value = u64> + Sync),
) -> Figures {
    let longest = Shm::new(AtomicU64::new(0)).unwrap();
    let team = Team::of_threads(members, Placement::FREE, |index, sections| {
        work(lock, busy, &longest, share(sections, index, members));
    });
    figures(team, longest, sample)
}

/// Runs a member's sections, with the least possible between them: a look at the clock.
fn work(lock: &impl MutualExclusion<Value = u64>, busy: Busy, longest: &AtomicU64, sections: u64) {
    let (mut before, mut most) = (clock::now(), 0);
    for _ in 0..sections {
        lock.with(|count| {
            *count += 1;
            busy.spend();
        });
        let now = clock::now();
        most = most.max(now - before);
        before = now;
    }
    // Relaxed: the end of the round orders it.
    longest.fetch_max(most, Relaxed);
}

/// Returns what measures the time of a section, and the longest time that one took with the wait
/// for it.
fn figures(team: Team, longest: Shm<AtomicU64>, sample: Duration) -> Figures {
    let mut paced = Paced::new(rounds(team), sample);
    Box::new(move || {
        longest.store(0, Relaxed);
        let nanos = paced.nanos_each();
        vec![nanos, longest.load(Relaxed) as f64]
    })
}

fn compare(ratios: &mut Ratios) {
    let sample = ratios.effort().sample * LONGER;
    let nanos_a_step = Busy::nanos_a_step();
    for (length, name) in LENGTHS {
        let busy = Busy::new(length, nanos_a_step);
        for &members in sizes() {
            for rival in RIVALS {
                let operation = format!("a section of {name}, {members} processes");
                let longest = Operation::new(format!("{operation}, the longest"));
                let operation =
                    Operation::new(operation).among(members, format!("sections of {name}"));
                ratios.compare_figures(
                    vec![(operation, None), (longest, None)],
                    (CROSSPROC.contended)(members, busy, sample),
                    rival.name,
                    (rival.contended)(members, busy, sample),
                );
            }
        }
    }
}
