//! How long it takes until a process that sleeps runs again, from the call that wakes it: events
//! and semaphores of the crate, of pthreads, and bare futexes.

mod beside {
    pub(crate) mod flag;
    pub(crate) mod futex_flag;
    pub(crate) mod monitor;
    pub(crate) mod pthread_monitor;
}

use crossproc::{Event, Semaphore, Shm};

use self::beside::flag::Flag;
use self::beside::futex_flag::FutexFlag;
use self::beside::pthread_monitor::PthreadMonitor;
use crossproc_harness::latencies::{Latencies, rows};
use crossproc_harness::placement::Placement;
use crossproc_harness::posix_semaphore::PosixSemaphore;
use crossproc_harness::ratios::{Figures, Ratios};
use crossproc_harness::team::Team;

const PERCENTS: [f64; 3] = [50.0, 99.0, 99.9];

/// The wakes before the first that are measured.
const FIRST_ROUND: u64 = 1;

const RAW_FUTEX: &str = "raw futex, same spinning";

fn main() {
    crossproc_harness::run("Wake-up", &[], |_| {}, compare);
}

/// Returns what measures so many wakes: of a process that sleeps by `sleep`, by another one that
/// calls `wake`.
fn wakes(
    placement: Placement,
    times: u64,
    wake: impl Fn() + Sync,
    sleep: impl Fn() + Sync,
) -> Figures {
    let latencies = Latencies::new(times as usize);
    let team = Team::of_processes_warmed_up(2, placement, FIRST_ROUND, |index, times| {
        if index == 0 {
            latencies.end(times, || (), |()| wake());
        } else {
            latencies.wait(times, &sleep);
        }
    });
    latencies.clone().sampler(team, times, &PERCENTS)
}

fn of_flag<F: Flag + Sync>(placement: Placement, times: u64, flag: &F) -> Figures {
    wakes(
        placement,
        times,
        || flag.set(),
        || {
            flag.wait();
            flag.clear();
        },
    )
}

fn compare(ratios: &mut Ratios) {
    // Of a thousand, one is beyond the last percentile.
    let times = ratios.effort().choose(4000, 1000, 2);
    for placement in Placement::pinned() {
        let operation = rows(&format!("event, {}", placement.name), &PERCENTS);
        let ours = || of_flag(placement, times, &*Shm::new(Event::new()).unwrap());
        let futex = || Shm::new(FutexFlag::<false>::new()).unwrap();
        let theirs = of_flag(placement, times, &*futex());
        ratios.compare_figures(operation.clone(), ours(), RAW_FUTEX, theirs);
        let theirs = of_flag(placement, times, &*PthreadMonitor::shared());
        ratios.compare_figures(operation, ours(), "pthread mutex + cond pshared", theirs);

        let operation = rows(&format!("semaphore, {}", placement.name), &PERCENTS);
        let ours = || {
            let semaphore = Shm::new(Semaphore::new(0)).unwrap();
            let wake = || semaphore.release().unwrap();
            wakes(placement, times, wake, || semaphore.acquire())
        };
        let theirs = of_flag(placement, times, &*futex());
        ratios.compare_figures(operation.clone(), ours(), RAW_FUTEX, theirs);
        let posix = PosixSemaphore::shared(0);
        let theirs = wakes(placement, times, || posix.post(), || posix.wait());
        ratios.compare_figures(operation, ours(), "sem_t pshared", theirs);
    }
}
