//! [`Plan`]: which workers are killed, and when.

use std::time::Duration;

/// The longest delay between the moment at which the given number of tasks is done and the kill. It
/// is longer than a get, or a small task, takes. So any instruction of the victim may be the last.
const MAX_DELAY: Duration = Duration::from_millis(1);

/// One kill of a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kill {
    /// The kill comes when this many tasks are done ...
    pub(crate) done: u32,
    /// ... and this time has passed since ...
    pub(crate) delay: Duration,
    /// ... and hits the worker in this slot, or else in the next slot that has a worker.
    pub(crate) slot: usize,
}

/// All kills of a job, in their order. The same seed, tasks and workers give the same plan.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    kills: Vec<Kill>,
    /// By how many tasks the workers may be ahead of the next kill.
    lead: u32,
    tasks: u32,
}

impl Plan {
    pub(crate) fn draw(seed: u64, kills: u32, tasks: u32, workers: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        // With this much left to do, the last victim is still at work. The lead exceeds the number
        // of workers, so that a kill is due even if each of them is busy with a long task.
        let lead = (tasks / 10).max(workers + 1);
        let last = tasks.saturating_sub(lead + 1);
        let kills = if tasks == 0 { 0 } else { kills };
        let mut done: Vec<u32> = (0..kills).map(|_| random.u32(0..=last)).collect();
        done.sort_unstable();
        let mut kill = |done| {
            let delay = Duration::from_nanos(random.u64(0..=MAX_DELAY.as_nanos() as u64));
            Kill { done, delay, slot: random.usize(0..workers as usize) }
        };
        Plan { seed, kills: done.into_iter().map(&mut kill).collect(), lead, tasks }
    }

    pub(crate) fn kills(&self) -> &[Kill] {
        &self.kills
    }

    /// Returns the first task that must not be given out before that kill. This keeps small jobs
    /// from ending before all their kills; large jobs hardly ever reach the limit. Until the last
    /// kill one task is held back, so that no worker ends for want of work.
    pub(crate) fn gate(&self, kill: usize) -> u32 {
        match self.kills.get(kill) {
            Some(kill) => (kill.done + self.lead).min(self.tasks - 1),
            None => self.tasks,
        }
    }
}
