//! Locks around slices of a length that is given at run time.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crossproc::bytemuck::AnyBitPattern;
use crossproc::{
    Condition, Contents, Event, Lock, LockError, RegionError, RwLock, Shm, Wait, wait_any,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

mod forked;
use forked::{fork, join_all, kill, wait_until, wait_until_asleep};

fn descriptor_of(region: &impl AsFd) -> OwnedFd {
    region.as_fd().try_clone_to_owned().unwrap()
}

/// An element that is aligned to more than a lock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, AnyBitPattern)]
#[bytemuck(crate = "crossproc::bytemuck")]
#[repr(C, align(128))]
struct Line([u64; 16]);

fn line(index: usize) -> Line {
    Line([index as u64; 16])
}

#[test]
fn what_is_attached_has_the_same_length_and_elements() {
    for len in [0, 1, 7, 4_096, 100_000] {
        let one = Shm::<Lock<[Line]>>::lock_from_fn(len, line).unwrap();
        let other: Shm<Lock<[Line]>> = Shm::attach(descriptor_of(&one)).unwrap();
        one.lock().unwrap().iter_mut().for_each(|line| line.0[7] += 1);
        let guard = other.lock().unwrap();
        assert_eq!(guard.len(), len);
        let is_right = |(index, line): (usize, &Line)| {
            (line.0[0], line.0[7]) == (index as u64, index as u64 + 1)
        };
        assert!(guard.iter().enumerate().all(is_right));
        assert_eq!(guard.as_ptr().addr() % align_of::<Line>(), 0);
        // The same lock at another address.
        assert!(matches!(one.try_lock(), Err(LockError::Deadlock)));
    }
    for len in [0, 1, 1_000] {
        let one = Shm::<RwLock<[u8], 3>>::rw_lock_from_fn(len, |index| index as u8).unwrap();
        let other: Shm<RwLock<[u8], 3>> = Shm::attach(descriptor_of(&one)).unwrap();
        one.write().unwrap().iter_mut().for_each(|byte| *byte ^= 1);
        let expected: Vec<u8> = (0..len).map(|index| index as u8 ^ 1).collect();
        assert_eq!(*other.read().unwrap(), *expected);
    }
}

/// A writer that dies is told of, and what it has written so far is there.
#[test]
fn the_death_of_an_owner_is_told() {
    let halves = Shm::<Lock<[u64]>>::lock_from_fn(1_000, |_| 0).unwrap();
    let written = Shm::new(Event::new()).unwrap();
    let (theirs, told) = (halves.clone(), written.clone());
    let child = fork(move || -> () {
        theirs.lock().unwrap()[..500].fill(1);
        let mut guard = theirs.lock().unwrap();
        guard[500..].fill(2);
        told.set();
        loop {
            std::thread::park();
        }
    });
    written.wait();
    kill(&child);
    assert_eq!(wait_any(&[&halves.owner_death()]).unwrap(), [0]);
    assert!(matches!(halves.lock().map(drop), Err(LockError::OwnerDied)));
    let guard = halves.lock_or_repair(|all| all[500..].fill(0)).unwrap();
    assert_eq!(guard.iter().sum::<u64>(), 500);
    drop(guard);
    assert!(halves.lock().is_ok());

    let both = Shm::<RwLock<[u64]>>::rw_lock_from_fn(2, |_| 0).unwrap();
    let theirs = both.clone();
    let child = fork(move || {
        let mut guard = theirs.write().unwrap();
        guard[0] = 1;
        std::process::abort();
    });
    child.join().unwrap();
    assert!(both.read().is_err_and(|error| matches!(error, LockError::OwnerDied)));
    assert_eq!(*both.read_unrepaired(Wait::NONE).unwrap(), [1, 0]);
    drop(both.write_or_repair(|all| all[1] = 1).unwrap());
    assert_eq!(*both.read().unwrap(), [1, 1]);
}

#[test]
fn a_condition_waits_for_a_change_of_an_element() {
    let seats = Shm::<Lock<[u32]>>::lock_from_fn(8, |_| 0).unwrap();
    let changed = Shm::new(Condition::new()).unwrap();
    let (theirs, told) = (seats.clone(), changed.clone());
    let child = fork(move || {
        let mut guard = theirs.lock().unwrap();
        told.wait_while(&mut guard, |seats| seats[7] == 0).unwrap();
        guard[0] = guard[7];
    });
    wait_until_asleep(&child);
    seats.lock().unwrap()[7] = 9;
    changed.notify_one();
    join_all([child]);
    assert_eq!(seats.lock().unwrap()[0], 9);
}

/// Attaches a copy of a region, in which the number of elements is another.
fn with_count<T: ?Sized + Contents>(region: &Shm<T>, count: u64) -> Result<Shm<T>, RegionError> {
    // Where the header has it: see `src/memory/region.rs`.
    const COUNT: u64 = 48;
    let file = std::fs::File::from(descriptor_of(region));
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let copy = memfd_create("copy", MemfdFlags::ALLOW_SEALING).unwrap();
    let copy = std::fs::File::from(copy);
    copy.write_all_at(&bytes, 0).unwrap();
    copy.write_all_at(&count.to_ne_bytes(), COUNT).unwrap();
    fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW).unwrap();
    Shm::attach(copy)
}

#[test]
fn a_count_that_does_not_fit_is_refused() {
    let lines = Shm::<Lock<[Line]>>::lock_from_fn(3, line).unwrap();
    for count in [0, 1, 2, 3] {
        assert_eq!(with_count(&lines, count).unwrap().lock().unwrap().len() as u64, count);
    }
    for count in [4, 5, u64::MAX / 128, u64::MAX] {
        let refused = with_count(&lines, count);
        assert!(matches!(refused, Err(RegionError::TooShort { .. })), "{count}: {refused:?}");
    }
    // The last bytes are those to which the size of the whole is rounded up.
    let bytes = Shm::<Lock<[u8]>>::lock_from_fn(1, |_| 0).unwrap();
    let fit = (0..100).take_while(|&count| with_count(&bytes, count).is_ok()).count();
    assert_eq!(fit - 1, 8, "a lock is aligned to 8 bytes");
}

#[test]
fn too_many_elements_are_refused_and_so_is_memory_that_there_is_none_of() {
    let refused = Shm::<Lock<[u64]>>::lock_from_fn(usize::MAX / 8, |_| 0);
    assert!(matches!(refused, Err(RegionError::TooLarge { .. })), "{refused:?}");
    let refused = Shm::<RwLock<[u64]>>::rw_lock_from_fn(1 << 55, |_| 0);
    assert!(matches!(refused, Err(RegionError::Create { .. })), "{refused:?}");
}

#[test]
fn what_is_another_type_is_refused() {
    fn refused<T: ?Sized + Contents>(region: &impl AsFd) -> bool {
        matches!(Shm::<T>::attach(descriptor_of(region)), Err(RegionError::OtherLayout { .. }))
    }
    let slice = Shm::<Lock<[u64]>>::lock_from_fn(1, |_| 0).unwrap();
    assert!(refused::<Lock<[i64]>>(&slice));
    assert!(refused::<Lock<[u32]>>(&slice));
    assert!(refused::<Lock<u64>>(&slice));
    assert!(refused::<Lock<[u64; 1]>>(&slice));
    assert!(refused::<[Lock<u64>]>(&slice));
    assert!(refused::<RwLock<[u64]>>(&slice));
    assert!(refused::<Lock<[u64]>>(&Shm::new(Lock::new([0_u64])).unwrap()));
    let readers = Shm::<RwLock<[u64], 4>>::rw_lock_from_fn(1, |_| 0).unwrap();
    assert!(refused::<RwLock<[u64], 5>>(&readers));
}

#[test]
fn many_processes_add_up() {
    let totals = Shm::<Lock<[u64]>>::lock_from_fn(64, |_| 0).unwrap();
    let children: Vec<_> = (0..4)
        .map(|_| {
            let theirs = totals.clone();
            fork(move || {
                for round in 0..10_000 {
                    theirs.lock().unwrap()[round % 64] += 1;
                }
            })
        })
        .collect();
    wait_until("all have added", || totals.lock().unwrap().iter().sum::<u64>() == 40_000);
    join_all(children);
}
