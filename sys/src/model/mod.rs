//! The world that the models under `cfg(crossproc_loom)` run in: atomics, futexes and dying threads
//! for loom.
//!
//! The crate's types keep their layout and their `const fn new` here: a modelled atomic is a plain
//! word whose address leads to a loom atomic. (Those of words that do not start as zero are made on
//! first use: make that where the word is made, for loom it is its creation.) Loom runs all its
//! threads on one thread of the system, so the world is thread-local.
//!
//! Two futexes ([`Futexes`]): one that sleeps finds lost wake-ups; its mutex orders whatever meets
//! in it, and so hides a missing Acquire or Release, which the other one, that only looks at the
//! word, finds.
//!
//! A participant may be **killed** before its k-th step ([`participant`]), a step being one access
//! to an atomic, one call on a futex, one change of its robust list. The kernel's part at a
//! thread's end is done as [`robust`](crate::robust) describes it. What a killed thread's
//! destructors would do does not happen.
//!
//! The same calls also lead to the [`explorer`], while it runs in the calling thread of the system:
//! it knows no weak memory, but sees each state once, and so comes to the end of what is far too
//! much for loom.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU64 as Counter, Ordering::*};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::thread::ThreadId;

use crate::atomic::Watched;
use crate::futex::Futex;
use crate::model::explorer::Private;
use crate::robust::Thread;

pub mod explorer;

/// Which futex the executions run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Futexes {
    /// A queue under a mutex: a waiter that nobody wakes stays asleep, which loom reports as a
    /// deadlock.
    #[default]
    Sleep,
    /// Looks at the word with Relaxed loads until it has changed: synchronises with nobody.
    Look,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) futexes: Futexes,
    pub(crate) words32: Words<AtomicU32>,
    pub(crate) words64: Words<AtomicU64>,
    /// By address, in the order of their first use: an execution must not depend on addresses.
    pub(crate) queues: Vec<(usize, Rc<Futex>)>,
    /// 1 once every deadline has passed; loom's own, so that it tries the sleeps before and after.
    expired: Option<Rc<AtomicU32>>,
    participants: HashMap<ThreadId, Rc<Participant>>,
}

/// Loom's atomics by the addresses of the modelled ones.
pub(crate) struct Words<A> {
    known: HashMap<usize, Rc<Watched<A>>>,
    /// Made before any thread, as loom demands, for words that start as zeros.
    zeros: Vec<Rc<Watched<A>>>,
}

impl<A> Default for Words<A> {
    fn default() -> Self {
        Words { known: HashMap::new(), zeros: Vec::new() }
    }
}

impl<A> Words<A> {
    fn with_zeros(count: usize, zero: impl Fn() -> A) -> Self {
        Words {
            zeros: (0..count).map(|_| Rc::new(Watched::new(zero()))).collect(),
            ..Words::default()
        }
    }

    pub(crate) fn get(
        &mut self,
        address: usize,
        is_zero: bool,
        new: impl FnOnce() -> A,
    ) -> Rc<Watched<A>> {
        let zeros = &mut self.zeros;
        let make = || {
            if is_zero { zeros.pop() } else { None }.unwrap_or_else(|| Rc::new(Watched::new(new())))
        };
        Rc::clone(self.known.entry(address).or_insert_with(make))
    }
}

#[derive(Default)]
struct Participant {
    thread: Thread,
    /// Steps left; `None` for one that is not to be killed.
    left: Cell<Option<usize>>,
    dead: Cell<bool>,
    writes: Cell<usize>,
}

/// As many words as the largest of the models' primitives has.
const ZEROS_32: usize = 6;
const ZEROS_64: usize = 2;

thread_local! {
    pub(crate) static WORLD: RefCell<World> = RefCell::default();
}

/// The payload with which a killed participant unwinds.
struct Killed;

/// How a participant ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Killed on the way; otherwise its closure returned.
    pub killed: bool,
    /// How many changes it made to atomics: exchanges that succeeded, stores.
    pub writes: usize,
}

/// Explores the executions of `model` with at most `preemptions` preemptions each and says how many
/// there were.
///
/// # Panics
/// What loom reports: a panic in the model, a deadlock, a data race.
pub fn explore(
    futexes: Futexes,
    preemptions: Option<usize>,
    model: impl Fn() + Sync + Send + 'static,
) -> u64 {
    let executions = Arc::new(Counter::new(0));
    let counted = Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        WORLD.replace(World {
            futexes,
            words32: Words::with_zeros(ZEROS_32, || AtomicU32::new(0)),
            words64: Words::with_zeros(ZEROS_64, || AtomicU64::new(0)),
            expired: Some(Rc::default()),
            ..World::default()
        });
        model();
    });
    WORLD.take();
    executions.load(Relaxed)
}

/// Runs `body` as the participant `tid` in the calling loom thread; with `Some(k)` it is killed
/// before its step `k`, if it gets that far.
pub fn participant(tid: u32, killed_at: Option<usize>, body: impl FnOnce()) -> End {
    let me = Rc::new(Participant {
        thread: Thread::new(tid),
        left: Cell::new(killed_at),
        ..Participant::default()
    });
    let id = loom::thread::current().id();
    WORLD.with_borrow_mut(|world| world.participants.insert(id, Rc::clone(&me)));
    let killed = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(()) => false,
        Err(payload) if payload.is::<Killed>() => true,
        Err(payload) => resume_unwind(payload),
    };
    let writes = me.writes.get();
    me.left.set(None);
    me.dead.set(false);
    me.thread.die();
    End { killed, writes }
}

/// Lets every deadline pass: those asleep with one return, and those that come later do not sleep.
pub fn expire() {
    expiry().fetch_or(1, Relaxed);
    let queues: Vec<_> =
        WORLD.with_borrow(|world| world.queues.iter().map(|(_, queue)| Rc::clone(queue)).collect());
    for queue in queues {
        queue.expire();
    }
}

/// Whether it has.
pub(crate) fn expired() -> bool {
    // An exchange, so that it is not of before.
    expiry().fetch_or(0, Relaxed) != 0
}

fn expiry() -> Rc<AtomicU32> {
    WORLD.with_borrow(|world| world.expired.clone()).expect("the model has begun")
}

fn me() -> Option<Rc<Participant>> {
    let id = loom::thread::current().id();
    WORLD.with_borrow(|world| world.participants.get(&id).cloned())
}

/// One step of the calling thread: false if it is dead, and whatever it does has no effect.
pub(crate) fn step() -> bool {
    let Some(me) = me() else { return true };
    if me.dead.get() {
        return false;
    }
    match me.left.get() {
        Some(0) => {
            me.dead.set(true);
            resume_unwind(Box::new(Killed))
        }
        left => me.left.set(left.map(|left| left - 1)),
    }
    true
}

/// A step that nobody but the kernel will know of.
pub(crate) fn private_step(what: Private) -> bool {
    if explorer::is_active() {
        explorer::private(what);
        return true;
    }
    step()
}

/// Counts a change that the calling participant has made.
pub(crate) fn count_write() {
    if let Some(me) = me() {
        me.writes.set(me.writes.get() + 1);
    }
}

/// The calling participant's robust list.
pub(crate) fn current_thread() -> Option<*const Thread> {
    if explorer::is_active() {
        return explorer::current_thread();
    }
    // The participant is kept by the world until the execution ends.
    me().map(|me| core::ptr::from_ref(&me.thread))
}
