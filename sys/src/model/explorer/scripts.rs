//! What each thread does: its operations, and the moments in them that were met.
//!
//! A moment is where a thread can be: before a step, or at its end. It is known by the operation, what the thread had when that began, and the results of its steps since. So what comes after
//! a moment and a result is found once, by running the code, and is then known: an exploration takes most of its steps without running any.

use core::hash::Hash;
use std::any::Any;
use std::collections::HashMap;
use std::rc::Rc;

use super::calls::{Action, Ended, Places, WordId, Words, replay, run_alone};
use crate::robust::{RobustWord, Thread};

type Operation<S, P> = Box<dyn Fn(&S, &mut P) -> u64>;

/// What a thread of an exploration does: operations, one after the other.
///
/// An operation gets what is shared and the thread's private state, and returns a number, which the check at the end is told. Whatever it does must follow
/// from these two and the results of its steps alone. `P` is what the thread keeps between its operations.
pub struct Script<S, P> {
    pub(super) private: P,
    preparations: Vec<Operation<S, P>>,
    operations: Vec<Operation<S, P>>,
    pub(super) is_killable: bool,
    pub(super) after: Option<usize>,
}

impl<S, P> core::fmt::Debug for Script<S, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Script").field("operations", &self.operations.len()).finish_non_exhaustive()
    }
}

impl<S, P> Script<S, P> {
    /// A thread that does nothing yet.
    #[must_use]
    pub fn new(private: P) -> Self {
        Script { private, preparations: Vec::new(), operations: Vec::new(), is_killable: false, after: None }
    }

    /// The next operation.
    #[must_use]
    pub fn then(mut self, operation: impl Fn(&S, &mut P) -> u64 + 'static) -> Self {
        self.operations.push(Box::new(operation));
        self
    }

    /// What the thread has done before the exploration begins, alone, in the order of the threads. It must not sleep; locks that it takes it holds at the start.
    #[must_use]
    pub fn prepared(mut self, operation: impl Fn(&S, &mut P) -> u64 + 'static) -> Self {
        self.preparations.push(Box::new(operation));
        self
    }

    /// It may be killed.
    #[must_use]
    pub fn killable(mut self) -> Self {
        self.is_killable = true;
        self
    }

    /// It begins only when the thread `victim` is dead.
    #[must_use]
    pub fn after_death_of(mut self, victim: usize) -> Self {
        self.after = Some(victim);
        self
    }
}

/// A moment by the order in which they were met.
pub(crate) type MomentId = u32;

/// A thread at the beginning of an operation.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Beginning<P> {
    thread: usize,
    operation: usize,
    private: P,
    outputs: Vec<u64>,
    held: Vec<*const RobustWord>,
}

pub(crate) struct Moment<P> {
    beginning: Rc<Beginning<P>>,
    /// The operation's first moment.
    pub(super) first: MomentId,
    /// What it comes after, in the same operation, and the result of the step there.
    before: Option<(MomentId, u64)>,
    depth: u32,
    /// The next step; `None` at the script's end.
    pub(super) action: Option<Action>,
    /// What the kernel looks at should the thread die here, in the order in which it does, and last the pending one, if there is one.
    pub(super) held: Vec<WordId>,
    pub(super) pending: Option<WordId>,
    next: Vec<(u64, MomentId)>,
}

impl<P> Moment<P> {
    /// How many operations the thread has done.
    pub(super) fn done(&self) -> usize {
        self.beginning.operation
    }

    /// What they have returned.
    pub(super) fn outputs(&self) -> &[u64] {
        &self.beginning.outputs
    }
}

/// Why there is no next moment.
pub(crate) enum Failure {
    Panic(Box<dyn Any + Send>),
    Endless,
}

pub(crate) struct Scripts<S, P> {
    pub(super) shared: Box<S>,
    pub(super) scripts: Vec<Script<S, P>>,
    pub(super) places: Places,
    pub(super) moments: Vec<Moment<P>>,
    beginnings: HashMap<Rc<Beginning<P>>, MomentId>,
    pub(super) most_steps: u32,
}

/// The thread `index` has the TID `index + 1`, a newcomer one that no thread has.
fn tid(index: usize) -> u32 {
    index as u32 + 1
}

impl<S, P: Clone + Eq + Hash> Scripts<S, P> {
    pub(super) fn new(shared: Box<S>) -> Self {
        let places = Places::default();
        Scripts { shared, scripts: Vec::new(), places, moments: Vec::new(), beginnings: HashMap::new(), most_steps: 1_000 }
    }

    /// Does what the threads have done before: the words, and where each thread is.
    pub(super) fn prepare(&mut self) -> Result<(Words, Vec<MomentId>), Failure> {
        let mut words = Words::default();
        let mut first = Vec::new();
        for index in 0..self.scripts.len() {
            let script = &mut self.scripts[index];
            let mut thread = Thread::new(tid(index));
            for operation in &script.preparations {
                let held = thread.held();
                let body = || operation(&self.shared, &mut script.private);
                let (_, after) = run_alone(&mut self.places, Thread::holding(tid(index), held), &mut words, body);
                thread = Thread::holding(tid(index), after.held());
            }
            let (private, held) = (script.private.clone(), thread.held());
            first.push(self.begin(Beginning { thread: index, operation: 0, private, outputs: Vec::new(), held })?);
        }
        Ok((words, first))
    }

    /// Runs `body` as a newcomer that is alone with the words.
    pub(super) fn run_alone<R>(&mut self, mut words: Words, body: impl FnOnce(&S) -> R) -> R {
        let newcomer = Thread::new(tid(self.scripts.len()));
        run_alone(&mut self.places, newcomer, &mut words, || body(&self.shared)).0
    }

    /// Where a thread is after the step at `moment` had this result.
    pub(super) fn after(&mut self, moment: MomentId, result: u64) -> Result<MomentId, Failure> {
        let before = &self.moments[moment as usize];
        if let Some((_, after)) = before.next.iter().find(|(of, _)| *of == result) {
            return Ok(*after);
        }
        if before.depth >= self.most_steps {
            return Err(Failure::Endless);
        }
        let (beginning, first) = (Rc::clone(&before.beginning), before.first);
        let after = self.run(&beginning, Some((moment, result, first)))?;
        self.moments[moment as usize].next.push((result, after));
        Ok(after)
    }

    fn begin(&mut self, beginning: Beginning<P>) -> Result<MomentId, Failure> {
        if let Some(known) = self.beginnings.get(&beginning) {
            return Ok(*known);
        }
        let beginning = Rc::new(beginning);
        let moment = if beginning.operation < self.scripts[beginning.thread].operations.len() {
            self.run(&beginning, None)?
        } else {
            let thread = Thread::holding(tid(beginning.thread), beginning.held.clone());
            self.add(&beginning, None, None, &thread)
        };
        self.beginnings.insert(beginning, moment);
        Ok(moment)
    }

    /// Runs an operation from its beginning to the step after `before`, or to the first one.
    fn run(&mut self, beginning: &Rc<Beginning<P>>, before: Option<(MomentId, u64, MomentId)>) -> Result<MomentId, Failure> {
        let log = before.map_or_else(Vec::new, |(moment, result, _)| self.log(moment, result));
        let thread = Thread::holding(tid(beginning.thread), beginning.held.clone());
        let mut private = beginning.private.clone();
        let operation = &self.scripts[beginning.thread].operations[beginning.operation];
        let (ended, thread) = replay(&mut self.places, thread, log, || operation(&self.shared, &mut private));
        match ended {
            Ended::Before(action) => Ok(self.add(beginning, before, Some(action), &thread)),
            Ended::Returned(output) => {
                assert!(thread.pending().is_none(), "an operation has ended and is pending");
                let outputs = beginning.outputs.iter().copied().chain([output]).collect();
                let (thread, held) = (beginning.thread, thread.held());
                self.begin(Beginning { thread, operation: beginning.operation + 1, private, outputs, held })
            }
            Ended::Panicked(payload) => Err(Failure::Panic(payload)),
        }
    }

    fn add(
        &mut self,
        beginning: &Rc<Beginning<P>>,
        before: Option<(MomentId, u64, MomentId)>,
        action: Option<Action>,
        thread: &Thread,
    ) -> MomentId {
        let new = MomentId::try_from(self.moments.len()).expect("fewer than 2^32 moments");
        let pending = thread.pending().map(|place| self.places.id(place));
        let held = thread.held_places().map(|place| self.places.id(place)).filter(|word| Some(*word) != pending).collect();
        self.moments.push(Moment {
            beginning: Rc::clone(beginning),
            first: before.map_or(new, |(_, _, first)| first),
            before: before.map(|(moment, result, _)| (moment, result)),
            depth: before.map_or(0, |(moment, ..)| self.moments[moment as usize].depth + 1),
            action,
            held,
            pending,
            next: Vec::new(),
        });
        new
    }

    /// The steps of an operation up to `moment`, and the one there.
    fn log(&self, moment: MomentId, result: u64) -> Vec<(Action, u64)> {
        let mut log = Vec::new();
        let mut at = Some((moment, result));
        while let Some((moment, result)) = at {
            let moment = &self.moments[moment as usize];
            log.push((moment.action.clone().expect("a step comes after it"), result));
            at = moment.before;
        }
        log.reverse();
        log
    }
}
