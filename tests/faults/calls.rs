//! System calls as the supervisor sees them, and the choice of those that are made to fail.

use std::fs;
use std::ops::Range;
use std::sync::OnceLock;

use syscalls::Sysno;

/// A call that waits for its verdict.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: i32,
    /// The thread that makes the call.
    pub(crate) thread: u32,
    arguments: [u64; 6],
    /// The address behind the instruction that makes the call.
    address: u64,
}

impl Call {
    pub(crate) fn of(notification: &libc::seccomp_notif) -> Self {
        let libc::seccomp_data { nr, instruction_pointer, args, .. } = notification.data;
        Call { number: nr, thread: notification.pid, arguments: args, address: instruction_pointer }
    }

    fn is(&self, number: i64) -> bool {
        i64::from(self.number) == number
    }

    pub(crate) fn is_exec(&self) -> bool {
        self.is(libc::SYS_execve) || self.is(libc::SYS_execveat)
    }

    /// Returns whether the call comes from `std::fs`, which repeats an interrupted call without
    /// end.
    pub(crate) fn is_tried_again_by_std(&self) -> bool {
        (self.is(libc::SYS_openat) || self.is(libc::SYS_read))
            && libc_code().contains(&self.address)
    }

    /// Returns why the call is spared, or `None` if it is made to fail.
    ///
    /// The calls of a process that has executed another program do not fail either: they are the
    /// loader's.
    pub(crate) fn spared(&self) -> Option<&'static str> {
        let is_libc = libc_code().contains(&self.address);
        let flags = self.arguments[3] as i32;
        match i64::from(self.number) {
            libc::SYS_futex if is_libc => Some("a futex of libc or std: libc aborts, std spins"),
            libc::SYS_brk | libc::SYS_mremap => {
                Some("the allocator's: a process without memory aborts")
            }
            libc::SYS_mmap
                if flags & libc::MAP_ANONYMOUS != 0 && self.arguments[2] != 0 && is_libc =>
            {
                Some("the allocator's, or std's for a new thread: a process without memory aborts")
            }
            libc::SYS_mprotect if is_libc => {
                Some("the allocator's, in a thread: a process without memory aborts")
            }
            libc::SYS_munmap | libc::SYS_madvise if is_libc => {
                Some("the allocator's and pthread's, who have no error for it")
            }
            libc::SYS_rseq if is_libc => Some("a new thread's: libc aborts"),
            libc::SYS_wait4 | libc::SYS_recvfrom if is_libc => {
                Some("std's, in `Command`: it panics, which `start` catches")
            }
            libc::SYS_clock_nanosleep if is_libc => {
                Some("of `thread::sleep`, in the cases themselves: std panics")
            }
            libc::SYS_close => {
                Some("Linux closes whatever it says, a refusal would not: a leak of this harness")
            }
            libc::SYS_write if is_libc => {
                Some("mio's, to wake tokio, which panics; nobody else in the cases writes by libc")
            }
            libc::SYS_epoll_ctl if self.arguments[1] == libc::EPOLL_CTL_DEL as u64 => {
                Some("Linux refuses nobody to end a watch")
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait => Some("tokio's, which panics"),
            libc::SYS_epoll_pwait => Some("tokio's, which panics"),
            _ => None,
        }
    }
}

/// Returns the name of a call.
pub(crate) fn name(number: i32) -> &'static str {
    Sysno::new(number as usize).map_or("?", |call| call.name())
}

/// Returns where libc's code lies, here and in every forked child.
fn libc_code() -> &'static Range<u64> {
    static CODE: OnceLock<Range<u64>> = OnceLock::new();
    CODE.get_or_init(|| {
        let maps = fs::read_to_string("/proc/self/maps").expect("/proc is there");
        let is_code = |line: &&str| line.contains(" r-xp ") && line.contains("/libc.so.");
        let line = maps.lines().find(is_code).expect("libc is a shared library");
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        number(start)..number(end)
    })
}
