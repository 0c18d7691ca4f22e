//! The state machine of the readers-writer lock.
//!
//! # Goal
//! The lock has several readers or one writer. A dead reader counts as none. After a dead writer
//! the next thread learns that the data may be half written. Any participant may die or be stopped
//! at any instruction without keeping the others from that.
//!
//! # The words
//! | word | holds |
//! |---|---|
//! | `writer` | a robust lock (`lock::state`), held by the writer or by a thread that waits to be it |
//! | `readers` | a cell for each reader ([`Cells`]) |
//! | `writing` | 1 from before a writer's first access to the data until the data is whole again, otherwise 0 |
//!
//! A writer takes the lock, and then waits until all cells are free. A reader takes a cell, and
//! looks whether the lock has an owner. If so, it frees the cell and waits until the lock is free.
//! So a waiting writer keeps new readers out, and waits only for the readers that it finds.
//!
//! *One of the two sees the other*:
//! - The reader exchanges its cell and then loads the lock's word, both SeqCst.
//! - The writer exchanges the lock's word and then loads the cells, with a SeqCst fence between.
//!
//! This forbids the outcome in which the reader finds no owner and the writer finds no reader.
//!
//! # Process death
//! A dead reader's cell is free, and the kernel wakes the writer. A dead writer's lock is free.
//! Whether a dead writer wrote is in `writing`, not in the lock's `OWNER_DIED`: a thread that dies
//! while it waits for readers has done nothing. `writing` is stored before the first access to the
//! data and after the last one, in program order. Program order is all that a death leaves.
//!
//! Readers that sleep on the lock's word are woken one at a time, like its other waiters. Each
//! wakes the next before it goes on, and the word is pending until then.

use core::mem::offset_of;
use crossproc_sys::atomic::Ordering::{Relaxed, SeqCst};
use crossproc_sys::atomic::{AtomicU32, fence};
use crossproc_sys::robust::{self, Holding};

use crate::sync::lock::state::{LockRefused, RawLock};
use crate::sync::tokens::{Cells, Taken};
use crate::wait::{Wait, Waiter};

const WHOLE: u32 = 0;
const WRITING: u32 = 1;

/// The shared part of the lock, without its data.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RawRwLock<const READERS: usize> {
    writer: RawLock,
    /// Relaxed everywhere: `writer` orders it.
    writing: AtomicU32,
    _padding: u32,
    readers: Cells<READERS>,
}

// The layout is a part of the ABI: see `docs/layout.md`.
const _: () = assert!(
    offset_of!(RawRwLock<2>, writer) < offset_of!(RawRwLock<2>, writing)
        && offset_of!(RawRwLock<2>, writing) < offset_of!(RawRwLock<2>, readers)
);

/// An acquired lock: what it is released by, and whether the data may be half written.
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

    /// Takes the lock for reading if nothing is in the way. If it does not,
    /// [`try_read`](RawRwLock::try_read) tells why.
    #[inline(always)]
    pub(crate) fn read_uncontended(&self) -> Option<Admitted<Taken>> {
        if self.writer.is_owned() || self.writer.owner().is_some() {
            return None;
        }
        self.enter(self.readers.try_take(Holding::BY_GUARD).ok()??)
    }

    /// Takes the lock for reading if there is no writer and a cell is free.
    #[cold]
    pub(crate) fn try_read(&self) -> Result<Admitted<Taken>, LockRefused> {
        // Asks this thread's own list first: a peer may have stored a word that shows no writer.
        if self.writer.is_owned() {
            return Err(LockRefused::Deadlock);
        }
        if self.writer.owner().is_some() {
            return Err(LockRefused::WouldBlock);
        }
        let taken = self.readers.try_take(Holding::BY_GUARD)?.ok_or(LockRefused::WouldBlock)?;
        self.enter(taken).ok_or(LockRefused::WouldBlock)
    }

    /// Takes the lock for reading, and waits as long as `wait` allows, whatever
    /// [`read_uncontended`](RawRwLock::read_uncontended) found.
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
            // The writer waits for this thread itself.
            return Err(LockRefused::Deadlock);
        }
        self.writer.wait_until_free(waiter)
    }

    /// Begins to read with a cell, unless a writer has come. In that case frees the cell again.
    #[inline]
    fn enter(&self, taken: Taken) -> Option<Admitted<Taken>> {
        // SeqCst: see the top. Acquire: pairs with the Release of a writer's unlock.
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

    /// Takes the lock for writing if nothing is in the way. If it does not,
    /// [`try_write`](RawRwLock::try_write) tells why.
    #[inline(always)]
    pub(crate) fn write_uncontended(&self) -> Option<Admitted<u32>> {
        let tid = self.writer.lock_uncontended()?;
        self.announce();
        if self.readers.is_holder() || !self.readers.are_free() {
            self.writer.unlock(tid);
            return None;
        }
        Some(self.begin_write(tid))
    }

    /// Takes the lock for writing if no thread reads or writes.
    #[cold]
    pub(crate) fn try_write(&self) -> Result<Admitted<u32>, LockRefused> {
        let tid = match self.writer.lock_uncontended() {
            Some(tid) => tid,
            None => self.writer.try_lock_contended()?.tid,
        };
        self.announce();
        // By this thread's own list, as in `try_read`.
        let is_own = self.readers.is_holder();
        if !is_own && self.readers.are_free() {
            return Ok(self.begin_write(tid));
        }
        self.writer.unlock(tid);
        Err(if is_own { LockRefused::Deadlock } else { LockRefused::WouldBlock })
    }

    /// Takes the lock for writing, and waits as long as `wait` allows, whatever
    /// [`write_uncontended`](RawRwLock::write_uncontended) found.
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

    /// To be called between taking the lock and looking at the cells.
    #[inline]
    fn announce(&self) {
        // `writing` says whether a writer died in its write; `OWNER_DIED` is not needed for that.
        self.writer.recover_if_inconsistent();
        // SeqCst: see the top.
        fence(SeqCst);
    }

    #[inline]
    fn begin_write(&self, tid: u32) -> Admitted<u32> {
        let is_inconsistent = self.is_inconsistent();
        self.writing.store(WRITING, Relaxed);
        robust::in_program_order();
        Admitted { by: tid, is_inconsistent }
    }

    /// Ends the write of the thread `tid`, and notes whether the data is whole. Does nothing in
    /// another thread, as for a [`RawLock`].
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

    /// Returns the TID of the writer, or of a thread that waits to be it. A hint.
    pub(crate) fn writer(&self) -> Option<u32> {
        self.writer.owner()
    }

    /// Returns the number of cells that are held. A hint.
    pub(crate) fn readers(&self) -> usize {
        READERS - self.readers.free()
    }
}
