//! What is waited for among other things.

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::futex::Watch;
use crossproc_sys::robust::{self, Entry};

use crate::ring::memory::QueueMemory;
use crate::ring::participant::Participant;
use crate::ring::tasks::Unfinished;
use crate::ring::waiting::Side;
use crate::wait::source::{Armed, Source, WatchState, Words};

/// Something that never happens.
pub(super) struct Never(AtomicU32);

pub(super) static NEVER: Never = Never(AtomicU32::new(0));

impl Source for Never {
    fn key(&self) -> usize {
        std::ptr::from_ref(&self.0).addr()
    }

    fn look(&self, _: &WatchState) -> bool {
        false
    }

    fn words(&self) -> usize {
        1
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        words.add(Watch::new(&self.0, 0));
        Armed::Asleep
    }

    fn pend(&self, entry: &Entry) {
        entry.begin(&self.0);
    }

    fn awake(&self, _: &mut WatchState) {}
}

/// A side of a queue to wait for, as in `room`.
pub(super) struct Watched(pub(super) QueueMemory, pub(super) Side);

impl Source for Watched {
    fn key(&self) -> usize {
        self.0.key(self.1)
    }

    fn look(&self, _: &WatchState) -> bool {
        self.0.is_ready(self.1)
    }

    fn words(&self) -> usize {
        crate::ring::watching::WORDS_FOR_SENDER
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        self.0.arm(self.1, words)
    }

    fn pend(&self, entry: &Entry) {
        self.0.pend(entry);
    }

    fn awake(&self, state: &mut WatchState) {
        self.0.awake();
        if self.look(state) {
            self.0.wake_side(self.1);
        }
    }
}

/// Memory to wait for, as in `room`.
pub(super) struct WatchedMemory(pub(super) QueueMemory, pub(super) u32);

impl Source for WatchedMemory {
    fn key(&self) -> usize {
        self.0.key_for_memory(self.1)
    }

    fn look(&self, _: &WatchState) -> bool {
        self.0.has_memory(self.1)
    }

    fn words(&self) -> usize {
        crate::ring::watching::WORDS
    }

    fn more_words(&self) -> usize {
        self.0.config.ids as usize
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        self.0.arm_for_memory(self.1, words)
    }

    fn pend(&self, entry: &Entry) {
        self.0.pend(entry);
    }

    fn awake(&self, state: &mut WatchState) {
        self.0.awake();
        if self.look(state) {
            self.0.wake_for_memory();
        }
    }
}

/// What becomes of tasks, as in `progress`: a dead letter, or that all are done.
pub(super) struct WatchedTasks<'p> {
    pub(super) memory: QueueMemory,
    /// Who moves to the dead letters what belongs there.
    pub(super) participant: &'p Participant,
    pub(super) is_letter: bool,
}

impl WatchedTasks<'_> {
    fn tidy(&self) {
        self.memory.tidy(robust::current().unwrap(), self.participant, None);
    }
}

// SAFETY: each is one thread's.
unsafe impl Sync for WatchedTasks<'_> {}

impl Source for WatchedTasks<'_> {
    fn key(&self) -> usize {
        self.memory.key_for_all()
    }

    fn begin(&self) -> WatchState {
        self.tidy();
        WatchState::default()
    }

    fn look(&self, _: &WatchState) -> bool {
        if self.is_letter {
            self.memory.has_letter()
        } else {
            self.memory.unfinished(None, None) == Unfinished::None
        }
    }

    fn words(&self) -> usize {
        crate::ring::watching::WORDS_FOR_LETTER
    }

    fn more_words(&self) -> usize {
        self.memory.config.ids as usize
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        if self.is_letter {
            self.memory.arm_for_letter(words)
        } else {
            self.memory.arm_for_all(words, || self.tidy())
        }
    }

    fn pend(&self, entry: &Entry) {
        self.memory.pend(entry);
    }

    fn awake(&self, _: &mut WatchState) {
        self.memory.awake();
    }
}

/// An item of a broadcast to wait for, after a position, as in `subscriber`.
pub(super) struct WatchedItem(pub(super) QueueMemory, pub(super) u64);

impl Source for WatchedItem {
    fn key(&self) -> usize {
        self.0.key(Side::Getters)
    }

    fn look(&self, _: &WatchState) -> bool {
        self.0.has_item(self.1)
    }

    fn words(&self) -> usize {
        crate::ring::watching::WORDS
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        self.0.arm_for_item(self.1, words)
    }

    fn pend(&self, entry: &Entry) {
        self.0.pend(entry);
    }

    fn awake(&self, state: &mut WatchState) {
        self.0.awake();
        if self.look(state) {
            self.0.wake_side(Side::Getters);
        }
    }
}
