//! Parts of shared memory are handed out one by one, and nothing is taken for what it is not.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use crossproc::{
    ByteQueue, Event, Fixed, Lock, Part, Parts, Queue, RegionError, RwLock, Semaphore, Shared, Shm,
    pipe, shared,
};

mod forked;
use forked::{fork, join_all};

/// Where a region has its table: see `docs/layout.md`.
const TABLE: u64 = 120;
/// Where the first field of the table has its offset.
const FIRST_OFFSET: u64 = TABLE + 8;

shared! {
    struct Worker {
        done: AtomicU64,
        wakes: Event,
    }
}

shared! {
    struct Board {
        limit: Fixed<u32>,
        locks: [Lock<u64>; 100],
        workers: [Worker; 3],
        permits: Semaphore,
    }
}

fn board() -> Shm<Board> {
    Shm::new_in_place(|board: &mut Board| board.permits = Semaphore::new(2)).unwrap()
}

fn file_of(region: &impl AsFd) -> File {
    region.as_fd().try_clone_to_owned().unwrap().into()
}

fn parts_of(region: &impl AsFd) -> Result<Parts, RegionError> {
    Parts::attach(OwnedFd::from(file_of(region)))
}

fn is_none<P: Shared>(parts: &Parts, offset: usize) -> bool {
    match parts.part::<P>(offset) {
        Err(RegionError::NoSuchPart { offset: at, .. }) => at == offset,
        _ => false,
    }
}

#[test]
fn one_descriptor_is_enough_for_a_hundred_locks() {
    let board = board();
    let offsets = board.locks.each_ref().map(|lock| board.part(lock).unwrap().offset());
    let (sender, receiver) = pipe().unwrap();
    let child = fork(move || {
        let parts: Parts = receiver.recv_handle().unwrap();
        for (number, offset) in offsets.into_iter().enumerate() {
            let lock: Part<Lock<u64>> = parts.part(offset).unwrap();
            *lock.lock().unwrap() += number as u64;
        }
    });
    sender.send_handle(&board.parts().unwrap()).unwrap();
    join_all([child]);
    for (number, lock) in board.locks.iter().enumerate() {
        assert_eq!(*lock.lock().unwrap(), number as u64);
    }
}

#[test]
fn a_part_is_what_lies_there() {
    let board = board();
    let parts = parts_of(&board).unwrap();
    let permits = board.part(&board.permits).unwrap().offset();
    parts.part::<Semaphore>(permits).unwrap().acquire();
    assert!(board.permits.try_acquire().is_ok() && board.permits.try_acquire().is_err());

    let second = board.part(&board.workers[1]).unwrap();
    let there = parts.part::<Worker>(second.offset()).unwrap();
    there.done.fetch_add(7, Relaxed);
    assert_eq!(board.workers[1].done.load(Relaxed), 7);
    let all = second.parts().part::<[Worker; 3]>(second.offset() - size_of::<Worker>()).unwrap();
    assert_eq!(all[1].done.load(Relaxed), 7);

    let locks = board.part(&board.locks).unwrap().offset();
    assert_eq!(parts.part::<[Lock<u64>; 2]>(locks + 98 * size_of::<Lock<u64>>()).unwrap().len(), 2);
    assert!(parts.part::<Board>(0).is_ok());
}

#[test]
fn nothing_else_is_a_part() {
    let board = board();
    let parts = board.parts().unwrap();
    let locks = board.part(&board.locks).unwrap().offset();
    let size = size_of::<Lock<u64>>();
    assert!(is_none::<Lock<i64>>(&parts, locks) && is_none::<AtomicU64>(&parts, locks));
    for offset in [locks - 8, locks + 4, locks + size / 2, locks + 100 * size, usize::MAX] {
        assert!(is_none::<Lock<u64>>(&parts, offset), "{offset}");
    }
    assert!(is_none::<[Lock<u64>; 2]>(&parts, locks + 99 * size));
    assert!(is_none::<Worker>(&parts, locks));
    // Nothing of it is used, but it has to lie somewhere.
    assert!(parts.part::<[Lock<u64>; 0]>(0).is_ok());
    assert!(is_none::<[Lock<u64>; 0]>(&parts, 1 << 40));
    let elsewhere = Lock::new(7_u64);
    assert!(matches!(board.part(&elsewhere), Err(RegionError::NoSuchPart { .. })));
    let message = parts.part::<Lock<i64>>(locks).unwrap_err().to_string();
    assert!(message.contains("Lock<i64>") && message.contains(&locks.to_string()), "{message}");
}

#[test]
fn there_is_nothing_in_the_padding_of_a_part() {
    shared! {
        struct Dense {
            first: AtomicU8,
            second: AtomicU8,
            last: AtomicU32,
        }
    }
    shared! {
        struct Spaced {
            first: AtomicU8,
            last: AtomicU32,
        }
    }
    let dense: Shm<Dense> = Shm::new_in_place(|_| ()).unwrap();
    let spaced: Shm<Spaced> = Shm::new_in_place(|_| ()).unwrap();
    assert!(spaced.parts().unwrap().part::<Spaced>(0).is_ok());
    assert!(is_none::<Spaced>(&dense.parts().unwrap(), 0));
}

#[test]
fn a_slice_has_parts() {
    let slice = Shm::from_fn(1_000, |index| AtomicU32::new(index as u32)).unwrap();
    let parts = parts_of(&slice).unwrap();
    assert_eq!(parts.part::<AtomicU32>(4 * 999).unwrap().load(Relaxed), 999);
    assert!(is_none::<AtomicU32>(&parts, 4 * 1_000));
}

#[test]
fn what_does_not_tell_has_no_parts() {
    let lock: Shm<Lock<[u64]>> = Shm::lock_from_fn(4, |_| 0).unwrap();
    let rw_lock: Shm<RwLock<[u64]>> = Shm::rw_lock_from_fn(4, |_| 0).unwrap();
    let workers: Shm<[Worker]> = Shm::slice_in_place(63, |_| ()).unwrap();
    let queue: Queue<u64> = Queue::new(4).unwrap();
    let bytes = ByteQueue::with_max_len(4, 100).unwrap();
    for parts in [
        parts_of(&lock),
        parts_of(&rw_lock),
        parts_of(&workers),
        parts_of(&queue),
        parts_of(&bytes),
        lock.parts(),
        workers.parts(),
    ] {
        assert!(matches!(parts, Err(RegionError::NoParts)), "{parts:?}");
    }
    assert!(matches!(workers.part(&workers[0]), Err(RegionError::NoParts)));
    let fewer: Shm<[Worker]> = Shm::slice_in_place(62, |_| ()).unwrap();
    assert!(fewer.part(&fewer[61].wakes).is_ok());
}

/// Has a region say that its first field is at another offset.
fn move_first_field(region: &impl AsFd, to: u64) {
    file_of(region).write_all_at(&to.to_ne_bytes(), FIRST_OFFSET).unwrap();
}

#[test]
fn where_parts_are_is_believed_once() {
    let lock: Shm<[Lock<u64>; 2]> = Shm::new([Lock::new(1), Lock::new(2)]).unwrap();
    // The second word of the first lock is said to be another lock's first.
    file_of(&lock).write_all_at(&1_u64.to_ne_bytes(), FIRST_OFFSET + 16).unwrap();
    move_first_field(&lock, 8);
    let refused = parts_of(&lock);
    assert!(matches!(refused, Err(RegionError::Changed)), "{refused:?}");
    // What a process believes already is not asked of the region.
    assert!(lock.part(&lock[1]).is_ok());
    assert!(is_none::<Lock<u64>>(&lock.parts().unwrap(), 8));

    let file = file_of(&lock);
    drop(lock);
    let parts = parts_of(&file).unwrap();
    let part: Part<Lock<u64>> = parts.part(8).unwrap();
    drop(parts);
    let refused = Shm::<[Lock<u64>; 2]>::attach(OwnedFd::from(file_of(&file)));
    assert!(matches!(refused, Err(RegionError::Changed)), "{refused:?}");
    drop(part);
    assert!(Shm::<[Lock<u64>; 2]>::attach(OwnedFd::from(file)).is_ok());
}

/// Has a region say that it begins with so many numbers.
fn forge_table(region: &impl AsFd, count: u64) {
    let numbers = Shm::new([const { AtomicU64::new(0) }; 4]).unwrap();
    let mut table = [0; 40];
    file_of(&numbers).read_exact_at(&mut table, TABLE).unwrap();
    table[24..32].copy_from_slice(&count.to_ne_bytes());
    file_of(region).write_all_at(&table, TABLE).unwrap();
}

#[test]
fn what_has_no_parts_gets_none_by_a_table() {
    let queue: Queue<u64> = Queue::new(4).unwrap();
    let lock: Shm<Lock<[u64]>> = Shm::lock_from_fn(4, |_| 0).unwrap();
    for region in [file_of(&queue), file_of(&lock)] {
        forge_table(&region, 5);
        let refused = parts_of(&region);
        assert!(matches!(refused, Err(RegionError::Changed)), "{refused:?}");
    }
    assert!(matches!(lock.parts(), Err(RegionError::NoParts)));
    let file = file_of(&queue);
    drop(queue);
    let refused = parts_of(&file);
    assert!(matches!(refused, Err(RegionError::Holes { .. })), "{refused:?}");
    let file = file_of(&lock);
    drop(lock);
    let parts = parts_of(&file).unwrap();
    let refused = Shm::<Lock<[u64]>>::attach(OwnedFd::from(file));
    assert!(matches!(refused, Err(RegionError::Changed)), "{refused:?}");
    drop(parts);
}

#[test]
fn a_forked_child_believes_where_its_parents_parts_are() {
    let numbers = Shm::new([const { AtomicU64::new(7) }; 4]).unwrap();
    forge_table(&numbers, 3);
    let theirs = numbers.clone();
    join_all([fork(move || {
        assert!(matches!(parts_of(&theirs), Err(RegionError::Changed)));
        assert_eq!(theirs.part(&theirs[3]).unwrap().load(Relaxed), 7);
    })]);
}

#[test]
fn a_table_that_cannot_be_is_none() {
    const SECOND_OFFSET: u64 = FIRST_OFFSET + 32;
    let cannot_be = [
        (TABLE, 0),
        (TABLE, 3),
        (TABLE, u64::MAX),
        (SECOND_OFFSET, 0),
        (SECOND_OFFSET, 1 << 20),
        (SECOND_OFFSET + 8, 0),
        (SECOND_OFFSET + 16, u64::MAX),
    ];
    for (offset, number) in cannot_be {
        let worker: Shm<Worker> = Shm::new_in_place(|_| ()).unwrap();
        let file = file_of(&worker);
        file.write_all_at(&number.to_ne_bytes(), offset).unwrap();
        drop(worker);
        let refused = parts_of(&file);
        assert!(matches!(refused, Err(RegionError::NoParts)), "{offset}, {number}: {refused:?}");
        assert!(Shm::<Worker>::attach(OwnedFd::from(file)).is_ok());
    }
}

#[test]
fn a_part_is_aligned_whatever_the_table_says() {
    let numbers = Shm::new([AtomicU64::new(0), AtomicU64::new(0)]).unwrap();
    let file = file_of(&numbers);
    drop(numbers);
    move_first_field(&file, 4);
    file.write_all_at(&1_u64.to_ne_bytes(), FIRST_OFFSET + 16).unwrap();
    assert!(is_none::<AtomicU64>(&parts_of(&file).unwrap(), 4));
}
