//! The CPUs on which the members of a team run.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use std::io;

/// Where members run, and since when.
///
/// The time matters because a process may count its CPUs only once. By their number, it may decide
/// whether spinning makes sense.
#[derive(Clone, Copy)]
pub struct Placement {
    #[allow(dead_code, reason = "where there is one placement only, it needs no name")]
    pub name: &'static str,
    /// The number of CPUs on which the members are pinned in turn; 0: wherever the scheduler puts
    /// them.
    cpus: usize,
    /// Whether members are pinned from their first instruction on. Otherwise, they are pinned after
    /// their first round, in which they have waited.
    from_start: bool,
}

#[allow(dead_code, reason = "not every primitive is measured in all of them")]
impl Placement {
    pub const FREE: Placement =
        Placement { name: "CPUs as the scheduler likes", cpus: 0, from_start: false };
    pub const TWO_CPUS: Placement = Placement { name: "two CPUs", cpus: 2, from_start: false };
    pub const ONE_CPU: Placement = Placement { name: "same CPU", cpus: 1, from_start: false };
    pub const TWO_CPUS_FROM_START: Placement =
        Placement { name: "two CPUs, pinned before the first wait", cpus: 2, from_start: true };
    pub const ONE_CPU_FROM_START: Placement =
        Placement { name: "same CPU, pinned before the first wait", cpus: 1, from_start: true };

    /// Returns the placements that pin the members once they have waited.
    pub fn pinned() -> impl Iterator<Item = Placement> {
        [Placement::TWO_CPUS, Placement::ONE_CPU]
            .into_iter()
            .filter(|placement| placement.is_possible())
    }

    /// Returns all placements for which there are enough CPUs.
    pub fn all() -> impl Iterator<Item = Placement> {
        let from_start = [Placement::TWO_CPUS_FROM_START, Placement::ONE_CPU_FROM_START];
        Placement::pinned()
            .chain(from_start.into_iter().filter(|placement| placement.is_possible()))
            .chain([Placement::FREE])
    }

    /// Returns whether there are enough CPUs for it.
    pub fn is_possible(self) -> bool {
        self.cpus <= allowed_cpus().len()
    }

    /// Returns whether members are pinned to two CPUs, each of two to one of its own.
    pub fn is_on_two_cpus(self) -> bool {
        self.cpus == 2
    }

    /// Returns the bar for this placement: one of two, or none where the scheduler decides.
    pub fn bar(self, on_one_cpu: f64, on_two_cpus: f64) -> Option<f64> {
        match self.cpus {
            1 => Some(on_one_cpu),
            2 => Some(on_two_cpus),
            _ => None,
        }
    }

    /// Pins the calling thread, which is member `index`, if it is to be pinned at this point.
    pub fn apply(self, index: usize, at_start: bool) {
        if self.cpus != 0 && self.from_start == at_start {
            pin(allowed_cpus()[index % self.cpus]);
        }
    }
}

/// Returns the CPUs that the calling thread may run on.
fn allowed_cpus() -> Vec<usize> {
    let mut set = no_cpus();
    // SAFETY: writes at most as many bytes as `set` has.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    assert_eq!(failed, 0, "the CPUs cannot be had: {}", io::Error::last_os_error());
    // SAFETY: looks at bits below CPU_SETSIZE, which `set` has.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

fn pin(cpu: usize) {
    let mut set = no_cpus();
    // SAFETY: sets a bit below CPU_SETSIZE: `cpu` comes from `allowed_cpus`.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: reads as many bytes as `set` has.
    let failed =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    assert_eq!(failed, 0, "CPU {cpu} cannot be had: {}", io::Error::last_os_error());
}

fn no_cpus() -> libc::cpu_set_t {
    // SAFETY: an array of integers: zeroes are a valid value, the empty set.
    unsafe { MaybeUninit::zeroed().assume_init() }
}
