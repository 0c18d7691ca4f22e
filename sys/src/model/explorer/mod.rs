//! Explores every interleaving of a few threads that run the real code, with kills: each state
//! once.
//!
//! It is sequentially consistent, so orderings are loom's to check. What it has over loom: a state
//! that was reached in one way is not explored again when it is reached in another, which makes
//! tens of millions of states, four and more threads, and several kills affordable.
//!
//! A [`Script`] is what a thread does: operations on what is shared. Each access to a modelled
//! atomic, each call on a futex, each change of the robust list is a **step**, between any two of
//! which
//! - any other thread may take steps;
//! - a stoppable thread that is awake may be stopped for ever, as long as there are stops left;
//! - a killable thread may be killed, as long as there are kills left: the kernel then walks its
//!   list, step by step. Another thread may have waited for this death to begin. Threads of one
//!   [process](Script::of_process) are killed together, and end in any order: those that stand in
//!   for a thread first, which is the worst, as it may be queued for a while still, and be given a
//!   wake-up;
//! - a sleep with a deadline may time out, a woken thread has not acted yet;
//! - whoever looks at the clock may find that its time is over, once and for all in that operation.
//!
//! A thread that has finished lives on, with the locks that it holds. [`Exploration::solo`] looks
//! whether each can go on alone, and so without the others.
//!
//! A **state** is what all words hold, who sleeps on what, in which order, and where each thread
//! is: in which operation, with which outputs so far, with which private state, robust list
//! and stack. Where no thread can go on, [`Exploration::check`] is asked whether that is as it
//! should be; without it, nobody may sleep there. Panics of operations are failures, too. A failure
//! is printed with the steps that lead to it.
//!
//! # What the code must keep to
//! - It depends on nothing but the modelled words, the script's private state, and what never
//!   changes. What a `Lock` protects is plain memory, which is not part of a state and not put
//!   back: use modelled atomics instead.
//! - What an operation keeps from step to step is on its stack, or in the private state, whose `Eq`
//!   and `Hash` must tell all of it: what it keeps on the heap, or in a thread-local, is not seen.
//!   It runs many times, and is not returned to where it was left, so what it owns there is leaked.
//! - Deadlines lie ahead when the exploration is made, in this century; an operation has one at
//!   most. They are made outside of operations: the time of an exploration begins before all of
//!   them.
//! - A load that fails for no reason (`compare_exchange_weak`), a sleep that ends for none, and
//!   signals do not occur.
//!
//! # How sure it is
//! States are known by 64-bit fingerprints: that one of 100 million is taken for another has a
//! probability of 0.03 %. Moments of a thread are known by a 128-bit hash of its stack: see
//! `stack.rs`.
//!
//! ```ignore
//! Exploration::new("a permit is for one", (Semaphore::new(1), AtomicU32::new(0)))
//!     .thread(Script::new(()).then(acquire).then(release))
//!     .thread(Script::new(()).then(acquire).then(release).killable())
//!     .kills(1)
//!     .check(|end| end.assert_nobody_sleeps())
//!     .run();
//! ```

use core::fmt;
use core::hash::{BuildHasherDefault, Hash, Hasher};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

mod calls;
mod scripts;
mod stack;
mod state;
mod trace;

pub use self::calls::Place;
pub(crate) use self::calls::{
    Change, Private, change, compare_exchange, current_thread, is_active, load, now, private, wait,
    wake,
};
pub use self::scripts::Script;
use self::scripts::{Failure, Scripts};
use self::state::{EVENTS, Event, Limits, State, Status};

/// The most threads that an exploration can have.
pub const MAX_THREADS: usize = 8;

/// In so many states each thread is run alone, and then in one of so many.
const FIRST: usize = 10_000;
const SAMPLE: u64 = 64;

/// An exploration: what is shared, the threads, and what is to hold.
pub struct Exploration<S, P> {
    name: String,
    scripts: Scripts<S, P>,
    most: Limits,
    most_states: usize,
    may_be_cut: bool,
    solo: Option<u32>,
    check: Check<S, P>,
}

type Check<S, P> = Box<dyn Fn(&mut End<'_, S, P>)>;

impl<S, P> fmt::Debug for Exploration<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exploration").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What was explored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The exploration's name.
    pub name: String,
    /// How many states there are.
    pub states: usize,
    /// In how many of them no thread could go on.
    pub ends: usize,
    /// How many moments of the scripts were met: so often was code run.
    pub moments: usize,
    /// There are more states than were to be explored.
    pub is_cut: bool,
    /// How long it took.
    pub time: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { name, states, ends, moments, is_cut, time } = self;
        let cut = if *is_cut { ", CUT" } else { "" };
        write!(f, "{name}: {states} states, {ends} ends, {moments} moments, {time:.1?}{cut}")
    }
}

/// How a thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has done all of its script.
    Finished,
    /// It sleeps, and nobody will wake it.
    Asleep,
    /// It was killed.
    Killed,
    /// It was stopped for ever.
    Stopped,
    /// It was to begin after a death that did not come.
    NotBegun,
}

/// A state in which no thread can go on.
pub struct End<'a, S, P> {
    scripts: &'a mut Scripts<S, P>,
    state: &'a State,
}

impl<S, P> fmt::Debug for End<'_, S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End").field("state", &self.state).finish_non_exhaustive()
    }
}

impl<S, P: Clone + Eq + Hash> End<'_, S, P> {
    /// How many threads there are.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.scripts.scripts.len()
    }

    /// How a thread has ended.
    #[must_use]
    pub fn fate(&self, thread: usize) -> Fate {
        match self.state.threads[thread].status {
            Status::Dead => Fate::Killed,
            Status::Stopped => Fate::Stopped,
            Status::Unborn => Fate::NotBegun,
            Status::Asleep => Fate::Asleep,
            _ => Fate::Finished,
        }
    }

    /// What the operations that a thread has done have returned. One that it was killed in may have
    /// had its effect, too.
    #[must_use]
    pub fn outputs(&self, thread: usize) -> &[u64] {
        self.scripts.moment(self.state, thread).outputs()
    }

    /// How many were killed.
    #[must_use]
    pub fn kills(&self) -> u32 {
        self.state.kills
    }

    /// Fails if anybody sleeps.
    ///
    /// # Panics
    /// If somebody does.
    pub fn assert_nobody_sleeps(&self) {
        let sleepers: Vec<_> =
            (0..self.threads()).filter(|&thread| self.fate(thread) == Fate::Asleep).collect();
        assert!(sleepers.is_empty(), "{sleepers:?} sleep and nobody will wake them");
    }

    /// Runs `look` as one more thread that is alone with all there is. What it changes nobody sees.
    ///
    /// # Panics
    /// If it goes to sleep.
    pub fn look<R>(&mut self, look: impl FnOnce(&S) -> R) -> R {
        self.scripts.run_alone(self.state.words.clone(), look)
    }
}

/// A state on the way to the one that is explored, and what is tried next from there.
struct Frame {
    state: State,
    /// Nobody else needs to go on from here, since nobody else notices what this one does.
    only: Option<usize>,
    /// One for each event of each thread.
    next: usize,
    moved: bool,
}

#[derive(Default)]
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("a fingerprint is a u64");
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}

impl<S, P: Clone + Eq + Hash> Exploration<S, P> {
    /// An exploration of what threads do with `shared`.
    pub fn new(name: impl Into<String>, shared: S) -> Self {
        Exploration {
            name: name.into(),
            scripts: Scripts::new(shared),
            most: Limits::default(),
            most_states: 100_000_000,
            may_be_cut: false,
            solo: None,
            check: Box::new(|end| end.assert_nobody_sleeps()),
        }
    }

    /// One more thread: they are numbered from 0, and each has its number and 1 for its TID.
    ///
    /// # Panics
    /// If there are [`MAX_THREADS`] already.
    #[must_use]
    pub fn thread(mut self, script: Script<S, P>) -> Self {
        assert!(self.scripts.scripts.len() < MAX_THREADS, "at most {MAX_THREADS} threads");
        self.scripts.scripts.push(script);
        self
    }

    /// How many of the killable threads may be killed.
    #[must_use]
    pub fn kills(mut self, most: u32) -> Self {
        self.most.kills = most;
        self
    }

    /// How many of the stoppable threads may be stopped.
    #[must_use]
    pub fn stops(mut self, most: u32) -> Self {
        self.most.stops = most;
        self
    }

    /// How many states to explore: 50 million, unless this is said. That there are more is a
    /// failure.
    #[must_use]
    pub fn states(mut self, most: usize) -> Self {
        self.most_states = most;
        self
    }

    /// Explores no more than so many states, and says in its report whether there are more.
    #[must_use]
    pub fn cut_at(mut self, most: usize) -> Self {
        self.may_be_cut = true;
        self.states(most)
    }

    /// Fails if a thread that is alone from some state on does not finish its operation, or go to
    /// sleep, within so many steps. Looked at in the first thousands of states, then in one of 64.
    #[must_use]
    pub fn solo(mut self, most_steps: u32) -> Self {
        self.solo = Some(most_steps);
        self
    }

    /// Panics where an end is not as it should be: see [`End::assert_nobody_sleeps`].
    #[must_use]
    pub fn check(mut self, check: impl Fn(&mut End<'_, S, P>) + 'static) -> Self {
        self.check = Box::new(check);
        self
    }

    /// Explores all there is, and prints how much that was.
    ///
    /// # Panics
    /// On a failure, whose steps it prints; if there are too many states.
    #[allow(clippy::must_use_candidate, reason = "that it returns is the result")]
    pub fn run(mut self) -> Report {
        let started = Instant::now();
        let mut seen = HashSet::<u64, BuildHasherDefault<Fingerprint>>::default();
        let mut path = Vec::new();
        let mut ends = 0;
        match self.scripts.start() {
            Ok(state) => {
                seen.insert(state.fingerprint());
                path.push(self.frame(state));
                self.run_each_solo(&path);
            }
            Err(failure) => self.fail(&path, failure),
        }
        while let Some(frame) = path.last_mut() {
            let Some((thread, event)) = self.next_of(frame) else {
                if !frame.moved {
                    ends += 1;
                    self.check_end(&path);
                }
                path.pop();
                continue;
            };
            let mut state = frame.state.clone();
            if let Err(failure) = self.scripts.happen(&mut state, thread, event) {
                self.fail(&path, failure);
            }
            let fingerprint = state.fingerprint();
            if !seen.insert(fingerprint) {
                continue;
            }
            let frame = self.frame(state);
            path.push(frame);
            if seen.len() < FIRST || fingerprint % SAMPLE == 0 {
                self.run_each_solo(&path);
            }
            if seen.len() > self.most_states {
                break;
            }
        }
        let report = Report {
            name: self.name,
            states: seen.len(),
            ends,
            moments: self.scripts.moments.len(),
            is_cut: !path.is_empty(),
            time: started.elapsed(),
        };
        println!("{report}");
        assert!(
            self.may_be_cut || !report.is_cut,
            "{}: more than {} states",
            report.name,
            self.most_states
        );
        report
    }

    fn frame(&self, state: State) -> Frame {
        let is_alone = |thread: &usize| {
            self.scripts.can(&state, *thread, Event::Step, self.most)
                && !self.scripts.can(&state, *thread, Event::Kill, self.most)
                && !self.scripts.can(&state, *thread, Event::Stop, self.most)
                && self.scripts.is_private(&state, *thread)
        };
        let only = (0..self.scripts.scripts.len()).find(is_alone);
        Frame { state, only, next: 0, moved: false }
    }

    /// What is to be tried next in a state.
    fn next_of(&self, frame: &mut Frame) -> Option<(usize, Event)> {
        if let Some(only) = frame.only {
            return (!core::mem::replace(&mut frame.moved, true)).then_some((only, Event::Step));
        }
        while frame.next < EVENTS.len() * self.scripts.scripts.len() {
            let (thread, event) = (frame.next / EVENTS.len(), EVENTS[frame.next % EVENTS.len()]);
            frame.next += 1;
            if self.scripts.can(&frame.state, thread, event, self.most) {
                frame.moved |= !matches!(event, Event::Kill | Event::Stop);
                return Some((thread, event));
            }
        }
        None
    }

    fn check_end(&mut self, path: &[Frame]) {
        let Some(frame) = path.last() else { return };
        let mut end = End { scripts: &mut self.scripts, state: &frame.state };
        let checked = catch_unwind(AssertUnwindSafe(|| (self.check)(&mut end)));
        if let Err(payload) = checked {
            self.fail(path, Failure::Panic(payload));
        }
    }

    fn run_each_solo(&mut self, path: &[Frame]) {
        let (Some(most_steps), Some(frame)) = (self.solo, path.last()) else { return };
        for thread in 0..self.scripts.scripts.len() {
            let mut state = frame.state.clone();
            let done = self.scripts.moment(&state, thread).done();
            let mut steps = 0;
            while self.scripts.can(&state, thread, Event::Step, Limits::default())
                && self.scripts.moment(&state, thread).done() == done
            {
                if let Err(failure) = self.scripts.happen(&mut state, thread, Event::Step) {
                    self.fail(path, failure);
                }
                steps += 1;
                assert!(
                    steps <= most_steps || self.print(path),
                    "{}: thread {thread} alone does not finish its operation",
                    self.name
                );
            }
        }
    }

    /// Prints the steps that lead to a failure.
    fn fail(&self, path: &[Frame], failure: Failure) -> ! {
        self.print(path);
        match failure {
            Failure::Panic(payload) => resume_unwind(payload),
            Failure::Endless => panic!(
                "{}: an operation takes more than {} steps",
                self.name, self.scripts.most_steps
            ),
        }
    }

    /// Always false.
    fn print(&self, path: &[Frame]) -> bool {
        println!("{}: fails after {} steps", self.name, path.len());
        for (index, frame) in path.iter().enumerate() {
            let event = match frame.only {
                Some(only) => (only, Event::Step),
                None if frame.next == 0 => continue,
                None => ((frame.next - 1) / EVENTS.len(), EVENTS[(frame.next - 1) % EVENTS.len()]),
            };
            if index + 1 < path.len() || frame.moved {
                println!("  {}", self.scripts.describe(&frame.state, event.0, event.1));
            }
        }
        if let Some(frame) = path.last() {
            println!("  then: {}", self.scripts.describe_state(&frame.state));
        }
        false
    }
}
