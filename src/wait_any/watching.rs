//! The watcher of some sources, and its loop where it can sleep on all their words itself: see
//! [`source`](crate::wait::source).

use core::ops::Range;

use crossproc_sys::clock;
use crossproc_sys::futex::Watch;
use crossproc_sys::robust::{self, Thread};

use crate::reactor::stand_in::Cover;
use crate::wait::source::{Armed, Source, WatchState, Words, sleep};
use crate::wait::{Ended, Waiter};

/// A call that waits for some sources.
pub(crate) struct Watcher<'a, 's> {
    on: &'a [&'a dyn Source],
    states: &'s mut [WatchState],
    /// A thread without a list watches all the same.
    thread: Option<&'static Thread>,
    /// Which source's word is pending in the thread's own entry.
    own: usize,
    /// For the others, from the first sleep on.
    cover: Option<Cover>,
}

impl<'a, 's> Watcher<'a, 's> {
    /// The states have begun.
    pub(crate) fn new(on: &'a [&'a dyn Source], states: &'s mut [WatchState]) -> Self {
        let own = on.iter().position(|source| source.has_owner()).unwrap_or(0);
        Watcher { on, states, thread: robust::current().ok(), own, cover: None }
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

    /// Arms these sources, and has the words of all pending from now on.
    pub(crate) fn arm(&mut self, which: Range<usize>, words: &mut Words<'a, '_>) -> Armed {
        if self.cover.is_none() {
            let own = self.thread.map(|_| self.own);
            let others = self.on.iter().enumerate().filter(|&(index, _)| Some(index) != own);
            self.cover = Some(Cover::of(others.map(|(_, source)| *source)));
        }
        self.pend(self.own);
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

    /// After a sleep. First that source whose word the thread's own entry names: to work for the
    /// others the thread may need it.
    pub(crate) fn awake(&mut self) {
        for index in (self.own..self.on.len()).chain(0..self.own) {
            if self.on[index].has_owner() {
                self.pend(index);
            }
            self.on[index].awake(&mut self.states[index]);
        }
        self.pend(self.own);
    }

    pub(crate) fn sources(&self, which: Range<usize>) -> &'a [&'a dyn Source] {
        &self.on[which]
    }

    /// At the end.
    pub(crate) fn end(self) {
        if let Some(thread) = self.thread {
            thread.end();
        }
    }

    /// Has a source's word pending in the thread's own entry.
    fn pend(&self, index: usize) {
        if let (Some(source), Some(thread)) = (self.on.get(index), self.thread) {
            source.pend(thread.entry());
        }
    }
}

/// Waits until one of the sources is ready, or the waiter's time is over. `N`: as many words as
/// they name at the most.
pub(crate) fn watch<const N: usize>(
    on: &[&dyn Source],
    states: &mut [WatchState],
    waiter: &mut Waiter,
) -> Result<(), Ended> {
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
        if waiter
            .spin(|| watcher.glance() || deadline.is_some_and(|deadline| clock::now() >= deadline))
        {
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
