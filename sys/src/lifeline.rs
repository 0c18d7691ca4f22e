//! [`Lifeline`]: a line by which a process dies with the one that forked it.

#![allow(unsafe_code)]

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::*};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, fcntl_setfl, open, openat};
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::path::DecInt;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, set_parent_process_death_signal};

use crate::descriptor::{above_standard, both_above_standard, inode_of, leads_to};
use crate::ids;
use crate::kernel::is_kernel_before;
use crate::per_process::PerProcess;
use crate::poll::{self, PollFlags};
use crate::process::{at_fork, exit_now};

/// A pipe on which nothing is ever written. This process holds the only write end. Its own death,
/// however it comes, closes that end, and the kernel then sends SIGKILL to every process that has
/// [tied](Lifeline::tie) itself to the pipe.
///
/// One thing may still keep the write end open: a child made by a raw system call, which runs no
/// handlers. It does so as long as it lives and does not `exec`.
///
/// The kernel's own `PR_SET_PDEATHSIG` follows the *thread* that forked, which may end long before
/// its process. So it is set in addition, if the thread that forked was its process's first one. It
/// holds in two cases where the line does not. One is a process that closes the line as a
/// descriptor that it does not know. The other is the first process of a pid namespace, to which
/// the kernel delivers no signal of a file's.
///
/// | forked by | first of its pid namespace | before Linux 5.6 | held by |
/// |---|---|---|---|
/// | the first thread | no | no | both |
/// | the first thread | yes | any | the thread |
/// | the first thread | no | yes | the thread |
/// | another thread | no | no | the line |
/// | another thread | yes | any | nothing would hold: EOPNOTSUPP |
/// | another thread | no | yes | nothing would hold: EOPNOTSUPP |
///
/// Before Linux 5.6 the kernel also signals all readers of a pipe when another reader closes its
/// end.
#[derive(Debug, Clone, Copy)]
pub struct Lifeline {
    read: RawFd,
    /// The process that owns the line.
    owner: Pid,
    /// Whether the kernel signals the end of the writer alone.
    is_exact: bool,
}

/// `fcntl`'s F_SETSIG and F_GETSIG of `asm-generic/fcntl.h`, which the libc crate lacks.
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;

/// Whether the handlers of forks are there. Relaxed: it is changed under the lock of
/// [`Lifeline::of_this_process`], or where a new process has one thread.
static IS_HANDLED: AtomicBool = AtomicBool::new(false);
/// The write end, or -1. A forked child closes its copy, which would otherwise keep its siblings
/// alive.
static LINE_WRITE: AtomicI32 = AtomicI32::new(-1);
/// The read end, from which each child opens one of its own, or -1.
static LINE_READ: AtomicI32 = AtomicI32::new(-1);
/// The file of both ends. Stored before them: see [`close_end`].
static LINES_INODE: AtomicU64 = AtomicU64::new(0);
/// In a forked child, its copy of the parent's read end, until the child is tied to the line or
/// lets go of it. Otherwise -1.
static INHERITED: AtomicI32 = AtomicI32::new(-1);
/// The file of that end.
static INHERITED_INODE: AtomicU64 = AtomicU64::new(0);
/// In a forked child, the number of the line that it is tied to, or -1.
static TIED: AtomicI32 = AtomicI32::new(-1);
/// The owner of that line: this process's own line may have been given the same number since.
static TIED_TO: AtomicI32 = AtomicI32::new(-1);
/// The descriptor by which this process is tied to the one that started it, or -1. A forked child
/// closes its copy: what ties its parent is nothing to it, and each generation would add one.
static TIE: AtomicI32 = AtomicI32::new(-1);

thread_local! {
    /// In a forked child, whether its parent's first thread has forked it. A thread's own memory is
    /// copied with the thread.
    static IS_BY_FIRST: Cell<bool> = const { Cell::new(false) };
}

impl Lifeline {
    /// Returns the calling process's line, which is made on first use: two descriptors
    /// (close-on-exec) for as long as the process lives. Their numbers are no standard stream's,
    /// since those are replaced in a started program.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM; ENOENT or EACCES: no `/proc`. The caller reports them.
    pub fn of_this_process() -> io::Result<Lifeline> {
        static MAKING: PerProcess<Mutex<()>> = PerProcess::new();
        // Relaxed: it is changed under the lock.
        static IS_SORTED: AtomicBool = AtomicBool::new(false);
        // Poisoned only by a panic in here, of which there is none; the flags are whole either way.
        let _making = MAKING.get()?.lock().unwrap_or_else(PoisonError::into_inner);
        if !IS_HANDLED.load(Relaxed) {
            // SAFETY: the handlers only load, store and close.
            unsafe { at_fork(Some(note_who_forks), drop_parents_line) }?;
            IS_HANDLED.store(true, Relaxed);
        }
        // Descriptors that `exec` has left open, which this program's memory does not know.
        if !IS_SORTED.load(Relaxed) {
            sort_out_ties()?;
            IS_SORTED.store(true, Relaxed);
        }
        let inode = LINES_INODE.load(Relaxed);
        let is_whole = [&LINE_READ, &LINE_WRITE].map(|end| leads_to(end.load(Relaxed), inode));
        // An end that other code has left open stays: closing the write end would kill children.
        if is_whole != [true, true] {
            let (read, write) = both_above_standard(pipe_with(PipeFlags::CLOEXEC)?)?;
            LINES_INODE.store(inode_of(read.as_fd())?, Relaxed);
            // Release, both: a child that another thread forks at this moment has the inode if it
            // has a number.
            LINE_WRITE.store(write.into_raw_fd(), Release);
            LINE_READ.store(read.into_raw_fd(), Release);
        }
        let is_exact = !is_kernel_before((5, 6));
        Ok(Lifeline { read: LINE_READ.load(Relaxed), owner: ids::this_process()?, is_exact })
    }

    /// Returns the same line as it would be before Linux 5.6.
    #[must_use]
    pub fn as_before_5_6(self) -> Self {
        Lifeline { is_exact: false, ..self }
    }

    /// Called in the child: from here on it gets SIGKILL when the owner of the line ends. If the
    /// owner has ended already, the child exits at once, with code 128 + SIGKILL. A second call
    /// does nothing. Nor does a call in the line's owner, which is about to `exec`.
    /// Async-signal-safe. The tie lasts across `exec`, at the price of one descriptor that stays
    /// open.
    ///
    /// # Errors
    /// EMFILE, ENFILE; ENOENT: no `/proc`; EACCES: the process has changed its user since. EBADF:
    /// it is no child of the line's owner. EOPNOTSUPP: nothing would hold, see [`Lifeline`]. Also
    /// the errnos that a sandbox answers to `prctl`. The child reports them and ends.
    pub fn tie(self) -> io::Result<()> {
        let this_process = ids::this_process()?;
        // A child has no line of its own with this number. A process that was forked without the
        // handlers has another pid.
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
        // Opens a descriptor of its own. The owner and the signal belong to an open file, and the
        // parent's open file is shared by all its children.
        let numbers = open(c"/proc/self/fd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let line = openat(&numbers, DecInt::new(self.read), flags, Mode::empty())?;
        let line = above_standard(line)?;
        // Other code may have closed the line, and opened something else.
        if !leads_to(line.as_raw_fd(), INHERITED_INODE.load(Relaxed)) {
            return Err(Errno::BADF.into());
        }
        close_end(self.read, INHERITED_INODE.load(Relaxed));
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
        // If the owner died before the last call, the kernel has sent no signal.
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

/// For a forked child that is no daemon: closes what it inherited of its parent's line.
/// Async-signal-safe.
pub fn let_go() {
    close_end(INHERITED.swap(-1, Relaxed), INHERITED_INODE.load(Relaxed));
}

extern "C" fn note_who_forks() {
    // If a sandbox refuses to tell, the thread is not taken for the first one.
    IS_BY_FIRST.set(ids::this_thread().is_ok_and(|thread| ids::this_process() == Ok(thread)));
}

extern "C" fn drop_parents_line() {
    // Another thread may have forked between the two steps of `of_this_process`.
    IS_HANDLED.store(true, Relaxed);
    // The read end stays open for `tie`. This process's own line will be another pipe.
    // Acquire: pairs with the Release in `of_this_process`, in the parent.
    let write = LINE_WRITE.swap(-1, Acquire);
    let read = LINE_READ.swap(-1, Acquire);
    let inode = LINES_INODE.load(Relaxed);
    close_end(write, inode);
    TIED.store(-1, Relaxed);
    close_tie(TIE.swap(-1, Relaxed));
    close_end(INHERITED.swap(read, Relaxed), INHERITED_INODE.swap(inode, Relaxed));
}

/// Finds the descriptors that tie a process to another, in a program that was started. One is its
/// own, which its children are not to keep. The others are copies of other processes', which tie
/// nothing here: they are closed. A later `exec` hands on what is open, and each program that is
/// started as a daemon has one more.
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
        // SAFETY: takes no argument; the number may be closed.
        if unsafe { libc::fcntl(number, libc::F_GETOWN) } == this_process {
            TIE.store(number, Relaxed);
        } else {
            close_tie(number);
        }
    }
    Ok(())
}

/// Returns whether a number is open and ties a process to another. Nothing else uses SIGKILL as its
/// signal.
fn is_tie(number: RawFd) -> bool {
    // SAFETY: takes no argument; the number may be closed.
    unsafe { libc::fcntl(number, F_GETSIG) == libc::SIGKILL }
}

/// Closes an end of a line, if the number leads to it.
///
/// It may lead nowhere, or to another file, if other code has closed what is not its own. It also
/// leads nowhere in a child that one thread forks while another makes the line: the kernel copies
/// the descriptors before the memory, and the pipe may be made and noted between the two.
fn close_end(number: RawFd, inode: u64) {
    if leads_to(number, inode) || is_open_unknown(number) {
        close_number(number);
    }
}

/// Returns whether a number is open, and a sandbox does not tell to what.
fn is_open_unknown(number: RawFd) -> bool {
    if number == -1 {
        return false;
    }
    // SAFETY: borrowed for two system calls, which return an errno if it is not open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    inode_of(descriptor).is_err() && fcntl_getfd(descriptor).is_ok()
}

/// Closes what ties a process to another, but not what other code has put in its place.
fn close_tie(number: RawFd) {
    if is_tie(number) {
        close_number(number);
    }
}

fn close_number(number: RawFd) {
    // SAFETY: the callers have just seen that it is open, in a process where no other thread closes
    // it. It was put into a static by `into_raw_fd` and is taken out by exactly one swap, or no
    // code in this program knows it (`sort_out_ties`).
    drop(unsafe { OwnedFd::from_raw_fd(number) });
}

fn check(result: i32) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
