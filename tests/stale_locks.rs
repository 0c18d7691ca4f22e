//! Locks in memory that was freed, or overwritten, while a guard of them was leaked.

#![allow(unsafe_code)]

use core::mem;
use std::sync::mpsc::channel;
use std::thread;

use crossproc::{Lock, LockError, RLock, RwLock, Shm, Wait, process};

mod forked;
use forked::{PATIENCE, fork, join_all, wait_until};

/// Runs `act` on another thread, and returns its result.
fn elsewhere<R: Send>(act: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| scope.spawn(act).join().unwrap())
}

#[test]
fn a_lock_that_takes_the_place_of_a_leaked_one_is_a_new_one() {
    join_all([fork(|| {
        let mut lock = RLock::new(0_u64);
        mem::forget(lock.lock().unwrap());
        lock = RLock::new(0);
        assert_eq!(lock.depth(), 0);
        let mine = lock.lock().unwrap();
        assert_eq!(lock.depth(), 1);
        assert!(elsewhere(|| matches!(lock.try_lock(), Err(LockError::WouldBlock))));
        drop(mine);
        assert!(elsewhere(|| lock.try_lock().is_ok()));

        let mut lock = RwLock::<u64, 4>::new(0);
        mem::forget(lock.write().unwrap());
        lock = RwLock::new(0);
        assert!(lock.read().is_ok() && lock.write().is_ok());
        mem::forget(lock.read().unwrap());
        lock = RwLock::new(0);
        assert!(lock.write().is_ok() && lock.read().is_ok());

        let mut lock = Lock::new(());
        mem::forget(lock.lock().unwrap());
        lock = Lock::new(());
        assert!(!lock.is_owned() && lock.release().is_err());
        let guard = lock.lock().unwrap();
        assert!(lock.is_owned());
        drop(guard);
        assert!(elsewhere(|| lock.try_lock().is_ok()));

        // Nothing is left of the leaked guard that could reach a child.
        assert!(process::fork(|| ()).unwrap().join().unwrap().success());
    })]);
}

/// A region is not mapped where the kernel would take a part of it for a lock that is gone.
#[test]
fn a_value_in_a_new_region_is_not_changed_by_what_was_held_there_before() {
    const COUNT: usize = 100_000;
    join_all([fork(|| {
        let (to, from) = channel();
        let (go_to, go) = channel::<()>();
        let leaver = thread::Builder::new().stack_size(16 << 20).spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            // So large that its memory goes back to the system when it is dropped.
            let locks: Vec<Lock<()>> = (0..COUNT / 6).map(|_| Lock::new(())).collect();
            let one = &locks[locks.len() * 3 / 4];
            let _ = one.acquire(Wait::FOREVER).unwrap();
            let at = (&raw const *one).addr();
            drop(locks);
            let shm = Shm::new(Lock::new([tid; COUNT])).unwrap();
            let start = (&raw const *shm).addr();
            assert!(
                at.wrapping_sub(start) >= size_of::<Lock<[u32; COUNT]>>(),
                "it is mapped elsewhere"
            );
            to.send((shm, tid)).unwrap();
            let _ = go.recv();
            // SAFETY: it ends this thread alone. A normal end of the thread would end the process.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
        let (shm, tid) = from.recv().unwrap();
        let guard = shm.lock().unwrap();
        let values: &[u32; COUNT] = &guard;
        drop(go_to);
        let task = format!("/proc/self/task/{tid}");
        wait_until("the thread has ended", || !std::path::Path::new(&task).exists());
        assert!(core::hint::black_box(values).iter().all(|&value| value == tid));
        mem::forget(leaver);
    })]);
}

#[test]
fn what_is_held_behind_a_lock_that_was_freed_is_handed_on_when_a_thread_ends() {
    let shared = Shm::new(Lock::new(0_u64)).unwrap();
    let theirs = shared.clone();
    let child = fork(move || {
        let theirs: &'static Shm<Lock<u64>> = Box::leak(Box::new(theirs));
        let leaves = thread::spawn(move || {
            let freed = Box::new(Lock::new([0_u64; 4]));
            mem::forget(freed.lock().unwrap());
            drop(freed);
            const LEN: usize = size_of::<Lock<[u64; 4]>>();
            let again: Vec<Box<[u8; LEN]>> = (0..1000).map(|_| Box::new([0xff; LEN])).collect();
            core::hint::black_box(&again);
            mem::forget(theirs.lock().unwrap());
        });
        leaves.join().unwrap();
    });
    assert!(!child.join_timeout(PATIENCE).unwrap().success());
    assert!(matches!(shared.lock_timeout(PATIENCE), Err(LockError::OwnerDied)));
}
