//! Which threads of this process take part in which queue.
//!
//! A thread becomes a participant when it first uses a queue. It is one until it ends, or until the
//! process's last handle is dropped. Then the thread that dropped the handle leaves at once; others
//! leave when they end or turn to another queue.
//!
//! In a forked child, the copies of its parent's participations mean nothing. They are recognised
//! by the session of the thread's record.

#![allow(unsafe_code)]

use core::cell::{Cell, RefCell};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering::*};
use std::rc::Rc;
use std::sync::Arc;

use crossproc_sys::robust::{self, Holding, Slot, Thread};

use super::error::QueueError;
use super::ring::ends::Which;
use super::ring::memory::QueueMemory;
use super::ring::participant::Participant;
use super::ring::participants::NoParticipant;
use crate::memory::region::Region;
use crate::sync::error::RobustListError;
use crate::sync::lock::state::LockRefused;

/// What all handles of a process to one queue share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) memory: QueueMemory,
    pub(crate) region: Region,
    /// The number of handles. Relaxed: a thread that reads 0 late keeps a mapping a little longer.
    handles: AtomicUsize,
}

/// A handle, which counts itself in `Inner::handles`.
#[derive(Debug)]
pub(crate) struct QueueHandle(Arc<Inner>);

/// A thread's participation in a queue.
#[derive(Debug)]
pub(crate) struct Participation {
    inner: Arc<Inner>,
    /// The memory of `inner`, which keeps it mapped.
    memory: QueueMemory,
    pub(crate) participant: Participant,
    /// The thread's record, and its session at the time of attaching. In a forked child the record
    /// has another session, or none.
    pub(crate) thread: &'static Thread,
    session: u64,
    /// The token's slot in the thread's robust list. It counts the guards that the thread has of
    /// this queue.
    slot: Slot<'static>,
}

thread_local! {
    /// A shortcut: the queue that was used last, and this thread's participation in it.
    static LAST: Cell<(*const Inner, *const Participation)> =
        const { Cell::new((ptr::null(), ptr::null())) };
    static ALL: All = const { All(RefCell::new(Vec::new())) };
}

/// A thread's participations. When the thread ends they are dropped, and the shortcut is cleared.
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

    /// Returns how many items are in the queue. A hint: the number may be stale by now.
    pub(crate) fn len(&self) -> usize {
        self.memory().ring(Which::Items).count()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.memory().is_closed()
    }

    /// Runs `operate` as a participant. The calling thread becomes one if it is none yet.
    #[inline(always)]
    pub(crate) fn with<R>(
        &self,
        operate: impl FnOnce(&Participation) -> R,
    ) -> Result<R, QueueError> {
        let participation = match self.last() {
            Some(last) => last,
            None => Rc::as_ptr(&self.participation()?),
        };
        // SAFETY: it is in this thread's `ALL`. `operate` can reach that only through the functions
        // here. None of them takes out the participation of a handle that exists, as `self` does.
        let participation = unsafe { &*participation };
        // The only call, so that it is inlined.
        Ok(operate(participation))
    }

    /// Returns the calling thread's participation, which is in its `ALL`, if this is the queue that
    /// it used last.
    #[inline(always)]
    fn last(&self) -> Option<*const Participation> {
        let (inner, last) = LAST.get();
        if !ptr::eq(inner, Arc::as_ptr(&self.0)) {
            return None;
        }
        // SAFETY: `LAST` points to what is in this thread's `ALL`, and is cleared before anything
        // is taken out of that.
        let is_of_this_thread = unsafe { &*last }.is_of_this_thread();
        is_of_this_thread.then_some(last)
    }

    /// Returns the calling thread's participation, for a guard to keep.
    #[inline]
    pub(crate) fn participation_again(&self) -> Result<Rc<Participation>, QueueError> {
        let Some(last) = self.last() else { return self.participation() };
        // SAFETY: `ALL` has a count of it, so it exists, and the pointer is from `Rc::as_ptr`; this
        // adds another count.
        unsafe { Rc::increment_strong_count(last) };
        // SAFETY: the count that was just added belongs to the result.
        Ok(unsafe { Rc::from_raw(last) })
    }

    /// Returns the calling thread's participation, and attaches the thread first if there is none.
    #[cold]
    pub(crate) fn participation(&self) -> Result<Rc<Participation>, QueueError> {
        let ended = || QueueError::ThreadEnds;
        let known = ALL.try_with(|all| {
            let mut all = all.0.borrow_mut();
            // `gone`: what a fork has copied, and participations in queues that have no handle
            // left.
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
                let participation = Rc::new(self.attach(false)?);
                ALL.try_with(|all| all.0.borrow_mut().push(Rc::clone(&participation)))
                    .map_err(|_| ended())?;
                participation
            }
        };
        LAST.set((Arc::as_ptr(&self.0), Rc::as_ptr(&participation)));
        Ok(participation)
    }

    /// Makes the calling thread one more participant, which only subscribes.
    pub(super) fn subscriber(&self) -> Result<Participation, QueueError> {
        self.attach(true)
    }

    fn attach(&self, as_subscriber: bool) -> Result<Participation, QueueError> {
        let thread =
            robust::current().map_err(RobustListError::new).map_err(QueueError::Unavailable)?;
        let (memory, region) = (&self.0.memory, &self.0.region);
        let allocate = |id| {
            memory
                .offsets
                .of_participant(&memory.config, id)
                .into_iter()
                .take(if as_subscriber { 1 } else { 2 })
                .try_for_each(|(offset, len)| region.allocate(offset, len))
        };
        let participant =
            memory.attach(thread, as_subscriber, allocate).map_err(
                |no_member| match no_member {
                    NoParticipant::TooMany => {
                        QueueError::TooManyParticipants { limit: memory.config.ids as usize }
                    }
                    NoParticipant::NoMemory(source) => QueueError::NoMemory(source),
                    NoParticipant::Lock(LockRefused::Unavailable(why)) => {
                        QueueError::Unavailable(RobustListError::new(why))
                    }
                    NoParticipant::Lock(_) => QueueError::TooManyHeld,
                    NoParticipant::Corrupt => QueueError::Spoiled,
                },
            )?;
        let token = &memory.record(participant.id).token;
        // Without a guard: nothing that has to be this thread's was given out yet.
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
            // A thread whose thread-locals are already gone has no participation either.
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

    /// Returns the region that the memory is in.
    pub(crate) fn region(&self) -> &Region {
        &self.inner.region
    }

    /// Counts one more guard that gives references to what this participant has. While it exists,
    /// the thread may not end, nor the process fork.
    #[inline]
    pub(crate) fn add_guard(&self) {
        let holding = self.slot.holding();
        self.slot.hold(Holding { guards: holding.guards + 1, ..holding });
    }

    /// Counts one guard less. Does nothing in a forked child, which has only a copy of it.
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
