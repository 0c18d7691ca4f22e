//! Which threads of this process take part in which queue.
//!
//! A thread becomes a participant when it first uses a queue, and is one until it ends, or until the last handle of the process is gone: then the thread that dropped it at once, and others when they end or attach to something else.
//! In a forked child the copies of its parent's participations are recognised by the session of the thread's record, and mean nothing.

#![allow(unsafe_code)]

use core::cell::{Cell, RefCell};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering::*};
use std::rc::Rc;
use std::sync::Arc;

use crossproc_sys::robust::{self, Holding, Slot, Thread};

use super::error::QueueError;
use super::exchange::Member;
use super::ground::Ground;
use super::members::NoMember;
use crate::lock::state::Refused as Unlockable;
use crate::region::Region;

/// What all handles of a process to one queue share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) ground: Ground,
    pub(crate) region: Region,
    /// How many there are. Relaxed: who reads 0 late keeps a mapping a little longer.
    handles: AtomicUsize,
}

/// A handle: it counts itself.
#[derive(Debug)]
pub(crate) struct Handle(Arc<Inner>);

/// A thread's participation.
#[derive(Debug)]
pub(crate) struct Attached {
    inner: Arc<Inner>,
    /// That of `inner`, which keeps it mapped.
    ground: Ground,
    pub(crate) member: Member,
    /// The record of the thread, and its session: in a forked child it has another, or none.
    pub(crate) thread: &'static Thread,
    session: u64,
    /// Where the token hangs: it counts the guards that the thread has of this queue.
    slot: Slot<'static>,
}

thread_local! {
    /// The queue that was used last, for a short way.
    static LAST: Cell<(*const Inner, *const Attached)> = const { Cell::new((ptr::null(), ptr::null())) };
    static ALL: All = const { All(RefCell::new(Vec::new())) };
}

/// The participations of a thread. When it ends they go, and the short way with them.
struct All(RefCell<Vec<Rc<Attached>>>);

impl Drop for All {
    fn drop(&mut self) {
        LAST.set((ptr::null(), ptr::null()));
    }
}

impl Handle {
    pub(crate) fn new(ground: Ground, region: Region) -> Self {
        Handle(Arc::new(Inner { ground, region, handles: AtomicUsize::new(1) }))
    }

    #[inline(always)]
    pub(crate) fn ground(&self) -> &Ground {
        &self.0.ground
    }

    pub(crate) fn region(&self) -> &Region {
        &self.0.region
    }

    /// Does something as a participant, which the calling thread becomes if it is none yet.
    #[inline(always)]
    pub(crate) fn with<R>(&self, operate: impl FnOnce(&Attached) -> R) -> Result<R, QueueError> {
        let (inner, attached) = LAST.get();
        if ptr::eq(inner, Arc::as_ptr(&self.0)) {
            // SAFETY: `LAST` is what is in `ALL`, in this thread, and is cleared before anything is taken out of that; `operate` cannot reach either but through the
            // functions here, none of which takes out what belongs to a handle that exists, as `self` does.
            let attached = unsafe { &*attached };
            if attached.is_of_this_thread() {
                return Ok(operate(attached));
            }
        }
        Ok(operate(&*self.attached()?))
    }

    /// The calling thread's participation, for a guard to keep.
    #[inline]
    pub(crate) fn attached_again(&self) -> Result<Rc<Attached>, QueueError> {
        let (inner, attached) = LAST.get();
        if ptr::eq(inner, Arc::as_ptr(&self.0)) {
            // SAFETY: as in `with`; `Rc::as_ptr` made it.
            let known = unsafe { &*attached };
            if known.is_of_this_thread() {
                // SAFETY: `ALL` has one count of it, so this is one more.
                unsafe { Rc::increment_strong_count(attached) };
                // SAFETY: the count is this one's.
                return Ok(unsafe { Rc::from_raw(attached) });
            }
        }
        self.attached()
    }

    /// The calling thread's participation.
    #[cold]
    pub(crate) fn attached(&self) -> Result<Rc<Attached>, QueueError> {
        let ended = || QueueError::ThreadEnds;
        let known = ALL.try_with(|all| {
            let mut all = all.0.borrow_mut();
            // What was copied by a fork, and what nobody has a handle to any more.
            let (kept, gone) =
                core::mem::take(&mut *all).into_iter().partition(|attached| attached.is_of_this_thread() && attached.inner.has_handles());
            *all = kept;
            LAST.set((ptr::null(), ptr::null()));
            let found = all.iter().find(|attached| Arc::ptr_eq(&attached.inner, &self.0)).cloned();
            (found, gone)
        });
        let (known, gone): (_, Vec<Rc<Attached>>) = known.map_err(|_| ended())?;
        drop(gone);
        let attached = match known {
            Some(attached) => attached,
            None => {
                let attached = Rc::new(self.attach()?);
                ALL.try_with(|all| all.0.borrow_mut().push(Rc::clone(&attached))).map_err(|_| ended())?;
                attached
            }
        };
        LAST.set((Arc::as_ptr(&self.0), Rc::as_ptr(&attached)));
        Ok(attached)
    }

    fn attach(&self) -> Result<Attached, QueueError> {
        let thread = robust::current().map_err(QueueError::Unavailable)?;
        let (ground, region) = (&self.0.ground, &self.0.region);
        let allocate =
            |id| ground.plan.of_participant(&ground.shape, id).into_iter().try_for_each(|(offset, len)| region.allocate(offset, len));
        let member = ground.attach(thread, allocate).map_err(|no_member| match no_member {
            NoMember::TooMany => QueueError::TooManyParticipants { limit: ground.shape.ids as usize },
            NoMember::NoMemory(source) => QueueError::NoMemory(source),
            NoMember::Lock(Unlockable::Unavailable(source)) => QueueError::Unavailable(source),
            NoMember::Lock(_) => QueueError::TooManyHeld,
            NoMember::Corrupt => QueueError::Spoiled,
        })?;
        let token = &ground.record(member.id).token;
        // Nothing was given out yet that would have to be this thread's.
        token.hold(Holding::BY_HAND);
        let slot = token.slot(thread).ok_or(QueueError::Spoiled)?;
        Ok(Attached { inner: Arc::clone(&self.0), ground: *ground, member, thread, session: thread.session(), slot })
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.0.handles.fetch_add(1, Relaxed);
        Handle(Arc::clone(&self.0))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Relaxed) == 1 {
            // A thread whose locals are gone already has no participation either.
            let gone = ALL.try_with(|all| {
                LAST.set((ptr::null(), ptr::null()));
                let mut all = all.0.borrow_mut();
                let at = all.iter().position(|attached| Arc::ptr_eq(&attached.inner, &self.0))?;
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

impl Attached {
    #[inline(always)]
    pub(crate) fn is_of_this_thread(&self) -> bool {
        self.thread.session() == self.session
    }

    #[inline(always)]
    pub(crate) fn ground(&self) -> &Ground {
        &self.ground
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

impl Drop for Attached {
    fn drop(&mut self) {
        if self.is_of_this_thread() {
            self.ground.detach(self.thread, &self.member);
        }
    }
}
