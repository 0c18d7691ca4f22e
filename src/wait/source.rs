//! What a primitive does for threads that wait for several things at once: [`Source`].
//!
//! # The difficulty
//! A thread that sleeps on the words of many primitives may get the one wake-up that was meant for
//! one sleeper, and die before it has passed it on. A thread that sleeps on one word has that word
//! pending, so that the kernel passes the wake-up on (`crossproc_sys::robust`). But it can have one
//! word pending, not many.
//!
//! # How
//! Such a sleeper is a *watcher*. It leaves a note that it is there, beside the flag that some
//! thread may sleep. *Where there may be a watcher, a thread that would wake some sleepers wakes
//! all* and takes the note out. All are awake then, or see that the note is gone. So a watcher that
//! dies takes no other's wake-up with it.
//!
//! What is left is the kernel's wake-up for a thread that died before it woke any other, which is
//! for one sleeper. So a watcher that was woken, by whatever, [does](Source::awake) what the dead
//! thread may have been about to do. It wakes all if there is something for them, and leaves the
//! flags for those that may still be asleep. It takes nothing, so it owes no more than that. If it
//! dies before it has done that, the kernel wakes another sleeper. For this the watcher has one of
//! the words pending, and a [stand-in](crate::reactor::stand_in) has each of the others.
//!
//! A watcher sleeps while the note stands and the rest is as it was seen. It is queued on the word
//! that is woken before the note is compared. So the note was there when it fell asleep, or the
//! thread that takes the note out wakes it.

#![allow(unreachable_pub, reason = "the sealed trait of what can be waited for leads here")]

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::futex::{self, Awake, Watch};
use crossproc_sys::robust::Entry;

use crate::wait::Waiter;

/// What one call remembers of a source. All fields are words, so that nothing in it is ever
/// uninitialised.
#[derive(Debug, Clone, Copy, Default)]
pub struct WatchState {
    /// The source's value when the call began.
    pub(crate) begun: u64,
    /// The source's value when it was last armed.
    pub(crate) armed: u64,
    /// A second such value.
    pub(crate) note: u64,
    /// Not 0 if the source was ready when it was last looked at.
    pub(crate) is_ready: u64,
}

/// The result of arming a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Armed {
    /// The source has named all words that must stay as they are while the caller sleeps.
    Asleep,
    /// Something has changed: look at everything again.
    Again,
}

/// Something with words to sleep on.
///
/// A call is one [`begin`](Source::begin), then [`look`](Source::look) until something is ready.
/// Before each sleep it calls [`arm`](Source::arm). After each sleep it calls
/// [`awake`](Source::awake), whatever has ended the sleep, also if the caller leaves. A caller that
/// has other threads sleep in its place calls `awake` once they have stopped. From `arm` on, until
/// `awake` is done, the word of each source is [pending](Source::pend) for the caller, in its own
/// entry or that of a [stand-in](crate::reactor::stand_in).
///
/// The sleeper is queued on the words in the order in which they were named.
pub trait Source: Sync {
    /// Returns what identifies it in this process: the address of the word that is woken.
    fn key(&self) -> usize;

    /// Returns whether what happens is for all waiters, and not only for the first that comes.
    fn is_for_all(&self) -> bool {
        false
    }

    /// Returns the state in which a call begins.
    fn begin(&self) -> WatchState {
        WatchState::default()
    }

    /// Returns whether it may be ready for one thread and not for another, so that each waiter in a
    /// line has to look.
    fn is_for_each(&self) -> bool {
        false
    }

    /// Continues the call, perhaps in another thread than it began in.
    fn go_on(&self, _: &mut WatchState) {}

    /// Returns whether it is ready, or has been since the call began.
    fn look(&self, state: &WatchState) -> bool;

    /// Returns how many words it names at most, without those that it names only if there [is
    /// room](Words::spare).
    fn words(&self) -> usize;

    /// Returns how many more words it would name.
    fn more_words(&self) -> usize {
        0
    }

    /// Announces that a watcher is about to sleep. Names the words that it sleeps on, and the
    /// values for which it does.
    fn arm<'a>(&'a self, state: &mut WatchState, words: &mut Words<'a, '_>) -> Armed;

    /// Stores the word that is to be pending for this source in an entry of this process.
    fn pend(&self, entry: &Entry);

    /// Returns whether the word may have an owner. Such a word is the first that
    /// [`arm`](Source::arm) names. It is pending in the own entry of the thread that sleeps on it,
    /// and that thread sleeps on no other such word. A [stand-in](crate::reactor::stand_in) would
    /// not do.
    fn has_owner(&self) -> bool {
        false
    }

    /// After a sleep: does what a dead thread may have been about to do. A caller that dies after
    /// it has nothing left to do for others.
    fn awake(&self, state: &mut WatchState);
}

/// The words that a watcher sleeps on.
#[derive(Debug)]
pub struct Words<'a, 'w> {
    words: &'w mut [Option<Watch<'a>>],
    len: usize,
    /// How many are reserved for the sources to come.
    pub(crate) reserved: usize,
    /// When the sleeper has to look again at the latest, if a source says so.
    cut: Option<u64>,
}

impl<'a, 'w> Words<'a, 'w> {
    pub(crate) fn new(words: &'w mut [Option<Watch<'a>>]) -> Self {
        Words { words, len: 0, reserved: 0, cut: None }
    }

    /// Adds a word. There is room for those that a source has counted.
    pub(crate) fn add(&mut self, word: Watch<'a>) {
        if let Some(free) = self.words.get_mut(self.len) {
            *free = Some(word);
            self.len += 1;
        }
    }

    /// Adds both halves of a word.
    pub(crate) fn add_whole(&mut self, word: &'a AtomicU64, expected: u64) {
        Watch::whole(word, expected).into_iter().for_each(|half| self.add(half));
    }

    /// Says when the sleeper has to look again at the latest. Only [`sleep`](Words::sleep) does so.
    pub(crate) fn cut_at(&mut self, time: Option<u64>) {
        self.cut = [self.cut, time].into_iter().flatten().min();
    }

    /// Returns how many more there is room for.
    pub(crate) fn spare(&self) -> usize {
        self.words.len().saturating_sub(self.len + self.reserved)
    }

    pub(crate) fn named(&self) -> &[Option<Watch<'a>>] {
        &self.words[..self.len]
    }

    /// Sleeps for a slice at most, while all words are as they were named. `N` is how many there is
    /// room for. Where the kernel cannot watch several, it sleeps `on_one`, until the time that
    /// this gets.
    pub(crate) fn sleep<const N: usize>(
        &self,
        waiter: &mut Waiter,
        on_one: impl Fn(Option<u64>) -> Awake,
    ) -> Awake {
        let named = self.named();
        let Some(Some(first)) = named.first() else { return Awake::Changed };
        let all: [Watch<'_>; N] =
            core::array::from_fn(|index| named.get(index).copied().flatten().unwrap_or(*first));
        waiter.sleep(|until| {
            let is_cut = self.cut.is_some_and(|cut| until.is_none_or(|until| cut < until));
            let until = if is_cut { self.cut } else { until };
            let all = &all[..named.len().min(N)];
            match futex::wait_any(all, until).unwrap_or_else(|| on_one(until)) {
                Awake::TimedOut if is_cut => Awake::Changed,
                awake => awake,
            }
        })
    }

    /// Does the same for a watcher. Where the kernel cannot watch several, it sleeps on the first
    /// word, briefly.
    pub(crate) fn sleep_as_watcher<const N: usize>(&self, waiter: &mut Waiter) -> Awake {
        self.sleep::<N>(waiter, |until| {
            match self.named()[0].and_then(|first| first.wait_briefly(ONE_AT_A_TIME, until)) {
                None | Some(Awake::TimedOut) => Awake::Changed,
                Some(awake) => awake,
            }
        })
    }
}

/// How long a watcher sleeps on one of its words, in nanoseconds, if the kernel cannot watch
/// several.
const ONE_AT_A_TIME: u64 = 5_000_000;
