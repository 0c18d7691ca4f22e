//! What a primitive does for those who wait for several things at once: [`Source`].
//!
//! # The difficulty
//! Whoever sleeps on the words of many primitives may be given the one wake-up that was meant for
//! one sleeper, and die with it in its hands. A thread that sleeps on one word has that pending, so
//! that the kernel passes the wake-up on (`crossproc_sys::robust`); but it can have one word
//! pending, not many.
//!
//! # How
//! A sleeper of this kind is a *watcher*, and says that it is there, beside the word that says that
//! someone may sleep. *Whoever would wake some wakes all where there may be a watcher*, and takes
//! the note out, since all are awake then, or see that it is gone. So a watcher that dies takes
//! nobody's wake-up with it. What is left is the kernel's wake for one who died before it woke
//! anybody, which is for one. So a watcher that was woken, by whatever, [does](Source::awake) what
//! the dead one may have been about to do: it wakes all if there is something for them, and leaves
//! the flags for those who may be asleep still. It takes nothing, so that is all that it owes.
//! Should it die before it has done that, the kernel wakes another one: it has one of the words
//! pending, and for each of the others a [stand-in](crate::reactor::stand_in) has.
//!
//! A watcher sleeps while the note stands as well as while the rest is as it was seen, and it is
//! queued on the word that is woken before the note is compared. So the note was there when it fell
//! asleep, or it is woken by whoever takes it out.

#![allow(unreachable_pub, reason = "the sealed trait of what can be waited for leads here")]

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::futex::{self, Awake, Watch};
use crossproc_sys::robust::Entry;

use crate::wait::Waiter;

/// What one call remembers of a source. All words, so that nothing of it is ever uninitialised.
#[derive(Debug, Clone, Copy, Default)]
pub struct WatchState {
    /// What the source's was when the call began.
    pub(crate) begun: u64,
    /// What it was when it was last armed.
    pub(crate) armed: u64,
    /// A second one.
    pub(crate) note: u64,
    /// Whether it was ready when it was last looked at: not 0.
    pub(crate) is_ready: u64,
}

/// What came of arming a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Armed {
    /// It has named all words that must stay as they are while the caller sleeps.
    Asleep,
    /// Something has changed: look at everything again.
    Again,
}

/// Something with words to sleep on.
///
/// A call is [`begin`](Source::begin), then [`look`](Source::look) until something is ready; before
/// each sleep [`arm`](Source::arm), after each sleep [`awake`](Source::awake), whatever has ended
/// it, also if the caller leaves. Who has others sleep in its place calls that once they do not any
/// more. From `arm` on, until `awake` is done, the word of each source is [pending](Source::pend)
/// for it, in its own entry or a [stand-in](crate::reactor::stand_in)'s.
///
/// The words are queued on in the order in which they were named.
pub trait Source: Sync {
    /// What it is known by in this process: the address of the word that is woken.
    fn key(&self) -> usize;

    /// Whether what happens has happened for all who wait, and is not for the first who comes.
    fn is_for_all(&self) -> bool {
        false
    }

    /// The state in which a call begins.
    fn begin(&self) -> WatchState {
        WatchState::default()
    }

    /// Whether it may be ready for one thread and not for another, so that each in a line has to
    /// look.
    fn is_for_each(&self) -> bool {
        false
    }

    /// The call goes on, perhaps in another thread than it began in.
    fn go_on(&self, _: &mut WatchState) {}

    /// Whether it is ready, or has been since the call began.
    fn look(&self, state: &WatchState) -> bool;

    /// How many words it names, at the most but for those that it names only if there [is
    /// room](Words::spare).
    fn words(&self) -> usize;

    /// How many more it would name.
    fn more_words(&self) -> usize {
        0
    }

    /// Says that a watcher is about to sleep, and names the words that it sleeps on while they are
    /// as they are.
    fn arm<'a>(&'a self, state: &mut WatchState, words: &mut Words<'a, '_>) -> Armed;

    /// Names the word that is to be pending for this source, in an entry of this process.
    fn pend(&self, entry: &Entry);

    /// Whether the word may have an owner: it is the first one that [`arm`](Source::arm) names
    /// then, and pending in the own entry of the thread that sleeps on it, which sleeps on no other
    /// such word. A [stand-in](crate::reactor::stand_in) would not do.
    fn has_owner(&self) -> bool {
        false
    }

    /// After a sleep: does what one who has died may have been about to do. Should the caller die
    /// after it, nobody misses it.
    fn awake(&self, state: &mut WatchState);
}

/// The words that a watcher sleeps on.
#[derive(Debug)]
pub struct Words<'a, 'w> {
    words: &'w mut [Option<Watch<'a>>],
    len: usize,
    /// How many are for the sources to come.
    pub(crate) reserved: usize,
}

impl<'a, 'w> Words<'a, 'w> {
    pub(crate) fn new(words: &'w mut [Option<Watch<'a>>]) -> Self {
        Words { words, len: 0, reserved: 0 }
    }

    /// One more. There is room for those that a source has counted.
    pub(crate) fn add(&mut self, word: Watch<'a>) {
        if let Some(free) = self.words.get_mut(self.len) {
            *free = Some(word);
            self.len += 1;
        }
    }

    /// Both halves of a word.
    pub(crate) fn add_whole(&mut self, word: &'a AtomicU64, expected: u64) {
        Watch::whole(word, expected).into_iter().for_each(|half| self.add(half));
    }

    /// How many more there is room for.
    pub(crate) fn spare(&self) -> usize {
        self.words.len().saturating_sub(self.len + self.reserved)
    }

    pub(crate) fn named(&self) -> &[Option<Watch<'a>>] {
        &self.words[..self.len]
    }
}

/// How long a watcher sleeps on one of its words, in nanoseconds, where the kernel cannot watch
/// several.
const ONE_AT_A_TIME: u64 = 5_000_000;

/// Sleeps for a slice at most, while all words are as they were named.
pub(crate) fn sleep<const N: usize>(words: &Words<'_, '_>, waiter: &mut Waiter) -> Awake {
    let named = words.named();
    let Some(Some(first)) = named.first() else { return Awake::Changed };
    let all: [Watch<'_>; N] =
        core::array::from_fn(|index| named.get(index).copied().flatten().unwrap_or(*first));
    waiter.sleep(|until| {
        let all = &all[..named.len().min(N)];
        futex::wait_any(all, until).unwrap_or_else(|| {
            match first.wait_briefly(ONE_AT_A_TIME, until) {
                None | Some(Awake::TimedOut) => Awake::Changed,
                Some(awake) => awake,
            }
        })
    })
}
