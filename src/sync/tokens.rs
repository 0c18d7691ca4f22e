//! Cells, each held by a thread: the common part of permits with owners and of the readers of a
//! lock.
//!
//! # Goal
//! A waiter for a cell gets one when one is free. A waiter for all cells to be free learns when
//! they are. A cell whose holder died is free. Any participant may die or be stopped at any
//! instruction without keeping the others from that.
//!
//! # The words
//! Each cell is a word of the robust list, with the bits of a lock's:
//!
//! | bits | name | meaning |
//! |---|---|---|
//! | 0-29 | TID | the holder, 0: free |
//! | 30 | `OWNER_DIED` | a holder died: means only that the cell is free |
//! | 31 | `WAITERS` | a waiter may be asleep: kept until it is known that none is |
//!
//! One exchange both takes a cell and names its holder. Sleepers wait for any of the cells, so they
//! have a word of their own, the gate:
//!
//! | bits | name | meaning |
//! |---|---|---|
//! | 0-29 | | always 0, so that it can be pending (`crossproc_sys::robust`) |
//! | 30-63 | generation | how often a marked cell became free, modulo 2^34 |
//!
//! A waiter looks at every cell, and marks those that are held with `WAITERS`. Then it sleeps while
//! the gate and all these cells are as it saw them. A thread that frees a marked cell moves the
//! gate and wakes through it. The kernel, which frees the cell of a dead holder, wakes through the
//! cell.
//!
//! # Why no wake-up is lost
//! *Invariant: while a waiter sleeps, each held cell is marked, or a thread is awake that will look
//! at all cells, or dies trying, which wakes another one.*
//!
//! A waiter has the gate pending: if a woken waiter dies, the kernel wakes another one through the
//! gate. During the exchange that takes or frees a cell, this cell is pending instead. Should the
//! thread die there, the kernel marks the cell free, or finds it free, and wakes one of its
//! sleepers.
//!
//! The mark stays on a freed cell. So a thread that takes the cell before the woken waiters look
//! has the mark, too. The mark is taken out when no waiter was asleep. After that a second wake
//! finds those that went to sleep since. That wake is needed because the exchange may find the cell
//! as it was left, though others have taken, marked and freed it meanwhile.
//!
//! The kernel may wake the same sleeper for several cells. So a thread that has slept and finds
//! another cell free wakes the next. It does so before it turns to a cell, since that cell, not the
//! gate, is pending then; and again after. A thread that has slept to wait until all are free does
//! so, too.
//!
//! # What is left to slices
//! A thread that is *stopped*, after it was woken or before it wakes others, keeps wake-ups from
//! them until a slice ends. A death does not where the kernel has `futex_waitv` (5.16) and
//! completes the wake-ups of the dead (6.2), for up to 126 cells. Otherwise, and for the cells
//! beyond, only the gate wakes. Then the cells of the dead are found at the end of a slice.
//!
//! # Memory ordering
//! Taking a cell is Acquire, freeing it is Release. Taking is SeqCst besides for the readers' lock,
//! where a reader takes a cell and then looks for a writer: see `rwlock::state`.

use core::array;
use core::mem::offset_of;

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crossproc_sys::futex::{self, MAX_WATCHED, Watch};
use crossproc_sys::robust::{self, Holding, RobustWord, TID_MASK, Thread, WAITERS};

use crate::sync::lock::state::LockRefused;
use crate::wait::Waiter;

const ONE_GENERATION: u64 = 1 << 30;

/// The cells and their gate.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Cells<const N: usize> {
    gate: AtomicU64,
    cells: [RobustWord; N],
}

// The layout is a part of the ABI: see `docs/layout.md`.
const _: () = assert!(
    offset_of!(Cells<2>, cells) == 8 && size_of::<Cells<2>>() == 8 + 2 * size_of::<RobustWord>()
);

/// A cell that a thread holds. The taker says how it is held. A reader holds it by a guard, which
/// stands for references. A permit is held without a guard: it protects nothing that a leak could
/// leave a reference to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    tid: u32,
    index: usize,
}

/// The result of a look at all cells: the words to sleep on while they stay so.
struct AllHeld<const N: usize> {
    gate: u64,
    words: [u32; N],
}

impl<const N: usize> Cells<N> {
    pub(crate) const fn new() -> Self {
        Cells { gate: AtomicU64::new(0), cells: [const { RobustWord::new() }; N] }
    }

    /// Returns the number of free cells. It is a hint: it may be stale already.
    pub(crate) fn free(&self) -> usize {
        self.cells.iter().filter(|cell| owner(cell.word().load(Relaxed)) == 0).count()
    }

    /// Takes a cell if one is free, and holds it as `holding` says. The result is only a snapshot:
    /// others come and go while this looks.
    #[inline]
    pub(crate) fn try_take(&self, holding: Holding) -> Result<Option<Taken>, LockRefused> {
        let thread = robust::current().map_err(LockRefused::Unavailable)?;
        match self.take(thread, self.own(thread), 0, holding)? {
            Some(taken) => Ok(Some(taken)),
            None => self.try_take_another(thread, holding),
        }
    }

    /// Does what [`try_take`](Cells::try_take) does, after the thread's own cell was not free.
    #[cold]
    fn try_take_another(
        &self,
        thread: &Thread,
        holding: Holding,
    ) -> Result<Option<Taken>, LockRefused> {
        for index in self.beginning_with_own(thread).skip(1) {
            if let Some(taken) = self.take(thread, index, 0, holding)? {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }

    /// Takes a cell, and waits for one as long as `waiter` allows. Returns
    /// [`LockRefused::Deadlock`] if the thread holds all of them.
    #[cold]
    pub(crate) fn take_waiting(
        &self,
        waiter: &mut Waiter,
        holding: Holding,
    ) -> Result<Taken, LockRefused> {
        let thread = robust::current().map_err(LockRefused::Unavailable)?;
        thread.begin(&self.gate);
        let mut kept = 0;
        let result = loop {
            match self.take_or_mark(thread, kept, holding) {
                Ok(Ok(taken)) => break Ok(taken),
                Ok(Err(held)) if held.words.iter().all(|&word| owner(word) == thread.tid()) => {
                    break Err(LockRefused::Deadlock);
                }
                Ok(Err(held)) => {
                    if let Err(ended) = waiter.check() {
                        break Err(ended.into());
                    }
                    kept = WAITERS;
                    self.sleep(waiter, &held);
                }
                Err(refused) => break Err(refused),
            }
        };
        if kept != 0 && self.free() != 0 {
            futex::wake(&self.gate, 1);
        }
        thread.end();
        result
    }

    /// Waits until no cell is held. Returns [`LockRefused::Deadlock`] if the thread holds one
    /// itself.
    #[cold]
    pub(crate) fn wait_until_free(&self, waiter: &mut Waiter) -> Result<(), LockRefused> {
        let thread = robust::current().map_err(LockRefused::Unavailable)?;
        thread.begin(&self.gate);
        let mut has_slept = false;
        let result = loop {
            let held = self.mark_all();
            if held.words.iter().any(|&word| owner(word) == thread.tid()) {
                break Err(LockRefused::Deadlock);
            }
            if held.words.iter().all(|&word| owner(word) == 0) {
                break Ok(());
            }
            if let Err(ended) = waiter.check() {
                break Err(ended.into());
            }
            has_slept = true;
            self.sleep(waiter, &held);
        };
        if has_slept {
            // The wake-up that this thread took may have been for a waiter for a cell.
            futex::wake(&self.gate, 1);
        }
        thread.end();
        result
    }

    /// Returns whether no cell is held. SeqCst, for a caller that has announced itself before.
    #[inline]
    pub(crate) fn are_free(&self) -> bool {
        // SeqCst: see `rwlock::state`. Acquire: pairs with the Release in `release`.
        self.cells.iter().all(|cell| owner(cell.word().load(SeqCst)) == 0)
    }

    /// Returns whether the calling thread holds a cell, by its own list, which no peer can change.
    #[inline]
    pub(crate) fn is_holder(&self) -> bool {
        let (start, len) = (self.cells.as_ptr().addr(), size_of_val(&self.cells));
        let holds = |thread: &&Thread| thread.holds_within(start, len);
        robust::ready().filter(holds).is_some_and(|thread| {
            self.cells
                .iter()
                .any(|cell| thread.slot_of(cell).is_some() && thread.is_held_still(cell))
        })
    }

    /// Frees a cell and wakes `count` waiters. Does nothing in another thread: what was carried
    /// into a forked child is the parent's.
    #[inline]
    pub(crate) fn release(&self, taken: Taken, count: u32) {
        let Some(thread) = robust::of(taken.tid) else { return };
        let cell = &self.cells[taken.index];
        thread.begin(cell.word());
        // Release: pairs with the Acquire in `take` and `are_free`.
        if thread.unlink(cell)
            && cell.word().compare_exchange(taken.tid, 0, Release, Relaxed).is_err()
        {
            self.release_marked(thread, cell, count);
        }
        thread.end();
    }

    #[cold]
    fn release_marked(&self, thread: &Thread, cell: &RobustWord, count: u32) {
        let word = cell.word();
        let mut seen = word.load(Relaxed);
        loop {
            // The owner differs only if a peer has scribbled on the word. It is then not this
            // thread's to free.
            if owner(seen) != thread.tid() {
                return;
            }
            // Release: as in `release`.
            match word.compare_exchange_weak(seen, WAITERS, Release, Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        thread.begin(&self.gate);
        // Release: pairs with the Acquire in `take_or_mark` and `mark_all`. A thread that sees this
        // generation sees the cell free.
        self.gate.fetch_add(ONE_GENERATION, Release);
        // If no waiter was asleep, the mark goes. Relaxed: it orders nothing.
        if futex::wake(&self.gate, count) == 0
            && word.compare_exchange(WAITERS, 0, Relaxed, Relaxed).is_ok()
        {
            futex::wake(&self.gate, count);
        }
    }

    /// Returns the index at which a thread looks first, mostly a different one for different TIDs.
    #[inline]
    fn own(&self, thread: &Thread) -> usize {
        thread.tid() as usize % N.max(1)
    }

    fn beginning_with_own(&self, thread: &Thread) -> impl Iterator<Item = usize> + use<N> {
        let own = self.own(thread);
        (own..N).chain(0..own)
    }

    /// Takes the cell if it is free. Keeps its mark, and adds `kept`.
    #[inline]
    fn take(
        &self,
        thread: &Thread,
        index: usize,
        kept: u32,
        holding: Holding,
    ) -> Result<Option<Taken>, LockRefused> {
        let cell = &self.cells[index];
        let mut seen = cell.word().load(Relaxed);
        if owner(seen) != 0 {
            return Ok(None);
        }
        let at_hand = robust::at_hand().map(|(_, slot)| slot);
        let slot = at_hand.or_else(|| thread.slot_for(cell)).ok_or_else(|| thread.no_slot(cell))?;
        thread.begin(cell.word());
        while owner(seen) == 0 {
            // Acquire: pairs with the Release in `release`. SeqCst: a reader takes this and then
            // looks for a writer, which locks and then looks at this. One of them sees the other.
            match cell.word().compare_exchange_weak(
                seen,
                thread.tid() | seen & WAITERS | kept,
                SeqCst,
                Relaxed,
            ) {
                Ok(_) => {
                    thread.link(slot, cell, holding);
                    break;
                }
                Err(now) => seen = now,
            }
        }
        thread.end();
        Ok((owner(seen) == 0).then_some(Taken { tid: thread.tid(), index }))
    }

    /// Takes a free cell, or marks all cells. The gate is pending before and after.
    fn take_or_mark(
        &self,
        thread: &Thread,
        kept: u32,
        holding: Holding,
    ) -> Result<Result<Taken, AllHeld<N>>, LockRefused> {
        // Acquire: pairs with the Release in `release_marked`.
        let mut held = AllHeld { gate: self.gate.load(Acquire), words: [0; N] };
        for index in self.beginning_with_own(thread) {
            loop {
                match self.mark(index) {
                    Some(word) => {
                        held.words[index] = word;
                        break;
                    }
                    None => {
                        if kept != 0 && self.free() > 1 {
                            futex::wake(&self.gate, 1);
                        }
                        let taken = self.take(thread, index, kept, holding);
                        thread.begin(&self.gate);
                        if let Some(taken) = taken? {
                            return Ok(Ok(taken));
                        }
                    }
                }
            }
        }
        Ok(Err(held))
    }

    /// Marks the cells that are held. A free cell is 0 in the result.
    fn mark_all(&self) -> AllHeld<N> {
        // Acquire: pairs with the Release in `release_marked`.
        let gate = self.gate.load(Acquire);
        AllHeld { gate, words: array::from_fn(|index| self.mark(index).unwrap_or(0)) }
    }

    /// Marks the cell if it is held, and returns its word then.
    fn mark(&self, index: usize) -> Option<u32> {
        let word = self.cells[index].word();
        // Acquire, also on failure: pairs with the Release in `release`, for a caller that waits
        // until all are free. SeqCst: see `rwlock::state`.
        let mut seen = word.load(SeqCst);
        while owner(seen) != 0 {
            if seen & WAITERS != 0 {
                return Some(seen);
            }
            match word.compare_exchange_weak(seen, seen | WAITERS, Relaxed, Acquire) {
                Ok(_) => return Some(seen | WAITERS),
                Err(now) => seen = now,
            }
        }
        None
    }

    /// Sleeps while the gate and the cells that are held are as they were seen.
    fn sleep(&self, waiter: &mut Waiter, held: &AllHeld<N>) {
        let gate = Watch::whole(&self.gate, held.gate);
        let mut watches = [gate[0]; MAX_WATCHED];
        watches[..gate.len()].copy_from_slice(&gate);
        let mut count = gate.len();
        let of_cells = self.cells.iter().zip(held.words).filter(|(_, word)| owner(*word) != 0);
        for ((cell, word), watch) in of_cells.zip(&mut watches[gate.len()..]) {
            *watch = Watch::new(cell.word(), word);
            count += 1;
        }
        waiter.sleep(|until| {
            futex::wait_any(&watches[..count], until)
                .unwrap_or_else(|| futex::wait_on_one(&self.gate, held.gate as u32, until))
        });
    }
}

fn owner(word: u32) -> u32 {
    word & TID_MASK
}
