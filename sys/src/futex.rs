//! `futex(2)` on words that several processes share.
//!
//! No call here carries `FUTEX_PRIVATE_FLAG`: a private futex is keyed by address space and would
//! never meet a peer's. No call is relied on as a memory fence: what a woken thread may read
//! follows from the atomics alone.
//!
//! # Refusals
//! No errno is a panic. A sandbox may answer any call with any errno.
//!
//! A peer, too, can make the kernel refuse a wake. Where a thread waits on the word by
//! `FUTEX_WAIT_REQUEUE_PI` or `FUTEX_LOCK_PI`, `FUTEX_WAKE` stops at that thread with EINVAL. So do
//! `FUTEX_CMP_REQUEUE`, `FUTEX_WAKE_OP` and `FUTEX_WAKE_BITSET`. The waiters that were queued
//! before that thread have been woken then, and nothing tells how many. No call can reach those
//! behind it: they find out at the end of their slices.
//!
//! | call | refused | the caller learns |
//! |---|---|---|
//! | [`wait`] | sleeps for 5 ms by other means | [`Awake::Refused`] |
//! | [`wait_any`], [`wait_at`] | has not slept | `None`, [`Slept::Unsupported`]: sleep on one word |
//! | [`wake`] | has woken some, or none | as many as it asked for, so that flags stay |
//! | [`try_wake`] | as above | `None` |
//! | [`wake_address`] | as above | nothing |
//! | [`still_holds`] | | that the word does not hold the value: look |
//!
//! A refusal says nothing about other words, nor about later calls: each call is made anew.
//!
//! References: <https://man7.org/linux/man-pages/man2/futex.2.html>

#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::num::NonZeroU32;
use rustix::io::Errno;
use rustix::thread::{ClockId, futex};

use crate::atomic::{AtomicU32, AtomicU64};
use crate::clock::{self, timespec};
use crate::poll::sleep_until;

const ANY: NonZeroU32 = NonZeroU32::MAX;

/// How many times, at most, a waiter may look at a word before it sleeps. One look with its pause
/// takes about 20 ns.
pub const MAX_SPINS: u32 = 2_048;

/// How many times a waiter may be woken in vain, because others were faster, before they yield to
/// it.
pub const MAX_LOSSES: u32 = 8;

/// A word that threads can sleep on: an `AtomicU32`, or the low 32 bits of an `AtomicU64`.
pub trait Word {
    /// The futex. Only its address is used: it is never read or written through this reference.
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
        // SAFETY: valid and aligned for as long as `self`. The program never makes an access of
        // this size, so none is mixed with the 64-bit ones (the trait's contract). The kernel
        // compares the half, by its address.
        unsafe { AtomicU32::from_ptr(half) }
    }
}

/// Why a sleep ended. No variant says that what the sleeper waits for has happened: look at the
/// word again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awake {
    /// By a [`wake`], by the kernel's wake for a dead thread, or for no reason.
    Woken,
    /// The word did not hold the expected value (EAGAIN): the thread did not sleep.
    Changed,
    /// A signal handler ran (EINTR).
    Interrupted,
    /// The deadline has passed (ETIMEDOUT).
    TimedOut,
    /// The kernel did not let the thread sleep on the word (any other errno). A moment has passed
    /// all the same, in which no wake could reach it, and the deadline has not passed. If other
    /// ways to sleep are refused, too, the thread has only let others run.
    Refused,
}

/// `FUTEX_WAIT_BITSET`: sleeps while the word holds `expected`, until `deadline` ([`clock::now`]'s
/// nanoseconds) if there is one.
///
/// EAGAIN, EINTR and ETIMEDOUT are three of the results. After any other errno the thread sleeps
/// for a moment by other means, and the result is the fourth, [`Awake::Refused`], unless a signal
/// or the deadline ends that. Memory ordering: none.
pub fn wait<W: Word>(word: &W, expected: u32, deadline: Option<u64>) -> Awake {
    let until = deadline.map(timespec);
    match futex::wait_bitset(word.futex(), futex::Flags::empty(), expected, until.as_ref(), ANY) {
        Ok(()) => Awake::Woken,
        Err(Errno::AGAIN) => Awake::Changed,
        Err(Errno::INTR) => Awake::Interrupted,
        Err(Errno::TIMEDOUT) => Awake::TimedOut,
        Err(_) => nap(deadline),
    }
}

/// How long a thread sleeps instead if the kernel does not let it sleep on a word, in nanoseconds.
/// No wake ends that sleep, so it is shorter than a slice. It is long enough to cost less than a
/// thousandth of a CPU.
const NAP: u64 = 5_000_000;

/// [Sleeps](sleep_until) for [`NAP`], or until the deadline if that is earlier.
#[cold]
fn nap(deadline: Option<u64>) -> Awake {
    let end = clock::now().saturating_add(NAP);
    let until = deadline.map_or(end, |deadline| deadline.min(end));
    if sleep_until(until) == Err(Errno::INTR) {
        return Awake::Interrupted;
    }
    match deadline {
        Some(deadline) if clock::now() >= deadline => Awake::TimedOut,
        _ => Awake::Refused,
    }
}

/// [`wait`] for at most `nanos`, and not longer than until `deadline`. Returns `None` if all of
/// `nanos` has passed.
pub fn wait_briefly<W: Word>(
    word: &W,
    expected: u32,
    nanos: u64,
    deadline: Option<u64>,
) -> Option<Awake> {
    let until = clock::now().saturating_add(nanos);
    let end = deadline.map_or(until, |deadline| deadline.min(until));
    loop {
        match wait(word, expected, Some(end)) {
            Awake::TimedOut if clock::now() >= until => return None,
            Awake::Refused => {}
            awake => return Some(awake),
        }
    }
}

/// The largest number of words that [`wait_any`] can watch.
pub const MAX_WATCHED: usize = 128;

/// A word to be watched by [`wait_any`], and the value that it holds while there is reason to
/// sleep.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Watch<'a>(futex::Wait, PhantomData<&'a AtomicU32>);

impl core::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Watch").field(&self.0.val).finish()
    }
}

impl<'a> Watch<'a> {
    /// Watches a word of 32 bits, or the low half of one of 64.
    pub fn new<W: Word>(word: &'a W, expected: u32) -> Self {
        Watch::at(word.futex().as_ptr(), expected)
    }

    /// Watches both halves of a word, the low one first. A [`wake`] of the word is a wake of the
    /// low half.
    #[must_use]
    pub fn whole(word: &'a AtomicU64, expected: u64) -> [Self; 2] {
        let low = word.futex().as_ptr();
        // The other half of the eight bytes.
        let high = (low.addr() ^ size_of::<u32>()) as isize - low.addr() as isize;
        [
            Watch::at(low, expected as u32),
            Watch::at(low.wrapping_byte_offset(high), (expected >> u32::BITS) as u32),
        ]
    }

    /// [`wait_briefly`] on this word alone.
    #[must_use]
    pub fn wait_briefly(&self, nanos: u64, deadline: Option<u64>) -> Option<Awake> {
        // SAFETY: the address of an `AtomicU32`, or of half an `AtomicU64` (as in `Word::futex`),
        // which is borrowed for `'a`.
        let word = unsafe { AtomicU32::from_ptr(self.0.uaddr.ptr.cast()) };
        wait_briefly(word, self.0.val as u32, nanos, deadline)
    }

    fn at(address: *mut u32, expected: u32) -> Self {
        let mut wait = futex::Wait::new();
        wait.uaddr = futex::WaitPtr::new(address.cast());
        wait.val = expected.into();
        wait.flags = futex::WaitFlags::SIZE_U32;
        Watch(wait, PhantomData)
    }
}

/// `futex_waitv`: sleeps while all of the words hold their expected values, until `deadline` if
/// there is one. A wake of any word ends the sleep. Linux 5.16. Returns `None` if the kernel lacks
/// the call or the memory for it, if a filter refuses it, or if one of the words cannot be slept
/// on.
///
/// The kernel queues on each word before it compares the next. Suppose that a change of a later
/// word comes with a wake of an earlier one. The call then either sees the change or is woken. That
/// also holds when the kernel starts the call again, after a stop or a signal.
///
/// EAGAIN, EINTR and ETIMEDOUT are three of the results. All other errnos are `None`, and so are
/// more than [`MAX_WATCHED`] words. Memory ordering: none.
#[must_use]
pub fn wait_any(words: &[Watch<'_>], deadline: Option<u64>) -> Option<Awake> {
    wait_any_of(words, deadline).map(|(awake, _)| awake)
}

/// [`wait_any`] that also tells through which word it was woken: the last one of those that were
/// woken. The index is a hint for [`Awake::Woken`], and 0 for every other result. Another word may
/// have been woken as well, which the kernel does not tell; the waker of that word counts a sleeper
/// woken. [`Watch::whole`] counts as all words of its array.
#[must_use]
pub fn wait_any_of(words: &[Watch<'_>], deadline: Option<u64>) -> Option<(Awake, usize)> {
    let waits = core::ptr::slice_from_raw_parts(words.as_ptr().cast::<futex::Wait>(), words.len());
    // SAFETY: a `Watch` is a `futex::Wait` (`repr(transparent)`), and the slice is that of `words`,
    // which is borrowed for as long.
    let waits = unsafe { &*waits };
    match waitv(waits, deadline) {
        Slept::Ended(awake, woken) => Some((awake, woken)),
        Slept::Unsupported | Slept::Unmapped => None,
    }
}

/// A word by its address alone, and the value that it holds while there is reason to sleep. It
/// promises nothing about the memory. For [`wait_at`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordAddress {
    at: usize,
    expected: u32,
}

impl WordAddress {
    pub(crate) fn address(self) -> usize {
        self.at
    }
}

impl From<Watch<'_>> for WordAddress {
    fn from(Watch(wait, _): Watch<'_>) -> Self {
        // The kernel compares 32 bits of the 64.
        WordAddress { at: wait.uaddr.ptr.addr(), expected: wait.val as u32 }
    }
}

/// How a [`wait_at`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slept {
    /// As [`wait_any_of`].
    Ended(Awake, usize),
    /// Some word is not mapped, or its memory cannot be slept on (EFAULT): the thread did not
    /// sleep.
    Unmapped,
    /// The kernel lacks the call or the memory for it, or a filter refuses it: any other errno. The
    /// thread did not sleep.
    Unsupported,
}

/// [`wait_any_of`] for words that may have been unmapped, or mapped anew, meanwhile. The kernel
/// reads them, and nothing else is done with them. If it compares memory that is something else by
/// now, the result is a wake-up too many or too few.
///
/// # Panics
/// If there are more than [`MAX_WATCHED`] words.
#[must_use]
pub fn wait_at(words: &[WordAddress], deadline: Option<u64>) -> Slept {
    let mut waits = [futex::Wait::new(); MAX_WATCHED];
    let waits = &mut waits[..words.len()];
    for (wait, word) in waits.iter_mut().zip(words) {
        *wait = Watch::at(core::ptr::without_provenance_mut(word.at), word.expected).0;
    }
    waitv(waits, deadline)
}

/// [`wake`] for a word that may have been unmapped, or be something else by now: a thread that is
/// woken in vain looks again. The kernel may refuse it, like a wake of any word.
pub fn wake_address(word: WordAddress, count: u32) {
    // SAFETY: the kernel uses the address only to find the threads that sleep on it.
    unsafe { libc::syscall(libc::SYS_futex, word.at, libc::FUTEX_WAKE, most(count) as usize) };
}

/// Returns whether the word still holds its expected value, as the kernel sees it; false if it is
/// not mapped any more. Uses a `FUTEX_CMP_REQUEUE` of no sleeper to nowhere, which compares and
/// does nothing else.
///
/// EAGAIN and EFAULT mean false, and so do all other errnos: the caller looks for itself. With no
/// sleepers to move, the kernel does not reach the waiters that would make it refuse. Memory
/// ordering: none.
#[must_use]
pub fn still_holds(word: WordAddress) -> bool {
    /// The word to which no sleeper is requeued.
    static NOWHERE: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);
    let none = 0_usize;
    // SAFETY: the kernel reads the word by its address, or finds it unmapped. With both counts 0 it
    // wakes and moves no thread.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.at,
            libc::FUTEX_CMP_REQUEUE,
            none,
            none,
            NOWHERE.as_ptr(),
            word.expected as usize,
        )
    };
    result != -1
}

fn waitv(waits: &[futex::Wait], deadline: Option<u64>) -> Slept {
    let until = deadline.map(timespec);
    match futex::waitv(waits, futex::WaitvFlags::empty(), until.as_ref(), ClockId::Monotonic) {
        Ok(woken) => Slept::Ended(Awake::Woken, woken),
        Err(Errno::AGAIN) => Slept::Ended(Awake::Changed, 0),
        Err(Errno::INTR) => Slept::Ended(Awake::Interrupted, 0),
        Err(Errno::TIMEDOUT) => Slept::Ended(Awake::TimedOut, 0),
        Err(Errno::FAULT) => Slept::Unmapped,
        // Nothing is remembered: one thread's filter, or one word, says nothing about the others.
        // Where the call does not exist, that costs a tenth of a microsecond before a sleep.
        Err(_) => Slept::Unsupported,
    }
}

/// [`wait_any`] on both halves of a word: sleeps while all its 64 bits are `expected`. A [`wake`]
/// of the word ends the sleep. Where [`wait_any`] is not possible, [`wait_on_one`].
pub fn wait_whole(word: &AtomicU64, expected: u64, deadline: Option<u64>) -> Awake {
    wait_any(&Watch::whole(word, expected), deadline)
        .unwrap_or_else(|| wait_on_one(word, expected as u32, deadline))
}

/// The longest sleep on one of several words, in nanoseconds.
const ON_ONE: u64 = 100_000_000;

/// [`wait`] on one of several words, where the kernel cannot watch them all, as [`wait_any`] has
/// said. What happens to the others wakes no sleeper here, so the sleep lasts a tenth of a second
/// at most. `Refused` is its end.
#[cold]
pub fn wait_on_one<W: Word>(word: &W, expected: u32, deadline: Option<u64>) -> Awake {
    wait_briefly(word, expected, ON_ONE, deadline).unwrap_or(Awake::Refused)
}

/// `FUTEX_WAKE`: wakes at most `count` of the threads that sleep on the word, and returns how many
/// it woke. If the kernel refuses, returns as many as were asked for. A caller that takes out a
/// flag because no thread was asleep must not do that when some may be.
///
/// The word may have been freed or reused by a peer meanwhile; only its address is used. Memory
/// ordering: none.
pub fn wake<W: Word>(word: &W, count: u32) -> u32 {
    try_wake(word, count).unwrap_or(most(count))
}

/// [`wake`] that returns `None` if the kernel refuses: some may have been woken and others not. For
/// callers that then have another thread to tell instead.
#[must_use]
pub fn try_wake<W: Word>(word: &W, count: u32) -> Option<u32> {
    let woken = futex::wake(word.futex(), futex::Flags::empty(), most(count)).ok()?;
    Some(u32::try_from(woken).unwrap_or(u32::MAX))
}

/// The kernel takes a signed count.
fn most(count: u32) -> u32 {
    count.min(i32::MAX as u32)
}
