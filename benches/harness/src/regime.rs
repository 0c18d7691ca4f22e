//! The regime of the host: what an uncontended compare-exchange and a swap take. On a virtual
//! machine it changes from hour to hour, with neighbours and clock rates, and all rows with it.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::sampler::{Sampler, repeated};

/// The name of these two operations as a rival.
pub const BARE: &str = "bare CAS + swap";

/// Returns a sampler of the pair: the least that a lock needs, without a lock.
pub fn sampler() -> Sampler {
    repeated(Box::new(AtomicU32::new(0)), |word| {
        // Acquire and Release: as a lock would, so that the instructions are the same.
        let _ = word.compare_exchange(0, 1, Acquire, Relaxed);
        word.swap(0, Release);
    })
}
