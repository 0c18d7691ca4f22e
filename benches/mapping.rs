//! What the options of [`crossproc::ShmOptions`] bring: pages that are mapped at once, and huge
//! pages.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossproc::{Shm, ShmOptions};
use crossproc_harness::ratios::Ratios;
use crossproc_harness::sampler::{Sampler, repeated};

type Words = Shm<[AtomicU64]>;

const PAGE: usize = 4_096 / size_of::<AtomicU64>();
/// 64 MiB.
const MANY: usize = (64 << 20) / size_of::<AtomicU64>();

const WITHOUT: &str = "without the option";

fn main() {
    crossproc_harness::run("Mapping", &[], |_| {}, compare);
}

fn compare(ratios: &mut Ratios) {
    let many = ratios.effort().choose(MANY, MANY, MANY / 16);
    let megabytes = (many * size_of::<AtomicU64>()) >> 20;
    let without = ShmOptions::new;
    for (name, options) in [
        ("mapped at once", ShmOptions::new().populate(true)),
        ("in huge pages", ShmOptions::new().huge_pages(true)),
    ] {
        let with = || options.clone();
        let operation = format!("create {megabytes} MiB and write to each page, {name}");
        ratios.compare(&operation, None, fresh(many, with()), WITHOUT, fresh(many, without()));
        let operation = format!("attach to {megabytes} MiB and read of each page, {name}");
        ratios.compare(
            &operation,
            None,
            attached(many, with()),
            WITHOUT,
            attached(many, without()),
        );
    }
    let operation = format!("a write somewhere in {} MiB, in huge pages", 4 * megabytes);
    let huge = ShmOptions::new().huge_pages(true);
    let ours = somewhere(4 * many, huge);
    ratios.compare(&operation, None, ours, WITHOUT, somewhere(4 * many, without()));
}

fn words(len: usize, options: &ShmOptions) -> Words {
    options.slice_in_place(len, |_: &mut [AtomicU64]| ()).unwrap()
}

fn fresh(len: usize, options: ShmOptions) -> Sampler {
    repeated(Box::new(options), move |options| {
        words(len, options).iter().step_by(PAGE).for_each(|word| word.store(1, Relaxed));
    })
}

fn attached(len: usize, options: ShmOptions) -> Sampler {
    repeated(Box::new((words(len, &options), options)), |(words, options)| {
        let file = words.as_fd().try_clone_to_owned().unwrap();
        let again: Words = options.attach(file).unwrap();
        let sum: u64 = again.iter().step_by(PAGE).map(|word| word.load(Relaxed)).sum();
        assert_eq!(sum, 0);
    })
}

/// Writes to words that are far from each other, in an order that no cache expects, in pages that
/// are all mapped.
fn somewhere(len: usize, options: ShmOptions) -> Sampler {
    let (words, at) = (words(len, &options), AtomicU64::new(1));
    words.iter().step_by(PAGE).for_each(|word| word.store(1, Relaxed));
    repeated(Box::new((words, at)), |(words, at)| {
        // Marsaglia's xorshift.
        let mut next = at.load(Relaxed);
        next ^= next << 13;
        next ^= next >> 7;
        next ^= next << 17;
        at.store(next, Relaxed);
        words[next as usize % words.len()].store(next, Relaxed);
    })
}
