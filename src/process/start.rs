//! How a program is started: it is known by a pidfd from the beginning, and does not run without
//! what it was given.
//!
//! std tells only a pid, and too late. By then the program may have ended and been reaped, by the
//! kernel (SIGCHLD is ignored) or by a wait for any child. The pid may then be another process's.
//! So the child opens its own pidfd, between fork and exec, and sends it over a socket of this
//! start.
//!
//! | step | process | action |
//! |---|---|---|
//! | 1 | parent | makes a pair of sockets, says so in [`DOING`], has std fork |
//! | 2 | child | sends its pidfd, or what failed: [`announce`], by `pthread_atfork(3)` |
//! | 3 | child | runs what the command was given; ours is [`Share::inherit`], and `announce` |
//! | 4 | child | becomes the program, or exits |
//! | 5 | parent | has std's result, which comes after step 2, and receives what was sent |
//!
//! Step 2 comes first because what a user gave the command may close whatever it does not know, as
//! `closefrom(3)` does. In step 3, `announce` only repeats how that went: a handler of
//! `pthread_atfork` has no result. Its closure also makes std fork: without one, std may use
//! `posix_spawn(3)`, which runs no handler.
//!
//! A command is std's type, so nothing of ours lives in it but closures. They run in whichever
//! process is to become the program. [`DOING`], which is copied into the child, tells them what
//! they run for.

use core::cell::{Cell, RefCell};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering::*};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use crossproc_sys::descriptor::both_above_standard;
use crossproc_sys::failed::because;
use crossproc_sys::process::{at_fork, mark_of_this_process};
use crossproc_sys::retry::retry;
use crossproc_sys::{ids, pidfd, socket};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Pid;

use super::Child;

/// The name of a variable that a command removes, and that is never set. It marks a command that
/// has [`announce`].
const ANNOUNCES: &str = "CROSSPROC_ANNOUNCES";

/// The first byte that the child sends, with its pidfd.
const STARTED: u8 = 0;
/// The first byte if the child could not open its pidfd, or not send it: an errno follows.
const OPENING: u8 = 1;
/// The first byte if the program would lack the variable of what was shared: its name follows.
const NAMELESS: u8 = 2;
/// The longest name that is sent whole.
const LONGEST: usize = 255;

/// What a thread of this process runs a command's closures for.
enum Doing {
    /// To start a program.
    Starting {
        /// The child's end.
        socket: RawFd,
        /// The variables that the program will have.
        names: Vec<Box<OsStr>>,
        /// In the child's copy: the result, once it has sent its pidfd, or could not.
        announced: Cell<Option<Result<(), Errno>>>,
    },
    /// To become a program.
    Replacing {
        /// The variables that the program will have.
        names: Vec<Box<OsStr>>,
        /// The descriptors that were opened to it.
        opened: RefCell<Vec<RawFd>>,
    },
}

thread_local! {
    /// Null, or what this thread is in the middle of. A child that the thread forks has a copy.
    static DOING: Cell<*const Doing> = const { Cell::new(ptr::null()) };
}

/// Null, or a word that is 1 in a process that has shared something, or that this crate has forked
/// from such a process. It is 0 in a process that std forks to start a program, even one in another
/// pid namespace with the same pid.
static MARK: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

fn mark() -> Option<&'static AtomicU32> {
    // SAFETY: null, or what `mark_this_process` has stored, which is never unmapped. Acquire: pairs
    // with the Release there.
    unsafe { MARK.load(Acquire).as_ref() }
}

/// Notes, before this process shares something, that it is not one that std forks to start a
/// program.
///
/// # Errors
/// ENOMEM.
pub(super) fn mark_this_process() -> io::Result<()> {
    if mark().is_none() {
        let made = ptr::from_ref(mark_of_this_process()?).cast_mut();
        // If two threads come here at once, one leaves an unused word behind. Release: pairs with
        // the Acquire in `mark`.
        let _ = MARK.compare_exchange(ptr::null_mut(), made, Release, Relaxed);
    }
    this_process_is_forked();
    Ok(())
}

/// Notes that this process is not one that std forks to start a program, if its parent has shared
/// something.
pub(super) fn this_process_is_forked() {
    if let Some(mark) = mark() {
        // Relaxed: another thread that reads it got the command after this store.
        mark.store(1, Relaxed);
    }
}

/// Calls `act` with what this thread is in the middle of.
fn with_doing<R>(act: impl FnOnce(Option<&Doing>) -> R) -> R {
    let doing = DOING.get();
    // SAFETY: null, or what `during` borrows for longer than the pointer is there, in this thread.
    // In a child, it is a copy of that, and of the stack that it leads to.
    act(unsafe { doing.as_ref() })
}

impl Doing {
    fn during<R>(&self, act: impl FnOnce() -> R) -> R {
        struct Before(*const Doing);
        impl Drop for Before {
            fn drop(&mut self) {
                DOING.set(self.0);
            }
        }
        let _before = Before(DOING.replace(self));
        act()
    }
}

/// Returns whether a command's closures run in the process that has the command, because it calls
/// `exec`, and not in a process that is forked to become the program.
fn is_exec() -> bool {
    // Relaxed: see the store.
    mark().is_some_and(|mark| mark.load(Relaxed) == 1)
}

/// A handle that is shared with a program.
#[derive(Debug)]
pub(super) struct Share {
    fd: OwnedFd,
    variable: String,
    /// What the child sends if the program would not have the variable.
    nameless: Box<[u8]>,
}

impl Share {
    pub(super) fn new(fd: OwnedFd, variable: String) -> Self {
        let name = &variable.as_bytes()[..variable.len().min(LONGEST)];
        let nameless = [&[NAMELESS], name].concat().into();
        Share { fd, variable, nameless }
    }

    /// Has the program inherit the handle. Async-signal-safe in a child.
    pub(super) fn inherit(&self) -> io::Result<()> {
        with_doing(|doing| {
            let is_named = |names: &[Box<OsStr>]| names.iter().any(|name| **name == *self.variable);
            match doing {
                Some(Doing::Starting { socket, names, .. }) if !is_named(names) => {
                    report(*socket, &self.nameless);
                    return Err(Errno::INVAL.into());
                }
                Some(Doing::Replacing { names, .. }) if !is_named(names) => {
                    return Err(nameless(&self.variable));
                }
                // Noted before it is opened to the program.
                Some(Doing::Replacing { opened, .. }) => {
                    opened.borrow_mut().push(self.fd.as_raw_fd());
                }
                Some(Doing::Starting { .. }) => {}
                None if is_exec() => return Err(not_by_exec()),
                None => {}
            }
            Ok(fcntl_setfd(&self.fd, FdFlags::empty())?)
        })
    }
}

fn not_by_exec() -> io::Error {
    let message = "exec would leave what was shared open for every other program, if it failed: \
                   use CommandExt::replace";
    io::Error::new(io::ErrorKind::Unsupported, message)
}

fn nameless(variable: &str) -> io::Error {
    let message = format!(
        "the program would not find what was shared with it: env_clear or env_remove has removed \
         the variable {variable}, so call CommandExt::share after them"
    );
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Returns the variables that a command sets.
fn names(command: &Command) -> Vec<Box<OsStr>> {
    command.get_envs().filter(|(_, value)| value.is_some()).map(|(name, _)| name.into()).collect()
}

/// [`CommandExt::start`](super::CommandExt::start).
pub(super) fn start(command: &mut Command) -> io::Result<Child> {
    announce_first()?;
    let made = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(crossproc_sys::failed::failed("socketpair"))?;
    // The child's standard streams are in place before its closures run.
    let (theirs, ours) = both_above_standard(made)?;
    if !command.get_envs().any(|(name, _)| name == ANNOUNCES) {
        // `env_clear` forgets this. Another closure is then added, which does nothing.
        command.env_remove(ANNOUNCES);
        // SAFETY: it only makes system calls, and reads what is behind `DOING`. It allocates
        // nothing.
        unsafe { command.pre_exec(announce) };
    }
    let starting = Doing::Starting {
        socket: theirs.as_raw_fd(),
        names: names(command),
        announced: Cell::new(None),
    };
    // std waits for a child that does not become the program. It panics if that child was reaped by
    // the kernel, or by another wait.
    let spawned = starting.during(|| catch_unwind(AssertUnwindSafe(|| command.spawn())));
    drop(theirs);
    // Dropped with its pipes: their descriptors leave room for the pidfd.
    let spawned = spawned.map(|spawned| spawned.map(|started| started.id()));
    let report = match &spawned {
        Ok(Ok(_)) => StartReport::receive(&ours),
        // The child may have failed after it sent its pidfd.
        _ => StartReport::receive(&ours).and_then(|report| match report {
            StartReport::Started(_) => StartReport::receive(&ours),
            report => Ok(report),
        }),
    };
    match (spawned, report) {
        (Ok(Ok(id)), Ok(StartReport::Started(pidfd))) => {
            match i32::try_from(id).ok().and_then(Pid::from_raw) {
                Some(pid) => Ok(Child::new(pid, pidfd)),
                None => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the program was started, with an impossible pid, {id}"),
                )),
            }
        }
        (Ok(Ok(id)), report) => {
            let errno = report.err().unwrap_or(Errno::MFILE);
            Err(failed(
                &format!(
                    "receiving the descriptor of process {id}, which was started and goes on,"
                ),
                errno,
            ))
        }
        (_, Ok(StartReport::Opening(errno))) => {
            Err(failed("opening a descriptor for itself, or sending it,", errno))
        }
        (_, Ok(StartReport::Nameless(variable))) => Err(nameless(&variable)),
        (Ok(Err(error)), _) => Err(crossproc_sys::failed::failed("starting the program")(error)),
        (Err(_), _) => Err(io::Error::other(
            "the program could not be executed. Why is not known, since the forked child's status \
             was lost, as of all children of this process, by SIGCHLD being ignored or by a wait \
             for any child",
        )),
    }
}

/// [`CommandExt::replace`](super::CommandExt::replace).
pub(super) fn replace(command: &mut Command) -> io::Error {
    let opened = RefCell::new(Vec::new());
    let replacing = Doing::Replacing { names: names(command), opened };
    let error = replacing.during(|| command.exec());
    let Doing::Replacing { opened, .. } = &replacing else { return error };
    for number in opened.take() {
        // SAFETY: not -1; the command has it open.
        let shared = unsafe { BorrowedFd::borrow_raw(number) };
        if let Err(errno) = fcntl_setfd(shared, FdFlags::CLOEXEC) {
            return failed(
                &format!(
                    "closing what was shared, descriptor {number}, to other programs, after exec \
                     had failed ({error}),"
                ),
                errno,
            );
        }
    }
    error
}

fn failed(what: &str, errno: Errno) -> io::Error {
    because(format!("{what} failed for a program that was to be started"))(errno)
}

/// Has each child announce itself before it does anything else.
fn announce_first() -> io::Result<()> {
    extern "C" fn in_child() {
        let _ = announce();
    }
    static IS_HANDLED: AtomicBool = AtomicBool::new(false);
    // Relaxed: it orders nothing. Two threads may both set the handler, which does nothing the
    // second time.
    if !IS_HANDLED.load(Relaxed) {
        // SAFETY: the handler only makes system calls, and reads what is behind `DOING`.
        unsafe { at_fork(None, in_child) }
            .map_err(crossproc_sys::failed::failed("pthread_atfork"))?;
        IS_HANDLED.store(true, Relaxed);
    }
    Ok(())
}

/// In a child that is to become a program: sends its own pidfd, the first time, and returns how
/// that went. Async-signal-safe.
fn announce() -> io::Result<()> {
    with_doing(|doing| {
        // Not forked by `start`.
        let Some(Doing::Starting { socket: number, announced, .. }) = doing else { return Ok(()) };
        let result = announced.get().unwrap_or_else(|| {
            // SAFETY: not -1; open until std has forked, and so at the beginning of the child.
            let socket = unsafe { BorrowedFd::borrow_raw(*number) };
            let sent = ids::this_process()
                .and_then(|this_process| {
                    pidfd::open(this_process)
                        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
                })
                .and_then(|pidfd| socket::send_descriptor(socket, &[STARTED], pidfd.as_fd()));
            if let Err(errno) = sent {
                let [a, b, c, d] = errno.raw_os_error().to_ne_bytes();
                report(*number, &[OPENING, a, b, c, d]);
            }
            sent
        });
        announced.set(Some(result));
        Ok(result?)
    })
}

/// Tells the parent why this child does not become the program. Async-signal-safe.
fn report(number: RawFd, bytes: &[u8]) {
    // SAFETY: not -1; open until std has forked, and so in the child.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    // If that fails, std still tells the errno.
    let _ = socket::send(socket, bytes, false);
}

/// What the child has sent.
enum StartReport {
    Started(OwnedFd),
    Opening(Errno),
    Nameless(String),
}

impl StartReport {
    /// Receives what there is, without waiting.
    fn receive(socket: &OwnedFd) -> Result<Self, Errno> {
        let mut buffer = [MaybeUninit::uninit(); 1 + LONGEST];
        let packet = retry(|| socket::receive(socket, [&mut buffer, &mut []], false))?;
        // SAFETY: the kernel has written that many bytes.
        let bytes: Vec<u8> =
            buffer[..packet.len].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        match (&bytes[..], packet.descriptors) {
            ([STARTED], [Some(pidfd), _]) => Ok(StartReport::Started(pidfd)),
            (&[OPENING, a, b, c, d], _) => {
                Ok(StartReport::Opening(Errno::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]))))
            }
            ([NAMELESS, name @ ..], _) => {
                Ok(StartReport::Nameless(String::from_utf8_lossy(name).into_owned()))
            }
            // There was no room for the pidfd.
            ([STARTED], _) => Err(Errno::MFILE),
            _ => Err(Errno::IO),
        }
    }
}
