//! The driver: threads that sleep on futexes in place of futures, and of threads that also wait for
//! something else, such as descriptors.
//!
//! Only a thread can sleep on a futex. A task is no thread, and a thread that waits for something
//! else besides cannot sleep on a futex meanwhile. Both register here the words that would tell
//! them, with a waker. A thread of this process sleeps on these words in their place, by
//! `futex_waitv`. It takes as many as fit into one call: 127 words. These threads are started when
//! they are needed, and end a second after that. A process that never registers anything has no
//! such threads, and no memory for them.
//!
//! # Registrations
//! A registration stands under a *key*: the address of what tells one source from another, such as
//! one side of a queue. A waiter that looks at a source and finds nothing there for it [arms](arm)
//! the key. It reads the source's words *before* it looks, says in the source that there is a
//! sleeper, and hands in the words. When one of them changes, or is woken, the key is disarmed and
//! the first waiter in its line is [notified](Audience). The notified waiter looks for itself, in
//! its own context. Then it does one of three things:
//! - It takes what is there, and leaves.
//! - It finds nothing, and arms the key again, with fresh words, on behalf of all. Where what is
//!   not there for one waiter may be there for another, the next one is notified as well.
//! - It leaves without having looked, like a future that is dropped.
//!
//! The last of the notified waiters to leave has a duty if the key is not armed and others wait. If
//! it has looked and there was nothing more, it arms the key for them ([`Registration::leave`]).
//! Otherwise the next one is notified.
//!
//! The driver itself never reads a word: it knows neither what the words mean nor whether they are
//! still there. The kernel reads them, and says EFAULT for those that were unmapped. A registered
//! waiter borrows what it waits for, but its thread here may learn late that it has left. And a
//! future may be leaked.
//!
//! | a key is | words | notified | then |
//! |---|---|---|---|
//! | armed | some | any number | a change or a wake notifies the first in the line, and disarms; a newcomer with the same words just stands in line |
//! | in hand | none | at least one | a notified waiter arms it, or leaves; a newcomer arms it, too |
//! | gone | | | nobody is registered |
//!
//! # Why no notification is lost
//! *Invariant: while there is something for a waiter in the line, one of two things is true. The
//! words of the key have changed since they were read, and a thread will see that or has been
//! woken. Or a waiter was notified that has not looked since.*
//! - **Armed.** The words were read before a look that found nothing. What has come since has
//!   changed one of them, or woken the thread that slept on them. The protocol of the source sees
//!   to that: to it the thread is a sleeper like any other. The kernel compares the words when the
//!   thread goes to sleep. What changed between the reading and the sleep is seen then.
//! - **Armed anew, with other words.** They were read later, or earlier, than those before: two
//!   waiters that look at the same time hand in their words in any order. If they are the later
//!   ones, there was nothing when they were read. If they are the earlier ones, the kernel finds
//!   them changed, and a waiter is notified in vain. Neither loses anything, so the last to come is
//!   right. Where all are to be told, something has happened between the two readings that is over,
//!   and the earlier waiters are told.
//! - **Notified.** The waiter looks after that, or leaves. Between the notification and its look
//!   the key need not be armed: it finds what comes in that time.
//! - **Dropped.** If the waiter had not been notified, the others' words are armed as before. If it
//!   had, it is not in the line any more. The same mutex guards both, so there is no time in
//!   between. It had a duty only if no other waiter was notified and the key is not armed.
//!   Otherwise that other waiter looks later, or the armed words were read by a newcomer that found
//!   nothing later.
//! - **The thread is on its way.** It sleeps on what was armed when it last had the mutex. Arming
//!   and disarming move its control word, which is one of those that it sleeps on, and wake it. A
//!   wake may come through words that are not armed any more. If waiters are registered under the
//!   key, the wake is for them: it fires the key all the same. If there are none, another sleeper
//!   on the same words may be meant, in this process or another. So the wake is passed on, by
//!   waking one such sleeper.
//! - **Two wakes at once.** `futex_waitv` tells the last word of those that it was woken through. A
//!   change of another word is seen by the next comparison. A wake without a change, such as the
//!   kernel's for a dead thread, would be lost. So the keys before the one that was told are in
//!   *doubt*: they are fired 10 ms later unless something else happens to them before.
//!
//! # What is left to slices
//! At the end of each [slice](crate::set_recheck_interval) the first waiter in each line is
//! notified, since every waiter in this crate looks again then. These cases are left to slices:
//! - A notified waiter is neither polled again nor dropped. The others in its line wait until then.
//!   If what woke it was the kernel's wake for a dead thread, so do the sleepers on the same words
//!   in other processes.
//! - A future is leaked. It has the same effect, from then on.
//! - The kernel is older than 5.16 and has no `futex_waitv`. There the first of each line is told
//!   to look every 5 ms.
//! - A kernel's wake was hidden by another one, so that its key is in doubt. It is gone if the
//!   process is killed in those 10 ms.
//!
//! # Fork
//! A forked child has a copy of the table, perhaps in the middle of a change and with the mutex
//! locked, and none of the threads. It learns that from a word that the kernel wipes in children,
//! and begins with a table of its own. Copied registrations do nothing there. The threads have all
//! signals blocked: handlers run in the program's own threads.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crossproc_sys::futex::WordAddress;
use crossproc_sys::per_process::{Current, PerProcess};

mod sleeper;
mod table;
#[cfg(all(test, not(crossproc_loom)))]
mod tests;

use self::sleeper::Sleeper;
pub(crate) use self::table::Audience;
use self::table::{After, ROOM, Table};
use super::stand_in::Cover;
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
        // Nothing panics under the mutex unless an invariant is broken.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_idle(&self) -> (Option<usize>, usize) {
        let mut after = After::default();
        let ended = self.table().end_idle(&mut after);
        after.perform();
        ended
    }
}

/// What the driver of a process does for its waiters. [`Current`] is another crate's.
trait Arm {
    fn arm(
        &'static self,
        registration: &mut Option<Registration>,
        key: usize,
        for_whom: (Audience, &[&dyn Source]),
        words: &[WordAddress],
        waker: &Waker,
    ) -> io::Result<(bool, After)>;
}

impl Arm for Current<Driver> {
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
        // None of the caller's code is called under the mutex.
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
        // Other threads may have added covers meanwhile.
        let needless = covers.split_off(missing);
        let (id, was_notified, after) =
            table.arm((key, audience, has_owner), known, (words, covers), batch, waker);
        drop(table);
        drop(needless);
        registration.get_or_insert_with(|| Registration { driver: self, key, id });
        Ok((was_notified, after))
    }
}

/// A waiter's place in the line under a key. Dropping it leaves the line.
#[derive(Debug)]
#[must_use]
pub(crate) struct Registration {
    driver: &'static Current<Driver>,
    key: usize,
    id: u64,
}

/// Registers a waiter, or lets a registered one wait on. The waiter has read `words`, and then
/// looked and found nothing.
///
/// One of `words` changes, or is woken, as soon as a waiter under this key ought to look. There are
/// 1 to [`MOST_WORDS`] of them, in the order in which the kernel is to compare them. The waker is
/// called at most once, from any thread. Then it is time to look, and to come back here with new
/// words, or to leave.
///
/// All waiters under one key are told in the same way, and wait for the same sources. The words of
/// these are pending from the call on: the thread may be given the kernel's wake for a dead one. A
/// source that [has an owner](Source::has_owner) is alone under its key. It has a thread of its
/// own, which has the source's word in its own entry.
///
/// Returns whether this waiter had been notified since it was here last, and what others are to be
/// told now. If it had been notified, a thread has slept in its place, and may have been given a
/// wake-up that was meant for others, too.
///
/// # Errors
/// The system's, if a thread cannot be started. A registration under this key is what it was
/// before.
pub(crate) fn arm(
    registration: &mut Option<Registration>,
    key: usize,
    for_whom: (Audience, &[&dyn Source]),
    words: &[WordAddress],
    waker: &Waker,
) -> io::Result<(bool, After)> {
    DRIVER.get()?.arm(registration, key, for_whom, words, waker)
}

/// Ends the threads that nothing is registered with; they are started again when they are needed.
/// Returns how many they are, or `None` if something is registered with others. Also returns how
/// many stand-ins are given back by threads once they have time.
pub(crate) fn end_idle() -> (Option<usize>, usize) {
    DRIVER.existing().map_or((Some(0), 0), |driver| driver.end_idle())
}

impl Registration {
    /// Has the next waiter look, too, behind this one, which was notified, found nothing, and waits
    /// on. What is not there for this one may be there for that one.
    #[cfg_attr(
        not(feature = "tokio"),
        allow(dead_code, reason = "who waits by a thread is alone in its line")
    )]
    pub(crate) fn tell_next(&self) {
        let mut after = After::default();
        self.driver.table().tell_next(self.key, self.id, &mut after);
        after.perform();
    }

    /// Leaves. `look` is called only if others depend on it. It returns words that it has read
    /// before it looked and found nothing more, or `None` if there is more, or it has not looked.
    ///
    /// Returns whether the waiter had been notified and had not come back since, and what others
    /// are to be told.
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
