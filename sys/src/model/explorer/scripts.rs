//! What each thread does: its operations, and the moments in them that were met.
//!
//! A moment is a place where a thread can be: before a step, or at its end. It is identified by the
//! operation, what the thread had when the operation began, and how far it has got. The last is its
//! stack, its private state and its robust list. What follows a moment and a result is found once,
//! by running the code, and is then known. So an exploration takes most of its steps without
//! running any code.

use core::hash::Hash;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::calls::{Action, Ended, Ground, Panic, Place, Walked, Words, replay, run_alone};
use super::stack::Body;
use crate::robust::{Hold, Holding, Thread};

type Operation<S, P> = Rc<dyn Fn(&S, &mut P) -> u64>;

/// What a thread of an exploration does: operations, one after the other.
///
/// An operation gets what is shared and the thread's private state. It returns a number, which the
/// final check can read. Everything it does must follow from these two and the results of its steps
/// alone. `P` is what the thread keeps between its operations.
pub struct Script<S, P> {
    pub(super) private: P,
    preparations: Vec<Operation<S, P>>,
    operations: Vec<Operation<S, P>>,
    pub(super) killable_from: Option<usize>,
    pub(super) after: Option<usize>,
    pub(super) process: Option<usize>,
    pub(super) is_stoppable: bool,
}

impl<S, P> core::fmt::Debug for Script<S, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Script").field("operations", &self.operations.len()).finish_non_exhaustive()
    }
}

impl<S, P> Script<S, P> {
    /// Creates the script of a thread that does nothing yet.
    #[must_use]
    pub fn new(private: P) -> Self {
        Script {
            private,
            preparations: Vec::new(),
            operations: Vec::new(),
            killable_from: None,
            after: None,
            process: None,
            is_stoppable: false,
        }
    }

    /// Adds the next operation.
    #[must_use]
    pub fn then(mut self, operation: impl Fn(&S, &mut P) -> u64 + 'static) -> Self {
        self.operations.push(Rc::new(operation));
        self
    }

    /// Adds an operation that the thread has done before the exploration begins. These run alone,
    /// in the order of the threads. The operation must not sleep. The thread still holds the locks
    /// it took when the exploration starts.
    #[must_use]
    pub fn prepared(mut self, operation: impl Fn(&S, &mut P) -> u64 + 'static) -> Self {
        self.preparations.push(Rc::new(operation));
        self
    }

    /// Lets the thread be killed.
    #[must_use]
    pub fn killable(self) -> Self {
        self.killable_from(0)
    }

    /// Lets the thread be killed from its operation `first` on, counted from 0. Use it where kills
    /// at all its moments would be too many.
    #[must_use]
    pub fn killable_from(mut self, first: usize) -> Self {
        self.killable_from = Some(first);
        self
    }

    /// Makes it a thread of the process `process`. Each of the threads of a process may be killed,
    /// and a kill of one kills all.
    #[must_use]
    pub fn of_process(mut self, process: usize) -> Self {
        self.process = Some(process);
        self.killable()
    }

    /// Lets the thread be stopped for ever where it is awake. It keeps what it holds, and no thread
    /// is told.
    #[must_use]
    pub fn stoppable(mut self) -> Self {
        self.is_stoppable = true;
        self
    }

    /// Lets the thread begin only when the thread `victim` is dead.
    #[must_use]
    pub fn after_death_of(mut self, victim: usize) -> Self {
        self.after = Some(victim);
        self
    }
}

/// A moment's number, in the order in which moments were first met.
pub(crate) type MomentId = u32;

/// A thread at the beginning of an operation.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Beginning<P> {
    thread: usize,
    operation: usize,
    private: P,
    outputs: Vec<u64>,
    held: Vec<Hold>,
}

pub(crate) struct Moment<P> {
    beginning: Rc<Beginning<P>>,
    /// The operation's first moment.
    pub(super) first: MomentId,
    /// The moment before it in the same operation, and the result of the step there.
    before: Option<(MomentId, u64)>,
    depth: u32,
    /// The next step; `None` at the script's end.
    pub(super) action: Option<Action>,
    /// The words that the kernel looks at if the thread dies here.
    pub(super) walked: Walked,
    next: Vec<(u64, MomentId)>,
}

impl<P> Moment<P> {
    /// Returns the number of operations that the thread has finished.
    pub(super) fn done(&self) -> usize {
        self.beginning.operation
    }

    /// Returns the results of those operations.
    pub(super) fn outputs(&self) -> &[u64] {
        &self.beginning.outputs
    }
}

/// What identifies a moment of an operation. If two have the same key, all that follows is the
/// same.
#[derive(PartialEq, Eq, Hash)]
struct Key<P> {
    beginning: *const Beginning<P>,
    action: Action,
    stack: u128,
    is_late: bool,
    private: P,
    walked: Walked,
    holdings: Vec<Holding>,
}

/// A run of an operation. It stays at one address, so that each run finds the same addresses.
struct Job<S, P> {
    operation: Option<Operation<S, P>>,
    shared: Rc<S>,
    private: Option<P>,
    returned: Option<std::thread::Result<u64>>,
}

impl<S, P> Body for Job<S, P> {
    fn run(&mut self) {
        let (Some(operation), Some(private)) = (&self.operation, &mut self.private) else { return };
        let returned = catch_unwind(AssertUnwindSafe(|| operation(&self.shared, private)));
        self.returned = Some(returned);
    }
}

/// Why there is no next moment.
pub(crate) enum Failure {
    Panic(Panic),
    Endless,
}

pub(crate) struct Scripts<S, P> {
    pub(super) shared: Rc<S>,
    pub(super) scripts: Vec<Script<S, P>>,
    pub(super) ground: Ground,
    pub(super) moments: Vec<Moment<P>>,
    keys: HashMap<Key<P>, MomentId>,
    job: Box<Job<S, P>>,
    beginnings: HashMap<Rc<Beginning<P>>, MomentId>,
    pub(super) most_steps: u32,
}

/// Returns the TID of a thread: `index + 1`. A newcomer has a TID that no thread has.
fn tid(index: usize) -> u32 {
    index as u32 + 1
}

impl<S, P: Clone + Eq + Hash> Scripts<S, P> {
    pub(super) fn new(shared: S) -> Self {
        let shared = Rc::new(shared);
        Scripts {
            job: Box::new(Job {
                operation: None,
                shared: Rc::clone(&shared),
                private: None,
                returned: None,
            }),
            shared,
            scripts: Vec::new(),
            ground: Ground::new(),
            moments: Vec::new(),
            keys: HashMap::new(),
            beginnings: HashMap::new(),
            most_steps: 1_000,
        }
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.ground.places.places
    }

    /// Does what the threads have done beforehand. Returns the words, and where each thread is.
    pub(super) fn prepare(&mut self) -> Result<(Words, Vec<MomentId>), Failure> {
        let mut words = Words::default();
        let mut first = Vec::new();
        for index in 0..self.scripts.len() {
            let script = &mut self.scripts[index];
            let mut held = Vec::new();
            for operation in &script.preparations {
                let body = || operation(&self.shared, &mut script.private);
                run_alone(&mut self.ground, Thread::holding(tid(index), held), &mut words, body);
                held = self.ground.thread.held();
            }
            let private = script.private.clone();
            first.push(self.begin(Beginning {
                thread: index,
                operation: 0,
                private,
                outputs: Vec::new(),
                held,
            })?);
        }
        Ok((words, first))
    }

    /// Runs `body` as a newcomer that is alone with the words.
    pub(super) fn run_alone<R>(&mut self, mut words: Words, body: impl FnOnce(&S) -> R) -> R {
        let newcomer = Thread::new(tid(self.scripts.len()));
        run_alone(&mut self.ground, newcomer, &mut words, || body(&self.shared))
    }

    /// Returns where a thread is after the step at `moment` had this result.
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
            *self.ground.thread = Thread::holding(tid(beginning.thread), beginning.held.clone());
            self.add(&beginning, None, None)
        };
        self.beginnings.insert(beginning, moment);
        Ok(moment)
    }

    /// Runs an operation from its beginning to the step after `before`, or to the first one.
    fn run(
        &mut self,
        beginning: &Rc<Beginning<P>>,
        before: Option<(MomentId, u64, MomentId)>,
    ) -> Result<MomentId, Failure> {
        let log = before.map_or_else(Vec::new, |(moment, result, _)| self.log(moment, result));
        let thread = Thread::holding(tid(beginning.thread), beginning.held.clone());
        self.job.operation =
            Some(Rc::clone(&self.scripts[beginning.thread].operations[beginning.operation]));
        self.job.private = Some(beginning.private.clone());
        let ended = replay(&mut self.ground, thread, log, &mut *self.job);
        let private = self.job.private.take().expect("it was put there");
        match (ended, self.job.returned.take()) {
            (Ended::Before(action, stack, is_late), _) => {
                let walked = self.ground.walked();
                let holdings = self.ground.thread.held().iter().map(|hold| hold.holding).collect();
                let (of, step) = (Rc::as_ptr(beginning), action.clone());
                let key =
                    Key { beginning: of, action: step, stack, is_late, private, walked, holdings };
                if let Some(known) = self.keys.get(&key) {
                    return Ok(*known);
                }
                let new = self.add(beginning, before, Some(action));
                self.keys.insert(key, new);
                Ok(new)
            }
            (_, Some(Ok(output))) => {
                let walked = self.ground.walked();
                assert!(
                    walked.pending.is_none() && walked.lent.is_empty(),
                    "an operation has ended and is pending"
                );
                let outputs = beginning.outputs.iter().copied().chain([output]).collect();
                let (thread, held) = (beginning.thread, self.ground.thread.held());
                self.begin(Beginning {
                    thread,
                    operation: beginning.operation + 1,
                    private,
                    outputs,
                    held,
                })
            }
            (Ended::Panicked(payload), _) | (_, Some(Err(payload))) => Err(Failure::Panic(payload)),
            (Ended::Returned, None) => unreachable!("it has returned"),
        }
    }

    fn add(
        &mut self,
        beginning: &Rc<Beginning<P>>,
        before: Option<(MomentId, u64, MomentId)>,
        action: Option<Action>,
    ) -> MomentId {
        let new = MomentId::try_from(self.moments.len()).expect("fewer than 2^32 moments");
        let walked = self.ground.walked();
        self.moments.push(Moment {
            beginning: Rc::clone(beginning),
            first: before.map_or(new, |(_, _, first)| first),
            before: before.map(|(moment, result, _)| (moment, result)),
            depth: before.map_or(0, |(moment, ..)| self.moments[moment as usize].depth + 1),
            action,
            walked,
            next: Vec::new(),
        });
        new
    }

    /// Returns the steps of an operation up to `moment`, and the step there.
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
