//! What a region says of itself is believed once: while a process has a handle to it, no other type
//! and no other numbers are.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::thread;

use crossproc::{Contents, Lock, Queue, QueueOptions, RegionError, Shm};

mod forked;
use forked::{fork, join_all};

/// Where a header has what it says of the contents: see `src/memory/region.rs`.
const SAID: core::ops::Range<usize> = 32..64;
/// Where a queue has its capacity, and its participants: see `src/queue/ring/layout.rs`.
const CONFIG: u64 = 4_096;

fn file_of(region: &impl AsFd) -> File {
    region.as_fd().try_clone_to_owned().unwrap().into()
}

fn descriptor_of(region: &impl AsFd) -> OwnedFd {
    file_of(region).into()
}

/// Has a region say that it holds what another one holds.
fn pretend(region: &impl AsFd, to_be: &impl AsFd) {
    let mut said = [0; SAID.end - SAID.start];
    file_of(to_be).read_exact_at(&mut said, SAID.start as u64).unwrap();
    file_of(region).write_all_at(&said, SAID.start as u64).unwrap();
}

type Numbers = Lock<[u64; 7]>;

fn lock() -> Shm<Numbers> {
    Shm::new(Lock::new([7; 7])).unwrap()
}

fn words() -> Shm<[AtomicU64]> {
    Shm::from_fn(3, |_| AtomicU64::new(0)).unwrap()
}

fn attached<T: ?Sized + Contents>(region: &impl AsFd) -> Result<Shm<T>, RegionError> {
    Shm::attach(descriptor_of(region))
}

/// Requires that this process attaches to a lock that says that it is words neither as to the one
/// nor as to the others; and to the lock once its header is whole again.
fn only_the_lock_is_attached(region: &impl AsFd) {
    pretend(region, &words());
    let refused = attached::<[AtomicU64]>(region);
    assert!(matches!(refused, Err(RegionError::Changed)), "{refused:?}");
    let refused = attached::<Numbers>(region);
    assert!(matches!(refused, Err(RegionError::OtherLayout { .. })), "{refused:?}");
    pretend(region, &lock());
    assert_eq!(*attached::<Numbers>(region).unwrap().lock().unwrap(), [7; 7]);
}

#[test]
fn another_type_is_attached_only_once_all_handles_are_gone() {
    let handles: [fn() -> Shm<Numbers>; 2] = [lock, || attached(&lock()).unwrap()];
    for handle in handles {
        let handle = handle();
        let other = handle.clone();
        let file = file_of(&handle);
        only_the_lock_is_attached(&handle);
        drop(handle);
        only_the_lock_is_attached(&other);
        drop(other);
        pretend(&file, &self::words());
        let words: Shm<[AtomicU64]> = attached(&file).unwrap();
        assert_eq!(words.len(), 3);
        let refused = attached::<Numbers>(&file);
        assert!(matches!(refused, Err(RegionError::OtherLayout { .. })), "{refused:?}");
    }
}

/// Unlike other regions, a queue has no table of what lies where in it.
#[test]
fn nor_are_the_items_of_a_queue_others_than_at_first() {
    let (numbers, floats) = (Queue::<u64>::new(4).unwrap(), Queue::<f64>::new(4).unwrap());
    let file = file_of(&numbers);
    pretend(&file, &floats);
    let refused = Queue::<f64>::attach(descriptor_of(&file));
    assert!(matches!(refused, Err(RegionError::Changed)), "{refused:?}");
    drop(numbers);
    Queue::<f64>::attach(descriptor_of(&file)).unwrap();
}

#[test]
fn a_forked_child_believes_what_its_parent_did() {
    let handle = lock();
    let theirs = handle.clone();
    join_all([fork(move || only_the_lock_is_attached(&theirs))]);
    // It is another process's first handle that decides there.
    let file = file_of(&handle);
    pretend(&handle, &words());
    drop(handle);
    join_all([fork(move || assert_eq!(attached::<[AtomicU64]>(&file).unwrap().len(), 3))]);
}

#[test]
fn a_queue_that_changes_its_numbers_is_refused() {
    let of = |participants| QueueOptions::new().participants(participants).create::<u64>(4);
    let (small, large) = (of(4).unwrap(), of(8).unwrap());
    let attach = |queue: &Queue<u64>| Queue::<u64>::attach(descriptor_of(queue));
    assert!(attach(&large).is_ok());
    let mut numbers = [0; 15 * 8];
    file_of(&small).read_exact_at(&mut numbers, CONFIG).unwrap();
    let file = file_of(&large);
    file.write_all_at(&numbers, CONFIG).unwrap();
    let refused = attach(&large);
    assert!(matches!(refused, Err(RegionError::Changed)), "{refused:?}");
    large.put(1).unwrap();
    assert_eq!(large.get().unwrap(), 1);
}

/// Returns the file of the region of this length that this process is making.
fn unfinished(len: u64) -> File {
    let open = |path| File::options().read(true).write(true).open(path).ok();
    let is_it = |file: &File| {
        let mut begins = [0; 8];
        file.metadata().unwrap().len() == len
            && file.read_exact_at(&mut begins, 0).is_ok()
            && begins == [0; 8]
    };
    let all = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let regions = all.filter(|path| {
        fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("memfd:crossproc"))
    });
    regions.filter_map(open).find(is_it).expect("the region is being made")
}

/// A peer that looks into `/proc` can write a header before its maker does, who has a `&mut` to the
/// contents.
#[test]
fn what_is_being_made_is_attached_to_by_nobody() {
    type Large = Lock<[u64; 12_345]>;
    let like_it: Shm<Large> = Shm::new_in_place(|_| ()).unwrap();
    let made: Shm<Large> = Shm::new_in_place(|_| {
        let file = unfinished(file_of(&like_it).metadata().unwrap().len());
        let mut header = [0; 4_096];
        file_of(&like_it).read_exact_at(&mut header, 0).unwrap();
        file.write_all_at(&header, 0).unwrap();
        let refused = attached::<Large>(&file);
        assert!(matches!(refused, Err(RegionError::NotInitialised)), "{refused:?}");
    })
    .unwrap();
    assert!(attached::<Large>(&made).is_ok());
}

/// Many come and go at the same time: each finds what is there, and nothing is left behind.
#[test]
fn handles_come_and_go_in_many_threads() {
    let regions: Vec<_> = (0..8).map(|_| (lock(), words())).collect();
    let attaches = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (regions, attaches) = (&regions, &attaches);
            scope.spawn(move || {
                for round in 0..500 {
                    let (lock, words) = &regions[(thread + round) % regions.len()];
                    assert!(attached::<Numbers>(lock).is_ok());
                    assert!(attached::<[AtomicU64]>(words).is_ok());
                    assert!(attached::<Numbers>(words).is_err());
                    drop(Shm::new(AtomicU64::new(0)).unwrap());
                    attaches.fetch_add(2, Relaxed);
                }
            });
        }
    });
    assert_eq!(attaches.load(Relaxed), 4_000);
}
