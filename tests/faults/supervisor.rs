//! A child whose system calls are decided here, one by one, by seccomp's user notification
//! (seccomp_unotify(2)). This includes the threads and children that it starts.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crossproc::process::Child;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::calls::Call;

// From linux/seccomp.h, encoded as _IOWR('!', NUMBER, STRUCT).
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
const _: () = assert!(
    size_of::<libc::seccomp_notif>() == 0x50 && size_of::<libc::seccomp_notif_resp>() == 0x18
);

/// The decision about a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The kernel carries it out.
    Continue,
    /// It fails with this errno, and nothing happens.
    Fail(i32),
}

/// Has every call of the calling thread, and of what it starts, decided by the process that holds
/// the returned descriptor. Some calls are carried out without a decision: to end, which cannot be
/// refused, and to yield.
pub(crate) fn be_supervised() -> RawFd {
    let one = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let unasked =
        [libc::SYS_exit, libc::SYS_exit_group, libc::SYS_rt_sigreturn, libc::SYS_sched_yield];
    let allowed = |call| {
        let is_call = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        [
            libc::sock_filter { jf: 1, ..one(is_call, call as u32) },
            one(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
        ]
    };
    // Not on the heap: what gives memory back might make a call before anyone can decide it.
    let mut program = [one(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0); 2 + 2 * 4];
    program[1..9].copy_from_slice(unasked.map(allowed).as_flattened());
    program[9] = one(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF);
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes integers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // A signal does not interrupt a call that is being decided: it would be made twice.
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the program lives through the call, which copies it.
    let listener = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter)
    };
    assert!(
        listener >= 0,
        "a filter with a listener, of Linux 5.19: {}",
        io::Error::last_os_error()
    );
    listener as RawFd
}

/// A child, as its parent sees it.
pub(crate) struct Supervised {
    child: Child,
    listener: OwnedFd,
}

/// How the child ended.
pub(crate) struct End {
    /// The exit status. If the child did not end in time and was killed, what it and its
    /// descendants were doing.
    pub(crate) status: Result<ExitStatus, String>,
    /// Whether a process that it had started was still there.
    pub(crate) is_something_left: bool,
}

impl Supervised {
    /// Takes over a child, which is the first of a process group, and has `listener` from
    /// [`be_supervised`].
    pub(crate) fn new(child: Child, listener: RawFd) -> Self {
        // SAFETY: takes integers.
        let taken =
            unsafe { libc::syscall(libc::SYS_pidfd_getfd, child.as_fd().as_raw_fd(), listener, 0) };
        assert!(taken >= 0, "the listener cannot be taken: {}", io::Error::last_os_error());
        // SAFETY: the descriptor is new, and nothing else owns it.
        let listener = unsafe { OwnedFd::from_raw_fd(taken as RawFd) };
        Supervised { child, listener }
    }

    /// Decides the child's calls until it ends, and then those of what it has left behind, until
    /// that is gone, too, or is still there after `grace`.
    pub(crate) fn run(
        self,
        patience: Duration,
        grace: Duration,
        mut decide: impl FnMut(&Call) -> Verdict,
    ) -> End {
        let mut deadline = Instant::now() + patience;
        let mut end = End { status: Err(String::new()), is_something_left: true };
        loop {
            let both = [
                PollFd::new(&self.listener, PollFlags::IN),
                PollFd::new(&self.child, PollFlags::IN),
            ];
            let mut watched =
                if end.status.is_err() { Vec::from(both) } else { Vec::from(&both[..1]) };
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut watched, Some(&timeout)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => panic!("poll: {error}"),
            }
            let listener = watched[0].revents();
            if listener.contains(PollFlags::IN) {
                self.answer(&mut decide);
            } else if listener.contains(PollFlags::HUP) && end.status.is_ok() {
                end.is_something_left = false;
                break;
            }
            if watched.get(1).is_some_and(|child| !child.revents().is_empty()) {
                end.status = Ok(self.child.join().expect("it has ended"));
                deadline = Instant::now() + grace;
            }
        }
        if end.status.is_err() {
            end.status = Err(describe_group(self.child.id()));
        }
        // SAFETY: the members of the group are the child's own. The number of the group stays taken
        // as long as any of them exists, and is not reused before the child's is.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        end
    }

    fn answer(&self, decide: &mut impl FnMut(&Call) -> Verdict) {
        // SAFETY: integers, of which zero is a value.
        let mut notification: libc::seccomp_notif = unsafe { core::mem::zeroed() };
        // SAFETY: writes a notification to where the argument points.
        if unsafe { libc::ioctl(self.listener.as_raw_fd(), RECEIVE, &raw mut notification) } != 0 {
            // The thread that made the call was killed.
            return;
        }
        let verdict = decide(&Call::of(&notification));
        let mut response =
            libc::seccomp_notif_resp { id: notification.id, val: 0, error: 0, flags: 0 };
        match verdict {
            Verdict::Continue => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Verdict::Fail(errno) => response.error = -errno,
        }
        // SAFETY: reads a response. It fails if the thread that made the call was killed.
        unsafe { libc::ioctl(self.listener.as_raw_fd(), SEND, &raw const response) };
    }
}

/// Describes each thread of a process group: its system call, and what the kernel waits for.
fn describe_group(group: u32) -> String {
    let mut said = String::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // The fields after the name: the state, the parent, the group.
        let of_group =
            stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().nth(2));
        if of_group != Some(&group.to_string()) {
            continue;
        }
        for task in fs::read_dir(process.path().join("task")).into_iter().flatten().flatten() {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let (name, call, waits_in) = (read("comm"), read("syscall"), read("wchan"));
            let _ = write!(
                said,
                "; {} {:?}: {} in {waits_in}",
                name.trim(),
                task.file_name(),
                call.trim()
            );
        }
    }
    said
}
