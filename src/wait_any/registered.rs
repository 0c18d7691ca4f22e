//! Waiting for descriptors and words together, or for more words than the kernel watches at once.
//! The caller sleeps in one `ppoll`, while threads of the [driver] sleep on the words and ring a
//! bell.
//!
//! A call registers the words of its sources under keys of its own, so that it is alone in each
//! line. Each key has as many words as one thread can sleep on. The call is a watcher like any
//! other (`source`): the threads sleep where it would.

use core::ops::Range;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Wake, Waker};

use crossproc_sys::clock;
use crossproc_sys::futex::{Watch, WordAddress};
use crossproc_sys::poll::Bell;

use super::descriptors::Descriptors;
use super::sealed::Of;
use super::watching::Watcher;
use super::{WaitAnyError, Waitable};
use crate::reactor::driver::{self, Audience, MOST_WORDS, Registration};
use crate::wait::Waiter;
use crate::wait::source::{Armed, Source, WatchState, Words};

/// Wakes the caller by a bell.
struct Ringer(Bell);

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        self.0.ring();
    }
}

/// Sources whose words are registered together.
#[derive(Debug)]
struct Group {
    /// The range of the sources.
    which: Range<usize>,
    registration: Option<Registration>,
}

/// Divides sources into groups. A group has as many words as one thread can sleep on, or one source
/// with an owner.
fn groups(on: &[&dyn Source]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut left = 0;
    for (index, source) in on.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if source.words() <= left && !source.has_owner() => {
                group.which.end = index + 1;
            }
            _ => {
                left = MOST_WORDS;
                groups.push(Group { which: index..index + 1, registration: None });
            }
        }
        left = if source.has_owner() { 0 } else { left - source.words() };
    }
    groups
}

/// Arms the sources of all groups, and registers their words. Also returns whether one of the
/// threads was woken for this call since it last registered them: the bell for that may have been
/// rung and silenced.
fn arm(
    watcher: &mut Watcher<'_, '_>,
    groups: &mut [Group],
    waker: &Waker,
) -> io::Result<(Armed, bool)> {
    let mut was_woken = false;
    for group in groups {
        let mut words: [Option<Watch<'_>>; MOST_WORDS] = [None; MOST_WORDS];
        let mut words = Words::new(&mut words);
        if watcher.arm(group.which.clone(), &mut words) == Armed::Again {
            return Ok((Armed::Again, was_woken));
        }
        let addresses: Vec<WordAddress> =
            words.named().iter().flatten().map(|&word| word.into()).collect();
        // The group stays where it is as long as it is registered. Nothing else that is waited for
        // lies at that address.
        let key = core::ptr::from_ref(&group.registration).addr();
        let for_whom = (Audience::One, watcher.sources(group.which.clone()));
        let (was_notified, after) =
            driver::arm(&mut group.registration, key, for_whom, &addresses, waker)?;
        was_woken |= was_notified;
        after.perform();
    }
    Ok((Armed::Asleep, was_woken))
}

/// Waits for sources, and descriptors if there are any.
pub(super) fn wait(on: &[&dyn Waitable], waiter: &mut Waiter) -> Result<Vec<usize>, WaitAnyError> {
    let (indices, sources): (Vec<usize>, Vec<&dyn Source>) = on
        .iter()
        .enumerate()
        .filter_map(|(index, waits)| match waits.of() {
            Of::Source(source) => Some((index, source)),
            Of::Descriptor(..) => None,
        })
        .unzip();
    let mut states: Vec<WatchState> = sources.iter().map(|source| source.begin()).collect();
    let ringer;
    let mut descriptors = Descriptors::of(on);
    let mut watcher = Watcher::new(&sources, &mut states);
    // A first look needs no bell.
    if !look(&mut watcher, &mut descriptors)? {
        waiter.check()?;
        ringer = Arc::new(Ringer(Bell::new().map_err(WaitAnyError::Os)?));
        descriptors.add(ringer.0.as_fd());
        let mut groups = groups(&sources);
        let result = wait_with(&mut watcher, &mut groups, &mut descriptors, &ringer, waiter);
        let has_slept = groups.iter().any(|group| group.registration.is_some());
        if has_slept {
            watcher.awake();
            drop(groups);
            // No thread sleeps for this call any more.
            watcher.awake();
        }
        watcher.end();
        result?;
    }
    let ready = indices
        .into_iter()
        .zip(&states)
        .filter(|(_, state)| state.is_ready != 0)
        .map(|(index, _)| index);
    let mut ready: Vec<usize> = ready.chain(descriptors.ready()).collect();
    ready.sort_unstable();
    Ok(ready)
}

/// Looks at everything. Returns whether anything is ready.
fn look(
    watcher: &mut Watcher<'_, '_>,
    descriptors: &mut Descriptors<'_>,
) -> Result<bool, WaitAnyError> {
    let is_ready = watcher.look();
    descriptors.look().map_err(WaitAnyError::Os)?;
    Ok(is_ready || descriptors.ready().next().is_some())
}

fn wait_with(
    watcher: &mut Watcher<'_, '_>,
    groups: &mut [Group],
    descriptors: &mut Descriptors<'_>,
    ringer: &Arc<Ringer>,
    waiter: &mut Waiter,
) -> Result<(), WaitAnyError> {
    let waker = Waker::from(Arc::clone(ringer));
    loop {
        // Before the look: a bell that rings later leads to a later look.
        ringer.0.silence();
        if look(watcher, descriptors)? {
            return Ok(());
        }
        waiter.check()?;
        // A source may take long to look at, if a peer has spoilt its memory.
        let deadline = waiter.until();
        if waiter
            .spin(|| watcher.glance() || deadline.is_some_and(|deadline| clock::now() >= deadline))
        {
            continue;
        }
        let (armed, was_woken) = arm(watcher, groups, &waker).map_err(WaitAnyError::Os)?;
        if was_woken {
            watcher.awake();
        } else if armed == Armed::Asleep {
            let slept = descriptors.sleep(waiter);
            watcher.awake();
            slept.map_err(WaitAnyError::Os)?;
        }
    }
}
