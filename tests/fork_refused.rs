//! What a forked child cannot do before it begins is an error in its parent. Either of the two may
//! die in the middle.

#![allow(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::*};
use std::time::{Duration, Instant};

use crossproc::Shm;
use crossproc::process::{self, Builder, CommandExt, InheritError};

mod forked;
mod refused;
use forked::{PATIENCE, fork, join_all};
use refused::{Refusal, call, kills};

/// Returns how many descriptors this process has, without opening any.
fn descriptors() -> usize {
    // SAFETY: asks for the flags of numbers that may be closed.
    (0..256).filter(|&number| unsafe { libc::fcntl(number, libc::F_GETFD) } != -1).count()
}

/// Forks under these refusals, and checks everything that may be wrong afterwards. Returns the
/// error, if there was one.
fn fork_refused(daemon: bool, refusals: &[Refusal]) -> Option<std::io::Error> {
    let (ran, left_open) =
        (Shm::new(AtomicU32::new(0)).unwrap(), Shm::new(AtomicU32::new(0)).unwrap());
    let builder = Builder::new().daemon(daemon);
    // Opens what a process with a daemon keeps for good.
    builder.fork(|| ()).unwrap().join().unwrap();
    let before = descriptors();
    refused::refuse(refusals);
    let (theirs_open, theirs_ran) = (left_open.clone(), ran.clone());
    let result = builder.fork(move || {
        theirs_open.store(descriptors() as u32, Relaxed);
        theirs_ran.store(1, Relaxed);
    });
    let mut status = 0;
    // SAFETY: waits for any child and writes its status.
    let reaped = unsafe { libc::waitpid(-1, &raw mut status, 0) };
    let error = match result {
        Ok(child) => {
            assert_eq!((reaped, status, ran.load(Relaxed)), (child.id() as i32, 0, 1));
            // This process is a daemon, and the child drops that tie. A daemon child also closes
            // both ends of its parent's lifeline, and has a tie of its own.
            let expected = before - 1 - usize::from(daemon);
            assert_eq!(
                left_open.load(Relaxed) as usize,
                expected,
                "nothing of the fork is left open in the child"
            );
            drop(child);
            None
        }
        Err(error) => {
            assert_eq!((reaped, ran.load(Relaxed)), (-1, 0), "{error}");
            let source = error.get_ref().and_then(|inner| inner.source());
            let said = source.and_then(|source| source.downcast_ref::<io::Error>());
            let is_killed = error.to_string().starts_with("the child ended");
            assert!(
                is_killed || said.is_some_and(|said| said.raw_os_error().is_some()),
                "{error:?}"
            );
            Some(error)
        }
    };
    assert_eq!(descriptors(), before, "nothing is left open");
    error
}

const O_NONBLOCK: u32 = libc::O_NONBLOCK as u32;

#[test]
fn a_fork_is_ok_if_its_body_runs_and_an_error_if_not() {
    let refusals = |errno| {
        [
            call(libc::SYS_read, errno),
            call(libc::SYS_recvfrom, errno),
            call(libc::SYS_sendto, errno),
            call(libc::SYS_ppoll, errno),
            call(libc::SYS_socketpair, errno),
            call(libc::SYS_pidfd_open, errno),
            call(libc::SYS_pidfd_send_signal, errno),
            call(libc::SYS_clone, errno),
            call(libc::SYS_close, errno).if_argument(0, 1),
            #[cfg(target_arch = "x86_64")]
            call(libc::SYS_dup2, errno),
            call(libc::SYS_dup3, errno),
            call(libc::SYS_fcntl, errno).if_argument(1, libc::F_DUPFD_CLOEXEC as u32),
            call(libc::SYS_rt_sigprocmask, errno),
            call(libc::SYS_shutdown, errno),
            call(libc::SYS_waitid, errno),
            call(libc::SYS_openat, errno).if_masked(2, O_NONBLOCK, O_NONBLOCK),
            call(libc::SYS_fcntl, errno).if_argument(1, libc::F_SETOWN as u32),
            call(libc::SYS_fcntl, errno).if_argument(1, libc::F_SETFL as u32),
        ]
    };
    for errno in [libc::EPERM, libc::ENOSYS, libc::EIO, libc::ENOMEM, libc::EMFILE] {
        for (index, refusal) in refusals(errno).into_iter().enumerate() {
            for daemon in [false, true] {
                let child = fork(move || drop(fork_refused(daemon, &[refusal])));
                let status = child.join_timeout(PATIENCE).unwrap();
                assert!(
                    status.success(),
                    "number {index} with errno {errno}, daemon: {daemon}: {status}"
                );
            }
        }
    }
}

#[test]
fn the_error_says_what_failed_in_the_child() {
    join_all([fork(|| {
        let line = call(libc::SYS_openat, libc::EMFILE).if_masked(2, O_NONBLOCK, O_NONBLOCK);
        let said = fork_refused(true, &[line]).unwrap().to_string();
        assert!(said.contains("tying it to its parent") && said.contains("os error 24"), "{said}");
    })]);
    join_all([fork(|| {
        let said =
            fork_refused(true, &[kills(libc::SYS_openat).if_masked(2, O_NONBLOCK, O_NONBLOCK)])
                .unwrap()
                .to_string();
        assert!(said.contains("ended before") && said.contains("signal"), "{said}");
    })]);
}

/// The end of a pipe. A process that is forked in the middle of a fork does not keep it.
static WATCHED: AtomicI32 = AtomicI32::new(-1);
static IS_ARMED: AtomicBool = AtomicBool::new(false);

/// Forks another child by a raw system call, as another thread might at that moment. The child has
/// copies of everything that a fork has opened, for longer than the test waits.
extern "C" fn fork_another() {
    if IS_ARMED.swap(false, SeqCst) {
        // SAFETY: as `fork(2)`, which not every processor has. The child makes system calls alone,
        // and its alarm ends it.
        if unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } == 0 {
            // SAFETY: nothing in this process uses the descriptor.
            unsafe { libc::close(WATCHED.load(SeqCst)) };
            // SAFETY: takes an integer.
            unsafe { libc::alarm(PATIENCE.as_secs() as u32) };
            loop {
                // SAFETY: sleeps.
                unsafe { libc::pause() };
            }
        }
    }
}

/// Runs a fork in a process, and waits until that process and its child have ended. Returns how
/// long that took.
fn both_end(daemon: bool, refusals: &[Refusal]) -> Duration {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    WATCHED.store(writer.as_raw_fd(), SeqCst);
    let refusals = refusals.to_vec();
    let begun = Instant::now();
    let parent = fork(move || {
        let _until_the_end = &writer;
        let builder = Builder::new().daemon(daemon);
        builder.fork(|| ()).unwrap().join().unwrap();
        // SAFETY: the handler makes system calls alone.
        assert_eq!(unsafe { libc::pthread_atfork(Some(fork_another), None, None) }, 0);
        refused::refuse(&refusals);
        IS_ARMED.store(true, SeqCst);
        builder.fork(|| ()).map(drop).map_err(drop)
    });
    // The writer was dropped in this process, with the closure.
    drop(parent.join_timeout(PATIENCE));
    let mut rest = Vec::new();
    std::fs::File::from(reader).read_to_end(&mut rest).unwrap();
    begun.elapsed()
}

#[test]
fn neither_hangs_if_the_other_dies_in_the_middle() {
    join_all([fork(|| {
        let some_time = Duration::from_secs(5);
        // The child dies while it is tied to its parent.
        let took = both_end(true, &[kills(libc::SYS_openat).if_masked(2, O_NONBLOCK, O_NONBLOCK)]);
        assert!(took < some_time, "the parent took {took:?}");
        // The parent dies before it has let the child begin.
        let took = both_end(false, &[kills(libc::SYS_pidfd_open)]);
        assert!(took < some_time, "the child took {took:?}");
        // Neither dies, but the parent has no pidfd, and makes the child end.
        let took = both_end(false, &[call(libc::SYS_pidfd_open, libc::EMFILE)]);
        assert!(took < some_time, "both took {took:?}");
    })]);
}

static ENDS_CHILDREN: AtomicBool = AtomicBool::new(false);

/// What another crate's handler may do to a child.
extern "C" fn end_child() {
    if ENDS_CHILDREN.load(SeqCst) {
        // SAFETY: ends the child.
        unsafe { libc::_exit(3) };
    }
}

#[test]
fn a_child_that_ends_before_it_begins_is_an_error_with_what_is_known_of_its_end() {
    for (is_kept, words) in
        [(true, "with exit code 3"), (false, "and its status went to somebody else")]
    {
        join_all([fork(move || {
            // SAFETY: the handler ends the child, and does nothing else.
            assert_eq!(unsafe { libc::pthread_atfork(None, None, Some(end_child)) }, 0);
            if !is_kept {
                // SAFETY: sets no handler.
                unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            }
            let before = descriptors();
            ENDS_CHILDREN.store(true, SeqCst);
            let error = process::fork(|| ()).unwrap_err().to_string();
            assert!(
                error.contains("ended before its closure was run") && error.contains(words),
                "{error}"
            );
            assert_eq!(descriptors(), before);
            ENDS_CHILDREN.store(false, SeqCst);
            // SAFETY: as above.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
            assert!(process::fork(|| ()).unwrap().join().unwrap().success());
        })]);
    }
}

#[test]
fn a_program_whose_descriptor_cannot_be_received_goes_on_and_the_error_says_which_it_is() {
    join_all([fork(|| {
        refused::refuse(&[call(libc::SYS_recvmsg, libc::EPERM)]);
        let error = Command::new("true").start().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        let mut status = 0;
        // SAFETY: waits for any child and writes its status.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        assert_eq!(status, 0);
        let words = format!("of process {pid}, which was started and goes on,");
        assert!(error.to_string().contains(&words), "{error}");
    })]);
}

#[test]
fn without_a_list_of_threads_there_is_no_fork_and_the_error_says_why() {
    join_all([fork(|| {
        process::fork(|| ()).unwrap().join().unwrap();
        let before = descriptors();
        let calls = [
            libc::SYS_statx,
            libc::SYS_newfstatat,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_stat,
        ];
        refused::refuse(&calls.map(|number| call(number, libc::EACCES)));
        let error = process::fork(|| ()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("without /proc/self/task"), "{error}");
        assert_eq!(descriptors(), before);
        no_child_is_left();
    })]);
}

#[test]
fn a_fork_that_cannot_pause_before_it_looks_for_other_threads_again_is_the_same_error() {
    join_all([fork(|| {
        let other = std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
        refused::refuse(&[call(libc::SYS_clock_nanosleep, libc::EPERM)]);
        let error = process::fork(|| ()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{error}");
        assert!(!other.is_finished());
        no_child_is_left();
    })]);
}

#[test]
fn a_program_that_cannot_be_known_by_a_pidfd_is_not_started_and_the_error_says_so() {
    let errno = libc::EMFILE;
    for refusal in [
        call(libc::SYS_pidfd_open, errno),
        call(libc::SYS_sendmsg, errno),
        call(libc::SYS_socketpair, errno),
    ] {
        join_all([fork(move || {
            refused::refuse(&[refusal, kills(libc::SYS_kill)]);
            let mark =
                std::env::temp_dir().join(format!("crossproc-not-started-{}", std::process::id()));
            let error = Command::new("touch").arg(&mark).start().unwrap_err();
            assert_eq!(error.kind(), std::io::Error::from_raw_os_error(errno).kind(), "{error}");
            assert!(error.to_string().contains("os error 24"), "{error}");
            assert!(!mark.exists(), "it was not started");
            no_child_is_left();
        })]);
    }
}

/// Checks that this process has no child, not even a zombie.
fn no_child_is_left() {
    let mut status = 0;
    // SAFETY: asks for any child and writes its status.
    assert_eq!(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }, -1);
}

#[test]
fn no_signal_is_sent_to_a_pid() {
    // Each of these calls may fail after the fork, so that the parent has to get rid of the child.
    // A signal to a pid ends the parent.
    for refusal in [
        call(libc::SYS_pidfd_open, libc::EMFILE),
        call(libc::SYS_sendto, libc::ENOMEM),
        call(libc::SYS_recvfrom, libc::ENOMEM),
    ] {
        for also in [None, Some(call(libc::SYS_pidfd_send_signal, libc::EPERM))] {
            join_all([fork(move || {
                refused::refuse(&[kills(libc::SYS_kill)]);
                refused::refuse(also.as_slice());
                refused::refuse(&[refusal]);
                process::fork(|| ()).unwrap_err();
                no_child_is_left();
            })]);
        }
    }
}

#[test]
fn a_process_that_may_not_ask_about_its_signals_waits_for_whom_it_turns_away() {
    join_all([fork(|| {
        refused::refuse(&[
            call(libc::SYS_pidfd_open, libc::EMFILE),
            call(libc::SYS_rt_sigaction, libc::EPERM),
        ]);
        let error = process::fork(|| ()).unwrap_err().to_string();
        assert!(
            error.contains("the descriptor of a forked child") && error.contains("os error 24"),
            "{error}"
        );
        no_child_is_left();
    })]);
}

#[test]
fn a_process_that_may_not_ask_about_its_signals_says_all_the_same_what_it_has_to() {
    let (said, stderr) = std::os::unix::net::UnixStream::pair().unwrap();
    let end = stderr.try_clone().unwrap();
    join_all([fork(move || {
        rustix::stdio::dup2_stderr(&stderr).unwrap();
        refused::refuse(&[call(libc::SYS_rt_sigpending, libc::EPERM)]);
        let _ = crossproc_sys::streams::complain(&["one ", "two"]);
    })]);
    // Children that other tests have forked meanwhile also have a copy of this end.
    end.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(std::io::read_to_string(said).unwrap(), "one two");
}

#[test]
fn a_handle_that_there_is_no_descriptor_for_is_not_said_to_be_another_processs() {
    join_all([fork(|| {
        let handle = Shm::new(AtomicU32::new(7)).unwrap();
        let mut command = Command::new("true");
        command.share("handle", &handle).unwrap();
        for (name, value) in command.get_envs() {
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var(name, value.unwrap()) };
        }
        drop(process::inherited::<Shm<AtomicU32>>("handle").unwrap());
        refused::refuse(&[
            call(libc::SYS_fcntl, libc::EMFILE).if_argument(1, libc::F_DUPFD_CLOEXEC as u32)
        ]);
        let error = process::inherited::<Shm<AtomicU32>>("handle").unwrap_err();
        assert!(
            matches!(
                &error,
                InheritError::Os { source, .. }
                    if source.raw_os_error() == Some(libc::EMFILE)
            ),
            "{error}"
        );
    })]);
}
