//! Explores every interleaving of a few threads that run the real code, with kills. Each state is
//! visited once.
//!
//! The explorer is sequentially consistent, so checking the orderings is left to loom. Its
//! advantage over loom is that a state is not explored again when it is reached in another way.
//! That makes tens of millions of states, four and more threads, and several kills affordable.
//!
//! A [`Script`] is what a thread does: operations on what is shared. Each access to a modelled
//! atomic, each call on a futex, and each change of the robust list is a **step**. Between any two
//! steps
//! - any other thread may take steps;
//! - a stoppable thread that is awake may be stopped for ever, as long as there are stops left;
//! - a killable thread may be killed, as long as there are kills left. The kernel then walks the
//!   thread's list, step by step. Another thread may have waited for this death before it began.
//!   The threads of one [process](Script::of_process) are killed together and end in any order. The
//!   threads that stand in for a thread end before it. That is the worst order: the thread may stay
//!   queued for a while, and may be given a wake-up;
//! - a sleep with a deadline may time out, and a woken thread may not have acted yet;
//! - a thread that looks at the clock may find that its deadline has passed. This then holds for
//!   the rest of that operation.
//!
//! A thread that has finished lives on, with the locks that it holds. [`Exploration::solo`] checks
//! whether each thread can go on alone, without the others.
//!
//! A **state** consists of the values of all words, the sleepers on each word in their order, and
//! where each thread is. That is its operation, its outputs so far, its private state, its robust
//! list and its stack. Where no thread can go on, [`Exploration::check`] decides whether that is
//! correct. Without such a check, no thread may sleep there. Panics of operations are failures,
//! too. A failure is printed with the steps that lead to it.
//!
//! # What the code must keep to
//! - The code depends only on the modelled words, the script's private state, and what never
//!   changes. The data that a `Lock` protects is plain memory, which is not part of a state and not
//!   restored. Use modelled atomics instead.
//! - What an operation keeps from step to step is on its stack or in the private state. The `Eq`
//!   and `Hash` of the private state must cover all of it. What an operation keeps on the heap or
//!   in a thread-local is not seen. It runs many times, and is abandoned rather than resumed, so
//!   what it owns at that moment is leaked.
//! - Deadlines lie in the future when the exploration is made, and in this century. An operation
//!   has at most one. Deadlines are made outside of operations: the time of an exploration begins
//!   before all of them.
//! - Spurious failures of `compare_exchange_weak`, spurious wake-ups and signals do not occur.
//!
//! # How sure it is
//! States are known by 64-bit fingerprints. The probability that one of 100 million states is taken
//! for another is 0.03 %. Moments of a thread are known by a 128-bit hash of its stack: see
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

/// Each thread is run alone in the first `FIRST` states, and then in one of `SAMPLE`.
const FIRST: usize = 10_000;
const SAMPLE: u64 = 64;

/// An exploration: what is shared, the threads, and the check.
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
    /// The number of states.
    pub states: usize,
    /// The number of states in which no thread could go on.
    pub ends: usize,
    /// The number of moments of the scripts that were met. Code was run once for each.
    pub moments: usize,
    /// Whether there are more states than were to be explored.
    pub is_cut: bool,
    /// The time it took.
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
    /// It sleeps, and will never be woken.
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
    /// Returns the number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.scripts.scripts.len()
    }

    /// Returns how a thread has ended.
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

    /// Returns the results of the operations that a thread has finished. The operation in which it
    /// was killed may have had its effect, too.
    #[must_use]
    pub fn outputs(&self, thread: usize) -> &[u64] {
        self.scripts.moment(self.state, thread).outputs()
    }

    /// Returns the number of kills.
    #[must_use]
    pub fn kills(&self) -> u32 {
        self.state.kills
    }

    /// Fails if any thread sleeps.
    ///
    /// # Panics
    /// If any thread sleeps.
    pub fn assert_nobody_sleeps(&self) {
        let sleepers: Vec<_> =
            (0..self.threads()).filter(|&thread| self.fate(thread) == Fate::Asleep).collect();
        assert!(sleepers.is_empty(), "{sleepers:?} sleep and nobody will wake them");
    }

    /// Runs `look` as one more thread that is alone with everything shared. Its changes are
    /// discarded.
    ///
    /// # Panics
    /// If `look` goes to sleep.
    pub fn look<R>(&mut self, look: impl FnOnce(&S) -> R) -> R {
        self.scripts.run_alone(self.state.words.clone(), look)
    }
}

/// A state on the path to the explored one, and what is to be tried next from there.
struct Frame {
    state: State,
    /// The only thread that needs to go on from here, since no other thread notices its step.
    only: Option<usize>,
    /// The index of the next candidate: one for each event of each thread.
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
    /// Creates an exploration of what threads do with `shared`.
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

    /// Adds a thread. Threads are numbered from 0, and the TID of each is its number plus 1.
    ///
    /// # Panics
    /// If there are already [`MAX_THREADS`].
    #[must_use]
    pub fn thread(mut self, script: Script<S, P>) -> Self {
        assert!(self.scripts.scripts.len() < MAX_THREADS, "at most {MAX_THREADS} threads");
        self.scripts.scripts.push(script);
        self
    }

    /// Sets how many of the killable threads may be killed.
    #[must_use]
    pub fn kills(mut self, most: u32) -> Self {
        self.most.kills = most;
        self
    }

    /// Sets how many of the stoppable threads may be stopped.
    #[must_use]
    pub fn stops(mut self, most: u32) -> Self {
        self.most.stops = most;
        self
    }

    /// Sets how many states to explore; the default is 100 million. More states than that are a
    /// failure.
    #[must_use]
    pub fn states(mut self, most: usize) -> Self {
        self.most_states = most;
        self
    }

    /// Explores at most `most` states. The report says whether there are more.
    #[must_use]
    pub fn cut_at(mut self, most: usize) -> Self {
        self.may_be_cut = true;
        self.states(most)
    }

    /// Fails if a thread that runs alone from some state on takes more than `most_steps` steps
    /// without finishing its operation or going to sleep. Checked in the first 10,000 states, then
    /// in one of 64.
    #[must_use]
    pub fn solo(mut self, most_steps: u32) -> Self {
        self.solo = Some(most_steps);
        self
    }

    /// Sets the check of the ends, which panics if an end is wrong: see
    /// [`End::assert_nobody_sleeps`].
    #[must_use]
    pub fn check(mut self, check: impl Fn(&mut End<'_, S, P>) + 'static) -> Self {
        self.check = Box::new(check);
        self
    }

    /// Explores every state, and prints how many there were.
    ///
    /// # Panics
    /// On a failure, whose steps it prints, or if there are too many states.
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

    /// Returns what is to be tried next in a state.
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

    /// Prints the steps that lead to a failure, and panics.
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

    /// Prints the steps of a path. Returns false, always.
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
