//! The watcher of some sources, and its loop where it can sleep on all their words itself: see [`source`](super::source).

use core::ops::Range;
use std::io;

use crossproc_sys::clock;
use crossproc_sys::futex::Watch;
use crossproc_sys::robust::{self, Thread};

use super::source::{Armed, Source, State, Words, sleep};
use crate::stand_in::Cover;
use crate::wait::{Ended, Waiter};

/// A call that waits for some sources.
pub(crate) struct Watcher<'a, 's> {
    on: &'a [&'a dyn Source],
    states: &'s mut [State],
    thread: Option<&'static Thread>,
    /// For the sources that the thread has no entry for, from the first sleep on.
    cover: Option<Cover>,
}

impl<'a, 's> Watcher<'a, 's> {
    /// The states have begun.
    pub(crate) fn new(on: &'a [&'a dyn Source], states: &'s mut [State]) -> Self {
        Watcher { on, states, thread: robust::current().ok(), cover: None }
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
    ///
    /// # Errors
    /// What the system says to a thread that cannot be started.
    pub(crate) fn arm(&mut self, which: Range<usize>, words: &mut Words<'a, '_>) -> io::Result<Armed> {
        self.pend()?;
        let on = &self.on[which.clone()];
        words.reserved = on.iter().map(|source| source.words()).sum();
        for (source, state) in on.iter().zip(&mut self.states[which]) {
            words.reserved = words.reserved.saturating_sub(source.words());
            if source.arm(state, words) == Armed::Again {
                return Ok(Armed::Again);
            }
        }
        Ok(Armed::Asleep)
    }

    /// After a sleep. The first source is the first: to work for the others the thread may need its
    /// own entry.
    pub(crate) fn awake(&mut self) {
        for (source, state) in self.on.iter().zip(&mut *self.states) {
            source.awake(state);
        }
        self.pend_first();
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

    /// Has the word of the first source pending in the thread's own entry, and those of the others
    /// in stand-ins'. One without a list has stand-ins for all.
    fn pend(&mut self) -> io::Result<()> {
        if self.cover.is_none() {
            let others = &self.on[usize::from(self.thread.is_some()).min(self.on.len())..];
            self.cover = Some(Cover::of(others)?);
        }
        self.pend_first();
        Ok(())
    }

    fn pend_first(&self) {
        if let Some((source, thread)) = self.on.first().zip(self.thread) {
            source.pend(thread.entry());
        }
    }
}

/// Why no source was ready.
#[derive(Debug)]
pub(crate) enum NotWatched {
    Ended(Ended),
    /// A thread that was to stand in could not be started.
    Os(io::Error),
}

/// Waits until one of the sources is ready, or the waiter's time is over. `N`: as many words as they name at the most.
pub(crate) fn watch<const N: usize>(on: &[&dyn Source], states: &mut [State], waiter: &mut Waiter) -> Result<(), NotWatched> {
    let mut watcher = Watcher::new(on, states);
    let result = loop {
        if watcher.look() {
            break Ok(());
        }
        if let Err(ended) = waiter.check() {
            break Err(NotWatched::Ended(ended));
        }
        // A source may take long to look at, if a peer has spoilt what it is made of.
        let deadline = waiter.until();
        if waiter.spin(|| watcher.glance() || deadline.is_some_and(|deadline| clock::now() >= deadline)) {
            continue;
        }
        let mut words: [Option<Watch<'_>>; N] = [None; N];
        let mut words = Words::new(&mut words);
        match watcher.arm(0..on.len(), &mut words) {
            Ok(Armed::Again) => {}
            Ok(Armed::Asleep) => {
                sleep::<N>(&words, waiter);
                watcher.awake();
            }
            Err(error) => break Err(NotWatched::Os(error)),
        }
    };
    watcher.end();
    result
}
