//! [`Subscriber`]: one end of a broadcast, and [`View`], an item that is read in place.

#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use crossproc_sys::robust::Entry;

use super::error::QueueError;
use super::item::{Item, ItemSize};
use super::participation::{Participation, QueueHandle};
use super::payload::copy_out;
use super::ring::ends::{Ring, Which};
use super::ring::layout::WAIT;
use super::ring::memory::QueueMemory;
use super::ring::refused::Refused;
use super::ring::waiting::Side;
use super::ring::watching::WORDS;
use super::viewed;
use crate::memory::shared::Plain;
use crate::wait::source::{Armed, Source, WatchState, Words};
use crate::wait::{Wait, Waiter, forms};

/// One that gets every item of a [`Broadcast`](crate::Broadcast). It stays in its thread, and ends
/// with it at the latest; dropped, it is none any more.
///
/// ```
/// use crossproc::Broadcast;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broadcast: Broadcast<u64> = Broadcast::new(16)?;
/// let mut subscriber = broadcast.subscribe()?;
/// broadcast.send(7)?;
/// broadcast.send(8)?;
/// assert_eq!(subscriber.lag(), 2);
/// assert_eq!((subscriber.recv()?, subscriber.recv()?), (7, 8));
/// # Ok(())
/// # }
/// ```
pub struct Subscriber<T: ?Sized + Item> {
    participation: Participation,
    feed: Arc<Feed>,
    items: PhantomData<fn() -> Box<T>>,
}

/// The next item of a [`Subscriber`], as something to [wait for](fn@crate::wait_any) along with
/// other things. It is ready while there is one, or once the broadcast is closed.
/// [`Subscriber::next_item`] returns it.
#[derive(Debug, Clone, Copy)]
pub struct NextItem<'a> {
    pub(crate) feed: &'a Feed,
}

/// The items from a position on, as something to wait for.
#[derive(Debug)]
pub(crate) struct Feed {
    handle: QueueHandle,
    /// The subscriber's position. Relaxed, everywhere: it is changed by the subscriber's thread
    /// alone, with no other looking at it.
    at: AtomicU64,
}

impl<T: ?Sized + Item> Subscriber<T> {
    pub(super) fn new(handle: &QueueHandle, oldest: bool) -> Result<Self, QueueError> {
        let participation = handle.subscriber()?;
        let feed = Arc::new(Feed { handle: handle.clone(), at: AtomicU64::new(0) });
        // Dropped if it is refused: then the subscription ends, as far as it has begun.
        let subscriber = Subscriber { participation, feed, items: PhantomData };
        let Participation { participant, thread, .. } = &subscriber.participation;
        let memory = subscriber.memory();
        thread.begin(&memory.control().roster.0);
        let result = memory.subscribe(participant, oldest);
        thread.end();
        result?;
        subscriber.note();
        Ok(subscriber)
    }

    fn memory(&self) -> &QueueMemory {
        self.participation.memory()
    }

    /// Tells the feed where the subscriber is.
    fn note(&self) {
        self.feed.at.store(self.participation.participant.head.get(), Relaxed);
    }

    /// Returns its next item, as something to [wait for](fn@crate::wait_any) along with other
    /// things.
    ///
    /// ```
    /// use crossproc::{Broadcast, Queue, wait_any};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (broadcast, queue): (Broadcast<u64>, Queue<u64>) = (Broadcast::new(8)?, Queue::new(8)?);
    /// let mut subscriber = broadcast.subscribe()?;
    /// broadcast.send(7)?;
    /// assert_eq!(wait_any(&[&queue, &subscriber.next_item()])?, [1]);
    /// assert_eq!(subscriber.try_recv()?, 7);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn next_item(&self) -> NextItem<'_> {
        NextItem { feed: &self.feed }
    }

    #[cfg(feature = "tokio")]
    pub(super) fn feed(&self) -> Arc<Feed> {
        Arc::clone(&self.feed)
    }

    /// Returns how many items it has not read yet, of those that were sent. It may have changed by
    /// the time this returns. If senders do not [wait](crate::SlowSubscribers::Wait), some of them
    /// may be gone.
    ///
    /// ```
    /// use crossproc::Broadcast;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast: Broadcast<u64> = Broadcast::new(16)?;
    /// let subscriber = broadcast.subscribe()?;
    /// assert_eq!(subscriber.lag(), 0);
    /// broadcast.send(7)?;
    /// assert_eq!(subscriber.lag(), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn lag(&self) -> usize {
        self.memory().count_from(self.participation.participant.head.get())
    }

    forms! {
        /// Returns the next item in place: nothing is copied, whatever its size. Senders do not
        /// overwrite it until the view is dropped. Only then is the item read, and the subscriber
        /// goes on.
        ///
        /// ```
        /// use crossproc::Broadcast;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let lines = Broadcast::with_max_len(8, 1 << 20)?;
        /// let mut subscriber = lines.subscribe()?;
        /// lines.send(b"6 * 7")?;
        /// let line = subscriber.view()?;
        /// assert!(line.starts_with(b"6"));
        /// # Ok(())
        /// # }
        /// ```
        view, try_view, view_timeout, view_deadline, view_with
        (self: &mut Self) -> Result<View<'_, T>, QueueError>, Self::view_until,
        errors "[`NotInPlace`](QueueError::NotInPlace) unless senders \
                [wait](crate::SlowSubscribers::Wait) for slow subscribers; otherwise as `recv`.",
        now "[`Empty`](QueueError::Empty)."
    }

    fn view_until(
        &mut self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<View<'_, T>, QueueError> {
        if self.memory().config.slow.policy != WAIT {
            return Err(QueueError::NotInPlace);
        }
        let next = |ring: Ring<'_>| {
            let found = ring.next_item(&self.participation.participant)?;
            Ok((0, self.memory().slot_in(found.entry)))
        };
        let slot = self.waiting(wait, next)?;
        let memory = self.memory();
        let len = match T::SIZE {
            ItemSize::Fixed(size) => size,
            _ => len(memory, slot),
        };
        let item = T::at(memory.payload(slot), 0, len);
        self.participation.add_guard();
        viewed::add(memory, slot);
        Ok(View { subscriber: self, slot, item })
    }

    /// Has `read` read the next item in its slot.
    #[inline]
    fn receive<R>(
        &mut self,
        wait: Option<impl FnOnce() -> Wait>,
        mut read: impl FnMut(&QueueMemory, usize) -> R,
    ) -> Result<R, QueueError> {
        let memory = self.memory();
        let result = self.waiting(wait, |ring| {
            ring.receive(&self.participation.participant, |slot| read(memory, slot))
        });
        self.note();
        result
    }

    /// Does what needs an item, and waits for one.
    #[inline]
    fn waiting<R>(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        mut operate: impl FnMut(Ring<'_>) -> Result<(u64, R), Refused>,
    ) -> Result<R, QueueError> {
        let Participation { participant, thread, .. } = &self.participation;
        if !self.participation.is_of_this_thread() {
            return Err(QueueError::NotOwner);
        }
        let memory = self.memory();
        let mut result = None;
        let mut operate = |ring: Ring<'_>| {
            let (flags, done) = operate(ring)?;
            result = Some(done);
            Ok((flags, 1))
        };
        match (memory.at_once(thread, Side::Getters, &mut operate), wait) {
            (Err(Refused::Empty), Some(wait)) => {
                let at = participant.head.get();
                let no_item = || memory.ring(Which::Items).no_item(at);
                let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep_for_item(at, waiter);
                let waiter = &mut Waiter::new(wait());
                memory.waiting_while(thread, Side::Getters, waiter, no_item, operate, sleep)?;
            }
            (result, _) => result?,
        }
        result.ok_or(QueueError::Spoiled)
    }
}

impl<T: Plain> Subscriber<T> {
    forms! {
        /// Receives the next item, by copy. From some 64 KiB on, [view](Subscriber::view) it.
        ///
        /// ```
        /// use crossproc::{Broadcast, QueueError};
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let broadcast: Broadcast<u64> = Broadcast::new(16)?;
        /// let mut subscriber = broadcast.subscribe()?;
        /// broadcast.send(7)?;
        /// assert_eq!(subscriber.recv()?, 7);
        /// assert!(matches!(subscriber.try_recv(), Err(QueueError::Empty)));
        /// # Ok(())
        /// # }
        /// ```
        recv, try_recv, recv_timeout, recv_deadline, recv_with
        (self: &mut Self) -> Result<T, QueueError>, Self::recv_until,
        errors "[`Closed`](QueueError::Closed) once it has read everything, \
                [`Lagged`](QueueError::Lagged), [`Expelled`](QueueError::Expelled), and \
                [`NotOwner`](QueueError::NotOwner) in a forked child.",
        now "[`Empty`](QueueError::Empty)."
    }

    #[inline]
    pub(super) fn recv_until(
        &mut self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<T, QueueError> {
        let mut value = MaybeUninit::<T>::uninit();
        let start = NonNull::from(&mut value).cast::<MaybeUninit<u8>>();
        // SAFETY: the bytes of `value`, which need not be initialised, and which nothing else
        // refers to as long as this is used.
        let bytes = unsafe { NonNull::slice_from_raw_parts(start, size_of::<T>()).as_mut() };
        self.receive(wait, |memory, slot| copy_out(memory, slot, 0, bytes))?;
        // SAFETY: all bytes were copied, and any make a `T`.
        Ok(unsafe { value.assume_init() })
    }
}

impl Subscriber<[u8]> {
    forms! {
        /// Receives the next message, as a vector. To read it in place, [view](Subscriber::view)
        /// it.
        ///
        /// ```
        /// use crossproc::Broadcast;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let lines = Broadcast::with_max_len(8, 1024)?;
        /// let mut subscriber = lines.subscribe()?;
        /// lines.send("grüß dich".as_bytes())?;
        /// assert_eq!(String::from_utf8(subscriber.recv()?)?, "grüß dich");
        /// # Ok(())
        /// # }
        /// ```
        recv, try_recv, recv_timeout, recv_deadline, recv_with
        (self: &mut Self) -> Result<Vec<u8>, QueueError>, Self::recv_until,
        errors "[`Closed`](QueueError::Closed) once it has read everything, \
                [`Lagged`](QueueError::Lagged), [`Expelled`](QueueError::Expelled), and \
                [`NotOwner`](QueueError::NotOwner) in a forked child.",
        now "[`Empty`](QueueError::Empty)."
    }

    pub(super) fn recv_until(
        &mut self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<Vec<u8>, QueueError> {
        let mut message = Vec::new();
        self.receive(wait, |memory, slot| {
            let len = len(memory, slot);
            message.clear();
            message.reserve(len);
            copy_out(memory, slot, 0, &mut message.spare_capacity_mut()[..len]);
            // SAFETY: as many bytes were reserved and copied above.
            unsafe { message.set_len(len) };
        })?;
        Ok(message)
    }
}

/// Returns the length of the message in a slot.
fn len(memory: &QueueMemory, slot: usize) -> usize {
    // Relaxed: as for the copy. The bound is the room that there is, whatever a peer has written
    // there.
    (memory.payload_len(slot).load(Relaxed) as usize).min(memory.config.size as usize)
}

impl<T: ?Sized + Item> Drop for Subscriber<T> {
    fn drop(&mut self) {
        let Participation { participant, thread, .. } = &self.participation;
        if self.participation.is_of_this_thread() {
            thread.begin(&self.memory().control().roster.0);
            self.memory().unsubscribe(participant);
            thread.end();
        }
    }
}

impl<T: ?Sized + Item> fmt::Debug for Subscriber<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("lag", &self.lag()).finish_non_exhaustive()
    }
}

/// An item of a [`Broadcast`](crate::Broadcast) that is read in place. When it is dropped, the
/// [`Subscriber`] goes on. It stays in its thread.
///
/// A view that is leaked was not read: the subscriber finds the same item again. Unless the
/// subscriber is dropped, the process ends with the thread, as it does for a [leaked lock
/// guard](crate::LockGuard#leaked-guards).
///
/// ```
/// use crossproc::Broadcast;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let frames: Broadcast<[u8; 1 << 16]> = Broadcast::new(4)?;
/// let mut subscriber = frames.subscribe()?;
/// frames.send([7; 1 << 16])?;
/// let frame = subscriber.view()?;
/// assert_eq!(frame[99], 7);
/// # Ok(())
/// # }
/// ```
pub struct View<'a, T: ?Sized + Item> {
    subscriber: &'a mut Subscriber<T>,
    slot: usize,
    /// The item in its slot, which senders leave alone until the subscriber has gone on.
    item: NonNull<T>,
}

impl<T: ?Sized + Item> Deref for View<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the slot is that of the entry at the subscriber's cursor, and exists. Senders
        // that follow the protocol wait, so none of them takes the slot out before the cursor is
        // advanced, or this thread has ended; it may not end, nor fork, while a guard is counted
        // (`add_guard`). This thread does not write there, whatever a peer makes of the words
        // (`viewed`). Any bytes make a `T`, and the memory is mapped as long as the subscriber
        // exists.
        unsafe { self.item.as_ref() }
    }
}

impl<T: ?Sized + Item> Drop for View<'_, T> {
    fn drop(&mut self) {
        let Participation { participant, thread, .. } = &self.subscriber.participation;
        if self.subscriber.participation.is_of_this_thread() {
            self.subscriber.participation.remove_guard();
            let memory = self.subscriber.memory();
            viewed::remove(memory, self.slot);
            // If it fails, a peer has overwritten the cursor, and the next receive says so.
            let _ = memory.at_once(thread, Side::Getters, |_| {
                memory.go_on(participant).map(|flags| (flags, 1))
            });
            self.subscriber.note();
        }
    }
}

impl<T: ?Sized + Item + fmt::Debug> fmt::Debug for View<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Waits for the next item.
impl Source for Feed {
    fn key(&self) -> usize {
        self.handle.memory().key(Side::Getters)
    }

    fn is_for_all(&self) -> bool {
        true
    }

    fn look(&self, _: &WatchState) -> bool {
        self.handle.memory().has_item(self.at.load(Relaxed))
    }

    fn words(&self) -> usize {
        WORDS
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        self.handle.memory().arm_for_item(self.at.load(Relaxed), words)
    }

    fn pend(&self, entry: &Entry) {
        self.handle.memory().pend(entry);
    }

    fn awake(&self, state: &mut WatchState) {
        self.handle.memory().awake();
        if self.look(state) {
            self.handle.memory().wake_side(Side::Getters);
        }
    }
}
