//! The least that a put and a get need in a queue that survives its participants: the words that
//! it writes, one after the other, without a queue. There is nothing to decide, and nothing is
//! checked.

use core::cell::Cell;
use core::hint::black_box;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicU64, compiler_fence};

use crate::sampler::{Sampler, repeated};

/// The name of these words as a rival.
pub(super) const WORDS: &str = "its words alone";

const ENTRIES: usize = 1_024;
const INDEX: u64 = (1 << 21) - 1;
const STEP: u64 = 1 << 21;
/// A position that is shared is advanced once in so many operations.
const LAG: u64 = 8;

#[repr(align(128))]
#[derive(Default)]
struct Line<T>(T);

/// What a slot begins with, and its item.
#[derive(Default)]
struct Slot {
    taker: AtomicU64,
    item: Cell<u64>,
}

/// A participant's words.
#[derive(Default)]
struct Record {
    site: AtomicU64,
    seen: AtomicU64,
    place: AtomicU64,
}

struct Words {
    pending: AtomicU64,
    tail: Line<AtomicU64>,
    head: Line<AtomicU64>,
    record: Line<Record>,
    entries: Vec<AtomicU64>,
    slots: Vec<Slot>,
    at: Cell<u64>,
    spare: Cell<u64>,
}

impl Words {
    fn new() -> Self {
        Words {
            pending: AtomicU64::new(0),
            tail: Line::default(),
            head: Line::default(),
            record: Line::default(),
            entries: (0..ENTRIES as u64).map(|slot| AtomicU64::new(STEP | slot)).collect(),
            slots: (0..=ENTRIES).map(|_| Slot::default()).collect(),
            at: Cell::new(0),
            spare: Cell::new(ENTRIES as u64),
        }
    }

    /// Exchanges the spare slot for that in an entry.
    fn exchange(&self, end: &AtomicU64) {
        let record = &self.record.0;
        self.pending.store(1, Relaxed);
        compiler_fence(SeqCst);
        black_box(end.load(Acquire));
        let at = self.at.get();
        let entry = &self.entries[at as usize % ENTRIES];
        let seen = entry.load(Acquire);
        record.site.store(at, Release);
        record.seen.store(seen, Release);
        let after = (seen & !INDEX).wrapping_add(STEP) | self.spare.get();
        let _ = black_box(entry.compare_exchange(seen, after, SeqCst, Relaxed));
        black_box(end.load(SeqCst));
        let slot = seen & INDEX;
        let taker = &self.slots[slot as usize].taker;
        taker.store(taker.load(Relaxed).wrapping_add(STEP), Release);
        record.place.store(slot, Release);
        record.seen.store(0, Release);
        self.spare.set(slot);
        if at % LAG == 0 {
            let _ = end.compare_exchange(end.load(Relaxed), at, Release, Relaxed);
        }
        compiler_fence(SeqCst);
        self.pending.store(0, Relaxed);
    }

    fn spare(&self) -> &Slot {
        &self.slots[self.spare.get() as usize]
    }
}

/// Returns a sampler of both operations.
pub(super) fn sampler() -> Sampler {
    repeated(Box::new(Words::new()), |words| {
        words.spare().item.set(black_box(1));
        words.exchange(&words.tail.0);
        words.exchange(&words.head.0);
        black_box(words.spare().item.get());
        words.at.set(words.at.get() + 1);
    })
}
