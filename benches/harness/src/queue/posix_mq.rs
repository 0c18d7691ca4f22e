//! A POSIX message queue, without its name.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use std::ffi::CString;
use std::fs;
use std::io;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::message::{value_of, with_message, with_value};
use super::{MessageQueue, Offers, TIMEOUT};

/// The queue, open twice, because whether a call waits belongs to the descriptor.
#[derive(Debug)]
pub struct PosixMq<const WORDS: usize> {
    waiting: libc::mqd_t,
    trying: libc::mqd_t,
}

impl<const WORDS: usize> MessageQueue for PosixMq<WORDS> {
    const OFFERS: Offers = Offers {
        processes: true,
        threads: false,
        many: true,
        blocking_get: true,
        batches: false,
        alone: usize::MAX,
        remark: "as many messages as the limits in /proc/sys/fs/mqueue let it: 10, if nobody has \
            changed them",
    };

    fn new(capacity: usize) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("/crossproc-rivals-{}-{}", process::id(), COUNT.fetch_add(1, Relaxed));
        let name = CString::new(name).expect("a name without zeroes");
        // SAFETY: the struct has only integers, for which zeroes are valid.
        let mut attributes: libc::mq_attr = unsafe { MaybeUninit::zeroed().assume_init() };
        let most = fs::read_to_string("/proc/sys/fs/mqueue/msg_max")
            .ok()
            .and_then(|most| most.trim().parse().ok());
        attributes.mq_maxmsg = most.unwrap_or(10).min(capacity as libc::c_long);
        attributes.mq_msgsize = (WORDS * 8) as libc::c_long;
        let flags = libc::O_RDWR | libc::O_CLOEXEC;
        // SAFETY: the name ends with a zero. Mode and attributes are those that O_CREAT asks for,
        // and the attributes live until the call is over.
        let waiting = unsafe {
            libc::mq_open(
                name.as_ptr(),
                flags | libc::O_CREAT | libc::O_EXCL,
                0o600,
                &raw mut attributes,
            )
        };
        if waiting == -1 {
            let error = io::Error::last_os_error();
            return Err(format!(
                "no queue of {} messages of {} bytes: {error}",
                attributes.mq_maxmsg,
                WORDS * 8
            ));
        }
        // SAFETY: the name ends with a zero, and nothing is to be created.
        let trying = unsafe { libc::mq_open(name.as_ptr(), flags | libc::O_NONBLOCK) };
        let error = io::Error::last_os_error();
        // SAFETY: the name ends with a zero.
        unsafe { libc::mq_unlink(name.as_ptr()) };
        if trying == -1 { Err(error.to_string()) } else { Ok(PosixMq { waiting, trying }) }
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        Self::send(self.trying, value)
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        Self::receive(self.trying, None)
    }

    #[inline]
    fn put(&self, value: u64) -> bool {
        Self::send(self.waiting, value)
    }

    #[inline]
    fn get_timeout(&self) -> Option<u64> {
        Self::receive(self.waiting, Some(deadline()))
    }
}

impl<const WORDS: usize> PosixMq<WORDS> {
    #[inline]
    fn send(queue: libc::mqd_t, value: u64) -> bool {
        // SAFETY: it reads as many bytes as the message has.
        let sent = with_value::<WORDS, _>(value, |message| unsafe {
            libc::mq_send(queue, message.as_ptr().cast(), message.len(), 0)
        });
        if sent == 0 {
            return true;
        }
        again("sent to");
        false
    }

    #[inline]
    fn receive(queue: libc::mqd_t, deadline: Option<libc::timespec>) -> Option<u64> {
        with_message::<WORDS, _>(|message| {
            let deadline = deadline.as_ref().map_or(ptr::null(), ptr::from_ref);
            // SAFETY: it writes at most as many bytes as the message has. The priority is not asked
            // for, and the deadline is null or the caller's own.
            let received = unsafe {
                libc::mq_timedreceive(
                    queue,
                    message.as_mut_ptr().cast(),
                    message.len(),
                    ptr::null_mut(),
                    deadline,
                )
            };
            if received == -1 {
                again("received from");
                return None;
            }
            Some(value_of(message))
        })
    }
}

impl<const WORDS: usize> Drop for PosixMq<WORDS> {
    fn drop(&mut self) {
        for queue in [self.waiting, self.trying] {
            // SAFETY: the descriptor was opened by `new`, and is closed only here.
            unsafe { libc::mq_close(queue) };
        }
    }
}

/// Returns a deadline on the wall clock, as these queues require.
fn deadline() -> libc::timespec {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: it writes the time to where its argument points.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, now.as_mut_ptr()) };
    assert_eq!(failed, 0);
    // SAFETY: the call has succeeded, so the time is written.
    let mut deadline = unsafe { now.assume_init() };
    deadline.tv_sec += TIMEOUT.as_secs() as libc::time_t;
    deadline
}

/// Panics unless the last call can be tried again.
#[cold]
fn again(what: &str) {
    let error = io::Error::last_os_error();
    let code = error.raw_os_error();
    let is_expected =
        [libc::EAGAIN, libc::ETIMEDOUT, libc::EINTR].iter().any(|&expected| code == Some(expected));
    assert!(is_expected, "a message queue cannot be {what}: {error}");
}
