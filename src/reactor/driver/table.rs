//! The driver without its threads: the waiters registered under each key, the words that stand for
//! it, and the batch on which a thread sleeps on them.
//!
//! All of it is under one mutex, and calls nothing that it was given: a waker may run anything,
//! even code that comes back here. [`After`] collects what is left to be done when the mutex is
//! free.
//!
//! # Invariants
//! 1. A key is in the table as long as a waiter is registered under it. Each waiter is either in
//!    `waiting` or counted in `notified`.
//! 2. While a waiter is in `waiting`, the key is armed, or a waiter was notified and has not looked
//!    yet.
//! 3. A key is armed only while a waiter is in `waiting`.
//! 4. A key is on the one batch that it names. The `taken` of a batch is the number of words of its
//!    armed keys, and at most [`ROOM`].
//! 5. While a batch `is_asleep`, its thread sleeps, or is about to. It sleeps on what was armed
//!    when it said so, and on its control word. A change of what is armed moves that word, and has
//!    it woken.
//! 6. An armed key has a cover. A key that was armed while a waiter had one of its wake-ups in hand
//!    has two. Covers go only when the batch's thread does not sleep on the key's words.
//! 7. A key that has an owner is alone on its batch.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::futex::{self, MAX_WATCHED, Watch, WordAddress};

use crate::reactor::stand_in::Cover;

/// The most words on a batch, beside its control word.
pub(crate) const ROOM: usize = MAX_WATCHED - 1;

/// The waiters that are told when the words of a key have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// The first waiter: what is there is for one, which then sees to the others.
    #[cfg_attr(
        not(feature = "tokio"),
        allow(dead_code, reason = "who waits by a thread is alone in its line")
    )]
    First,
    /// All waiters: what has happened has happened for all.
    All,
    /// The only waiter. It has the words pending itself for what it was notified of.
    One,
}

/// The state of a key.
#[derive(Debug)]
struct Key {
    audience: Audience,
    batch: usize,
    /// The words that the batch's thread sleeps on for it; empty if it is not armed.
    words: Vec<WordAddress>,
    /// The wakers, by order of arrival.
    waiting: BTreeMap<u64, Waker>,
    /// How many waiters were notified and have neither looked since nor left.
    notified: usize,
    /// A wake may have been hidden by another key's.
    is_doubted: bool,
    /// Its first word may have an owner: it is on a batch of its own.
    has_owner: bool,
    /// One for the batch's thread. There is another if the thread was to sleep while a waiter had
    /// one of the key's wake-ups in hand: [`stand_in`](crate::reactor::stand_in) says why.
    covers: Vec<Cover>,
}

/// What one thread sleeps on.
#[derive(Debug)]
struct Batch {
    control: Arc<AtomicU32>,
    keys: BTreeSet<usize>,
    taken: usize,
    is_asleep: bool,
    /// Its thread is not to wait for more keys.
    is_to_end: bool,
    /// It is for a key that has an owner, and for no other key.
    is_apart: bool,
    /// The covers of keys that are gone, or elsewhere. The batch's thread may sleep on their words
    /// until it goes to sleep anew.
    retired: Vec<Cover>,
}

/// The words of a batch as its thread takes them to the kernel: the control word first.
#[derive(Debug, Default)]
pub(crate) struct WaitList {
    pub(crate) words: Vec<WordAddress>,
    /// The keys in their order, each with the index at which its words end.
    pub(crate) keys: Vec<(usize, usize)>,
    /// The value of the control word.
    pub(crate) control: u32,
    /// The word that the thread has pending itself.
    pub(crate) pending: Option<WordAddress>,
}

/// What is left to be done when the mutex is free.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct After {
    notified: Vec<Waker>,
    /// Their destructors may run anything, too.
    dropped: Vec<Waker>,
    kicked: Vec<Arc<AtomicU32>>,
    passed_on: Vec<WordAddress>,
}

impl WaitList {
    pub(crate) fn words_of(&self, key: usize) -> &[WordAddress] {
        let begin = key.checked_sub(1).map_or(1, |before| self.keys[before].1);
        &self.words[begin..self.keys[key].1]
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    keys: BTreeMap<usize, Key>,
    batches: Vec<Option<Batch>>,
    last_id: u64,
}

impl Table {
    /// Returns a batch with room for `count` words of a key: the key's own one, if they fit there.
    pub(crate) fn batch_for(&self, address: usize, count: usize, has_owner: bool) -> Option<usize> {
        let fits = |batch: &Batch, own: usize| batch.taken - own + count <= ROOM;
        let own = self.keys.get(&address).filter(|key| {
            self.batches[key.batch].as_ref().is_some_and(|batch| fits(batch, key.words.len()))
        });
        let takes = |batch: &Batch| {
            fits(batch, 0) && if has_owner { batch.keys.is_empty() } else { !batch.is_apart }
        };
        own.map(|key| key.batch)
            .or_else(|| self.batches.iter().position(|batch| batch.as_ref().is_some_and(takes)))
    }

    /// Returns how many more covers a key needs than it has, to be armed on a batch, or a new one.
    pub(crate) fn missing_covers(
        &self,
        (address, audience): (usize, Audience),
        batch: Option<usize>,
    ) -> usize {
        let Some(key) = self.keys.get(&address) else { return 1 };
        let kept = if batch == Some(key.batch) { key.covers.len() } else { 0 };
        let is_in_hand = key.notified != 0 && audience != Audience::One;
        (1 + usize::from(is_in_hand)).saturating_sub(kept)
    }

    /// Adds a batch for a thread that is about to be started, and returns its index.
    pub(crate) fn add_batch(&mut self, control: Arc<AtomicU32>) -> usize {
        let batch = Some(Batch {
            control,
            keys: BTreeSet::new(),
            taken: 0,
            is_asleep: false,
            is_to_end: false,
            is_apart: false,
            retired: Vec::new(),
        });
        if let Some(free) = self.batches.iter().position(Option::is_none) {
            self.batches[free] = batch;
            return free;
        }
        self.batches.push(batch);
        self.batches.len() - 1
    }

    /// Ends the threads of batches without keys, which do not wait for a key first. Returns how
    /// many they are, or `None` if there are batches with keys. Also returns how many stand-ins
    /// threads will give back.
    pub(crate) fn end_idle(&mut self, after: &mut After) -> (Option<usize>, usize) {
        let mut ended = 0;
        let mut is_used = false;
        for batch in self.batches.iter_mut().flatten() {
            if batch.keys.is_empty() {
                batch.is_to_end = true;
                batch.kick(after);
                ended += 1;
            } else {
                is_used = true;
            }
        }
        let retired =
            self.batches.iter().flatten().flat_map(|batch| &batch.retired).map(Cover::len).sum();
        ((!is_used).then_some(ended), retired)
    }

    /// Returns whether the thread of a batch is not to wait for keys.
    pub(crate) fn is_to_end(&self, batch: usize) -> bool {
        self.batches[batch].as_ref().is_some_and(|batch| batch.is_to_end)
    }

    /// Gives up a batch that has no keys. Returns whether it had none.
    pub(crate) fn remove_batch(&mut self, batch: usize) -> bool {
        let is_unused = self.batches[batch].as_ref().is_none_or(|batch| batch.keys.is_empty());
        if is_unused {
            self.batches[batch] = None;
        }
        is_unused
    }

    /// Registers a waiter that has read these words, and then looked and found nothing. A `known`
    /// one waits on at the place in the line that it had. Returns the waiter's ID, and whether it
    /// had been notified since it was here last.
    ///
    /// The words stand for all waiters under the key. If others were armed, something has happened
    /// since those were read. For [`Audience::First`] that is over: after it there was nothing
    /// again, for any waiter. For [`Audience::All`] the earlier waiters are told of it.
    ///
    /// `batch`: the one that [`batch_for`](Table::batch_for) returned for the words. `covers`: as
    /// many as are [missing](Table::missing_covers), or more.
    pub(crate) fn arm(
        &mut self,
        (address, audience, has_owner): (usize, Audience, bool),
        known: Option<u64>,
        (words, covers): (&[WordAddress], Vec<Cover>),
        batch: usize,
        waker: Waker,
    ) -> (u64, bool, After) {
        let mut after = After::default();
        let id = known.unwrap_or_else(|| {
            self.last_id += 1;
            self.last_id
        });
        let key = self.keys.entry(address).or_insert_with(|| Key {
            audience,
            batch,
            words: Vec::new(),
            waiting: BTreeMap::new(),
            notified: 0,
            is_doubted: false,
            has_owner,
            covers: Vec::new(),
        });
        if key.words != words && key.audience == Audience::All {
            let earlier: Vec<u64> =
                key.waiting.keys().copied().filter(|&other| other != id).collect();
            key.notified += earlier.len();
            after.notified.extend(earlier.iter().filter_map(|earlier| key.waiting.remove(earlier)));
        }
        let before = key.waiting.insert(id, waker);
        let was_notified = known.is_some() && before.is_none();
        after.dropped.extend(before);
        // The waiter has looked since.
        key.notified -= usize::from(was_notified);
        if key.words != words {
            self.move_words(address, batch, words, &mut after);
        }
        if let Some(key) = self.keys.get_mut(&address) {
            key.covers.extend(covers);
        }
        (id, was_notified, after)
    }

    /// Returns whether a waiter is registered under a key.
    pub(crate) fn contains(&self, address: usize) -> bool {
        self.keys.contains_key(&address)
    }

    /// Returns whether others depend on what a leaving waiter does: it has been notified, alone,
    /// and nothing is armed for those that wait.
    pub(crate) fn is_on_duty(&self, address: usize, id: u64) -> bool {
        self.keys.get(&address).is_some_and(|key| {
            key.notified == 1
                && key.words.is_empty()
                && !key.waiting.is_empty()
                && !key.waiting.contains_key(&id)
        })
    }

    /// Removes a waiter. If others depended on it, their key is armed with `fresh` words, which it
    /// has read before it looked and found nothing more. Without such words the next waiter is
    /// notified, to look for itself. The first result is whether the waiter had been notified and
    /// had not looked since.
    pub(crate) fn leave(
        &mut self,
        address: usize,
        id: u64,
        fresh: Option<&[WordAddress]>,
    ) -> (bool, After) {
        let mut after = After::default();
        let is_on_duty = self.is_on_duty(address, id);
        let Some(key) = self.keys.get_mut(&address) else { return (false, after) };
        let waker = key.waiting.remove(&id);
        let was_notified = waker.is_none();
        after.dropped.extend(waker);
        key.notified -= usize::from(was_notified);
        let (waiting, notified) = (key.waiting.len(), key.notified);
        if is_on_duty {
            // On another batch the key would be without a cover.
            let batch = self.keys[&address].batch;
            let has_owner = self.keys[&address].has_owner;
            match fresh
                .filter(|words| self.batch_for(address, words.len(), has_owner) == Some(batch))
            {
                Some(words) => self.move_words(address, batch, words, &mut after),
                None => self.fire(address, &mut after),
            }
        } else if waiting == 0 {
            self.disarm(address, &mut after);
            if notified == 0 {
                self.forget(address, &mut after);
            }
        }
        (was_notified, after)
    }

    /// Disarms a key whose words have changed, or were woken, or may be lost sight of. The key's
    /// audience is notified, and nothing is armed until a waiter has looked.
    pub(crate) fn fire(&mut self, address: usize, after: &mut After) {
        self.disarm(address, after);
        let Some(key) = self.keys.get_mut(&address) else { return };
        key.is_doubted = false;
        let told = match key.audience {
            Audience::First | Audience::One => {
                Vec::from_iter(key.waiting.pop_first().map(|(_, waker)| waker))
            }
            Audience::All => core::mem::take(&mut key.waiting).into_values().collect(),
        };
        key.notified += told.len();
        after.notified.extend(told);
    }

    /// Notifies the next waiter behind one that waits in the line. What is armed stays armed.
    pub(crate) fn tell_next(&mut self, address: usize, id: u64, after: &mut After) {
        let Some(key) = self.keys.get_mut(&address) else { return };
        let next = key.waiting.range(id + 1..).next().map(|(&next, _)| next);
        let told = next.and_then(|next| key.waiting.remove(&next));
        key.notified += usize::from(told.is_some());
        after.notified.extend(told);
    }

    /// Fires all keys of a batch, or only those in doubt.
    pub(crate) fn fire_batch(&mut self, batch: usize, only_doubted: bool, after: &mut After) {
        let keys: Vec<usize> =
            self.batches[batch].iter().flat_map(|batch| batch.keys.iter().copied()).collect();
        for address in keys {
            if !only_doubted || self.keys.get(&address).is_some_and(|key| key.is_doubted) {
                self.fire(address, after);
            }
        }
    }

    /// Puts a key in doubt: a wake of it may have been hidden. A key that is not armed is not in
    /// doubt, since the waiter that arms it looks first.
    pub(crate) fn doubt(&mut self, address: usize) {
        if let Some(key) = self.keys.get_mut(&address) {
            key.is_doubted = !key.words.is_empty();
        }
    }

    /// Fills the wait list for the thread of a batch, which is about to sleep. Returns whether the
    /// batch has keys.
    pub(crate) fn go_to_sleep(&mut self, batch: usize, wait_list: &mut WaitList) -> bool {
        wait_list.words.clear();
        wait_list.keys.clear();
        let Some(batch) = &mut self.batches[batch] else { return false };
        // The thread has passed on what it was woken for before, through words that it does not
        // sleep on now.
        batch.retired.clear();
        batch.is_asleep = true;
        // Relaxed: it changes under the mutex only.
        wait_list.control = batch.control.load(Relaxed);
        wait_list.words.push(Watch::new(&*batch.control, wait_list.control).into());
        for &address in &batch.keys {
            let words = self.keys.get(&address).map_or(&[][..], |key| &key.words);
            if !words.is_empty() {
                wait_list.words.extend_from_slice(words);
                wait_list.keys.push((address, wait_list.words.len()));
                if batch.is_apart {
                    wait_list.pending = Some(words[0]);
                }
            }
        }
        if batch.keys.is_empty() || !batch.is_apart {
            // Otherwise `pending` stays: while the key is not armed, a waiter may have one of its
            // wake-ups in hand.
            wait_list.pending = None;
        }
        !batch.keys.is_empty()
    }

    /// Notes that the thread of a batch does not sleep: it will see what is armed.
    pub(crate) fn get_up(&mut self, batch: usize) {
        if let Some(batch) = &mut self.batches[batch] {
            batch.is_asleep = false;
        }
    }

    /// Returns the number of keys, and of batches.
    #[cfg(test)]
    pub(crate) fn census(&self) -> (usize, usize) {
        (self.keys.len(), self.batches.iter().flatten().count())
    }

    /// Arms a key, in place of what was armed before.
    fn move_words(&mut self, address: usize, to: usize, words: &[WordAddress], after: &mut After) {
        self.disarm(address, after);
        let Some(key) = self.keys.get_mut(&address) else { return };
        let from = core::mem::replace(&mut key.batch, to);
        key.words.extend_from_slice(words);
        if let Some(batch) = self.batches[from].as_mut().filter(|_| from != to) {
            batch.keys.remove(&address);
            batch.retired.append(&mut key.covers);
            batch.kick(after);
        }
        if let Some(batch) = &mut self.batches[to] {
            batch.keys.insert(address);
            batch.is_to_end = false;
            batch.is_apart = key.has_owner;
            batch.taken += words.len();
            batch.kick(after);
        }
    }

    fn disarm(&mut self, address: usize, after: &mut After) {
        let Some(key) = self.keys.get_mut(&address) else { return };
        if let Some(batch) = self.batches[key.batch].as_mut().filter(|_| !key.words.is_empty()) {
            batch.taken -= key.words.len();
            batch.kick(after);
        }
        key.words.clear();
    }

    fn forget(&mut self, address: usize, after: &mut After) {
        let Some(mut key) = self.keys.remove(&address) else { return };
        if let Some(batch) = &mut self.batches[key.batch] {
            batch.keys.remove(&address);
            if !batch.is_asleep {
                // Its thread may still sleep on this key's words. If `is_asleep`, it does not
                // (invariant 5).
                batch.retired.append(&mut key.covers);
            }
            if batch.keys.is_empty() {
                // Its thread may sleep without a deadline, as for a key that is not armed.
                batch.kick(after);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn check(&self) {
        for (address, key) in &self.keys {
            assert!(!key.waiting.is_empty() || key.notified != 0, "invariant 1");
            assert!(
                key.waiting.is_empty() || !key.words.is_empty() || key.notified != 0,
                "invariant 2"
            );
            assert!(key.words.is_empty() || !key.waiting.is_empty(), "invariant 3");
            assert!(
                self.batches[key.batch].as_ref().is_some_and(|batch| batch.keys.contains(address)),
                "invariant 4: on its batch"
            );
            assert!(key.words.is_empty() || !key.covers.is_empty(), "invariant 6");
            assert!(
                !key.has_owner
                    || self.batches[key.batch].as_ref().is_some_and(|batch| batch.keys.len() == 1),
                "invariant 7"
            );
        }
        for (index, batch) in self.batches.iter().enumerate() {
            let Some(batch) = batch else { continue };
            let own = batch.keys.iter().map(|address| &self.keys[address]);
            assert!(own.clone().all(|key| key.batch == index), "invariant 4: on one batch");
            assert_eq!(
                own.map(|key| key.words.len()).sum::<usize>(),
                batch.taken,
                "invariant 4: what is taken"
            );
            assert!(batch.taken <= ROOM, "invariant 4: room");
        }
    }
}

impl Batch {
    /// Has the thread look again: what is armed on the batch has changed (invariant 5), or which
    /// keys it has.
    fn kick(&mut self, after: &mut After) {
        if core::mem::replace(&mut self.is_asleep, false) {
            // Relaxed: the thread reads it under the mutex, and then the kernel reads it, which
            // orders it with the wake.
            self.control.fetch_add(1, Relaxed);
            after.kicked.push(Arc::clone(&self.control));
        }
    }
}

impl After {
    /// Passes on a wake through one of these words. It was meant for a sleeper, and no waiter is
    /// registered for it any more.
    pub(crate) fn pass_on(&mut self, words: &[WordAddress]) {
        self.passed_on.extend_from_slice(words);
    }

    /// Does what is left. The caller does not hold the mutex.
    pub(crate) fn perform(self) {
        for word in self.passed_on {
            futex::wake_address(word, 1);
        }
        for control in self.kicked {
            futex::wake(&*control, 1);
        }
        for waker in self.notified {
            // A waker that panics does not keep the others from being called. Its message has been
            // printed. Its payload is forgotten, since it might panic when it is dropped.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                core::mem::forget(payload);
            }
        }
        drop(self.dropped);
    }
}
