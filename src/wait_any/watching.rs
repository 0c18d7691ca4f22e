//! The watcher of some sources, and its loop where it can sleep on all their words itself: see [`source`](super::source).

use core::ops::Range;

use crossproc_sys::clock;
use crossproc_sys::futex::Watch;
use crossproc_sys::robust::{self, Thread};

use super::source::{Armed, Source, State, Words, sleep};
use crate::wait::{Ended, Waiter};

/// A call that waits for some sources.
pub(crate) struct Watcher<'a, 's> {
    on: &'a [&'a dyn Source],
    states: &'s mut [State],
    /// A thread without a list watches all the same: should it die, a slice wakes whom it was to wake.
    thread: Option<&'static Thread>,
}

impl<'a, 's> Watcher<'a, 's> {
    /// The states have begun.
    pub(crate) fn new(on: &'a [&'a dyn Source], states: &'s mut [State]) -> Self {
        Watcher { on, states, thread: robust::current().ok() }
    }

    /// Looks at all of them: whether one is ready. Which ones are is in the states.
    pub(crate) fn look(&mut self) -> bool {
        let mut any = false;
        for (source, state) in self.on.iter().zip(&mut *self.states) {
            state.is_ready = source.look(state).into();
            any |= state.is_ready != 0;
        }
        any
    }

    /// Whether one is ready, for one who looks again and again.
    pub(crate) fn glance(&self) -> bool {
        self.on.iter().zip(&*self.states).any(|(source, state)| source.look(state))
    }

    /// Arms these sources, and has a word pending from now on: that of the first one.
    pub(crate) fn arm(&mut self, which: Range<usize>, words: &mut Words<'a, '_>) -> Armed {
        if let Some(first) = self.on.get(self.first()) {
            self.pend(*first);
        }
        let on = &self.on[which.clone()];
        words.reserved = on.iter().map(|source| source.words()).sum();
        for (source, state) in on.iter().zip(&mut self.states[which]) {
            words.reserved = words.reserved.saturating_sub(source.words());
            if source.arm(state, words) == Armed::Again {
                return Armed::Again;
            }
        }
        Armed::Asleep
    }

    /// After a sleep. First that source whose word is pending, before it is not any more.
    pub(crate) fn awake(&mut self) {
        let first = self.first();
        for index in (first..self.on.len()).chain(0..first) {
            self.pend(self.on[index]);
            self.on[index].awake(&mut self.states[index]);
        }
    }

    /// At the end.
    pub(crate) fn end(self) {
        if let Some(thread) = self.thread {
            thread.end();
        }
    }

    /// The source for which it matters the most that its word is pending.
    fn first(&self) -> usize {
        self.on.iter().position(|source| source.is_pending_first()).unwrap_or(0)
    }

    fn pend(&self, source: &dyn Source) {
        if let Some(thread) = self.thread {
            source.pend(thread);
        }
    }
}

/// Waits until one of the sources is ready, or the waiter's time is over. `N`: as many words as they name at the most.
pub(crate) fn watch<const N: usize>(on: &[&dyn Source], states: &mut [State], waiter: &mut Waiter) -> Result<(), Ended> {
    let mut watcher = Watcher::new(on, states);
    let result = loop {
        if watcher.look() {
            break Ok(());
        }
        if let Err(ended) = waiter.check() {
            break Err(ended);
        }
        // A source may take long to look at, if a peer has spoilt what it is made of.
        let deadline = waiter.until();
        if waiter.spin(|| watcher.glance() || deadline.is_some_and(|deadline| clock::now() >= deadline)) {
            continue;
        }
        let mut words: [Option<Watch<'_>>; N] = [None; N];
        let mut words = Words::new(&mut words);
        if watcher.arm(0..on.len(), &mut words) == Armed::Asleep {
            sleep::<N>(&words, waiter);
            watcher.awake();
        }
    };
    watcher.end();
    result
}
