//! Processes, or threads, that work in rounds. They start together. A round lasts from the first
//! one's start to the last one's end.

#![allow(unsafe_code)]

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::thread;

use crossproc::process::{Builder, Child};
use crossproc::{Event, Shm, shared};
use crossproc_sys::clock;

use crate::placement::Placement;
use crate::posix_semaphore::PosixSemaphore;

pub const MAX_MEMBERS: usize = 32;

/// The numbers of contenders in the rows on contention: 2, 4 and 8, and also 16 where there are as
/// many CPUs.
#[allow(dead_code, reason = "of some primitives, two processes at most use one")]
pub fn sizes() -> &'static [usize] {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    if cpus >= 16 { &[2, 4, 8, 16] } else { &[2, 4, 8] }
}

/// The amount of work in the first round, which nobody measures: pages are touched, robust lists
/// set up, and CPUs counted.
const FIRST_ROUND: u64 = 64;

shared! {
    struct Rounds {
        /// Set in turns, so that no member can go through twice.
        go: [Event; 2],
        /// The amount of work in a round. This and the times need no ordering of their own: `go`
        /// comes after this, `finished` after them.
        amount: AtomicU64,
        started: [AtomicU64; MAX_MEMBERS],
        ended: [AtomicU64; MAX_MEMBERS],
    }
}

/// The end: no round has this amount.
const DISMISSED: u64 = u64::MAX;

/// The members, and what they share with the process that commands them.
pub struct Team {
    rounds: Shm<Rounds>,
    /// A `sem_t`, and not the crate's semaphore. The process that commands must not have waited in
    /// the crate when it forks: members would inherit what the crate has learned about its CPUs.
    finished: Shm<PosixSemaphore>,
    members: usize,
    turn: usize,
    children: Vec<Child>,
}

/// Forks a daemon that may borrow: it ends by `_exit`, with its copy of what is borrowed.
pub fn fork(body: impl FnOnce() + Send) -> Child {
    // SAFETY: a benchmark's program has no other threads, and holds no guards while it forks its
    // teams.
    unsafe { Builder::new().daemon(true).fork_with_threads(body) }
        .expect("a process cannot be forked")
}

impl Team {
    /// Returns a team of `members` processes. Member `index` calls `work(index, amount)` in each
    /// round.
    pub fn of_processes(
        members: usize,
        placement: Placement,
        work: impl Fn(usize, u64) + Sync,
    ) -> Team {
        Team::of_processes_warmed_up(members, placement, FIRST_ROUND, work)
    }

    /// The same, but with another amount in the first round.
    pub fn of_processes_warmed_up(
        members: usize,
        placement: Placement,
        first: u64,
        work: impl Fn(usize, u64) + Sync,
    ) -> Team {
        let mut team = Team::without_members(members);
        for index in 0..members {
            let (rounds, finished, work) = (&team.rounds, &team.finished, &work);
            team.children.push(fork(|| attend(rounds, finished, index, placement, work)));
        }
        team.round(first);
        team
    }

    /// Returns a team of `members` threads of one other process. This process must stay without
    /// other threads, to fork.
    #[allow(dead_code, reason = "only some primitives have rivals that are for threads")]
    pub fn of_threads(
        members: usize,
        placement: Placement,
        work: impl Fn(usize, u64) + Sync,
    ) -> Team {
        let mut team = Team::without_members(members);
        let (rounds, finished, work) = (&team.rounds, &team.finished, &work);
        let child = fork(|| {
            thread::scope(|scope| {
                for index in 0..members {
                    scope.spawn(move || attend(rounds, finished, index, placement, work));
                }
            });
        });
        team.children.push(child);
        team.round(FIRST_ROUND);
        team
    }

    fn without_members(members: usize) -> Team {
        assert!(members <= MAX_MEMBERS);
        let rounds = Rounds {
            go: [const { Event::new() }; 2],
            amount: AtomicU64::new(0),
            started: Default::default(),
            ended: Default::default(),
        };
        Team {
            rounds: Shm::new(rounds).unwrap(),
            finished: PosixSemaphore::shared(0),
            members,
            turn: 0,
            children: Vec::new(),
        }
    }

    /// Runs one round. Returns how long it took.
    pub fn round(&mut self, amount: u64) -> Duration {
        self.rounds.amount.store(amount, Relaxed);
        self.rounds.go[self.turn].set();
        for _ in 0..self.members {
            while !self.finished.wait_timeout(Duration::from_secs(1)) {
                assert!(
                    self.children.iter().all(|child| child.is_alive().unwrap()),
                    "a member has died"
                );
            }
        }
        self.rounds.go[self.turn].clear();
        self.turn ^= 1;
        let times = |of: &[AtomicU64; MAX_MEMBERS]| of.each_ref().map(|time| time.load(Relaxed));
        let started = times(&self.rounds.started)[..self.members].iter().copied().min();
        let ended = times(&self.rounds.ended)[..self.members].iter().copied().max();
        Duration::from_nanos(ended.unwrap_or(0) - started.unwrap_or(0))
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.rounds.amount.store(DISMISSED, Relaxed);
        self.rounds.go[self.turn].set();
        for child in &self.children {
            if thread::panicking() {
                // The child may wait for a member that has died.
                let _ = child.kill();
            }
            let status = child.join().unwrap();
            assert!(status.success() || thread::panicking(), "a member ended with {status}");
        }
    }
}

/// Returns the part of `all` that belongs to member `index` of `members`.
#[allow(dead_code, reason = "where all members do everything together, there is nothing to share")]
pub fn share(all: u64, index: usize, members: usize) -> u64 {
    all / members as u64 + u64::from((index as u64) < all % members as u64)
}

/// Runs a member's rounds until it is dismissed.
fn attend(
    rounds: &Rounds,
    finished: &PosixSemaphore,
    index: usize,
    placement: Placement,
    work: &impl Fn(usize, u64),
) {
    placement.apply(index, true);
    for round in 0_usize.. {
        if round == 1 {
            placement.apply(index, false);
        }
        rounds.go[round % 2].wait();
        let amount = rounds.amount.load(Relaxed);
        if amount == DISMISSED {
            return;
        }
        rounds.started[index].store(clock::now(), Relaxed);
        work(index, amount);
        rounds.ended[index].store(clock::now(), Relaxed);
        finished.post();
    }
}
