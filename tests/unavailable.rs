//! What the system may refuse a thread: a robust list, a call at its end, memory for its part in a
//! queue. Each refusal is an error that says why, and the thread then holds nothing.
//!
//! This process itself locks nothing, so that each child starts from scratch.

#![allow(unsafe_code)]

use std::error::Error;
use std::io;

use crossproc::{
    Event, JoinableQueue, Lock, LockError, Once, OnceError, Permits, PermitsError, Queue,
    QueueError, QueueOptions, RLock, RobustListError, RwLock, Semaphore, Shm, WaitAnyError, shared,
    try_wait_any,
};

mod forked;
mod refused;
use forked::{PATIENCE, fork, join_all};
use refused::{Refusal, call};

shared! {
    struct All {
        lock: Lock<u64>,
        rlock: RLock<u64>,
        rwlock: RwLock<u64, 4>,
        permits: Permits<2>,
        once: Once,
        event: Event,
        semaphore: Semaphore,
    }
}

fn all() -> Shm<All> {
    Shm::new(All {
        lock: Lock::new(0),
        rlock: RLock::new(0),
        rwlock: RwLock::new(0),
        permits: Permits::new(),
        once: Once::new(),
        event: Event::new(),
        semaphore: Semaphore::new(1),
    })
    .unwrap()
}

/// Returns the errno of the system's error behind it.
fn system(error: &RobustListError) -> i32 {
    let source = error.source().expect("the system's is behind it");
    source
        .downcast_ref::<rustix::io::Errno>()
        .map(|errno| errno.raw_os_error())
        .expect("it is one of the system's")
}

fn of_lock<G>(result: Result<G, LockError>) -> i32 {
    match result {
        Err(error @ LockError::Unavailable(source)) => {
            let error = io::Error::from(error);
            assert_eq!(error.kind(), io::ErrorKind::Other);
            let text = error.to_string();
            assert!(text.contains(&source.to_string()), "{text:?} says why");
            system(&source)
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is locked"),
    }
}

/// Asserts that nothing is held which would have to outlive this thread: each attempt fails for the
/// given reason, and everything is free afterwards.
fn nothing_is_held(all: &All, items: &Queue<u64>, tasks: &JoinableQueue<u64>, errno: i32) {
    for _ in 0..2 {
        assert_eq!(of_lock(all.lock.lock()), errno);
        assert_eq!(of_lock(all.lock.try_lock()), errno);
        assert_eq!(of_lock(all.rlock.lock_timeout(PATIENCE)), errno);
        assert_eq!(of_lock(all.rwlock.read()), errno);
        assert_eq!(of_lock(all.rwlock.write()), errno);
        match all.permits.acquire() {
            Err(PermitsError::Unavailable(source)) => assert_eq!(system(&source), errno),
            other => panic!("{other:?}"),
        }
        match all.once.call_once(|_| panic!("nobody could tell that it had begun")) {
            Err(OnceError::Unavailable(source)) => assert_eq!(system(&source), errno),
            other => panic!("{other:?}"),
        }
        for result in [
            items.put(7).map_err(QueueError::from),
            items.get().map(drop),
            tasks.get().map(drop),
            tasks.join(),
        ] {
            match result {
                Err(QueueError::Unavailable(source)) => assert_eq!(system(&source), errno),
                other => panic!("{other:?}"),
            }
        }
        match try_wait_any(&[&all.event, tasks]) {
            Err(WaitAnyError::Queue { index: 1, source: QueueError::Unavailable(_) }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(
        all.lock.owner().is_none() && all.rlock.owner().is_none() && all.rwlock.writer().is_none()
    );
    assert_eq!(
        (all.rwlock.readers(), all.permits.value(), items.len(), all.once.is_completed()),
        (0, 2, 0, false)
    );
    // Operations that belong to no thread still succeed.
    all.event.set();
    all.event.wait();
    all.semaphore.acquire();
    all.semaphore.release().unwrap();
}

/// Runs the check in a process of its own, on primitives that it shares with the parent.
fn is_had_by_nobody(errno: i32, refuse: impl FnOnce() + Send) {
    let all = all();
    let (items, tasks) = (Queue::<u64>::new(4).unwrap(), JoinableQueue::<u64>::new(4).unwrap());
    let (theirs, their_items, their_tasks) = (all.clone(), items.clone(), tasks.clone());
    join_all([fork(move || {
        refuse();
        nothing_is_held(&theirs, &their_items, &their_tasks, errno);
    })]);
    // Another process can use all of it.
    join_all([fork(move || {
        *all.lock.lock().unwrap() += 1;
        items.put(1).unwrap();
        tasks.put(1).unwrap();
        tasks.get().unwrap().done();
        assert_eq!(items.get().unwrap(), 1);
    })]);
}

#[test]
fn a_thread_whose_list_cannot_be_found_holds_nothing() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        is_had_by_nobody(errno, move || refused::refuse(&[call(libc::SYS_get_robust_list, errno)]));
    }
}

#[test]
fn a_thread_without_memory_for_its_record_holds_nothing() {
    const WIPE: u32 = libc::MADV_WIPEONFORK as u32;
    for errno in [libc::EINVAL, libc::ENOMEM] {
        is_had_by_nobody(errno, move || {
            refused::refuse(&[call(libc::SYS_madvise, errno).if_argument(2, WIPE)]);
        });
    }
}

#[test]
fn a_thread_of_which_libc_would_not_tell_the_end_holds_nothing() {
    is_had_by_nobody(libc::EAGAIN, || {
        let mut key = 0;
        // SAFETY: it writes a key, which nothing uses.
        while unsafe { libc::pthread_key_create(&raw mut key, None) } == 0 {}
    });
}

#[test]
fn a_thread_whose_signals_cannot_be_blocked_holds_nothing() {
    fn mask() -> u64 {
        let mut mask = 0_u64;
        // SAFETY: there is room for the 8 bytes that are asked for.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_BLOCK,
                std::ptr::null::<u64>(),
                &raw mut mask,
                8_usize,
            )
        };
        assert_eq!(result, 0);
        mask
    }
    // The requests that change the mask so that signals are blocked. Calls that only ask and name
    // one of them are refused, too.
    const BLOCK: u32 = libc::SIG_BLOCK as u32;
    const SET: u32 = libc::SIG_SETMASK as u32;
    let before = mask();
    is_had_by_nobody(libc::EPERM, move || {
        // A filter looks at the low half of one argument: here the request, but not the set.
        refused::refuse(
            &[BLOCK, SET]
                .map(|how| call(libc::SYS_rt_sigprocmask, libc::EPERM).if_argument(0, how)),
        );
    });
    assert_eq!(mask(), before);
}

/// Memory for one more participant is refused. Only the newcomer notices.
#[test]
fn without_memory_for_one_more_participant_the_others_go_on() {
    for errno in [libc::ENOSPC, libc::ENOMEM] {
        let queue: Queue<u64> = QueueOptions::new().participants(4).create(4).unwrap();
        join_all([fork(|| {
            queue.put(1).unwrap();
            let theirs = queue.clone();
            join_all([fork(move || {
                refused::refuse(&[call(libc::SYS_fallocate, errno)]);
                for _ in 0..2 {
                    match theirs.put(2).map_err(QueueError::from) {
                        Err(QueueError::NoMemory(source)) => {
                            assert_eq!(source.raw_os_error(), Some(errno));
                        }
                        other => panic!("{other:?}"),
                    }
                }
            })]);
            queue.put(3).unwrap();
            assert_eq!((queue.get().unwrap(), queue.get().unwrap(), queue.len()), (1, 3, 0));
        })]);
    }
}

#[test]
fn a_thread_that_holds_as_much_as_it_may_takes_no_part_in_another_queue() {
    join_all([fork(|| {
        let queue: Queue<u64> = Queue::new(4).unwrap();
        let locks: Vec<Lock<u64>> =
            (0..crossproc_sys::robust::MAX_HELD).map(|_| Lock::new(0)).collect();
        let mut guards: Vec<_> = locks.iter().map(|lock| lock.lock().unwrap()).collect();
        assert!(matches!(queue.put(1).map_err(QueueError::from), Err(QueueError::TooManyHeld)));
        let permits: Permits<1> = Permits::new();
        assert!(matches!(permits.acquire(), Err(PermitsError::TooManyHeld)));
        assert!(matches!(Lock::new(0_u64).lock(), Err(LockError::TooManyHeld)));
        guards.pop();
        queue.put(1).unwrap();
        assert_eq!(queue.get().unwrap(), 1);
    })]);
}

/// An older kernel, or a policy, does not know a flag or a seal.
#[test]
fn memory_is_made_without_what_a_kernel_does_not_know() {
    const NOEXEC_SEAL: u32 = libc::MFD_NOEXEC_SEAL;
    let old: Refusal =
        call(libc::SYS_memfd_create, libc::EINVAL).if_masked(1, NOEXEC_SEAL, NOEXEC_SEAL);
    join_all([fork(move || {
        refused::refuse(&[old]);
        let all = all();
        *all.lock.lock().unwrap() += 1;
        let theirs = all.clone();
        join_all([fork(move || assert_eq!(*theirs.lock.lock().unwrap(), 1))]);
    })]);
}
