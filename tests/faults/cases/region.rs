//! Shared memory.

use std::sync::atomic::{AtomicU64, Ordering::*};

use crossproc::{Parts, ReadOnly, Shm, ShmOptions};

use super::{Case, duplicate};
use crate::probe::require;

pub(super) fn add(all: &mut Vec<Case>) {
    let mut case = |name, run| all.push(Case { name, run });
    case("region: new", |probe| {
        probe.operate(|| {
            let number = Shm::new(AtomicU64::new(7))?;
            Ok(require(number.load(Relaxed) == 7, "it has its value")?)
        });
    });
    case("region: from_fn, 1 MiB", |probe| {
        probe.operate(|| {
            let numbers = Shm::from_fn(1 << 17, |index| AtomicU64::new(index as u64))?;
            Ok(require(numbers[70_000].load(Relaxed) == 70_000, "it has its values")?)
        });
    });
    case("region: slice_in_place", |probe| {
        probe.operate(|| {
            let numbers =
                Shm::<[AtomicU64]>::slice_in_place(1_000, |numbers| *numbers[3].get_mut() = 3)?;
            Ok(require(numbers[3].load(Relaxed) == 3, "it has its values")?)
        });
    });
    case("region: attach", |probe| {
        let number = Shm::new(AtomicU64::new(7)).unwrap();
        probe.operate(|| {
            let again: Shm<AtomicU64> = Shm::attach(duplicate(&number)?)?;
            Ok(require(again.load(Relaxed) == 7, "it is the same")?)
        });
    });
    case("region: with all options", |probe| {
        probe.operate(|| {
            let options = ShmOptions::new().populate(true).huge_pages(true).seal_writers(true);
            let numbers = options.from_fn(1 << 18, |index| AtomicU64::new(index as u64))?;
            Ok(require(numbers[70_000].load(Relaxed) == 70_000, "it has its values")?)
        });
    });
    case("region: attach to parts", |probe| {
        let numbers = Shm::new([AtomicU64::new(7), AtomicU64::new(8)]).unwrap();
        let offset = numbers.part(&numbers[1]).unwrap().offset();
        probe.operate(|| {
            let part = Parts::attach(duplicate(&numbers)?)?.part::<AtomicU64>(offset)?;
            Ok(require(part.load(Relaxed) == 8, "it is the same")?)
        });
    });
    case("region: a read-only descriptor", |probe| {
        let number = Shm::new(AtomicU64::new(7)).unwrap();
        probe.operate(|| {
            let look = ReadOnly::attach(number.read_only()?)?;
            Ok(require(look.get::<AtomicU64>(0)? == 7, "it is the same")?)
        });
    });
}
