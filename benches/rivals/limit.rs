//! What everything that limits how many do something at once has in common, and what is measured of
//! it.

use core::ops::Deref;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use crossproc::Shm;

use super::permits::Permits;
use crate::harness::placement::Placement;
use crate::harness::sampler::{Sampler, repeated, rounds};
use crate::harness::team::{Team, share};

/// So many at once, and no more.
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

/// Acquire and release, with nothing between.
pub(crate) fn pair<L: Limit + 'static>(limit: impl Deref<Target = L> + 'static) -> Sampler {
    repeated(limit, |limit| limit.with_permit(|| {}))
}

/// So many processes that share a given number of short sections.
pub(crate) fn contended<L: Limit>(
    processes: usize,
    limit: impl Deref<Target = L> + Sync + 'static,
) -> Sampler {
    let counters: Shm<[AtomicU64; 4]> = Shm::new(Default::default()).unwrap();
    let mut sampler = rounds(Team::of_processes(processes, Placement::FREE, |index, sections| {
        for _ in 0..share(sections, index, processes) {
            // Relaxed, and no exchange: with one permit, who has it is alone here, and the permit
            // orders it. With more, counts are lost that nobody looks at.
            limit.with_permit(|| {
                counters
                    .iter()
                    .for_each(|counter| counter.store(counter.load(Relaxed) + 1, Relaxed));
            });
        }
    }));
    Box::new(move |sections| {
        // The members use it as long as there are rounds, and not everything that they use is
        // memory that goes with its last user.
        let _in_use = &limit;
        sampler(sections)
    })
}
