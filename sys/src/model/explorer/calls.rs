//! Where the modelled calls of the real code arrive while a script runs.
//!
//! The code is deterministic but for what its steps return. So a moment in an operation is known by the results of its steps so far: the operation runs from its
//! beginning, is given these results, and at its next step, which is what is asked for, leaves by unwinding. What its destructors do on the way has no effect.

use core::cell::RefCell;
use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use crate::futex::Awake;
use crate::robust::Thread;

/// A word by the order in which the words were first met.
pub(crate) type WordId = u16;

/// Where a word is, what it holds at the start, and the bits that it has.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub(crate) address: usize,
    pub(crate) initial: u64,
    pub(crate) bits: u64,
}

/// What a step does to a word, beside the operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Store,
    Swap,
    Add,
    And,
    Or,
}

/// A word that is slept on, as long as it is `expected` where `bits` are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) word: WordId,
    pub(crate) expected: u64,
    pub(crate) bits: u64,
}

/// A step. Its result is a number: what the word held before, how many were woken, or an [`awake`].
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Nobody else sees it: a change of the robust list.
    Private(&'static str),
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

/// The words' values: each as what is different from its initial one, so that words that nobody has changed need not be there.
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

    /// The differences, up to the last one.
    pub(crate) fn changed(&self) -> &[u64] {
        let count = self.0.iter().rposition(|&difference| difference != 0).map_or(0, |last| last + 1);
        &self.0[..count]
    }

    /// Whether all words are as whoever wants to sleep on them expects.
    pub(crate) fn are_expected(&self, places: &[Place], watched: &[Watched]) -> bool {
        watched.iter().all(|watched| (self.get(places, watched.word) ^ watched.expected) & watched.bits == 0)
    }

    /// Does a step that is a word's alone: what it held before.
    pub(crate) fn access(&mut self, places: &[Place], action: &Action) -> Option<u64> {
        let (word, after): (WordId, &dyn Fn(u64) -> u64) = match action {
            Action::Load(word) => (*word, &|seen| seen),
            Action::CompareExchange { word, current, new } => (*word, &|seen| if seen == *current { *new } else { seen }),
            Action::Change(word, change, operand) => match change {
                Change::Store | Change::Swap => (*word, &|_| *operand),
                Change::Add => (*word, &|seen| seen.wrapping_add(*operand)),
                Change::And => (*word, &|seen| seen & *operand),
                Change::Or => (*word, &|seen| seen | *operand),
            },
            Action::Wait { .. } | Action::Wake(..) | Action::Private(_) => return None,
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
    /// Woken through the word at place 0; the places of others are added.
    pub(crate) const WOKEN: u64 = 2;
}

/// How the steps of the running script are answered.
enum Mode {
    /// With the results that they had, each checked to be the same step; then it leaves.
    Replay { log: Vec<(Action, u64)>, next: usize },
    /// Not at all: it has left, these are its destructors.
    Leaving,
    /// At once, on words of its own: nobody else runs.
    Alone(Words),
}

struct Calls {
    mode: Mode,
    places: Places,
    thread: Rc<Thread>,
    /// Where it left.
    action: Option<Action>,
}

thread_local! {
    static CALLS: RefCell<Option<Calls>> = const { RefCell::new(None) };
}

/// The payload with which a script is left.
struct Left;

/// How a run of an operation ended.
pub(crate) enum Ended {
    /// It is before this step.
    Before(Action),
    Returned(u64),
    Panicked(Box<dyn Any + Send>),
}

/// Whether a script of an exploration runs in the calling thread of the system.
pub(crate) fn is_active() -> bool {
    CALLS.with_borrow(Option::is_some)
}

/// The robust list of the one that runs.
pub(crate) fn current_thread() -> Option<*const Thread> {
    CALLS.with_borrow(|calls| calls.as_ref().map(|calls| Rc::as_ptr(&calls.thread)))
}

/// The result of the next step of the script that runs; `None` if it has no effect.
fn step(action: impl FnOnce(&mut Places) -> Action) -> Option<u64> {
    let result = CALLS.with_borrow_mut(|calls| {
        let calls = calls.as_mut().expect("a script runs");
        match &mut calls.mode {
            Mode::Leaving => return Ok(None),
            Mode::Alone(words) => {
                let action = action(&mut calls.places);
                return Ok(Some(alone(words, &calls.places.places, &action)));
            }
            Mode::Replay { log, next } => {
                let action = action(&mut calls.places);
                if let Some((same, result)) = log.get(*next) {
                    assert_eq!(*same, action, "the operation is not determined by the results of its steps");
                    *next += 1;
                    return Ok(Some(*result));
                }
                calls.action = Some(action);
            }
        }
        calls.mode = Mode::Leaving;
        Err(Left)
    });
    result.unwrap_or_else(|left| resume_unwind(Box::new(left)))
}

fn alone(words: &mut Words, places: &[Place], action: &Action) -> u64 {
    match action {
        Action::Wait { watched, .. } => {
            assert!(!words.are_expected(places, watched), "whoever is alone sleeps: nobody would wake it");
            awake::CHANGED
        }
        _ => words.access(places, action).unwrap_or(0),
    }
}

pub(crate) fn load(place: Place) -> u64 {
    step(|places| Action::Load(places.id(place))).unwrap_or(0)
}

pub(crate) fn change(place: Place, change: Change, operand: u64) -> u64 {
    step(|places| Action::Change(places.id(place), change, operand)).unwrap_or(0)
}

pub(crate) fn compare_exchange(place: Place, current: u64, new: u64) -> u64 {
    step(|places| Action::CompareExchange { word: places.id(place), current, new }).unwrap_or(current)
}

pub(crate) fn wake(place: Place, count: u32) -> u32 {
    step(|places| Action::Wake(places.id(place), count)).unwrap_or(0) as u32
}

/// Each word with what is expected of it, and in which bits.
pub(crate) fn wait(words: impl Iterator<Item = (Place, u64, u64)>, has_deadline: bool) -> (Awake, usize) {
    let result = step(|places| {
        let watched = words.map(|(place, expected, bits)| Watched { word: places.id(place), expected, bits }).collect();
        Action::Wait { watched, has_deadline }
    });
    match result {
        None | Some(awake::CHANGED) => (Awake::Changed, 0),
        Some(awake::TIMED_OUT) => (Awake::TimedOut, 0),
        Some(woken) => (Awake::Woken, (woken - awake::WOKEN) as usize),
    }
}

/// A step that nobody else sees; whether it has an effect.
pub(crate) fn private(what: &'static str) -> bool {
    step(|_| Action::Private(what)).is_some()
}

/// Runs `body` for a thread, and says where it has come after the steps of `log`.
pub(crate) fn replay(places: &mut Places, thread: Thread, log: Vec<(Action, u64)>, body: impl FnOnce() -> u64) -> (Ended, Rc<Thread>) {
    let (returned, calls) = run(places, thread, Mode::Replay { log, next: 0 }, body);
    let ended = match (returned, calls.action) {
        (Ok(output), _) => Ended::Returned(output),
        (Err(payload), Some(action)) if payload.is::<Left>() => Ended::Before(action),
        (Err(payload), _) => Ended::Panicked(payload),
    };
    (ended, calls.thread)
}

/// Runs `body` for a thread that is alone with the words.
pub(crate) fn run_alone<R>(places: &mut Places, thread: Thread, words: &mut Words, body: impl FnOnce() -> R) -> (R, Rc<Thread>) {
    let (returned, calls) = run(places, thread, Mode::Alone(words.clone()), body);
    if let Mode::Alone(changed) = calls.mode {
        *words = changed;
    }
    (returned.unwrap_or_else(|payload| resume_unwind(payload)), calls.thread)
}

fn run<R>(places: &mut Places, thread: Thread, mode: Mode, body: impl FnOnce() -> R) -> (std::thread::Result<R>, Calls) {
    let calls = Calls { mode, places: core::mem::take(places), thread: Rc::new(thread), action: None };
    assert!(CALLS.replace(Some(calls)).is_none(), "an exploration within another one");
    let returned = catch_unwind(AssertUnwindSafe(body));
    let mut calls = CALLS.take().expect("it was put there");
    *places = core::mem::take(&mut calls.places);
    (returned, calls)
}
