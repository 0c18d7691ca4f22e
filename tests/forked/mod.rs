//! Child processes for the tests, and waits for what they do.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(unsafe_code)]

use std::fs;
use std::sync::Once;
use std::time::{Duration, Instant};

use crossproc::process::{Builder, Child, Exit};
use crossproc::set_recheck_interval;

/// How long anything may take before a test fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Returns `PATIENCE`, or as many seconds as `CROSSPROC_PATIENCE` says, where everything is slow.
pub(crate) fn patience() -> Duration {
    number_of("CROSSPROC_PATIENCE").map_or(PATIENCE, |seconds| Duration::from_secs(seconds.into()))
}

/// Returns the factor by which this machine is slower than the tests' time bounds assume: 1, or
/// what `CROSSPROC_SLOWNESS` says.
pub(crate) fn slowness() -> u32 {
    number_of("CROSSPROC_SLOWNESS").unwrap_or(1)
}

/// Returns how long the calling thread has waited for a processor, which others had; zero if the
/// kernel does not say.
pub(crate) fn waited_for_processor() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').nth(1).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn number_of(name: &str) -> Option<u32> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

/// Tests of a program that forks run one after the other, unless `RUST_TEST_THREADS` says something
/// else. A child that was forked while another thread began or ended has a lock of std's taken, and
/// no thread that std starts there begins: see `crossproc_sys::thread`.
#[used]
#[unsafe(link_section = ".init_array")]
static ONE_AT_A_TIME: extern "C" fn() = {
    extern "C" fn set() {
        // SAFETY: both are strings of C, and before `main` there is no other thread.
        unsafe { libc::setenv(c"RUST_TEST_THREADS".as_ptr(), c"1".as_ptr(), 0) };
    }
    set
};

/// Forks a child that dies with the test. Slices are off in the child and in the test, so that they
/// hide nothing.
pub(crate) fn fork<R: Exit>(body: impl FnOnce() -> R + Send) -> Child {
    set_recheck_interval(None);
    let_children_say_why_they_panic();
    // SAFETY: the children use the crate, atomics and system calls.
    unsafe { Builder::new().daemon(true).fork_with_threads(body) }.expect("a child can be forked")
}

/// What a child prints would otherwise be lost with its copy of what the test has printed, or wait
/// for a lock that another thread of the test had.
fn let_children_say_why_they_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (test, in_the_test) = (std::process::id(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            if std::process::id() == test {
                return in_the_test(panic);
            }
            let message = format!("child {} of {test}: {panic}\n", std::process::id());
            // SAFETY: writes bytes that are there.
            unsafe { libc::write(2, message.as_ptr().cast(), message.len()) };
        }));
    });
}

/// Joins children, and fails unless each has exited with 0.
pub(crate) fn join_all(children: impl IntoIterator<Item = Child>) {
    for child in children {
        let status = child.join_timeout(patience()).expect("the child ends in time");
        assert!(status.success(), "a child ended with {status}");
    }
}

/// Kills a child and waits until it is gone.
pub(crate) fn kill(child: &Child) {
    child.kill().expect("the child is ours");
    child.join_timeout(patience()).expect("a killed child ends");
}

/// Waits until `state` holds.
pub(crate) fn wait_until(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !state() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// Returns whether the process's first thread is asleep in a futex call, or polls.
pub(crate) fn is_asleep(child: &Child) -> bool {
    let calls =
        [libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_ppoll].map(|call| format!("{call} "));
    let now = fs::read_to_string(format!("/proc/{}/syscall", child.id()));
    now.is_ok_and(|now| calls.iter().any(|call| now.starts_with(call)))
}

/// Waits until the process's first thread is asleep in a futex call, or polls.
pub(crate) fn wait_until_asleep(child: &Child) {
    wait_until("a child sleeps", || is_asleep(child));
}

pub(crate) fn close_all_but_standard_streams() {
    for number in 3..1_024 {
        // SAFETY: nothing in this process uses these descriptors from now on.
        unsafe { libc::close(number) };
    }
}

/// Makes the next child the first process of a PID namespace.
pub(crate) fn enter_pid_namespace() {
    // SAFETY: only this process's later children are affected.
    let separated = unsafe { libc::unshare(libc::CLONE_NEWPID) } == 0
        // SAFETY: as above. Without privileges, this needs a user namespace, too.
        || unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) } == 0;
    assert!(separated, "this test needs the right to make a pid namespace");
}
