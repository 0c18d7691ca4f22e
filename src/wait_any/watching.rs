//! The watcher of some sources, and its loop for the case that it can itself sleep on all their
//! words: see [`source`](crate::wait::source).

use core::ops::Range;

use crossproc_sys::clock;
use crossproc_sys::futex::Watch;
use crossproc_sys::robust::{self, Thread};

use crate::reactor::stand_in::Cover;
use crate::wait::source::{Armed, Source, WatchState, Words};
use crate::wait::{Ended, Waiter};

/// A call that waits for some sources.
pub(crate) struct Watcher<'a, 's> {
    on: &'a [&'a dyn Source],
    states: &'s mut [WatchState],
    /// `None` for a thread without a robust list, which watches all the same.
    thread: Option<&'static Thread>,
    /// The index of the source whose word is pending in the thread's own entry.
    own: usize,
    /// Stand-ins for the other sources, from the first sleep on.
    cover: Option<Cover>,
}

impl<'a, 's> Watcher<'a, 's> {
    /// Creates a watcher. The sources' `begin` has made the states.
    pub(crate) fn new(on: &'a [&'a dyn Source], states: &'s mut [WatchState]) -> Self {
        let own = on.iter().position(|source| source.has_owner()).unwrap_or(0);
        Watcher { on, states, thread: robust::current().ok(), own, cover: None }
    }

    /// Looks at all sources, and returns whether one is ready. The states tell which ones are.
    pub(crate) fn look(&mut self) -> bool {
        let mut any = false;
        for (source, state) in self.on.iter().zip(&mut *self.states) {
            state.is_ready = source.look(state).into();
            any |= state.is_ready != 0;
        }
        any
    }

    /// Returns whether one is ready, for a thread that spins. It leaves the states as they are.
    pub(crate) fn glance(&self) -> bool {
        self.on.iter().zip(&*self.states).any(|(source, state)| source.look(state))
    }

    /// Arms these sources. The words of all sources are pending from then on.
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

    /// Does what each source has to do after a sleep. It begins with the source whose word the
    /// thread's own entry names: the thread may need the entry to work for the others.
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

    /// Ends the watch: nothing is pending in the thread's own entry.
    pub(crate) fn end(self) {
        if let Some(thread) = self.thread {
            thread.end();
        }
    }

    /// Makes a source's word pending in the thread's own entry.
    fn pend(&self, index: usize) {
        if let (Some(source), Some(thread)) = (self.on.get(index), self.thread) {
            source.pend(thread.entry());
        }
    }
}

/// Waits until one of the sources is ready, or the waiter's time is over. `N` is the most words
/// that they name.
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
        // A source may take long to look at, if a peer has spoilt its memory.
        let deadline = waiter.until();
        if waiter
            .spin(|| watcher.glance() || deadline.is_some_and(|deadline| clock::now() >= deadline))
        {
            continue;
        }
        let mut words: [Option<Watch<'_>>; N] = [None; N];
        let mut words = Words::new(&mut words);
        if watcher.arm(0..on.len(), &mut words) == Armed::Asleep {
            words.sleep_as_watcher::<N>(waiter);
            watcher.awake();
        }
    };
    watcher.end();
    result
}
