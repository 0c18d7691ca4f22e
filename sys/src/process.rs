//! `fork(2)`, and a line by which a process dies with the one that made it.

#![allow(unsafe_code)]

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering::*};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, fcntl_setfl, open, openat};
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::path::DecInt;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, set_parent_process_death_signal};

use crate::descriptor::{above_standard, both_above_standard, duplicate};
use crate::poll::{self, PollFlags};
use crate::retry::retry;
use crate::signals::{self, Blocked};
use crate::{clock, ids, memory};

/// `fork(3)`, libc's, with its handlers: `None` in the child.
///
/// # Safety
/// In a process with other threads the child may call only what is async-signal-safe until it calls
/// `exec` or `_exit`: any lock may be held by a thread that does not exist in it.
///
/// # Errors
/// EAGAIN, ENOMEM: a limit, or no memory. The caller reports them.
pub unsafe fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the caller keeps to the contract above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Has [`fork`], and whoever else calls libc's, run a function before it in the thread that forks,
/// and one in the child before anything else: `pthread_atfork(3)`. For good.
///
/// # Safety
/// Both are async-signal-safe.
///
/// # Errors
/// ENOMEM. The caller reports it.
pub unsafe fn at_fork(
    before: Option<unsafe extern "C" fn()>,
    in_child: unsafe extern "C" fn(),
) -> io::Result<()> {
    // SAFETY: functions, of which the caller says that a child may call them.
    match unsafe { libc::pthread_atfork(before, None, Some(in_child)) } {
        0 => Ok(()),
        failed => Err(io::Error::from_raw_os_error(failed)),
    }
}

/// A word that is 1 in this process, and 0 in every child that is forked from it, however that is
/// done (`MADV_WIPEONFORK`): what was copied by a fork is told by it, where a pid may be used
/// again. It is never unmapped: one for a process and a purpose, not one for each of many things.
///
/// # Errors
/// ENOMEM; EINVAL before Linux 4.14. The caller reports them.
pub fn mark_of_this_process() -> io::Result<&'static AtomicU32> {
    let start = memory::map_wiped_on_fork(size_of::<AtomicU32>())?;
    // SAFETY: zeroed pages, mapped by the line above and never unmapped, aligned to a page; zero is
    // a value of the type.
    let mark = unsafe { start.cast::<AtomicU32>().as_ref() };
    // Relaxed: whoever gives the word to other threads orders it.
    mark.store(1, Relaxed);
    Ok(mark)
}

/// `_exit(2)`: ends the process without running destructors or handlers, as a forked child must.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(code) }
}

/// A pipe on which nothing is ever written: this process holds the only end for writing, so its own
/// death, however it comes, closes it, and the kernel then sends SIGKILL to every process that has
/// [tied](Lifeline::tie) itself to it.
///
/// What may still keep the end open: a child by a raw system call, which runs no handlers, for as
/// long as it lives and does not `exec`.
///
/// The kernel's own `PR_SET_PDEATHSIG` follows the *thread* that forked, which may end long before
/// its process. So it is set besides where that was the process's first thread. It holds where the
/// line does not: for a process that closes the line, as one of those that it does not know; and
/// for the first of a pid namespace, to which the kernel delivers no signal of a file's.
///
/// | forked by | first of its pid namespace | before Linux 5.6 | hangs on |
/// |---|---|---|---|
/// | the first thread | no | no | both |
/// | the first thread | yes | any | the thread |
/// | the first thread | no | yes | the thread |
/// | another | no | no | the line |
/// | another | yes, or | yes | nothing would hold: EOPNOTSUPP |
///
/// Before Linux 5.6 the kernel tells all who read a pipe of each other's end, too.
#[derive(Debug, Clone, Copy)]
pub struct Lifeline {
    read: RawFd,
    /// Whose line it is.
    owner: Pid,
    /// Whether the kernel signals the end of the writer alone.
    is_exact: bool,
}

/// `fcntl`'s F_SETSIG and F_GETSIG of `asm-generic/fcntl.h`, which the libc crate lacks.
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;

/// The end for writing, or -1. A forked child closes its copy, or it would keep its siblings alive.
static LINE_WRITE: AtomicI32 = AtomicI32::new(-1);
/// The end for reading, from which each child opens one of its own, or -1.
static LINE_READ: AtomicI32 = AtomicI32::new(-1);
/// In a forked child, its copy of the parent's end for reading, until it is tied to it, or lets go
/// of it.
static INHERITED: AtomicI32 = AtomicI32::new(-1);
/// In a forked child, the number of the line that it is tied to, or -1.
static TIED: AtomicI32 = AtomicI32::new(-1);
/// Whose line that is: this process's own may have been given the same number since.
static TIED_TO: AtomicI32 = AtomicI32::new(-1);
/// The descriptor by which this process is tied to the one that started it, or -1. A forked child
/// closes its copy: what ties its parent is nothing to it, and each generation would add one.
static TIE: AtomicI32 = AtomicI32::new(-1);

thread_local! {
    /// In a forked child, whether its parent's first thread has forked it: a thread's own memory is
    /// copied with it.
    static IS_BY_FIRST: Cell<bool> = const { Cell::new(false) };
}

impl Lifeline {
    /// The calling process's line, made on first use: two descriptors (close-on-exec) for as long
    /// as it lives. Their numbers are no standard stream's, which a started program is given
    /// others for.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM; ENOENT or EACCES: no `/proc`. The caller reports them.
    pub fn of_this_process() -> io::Result<Lifeline> {
        static MAKING: Mutex<(bool, bool)> = Mutex::new((false, false));
        // Poisoned only by a panic in here, of which there is none; the flags it guards are whole
        // either way.
        let mut done = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let (handled, sorted) = &mut *done;
        if !*handled {
            // SAFETY: the handlers only load, store and close.
            unsafe { at_fork(Some(note_who_forks), drop_parents_line) }?;
            *handled = true;
        }
        // What `exec` has left open, of which the memory of this program does not tell.
        if !*sorted {
            sort_out_ties()?;
            *sorted = true;
        }
        if LINE_READ.load(Relaxed) == -1 {
            let (read, write) = both_above_standard(pipe_with(PipeFlags::CLOEXEC)?)?;
            LINE_WRITE.store(write.into_raw_fd(), Relaxed);
            LINE_READ.store(read.into_raw_fd(), Relaxed);
        }
        let is_exact = !is_kernel_before((5, 6));
        Ok(Lifeline { read: LINE_READ.load(Relaxed), owner: ids::this_process()?, is_exact })
    }

    /// The same as it would be before Linux 5.6.
    #[must_use]
    pub fn as_before_5_6(self) -> Self {
        Lifeline { is_exact: false, ..self }
    }

    /// In the child: from here on it gets SIGKILL when the process that the line belongs to ends;
    /// at once if it has ended already. The second time does nothing, nor does it in the
    /// process that the line belongs to, which is about to `exec`. Async-signal-safe. It lasts
    /// across `exec`, at the price of one descriptor that stays open.
    ///
    /// # Errors
    /// EMFILE, ENFILE; ENOENT: no `/proc`; EACCES: the process has changed its user since; EBADF:
    /// it is no child of the process that the line belongs to; EOPNOTSUPP: nothing would hold,
    /// see [`Lifeline`]; what a sandbox says to `prctl`. The child reports them and ends.
    pub fn tie(self) -> io::Result<()> {
        let this_process = ids::this_process()?;
        // A child has no line of this number of its own, and a process that was forked without the
        // handlers another pid.
        let is_owner = LINE_READ.load(Relaxed) == self.read && this_process == self.owner;
        let owner = self.owner.as_raw_nonzero().get();
        let is_tied = TIED.load(Relaxed) == self.read && TIED_TO.load(Relaxed) == owner;
        if is_owner || is_tied {
            return Ok(());
        }
        if INHERITED.compare_exchange(self.read, -1, Relaxed, Relaxed).is_err() {
            return Err(Errno::BADF.into());
        }
        let is_by_first = IS_BY_FIRST.get();
        let is_signalled = self.is_exact && !this_process.is_init();
        if is_by_first {
            set_parent_process_death_signal(Some(Signal::KILL))?;
        } else if !is_signalled {
            return Err(Errno::OPNOTSUPP.into());
        }
        // A descriptor of its own: owner and signal belong to an open file, which the parent's is
        // for all its children.
        let numbers = open(c"/proc/self/fd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let line = openat(&numbers, DecInt::new(self.read), flags, Mode::empty())?;
        let line = above_standard(line)?;
        close_number(self.read);
        if is_signalled {
            // Left open by `exec`.
            fcntl_setfd(&line, FdFlags::empty())?;
            // SAFETY: F_SETOWN takes an integer; a positive one is a process.
            check(unsafe {
                libc::fcntl(line.as_raw_fd(), libc::F_SETOWN, this_process.as_raw_nonzero().get())
            })?;
            // SAFETY: F_SETSIG takes an integer.
            check(unsafe { libc::fcntl(line.as_raw_fd(), F_SETSIG, libc::SIGKILL) })?;
            fcntl_setfl(&line, OFlags::NONBLOCK | OFlags::from_bits_retain(libc::O_ASYNC as u32))?;
        }
        // Whoever died before the last call was not signalled about.
        if poll::wait(&line, PollFlags::IN, Some(0))? {
            exit_now(128 + libc::SIGKILL);
        }
        if is_signalled {
            // Open until the process ends.
            TIE.store(line.into_raw_fd(), Relaxed);
        }
        TIED_TO.store(owner, Relaxed);
        TIED.store(self.read, Relaxed);
        Ok(())
    }
}

/// In a forked child that is no daemon: closes what it inherited of its parent's line.
/// Async-signal-safe.
pub fn let_go() {
    close_number(INHERITED.swap(-1, Relaxed));
}

/// Writes a message to the standard error, without a lock, without allocating, and whether it can
/// be written or not: for a reader that reads nothing it waits a second, and one that is gone is no
/// SIGPIPE. `false`: the rest is not written.
#[must_use]
pub fn complain(parts: &[&str]) -> bool {
    without_sigpipe(|| {
        let stderr = rustix::stdio::stderr();
        parts.iter().all(|part| {
            let deadline = clock::now().saturating_add(1_000_000_000);
            // A sandbox that refuses to wait may let it write.
            poll::wait(stderr, PollFlags::OUT, Some(deadline)).unwrap_or(true)
                && retry(|| rustix::io::write(stderr, part.as_bytes())).is_ok()
        })
    })
}

/// Does something whose writes may fail for want of a reader (EPIPE): the calling thread gets no
/// SIGPIPE for them, also where the program has given that its default again.
pub fn without_sigpipe<R>(act: impl FnOnce() -> R) -> R {
    let mut pipe = MaybeUninit::uninit();
    // SAFETY: writes a whole set.
    unsafe { libc::sigemptyset(pipe.as_mut_ptr()) };
    // SAFETY: the set was written by the line above; SIGPIPE is a signal.
    unsafe { libc::sigaddset(pipe.as_mut_ptr(), libc::SIGPIPE) };
    // SAFETY: as above.
    let pipe = unsafe { pipe.assume_init() };
    let was_pending = is_pending(libc::SIGPIPE);
    let _blocked = Blocked::these(&pipe);
    let result = act();
    if !was_pending && is_pending(libc::SIGPIPE) {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: takes a signal that is blocked, waits for nothing, and asks for no details.
        unsafe { libc::sigtimedwait(&raw const pipe, ptr::null_mut(), &raw const now) };
    }
    result
}

fn is_pending(signal: i32) -> bool {
    let mut pending = MaybeUninit::uninit();
    // SAFETY: writes a whole set.
    if unsafe { libc::sigpending(pending.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: written by the line above.
    unsafe { libc::sigismember(pending.as_ptr(), signal) == 1 }
}

/// Whether the kernel reaps this process's children by itself, and keeps no exit status: SIGCHLD is
/// ignored, or has SA_NOCLDWAIT.
#[must_use]
pub fn ignores_children() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: sets nothing, and writes a whole action.
    if unsafe { libc::sigaction(libc::SIGCHLD, ptr::null(), action.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: written by the line above.
    let action = unsafe { action.assume_init() };
    action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0
}

/// Does something while the number of the standard output stands for nothing, so that what is
/// written there goes nowhere and waits for nobody (EBADF). Then it stands for what it did before.
/// For a forked child that has one thread: no other could open or write anything meanwhile, and no
/// handler runs.
///
/// # Errors
/// EMFILE, and whatever a sandbox says: nothing was done. The last one, of giving the number back,
/// leaves the process without a standard output. The child reports them and ends.
pub fn without_stdout(act: impl FnOnce()) -> io::Result<()> {
    let stdout = rustix::stdio::stdout();
    let flags = match fcntl_getfd(stdout) {
        Err(Errno::BADF) => {
            act();
            return Ok(());
        }
        flags => flags?,
    };
    let kept = duplicate(stdout)?;
    signals::with_all_blocked(|| {
        // SAFETY: nobody else is there to use the number, which is opened again below.
        let closed = check(unsafe { libc::close(libc::STDOUT_FILENO) });
        // With some errors it is closed, and with a sandbox's it is not.
        if fcntl_getfd(stdout) != Err(Errno::BADF) {
            return Err(closed.err().unwrap_or_else(|| Errno::BADF.into()));
        }
        act();
        rustix::stdio::dup2_stdout(&kept)?;
        if !flags.is_empty() {
            fcntl_setfd(stdout, flags)?;
        }
        Ok(())
    })
}

extern "C" fn note_who_forks() {
    // Where a sandbox refuses to say, it is not known to be the first.
    IS_BY_FIRST.set(ids::this_thread().is_ok_and(|thread| ids::this_process() == Ok(thread)));
}

/// Whether the kernel is older than a version. One that does not tell is taken for a newer one.
fn is_kernel_before(version: (u32, u32)) -> bool {
    let mut names = MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: writes names where it is told.
    if unsafe { libc::uname(names.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: written, since it did not fail.
    let names = unsafe { names.assume_init() };
    is_before(&names.release.map(|byte| byte as u8), version)
}

/// Whether a kernel's release is before a version. One that cannot be read is not.
fn is_before(release: &[u8], version: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|byte| !byte.is_ascii_digit())
        .map(|digits| core::str::from_utf8(digits).ok()?.parse().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) < version,
        _ => false,
    }
}

extern "C" fn drop_parents_line() {
    // The end for reading stays open for `tie`; this process's own line will be another pipe.
    close_number(LINE_WRITE.swap(-1, Relaxed));
    TIED.store(-1, Relaxed);
    close_tie(TIE.swap(-1, Relaxed));
    close_number(INHERITED.swap(LINE_READ.swap(-1, Relaxed), Relaxed));
}

/// Finds the descriptors that tie a process to another, in a program that was started: its own,
/// which its children are not to keep, and copies of other processes', which tie nobody here and
/// are closed. A later `exec` hands on what is open, and each program that is started as a daemon
/// has one more.
fn sort_out_ties() -> io::Result<()> {
    let numbers = std::fs::read_dir("/proc/self/fd")?;
    let this_process = ids::this_process()?.as_raw_nonzero().get();
    for entry in numbers {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if !is_tie(number) {
            continue;
        }
        // SAFETY: takes no argument, of a number that may be closed.
        if unsafe { libc::fcntl(number, libc::F_GETOWN) } == this_process {
            TIE.store(number, Relaxed);
        } else {
            close_tie(number);
        }
    }
    Ok(())
}

/// Whether a number is open, and ties a process to another: nothing else has itself announced by
/// SIGKILL.
fn is_tie(number: RawFd) -> bool {
    // SAFETY: takes no argument, of a number that may be closed.
    unsafe { libc::fcntl(number, F_GETSIG) == libc::SIGKILL }
}

/// Closes what ties a process to another; not what somebody else has put in its place.
fn close_tie(number: RawFd) {
    if is_tie(number) {
        close_number(number);
    }
}

fn close_number(number: RawFd) {
    if number != -1 {
        // SAFETY: the number was put there by `into_raw_fd` and taken out again by exactly one
        // swap, or nobody in this program knows it (`sort_out_ties`).
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

fn check(result: i32) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How many CPUs the calling thread may run on, by `sched_getaffinity(2)`: at least 1, and 2 if the
/// call fails (EINVAL: more CPUs than the mask can name), which is to say "several".
#[must_use]
pub fn cpus() -> u32 {
    rustix::thread::sched_getaffinity(None).map_or(2, |set| set.count().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_both_numbers() {
        for before in ["5.4.0-216-generic", "5.5", "4.18.0-553.el8", "5.5.19"] {
            assert!(is_before(before.as_bytes(), (5, 6)), "{before}");
        }
        for after in ["5.6.0", "5.10.0-30-amd64", "6.1", "10.0", "strange", ""] {
            assert!(!is_before(after.as_bytes(), (5, 6)), "{after}");
        }
    }
}
