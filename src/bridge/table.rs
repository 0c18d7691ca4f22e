//! Who is registered under which key, which words stand for it, and on which seat a thread sleeps on them: the bridge without its threads.
//!
//! All of it is under one mutex and calls nothing that it was given: a waker may run anything, also what comes back here. What is left to be done when the mutex is free is collected in [`After`].
//!
//! # Invariants
//! 1. A key is in the table as long as somebody is registered under it, and each is either in `waiting` or counted in `notified`.
//! 2. Where somebody waits, the key is armed, or somebody was notified and has not looked yet.
//! 3. Only where somebody waits is a key armed.
//! 4. A key is on the one seat that it names. The `taken` of a seat are the words of its armed keys, and no more than [`ROOM`].
//! 5. While a seat `is_asleep`, its thread sleeps, or is about to, on what was armed when it said so, and on its control word. Whoever changes what is armed moves that word, and has it woken.
//! 6. A key that is armed has a cover, and one that was armed while somebody had one of its
//!    wake-ups in hand has two. Covers go only when the seat's thread does not sleep on the key's
//!    words.
//! 7. A key that has an owner is alone on its seat.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::futex::{self, Address, MAX_WATCHED, Watch};

use crate::stand_in::Cover;

/// How many words there are on a seat, beside its control word.
pub(crate) const ROOM: usize = MAX_WATCHED - 1;

/// Who is told that the words of a key have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// The first that waits: what is there is for one, who then sees to the others.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code, reason = "who waits by a thread is alone in its line"))]
    First,
    /// All: what has happened has happened for everybody.
    All,
    /// The only one that waits. It has the words pending itself for what it was notified of.
    One,
}

/// What is known of a key.
#[derive(Debug)]
struct Key {
    audience: Audience,
    seat: usize,
    /// What the seat's thread sleeps on for it; empty: it is not armed.
    words: Vec<Address>,
    /// By when they came.
    waiting: BTreeMap<u64, Waker>,
    /// How many were notified and have neither looked since nor left.
    notified: usize,
    /// A wake may have been hidden by another key's.
    is_doubted: bool,
    /// Its first word may have an owner: it is on a seat of its own.
    has_owner: bool,
    /// One for the seat's thread, and another one if it was to sleep while somebody had one of its
    /// wake-ups in hand: [`stand_in`](crate::stand_in) says why.
    covers: Vec<Cover>,
}

/// What one thread sleeps on.
#[derive(Debug)]
struct Seat {
    control: Arc<AtomicU32>,
    keys: BTreeSet<usize>,
    taken: usize,
    is_asleep: bool,
    /// Its thread is not to wait for more keys.
    is_to_end: bool,
    /// It is for a key that has an owner, and for no other one.
    is_apart: bool,
    /// Of keys that are gone, or elsewhere. Its thread may sleep on their words until it lies down
    /// anew.
    retired: Vec<Cover>,
}

/// A seat's words as its thread takes them to the kernel: the control word first.
#[derive(Debug, Default)]
pub(crate) struct Bed {
    pub(crate) words: Vec<Address>,
    /// The keys in their order, each with the end of its words.
    pub(crate) keys: Vec<(usize, usize)>,
    /// What the control word was.
    pub(crate) control: u32,
    /// What its thread has pending itself.
    pub(crate) pending: Option<Address>,
}

/// What is left to be done when the mutex is free.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct After {
    notified: Vec<Waker>,
    /// Their destructors may run anything, too.
    dropped: Vec<Waker>,
    kicked: Vec<Arc<AtomicU32>>,
    passed_on: Vec<Address>,
}

impl Bed {
    pub(crate) fn words_of(&self, key: usize) -> &[Address] {
        let begin = key.checked_sub(1).map_or(1, |before| self.keys[before].1);
        &self.words[begin..self.keys[key].1]
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    keys: BTreeMap<usize, Key>,
    seats: Vec<Option<Seat>>,
    last_id: u64,
}

impl Table {
    /// Where `count` words for a key fit: where it is, if they do.
    pub(crate) fn seat_for(&self, address: usize, count: usize, has_owner: bool) -> Option<usize> {
        let fits = |seat: &Seat, own: usize| seat.taken - own + count <= ROOM;
        let own = self.keys.get(&address).filter(|key| self.seats[key.seat].as_ref().is_some_and(|seat| fits(seat, key.words.len())));
        let takes = |seat: &Seat| fits(seat, 0) && if has_owner { seat.keys.is_empty() } else { !seat.is_apart };
        own.map(|key| key.seat).or_else(|| self.seats.iter().position(|seat| seat.as_ref().is_some_and(takes)))
    }

    /// How many more covers a key needs than it has, to be armed on a seat, or a new one.
    pub(crate) fn missing_covers(&self, (address, audience): (usize, Audience), seat: Option<usize>) -> usize {
        let Some(key) = self.keys.get(&address) else { return 1 };
        let kept = if seat == Some(key.seat) { key.covers.len() } else { 0 };
        let is_in_hand = key.notified != 0 && audience != Audience::One;
        (1 + usize::from(is_in_hand)).saturating_sub(kept)
    }

    /// A seat for a thread that is about to be started.
    pub(crate) fn add_seat(&mut self, control: Arc<AtomicU32>) -> usize {
        let seat = Some(Seat {
            control,
            keys: BTreeSet::new(),
            taken: 0,
            is_asleep: false,
            is_to_end: false,
            is_apart: false,
            retired: Vec::new(),
        });
        if let Some(free) = self.seats.iter().position(Option::is_none) {
            self.seats[free] = seat;
            return free;
        }
        self.seats.push(seat);
        self.seats.len() - 1
    }

    /// Has the threads of seats end that no key is on, without waiting for one. How many they are,
    /// or `None` if there are seats with keys; and how many stand-ins threads will give back.
    pub(crate) fn end_idle(&mut self, after: &mut After) -> (Option<usize>, usize) {
        let mut ended = 0;
        let mut is_used = false;
        for seat in self.seats.iter_mut().flatten() {
            if seat.keys.is_empty() {
                seat.is_to_end = true;
                seat.kick(after);
                ended += 1;
            } else {
                is_used = true;
            }
        }
        let retired = self.seats.iter().flatten().flat_map(|seat| &seat.retired).map(Cover::len).sum();
        ((!is_used).then_some(ended), retired)
    }

    /// Whether the thread of a seat is not to wait for keys.
    pub(crate) fn is_to_end(&self, seat: usize) -> bool {
        self.seats[seat].as_ref().is_some_and(|seat| seat.is_to_end)
    }

    /// Gives up a seat that no key is on. Whether there was none.
    pub(crate) fn remove_seat(&mut self, seat: usize) -> bool {
        let is_unused = self.seats[seat].as_ref().is_none_or(|seat| seat.keys.is_empty());
        if is_unused {
            self.seats[seat] = None;
        }
        is_unused
    }

    /// Somebody has read these words, and then looked and found nothing. It is registered, or waits on at the place in the line that it had. What it is known by, and whether it had been notified since it was here last.
    ///
    /// The words stand for all who wait under the key. If others were armed, something has happened since those were read. For [`Audience::First`] that is over: after it there was nothing
    /// again, for anybody. For [`Audience::All`] those who came before are told of it.
    ///
    /// `seat`: that [`seat_for`](Table::seat_for) them. `covers`: as many as are
    /// [missing](Table::missing_covers), or more.
    pub(crate) fn arm(
        &mut self,
        (address, audience, has_owner): (usize, Audience, bool),
        known: Option<u64>,
        (words, covers): (&[Address], Vec<Cover>),
        seat: usize,
        waker: Waker,
    ) -> (u64, bool, After) {
        let mut after = After::default();
        let id = known.unwrap_or_else(|| {
            self.last_id += 1;
            self.last_id
        });
        let key = self.keys.entry(address).or_insert_with(|| Key {
            audience,
            seat,
            words: Vec::new(),
            waiting: BTreeMap::new(),
            notified: 0,
            is_doubted: false,
            has_owner,
            covers: Vec::new(),
        });
        if key.words != words && key.audience == Audience::All {
            let earlier: Vec<u64> = key.waiting.keys().copied().filter(|&other| other != id).collect();
            key.notified += earlier.len();
            after.notified.extend(earlier.iter().filter_map(|earlier| key.waiting.remove(earlier)));
        }
        let before = key.waiting.insert(id, waker);
        let was_notified = known.is_some() && before.is_none();
        after.dropped.extend(before);
        // It has looked since.
        key.notified -= usize::from(was_notified);
        if key.words != words {
            self.move_words(address, seat, words, &mut after);
        }
        if let Some(key) = self.keys.get_mut(&address) {
            key.covers.extend(covers);
        }
        (id, was_notified, after)
    }

    /// Whether anybody is registered under a key.
    pub(crate) fn contains(&self, address: usize) -> bool {
        self.keys.contains_key(&address)
    }

    /// Whether others depend on what one does that is about to leave: it has been notified, alone, and nothing is armed for those who wait.
    pub(crate) fn is_on_duty(&self, address: usize, id: u64) -> bool {
        self.keys
            .get(&address)
            .is_some_and(|key| key.notified == 1 && key.words.is_empty() && !key.waiting.is_empty() && !key.waiting.contains_key(&id))
    }

    /// Somebody is gone. If others depended on it, their key is armed with `fresh` words, which it has read before it looked and found nothing more; or the next is notified, to look for itself. Whether it
    /// had been notified, and had not looked since, is the first that is given back.
    pub(crate) fn leave(&mut self, address: usize, id: u64, fresh: Option<&[Address]>) -> (bool, After) {
        let mut after = After::default();
        let is_on_duty = self.is_on_duty(address, id);
        let Some(key) = self.keys.get_mut(&address) else { return (false, after) };
        let waker = key.waiting.remove(&id);
        let was_notified = waker.is_none();
        after.dropped.extend(waker);
        key.notified -= usize::from(was_notified);
        let (waiting, notified) = (key.waiting.len(), key.notified);
        if is_on_duty {
            // On another seat it would be without a cover.
            let seat = self.keys[&address].seat;
            let has_owner = self.keys[&address].has_owner;
            match fresh.filter(|words| self.seat_for(address, words.len(), has_owner) == Some(seat)) {
                Some(words) => self.move_words(address, seat, words, &mut after),
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

    /// The words of a key have changed, or were woken, or may be lost sight of: whoever is to know is notified, and nothing is armed until one of them has looked.
    pub(crate) fn fire(&mut self, address: usize, after: &mut After) {
        self.disarm(address, after);
        let Some(key) = self.keys.get_mut(&address) else { return };
        key.is_doubted = false;
        let told = match key.audience {
            Audience::First | Audience::One => Vec::from_iter(key.waiting.pop_first().map(|(_, waker)| waker)),
            Audience::All => core::mem::take(&mut key.waiting).into_values().collect(),
        };
        key.notified += told.len();
        after.notified.extend(told);
    }

    /// Notifies the next in the line behind one who waits in it. What is armed stays so.
    pub(crate) fn tell_next(&mut self, address: usize, id: u64, after: &mut After) {
        let Some(key) = self.keys.get_mut(&address) else { return };
        let next = key.waiting.range(id + 1..).next().map(|(&next, _)| next);
        let told = next.and_then(|next| key.waiting.remove(&next));
        key.notified += usize::from(told.is_some());
        after.notified.extend(told);
    }

    /// Fires all keys of a seat; only the doubted ones, if that is said.
    pub(crate) fn fire_seat(&mut self, seat: usize, only_doubted: bool, after: &mut After) {
        let keys: Vec<usize> = self.seats[seat].iter().flat_map(|seat| seat.keys.iter().copied()).collect();
        for address in keys {
            if !only_doubted || self.keys.get(&address).is_some_and(|key| key.is_doubted) {
                self.fire(address, after);
            }
        }
    }

    /// A wake of the key may have been hidden. Nothing if it is not armed: whoever arms it looks first.
    pub(crate) fn doubt(&mut self, address: usize) {
        if let Some(key) = self.keys.get_mut(&address) {
            key.is_doubted = !key.words.is_empty();
        }
    }

    /// The thread of a seat is about to sleep: on what. Whether there are any keys.
    pub(crate) fn lie_down(&mut self, seat: usize, bed: &mut Bed) -> bool {
        bed.words.clear();
        bed.keys.clear();
        let Some(seat) = &mut self.seats[seat] else { return false };
        // What it was woken for before, through words that it does not sleep on now, it has passed
        // on.
        seat.retired.clear();
        seat.is_asleep = true;
        // Relaxed: it changes under the mutex alone.
        bed.control = seat.control.load(Relaxed);
        bed.words.push(Watch::new(&*seat.control, bed.control).into());
        for &address in &seat.keys {
            let words = self.keys.get(&address).map_or(&[][..], |key| &key.words);
            if !words.is_empty() {
                bed.words.extend_from_slice(words);
                bed.keys.push((address, bed.words.len()));
                if seat.is_apart {
                    bed.pending = Some(words[0]);
                }
            }
        }
        if seat.keys.is_empty() || !seat.is_apart {
            // Otherwise, if it is not armed, somebody may have a wake-up of its in hand.
            bed.pending = None;
        }
        !seat.keys.is_empty()
    }

    /// The thread of a seat does not sleep: it will see what is armed.
    pub(crate) fn get_up(&mut self, seat: usize) {
        if let Some(seat) = &mut self.seats[seat] {
            seat.is_asleep = false;
        }
    }

    /// How many keys there are, and how many seats.
    #[cfg(test)]
    pub(crate) fn census(&self) -> (usize, usize) {
        (self.keys.len(), self.seats.iter().flatten().count())
    }

    /// Arms a key, whatever was armed before.
    fn move_words(&mut self, address: usize, to: usize, words: &[Address], after: &mut After) {
        self.disarm(address, after);
        let Some(key) = self.keys.get_mut(&address) else { return };
        let from = core::mem::replace(&mut key.seat, to);
        key.words.extend_from_slice(words);
        if let Some(seat) = self.seats[from].as_mut().filter(|_| from != to) {
            seat.keys.remove(&address);
            seat.retired.append(&mut key.covers);
            seat.kick(after);
        }
        if let Some(seat) = &mut self.seats[to] {
            seat.keys.insert(address);
            seat.is_to_end = false;
            seat.is_apart = key.has_owner;
            seat.taken += words.len();
            seat.kick(after);
        }
    }

    fn disarm(&mut self, address: usize, after: &mut After) {
        let Some(key) = self.keys.get_mut(&address) else { return };
        if let Some(seat) = self.seats[key.seat].as_mut().filter(|_| !key.words.is_empty()) {
            seat.taken -= key.words.len();
            seat.kick(after);
        }
        key.words.clear();
    }

    fn forget(&mut self, address: usize, after: &mut After) {
        let Some(mut key) = self.keys.remove(&address) else { return };
        if let Some(seat) = &mut self.seats[key.seat] {
            seat.keys.remove(&address);
            if !seat.is_asleep {
                // Otherwise it does not sleep on this key's words (invariant 5).
                seat.retired.append(&mut key.covers);
            }
            if seat.keys.is_empty() {
                // Its thread may sleep without an end, as for a key that is not armed.
                seat.kick(after);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn check(&self) {
        for (address, key) in &self.keys {
            assert!(!key.waiting.is_empty() || key.notified != 0, "invariant 1");
            assert!(key.waiting.is_empty() || !key.words.is_empty() || key.notified != 0, "invariant 2");
            assert!(key.words.is_empty() || !key.waiting.is_empty(), "invariant 3");
            assert!(self.seats[key.seat].as_ref().is_some_and(|seat| seat.keys.contains(address)), "invariant 4: on its seat");
            assert!(key.words.is_empty() || !key.covers.is_empty(), "invariant 6");
            assert!(!key.has_owner || self.seats[key.seat].as_ref().is_some_and(|seat| seat.keys.len() == 1), "invariant 7");
        }
        for (index, seat) in self.seats.iter().enumerate() {
            let Some(seat) = seat else { continue };
            let own = seat.keys.iter().map(|address| &self.keys[address]);
            assert!(own.clone().all(|key| key.seat == index), "invariant 4: on one seat");
            assert_eq!(own.map(|key| key.words.len()).sum::<usize>(), seat.taken, "invariant 4: what is taken");
            assert!(seat.taken <= ROOM, "invariant 4: room");
        }
    }
}

impl Seat {
    /// What is armed on it has changed (invariant 5), or which keys are.
    fn kick(&mut self, after: &mut After) {
        if core::mem::replace(&mut self.is_asleep, false) {
            // Relaxed: the thread reads it under the mutex, and then the kernel does, which orders it with the wake.
            self.control.fetch_add(1, Relaxed);
            after.kicked.push(Arc::clone(&self.control));
        }
    }
}

impl After {
    /// A wake through one of these words was meant for somebody who sleeps, and nobody is registered for it any more.
    pub(crate) fn pass_on(&mut self, words: &[Address]) {
        self.passed_on.extend_from_slice(words);
    }

    /// Not under the mutex.
    pub(crate) fn perform(self) {
        for word in self.passed_on {
            futex::wake_address(word, 1);
        }
        for control in self.kicked {
            futex::wake(&*control, 1);
        }
        for waker in self.notified {
            // One that panics is no reason not to call the others. Its message has been printed, and what it threw might panic when it is dropped.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                core::mem::forget(payload);
            }
        }
        drop(self.dropped);
    }
}
