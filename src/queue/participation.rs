//! Which threads of this process take part in which queue.
//!
//! A thread becomes a participant when it first uses a queue, and is one until it ends, or until
//! the last handle of the process is gone: then the thread that dropped it at once, and others when
//! they end or attach to something else. In a forked child the copies of its parent's
//! participations are recognised by the session of the thread's record, and mean nothing.

#![allow(unsafe_code)]

use core::cell::{Cell, RefCell};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering::*};
use std::rc::Rc;
use std::sync::Arc;

use crossproc_sys::robust::{self, Holding, Slot, Thread};

use super::error::QueueError;
use super::exchange::Participant;
use super::memory::QueueMemory;
use super::participants::NoParticipant;
use crate::memory::region::Region;
use crate::sync::lock::state::LockRefused;

/// What all handles of a process to one queue share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) memory: QueueMemory,
    pub(crate) region: Region,
    /// How many there are. Relaxed: who reads 0 late keeps a mapping a little longer.
    handles: AtomicUsize,
}

/// A handle: it counts itself.
#[derive(Debug)]
pub(crate) struct QueueHandle(Arc<Inner>);

/// A thread's participation.
#[derive(Debug)]
pub(crate) struct Participation {
    inner: Arc<Inner>,
    /// That of `inner`, which keeps it mapped.
    memory: QueueMemory,
    pub(crate) participant: Participant,
    /// The record of the thread, and its session: in a forked child it has another, or none.
    pub(crate) thread: &'static Thread,
    session: u64,
    /// Where the token hangs: it counts the guards that the thread has of this queue.
    slot: Slot<'static>,
}

thread_local! {
    /// The queue that was used last, for a short way.
    static LAST: Cell<(*const Inner, *const Participation)> = const { Cell::new((ptr::null(), ptr::null())) };
    static ALL: All = const { All(RefCell::new(Vec::new())) };
}

/// The participations of a thread. When it ends they go, and the short way with them.
struct All(RefCell<Vec<Rc<Participation>>>);

impl Drop for All {
    fn drop(&mut self) {
        LAST.set((ptr::null(), ptr::null()));
    }
}

impl QueueHandle {
    pub(crate) fn new(memory: QueueMemory, region: Region) -> Self {
        QueueHandle(Arc::new(Inner { memory, region, handles: AtomicUsize::new(1) }))
    }

    #[inline(always)]
    pub(crate) fn memory(&self) -> &QueueMemory {
        &self.0.memory
    }

    pub(crate) fn region(&self) -> &Region {
        &self.0.region
    }

    /// Does something as a participant, which the calling thread becomes if it is none yet.
    #[inline(always)]
    pub(crate) fn with<R>(
        &self,
        operate: impl FnOnce(&Participation) -> R,
    ) -> Result<R, QueueError> {
        let (inner, participation) = LAST.get();
        if ptr::eq(inner, Arc::as_ptr(&self.0)) {
            // SAFETY: `LAST` is what is in `ALL`, in this thread, and is cleared before anything is
            // taken out of that; `operate` cannot reach either but through the
            // functions here, none of which takes out what belongs to a handle that exists, as
            // `self` does.
            let participation = unsafe { &*participation };
            if participation.is_of_this_thread() {
                return Ok(operate(participation));
            }
        }
        Ok(operate(&*self.participation()?))
    }

    /// The calling thread's participation, for a guard to keep.
    #[inline]
    pub(crate) fn participation_again(&self) -> Result<Rc<Participation>, QueueError> {
        let (inner, participation) = LAST.get();
        if ptr::eq(inner, Arc::as_ptr(&self.0)) {
            // SAFETY: as in `with`; `Rc::as_ptr` made it.
            let known = unsafe { &*participation };
            if known.is_of_this_thread() {
                // SAFETY: `ALL` has one count of it, so this is one more.
                unsafe { Rc::increment_strong_count(participation) };
                // SAFETY: the count is this one's.
                return Ok(unsafe { Rc::from_raw(participation) });
            }
        }
        self.participation()
    }

    /// The calling thread's participation.
    #[cold]
    pub(crate) fn participation(&self) -> Result<Rc<Participation>, QueueError> {
        let ended = || QueueError::ThreadEnds;
        let known = ALL.try_with(|all| {
            let mut all = all.0.borrow_mut();
            // What was copied by a fork, and what nobody has a handle to any more.
            let (kept, gone) = core::mem::take(&mut *all).into_iter().partition(|participation| {
                participation.is_of_this_thread() && participation.inner.has_handles()
            });
            *all = kept;
            LAST.set((ptr::null(), ptr::null()));
            let found = all
                .iter()
                .find(|participation| Arc::ptr_eq(&participation.inner, &self.0))
                .cloned();
            (found, gone)
        });
        let (known, gone): (_, Vec<Rc<Participation>>) = known.map_err(|_| ended())?;
        drop(gone);
        let participation = match known {
            Some(participation) => participation,
            None => {
                let participation = Rc::new(self.attach()?);
                ALL.try_with(|all| all.0.borrow_mut().push(Rc::clone(&participation)))
                    .map_err(|_| ended())?;
                participation
            }
        };
        LAST.set((Arc::as_ptr(&self.0), Rc::as_ptr(&participation)));
        Ok(participation)
    }

    fn attach(&self) -> Result<Participation, QueueError> {
        let thread = robust::current().map_err(QueueError::Unavailable)?;
        let (memory, region) = (&self.0.memory, &self.0.region);
        let allocate = |id| {
            memory
                .offsets
                .of_participant(&memory.config, id)
                .into_iter()
                .try_for_each(|(offset, len)| region.allocate(offset, len))
        };
        let participant = memory.attach(thread, allocate).map_err(|no_member| match no_member {
            NoParticipant::TooMany => {
                QueueError::TooManyParticipants { limit: memory.config.ids as usize }
            }
            NoParticipant::NoMemory(source) => QueueError::NoMemory(source),
            NoParticipant::Lock(LockRefused::Unavailable(source)) => {
                QueueError::Unavailable(source)
            }
            NoParticipant::Lock(_) => QueueError::TooManyHeld,
            NoParticipant::Corrupt => QueueError::Spoiled,
        })?;
        let token = &memory.record(participant.id).token;
        // Nothing was given out yet that would have to be this thread's.
        token.hold(Holding::BY_HAND);
        let slot = token.slot(thread).ok_or(QueueError::Spoiled)?;
        Ok(Participation {
            inner: Arc::clone(&self.0),
            memory: *memory,
            participant,
            thread,
            session: thread.session(),
            slot,
        })
    }
}

impl Clone for QueueHandle {
    fn clone(&self) -> Self {
        self.0.handles.fetch_add(1, Relaxed);
        QueueHandle(Arc::clone(&self.0))
    }
}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Relaxed) == 1 {
            // A thread whose locals are gone already has no participation either.
            let gone = ALL.try_with(|all| {
                LAST.set((ptr::null(), ptr::null()));
                let mut all = all.0.borrow_mut();
                let at = all
                    .iter()
                    .position(|participation| Arc::ptr_eq(&participation.inner, &self.0))?;
                Some(all.swap_remove(at))
            });
            drop(gone);
        }
    }
}

impl Inner {
    fn has_handles(&self) -> bool {
        self.handles.load(Relaxed) != 0
    }
}

impl Participation {
    #[inline(always)]
    pub(crate) fn is_of_this_thread(&self) -> bool {
        self.thread.session() == self.session
    }

    #[inline(always)]
    pub(crate) fn memory(&self) -> &QueueMemory {
        &self.memory
    }

    /// One guard more that gives references to what this participant has: the thread may not end
    /// before it, nor the process fork.
    #[inline]
    pub(crate) fn add_guard(&self) {
        let holding = self.slot.holding();
        self.slot.hold(Holding { guards: holding.guards + 1, ..holding });
    }

    /// One less. Nothing in a forked child, whose copy it is.
    #[inline]
    pub(crate) fn remove_guard(&self) {
        if self.is_of_this_thread() {
            let holding = self.slot.holding();
            self.slot.hold(Holding { guards: holding.guards.saturating_sub(1), ..holding });
        }
    }
}

impl Drop for Participation {
    fn drop(&mut self) {
        if self.is_of_this_thread() {
            self.memory.detach(self.thread, &self.participant);
        }
    }
}
