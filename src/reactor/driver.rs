//! The driver from futexes to all that is not a futex: descriptors, and futures.
//!
//! Nothing but a thread can sleep on a futex. So who waits for something else besides, or is a task
//! and no thread, registers here the words that would tell it, with a waker, and a thread of this
//! process sleeps on them in its place, by `futex_waitv`, for as many as fit into one call, 127
//! words. These threads are started when they are needed and end a second after that. A process
//! that never registers anything has none, and no memory for it.
//!
//! # Registrations
//! A registration stands under a *key*: the address of whatever tells one source from another, such
//! as one side of a queue. Whoever looks at a source and finds nothing there for it [arms](arm) the
//! key: it reads the source's words *before* it looks, says in the source that somebody sleeps, and
//! hands in the words. When one of them changes, or is woken, the key is disarmed and the first in
//! its line is [notified](Audience). That one looks for itself, in its own context, and
//! - takes what is there, and leaves;
//! - finds nothing, and arms the key again, with fresh words, on behalf of all. Where what is not
//!   there for one may be there for another, the next one is notified as well;
//! - or leaves without having looked, as a future that is dropped.
//!
//! Who leaves last of those that were notified, with the key not armed and others waiting, has a
//! duty to them: it arms the key for them if it has looked and there was nothing more
//! ([`Registration::leave`]), or the next is notified. The driver itself never reads a word: it
//! does not know what any of them means, and whether they are still there. The kernel reads them,
//! and says EFAULT of what was unmapped. For whoever is registered borrows what it waits for, but
//! its thread here may hear late that it has left; and a future may be leaked.
//!
//! | a key is | words | notified | then |
//! |---|---|---|---|
//! | armed | some | any number | a change or a wake notifies the first in the line, and disarms; a newcomer with the same words just stands in line |
//! | in hand | none | at least one | who was notified arms it, or leaves, and so does a newcomer |
//! | gone | | | nobody is registered |
//!
//! # Why no notification is lost
//! *Invariant: while somebody waits for whom there is something, the words of the key have changed
//! since they were read, and a thread will see that or has been woken; or somebody was notified who
//! has not looked since.*
//! - **Armed.** The words were read before somebody looked who found nothing. What has come since
//!   has changed one of them, or woken the thread that slept on them, by the protocol of the
//!   source, for which the thread is a sleeper like any other. The kernel compares when the thread
//!   goes to sleep: what changed between reading and sleeping is seen then.
//! - **Armed anew, with other words.** They were read later, or earlier, than those before: two
//!   that look at the same time hand in what they have in any order. If they are the later ones,
//!   there was nothing when they were read. If they are the earlier ones, the kernel finds them
//!   changed, and one is notified in vain. Neither loses anything, so whoever comes last is right.
//!   Where all are to be told, something has happened between the two readings that is over, and
//!   those who came before are told.
//! - **Notified.** It looks after that, or leaves. Between the notification and its look the key
//!   need not be armed: what comes in that time it finds.
//! - **Dropped.** Before it was notified: the others' words are armed as before. After that: it is
//!   told apart by its not being in the line any more, under the same mutex, so there is no time
//!   between. It had a duty only if nobody else was notified and the key is not armed; otherwise
//!   that other one looks later, or what is armed was read by a newcomer that found nothing later.
//! - **The thread is on its way.** It sleeps on what was armed when it last had the mutex. Who arms
//!   or disarms moves its control word, which is one of those that it sleeps on, and wakes it. A
//!   wake that comes for what is not armed any more is one for those who are registered now, if
//!   there are any: it fires the key all the same. If there are none, somebody else may sleep on
//!   the same words, in this process or another, whose it is as well: it is passed on, by waking
//!   one of those.
//! - **Two wakes at once.** `futex_waitv` tells the last word of those that it was woken through. A
//!   change of another is seen by the next comparison. A wake without a change, as the kernel's for
//!   a dead thread, would be lost: so the keys before the one that was told are in *doubt*, and
//!   fired 10 ms later unless something else happens to them before.
//!
//! # What is left to slices
//! At the end of each [slice](crate::slice) the first in each line is notified, as everybody in
//! this crate looks again then. What it mends here: one that was notified, and is neither polled
//! again nor dropped, has the others in its line wait for as long, and, if what woke it was the
//! kernel's wake for a dead thread, those who sleep on the same in other processes; so does one
//! that was leaked, from then on. Kernels before 5.16 have no `futex_waitv`: there the first of
//! each line is told to look every 5 ms. A kernel's wake that was hidden by another one's, of a key
//! in doubt, is gone if the process is killed in those 10 ms.
//!
//! # Fork
//! A forked child has a copy of the table, perhaps in the middle of a change and with the mutex
//! taken, and none of the threads. It knows by a word that the kernel wipes in children, and begins
//! with a table of its own; registrations that were copied do nothing there. The threads have all
//! signals blocked: handlers run in the program's own.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crossproc_sys::futex::WordAddress;

mod sleeper;
mod table;
#[cfg(all(test, not(crossproc_loom)))]
mod tests;

use self::sleeper::Sleeper;
pub(crate) use self::table::Audience;
use self::table::{After, ROOM, Table};
use super::stand_in::Cover;
use crate::memory::per_process::{Current, PerProcess};
use crate::wait::source::Source;

/// The most words that can be armed for one key.
pub(crate) const MOST_WORDS: usize = ROOM;

/// A process's table.
#[derive(Debug, Default)]
pub(crate) struct Driver {
    table: Mutex<Table>,
}

static DRIVER: PerProcess<Driver> = PerProcess::new();

impl Driver {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics under it but for a broken invariant.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_idle(&self) -> (Option<usize>, usize) {
        let mut after = After::default();
        let ended = self.table().end_idle(&mut after);
        after.perform();
        ended
    }
}

impl Current<Driver> {
    fn arm(
        &'static self,
        registration: &mut Option<Registration>,
        key: usize,
        (audience, sources): (Audience, &[&dyn Source]),
        words: &[WordAddress],
        waker: &Waker,
    ) -> io::Result<(bool, After)> {
        assert!(
            (1..=MOST_WORDS).contains(&words.len()),
            "{} words cannot be slept on",
            words.len()
        );
        if registration.as_ref().is_some_and(|registration| {
            registration.key != key || !registration.driver.is_of_this_process()
        }) {
            *registration = None;
        }
        // Under the mutex nothing of the caller's is called.
        let waker = waker.clone();
        let has_owner = sources.iter().any(|source| source.has_owner());
        let mut covers = Vec::new();
        let (mut table, batch, missing) = loop {
            let table = self.table();
            let batch = table.batch_for(key, words.len(), has_owner);
            let missing = table.missing_covers((key, audience), batch);
            if covers.len() >= missing {
                break (table, batch, missing);
            }
            drop(table);
            // Not under the mutex: a thread may have to be started.
            covers.push(Cover::of(sources.iter().copied()));
        };
        let batch = match batch {
            Some(batch) => batch,
            None => Sleeper::start(self, &mut table)?,
        };
        let known = registration.as_ref().map(|registration| registration.id);
        // Others may have brought theirs meanwhile.
        let needless = covers.split_off(missing);
        let (id, was_notified, after) =
            table.arm((key, audience, has_owner), known, (words, covers), batch, waker);
        drop(table);
        drop(needless);
        registration.get_or_insert_with(|| Registration { driver: self, key, id });
        Ok((was_notified, after))
    }
}

/// One that waits, in the line under a key. Dropping it is leaving.
#[derive(Debug)]
#[must_use]
pub(crate) struct Registration {
    driver: &'static Current<Driver>,
    key: usize,
    id: u64,
}

/// Registers somebody who has read `words`, then looked and found nothing, or says so of somebody
/// who is registered. `words` are such that one of them changes, or is woken, as soon as somebody
/// under this key ought to look: 1 to [`MOST_WORDS`] of them, in the order in which the kernel is
/// to compare them. The waker is called once at most, from any thread; then it is time to look, and
/// to come back here with new words, or to leave.
///
/// All under one key are told in the same way, and wait for the same sources, whose words are
/// pending from now on: the thread may be given the kernel's wake for one that has died. A source
/// that [has an owner](Source::has_owner) is alone under its key, and has a thread of its own, in
/// whose own entry its word is. Whether this one had been notified since it was here last: a thread
/// has slept in its place, and may have been given a wake-up that was meant for others, too. And
/// what others are to be told now.
///
/// # Errors
/// What the system says to a thread that cannot be started. A registration is what it was before.
pub(crate) fn arm(
    registration: &mut Option<Registration>,
    key: usize,
    for_whom: (Audience, &[&dyn Source]),
    words: &[WordAddress],
    waker: &Waker,
) -> io::Result<(bool, After)> {
    DRIVER.get()?.arm(registration, key, for_whom, words, waker)
}

/// Has the threads end that nothing is registered with: they are started again when they are
/// needed. How many they are, or `None` if something is registered with others; and how many
/// stand-ins are given back by threads once they have time.
pub(crate) fn end_idle() -> (Option<usize>, usize) {
    DRIVER.existing().map_or((Some(0), 0), |driver| driver.end_idle())
}

impl Registration {
    /// Has the next one look, too, behind this one, which has been notified, found nothing, and
    /// waits on: what is not there for it may be there for that one.
    #[cfg_attr(
        not(feature = "tokio"),
        allow(dead_code, reason = "who waits by a thread is alone in its line")
    )]
    pub(crate) fn tell_next(&self) {
        let mut after = After::default();
        self.driver.table().tell_next(self.key, self.id, &mut after);
        after.perform();
    }

    /// Leaves. `look` is asked only if others depend on it: for words that it has read before it
    /// looked and found nothing more. `None`: there is more, or it has not looked.
    ///
    /// Whether it had been notified, and had not come back since; and what others are to be told.
    #[cfg_attr(
        not(feature = "tokio"),
        allow(dead_code, reason = "who waits by a thread is alone in its line")
    )]
    pub(crate) fn leave(self, look: impl FnOnce() -> Option<Vec<WordAddress>>) -> (bool, After) {
        if !self.driver.is_of_this_process() {
            return (false, After::default());
        }
        let is_on_duty = self.driver.table().is_on_duty(self.key, self.id);
        let fresh = if is_on_duty { look() } else { None };
        let left = self.driver.table().leave(self.key, self.id, fresh.as_deref());
        core::mem::forget(self);
        left
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.driver.is_of_this_process() {
            let (_, after) = self.driver.table().leave(self.key, self.id, None);
            after.perform();
        }
    }
}
