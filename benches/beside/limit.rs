//! The interface that all limits on concurrent sections share, and their measurements.

use core::ops::Deref;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use crossproc::Shm;

use super::permits::Permits;
use crossproc_harness::placement::Placement;
use crossproc_harness::sampler::{Sampler, repeated, rounds};
use crossproc_harness::team::{Team, share};

/// A limit on how many threads run a section at once.
pub(crate) trait Limit {
    /// Runs `section` with a permit, which the same thread gives back.
    fn with_permit(&self, section: impl FnOnce());
}

impl<P: Permits> Limit for P {
    #[inline]
    fn with_permit(&self, section: impl FnOnce()) {
        self.acquire();
        section();
        self.release();
    }
}

/// Acquire and release, with nothing between them.
pub(crate) fn pair<L: Limit + 'static>(limit: impl Deref<Target = L> + 'static) -> Sampler {
    repeated(limit, |limit| limit.with_permit(|| {}))
}

/// A number of processes that share a given number of short sections.
pub(crate) fn contended<L: Limit>(
    processes: usize,
    limit: impl Deref<Target = L> + Sync + 'static,
) -> Sampler {
    let counters: Shm<[AtomicU64; 4]> = Shm::new(Default::default()).unwrap();
    let mut sampler = rounds(Team::of_processes(processes, Placement::FREE, |index, sections| {
        for _ in 0..share(sections, index, processes) {
            // Relaxed, and no exchange: with one permit, its holder is alone here, and the permit
            // provides the ordering. With more permits, counts are lost, but nobody looks at them.
            limit.with_permit(|| {
                counters
                    .iter()
                    .for_each(|counter| counter.store(counter.load(Relaxed) + 1, Relaxed));
            });
        }
    }));
    Box::new(move |sections| {
        // The members use the limit as long as there are rounds. Not everything that they use is
        // memory that goes away with its last user.
        let _in_use = &limit;
        sampler(sections)
    })
}
