//! Items and values that are larger than a thread's stack.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::panic::{self, AssertUnwindSafe};
use std::process::abort;
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;

use crossproc::{
    Barrier, BoundedSemaphore, Condition, Event, Fixed, JoinableQueue, Lock, Once, Permits, Queue,
    QueueError, QueueOptions, RLock, RegionError, RwLock, Semaphore, Shm, shared,
};

mod forked;
use forked::fork;

const MIB: usize = 1 << 20;

/// Runs `run` in a thread with a stack of 256 KiB.
fn with_little_stack<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, run).unwrap();
        thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// Puts and gets an item in each of the ways that need no stack for it.
fn pass_items<const SIZE: usize>() {
    with_little_stack(|| {
        let queue: Queue<[u8; SIZE]> =
            QueueOptions::new().participants(2).loans(2).create(2).unwrap();
        let mut loan = queue.loan().unwrap();
        loan.fill(7);
        loan[SIZE - 1] = 8;
        loan.send().unwrap();
        let item = queue.receive().unwrap();
        assert!(item[..SIZE - 1].iter().all(|&byte| byte == 7) && item[SIZE - 1] == 8);

        queue.put_many(slice::from_ref(&*item)).unwrap();
        drop(item);
        let mut items = Vec::new();
        assert_eq!(queue.get_many(&mut items, 1).unwrap(), 1);
        assert!(items[0][..SIZE - 1].iter().all(|&byte| byte == 7) && items[0][SIZE - 1] == 8);

        let tasks: JoinableQueue<[u8; SIZE]> =
            QueueOptions::new().participants(2).loans(2).create_joinable(2).unwrap();
        tasks.put_many(&items).unwrap();
        let mut loan = tasks.loan().unwrap();
        loan.copy_from_slice(&items[0]);
        loan[0] = 9;
        loan.send().unwrap();
        for first in [7, 9] {
            let task = tasks.get().unwrap();
            assert_eq!((task[0], task[1], task[SIZE - 1]), (first, 7, 8));
            task.done();
        }
    });
}

#[test]
fn items_of_a_mib_pass_with_little_stack() {
    pass_items::<MIB>();
}

#[test]
fn items_of_four_mib_pass_with_little_stack() {
    pass_items::<{ 4 * MIB }>();
}

/// Returns whether the queue is empty, and takes as many items as before.
fn is_untouched(queue: &Queue<[u8; MIB]>) -> bool {
    let is_empty = matches!(queue.try_receive(), Err(QueueError::Empty));
    for _ in 0..queue.capacity() {
        queue.loan().unwrap().try_send().unwrap();
    }
    let is_full = matches!(
        queue.loan().unwrap().try_send(),
        Err(refused)
            if matches!(refused.error, QueueError::Full)
    );
    while queue.try_receive().is_ok() {}
    is_empty && is_full
}

#[test]
fn an_item_that_a_panic_leaves_half_written_is_not_put() {
    let queue: Queue<[u8; MIB]> = QueueOptions::new().participants(2).loans(1).create(2).unwrap();
    for _ in 0..3 {
        let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
            let mut loan = queue.loan().unwrap();
            loan[..MIB / 2].fill(1);
            panic!("half of it");
        }));
        assert!(panicked.is_err());
        assert!(is_untouched(&queue), "the only loan is there again");
    }
}

#[test]
fn an_item_that_the_dead_left_half_written_is_not_put() {
    let queue: Queue<[u8; MIB]> = QueueOptions::new().participants(2).loans(1).create(2).unwrap();
    assert!(is_untouched(&queue));
    // There are more deaths than participants: the slots of the dead are reused.
    for _ in 0..3 {
        let theirs = queue.clone();
        let child = fork(move || -> () {
            let mut loan = theirs.loan().unwrap();
            loan[..MIB / 2].fill(1);
            abort()
        });
        assert_eq!(child.join().unwrap().signal(), Some(6));
        assert!(is_untouched(&queue));
    }
}

shared! {
    struct Everything {
        bytes: [AtomicU8; 4 * MIB],
        lock: Lock<[u64; MIB / 8]>,
        again: RLock<[u8; MIB]>,
        readers: RwLock<[u8; MIB]>,
        locks: [Lock<u32>; 100],
        fixed: Fixed<[u8; MIB]>,
        event: Event,
        condition: Condition,
        once: Once,
        permits: Permits<3>,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        barrier: Barrier,
        count: AtomicU64,
    }
}

#[test]
fn a_value_of_some_mib_is_made_where_it_lies() {
    with_little_stack(|| {
        let made: Shm<Everything> = Shm::new_in_place(|value: &mut Everything| {
            assert!(value.bytes.iter_mut().all(|byte| *byte.get_mut() == 0));
            *value.bytes[4 * MIB - 1].get_mut() = 3;
            value.lock.get_mut()[MIB / 8 - 1] = 4;
            value.again.get_mut().fill(5);
            value.readers.get_mut().fill(6);
            value.fixed.get_mut()[9] = 7;
            value.semaphore = Semaphore::new(2);
            value.bounded = BoundedSemaphore::new(1);
            value.barrier = Barrier::new(1);
        })
        .unwrap();
        let seen: Shm<Everything> =
            Shm::attach(made.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(seen.bytes[4 * MIB - 1].load(Relaxed), 3);
        assert_eq!(seen.lock.lock().unwrap()[MIB / 8 - 1], 4);
        {
            let guard = seen.again.lock().unwrap();
            let bytes: &Cell<[u8]> = &*guard;
            assert_eq!(bytes.as_slice_of_cells()[MIB - 1].get(), 5);
        }
        {
            let readers = seen.readers.read().unwrap();
            assert_eq!(readers[MIB - 1], 6);
        }
        seen.readers.write().unwrap()[0] = 1;
        assert!(seen.locks.iter().all(|lock| *lock.lock().unwrap() == 0));
        assert!(!seen.event.is_set());
        let mut calls = 0;
        seen.once.call_once(|_| calls += 1).unwrap();
        assert_eq!(calls, 1);
        seen.condition.notify_all();
        let permits = [(); 3].map(|()| seen.permits.try_acquire().unwrap());
        assert!(seen.permits.try_acquire().is_err());
        drop(permits);
        assert_eq!((seen.semaphore.value(), seen.bounded.bound()), (2, 1));
        seen.barrier.wait().unwrap();
        assert_eq!(seen.count.load(Relaxed), 0);
    });
}

#[test]
fn a_slice_of_large_elements_is_made_where_it_lies() {
    with_little_stack(|| {
        let write = |slice: &mut [Lock<[u8; MIB]>]| {
            slice.iter_mut().zip(1..).for_each(|(page, number)| page.get_mut().fill(number));
        };
        let made: Shm<[Lock<[u8; MIB]>]> = Shm::slice_in_place(4, write).unwrap();
        let seen: Shm<[Lock<[u8; MIB]>]> =
            Shm::attach(made.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let last: Vec<u8> = seen.iter().map(|page| page.lock().unwrap()[MIB - 1]).collect();
        assert_eq!(last, [1, 2, 3, 4]);
        let none: Shm<[Lock<[u8; MIB]>]> =
            Shm::slice_in_place(0, |slice| assert!(slice.is_empty())).unwrap();
        assert!(none.is_empty());
        let too_large = Shm::<[AtomicU32]>::slice_in_place(usize::MAX / 2, |_| {
            panic!("there is nothing to write")
        });
        assert!(matches!(too_large, Err(RegionError::TooLarge { .. })));
    });
}

#[test]
fn a_panic_while_it_is_written_leaves_nothing_behind() {
    let descriptors = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
    };
    let regions = || descriptors().filter(|link| link.to_string_lossy().contains("memfd:")).count();
    // The test is alone in its process: other tests make regions at the same time.
    let child = fork(|| {
        let before = regions();
        let one = panic::catch_unwind(|| {
            Shm::<[AtomicU8; MIB]>::new_in_place(|value| {
                *value[5].get_mut() = 1;
                assert_eq!(value[5].load(Relaxed), 0, "on purpose");
            })
        });
        let several = panic::catch_unwind(|| {
            Shm::<[AtomicU8]>::slice_in_place(MIB, |slice| assert!(slice.is_empty(), "on purpose"))
        });
        assert!(one.is_err() && several.is_err());
        assert_eq!(regions(), before);
    });
    forked::join_all([child]);
}

/// A peer gets a region while its maker writes it, and the maker dies. The peer cannot attach the
/// region.
#[test]
fn what_the_dead_left_half_written_cannot_be_attached() {
    let (ours, theirs) = crossproc::pipe().unwrap();
    let child = fork(move || -> () {
        let _ = Shm::<[AtomicU8; MIB]>::new_in_place(|value| {
            *value[5].get_mut() = 1;
            let of_region = |entry: std::io::Result<std::fs::DirEntry>| {
                let entry = entry.ok()?;
                let link = std::fs::read_link(entry.path()).ok()?;
                let is_of_this_size =
                    std::fs::metadata(entry.path()).ok()?.len() == (MIB + 4096) as u64;
                if link.to_string_lossy().contains("memfd:") && is_of_this_size {
                    std::fs::File::options().read(true).write(true).open(entry.path()).ok()
                } else {
                    None
                }
            };
            let file = std::fs::read_dir("/proc/self/fd").unwrap().find_map(of_region).unwrap();
            theirs.send_handle(&std::os::fd::OwnedFd::from(file)).unwrap();
            abort()
        });
    });
    let half: std::os::fd::OwnedFd = ours.recv_handle().unwrap();
    assert_eq!(child.join().unwrap().signal(), Some(6));
    assert!(matches!(Shm::<[AtomicU8; MIB]>::attach(half), Err(RegionError::NotInitialised)));
}
