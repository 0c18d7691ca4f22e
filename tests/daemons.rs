//! What ends a daemon, and what does not.

#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::Duration;

use crossproc::process::{Builder, CommandExt};
use crossproc::{Semaphore, Shm, shared};
use crossproc_sys::lifeline::Lifeline;
use crossproc_sys::process as sys;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

mod forked;
mod refused;
use forked::{
    PATIENCE, close_all_but_standard_streams, enter_pid_namespace, fork, join_all, kill, wait_until,
};

shared! {
    struct Board {
        pid: AtomicU32,
        ready: Semaphore,
    }
}

/// A process whose pid its parent reported. The parent knows it by its number in the test's pid
/// namespace.
#[derive(Debug)]
struct Daemon(OwnedFd);

impl Daemon {
    fn ends_within(&self, patience: Duration) -> bool {
        let deadline = crossproc_sys::clock::now() + patience.as_nanos() as u64;
        crossproc_sys::pidfd::wait(&self.0, Some(deadline)).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = crossproc_sys::pidfd::signal(&self.0, Signal::KILL);
    }
}

fn park() -> ! {
    loop {
        thread::park();
    }
}

/// Has a process start a daemon. The daemon is ready once that process says so.
fn started_by(start: impl FnOnce(&Board) -> u32 + Send) -> (crossproc::process::Child, Daemon) {
    let board = Shm::new(Board { pid: AtomicU32::new(0), ready: Semaphore::new(0) }).unwrap();
    let theirs = board.clone();
    let parent = fork(move || -> () {
        theirs.pid.store(start(&theirs), Release);
        theirs.ready.release().unwrap();
        park()
    });
    board.ready.acquire_timeout(PATIENCE).expect("the daemon is started");
    let pid = Pid::from_raw(board.pid.load(Acquire) as i32).unwrap();
    let daemon = Daemon(pidfd_open(pid, PidfdFlags::empty()).unwrap());
    (parent, daemon)
}

/// Has a process start a daemon, and kills the process. Returns whether the daemon ends.
fn dies_with_its_parent(start: impl FnOnce(&Board) -> u32 + Send) -> bool {
    let (parent, daemon) = started_by(start);
    kill(&parent);
    daemon.ends_within(PATIENCE)
}

/// Forks a daemon that runs `act`, and then waits. The daemon has run it when this returns.
///
/// # Safety
/// As for `fork_with_threads`.
unsafe fn fork_daemon(act: impl FnOnce() + Send) -> u32 {
    let done = Shm::new(Semaphore::new(0)).unwrap();
    let theirs = done.clone();
    let body = move || -> () {
        act();
        theirs.release().unwrap();
        park()
    };
    // SAFETY: as the caller promises.
    let child = unsafe { Builder::new().daemon(true).fork_with_threads(body) }.unwrap();
    done.acquire_timeout(PATIENCE).unwrap();
    child.id()
}

#[test]
fn one_that_closes_what_it_does_not_know_dies_with_its_parent() {
    assert!(dies_with_its_parent(|_| {
        // SAFETY: this process has one thread.
        unsafe { fork_daemon(close_all_but_standard_streams) }
    }));
    assert!(dies_with_its_parent(|_| {
        let mut command = Command::new("sleep");
        command.arg("1000").daemon().unwrap();
        // SAFETY: the closure makes system calls alone. `Command` learns from the end of a stream
        // that the program runs, even where the closure closes that stream.
        unsafe {
            command.pre_exec(|| {
                close_all_but_standard_streams();
                Ok(())
            })
        };
        command.start().unwrap().id()
    }));
}

#[test]
fn one_that_is_the_first_of_a_pid_namespace_dies_with_its_parent() {
    assert!(dies_with_its_parent(|_| {
        enter_pid_namespace();
        let body = || -> () { park() };
        // SAFETY: this process has one thread.
        unsafe { Builder::new().daemon(true).fork_with_threads(body) }.unwrap().id()
    }));
    assert!(dies_with_its_parent(|_| {
        enter_pid_namespace();
        Command::new("sleep").arg("1000").daemon().unwrap().start().unwrap().id()
    }));
}

/// Has a process start the first process of a pid namespace, from another thread than its first.
/// The kernel ends a process that this thread starts when the thread ends.
fn first_of_a_namespace_by_another_thread(start: fn()) {
    join_all([fork(move || {
        if !rustix::process::geteuid().is_root() {
            assert_eq!(
                // SAFETY: only this process is affected.
                unsafe { libc::unshare(libc::CLONE_NEWUSER) },
                0,
                "this test needs the right to make a namespace"
            );
        }
        let in_thread = move || {
            assert_eq!(
                // SAFETY: only this process's later children are affected.
                unsafe { libc::unshare(libc::CLONE_NEWPID) },
                0,
                "this test needs the right to make a pid namespace"
            );
            start();
        };
        thread::spawn(in_thread).join().unwrap();
    })]);
}

#[test]
fn one_that_another_thread_starts_is_refused_where_nothing_would_hold_it() {
    first_of_a_namespace_by_another_thread(|| {
        // SAFETY: the child does nothing.
        let forked = unsafe { Builder::new().daemon(true).fork_with_threads(|| ()) }.unwrap_err();
        let text = forked.to_string();
        assert!(
            text.contains("tying it to its parent")
                && text.contains("by the process's first thread"),
            "{text}"
        );
    });
    first_of_a_namespace_by_another_thread(|| {
        let started = Command::new("true").daemon().unwrap().start().unwrap_err();
        let source = std::error::Error::source(&started)
            .and_then(|source| source.downcast_ref::<std::io::Error>());
        assert_eq!(
            source.and_then(std::io::Error::raw_os_error),
            Some(libc::EOPNOTSUPP),
            "{started}"
        );
    });
}

/// These are the limits that the documentation states.
#[test]
fn one_that_another_thread_starts_hangs_on_a_descriptor_alone() {
    let by_another_thread = |act: fn()| {
        // SAFETY: the child closes descriptors, and uses the crate.
        move |_: &Board| thread::spawn(move || unsafe { fork_daemon(act) }).join().unwrap()
    };
    assert!(dies_with_its_parent(by_another_thread(|| ())));
    // A line that other code has closed is made anew.
    assert!(dies_with_its_parent(|board| {
        Lifeline::of_this_process().unwrap();
        close_all_but_standard_streams();
        let _taken = [(); 16].map(|()| std::fs::File::open("/dev/null").unwrap());
        by_another_thread(|| ())(board)
    }));
    let (parent, daemon) = started_by(by_another_thread(close_all_but_standard_streams));
    kill(&parent);
    // The parent is gone with everything that it had: nothing is left that could end the daemon.
    assert!(!daemon.ends_within(Duration::ZERO));
}

#[test]
fn one_that_the_first_thread_starts_dies_with_that() {
    let (parent, daemon) = started_by(|board| {
        let board: &'static Board = unsafe_static(board);
        let daemon = {
            // SAFETY: this process has one thread.
            unsafe { fork_daemon(|| ()) }
        };
        thread::spawn(move || {
            board.pid.store(daemon, Release);
            board.ready.release().unwrap();
            park()
        });
        // SAFETY: ends this thread alone, which holds nothing that the other one uses.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        unreachable!("the thread has ended")
    });
    assert!(daemon.ends_within(PATIENCE));
    assert!(parent.is_alive().unwrap());
    kill(&parent);
}

/// Returns a static reference to the board of a process whose mapping lives as long as the process.
fn unsafe_static(board: &Board) -> &'static Board {
    // SAFETY: the handle is in the first thread's frame, which that thread never leaves.
    unsafe { &*std::ptr::from_ref(board) }
}

#[test]
fn a_program_that_takes_this_ones_place_is_no_daemon() {
    for has_daemons in [false, true] {
        let child = fork(move || -> () {
            if has_daemons {
                Builder::new().daemon(true).fork(|| ()).unwrap().join().unwrap();
            }
            // The number of the lifeline that tied this process is free. These files take it, so
            // that the lifeline of this process itself has another number.
            let _taken = [(); 4].map(|()| std::fs::File::open("/dev/null").unwrap());
            let error = Command::new("sh").args(["-c", "exit 7"]).daemon().unwrap().exec();
            panic!("{error}");
        });
        assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(7));
    }
}

#[test]
fn a_starters_exec_ends_its_daemons() {
    let (parent, daemon) = started_by(|board| {
        // SAFETY: this process has one thread.
        let daemon = unsafe { fork_daemon(|| ()) };
        board.pid.store(daemon, Release);
        board.ready.release().unwrap();
        panic!("{}", Command::new("sleep").arg("1000").exec());
    });
    assert!(daemon.ends_within(PATIENCE));
    assert!(parent.is_alive().unwrap());
    kill(&parent);
}

/// Forks a process that is tied to this one, as it would be before Linux 5.6. Returns its pid, or
/// the errno.
fn tied_as_before_5_6() -> Result<u32, i32> {
    let line = Lifeline::of_this_process().unwrap().as_before_5_6();
    let result = Shm::new(Semaphore::new(0)).unwrap();
    let tied = Shm::new(AtomicU32::new(0)).unwrap();
    // SAFETY: the child makes system calls, and uses the crate.
    match unsafe { sys::fork() }.unwrap() {
        None => {
            let errno = line.tie().map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0);
            tied.store(errno as u32, Relaxed);
            result.release().unwrap();
            if errno == 0 { park() } else { sys::exit_now(0) }
        }
        Some(pid) => {
            result.acquire_timeout(PATIENCE).unwrap();
            match tied.load(Relaxed) {
                0 => Ok(pid.as_raw_nonzero().get() as u32),
                errno => Err(errno as i32),
            }
        }
    }
}

#[test]
fn one_that_was_forked_without_libc_is_tied_to_nobody() {
    join_all([fork(|| {
        let line = Lifeline::of_this_process().unwrap();
        // `fork` by the call that all processors have.
        let [signal, nothing] = [libc::SIGCHLD as usize, 0];
        // SAFETY: the child makes system calls alone.
        let child =
            unsafe { libc::syscall(libc::SYS_clone, signal, nothing, nothing, nothing, nothing) }
                as i32;
        if child == 0 {
            sys::exit_now(
                line.tie().map_or_else(|error| error.raw_os_error().unwrap_or(0), |()| 0),
            );
        }
        let mut status = 0;
        // SAFETY: waits for the child and writes its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), libc::EBADF);
    })]);
}

#[test]
fn before_linux_5_6_a_daemon_hangs_on_the_first_thread_or_is_refused() {
    assert!(dies_with_its_parent(|_| tied_as_before_5_6().unwrap()));
    join_all([fork(|| {
        // The child does not listen for a sibling's end, which such a kernel would report: it
        // closes the descriptor.
        let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let daemon = tied_as_before_5_6().unwrap();
        let theirs = std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count();
        // There are two more descriptors, of memory. There are two less: that of the folder that
        // was read, and that by which this process is tied itself.
        assert_eq!(theirs, before + 2 - 2);
        assert_eq!(thread::spawn(tied_as_before_5_6).join().unwrap(), Err(libc::EOPNOTSUPP));
        wait_until("the thread is gone", || {
            std::fs::read_dir("/proc/self/task").unwrap().count() == 1
        });
    })]);
}

#[test]
fn a_daemon_whose_tie_a_sandbox_refuses_does_not_begin() {
    begins_not(libc::EPERM);
    begins_not(libc::ENOSYS);
}

fn begins_not(errno: i32) {
    let child = fork(move || {
        refused::refuse(&[
            refused::call(libc::SYS_prctl, errno).if_argument(0, libc::PR_SET_PDEATHSIG as u32)
        ]);
        let error = Builder::new().daemon(true).fork(|| ()).unwrap_err();
        assert!(error.to_string().contains("tying it to its parent"), "{error}");
    });
    let status = child.join_timeout(PATIENCE).unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}
