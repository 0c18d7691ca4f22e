//! A kernel that always answers "try again", as in some sandboxes. Timed forms end at their
//! deadlines, and nothing spins.

#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use crossproc::directory::{Address, Directory, DirectoryError};
use crossproc::{ConnectionError, WaitAnyError, pipe, wait_any};

mod forked;
mod refused;
use forked::{PATIENCE, fork, slowness};

/// Returns the time that this process has spent on a CPU.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Checks that the operation times out at its deadline, and takes little CPU time.
fn times_out(operate: impl FnOnce(Duration) -> Result<(), ConnectionError>) {
    let timeout = Duration::from_millis(200);
    let (begun, spent) = (Instant::now(), cpu_time());
    let result = operate(timeout);
    let (took, spent) = (begun.elapsed(), cpu_time() - spent);
    assert!(matches!(result, Err(ConnectionError::TimedOut)), "{result:?}");
    assert!(took >= timeout && took < 10 * timeout, "it took {took:?}");
    // Under emulation each of the few attempts takes so much longer.
    let tenths = if slowness() > 1 { 9 } else { 5 };
    assert!(spent < timeout * tenths / 10, "it spent {spent:?} on a CPU");
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

#[test]
fn what_is_always_to_be_tried_again_ends_at_the_deadline_and_does_not_spin() {
    for errno in [libc::EAGAIN, libc::EINTR] {
        let child = fork(|| {
            let (one, other) = pipe().unwrap();
            // There is a message to receive, and room to send.
            other.send(b"message").unwrap();
            let calls = [libc::SYS_recvmsg, libc::SYS_sendto, libc::SYS_sendmsg];
            refused::refuse(&calls.map(|call| refused::call(call, errno)));
            times_out(|timeout| one.recv_timeout(timeout).map(drop));
            times_out(|timeout| one.recv_into_timeout(&mut [0; 8], timeout).map(drop));
            times_out(|timeout| one.send_timeout(b"message", timeout));
            times_out(|timeout| one.send_handle_timeout(&null(), timeout));
            if errno == libc::EINTR {
                // An operation without a deadline does not wait for ever either.
                assert!(matches!(one.recv(), Err(ConnectionError::Interrupted)));
                assert!(matches!(one.send(b"message"), Err(ConnectionError::Interrupted)));
            }
            // An operation that does not wait ends at once.
            assert!(matches!(
                one.try_recv(),
                Err(ConnectionError::WouldBlock | ConnectionError::Interrupted)
            ));
            assert!(matches!(
                one.try_send(b"message"),
                Err(ConnectionError::WouldBlock | ConnectionError::Interrupted)
            ));
        });
        let status = child.join_timeout(PATIENCE).unwrap();
        assert!(status.success(), "errno {errno}: {status}");
    }
}

#[test]
fn a_long_message_that_cannot_be_mapped_is_an_error_and_the_next_one_comes() {
    let child = fork(|| {
        let (one, other) = pipe().unwrap();
        one.send(&vec![7; 2 << 20]).unwrap();
        one.send(b"next").unwrap();
        refused::refuse(&[
            refused::call(libc::SYS_mmap, libc::ENOMEM).if_argument(3, libc::MAP_PRIVATE as u32)
        ]);
        match other.recv() {
            Err(ConnectionError::Os { what, source }) => {
                assert_eq!(
                    (what, source.raw_os_error()),
                    ("mapping a long message", Some(libc::ENOMEM))
                );
            }
            result => panic!("{result:?}"),
        }
        assert_eq!(other.recv().unwrap(), b"next");
    });
    let status = child.join_timeout(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_wait_that_cannot_sleep_is_an_error_that_says_so() {
    for errno in [libc::EPERM, libc::ENOMEM] {
        let child = fork(|| {
            let (one, other) = pipe().unwrap();
            refused::refuse(&[refused::call(libc::SYS_ppoll, errno)]);
            let says = |result: Result<(), ConnectionError>| match result {
                Err(ConnectionError::Os { source, .. }) => {
                    assert_eq!(source.raw_os_error(), Some(errno));
                }
                result => panic!("{result:?}"),
            };
            says(one.recv_timeout(PATIENCE).map(drop));
            says(one.poll().map(drop));
            // What is there already needs no sleep.
            other.send(b"message").unwrap();
            assert_eq!(one.recv_timeout(PATIENCE).unwrap(), b"message");
        });
        let status = child.join_timeout(PATIENCE).unwrap();
        assert!(status.success(), "errno {errno}: {status}");
    }
}

/// As in a sandbox that interrupts every `ppoll`, even one that does not sleep.
#[test]
fn where_every_sleep_is_interrupted_a_message_is_received_when_it_comes() {
    let (one, other) = pipe().unwrap();
    let echoes = fork(move || {
        for _ in 0..3 {
            let message = other.recv().unwrap();
            // This is too late for the first attempt: the test is about the wait.
            thread::sleep(Duration::from_millis(30));
            other.send(&message).unwrap();
        }
    });
    let waits = fork(move || {
        refused::refuse(&[refused::call(libc::SYS_ppoll, libc::EINTR)]);
        let begun = Instant::now();
        for _ in 0..3 {
            one.send_timeout(b"message", PATIENCE).unwrap();
            assert_eq!(one.recv_timeout(PATIENCE).unwrap(), b"message");
        }
        assert!(begun.elapsed() < PATIENCE / 4, "it took {:?}", begun.elapsed());
        let (one, _other) = pipe().unwrap();
        times_out(|timeout| one.recv_timeout(timeout).map(drop));
        // A poll returns only whether there is a message, and that cannot be known here.
        assert!(matches!(one.poll(), Err(ConnectionError::Interrupted)));
        assert!(matches!(one.poll_timeout(PATIENCE), Err(ConnectionError::Interrupted)));
        assert!(matches!(wait_any(&[&one]), Err(WaitAnyError::Os(_))));
    });
    for child in [waits, echoes] {
        assert!(child.join_timeout(PATIENCE).unwrap().success());
    }
}

#[test]
fn a_directory_whose_every_wait_is_interrupted_stops_serving_and_says_why() {
    let child = fork(|| {
        let name = format!("crossproc-interrupted-{}", std::process::id());
        let directory = Directory::bind(Address::abstract_name(name)).unwrap();
        let calls = [libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2];
        refused::refuse(&calls.map(|call| refused::call(call, libc::EINTR)));
        assert!(matches!(directory.serve(), Err(DirectoryError::Os { .. })));
    });
    assert!(child.join_timeout(PATIENCE).unwrap().success());
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
