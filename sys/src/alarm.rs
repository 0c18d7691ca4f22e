//! Ends the process unless something is done in time: `setitimer(2)`.
//!
//! Reference: <https://man7.org/linux/man-pages/man2/setitimer.2.html>

#![allow(unsafe_code)]

use core::mem::{MaybeUninit, zeroed};
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use crate::clock;
use crate::process::exit_now;

/// When the process ends, in [`clock::now`]'s nanoseconds, and with which code. Only the thread
/// that writes them gets the signal, so each access is in program order.
static DUE: AtomicU64 = AtomicU64::new(u64::MAX);
static CODE: AtomicI32 = AtomicI32::new(0);

/// Ends the process if it is due. A signal from another sender, before that, does nothing.
extern "C" fn end(_: libc::c_int) {
    if clock::now() >= DUE.load(Relaxed) {
        exit_now(CODE.load(Relaxed));
    }
}

/// Calls `act`, which may wait for ever. If it takes longer than `within`, the process exits with
/// this code. For the only thread of a process that is about to exit: SIGALRM, and the timer that
/// sends it, are not restored afterwards. If a sandbox refuses them, `act` is waited for.
pub fn exit_unless_done<R>(within: Duration, code: i32, act: impl FnOnce() -> R) -> R {
    CODE.store(code, Relaxed);
    DUE.store(clock::now().saturating_add(within.as_nanos() as u64), Relaxed);
    if is_handled() {
        // A little later, in case this clock counts in ticks.
        set_timer(within + Duration::from_millis(10));
    }
    let result = act();
    DUE.store(u64::MAX, Relaxed);
    set_timer(Duration::ZERO);
    result
}

/// Has the signal delivered, and handled here. Returns whether that succeeded. A signal that cannot
/// be handled is left alone: it would end the process.
fn is_handled() -> bool {
    // SAFETY: all fields are numbers, or pointers that may be null.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = end as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler makes system calls alone, reads atomics, and leaves errno as it was.
    if unsafe { libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) } != 0 {
        return false;
    }
    let mut alarm = MaybeUninit::uninit();
    // SAFETY: writes a whole set.
    unsafe { libc::sigemptyset(alarm.as_mut_ptr()) };
    // SAFETY: the set was written by the line above; SIGALRM is a signal.
    unsafe { libc::sigaddset(alarm.as_mut_ptr(), libc::SIGALRM) };
    // SAFETY: a whole set; SIG_UNBLOCK is a valid request, and no old set is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, alarm.as_ptr(), ptr::null_mut()) == 0 }
}

/// Sends the signal after this time. Zero sends nothing.
fn set_timer(after: Duration) {
    let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let once = libc::timeval {
        tv_sec: after.as_secs() as libc::time_t,
        tv_usec: libc::suseconds_t::from(after.subsec_micros() as i32),
    };
    let timer = libc::itimerval { it_interval: never, it_value: once };
    // SAFETY: reads the timer; the one before it is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
}
