//! The state machine of the readers' and writers' lock.
//!
//! # Goal
//! Several readers or one writer. A dead reader is none; after a dead writer the next one learns
//! that the data may be half written. Any participant may die or be stopped at any instruction
//! without keeping the others from that.
//!
//! # The words
//! | word | holds |
//! |---|---|
//! | `writer` | a robust lock (`lock::state`), of the writer and of whoever wants to be it |
//! | `readers` | a cell for each reader ([`Cells`]) |
//! | `writing` | 1 from before a writer's first access to the data until it is whole again, otherwise 0 |
//!
//! A writer takes the lock, and then waits until all cells are free. A reader takes a cell, and
//! looks whether the lock has an owner: if so, it frees the cell and waits until the lock is free.
//! So a waiting writer keeps new readers out, and needs to wait for those only that it finds.
//!
//! *One of the two sees the other*: the reader exchanges its cell and then loads the lock's word,
//! both SeqCst; the writer exchanges the lock's word and then loads the cells, with a SeqCst fence
//! between. It is what forbids that the reader finds no owner and the writer finds no reader.
//!
//! # Those that die
//! A dead reader's cell is free, and the kernel wakes the writer. A dead writer's lock is free.
//! Whether it wrote is told by `writing`, not by the lock's `OWNER_DIED`: one that dies while it
//! waits for readers has done nothing. It is stored before the data is touched and after it was
//! touched last, in program order, which is all that a death leaves. Readers that sleep on the
//! lock's word are woken one at a time, as its other waiters are, and each wakes the next before it
//! goes on; the word is pending until then.

use crossproc_sys::atomic::Ordering::{Relaxed, SeqCst};
use crossproc_sys::atomic::{AtomicU32, fence};
use crossproc_sys::robust::{self, Holding};

use crate::sync::lock::state::{LockRefused, RawLock};
use crate::sync::tokens::{Cells, Taken};
use crate::wait::{Wait, Waiter};

const WHOLE: u32 = 0;
const WRITING: u32 = 1;

/// The lock without its data.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RawRwLock<const READERS: usize> {
    writer: RawLock,
    /// Relaxed everywhere: `writer` orders it.
    writing: AtomicU32,
    _padding: u32,
    readers: Cells<READERS>,
}

/// A lock that was acquired: by what it is released, and whether the data may be half written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admitted<By> {
    pub(crate) by: By,
    pub(crate) is_inconsistent: bool,
}

impl<const READERS: usize> RawRwLock<READERS> {
    pub(crate) const fn new() -> Self {
        RawRwLock {
            writer: RawLock::new(),
            writing: AtomicU32::new(WHOLE),
            _padding: 0,
            readers: Cells::new(),
        }
    }

    /// Reads if no writer is there and a cell is free.
    #[inline]
    pub(crate) fn try_read(&self) -> Result<Admitted<Taken>, LockRefused> {
        // By this thread's own list first: a peer may have written that nobody writes.
        if self.writer.is_owned() {
            return Err(LockRefused::Deadlock);
        }
        if self.writer.owner().is_some() {
            return Err(LockRefused::WouldBlock);
        }
        let taken = self.readers.try_take(Holding::BY_GUARD)?.ok_or(LockRefused::WouldBlock)?;
        self.enter(taken).ok_or(LockRefused::WouldBlock)
    }

    /// Reads, waiting as long as it may, whatever [`try_read`](RawRwLock::try_read) found.
    #[cold]
    pub(crate) fn read(&self, wait: Wait) -> Result<Admitted<Taken>, LockRefused> {
        let mut waiter = Waiter::new(wait);
        if self.writer.is_owned() {
            return Err(LockRefused::Deadlock);
        }
        loop {
            self.wait_for_writer(&mut waiter)?;
            let taken = match self.readers.try_take(Holding::BY_GUARD)? {
                Some(taken) => taken,
                None => self.readers.take_waiting(&mut waiter, Holding::BY_GUARD)?,
            };
            if let Some(acquired) = self.enter(taken) {
                return Ok(acquired);
            }
        }
    }

    fn wait_for_writer(&self, waiter: &mut Waiter) -> Result<(), LockRefused> {
        if self.writer.owner().is_none() {
            return Ok(());
        }
        if self.readers.is_holder() {
            // The writer waits for this very thread.
            return Err(LockRefused::Deadlock);
        }
        self.writer.wait_until_free(waiter)
    }

    /// Reads with a cell, unless a writer has come: then the cell is free again.
    #[inline]
    fn enter(&self, taken: Taken) -> Option<Admitted<Taken>> {
        // SeqCst: see above. Acquire: pairs with the Release of a writer's unlock.
        if self.writer.has_owner(SeqCst) {
            self.readers.release(taken, u32::MAX);
            return None;
        }
        Some(Admitted { by: taken, is_inconsistent: self.is_inconsistent() })
    }

    #[inline]
    pub(crate) fn end_read(&self, taken: Taken) {
        self.readers.release(taken, u32::MAX);
    }

    /// Writes if nobody else is there.
    #[inline]
    pub(crate) fn try_write(&self) -> Result<Admitted<u32>, LockRefused> {
        let tid = match self.writer.lock_uncontended() {
            Some(tid) => tid,
            None => self.writer.try_lock_contended()?.tid,
        };
        self.announce();
        // By this thread's own list, as above.
        let is_own = self.readers.is_holder();
        if !is_own && self.readers.are_free() {
            return Ok(self.begin_write(tid));
        }
        self.writer.unlock(tid);
        Err(if is_own { LockRefused::Deadlock } else { LockRefused::WouldBlock })
    }

    /// Writes, waiting as long as it may, whatever [`try_write`](RawRwLock::try_write) found.
    #[cold]
    pub(crate) fn write(&self, wait: Wait) -> Result<Admitted<u32>, LockRefused> {
        if self.readers.is_holder() {
            return Err(LockRefused::Deadlock);
        }
        let tid = self.writer.lock_contended(wait)?.tid;
        self.announce();
        match self.readers.wait_until_free(&mut Waiter::new(wait)) {
            Ok(()) => Ok(self.begin_write(tid)),
            Err(refused) => {
                self.writer.unlock(tid);
                Err(refused)
            }
        }
    }

    /// Between taking the lock and looking at the cells.
    #[inline]
    fn announce(&self) {
        // That an owner died is in `writing`.
        self.writer.recover_if_inconsistent();
        // SeqCst: see above.
        fence(SeqCst);
    }

    #[inline]
    fn begin_write(&self, tid: u32) -> Admitted<u32> {
        let is_inconsistent = self.is_inconsistent();
        self.writing.store(WRITING, Relaxed);
        robust::in_program_order();
        Admitted { by: tid, is_inconsistent }
    }

    /// Ends the writing of the thread `tid`, and says whether the data is whole. Nothing in another
    /// thread, as for a [`RawLock`].
    #[inline]
    pub(crate) fn end_write(&self, tid: u32, is_whole: bool) {
        if self.writer.owned_by() != Some(tid) {
            return;
        }
        robust::in_program_order();
        if is_whole {
            self.writing.store(WHOLE, Relaxed);
        }
        self.writer.unlock(tid);
    }

    fn is_inconsistent(&self) -> bool {
        self.writing.load(Relaxed) != WHOLE
    }

    /// The writer's TID, or that of one who waits to be it. A hint.
    pub(crate) fn writer(&self) -> Option<u32> {
        self.writer.owner()
    }

    /// How many cells are held. A hint.
    pub(crate) fn readers(&self) -> usize {
        READERS - self.readers.free()
    }
}
