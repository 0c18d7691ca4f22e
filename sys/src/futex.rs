//! `futex(2)` on words that several processes share.
//!
//! No call here carries `FUTEX_PRIVATE_FLAG`: a private futex is keyed by address space and would never meet a peer's.
//! None is relied on as a memory fence: what a woken thread may read follows from the atomics alone.
//!
//! References: <https://man7.org/linux/man-pages/man2/futex.2.html>

#![allow(unsafe_code)]

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use rustix::io::Errno;
use rustix::thread::{ClockId, futex};

use crate::atomic::{AtomicU32, AtomicU64};
use crate::clock::timespec;

const ANY: NonZeroU32 = NonZeroU32::MAX;

/// How often a waiter may look at a word before it sleeps, at most. One look with its pause takes about 20 ns.
pub const MAX_SPINS: u32 = 128;

/// A word that threads can sleep on: an `AtomicU32`, or the low 32 bits of an `AtomicU64`.
pub trait Word {
    /// The futex: for its address only, it is never read or written through this reference.
    #[doc(hidden)]
    fn futex(&self) -> &AtomicU32;
}

impl Word for AtomicU32 {
    #[inline]
    fn futex(&self) -> &AtomicU32 {
        self
    }
}

impl Word for AtomicU64 {
    #[inline]
    fn futex(&self) -> &AtomicU32 {
        let low = usize::from(cfg!(target_endian = "big"));
        // SAFETY: `low` is 0 or 1, so the pointer stays inside the eight bytes of `self`.
        let half = unsafe { self.as_ptr().cast::<u32>().add(low) };
        // SAFETY: valid and aligned for as long as `self`. No access of this size is ever made by the program, so none
        // is mixed with the 64-bit ones (the trait's contract): the kernel compares the half, by its address.
        unsafe { AtomicU32::from_ptr(half) }
    }
}

/// Why a sleep ended. None of them says that what the sleeper waits for has happened: look at the word again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awake {
    /// Woken, or the word did not hold the expected value (EAGAIN), or for no reason.
    Look,
    /// A signal handler ran (EINTR).
    Interrupted,
    /// The deadline has passed (ETIMEDOUT).
    TimedOut,
}

/// `FUTEX_WAIT_BITSET`: sleeps while the word holds `expected`, until `deadline` ([`clock::now`](crate::clock::now)'s nanoseconds) if there is one.
///
/// EAGAIN, EINTR and ETIMEDOUT are the three results. Memory ordering: none.
///
/// # Panics
/// On any other errno: EFAULT and EINVAL mean that the word is not mapped or not aligned, ENOSYS that there is no futex.
pub fn wait<W: Word>(word: &W, expected: u32, deadline: Option<u64>) -> Awake {
    let until = deadline.map(timespec);
    match futex::wait_bitset(word.futex(), futex::Flags::empty(), expected, until.as_ref(), ANY) {
        Ok(()) | Err(Errno::AGAIN) => Awake::Look,
        Err(Errno::INTR) => Awake::Interrupted,
        Err(Errno::TIMEDOUT) => Awake::TimedOut,
        Err(errno) => panic!("futex wait: {errno}"),
    }
}

/// `futex_waitv` on both halves of a word: sleeps while all its 64 bits are `expected`, until `deadline` if there is one. A [`wake`] of the word, which is one of the low half, ends it.
///
/// The low half is queued on before the high half is compared, so a change of the high half that comes with a wake is either seen or woken by, also when the kernel
/// starts the call again, after a stop or a signal. Linux 5.16; before that, or where a filter refuses the call, only the low half is compared.
///
/// EAGAIN, EINTR and ETIMEDOUT are the three results; ENOSYS and EPERM are handled here. Memory ordering: none.
///
/// # Panics
/// As [`wait`].
pub fn wait_whole(word: &AtomicU64, expected: u64, deadline: Option<u64>) -> Awake {
    static HAS_WAITV: AtomicBool = AtomicBool::new(true);
    let low = word.futex();
    if !HAS_WAITV.load(Relaxed) {
        return wait(word, expected as u32, deadline);
    }
    let half = |address: *mut u32, value: u64| {
        let mut half = futex::Wait::new();
        half.uaddr = futex::WaitPtr::new(address.cast());
        half.val = value;
        half.flags = futex::WaitFlags::SIZE_U32;
        half
    };
    // The other half of the eight bytes.
    let high = (low.as_ptr().addr() ^ size_of::<u32>()) as isize - low.as_ptr().addr() as isize;
    let halves = [half(low.as_ptr(), expected & u64::from(u32::MAX)), half(low.as_ptr().wrapping_byte_offset(high), expected >> u32::BITS)];
    let until = deadline.map(timespec);
    match futex::waitv(&halves, futex::WaitvFlags::empty(), until.as_ref(), ClockId::Monotonic) {
        Ok(_) | Err(Errno::AGAIN) => Awake::Look,
        Err(Errno::INTR) => Awake::Interrupted,
        Err(Errno::TIMEDOUT) => Awake::TimedOut,
        Err(Errno::NOSYS | Errno::PERM) => {
            HAS_WAITV.store(false, Relaxed);
            wait(word, expected as u32, deadline)
        }
        Err(errno) => panic!("futex waitv: {errno}"),
    }
}

/// `FUTEX_WAKE`: wakes at most `count` of those asleep on the word and says how many they were.
///
/// The word may have been freed or reused by a peer meanwhile; only its address is used. Memory ordering: none.
///
/// # Panics
/// On any errno: EFAULT and EINVAL mean that the word is not mapped or not aligned.
pub fn wake<W: Word>(word: &W, count: u32) -> u32 {
    // The kernel takes a signed count.
    match futex::wake(word.futex(), futex::Flags::empty(), count.min(i32::MAX as u32)) {
        Ok(woken) => u32::try_from(woken).unwrap_or(u32::MAX),
        Err(errno) => panic!("futex wake: {errno}"),
    }
}
