//! The robust list of the models: what a thread holds and works on, and what the kernel does when it dies. See [`model`](crate::model).

#![allow(unsafe_code)]
#![allow(clippy::must_use_candidate, reason = "as in the real module")]

use core::cell::{Cell, RefCell};
use core::ptr;

use crate::atomic::AtomicU32;
use crate::futex::{Word, wake_at};
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
}

#[allow(missing_docs, reason = "as in the real module")]
impl RobustWord {
    pub const fn new() -> Self {
        RobustWord { word: AtomicU32::new(0) }
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
#[derive(Debug)]
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
#[allow(missing_docs, reason = "as in the real module")]
pub struct Thread {
    tid: u32,
    held: RefCell<Vec<*const RobustWord>>,
    /// [`NOTHING`], or what it works on. An `Option` would have bytes that are never written, and come from anywhere: the explorer compares them.
    pending: Cell<*const dyn Word>,
}

const NOTHING: *const dyn Word = ptr::null::<AtomicU32>();

impl Default for Thread {
    fn default() -> Self {
        Thread { tid: 0, held: RefCell::default(), pending: Cell::new(NOTHING) }
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

/// As in the real module.
#[derive(Debug, Clone, Copy)]
pub struct Slot;

/// As in the real module.
#[must_use]
pub fn ready() -> Option<&'static Thread> {
    current().ok()
}

/// As in the real module.
///
/// # Errors
/// The calling loom thread is no participant.
pub fn current() -> Result<&'static Thread, Error> {
    let thread = current_thread().ok_or(Error::NoList)?;
    // SAFETY: the world keeps the participant until its execution ends, and nothing here outlives an execution.
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

    pub fn free_slot(&self) -> Option<Slot> {
        (self.held.borrow().len() < MAX_HELD).then_some(Slot)
    }

    pub fn begin<W: Word>(&self, word: &W) {
        if private_step(Private::Begin) {
            self.pending.set(ptr::from_ref(word));
        }
    }

    pub fn end(&self) {
        if private_step(Private::End) {
            self.pending.set(NOTHING);
        }
    }

    pub fn begin_nested<W: Word>(&self, word: &W) -> Pending {
        let before = self.pending.get();
        if before.is_null() {
            self.begin(word);
        }
        Pending(before)
    }

    pub fn end_nested(&self, before: Pending) {
        if private_step(Private::End) {
            self.pending.set(before.0);
        }
    }

    pub fn link(&self, _free: Slot, lock: &RobustWord) {
        if private_step(Private::Link) {
            self.held.borrow_mut().push(lock);
        }
    }

    pub fn unlink(&self, lock: &RobustWord) -> bool {
        if !private_step(Private::Unlink) {
            return false;
        }
        let mut held = self.held.borrow_mut();
        let found = held.iter().rposition(|&entry| ptr::eq(entry, lock));
        found.map(|index| held.remove(index)).is_some()
    }

    /// A thread that holds locks already.
    pub(crate) fn holding(tid: u32, held: Vec<*const RobustWord>) -> Self {
        Thread { tid, held: RefCell::new(held), ..Thread::default() }
    }

    pub(crate) fn held(&self) -> Vec<*const RobustWord> {
        self.held.borrow().clone()
    }

    /// The words of what it holds, in the order of the kernel's walk.
    pub(crate) fn held_places(&self) -> impl Iterator<Item = Place> {
        // SAFETY: models keep their locks until the execution ends, or the exploration.
        self.held().into_iter().rev().map(|lock| Word::place(unsafe { &*lock }.word()))
    }

    pub(crate) fn pending(&self) -> Option<Place> {
        // SAFETY: as above.
        unsafe { self.pending.get().as_ref() }.map(Word::place)
    }

    /// The kernel's walk at the thread's end.
    pub(crate) fn die(&self) {
        let pending = self.pending.replace(NOTHING);
        for lock in self.held.take().into_iter().rev() {
            // SAFETY: models keep their locks until the execution ends.
            let word = unsafe { &*lock }.word();
            if !ptr::addr_eq(pending, word) && word.owner_died(self.tid) {
                wake_at(word.address(), 1);
            }
        }
        // SAFETY: as above.
        if let Some(word) = unsafe { pending.as_ref() } {
            if word.low() & TID_MASK == 0 || word.owner_died(self.tid) {
                wake_at(word.address(), 1);
            }
        }
    }
}

/// As in the real module; the model has no compiler to keep in order.
pub fn in_program_order() {}

/// Models map nothing.
#[must_use]
pub fn any_held_within(_start: usize, _len: usize) -> bool {
    false
}
