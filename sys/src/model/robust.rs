//! The robust list of the models: what a thread holds, which word it is working on, and what the
//! kernel does when the thread dies. See [`model`](crate::model).

#![allow(unsafe_code)]
#![allow(clippy::must_use_candidate, reason = "as in the real module")]

use core::cell::{Cell, RefCell};
use core::convert::Infallible;
use core::ptr;

use crate::atomic::AtomicU32;
use crate::futex::{Word, WordAddress, wake_at};
use crate::model::explorer::{Place, Private};
use crate::model::{current_thread, private_step};

pub use limits::{MAX_HELD, OWNER_DIED, TID_MASK, WAITERS};

#[allow(missing_docs, reason = "as in the real module")]
mod limits {
    pub const TID_MASK: u32 = 0x3fff_ffff;
    pub const OWNER_DIED: u32 = 0x4000_0000;
    pub const WAITERS: u32 = 0x8000_0000;
    pub const MAX_HELD: usize = 1_000;
}

/// As in the real module, without the entry: the model's list is a vector.
#[derive(Debug)]
pub struct RobustWord {
    word: AtomicU32,
    spare: [AtomicU32; 2],
}

#[allow(missing_docs, reason = "as in the real module")]
impl RobustWord {
    pub const fn new() -> Self {
        RobustWord { word: AtomicU32::new(0), spare: [const { AtomicU32::new(0) }; 2] }
    }

    pub fn spare(&self) -> &[AtomicU32; 2] {
        &self.spare
    }

    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }
}

impl Default for RobustWord {
    fn default() -> Self {
        RobustWord::new()
    }
}

/// As in the real module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "as in the real module")]
pub enum Error {
    NoList,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("not a participant of the model")
    }
}

impl std::error::Error for Error {}

/// As in the real module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "as in the real module")]
pub struct Holding {
    pub depth: u32,
    pub guards: u32,
}

#[allow(missing_docs, reason = "as in the real module")]
impl Holding {
    pub const BY_GUARD: Holding = Holding { depth: 1, guards: 1 };
    pub const BY_HAND: Holding = Holding { depth: 1, guards: 0 };

    #[must_use]
    pub fn less(self, by_guard: bool) -> Self {
        let depth = self.depth.saturating_sub(1);
        let guards = self.guards.saturating_sub(by_guard.into());
        Holding { depth, guards: guards.min(depth) }
    }
}

/// As in the real module.
#[derive(Debug)]
#[allow(missing_docs, reason = "as in the real module")]
pub enum NoSlot {
    Held,
    TooMany,
    Unavailable(Error),
}

/// A lock that a thread holds, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Hold {
    pub(crate) lock: *const RobustWord,
    pub(crate) holding: Holding,
}

/// As in the real module.
#[derive(Default)]
#[allow(missing_docs, reason = "as in the real module")]
pub struct Thread {
    tid: u32,
    held: RefCell<Vec<Hold>>,
    entry: Entry,
    /// The entries of other threads of its process, which stand in for it and die with it.
    lent: [Entry; MOST_LENT],
}

/// The greatest number of other threads that may stand in for a thread.
const MOST_LENT: usize = 2;

/// As in the real module. The models have none: each of their threads is a participant.
#[derive(Debug, Clone, Copy)]
pub struct Lent(Infallible);

#[allow(missing_docs, reason = "as in the real module")]
impl Lent {
    /// # Errors
    /// Always.
    ///
    /// # Safety
    /// None.
    pub unsafe fn of_this_thread() -> Result<Self, Error> {
        Err(Error::NoList)
    }

    pub fn entry(&self) -> &Entry {
        match self.0 {}
    }
}

/// As in the real module.
pub struct Entry {
    /// [`NOTHING`], or the word being worked on. An `Option` would have bytes that are never
    /// written and so hold anything. The explorer compares those bytes.
    pending: Cell<*const dyn Word>,
}

const NOTHING: *const dyn Word = ptr::null::<AtomicU32>();

impl Default for Entry {
    fn default() -> Self {
        Entry { pending: Cell::new(NOTHING) }
    }
}

impl core::fmt::Debug for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Entry").finish_non_exhaustive()
    }
}

impl core::fmt::Debug for Thread {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Thread").field("tid", &self.tid).finish_non_exhaustive()
    }
}

/// As in the real module.
#[derive(Debug)]
pub struct Pending(*const dyn Word);

/// As in the real module. A free slot knows the lock that it is for.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a>(&'a Thread, *const RobustWord);

/// As in the real module.
#[must_use]
pub fn ready() -> Option<&'static Thread> {
    current().ok()
}

/// As in the real module.
#[must_use]
pub fn of(tid: u32) -> Option<&'static Thread> {
    ready().filter(|thread| thread.tid == tid)
}

/// As in the real module, where it is a shortcut.
#[must_use]
pub fn at_hand() -> Option<(&'static Thread, Slot<'static>)> {
    None
}

/// As in the real module.
///
/// # Errors
/// The calling loom thread is not a participant.
pub fn current() -> Result<&'static Thread, Error> {
    let thread = current_thread().ok_or(Error::NoList)?;
    // SAFETY: the world keeps the participant until its execution ends, and nothing here outlives
    // an execution.
    Ok(unsafe { &*thread })
}

#[allow(missing_docs, reason = "as in the real module")]
impl Thread {
    pub(crate) fn new(tid: u32) -> Self {
        Thread { tid, ..Thread::default() }
    }

    pub fn tid(&self) -> u32 {
        self.tid
    }

    pub fn session(&self) -> u64 {
        self.tid.into()
    }

    pub fn slot_for(&self, lock: &RobustWord) -> Option<Slot<'_>> {
        (self.slot_of(lock).is_none() && self.has_free_slot()).then_some(Slot(self, lock))
    }

    pub fn no_slot(&self, lock: &RobustWord) -> NoSlot {
        if self.slot_of(lock).is_some() { NoSlot::Held } else { NoSlot::TooMany }
    }

    pub fn has_free_slot(&self) -> bool {
        self.held.borrow().len() < MAX_HELD
    }

    pub fn slot_of(&self, lock: &RobustWord) -> Option<Slot<'_>> {
        let is_held = self.held.borrow().iter().any(|hold| ptr::eq(hold.lock, lock));
        is_held.then_some(Slot(self, lock))
    }

    pub fn is_held_still(&self, _lock: &RobustWord) -> bool {
        true
    }

    pub fn holds_within(&self, start: usize, len: usize) -> bool {
        self.held.borrow().iter().any(|hold| hold.lock.addr().wrapping_sub(start) < len)
    }

    pub fn guards(&self) -> u32 {
        self.held.borrow().iter().map(|hold| hold.holding.guards).sum()
    }

    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Returns the entry of the thread that stands in for it as number `index`.
    ///
    /// # Panics
    /// If the models have no room for that many.
    pub fn lent(&self, index: usize) -> &Entry {
        &self.lent[index]
    }

    pub fn begin<W: Word>(&self, word: &W) {
        self.entry.begin(word);
    }

    pub fn end(&self) {
        self.entry.end();
    }

    pub fn begin_nested<W: Word>(&self, word: &W) -> Pending {
        self.entry.begin_nested(word)
    }

    pub fn end_nested(&self, before: Pending) {
        self.entry.end_nested(before);
    }

    pub fn link(&self, _free: Slot<'_>, lock: &RobustWord, holding: Holding) {
        if private_step(Private::Link) {
            self.held.borrow_mut().push(Hold { lock, holding });
        }
    }

    pub fn unlink(&self, lock: &RobustWord) -> bool {
        if !private_step(Private::Unlink) {
            return false;
        }
        let mut held = self.held.borrow_mut();
        let found = held.iter().rposition(|hold| ptr::eq(hold.lock, lock));
        found.map(|index| held.remove(index)).is_some()
    }

    /// Creates a thread that already holds locks.
    pub(crate) fn holding(tid: u32, held: Vec<Hold>) -> Self {
        Thread { tid, held: RefCell::new(held), ..Thread::default() }
    }

    pub(crate) fn held(&self) -> Vec<Hold> {
        self.held.borrow().clone()
    }

    /// Returns the words of the locks it holds, in the order of the kernel's walk.
    pub(crate) fn held_places(&self) -> impl Iterator<Item = Place> {
        // SAFETY: models keep their locks until the end of the execution or exploration.
        self.held().into_iter().rev().map(|hold| Word::place(unsafe { &*hold.lock }.word()))
    }

    pub(crate) fn pending(&self) -> Option<Place> {
        // SAFETY: models keep their locks until the end of the execution or exploration.
        unsafe { self.entry.pending.get().as_ref() }.map(Word::place)
    }

    /// Returns the words that are pending for it in the entries of other threads.
    pub(crate) fn lent_places(&self) -> impl Iterator<Item = Place> {
        // SAFETY: models keep their locks until the end of the execution or exploration.
        self.lent
            .iter()
            .filter_map(|entry| unsafe { entry.pending.get().as_ref() }.map(Word::place))
    }

    /// Does the kernel's walk at the thread's end.
    pub(crate) fn die(&self) {
        let pending = self.entry.pending.replace(NOTHING);
        for hold in self.held.take().into_iter().rev() {
            // SAFETY: models keep their locks until the execution ends.
            let word = unsafe { &*hold.lock }.word();
            if !ptr::addr_eq(pending, word) && word.owner_died(self.tid) {
                wake_at(word.address(), 1);
            }
        }
        // SAFETY: models keep their locks until the execution ends.
        if let Some(word) = unsafe { pending.as_ref() } {
            if word.low() & TID_MASK == 0 || word.owner_died(self.tid) {
                wake_at(word.address(), 1);
            }
        }
        for entry in &self.lent {
            // SAFETY: models keep their locks until the execution ends.
            if let Some(word) = unsafe { entry.pending.replace(NOTHING).as_ref() } {
                if word.low() & TID_MASK == 0 {
                    wake_at(word.address(), 1);
                }
            }
        }
    }
}

#[allow(missing_docs, reason = "as in the real module")]
impl Entry {
    pub fn begin<W: Word>(&self, word: &W) {
        if private_step(Private::Begin) {
            self.pending.set(ptr::from_ref(word));
        }
    }

    /// # Panics
    /// Always. Models know words by more than their addresses, so no participant calls this.
    pub fn begin_at(&self, _: WordAddress) {
        unreachable!("no participant knows a word by its address alone")
    }

    pub fn end(&self) {
        if private_step(Private::End) {
            self.pending.set(NOTHING);
        }
    }

    pub fn begin_nested<W: Word>(&self, word: &W) -> Pending {
        let before = self.now();
        if before.is_nothing() {
            self.begin(word);
        }
        before
    }

    pub fn now(&self) -> Pending {
        Pending(self.pending.get())
    }

    pub fn end_nested(&self, before: Pending) {
        if private_step(Private::End) {
            self.pending.set(before.0);
        }
    }
}

#[allow(missing_docs, reason = "as in the real module")]
impl Pending {
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.0.is_null()
    }
}

#[allow(missing_docs, reason = "as in the real module")]
impl Slot<'_> {
    /// # Panics
    /// If the slot has no lock.
    pub fn holding(self) -> Holding {
        let held = self.0.held.borrow();
        let hold = held.iter().rev().find(|hold| ptr::eq(hold.lock, self.1));
        hold.expect("a lock hangs on the slot").holding
    }

    pub fn hold(self, holding: Holding) {
        let mut held = self.0.held.borrow_mut();
        let mut of_lock = held.iter_mut().rev().filter(|hold| ptr::eq(hold.lock, self.1));
        if let Some(hold) = of_lock.next() {
            hold.holding = holding;
        }
    }
}

/// As in the real module. The model has no compiler to constrain.
pub fn in_program_order() {}

/// Returns false: models map nothing.
#[must_use]
pub fn any_held_within(_start: usize, _len: usize) -> bool {
    false
}
