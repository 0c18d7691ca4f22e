//! What parent and workers share: the [dispenser](Job) of chunks, a [`Slot`] for each worker, a table of [`Chunk`]s.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, compiler_fence};
use std::time::{Duration, Instant};

use crossproc::bytemuck::AnyBitPattern;
use crossproc::{Event, Fixed, Lock, LockError, LockGuard, Semaphore, Shm, shared};

use crate::reader::Flaw;
use crate::tally::Tally;

/// How far the reports of all workers together are apart. A report wakes the parent, which takes a CPU from the workers.
const REPORT_EVERY: Duration = Duration::from_millis(10);

/// The number of no chunk, in a slot whose workers have not claimed any.
const NO_CHUNK: u32 = u32::MAX;

/// Which chunk is claimed next. Plain numbers, behind a lock.
#[derive(Debug, Clone, Copy, AnyBitPattern)]
#[bytemuck(crate = "crossproc::bytemuck")]
#[repr(C)]
pub(crate) struct Dispenser {
    /// All chunks below it are claimed; those that are not done either stand in the slots.
    next: u32,
    /// Chunks from this one on must not be claimed yet.
    gate: u32,
}

shared! {
    pub(crate) struct Job {
        dispenser: Lock<Dispenser>,
        /// Set: there may be something to claim. Whoever finds the gate in its way clears it, whoever moves the gate sets it, both with the
        /// dispenser locked; so it is set whenever the gate is not in the way.
        pub(crate) go: Event,
        /// A permit for every finished chunk. A hint, by which the parent need not poll: deaths may take some away.
        pub(crate) finished: Semaphore,
        /// How long a worker goes on before it reports what it has finished, in nanoseconds; 0: it reports every chunk at once.
        report_every: Fixed<u64>,
    }
}

shared! {
    /// What a worker does, for whoever takes its place. In a cache line of its own, because it is written for every chunk.
    ///
    /// All relaxed. `chunk` is written by the owner of the dispenser, which orders it for the next owner; for the parent and for
    /// the worker's replacement it is the death that orders all of them. Whoever reads them at other times takes them as a hint.
    #[repr(align(64))]
    pub(crate) struct Slot {
        /// When the chunk was taken up, on the board's clock.
        since: AtomicU64,
        /// When the worker took up its first one; 0: it has not.
        first: AtomicU64,
        /// The chunk that it is at, or was last.
        chunk: AtomicU32,
    }
}

shared! {
    /// What was counted in a chunk. Relaxed but for `state`, which is stored last.
    pub(crate) struct Chunk {
        lines: AtomicU64,
        words: AtomicU64,
        bytes: AtomicU64,
        /// As `Flaw::code` says.
        flaw: AtomicU32,
        state: AtomicU32,
    }
}

/// Nobody has counted it to the end. What stands in the other fields means nothing.
const OPEN: u32 = 0;
/// The other fields are the result.
const DONE: u32 = 1;

impl Chunk {
    fn new() -> Self {
        Chunk {
            lines: AtomicU64::new(0),
            words: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            flaw: AtomicU32::new(0),
            state: AtomicU32::new(OPEN),
        }
    }

    pub(crate) fn store(&self, tally: Tally, flaw: Option<Flaw>) {
        self.lines.store(tally.lines, Relaxed);
        self.words.store(tally.words, Relaxed);
        self.bytes.store(tally.bytes, Relaxed);
        self.flaw.store(flaw.map_or(0, Flaw::code), Relaxed);
        // Release: pairs with the Acquire in `is_done`; the result is complete.
        self.state.store(DONE, Release);
    }

    pub(crate) fn is_done(&self) -> bool {
        // Acquire: pairs with the Release in `store`.
        self.state.load(Acquire) == DONE
    }

    /// What was stored, if [it is done](Chunk::is_done).
    pub(crate) fn result(&self) -> (Tally, Option<Flaw>) {
        let tally = Tally { lines: self.lines.load(Relaxed), words: self.words.load(Relaxed), bytes: self.bytes.load(Relaxed) };
        (tally, Flaw::from_code(self.flaw.load(Relaxed)))
    }
}

impl Slot {
    fn new() -> Self {
        Slot { since: AtomicU64::new(0), first: AtomicU64::new(0), chunk: AtomicU32::new(NO_CHUNK) }
    }

    /// The chunk that its worker is at, or was last.
    pub(crate) fn chunk(&self) -> Option<u32> {
        Some(self.chunk.load(Relaxed)).filter(|&chunk| chunk != NO_CHUNK)
    }

    pub(crate) fn since(&self) -> u64 {
        self.since.load(Relaxed)
    }

    /// When the present worker took up its first chunk, if it has.
    pub(crate) fn first(&self) -> Option<u64> {
        Some(self.first.load(Relaxed)).filter(|&first| first != 0)
    }

    /// For the parent, before it fills the slot: the next worker has not begun.
    pub(crate) fn clear_first(&self) {
        self.first.store(0, Relaxed);
    }

    /// For the parent, while the slot is empty: the next worker in it is to do that chunk, or to claim one.
    pub(crate) fn hand(&self, chunk: Option<u32>) {
        self.chunk.store(chunk.unwrap_or(NO_CHUNK), Relaxed);
    }

    fn take_up(&self, now: u64) {
        self.since.store(now, Relaxed);
        if self.first.load(Relaxed) == 0 {
            self.first.store(now, Relaxed);
        }
    }
}

/// What there is to do for a worker.
#[derive(Debug)]
pub(crate) enum Claim {
    Chunk(u32),
    /// Nothing until the gate moves: [`Job::go`] says when.
    Gated,
    /// Nothing any more.
    Nothing,
}

/// All that is shared, and a clock that means the same in all processes.
pub(crate) struct Board {
    pub(crate) job: Shm<Job>,
    pub(crate) slots: Shm<[Slot]>,
    pub(crate) chunks: Shm<[Chunk]>,
    /// A reading of the monotonic clock, of which there is one for the whole system; forked workers have the same copy.
    epoch: Instant,
}

impl Board {
    /// With the gate closed. If reports may be `lazy`, the parent sees the progress a little late.
    pub(crate) fn new(workers: u32, chunks: u32, lazy: bool) -> io::Result<Self> {
        let report_every = if lazy { (REPORT_EVERY * workers).as_nanos() as u64 } else { 0 };
        let job = Shm::new(Job {
            dispenser: Lock::new(Dispenser { next: 0, gate: 0 }),
            go: Event::new(),
            finished: Semaphore::new(0),
            report_every: Fixed::new(report_every),
        })?;
        let slots = Shm::from_fn(workers as usize, |_| Slot::new())?;
        let chunks = Shm::from_fn(chunks as usize, |_| Chunk::new())?;
        Ok(Board { job, slots, chunks, epoch: Instant::now() })
    }

    /// Nanoseconds since the job began, and never 0.
    pub(crate) fn now(&self) -> u64 {
        1 + self.epoch.elapsed().as_nanos() as u64
    }

    pub(crate) fn report_every(&self) -> u64 {
        self.job.report_every.get()
    }

    pub(crate) fn is_done(&self, chunk: u32) -> bool {
        self.chunks[chunk as usize].is_done()
    }

    /// The chunk that the worker in this slot is at and has not finished.
    pub(crate) fn unfinished(&self, slot: usize) -> Option<u32> {
        self.slots[slot].chunk().filter(|&chunk| !self.is_done(chunk))
    }

    /// For a worker that begins: the chunk that the slot was left with.
    pub(crate) fn resume(&self, slot: usize) -> Option<u32> {
        let chunk = self.unfinished(slot)?;
        self.slots[slot].take_up(self.now());
        Some(chunk)
    }

    /// Claims the next chunk for the worker in this slot.
    pub(crate) fn claim(&self, slot: usize) -> Result<Claim, LockError<()>> {
        let mut dispenser = self.whole(self.job.dispenser.lock())?;
        let chunk = dispenser.next;
        if chunk as usize >= self.chunks.len() {
            return Ok(Claim::Nothing);
        }
        if chunk >= dispenser.gate {
            self.job.go.clear();
            return Ok(Claim::Gated);
        }
        self.slots[slot].take_up(self.now());
        self.slots[slot].chunk.store(chunk, Relaxed);
        // What a death between two instructions leaves is what was stored before it: the compiler must not swap the two. The
        // processor need not be told, the kernel's write to a dead owner's lock orders all that it did.
        compiler_fence(Release);
        dispenser.next = chunk + 1;
        Ok(Claim::Chunk(chunk))
    }

    /// Lets chunks below `gate` be claimed; false if the lock was not to be had within `timeout`, because its owner is stopped.
    pub(crate) fn open(&self, gate: u32, timeout: Duration) -> Result<bool, LockError<()>> {
        match self.whole(self.job.dispenser.lock_timeout(timeout)) {
            Ok(mut dispenser) => {
                dispenser.gate = gate;
                self.job.go.set();
                Ok(true)
            }
            Err(LockError::TimedOut) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The dispenser as it should be. If its owner died after its slot had the number and before `next` was advanced, the claim is complete, and its
    /// replacement will do that chunk: nobody else may have it. Dying in here, too, changes nothing, as there can be no second such slot.
    fn whole<'a>(&self, locked: Locked<'a>) -> Result<LockGuard<'a, Dispenser>, LockError<()>> {
        match locked {
            Ok(dispenser) => Ok(dispenser),
            Err(LockError::OwnerDied(mut dispenser)) => {
                if self.slots.iter().any(|slot| slot.chunk() == Some(dispenser.next)) {
                    dispenser.next += 1;
                }
                Ok(dispenser.recover())
            }
            Err(error) => Err(error.without_guard()),
        }
    }
}

type Locked<'a> = Result<LockGuard<'a, Dispenser>, LockError<LockGuard<'a, Dispenser>>>;
