//! The things that are measured: each can be done any number of times, and reports how long that
//! took.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ops::Deref;
use core::time::Duration;
use std::io;

use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;

use crate::team::Team;

/// Does it as often as asked, and returns how long that took.
pub type Sampler = Box<dyn FnMut(u64) -> Duration>;

/// Repeats `operation`, which never waits, on `object` in this thread. Measures by the thread's CPU
/// time: what others do meanwhile does not count.
pub fn repeated<T: 'static>(
    object: impl Deref<Target = T> + 'static,
    operation: impl Fn(&T) + 'static,
) -> Sampler {
    Box::new(move |times| {
        let start = cpu_time();
        repeat(&*object, times, &operation);
        cpu_time() - start
    })
}

/// Returns how long this thread has run.
fn cpu_time() -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: writes the time to where its argument points.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()) };
    assert_eq!(failed, 0, "a thread's CPU time cannot be had: {}", io::Error::last_os_error());
    // SAFETY: the call has succeeded, so the time is written.
    let time = unsafe { time.assume_init() };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The loop around one operation. It is a function of its own, to be found in a disassembly.
#[inline(never)]
fn repeat<T>(object: &T, times: u64, operation: &impl Fn(&T)) {
    for _ in 0..times {
        operation(object);
    }
}

/// Returns a sampler of a team's rounds.
pub fn rounds(mut team: Team) -> Sampler {
    Box::new(move |amount| team.round(amount))
}

/// Has criterion measure what `make` makes, once criterion asks for it.
pub fn benchmark(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, make: impl Fn() -> Sampler) {
    let mut sampler = None;
    group.bench_function(name, |bencher| {
        let sampler = sampler.get_or_insert_with(&make);
        bencher.iter_custom(&mut *sampler);
    });
}
