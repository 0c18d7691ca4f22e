//! The world of the models under `cfg(crossproc_loom)`: atomics, futexes and dying threads for
//! loom.
//!
//! The crate's types keep their layout and their `const fn new` here: a modelled atomic is a plain
//! word whose address leads to a loom atomic. The loom atomic of a word that does not start as zero
//! is made on first use. Make that first use where the word is made: loom takes it for the word's
//! creation. Loom runs all its threads on one thread of the system, so the world is thread-local.
//!
//! There are two futexes ([`Futexes`]). The one that sleeps finds lost wake-ups. Its mutex orders
//! everything that meets in it, and so hides a missing Acquire or Release. The other one only looks
//! at the word, and finds those.
//!
//! A participant may be **killed** before its k-th step ([`participant`]). A step is one access to
//! an atomic, one call on a futex, or one change of its robust list. The kernel's part at a
//! thread's end is done as [`robust`](crate::robust) describes it. The destructors of a killed
//! thread have no effect.
//!
//! The same calls also lead to the [`explorer`] while it runs in the calling thread of the system.
//! The explorer knows no weak memory, but visits each state only once. So it can finish
//! explorations that are far too large for loom.

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
    /// A queue under a mutex. A waiter that is never woken stays asleep, which loom reports as a
    /// deadlock.
    #[default]
    Sleep,
    /// Looks at the word with Relaxed loads until it has changed. Synchronises with nothing.
    Look,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) futexes: Futexes,
    pub(crate) words32: Words<AtomicU32>,
    pub(crate) words64: Words<AtomicU64>,
    /// Keyed by address, in the order of first use: an execution must not depend on addresses.
    pub(crate) queues: Vec<(usize, Rc<Futex>)>,
    /// 1 once every deadline has passed. It is loom's own, so that loom tries the sleeps before and
    /// after.
    expired: Option<Rc<AtomicU32>>,
    participants: HashMap<ThreadId, Rc<Participant>>,
}

/// Loom's atomics by the addresses of the modelled ones.
pub(crate) struct Words<A> {
    known: HashMap<usize, Rc<Watched<A>>>,
    /// Atomics for words that start as zeros, made before any thread, as loom demands.
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
    /// The steps left; `None` for a participant that is not to be killed.
    left: Cell<Option<usize>>,
    dead: Cell<bool>,
    is_first: Cell<bool>,
    writes: Cell<usize>,
}

/// The number of words of each size in the largest of the modelled primitives.
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
    /// Whether it was killed on the way. Otherwise its closure returned.
    pub killed: bool,
    /// The number of changes it made to atomics: successful exchanges, and stores.
    pub writes: usize,
}

/// Explores the executions of `model` with at most `preemptions` preemptions each. Returns how many
/// executions there were.
///
/// # Panics
/// On what loom reports: a panic in the model, a deadlock, a data race.
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

/// Runs `body` as the participant `tid` in the calling loom thread. With `Some(k)` the participant
/// is killed before its step `k`, if it gets that far.
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

/// From now on the calling participant is woken before others. The kernel sorts a queue's threads
/// by their priorities.
pub fn be_first() {
    me().expect("a participant").is_first.set(true);
}

pub(crate) fn is_first() -> bool {
    me().is_some_and(|me| me.is_first.get())
}

/// Lets every deadline pass: sleeps with a deadline return, and later ones do not sleep at all.
pub fn expire() {
    expiry().fetch_or(1, Relaxed);
    let queues: Vec<_> =
        WORLD.with_borrow(|world| world.queues.iter().map(|(_, queue)| Rc::clone(queue)).collect());
    for queue in queues {
        queue.expire();
    }
}

/// Returns whether every deadline has passed.
pub(crate) fn expired() -> bool {
    // An exchange, so that it does not read a stale value.
    expiry().fetch_or(0, Relaxed) != 0
}

fn expiry() -> Rc<AtomicU32> {
    WORLD.with_borrow(|world| world.expired.clone()).expect("the model has begun")
}

fn me() -> Option<Rc<Participant>> {
    let id = loom::thread::current().id();
    WORLD.with_borrow(|world| world.participants.get(&id).cloned())
}

/// Takes one step of the calling thread. Returns false if the thread is dead: nothing it does has
/// any effect.
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

/// Takes a step that only the kernel will know of.
pub(crate) fn private_step(what: Private) -> bool {
    if explorer::is_active() {
        explorer::private(what);
        return true;
    }
    step()
}

/// Counts a change made by the calling participant.
pub(crate) fn count_write() {
    if let Some(me) = me() {
        me.writes.set(me.writes.get() + 1);
    }
}

/// Returns the calling participant's robust list.
pub(crate) fn current_thread() -> Option<*const Thread> {
    if explorer::is_active() {
        return explorer::current_thread();
    }
    // The world keeps the participant until the execution ends.
    me().map(|me| core::ptr::from_ref(&me.thread))
}
