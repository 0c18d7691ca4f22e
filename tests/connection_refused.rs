//! A kernel that always says "try again", as a sandbox can have it: timed forms end at their
//! deadlines, and nobody spins.

#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crossproc::{ConnectionError, pipe};

mod forked;
mod refused;
use forked::{PATIENCE, fork};

/// The time that this process has spent on a CPU.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Ends in time, at little cost, by the deadline.
fn times_out(operate: impl FnOnce(Duration) -> Result<(), ConnectionError>) {
    let timeout = Duration::from_millis(200);
    let (begun, spent) = (Instant::now(), cpu_time());
    let result = operate(timeout);
    let (took, spent) = (begun.elapsed(), cpu_time() - spent);
    assert!(matches!(result, Err(ConnectionError::TimedOut)), "{result:?}");
    assert!(took >= timeout && took < 10 * timeout, "it took {took:?}");
    assert!(spent < timeout / 2, "it spent {spent:?} on a CPU");
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

#[test]
fn what_is_always_to_be_tried_again_ends_at_the_deadline_and_does_not_spin() {
    for errno in [libc::EAGAIN, libc::EINTR] {
        let child = fork(|| {
            let (one, other) = pipe().unwrap();
            // There is a message, and room.
            other.send(b"message").unwrap();
            let calls = [libc::SYS_recvmsg, libc::SYS_sendto, libc::SYS_sendmsg];
            refused::refuse(&calls.map(|call| refused::call(call, errno)));
            times_out(|timeout| one.recv_timeout(timeout).map(drop));
            times_out(|timeout| one.recv_into_timeout(&mut [0; 8], timeout).map(drop));
            times_out(|timeout| one.send_timeout(b"message", timeout));
            times_out(|timeout| one.send_handle_timeout(&null(), timeout));
            // What does not wait ends at once.
            assert!(matches!(one.try_recv(), Err(ConnectionError::WouldBlock | ConnectionError::Interrupted)));
            assert!(matches!(one.try_send(b"message"), Err(ConnectionError::WouldBlock | ConnectionError::Interrupted)));
        });
        let status = child.join_timeout(PATIENCE).unwrap();
        assert!(status.success(), "errno {errno}: {status}");
    }
}

#[test]
fn a_reset_that_is_said_again_and_again_is_an_error() {
    let child = fork(|| {
        let (one, _other) = pipe().unwrap();
        refused::refuse(&[refused::call(libc::SYS_recvmsg, libc::ECONNRESET)]);
        assert!(matches!(one.recv_timeout(PATIENCE), Err(ConnectionError::Os { .. })));
    });
    let status = child.join_timeout(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
}
