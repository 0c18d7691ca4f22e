//! The futex of the models. See [`model`](crate::model).

#![allow(clippy::must_use_candidate, reason = "as in the real module")]

use core::cell::Cell;
use core::ptr;
use std::collections::VecDeque;
use std::rc::Rc;

use loom::sync::Mutex;
use loom::thread::Thread;

use crate::atomic::{AtomicU32, AtomicU64, Ordering::*};
use crate::model::explorer::{self, Place, Private};
use crate::model::{Futexes, WORLD, expired, is_first, private_step, step};
use crate::robust::{OWNER_DIED, TID_MASK, WAITERS};

/// No spinning: loom explores every order of the accesses anyway.
pub const MAX_SPINS: u32 = 0;

/// After one lost lock a waiter starves, so that the models get there.
pub const MAX_LOSSES: u32 = 1;

/// As in the real module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the real module")]
pub enum Awake {
    Woken,
    Changed,
    Interrupted,
    TimedOut,
    Refused,
}

/// A word that threads can sleep on, as in the real module. It includes what the kernel does to the
/// word.
pub trait Word: 'static {
    /// Returns the address that identifies the futex.
    #[doc(hidden)]
    fn address(&self) -> usize;
    /// Returns where the word is, for the explorer.
    #[doc(hidden)]
    fn place(&self) -> Place;
    /// Loads the futex's 32 bits, as the kernel does.
    #[doc(hidden)]
    fn low(&self) -> u32;
    /// Exchanges the TID of a dying owner for OWNER_DIED, as the kernel does. Returns whether to
    /// wake one waiter.
    #[doc(hidden)]
    fn owner_died(&self, tid: u32) -> bool;
}

impl Word for AtomicU32 {
    fn address(&self) -> usize {
        ptr::from_ref(self).addr()
    }

    fn place(&self) -> Place {
        self.place()
    }

    fn low(&self) -> u32 {
        self.peek(Relaxed)
    }

    fn owner_died(&self, tid: u32) -> bool {
        let word = self.loom();
        let mut seen = self.peek(Relaxed);
        while seen & TID_MASK == tid {
            // SeqCst: the kernel's exchange is a full barrier.
            match word.compare_exchange(seen, seen & WAITERS | OWNER_DIED, SeqCst, Relaxed) {
                Ok(_) => return seen & WAITERS != 0,
                Err(now) => seen = now,
            }
        }
        false
    }
}

impl Word for AtomicU64 {
    fn address(&self) -> usize {
        ptr::from_ref(self).addr()
    }

    fn place(&self) -> Place {
        self.place()
    }

    fn low(&self) -> u32 {
        self.peek(Relaxed) as u32
    }

    fn owner_died(&self, _tid: u32) -> bool {
        assert_eq!(
            self.low() & TID_MASK,
            0,
            "the low half of a 64-bit state is taken for a lock's word"
        );
        false
    }
}

#[derive(Default)]
pub(crate) struct Futex {
    /// Each sleeper, with the index of this word among those it sleeps on.
    asleep: Mutex<VecDeque<(Rc<Sleeper>, usize)>>,
}

/// A thread that sleeps on one or more words. It counts once in each queue that it is in, so one
/// sleeper may use up several wakes. The kernel does the same until the thread has run.
///
/// Between a look at a cell and the next parking, loom does not switch threads.
struct Sleeper {
    thread: Thread,
    has_deadline: bool,
    is_parked: Cell<bool>,
    result: Cell<Option<Awake>>,
    /// The last of its words through which it was woken.
    through: Cell<usize>,
}

impl Futex {
    fn wake(&self, count: u32) -> u32 {
        let mut asleep = self.asleep.lock().unwrap();
        let count = asleep.len().min(count as usize);
        for (sleeper, place) in asleep.drain(..count) {
            sleeper.through.set(sleeper.through.get().max(place));
            sleeper.end(Awake::Woken);
        }
        count as u32
    }

    pub(crate) fn expire(&self) {
        let mut asleep = self.asleep.lock().unwrap();
        for (sleeper, _) in asleep.iter().filter(|(sleeper, _)| sleeper.has_deadline) {
            sleeper.end(Awake::TimedOut);
        }
        asleep.retain(|(sleeper, _)| !sleeper.has_deadline);
    }

    /// Queues a sleeper if the word is as expected and the deadline has not passed. Returns whether
    /// it did. Otherwise the reason becomes the sleeper's result.
    fn queue(&self, sleeper: &Rc<Sleeper>, place: usize, word: &Watch<'_>) -> bool {
        let mut asleep = self.asleep.lock().unwrap();
        if !word.is_as_expected() {
            sleeper.end(Awake::Changed);
        } else if sleeper.has_deadline && expired() {
            sleeper.end(Awake::TimedOut);
        } else {
            let at = if is_first() { 0 } else { asleep.len() };
            asleep.insert(at, (Rc::clone(sleeper), place));
            return true;
        }
        false
    }

    fn unqueue(&self, sleeper: &Rc<Sleeper>) {
        self.asleep.lock().unwrap().retain(|(other, _)| !Rc::ptr_eq(other, sleeper));
    }
}

impl Sleeper {
    fn new(has_deadline: bool) -> Rc<Self> {
        let thread = loom::thread::current();
        Rc::new(Sleeper {
            thread,
            has_deadline,
            is_parked: Cell::new(false),
            result: Cell::new(None),
            through: Cell::new(0),
        })
    }

    fn end(&self, result: Awake) {
        if self.result.get().is_none() {
            self.result.set(Some(result));
            // A sleeper that is not parked may be blocked on another queue's mutex. Loom would let
            // it in.
            if self.is_parked.get() {
                self.thread.unpark();
            }
        }
    }

    fn sleep(&self) {
        while self.result.get().is_none() {
            self.is_parked.set(true);
            loom::thread::park();
        }
    }
}

fn futex_of(address: usize) -> Rc<Futex> {
    WORLD.with_borrow_mut(|world| {
        if let Some((_, known)) = world.queues.iter().find(|(at, _)| *at == address) {
            return Rc::clone(known);
        }
        let new = Rc::<Futex>::default();
        world.queues.push((address, Rc::clone(&new)));
        new
    })
}

/// As in the real module.
pub const MAX_WATCHED: usize = 128;

/// As in the real module.
#[derive(Clone, Copy)]
pub struct Watch<'a>(Watched<'a>);

#[derive(Clone, Copy)]
enum Watched<'a> {
    Low(&'a dyn Word, u32),
    /// Both halves at once. A wake arrives through the low half.
    Whole(&'a AtomicU64, u64),
}

impl core::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

#[allow(missing_docs, reason = "as in the real module")]
impl<'a> Watch<'a> {
    pub fn new<W: Word>(word: &'a W, expected: u32) -> Self {
        Watch(Watched::Low(word, expected))
    }

    pub fn whole(word: &'a AtomicU64, expected: u64) -> [Self; 1] {
        [Watch(Watched::Whole(word, expected))]
    }

    /// See [`wait_briefly`].
    pub fn wait_briefly(&self, _nanos: u64, _deadline: Option<u64>) -> Option<Awake> {
        private_step(Private::WaitBriefly);
        None
    }

    fn address(&self) -> usize {
        match self.0 {
            Watched::Low(word, _) => word.address(),
            Watched::Whole(word, _) => word.address(),
        }
    }

    /// Returns the word, the expected value and the mask of the compared bits, for the explorer.
    pub(crate) fn bits(&self) -> (Place, u64, u64) {
        match self.0 {
            Watched::Low(word, expected) => (word.place(), expected.into(), u32::MAX.into()),
            Watched::Whole(word, expected) => (word.place(), expected, u64::MAX),
        }
    }

    fn is_as_expected(&self) -> bool {
        match self.0 {
            Watched::Low(word, expected) => word.low() == expected,
            Watched::Whole(word, expected) => word.peek(Relaxed) == expected,
        }
    }
}

/// As in the real module. A deadline passes when the model says so.
pub fn wait<W: Word>(word: &W, expected: u32, deadline: Option<u64>) -> Awake {
    wait_on(&[Watch::new(word, expected)], deadline.is_some()).0
}

/// As in the real module, but the time is always over. The event may come or not, and callers must
/// not rely on it.
pub fn wait_briefly<W: Word>(
    _word: &W,
    _expected: u32,
    _nanos: u64,
    _deadline: Option<u64>,
) -> Option<Awake> {
    private_step(Private::WaitBriefly);
    None
}

/// As in the real module. Here every word can be watched.
pub fn wait_on_one<W: Word>(word: &W, expected: u32, deadline: Option<u64>) -> Awake {
    wait(word, expected, deadline)
}

/// As in the real module.
pub fn wait_whole(word: &AtomicU64, expected: u64, deadline: Option<u64>) -> Awake {
    wait_on(&Watch::whole(word, expected), deadline.is_some()).0
}

/// As in the real module.
pub fn wait_any(words: &[Watch<'_>], deadline: Option<u64>) -> Option<Awake> {
    wait_any_of(words, deadline).map(|(awake, _)| awake)
}

/// As in the real module.
pub fn wait_any_of(words: &[Watch<'_>], deadline: Option<u64>) -> Option<(Awake, usize)> {
    Some(wait_on(words, deadline.is_some()))
}

/// As in the real module, with the address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordAddress(usize);

impl From<Watch<'_>> for WordAddress {
    fn from(watch: Watch<'_>) -> Self {
        WordAddress(watch.address())
    }
}

/// As in the real module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the real module")]
pub enum Slept {
    Ended(Awake, usize),
    Unmapped,
    Unsupported,
}

/// Returns `Unsupported`: nothing in the models sleeps on addresses.
pub fn wait_at(_words: &[WordAddress], _deadline: Option<u64>) -> Slept {
    Slept::Unsupported
}

/// Does nothing: see [`wait_at`].
pub fn wake_address(_word: WordAddress, _count: u32) {}

/// Returns true: see [`wait_at`].
pub fn still_holds(_word: WordAddress) -> bool {
    true
}

fn wait_on(words: &[Watch<'_>], has_deadline: bool) -> (Awake, usize) {
    if explorer::is_active() {
        return explorer::wait(words, has_deadline);
    }
    if !step() {
        return (Awake::Changed, 0);
    }
    let awake = match WORLD.with_borrow(|world| world.futexes) {
        Futexes::Sleep => sleep(words, has_deadline),
        Futexes::Look => (look(words, has_deadline), 0),
    };
    // A step of its own: the thread may be killed when it is woken but has not acted on it.
    step();
    awake
}

fn sleep(words: &[Watch<'_>], has_deadline: bool) -> (Awake, usize) {
    let me = Sleeper::new(has_deadline);
    let queues: Vec<_> = words.iter().map(|word| futex_of(word.address())).collect();
    let queued = words
        .iter()
        .zip(&queues)
        .enumerate()
        .take_while(|(place, (word, queue))| queue.queue(&me, *place, word))
        .count();
    if queued < words.len() && me.result.get() == Some(Awake::TimedOut) {
        // The thread may look again and again until others have done something.
        loom::thread::yield_now();
    }
    me.sleep();
    // A sleeper on one word has already been taken out of its queue.
    if words.len() > 1 {
        for queue in &queues[..queued] {
            queue.unqueue(&me);
        }
    }
    match me.result.get() {
        Some(Awake::Woken) | None => (Awake::Woken, me.through.get()),
        Some(awake) => (awake, 0),
    }
}

fn look(words: &[Watch<'_>], has_deadline: bool) -> Awake {
    while words.iter().all(Watch::is_as_expected) {
        if has_deadline && expired() {
            return Awake::TimedOut;
        }
        loom::thread::yield_now();
    }
    Awake::Changed
}

/// As in the real module.
pub fn wake<W: Word>(word: &W, count: u32) -> u32 {
    if explorer::is_active() {
        return explorer::wake(word.place(), count);
    }
    if step() { wake_at(word.address(), count) } else { 0 }
}

/// As in the real module, but never refused.
pub fn try_wake<W: Word>(word: &W, count: u32) -> Option<u32> {
    Some(wake(word, count))
}

pub(crate) fn wake_at(address: usize, count: u32) -> u32 {
    match WORLD.with_borrow(|world| world.futexes) {
        Futexes::Sleep => futex_of(address).wake(count),
        // Nothing sleeps, and every waiter looks for itself. Claim that all were woken, so that
        // flags stay.
        Futexes::Look => count,
    }
}
