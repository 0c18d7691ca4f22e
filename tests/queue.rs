//! `Queue` and `ByteQueue` in one process and between processes.

#![allow(unsafe_code)]

mod forked;

use core::sync::atomic::AtomicU64;
use core::time::Duration;
use std::os::fd::AsFd;
use std::time::Instant;

use crossproc::process::Child;
use crossproc::{
    ByteQueue, JoinableQueue, PutManyError, Queue, QueueError, QueueOptions, RegionError, Shm,
};

use forked::{fork, join_all, kill, wait_until, wait_until_asleep};

#[test]
fn items_come_out_in_order_and_as_many_as_fit() {
    for capacity in [1, 2, 3, 5, 64, 1000] {
        let queue: Queue<u64> = Queue::<u64>::new(capacity).unwrap();
        for round in 0..5_u64 {
            for index in 0..capacity as u64 {
                queue.try_put(round * 1000 + index).unwrap();
            }
            assert!(queue.is_full());
            let refused = queue.try_put(7).unwrap_err();
            assert!(matches!(refused.error, QueueError::Full));
            assert_eq!(refused.value, 7);
            for index in 0..capacity as u64 {
                assert_eq!(queue.try_get().unwrap(), round * 1000 + index);
            }
            assert!(matches!(queue.try_get(), Err(QueueError::Empty)));
            assert!(queue.is_empty());
        }
    }
}

#[test]
fn four_producers_and_four_consumers_lose_nothing() {
    const EACH: u64 = 50_000;
    let queue = Queue::<u64>::new(16).unwrap();
    let sums = Queue::<u64>::new(16).unwrap();
    let producers: Vec<_> = (0..4)
        .map(|producer| {
            let queue = queue.clone();
            fork(move || -> Result<(), QueueError> {
                for index in 0..EACH {
                    queue.put(producer << 32 | index)?;
                }
                Ok(())
            })
        })
        .collect();
    let consumers: Vec<_> = (0..4)
        .map(|_| {
            let (queue, sums) = (queue.clone(), sums.clone());
            fork(move || -> Result<(), QueueError> {
                let mut last = [None; 4];
                let mut sum = 0;
                loop {
                    match queue.get() {
                        Ok(item) => {
                            let producer = (item >> 32) as usize;
                            assert!(last[producer] < Some(item), "out of order");
                            last[producer] = Some(item);
                            sum += item & 0xffff_ffff;
                        }
                        Err(QueueError::Closed) => break,
                        Err(error) => return Err(error),
                    }
                }
                sums.put(sum)?;
                Ok(())
            })
        })
        .collect();
    join_all(producers);
    queue.close().unwrap();
    join_all(consumers);
    let total: u64 = (0..4).map(|_| sums.try_get().unwrap()).sum();
    assert_eq!(total, 4 * (EACH * (EACH - 1) / 2));
}

#[test]
fn messages_of_any_length_come_through() {
    let queue = ByteQueue::with_max_len(3, 100).unwrap();
    for len in 0..=100 {
        let message: Vec<u8> = (0..len).collect();
        queue.put(&message).unwrap();
        assert_eq!(queue.get().unwrap(), message);
        let mut loan = queue.loan(len.into()).unwrap();
        loan.copy_from_slice(&message);
        loan.send().unwrap();
        assert_eq!(*queue.receive().unwrap(), message[..]);
    }
    assert!(matches!(queue.put(&[0; 101]), Err(QueueError::TooLong { len: 101, max: 100 })));
}

#[test]
fn loans_are_limited_and_come_back() {
    let queue: Queue<u64> = QueueOptions::new().loans(2).create(4).unwrap();
    let first = queue.loan().unwrap();
    let mut second = queue.loan().unwrap();
    assert!(matches!(queue.loan(), Err(QueueError::TooManyLoans { limit: 2 })));
    *second = 5;
    second.send().unwrap();
    assert_eq!(*queue.receive().unwrap(), 5);
    drop(first);
    queue.put(6).unwrap();
    assert_eq!(queue.get().unwrap(), 6);
}

#[test]
fn a_closed_queue_gives_what_was_put_and_then_says_so() {
    let queue = Queue::<u64>::new(4).unwrap();
    queue.put_many(&[1, 2]).unwrap();
    queue.close().unwrap();
    assert!(queue.is_closed());
    assert!(matches!(
        queue.try_put(3),
        Err(refused)
            if refused.value == 3 && matches!(refused.error, QueueError::Closed)
    ));
    assert!(matches!(
        queue.put_many(&[3]),
        Err(PutManyError { put: 0, error: QueueError::Closed })
    ));
    let mut got = Vec::new();
    assert_eq!(queue.get_many(&mut got, 10).unwrap(), 2);
    assert_eq!(got, [1, 2]);
    assert!(matches!(queue.get(), Err(QueueError::Closed)));
    assert!(matches!(queue.try_get(), Err(QueueError::Closed)));
}

#[test]
fn a_close_wakes_all_who_sleep() {
    let (full, empty) = (Queue::<u64>::new(1).unwrap(), Queue::<u64>::new(1).unwrap());
    full.put(0).unwrap();
    let sleepers: Vec<_> = (0..6)
        .map(|index| {
            let (full, empty) = (full.clone(), empty.clone());
            fork(move || {
                let error = if index % 2 == 0 {
                    full.put(1).unwrap_err().error
                } else {
                    empty.get().unwrap_err()
                };
                assert!(matches!(error, QueueError::Closed));
            })
        })
        .collect();
    sleepers.iter().for_each(wait_until_asleep);
    full.close().unwrap();
    empty.close().unwrap();
    join_all(sleepers);
}

#[test]
fn waits_end_at_their_deadlines() {
    let queue = Queue::<u64>::new(1).unwrap();
    let short = Duration::from_millis(20);
    let began = Instant::now();
    assert!(matches!(queue.get_timeout(short), Err(QueueError::TimedOut)));
    queue.put(1).unwrap();
    assert!(matches!(queue.put_timeout(2, short).unwrap_err().error, QueueError::TimedOut));
    assert!(matches!(
        queue.put_many_deadline(&[2, 3], began),
        Err(PutManyError { put: 0, error: QueueError::TimedOut })
    ));
    assert!(began.elapsed() >= 2 * short);
    assert_eq!(queue.get_deadline(began).unwrap(), 1);
}

#[test]
fn put_many_puts_what_there_is_room_for() {
    let queue = Queue::<u64>::new(3).unwrap();
    assert!(matches!(
        queue.try_put_many(&[1, 2, 3, 4]),
        Err(PutManyError { put: 3, error: QueueError::Full })
    ));
    let theirs = queue.clone();
    let producer = fork(move || theirs.put_many(&[4, 5, 6, 7, 8]));
    let got: Vec<u64> = (0..8).map(|_| queue.get().unwrap()).collect();
    assert_eq!(got, [1, 2, 3, 4, 5, 6, 7, 8]);
    join_all([producer]);
    queue.try_put_many(&[]).unwrap();
}

#[test]
fn a_mebibyte_goes_through_without_a_copy() {
    let queue = Queue::<[u64; 1 << 17]>::new(2).unwrap();
    let theirs = queue.clone();
    let producer = fork(move || -> Result<(), QueueError> {
        for number in 0..20 {
            let mut loan = theirs.loan()?;
            loan[0] = number;
            loan[(1 << 17) - 1] = !number;
            loan.send()?;
        }
        Ok(())
    });
    for number in 0..20 {
        let received = queue.receive().unwrap();
        assert_eq!((received[0], received[(1 << 17) - 1]), (number, !number));
    }
    join_all([producer]);
}

#[test]
fn items_without_bytes_are_counted() {
    let queue = Queue::<[u64; 0]>::new(2).unwrap();
    queue.put([]).unwrap();
    queue.put([]).unwrap();
    assert!(queue.try_put([]).is_err());
    queue.get().unwrap();
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_leaked_guard_keeps_its_slot_until_its_process_ends() {
    let queue: Queue<u64> = QueueOptions::new().participants(2).loans(1).create(2).unwrap();
    queue.put(1).unwrap();
    let theirs = queue.clone();
    join_all([fork(move || {
        core::mem::forget(theirs.receive().unwrap());
        assert!(matches!(theirs.loan(), Err(QueueError::TooManyLoans { limit: 1 })));
        theirs.put(2).unwrap();
    })]);
    // The next participant takes its place, and has all of it.
    let theirs = queue.clone();
    join_all([fork(move || {
        drop(theirs.loan().unwrap());
        assert_eq!(theirs.get().unwrap(), 2);
    })]);
}

#[test]
fn one_participant_too_many_is_told_the_limit_and_the_dead_do_not_count() {
    let queue: Queue<u64> = QueueOptions::new().participants(2).create(4).unwrap();
    queue.put(1).unwrap();
    let theirs = queue.clone();
    let second = fork(move || -> () {
        theirs.put(2).unwrap();
        std::thread::park();
    });
    wait_until("the second takes part", || queue.len() == 2);
    let theirs = queue.clone();
    join_all([fork(move || {
        let refused = theirs.try_put(3).unwrap_err();
        assert_eq!(refused.value, 3);
        assert!(matches!(refused.error, QueueError::TooManyParticipants { limit: 2 }), "{refused}");
    })]);
    kill(&second);
    let theirs = queue.clone();
    join_all([fork(move || theirs.try_put(3).map_err(QueueError::from))]);
    assert_eq!((0..3).map(|_| queue.get().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn what_cannot_be_is_refused_with_what_could() {
    let message = |error: RegionError| error.to_string();
    assert!(message(Queue::<u64>::new(0).unwrap_err()).contains("1 to 1048576"));
    assert!(message(Queue::<u64>::new((1 << 20) + 1).unwrap_err()).contains("1 to 1048576"));
    assert!(
        message(QueueOptions::new().loans(0).create::<u64>(1).unwrap_err())
            .contains("1 to 63 loans")
    );
    assert!(
        message(QueueOptions::new().loans(64).create::<u64>(1).unwrap_err())
            .contains("1 to 63 loans")
    );
    assert!(
        message(QueueOptions::new().participants(0).create::<u64>(1).unwrap_err())
            .contains("one participant")
    );
    assert!(
        message(QueueOptions::new().participants(100_000).loans(63).create::<u64>(1).unwrap_err())
            .contains("slots")
    );
    QueueOptions::new().participants(10_000).loans(63).create::<u64>(1 << 20).unwrap();
}

#[test]
fn another_mapping_of_the_same_queue_is_another_participant() {
    let queue = Queue::<u64>::new(4).unwrap();
    queue.put(1).unwrap();
    let again = Queue::<u64>::attach(queue.as_fd().try_clone_to_owned().unwrap()).unwrap();
    again.put(2).unwrap();
    assert_eq!((again.get().unwrap(), queue.get().unwrap()), (1, 2));
}

#[test]
fn what_is_attached_must_be_a_queue_of_the_same_items() {
    let fd = |queue: &dyn AsFd| queue.as_fd().try_clone_to_owned().unwrap();
    let numbers = Queue::<u64>::new(4).unwrap();
    assert!(matches!(Queue::<u32>::attach(fd(&numbers)), Err(RegionError::OtherLayout { .. })));
    assert!(matches!(Queue::<i64>::attach(fd(&numbers)), Err(RegionError::OtherLayout { .. })));
    assert!(matches!(ByteQueue::attach(fd(&numbers)), Err(RegionError::OtherLayout { .. })));
    assert!(matches!(
        JoinableQueue::<u64>::attach(fd(&numbers)),
        Err(RegionError::OtherLayout { .. })
    ));
    assert!(matches!(
        Shm::<[AtomicU64]>::attach(fd(&numbers)),
        Err(RegionError::OtherLayout { .. })
    ));
    let bytes = ByteQueue::with_max_len(2, 10).unwrap();
    assert_eq!(ByteQueue::attach(fd(&bytes)).unwrap().max_len(), 10);
}

#[test]
fn a_thread_that_has_ended_leaves_its_place_and_nothing_mapped() {
    let mapped = |name: &str| {
        std::fs::read_to_string("/proc/self/maps")
            .unwrap()
            .lines()
            .filter(|line| line.contains(name))
            .count()
    };
    join_all([fork(move || {
        let before = mapped("crossproc");
        for _ in 0..50 {
            let queue: Queue<u64> = QueueOptions::new().participants(2).create(4).unwrap();
            queue.put(1).unwrap();
            let theirs = queue.clone();
            std::thread::spawn(move || theirs.get().unwrap()).join().unwrap();
        }
        assert_eq!(mapped("crossproc"), before);
    })]);
}

#[test]
fn a_guard_that_is_copied_into_a_forked_child_does_nothing_there() {
    let queue: Queue<u64> = QueueOptions::new().loans(1).create(4).unwrap();
    queue.put(7).unwrap();
    let mut loan = queue.loan().unwrap();
    *loan = 5;
    // SAFETY: the child uses the crate and ends.
    match unsafe { libc::fork() } {
        0 => {
            let refused = loan.send().unwrap_err();
            let is_right = matches!(refused.error, QueueError::NotOwner);
            drop(refused);
            let own = queue.try_get();
            crossproc_sys::process::exit_now(i32::from(!is_right || !matches!(own, Ok(7))));
        }
        child => {
            let mut status = 0;
            // SAFETY: writes the status to where its argument points.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert_eq!(status, 0);
        }
    }
    assert!(matches!(queue.loan(), Err(QueueError::TooManyLoans { .. })));
    loan.send().unwrap();
    assert_eq!(queue.try_get().unwrap(), 5);
}

/// Returns how long a process has run, in clock ticks of 1/100 s.
fn processor_time(child: &Child) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn who_sleeps_uses_no_processor() {
    let (full, empty) = (Queue::<u64>::new(1).unwrap(), Queue::<u64>::new(1).unwrap());
    full.put(0).unwrap();
    let (theirs, others) = (full.clone(), empty.clone());
    let sleepers = [
        fork(move || theirs.put(1).map_err(QueueError::from)),
        fork(move || others.get().map(|_| ())),
    ];
    sleepers.iter().for_each(wait_until_asleep);
    let before = sleepers.each_ref().map(processor_time);
    // The test needs time itself to pass.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(sleepers.each_ref().map(processor_time), before);
    full.get().unwrap();
    empty.put(1).unwrap();
    join_all(sleepers);
}
