//! `CLOCK_MONOTONIC`, the only clock that deadlines are measured on.

use rustix::time::{ClockId, Timespec, clock_gettime};

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// Returns the nanoseconds on `CLOCK_MONOTONIC`, the clock of `std::time::Instant` on Linux.
#[must_use]
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The kernel never lets this clock be negative, and 584 years of nanoseconds fit.
    now.tv_sec as u64 * NANOS_PER_SEC + now.tv_nsec as u64
}

/// Returns the kernel's form of a moment on this clock.
pub(crate) fn timespec(nanos: u64) -> Timespec {
    Timespec { tv_sec: (nanos / NANOS_PER_SEC) as i64, tv_nsec: (nanos % NANOS_PER_SEC) as i64 }
}
