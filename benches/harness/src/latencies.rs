//! Latencies that the members of a team measure, and their percentiles.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crossproc::{Shm, shared};
use crossproc_sys::clock;

use crate::asleep::{Watched, wait_until};
use crate::quartiles::percentile;
use crate::ratios::Figures;
use crate::record::Operation;
use crate::team::Team;

shared! {
    /// How one process waits, and another one ends its wait. The flags order everything else.
    pub struct Board {
        /// The process that waits.
        waiter: AtomicU64,
        /// Whether there is something to wait for.
        is_prepared: AtomicU64,
        /// Whether the waiter is about to wait.
        is_ready: AtomicU64,
        /// When its wait was ended, on the monotonic clock.
        ended_at: AtomicU64,
        /// Whether it is over.
        is_over: AtomicU64,
    }
}

/// Latencies from the moment at which one member ends another one's wait. Clones are handles to the
/// same memory.
#[derive(Clone)]
pub struct Latencies {
    board: Shm<Board>,
    found: Shm<[AtomicU64]>,
}

impl Latencies {
    /// Has room for the latencies of a round.
    pub fn new(most: usize) -> Self {
        let zero = || AtomicU64::new(0);
        let board = Board {
            waiter: zero(),
            is_prepared: zero(),
            is_ready: zero(),
            ended_at: zero(),
            is_over: zero(),
        };
        Latencies {
            board: Shm::new(board).unwrap(),
            found: Shm::from_fn(most, |_| AtomicU64::new(0)).unwrap(),
        }
    }

    /// The waiter's part of a round: waits `times` times, each time as `wait` does. What that
    /// returns is dropped when the time is taken.
    pub fn wait<R>(&self, times: u64, wait: impl Fn() -> R) {
        let board = &*self.board;
        board.waiter.store(std::process::id().into(), Relaxed);
        for found in &self.found[..times as usize] {
            lower(&board.is_prepared);
            raise(&board.is_ready);
            let result = wait();
            let now = clock::now();
            // Relaxed: the time was written before the call that ended the wait, and that orders
            // it, or at a death the kernel does.
            found.store((now - board.ended_at.load(Relaxed)).max(1), Relaxed);
            drop(result);
            raise(&board.is_over);
        }
    }

    /// The other one's part: ends a wait `times` times, as `end` does with what `prepare` has made.
    /// Each time the waiter sleeps already.
    pub fn end<P>(&self, times: u64, prepare: impl Fn() -> P, end: impl Fn(P)) {
        let board = &*self.board;
        let mut watched = None;
        for _ in 0..times {
            let prepared = prepare();
            raise(&board.is_prepared);
            lower(&board.is_ready);
            watched
                .get_or_insert_with(|| Watched::new(board.waiter.load(Relaxed) as u32))
                .wait_until_asleep();
            board.ended_at.store(clock::now(), Relaxed);
            end(prepared);
            lower(&board.is_over);
        }
    }

    /// Returns the percentiles of the first so many latencies.
    fn percentiles(&self, times: u64, percents: &[f64]) -> Vec<f64> {
        let found = &self.found[..times as usize];
        let mut found: Vec<f64> = found.iter().map(|found| found.load(Relaxed) as f64).collect();
        found.sort_by(f64::total_cmp);
        percents.iter().map(|&percent| percentile(&found, percent)).collect()
    }

    /// Returns what runs a team's rounds, of so many waits each, and takes the percentiles.
    pub fn sampler(self, mut team: Team, times: u64, percents: &'static [f64]) -> Figures {
        Box::new(move || {
            team.round(times);
            self.percentiles(times, percents)
        })
    }
}

/// Returns the rows of an operation's percentiles, which are points of one plot.
pub fn rows(operation: &str, percents: &[f64]) -> Vec<(Operation, Option<f64>)> {
    let row = |&percent: &f64| {
        let name = format!("{operation}, percentile {percent}");
        (Operation::new(name).percentile(percent, operation), None)
    };
    percents.iter().map(row).collect()
}

fn raise(flag: &AtomicU64) {
    // Release: pairs with the Acquire in `lower`.
    flag.store(1, Release);
}

/// Waits until the flag is set, and clears it.
fn lower(flag: &AtomicU64) {
    // Acquire: pairs with the Release in `raise`.
    wait_until(|| flag.load(Acquire) == 1);
    // Relaxed: the next one to set it has waited for what this thread does after it.
    flag.store(0, Relaxed);
}
