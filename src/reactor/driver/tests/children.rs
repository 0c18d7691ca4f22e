//! Tests that take a process of their own.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::super::{Audience, DRIVER, arm};
use super::{
    Calls, PATIENCE, change, driver, expecting, join, key, wait_until_called, wait_until_gone,
    wait_until_slept_on,
};
use crate::process::Builder;
use crate::wait::set_recheck_interval;

/// Returns whether a thread has SIGUSR1 blocked.
fn blocks_signals(thread: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
    u64::from_str_radix(blocked, 16).unwrap() & 1 << (libc::SIGUSR1 - 1) != 0
}

#[test]
fn signals_are_blocked_in_the_threads_and_nowhere_else() {
    // In a process of its own, where there are two threads.
    // SAFETY: the child allocates and starts a thread, as glibc lets it. It prints nothing that
    // could wait for a lock.
    let child = unsafe {
        Builder::new().daemon(true).fork_with_threads(|| {
            let word = AtomicU32::new(0);
            let _registered = join(driver(), &word, Audience::First);
            wait_until_slept_on(&word);
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            let blocked: Vec<bool> = tasks
                .map(|task| blocks_signals(task.unwrap().file_name().to_str().unwrap()))
                .collect();
            assert_eq!(blocked, [false, true]);
        })
    }
    .unwrap();
    assert!(child.join_timeout(PATIENCE).unwrap().success());
}

#[test]
fn the_end_of_a_slice_notifies_one_after_the_other() {
    // In a process of its own: the slices are those of the whole process.
    // SAFETY: the child allocates and starts a thread, as glibc lets it. It prints nothing that
    // could wait for a lock.
    let child = unsafe {
        Builder::new().daemon(true).fork_with_threads(|| {
            let driver = driver();
            set_recheck_interval(Some(Duration::from_millis(1)));
            let word = AtomicU32::new(0);
            let waiters = [(); 3].map(|()| join(driver, &word, Audience::First));
            // No word changes, no thread wakes any, and no notified waiter does anything.
            waiters.iter().for_each(|waiter| wait_until_called(&waiter.0));
        })
    }
    .unwrap();
    assert!(child.join_timeout(PATIENCE).unwrap().success());
}

#[test]
fn a_forked_child_has_a_driver_of_its_own() {
    let ours = driver();
    let word = AtomicU32::new(0);
    let (_, mut registered) = join(ours, &word, Audience::First);
    let (_, waker) = Calls::new();
    let mut by_current = None;
    arm(&mut by_current, key(&word), (Audience::First, &[]), &expecting(&word, 0), &waker)
        .unwrap()
        .1
        .perform();
    // In the child this mutex stays locked for ever.
    let table = ours.table();
    // SAFETY: the child allocates and starts a thread, as glibc lets it. It prints nothing that
    // could wait for a lock.
    let child = unsafe {
        Builder::new().daemon(true).fork_with_threads(|| {
            assert!(!ours.is_of_this_process());
            let (calls, waker) = Calls::new();
            arm(&mut by_current, key(&word), (Audience::First, &[]), &expecting(&word, 0), &waker)
                .unwrap()
                .1
                .perform();
            let driver = DRIVER.get().unwrap();
            assert_eq!(driver.table().census(), (1, 1));
            change(&word);
            wait_until_called(&calls);
            drop((registered.take(), by_current.take()));
            assert_eq!(driver.table().census().0, 0);
        })
    }
    .unwrap();
    assert!(child.join_timeout(PATIENCE).unwrap().success());
    drop(table);
    assert_eq!(ours.table().census(), (1, 1));
    drop((registered, by_current));
}

/// Makes `futex_waitv` unknown to all threads that are started from here on.
fn forbid_waitv() {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_futex_waitv as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: it changes what this process may do, and nothing else.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let filters = libc::SECCOMP_MODE_FILTER;
    // SAFETY: a complete program, which the kernel copies.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, filters, &raw const program) }, 0);
}

#[test]
fn without_waitv_the_first_is_told_to_look() {
    // SAFETY: as above.
    let child = unsafe {
        Builder::new().daemon(true).fork_with_threads(|| {
            forbid_waitv();
            let driver = driver();
            let word = AtomicU32::new(0);
            let [first, second] = [(); 2].map(|()| join(driver, &word, Audience::First));
            // No word changes, and no thread wakes any.
            wait_until_called(&first.0);
            drop(first);
            wait_until_called(&second.0);
            drop(second);
            wait_until_gone(driver);
        })
    }
    .unwrap();
    assert!(child.join_timeout(PATIENCE).unwrap().success());
}
