//! The modelled calls of the real code arrive here while a script runs.
//!
//! The code is deterministic except for the results of its steps. So to reach a moment in an
//! operation, the code runs from the operation's beginning and is given the results that its steps
//! have had. It is left at its next step, which is the answer.

#![allow(unsafe_code)]

use core::cell::RefCell;
use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use super::stack::{Answer, Body, Stack, step};
use crate::futex::{Awake, Watch};
use crate::robust::Thread;

/// A word's number, in the order in which words were first met.
pub(crate) type WordId = u16;

/// A word's address, its initial value, and a mask of the bits that it has.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub(crate) address: usize,
    pub(crate) initial: u64,
    pub(crate) bits: u64,
}

/// What a step does to a word with its operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Store,
    Swap,
    Add,
    And,
    Or,
}

/// A word to sleep on, as long as it is `expected` where `bits` are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Watched {
    pub(crate) word: WordId,
    pub(crate) expected: u64,
    pub(crate) bits: u64,
}

/// A step. Its result is a number: the word's previous value, the number of woken threads, or an
/// [`awake`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Load(WordId),
    Change(WordId, Change, u64),
    CompareExchange {
        word: WordId,
        current: u64,
        new: u64,
    },
    Wait {
        watched: Rc<[Watched]>,
        has_deadline: bool,
    },
    Wake(WordId, u32),
    /// Looks at the clock.
    Clock,
    /// No other thread sees it.
    Private(Private),
}

/// What a thread does that no other thread sees until it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Private {
    Begin,
    End,
    Link,
    Unlink,
    /// A sleep that is over at once.
    WaitBriefly,
}

/// The words that were met.
#[derive(Debug, Default)]
pub(crate) struct Places {
    known: HashMap<usize, WordId>,
    pub(crate) places: Vec<Place>,
}

impl Places {
    pub(crate) fn id(&mut self, place: Place) -> WordId {
        let places = &mut self.places;
        *self.known.entry(place.address).or_insert_with(|| {
            places.push(place);
            WordId::try_from(places.len() - 1).expect("fewer than 65,536 words")
        })
    }
}

/// The words' values. Each is stored as the difference from the initial value, so that unchanged
/// words can be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Words(Vec<u64>);

impl Words {
    pub(crate) fn get(&self, places: &[Place], word: WordId) -> u64 {
        places[usize::from(word)].initial ^ self.0.get(usize::from(word)).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, places: &[Place], word: WordId, value: u64) {
        let index = usize::from(word);
        let difference = value & places[index].bits ^ places[index].initial;
        if index >= self.0.len() {
            if difference == 0 {
                return;
            }
            self.0.resize(index + 1, 0);
        }
        self.0[index] = difference;
    }

    /// Returns the differences, up to the last nonzero one.
    pub(crate) fn changed(&self) -> &[u64] {
        let count =
            self.0.iter().rposition(|&difference| difference != 0).map_or(0, |last| last + 1);
        &self.0[..count]
    }

    /// Returns whether all words have the values that a would-be sleeper expects.
    pub(crate) fn are_expected(&self, places: &[Place], watched: &[Watched]) -> bool {
        watched
            .iter()
            .all(|watched| (self.get(places, watched.word) ^ watched.expected) & watched.bits == 0)
    }

    /// Does a step that concerns one word alone. Returns the word's previous value.
    pub(crate) fn access(&mut self, places: &[Place], action: &Action) -> Option<u64> {
        let (word, after): (WordId, &dyn Fn(u64) -> u64) = match action {
            Action::Load(word) => (*word, &|seen| seen),
            Action::CompareExchange { word, current, new } => {
                (*word, &|seen| if seen == *current { *new } else { seen })
            }
            Action::Change(word, change, operand) => match change {
                Change::Store | Change::Swap => (*word, &|_| *operand),
                Change::Add => (*word, &|seen| seen.wrapping_add(*operand)),
                Change::And => (*word, &|seen| seen & *operand),
                Change::Or => (*word, &|seen| seen | *operand),
            },
            Action::Wait { .. } | Action::Wake(..) | Action::Clock | Action::Private(_) => {
                return None;
            }
        };
        let seen = self.get(places, word);
        self.set(places, word, after(seen));
        Some(seen)
    }
}

/// The results of a wait.
pub(crate) mod awake {
    pub(crate) const CHANGED: u64 = 0;
    pub(crate) const TIMED_OUT: u64 = 1;
    /// Woken through the word at place 0. For other words the place is added.
    pub(crate) const WOKEN: u64 = 2;
}

/// The results of a look at the clock: before or after all deadlines of an exploration.
pub(crate) mod time {
    pub(crate) const EARLY: u64 = 1;
    pub(crate) const LATE: u64 = u64::MAX / 2;
}

/// How the steps of the running script are answered.
enum Mode {
    /// With the results that the steps had. Each step is checked to be the same; after the last one
    /// the code is left.
    Replay { log: Vec<(Action, u64)>, next: usize },
    /// At once, on words of its own: no other thread runs.
    Alone(Words),
}

/// The words that the kernel looks at if a thread dies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Walked {
    pub(crate) held: Vec<WordId>,
    pub(crate) pending: Option<WordId>,
    /// The words pending in the entries of the threads that die with it.
    pub(crate) lent: Vec<WordId>,
}

/// What the runs of an exploration share.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) places: Places,
    /// The thread that runs, or has run last. It stays at one address, as the stack does.
    pub(crate) thread: Box<Thread>,
    stack: Stack,
}

impl Ground {
    pub(crate) fn new() -> Self {
        Ground { places: Places::default(), thread: Box::default(), stack: Stack::new() }
    }

    /// Returns the words that the kernel meets if the thread dies. `held` has the words of what it
    /// holds other than the pending one, in the order of the walk. `pending` is the pending word,
    /// and `lent` has the words pending for it in the entries of others.
    pub(crate) fn walked(&mut self) -> Walked {
        let pending = self.thread.pending().map(|place| self.places.id(place));
        let held = self
            .thread
            .held_places()
            .map(|place| self.places.id(place))
            .filter(|word| Some(*word) != pending);
        let held = held.collect();
        let lent = self.thread.lent_places().map(|place| self.places.id(place)).collect();
        Walked { held, pending, lent }
    }
}

struct Calls {
    mode: Mode,
    places: Places,
    thread: Box<Thread>,
    /// Whether a deadline has passed in this operation. It stays so.
    is_late: bool,
    /// The step at which it was left, and where its stack began then.
    left: Option<(Result<Action, Panic>, usize)>,
}

/// The payload of a panic.
pub(crate) type Panic = Box<dyn Any + Send>;

thread_local! {
    static CALLS: RefCell<Option<Calls>> = const { RefCell::new(None) };
}

/// How a run of an operation ended.
pub(crate) enum Ended {
    /// It stopped before this step. The stack has this hash, and the deadline has passed or not.
    Before(Action, u128, bool),
    Returned,
    Panicked(Panic),
}

/// Whether a script of an exploration runs in the calling thread of the system.
pub(crate) fn is_active() -> bool {
    CALLS.with_borrow(Option::is_some)
}

/// Returns the robust list of the running thread.
pub(crate) fn current_thread() -> Option<*const Thread> {
    CALLS.with_borrow(|calls| calls.as_ref().map(|calls| core::ptr::from_ref(&*calls.thread)))
}

/// The calls, as numbers that fit in a register.
mod call {
    pub(super) const LOAD: u64 = 0;
    pub(super) const COMPARE_EXCHANGE: u64 = 1;
    pub(super) const WAKE: u64 = 2;
    pub(super) const WAIT: u64 = 3;
    pub(super) const PRIVATE: u64 = 4;
    pub(super) const CLOCK: u64 = 5;
    /// The first of the calls that change a word.
    pub(super) const CHANGES: u64 = 6;
    /// A flag beside a call on a word: the word has 64 bits.
    pub(super) const WIDE: u64 = 1 << 8;
}

const PRIVATE: [Private; 5] =
    [Private::Begin, Private::End, Private::Link, Private::Unlink, Private::WaitBriefly];
const CHANGES: [Change; 5] = [Change::Store, Change::Swap, Change::Add, Change::And, Change::Or];

/// Answers a step, which is given in numbers with the address where the operation's stack begins.
pub(super) extern "C" fn answer(
    call: u64,
    first: u64,
    second: u64,
    third: u64,
    fourth: u64,
    from: usize,
) -> Answer {
    let result = catch_unwind(|| {
        CALLS.with_borrow_mut(|calls| {
            let calls = calls.as_mut().expect("a script runs");
            if call == call::CLOCK && calls.is_late {
                return Ok(time::LATE);
            }
            let action = decode(&mut calls.places, call, [first, second, third, fourth]);
            match &mut calls.mode {
                Mode::Alone(words) => Ok(alone(words, &calls.places.places, &action)),
                Mode::Replay { log, next } => {
                    let Some((same, result)) = log.get(*next) else { return Err(action) };
                    assert_eq!(
                        *same, action,
                        "the operation is not determined by the results of its steps"
                    );
                    *next += 1;
                    calls.is_late |= match action {
                        Action::Wait { .. } => *result == awake::TIMED_OUT,
                        Action::Clock => *result == time::LATE,
                        _ => false,
                    };
                    Ok(*result)
                }
            }
        })
    });
    let left = match result {
        Ok(Ok(result)) => return Answer { result, leave: 0 },
        Ok(Err(action)) => Ok(action),
        Err(payload) => Err(payload),
    };
    CALLS.with_borrow_mut(|calls| calls.as_mut().map(|calls| calls.left = Some((left, from))));
    Answer { result: 0, leave: 1 }
}

fn decode(places: &mut Places, call: u64, [first, second, third, fourth]: [u64; 4]) -> Action {
    let bits = if call & call::WIDE == 0 { u32::MAX.into() } else { u64::MAX };
    let mut word = || places.id(Place { address: first as usize, initial: second, bits });
    match call & !call::WIDE {
        call::LOAD => Action::Load(word()),
        call::COMPARE_EXCHANGE => {
            Action::CompareExchange { word: word(), current: third, new: fourth }
        }
        call::WAKE => Action::Wake(word(), third as u32),
        call::WAIT => {
            // SAFETY: `wait` passes the pointer and length of its caller's slice.
            let words = unsafe {
                core::slice::from_raw_parts(
                    core::ptr::with_exposed_provenance::<Watch<'_>>(first as usize),
                    second as usize,
                )
            };
            let watched = words.iter().map(Watch::bits).map(|(place, expected, bits)| Watched {
                word: places.id(place),
                expected,
                bits,
            });
            Action::Wait { watched: watched.collect(), has_deadline: third != 0 }
        }
        call::CLOCK => Action::Clock,
        call::PRIVATE => Action::Private(PRIVATE[first as usize]),
        change => Action::Change(word(), CHANGES[(change - call::CHANGES) as usize], third),
    }
}

fn alone(words: &mut Words, places: &[Place], action: &Action) -> u64 {
    match action {
        Action::Wait { watched, .. } => {
            assert!(
                !words.are_expected(places, watched),
                "whoever is alone sleeps: nobody would wake it"
            );
            awake::CHANGED
        }
        Action::Clock => time::EARLY,
        _ => words.access(places, action).unwrap_or(0),
    }
}

#[inline]
fn step_at(call: u64, place: Place, third: u64, fourth: u64) -> u64 {
    let wide = if place.bits == u64::MAX { call::WIDE } else { 0 };
    step(call | wide, place.address as u64, place.initial, third, fourth)
}

#[inline]
pub(crate) fn load(place: Place) -> u64 {
    step_at(call::LOAD, place, 0, 0)
}

#[inline]
pub(crate) fn change(place: Place, change: Change, operand: u64) -> u64 {
    step_at(call::CHANGES + change as u64, place, operand, 0)
}

#[inline]
pub(crate) fn compare_exchange(place: Place, current: u64, new: u64) -> u64 {
    step_at(call::COMPARE_EXCHANGE, place, current, new)
}

#[inline]
pub(crate) fn wake(place: Place, count: u32) -> u32 {
    step_at(call::WAKE, place, count.into(), 0) as u32
}

#[inline]
pub(crate) fn wait(words: &[Watch<'_>], has_deadline: bool) -> (Awake, usize) {
    match step(
        call::WAIT,
        words.as_ptr().expose_provenance() as u64,
        words.len() as u64,
        has_deadline.into(),
        0,
    ) {
        awake::CHANGED => (Awake::Changed, 0),
        awake::TIMED_OUT => (Awake::TimedOut, 0),
        woken => (Awake::Woken, (woken - awake::WOKEN) as usize),
    }
}

/// Returns the time.
#[inline]
pub(crate) fn now() -> u64 {
    step(call::CLOCK, 0, 0, 0, 0)
}

/// Takes a step that no other thread sees: a change of the robust list, or a brief wait.
#[inline]
pub(crate) fn private(what: Private) {
    step(call::PRIVATE, what as u64, 0, 0, 0);
}

/// Runs `body` for a thread. Returns where it is after the steps of `log`.
pub(crate) fn replay<B: Body>(
    ground: &mut Ground,
    thread: Thread,
    log: Vec<(Action, u64)>,
    body: &mut B,
) -> Ended {
    let calls = run(ground, thread, Mode::Replay { log, next: 0 }, body);
    match calls.left {
        None => Ended::Returned,
        Some((Ok(action), from)) => Ended::Before(action, ground.stack.hash(from), calls.is_late),
        Some((Err(payload), _)) => Ended::Panicked(payload),
    }
}

struct Alone<F, R> {
    body: Option<F>,
    returned: Option<std::thread::Result<R>>,
}

impl<R, F: FnOnce() -> R> Body for Alone<F, R> {
    fn run(&mut self) {
        self.returned = self.body.take().map(|body| catch_unwind(AssertUnwindSafe(body)));
    }
}

/// Runs `body` for a thread that is alone with the words.
pub(crate) fn run_alone<R>(
    ground: &mut Ground,
    thread: Thread,
    words: &mut Words,
    body: impl FnOnce() -> R,
) -> R {
    let mut alone = Alone { body: Some(body), returned: None };
    let calls = run(ground, thread, Mode::Alone(words.clone()), &mut alone);
    if let Mode::Alone(changed) = calls.mode {
        *words = changed;
    }
    match (alone.returned, calls.left) {
        (Some(Ok(returned)), _) => returned,
        (Some(Err(payload)), _) | (None, Some((Err(payload), _))) => resume_unwind(payload),
        (None, _) => unreachable!("nobody leaves one that is alone"),
    }
}

fn run<B: Body>(ground: &mut Ground, thread: Thread, mode: Mode, body: &mut B) -> Calls {
    *ground.thread = thread;
    let thread = core::mem::take(&mut ground.thread);
    let calls = Calls {
        mode,
        places: core::mem::take(&mut ground.places),
        thread,
        is_late: false,
        left: None,
    };
    assert!(CALLS.replace(Some(calls)).is_none(), "an exploration within another one");
    ground.stack.run(body);
    let mut calls = CALLS.take().expect("it was put there");
    ground.places = core::mem::take(&mut calls.places);
    ground.thread = core::mem::take(&mut calls.thread);
    calls
}
