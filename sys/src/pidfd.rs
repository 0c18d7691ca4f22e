//! Child processes by descriptor: `pidfd_open(2)`, `pidfd_send_signal(2)`, `waitid(P_PIDFD)`.
//!
//! A pidfd names one process while it is open. So a signal or a wait can never hit another process
//! that was given the same pid. Linux 5.4.
//!
//! A process may be reaped by another wait, or by the kernel itself since SIGCHLD is ignored. What
//! the kernel tells of it then, it tells by `PIDFD_GET_INFO`, from Linux 6.15 on.
//!
//! References: <https://man7.org/linux/man-pages/man2/pidfd_open.2.html>,
//! <https://man7.org/linux/man-pages/man2/waitid.2.html>

#![allow(unsafe_code)]

use core::mem::offset_of;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::descriptor::above_standard;
use crate::ids;
use crate::poll::{self, PollFlags};
use crate::retry::retry;

/// Opens a descriptor (close-on-exec) for a child of this process that has not been waited for.
/// That condition is what makes it free of races.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM: the caller reports them. ESRCH: the child is gone because another wait
/// took it, or SIGCHLD is ignored.
pub fn open(child: Pid) -> io::Result<OwnedFd> {
    Ok(above_standard(pidfd_open(child, PidfdFlags::empty())?)?)
}

/// Returns whether the process that has, or had, this pid has ended for sure. Another process may
/// have the pid by now. Where the kernel does not say (EPERM, ENOSYS, EMFILE and all others), the
/// process may live.
#[must_use]
pub fn has_ended(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => wait(process, Some(0)).unwrap_or(false),
        Err(errno) => errno == Errno::SRCH,
    }
}

/// Sends a signal. If the process has ended, nothing is sent, and that is no error.
///
/// # Errors
/// EPERM: the process changed its user. The caller reports it; ESRCH is taken as success.
pub fn signal(process: impl AsFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(process, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Sleeps until the process has ended or the deadline has passed. Returns whether it has ended. It
/// is not reaped.
///
/// # Errors
/// As for [`poll::wait`].
pub fn wait(process: impl AsFd, deadline: Option<u64>) -> io::Result<bool> {
    poll::wait(process, PollFlags::IN, deadline)
}

/// Reaps the process if it has ended. Returns its exit status, or `None` while it runs.
///
/// # Errors
/// ECHILD: it is not a child of this process, or its status was taken elsewhere (SIGCHLD ignored, a
/// wait for any child).
pub fn reap(process: impl AsFd) -> io::Result<Option<ExitStatus>> {
    let process = process.as_fd();
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let Some(status) = retry(|| waitid(WaitId::PidFd(process), options))? else {
        return Ok(None);
    };
    // The encoding of wait(2): the exit code in bits 8-15, or the signal in bits 0-6 with bit 7 for
    // a core dump.
    const CORE_DUMPED: i32 = 0x80;
    let raw = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal | if status.dumped() { CORE_DUMPED } else { 0 },
        (None, None) => return Ok(None),
    };
    Ok(Some(ExitStatus::from_raw(raw)))
}

/// What the kernel knows of a process that could not be [reaped](reap).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// It was reaped, by another wait or by the kernel, and ended like this.
    Ended(ExitStatus),
    /// It is a child of this process, and is not reaped: it has not ended, or is about to be
    /// reaped.
    Child,
    /// It is another process's child.
    OfAnother,
    /// The kernel does not say: it was reaped before Linux 6.15, or a sandbox refuses the call.
    Unknown,
}

/// Linux's `struct pidfd_info`, in its first version.
#[repr(C)]
#[derive(Default)]
struct Info {
    /// What is asked for, and on return what there is.
    mask: u64,
    cgroup: u64,
    pid: u32,
    thread_group: u32,
    parent: u32,
    credentials: [u32; 8],
    exit_code: i32,
}

const _: () = assert!(size_of::<Info>() == 64 && offset_of!(Info, exit_code) == 60);

/// PIDFD_INFO_PID and PIDFD_INFO_EXIT.
const INFO_PID: u64 = 1;
const INFO_EXIT: u64 = 1 << 3;
/// PIDFD_GET_INFO.
const GET_INFO: rustix::ioctl::Opcode = opcode::read_write::<Info>(0xFF, 11);

/// Returns what the kernel has kept of a process that this one could not reap. It never blocks.
pub fn record(process: impl AsFd) -> Record {
    let mut info = Info { mask: INFO_PID | INFO_EXIT, ..Info::default() };
    // SAFETY: the call reads and writes a struct of this layout, whose size the opcode tells.
    let request = unsafe { Updater::<GET_INFO, Info>::new(&mut info) };
    // SAFETY: as above. On a descriptor that is no pidfd, the request is refused, or is none at
    // all.
    let asked = unsafe { ioctl(process, request) };
    let is_parent = |id: u32| {
        ids::this_process()
            .is_ok_and(|this_process| this_process.as_raw_nonzero().get() as u32 == id)
    };
    match asked {
        Ok(()) if info.mask & INFO_EXIT != 0 => Record::Ended(ExitStatus::from_raw(info.exit_code)),
        Ok(()) if info.mask & INFO_PID != 0 && is_parent(info.parent) => Record::Child,
        Ok(()) if info.mask & INFO_PID != 0 => Record::OfAnother,
        _ => Record::Unknown,
    }
}
