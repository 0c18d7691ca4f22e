//! A System V semaphore, whose permits come back when the process that holds them ends.

#![allow(unsafe_code)]

use std::io;
use std::process;

use super::limit::Limit;

/// A set of one semaphore. It belongs to the kernel and outlives its users: the process that made
/// it removes it.
pub(crate) struct SysvSemaphore {
    id: libc::c_int,
    made_by: u32,
}

impl SysvSemaphore {
    /// Makes a semaphore for this process and its children.
    pub(crate) fn new(value: u16) -> Self {
        // SAFETY: takes and returns numbers.
        let id = unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
        succeeded(id);
        let made = SysvSemaphore { id, made_by: process::id() };
        // SAFETY: with SETVAL, the fourth argument is an integer; `id` is a set of one semaphore,
        // which has number 0.
        succeeded(unsafe { libc::semctl(id, 0, libc::SETVAL, libc::c_int::from(value)) });
        made
    }

    #[inline]
    fn add(&self, count: i16) {
        let mut operation =
            libc::sembuf { sem_num: 0, sem_op: count, sem_flg: libc::SEM_UNDO as libc::c_short };
        // SAFETY: reads one operation, which is this function's own.
        succeeded(unsafe { libc::semop(self.id, &raw mut operation, 1) });
    }
}

impl Limit for SysvSemaphore {
    #[inline]
    fn with_permit(&self, section: impl FnOnce()) {
        self.add(-1);
        section();
        self.add(1);
    }
}

impl Drop for SysvSemaphore {
    fn drop(&mut self) {
        if self.made_by == process::id() {
            // SAFETY: takes numbers. The set is this process's, and no user of it is left.
            let result = unsafe { libc::semctl(self.id, 0, libc::IPC_RMID) };
            debug_assert_eq!(result, 0, "a semaphore of System V stays behind");
        }
    }
}

#[inline]
fn succeeded(result: libc::c_int) {
    assert!(
        result >= 0,
        "a call on a semaphore of System V failed: {}",
        io::Error::last_os_error()
    );
}
