//! A future's wait for one source: its place in a line of the driver.

use std::io;
use std::task::{Context, Poll, Waker};

use crossproc_sys::futex::{Watch, WordAddress};
use crossproc_sys::robust;

use crate::reactor::driver::{self, Audience, MOST_WORDS, Registration};
use crate::wait::source::{Armed, Source, WatchState, Words};

/// What is waited for: a source, or a handle that leads to one.
pub(crate) trait Lead {
    fn source(&self) -> &dyn Source;
}

impl<S: Source> Lead for &S {
    fn source(&self) -> &dyn Source {
        *self
    }
}

impl Lead for &dyn Source {
    fn source(&self) -> &dyn Source {
        *self
    }
}

/// Runs an operation with the source's word pending, so that the kernel completes it.
fn pending<R>(source: &dyn Source, operation: impl FnOnce(&dyn Source) -> R) -> R {
    // A thread without a robust list waits all the same. Should it die in here, a slice wakes those
    // that it was to wake.
    let entry = robust::current().ok().map(|thread| (thread.entry(), thread.entry().now()));
    if let Some((entry, _)) = &entry {
        source.pend(entry);
    }
    let result = operation(source);
    if let Some((entry, before)) = entry {
        entry.end_nested(before);
    }
    result
}

/// A wait. It begins when it is made, and is over when something is taken, or it is dropped.
pub(crate) struct Line<L: Lead> {
    lead: L,
    state: WatchState,
    registration: Option<Registration>,
}

/// How often one poll looks again because something has changed during its look. After that it is
/// another task's turn.
pub(crate) const MOST_LOOKS: u32 = 64;

impl<L: Lead> Line<L> {
    pub(crate) fn new(lead: L) -> Self {
        let state = lead.source().begin();
        Line { lead, state, registration: None }
    }

    /// Takes what there is, or waits for it. `take` is the `try_` form: it returns `None` if there
    /// is nothing.
    pub(crate) fn poll<R>(
        &mut self,
        context: &Context<'_>,
        mut take: impl FnMut(&Self) -> Option<R>,
    ) -> Poll<io::Result<R>> {
        self.go_on();
        for _ in 0..MOST_LOOKS {
            if let Some(result) = take(self) {
                self.leave(true);
                return Poll::Ready(Ok(result));
            }
            match self.arm(context.waker()) {
                Ok(Armed::Asleep) => return Poll::Pending,
                Ok(Armed::Again) => {}
                Err(error) => {
                    self.leave(false);
                    return Poll::Ready(Err(error));
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns whether the source is ready, or was since the wait began.
    pub(crate) fn is_ready(&self) -> bool {
        self.lead.source().look(&self.state)
    }

    /// Begins a poll, perhaps in another thread than the one before.
    pub(crate) fn go_on(&mut self) {
        self.lead.source().go_on(&mut self.state);
    }

    /// Registers, or goes on waiting, if there is still nothing.
    pub(crate) fn arm(&mut self, waker: &Waker) -> io::Result<Armed> {
        let Some(words) = words(self.lead.source(), &mut self.state) else {
            return Ok(Armed::Again);
        };
        let source = self.lead.source();
        let audience = if source.is_for_all() { Audience::All } else { Audience::First };
        let (registration, state) = (&mut self.registration, &mut self.state);
        // The waiter may have been notified: a thread that slept in its place was woken. Perhaps
        // the kernel woke it for a thread that died before it had woken all those that it was to
        // wake. What the sleeping thread has pending for that may be gone before the work is done.
        let (was_notified, after) = pending(source, |source| {
            let armed =
                driver::arm(registration, source.key(), (audience, &[source]), &words, waker)?;
            if armed.0 {
                source.awake(state);
            }
            Ok::<_, io::Error>(armed)
        })?;
        after.perform();
        if let Some(registration) =
            self.registration.as_ref().filter(|_| was_notified && self.lead.source().is_for_each())
        {
            registration.tell_next();
        }
        Ok(Armed::Asleep)
    }

    /// Ends the wait. With `has_looked`, nothing is left to do for the others in the line if it
    /// finds nothing now. Otherwise the next one is to look.
    pub(crate) fn leave(&mut self, has_looked: bool) {
        let Some(registration) = self.registration.take() else { return };
        let (source, state) = (self.lead.source(), &mut self.state);
        // As in `arm`.
        let after = pending(source, |source| {
            let (was_notified, after) =
                registration.leave(|| if has_looked { words(source, state) } else { None });
            if was_notified {
                source.awake(state);
            }
            after
        });
        after.perform();
    }
}

impl<L: Lead> Drop for Line<L> {
    fn drop(&mut self) {
        self.leave(false);
    }
}

/// Arms the source. Returns the words to sleep on, or `None` if something has changed.
fn words(source: &dyn Source, state: &mut WatchState) -> Option<Vec<WordAddress>> {
    pending(source, |source| {
        let mut words: [Option<Watch<'_>>; MOST_WORDS] = [None; MOST_WORDS];
        let mut words = Words::new(&mut words);
        let armed = source.arm(state, &mut words);
        (armed == Armed::Asleep)
            .then(|| words.named().iter().flatten().map(|&word| word.into()).collect())
    })
}
