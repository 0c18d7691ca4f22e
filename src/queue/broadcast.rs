//! [`Broadcast`]: everybody gets everything.

use core::fmt;
use core::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytemuck::NoUninit;

use super::broadcast_options::BroadcastOptions;
use super::error::{PutError, QueueError};
use super::item::{Item, sealed::Item as _};
use super::participation::{Participation, QueueHandle};
use super::payload::{check_len, copy_in, max_len};
use super::region::{Kind, attach, create};
use super::ring::ends::Ring;
use super::ring::refused::Refused;
use super::ring::waiting::Side;
use super::room::Room;
use super::subscriber::Subscriber;
use super::viewed;
use crate::memory::HandleError;
use crate::memory::region::RegionError;
use crate::memory::shared::Plain;
use crate::wait::{Wait, Waiter, forms};

const KIND: &str = "Broadcast";

/// How many sleepers a send wakes: all of them.
const ALL: usize = u32::MAX as usize;

/// A bounded channel of which every subscriber gets every item: [`Plain`] data, or messages of
/// bytes.
///
/// Any number of threads in any processes send. Each [`Subscriber`] gets all items that were sent
/// since it came, each once and in the order in which they were sent. Without subscribers, what is
/// sent is kept all the same: as many items as fit, for those who [want the
/// oldest](Broadcast::subscribe_from_oldest).
///
/// # Slow subscribers
/// A subscriber may be slow, or stopped. What senders do once it is `capacity` items behind is set
/// at creation ([`SlowSubscribers`](crate::SlowSubscribers)):
///
/// | | senders | the subscriber |
/// |---|---|---|
/// | [`Wait`](crate::SlowSubscribers::Wait), the default | wait | gets everything |
/// | [`Lag`](crate::SlowSubscribers::Lag) | go on | misses the oldest items, and is told how many ([`Lagged`](QueueError::Lagged)) |
/// | [`Expel`](crate::SlowSubscribers::Expel) | wait for some time, then go on | is none any more, and is told so ([`Expelled`](QueueError::Expelled)) |
///
/// # Handles and participants
/// As of a [`Queue`](crate::Queue#handles-and-participants). Each thread that sends is a
/// participant until it ends, and each subscriber is one more.
///
/// # Blocking and fairness
/// [`send`](Broadcast::send) waits while a subscriber has not read the item that is `capacity`
/// items old, if it waits at all. Sleepers use no processor. A send wakes all subscribers that
/// sleep.
///
/// The forms that do not wait are lock-free.
///
/// # Memory ordering
/// A send *synchronises with* each receive of its item. `Full` and `Empty` are exact: there was no
/// room, or no item, at some time during the call. A newcomer may take room from the beginning of
/// its `subscribe` on.
///
/// # Process death
/// An item was sent to everybody or to nobody, whenever its sender dies. A subscriber that dies is
/// out at once: senders that wait for it go on. A subscriber that is only stopped is not dead, and
/// its broadcast does with it what is said above. So it does with one that was leaked, until its
/// thread ends, and with one that is stopped inside `subscribe`.
///
/// # Fork
/// A forked child sends, and subscribes, for itself. A [`Subscriber`] that was carried into it is
/// its parent's, and every receive is an error ([`NotOwner`](QueueError::NotOwner)).
///
/// # Errors
/// [`QueueError`]; a send that fails gives the value back ([`PutError`]).
///
/// # Signal handlers
/// Not for use in signal handlers.
///
/// # Examples
/// ```standalone_crate
/// use crossproc::{Broadcast, QueueError, process};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let prices: Broadcast<u64> = Broadcast::new(16)?;
///
/// let mut children = Vec::new();
/// for _ in 0..2 {
///     let theirs = prices.clone();
///     children.push(process::fork(move || -> Result<(), QueueError> {
///         // Everything that is there, and everything that comes.
///         let mut subscriber = theirs.subscribe_from_oldest()?;
///         for price in [100, 101, 120] {
///             assert_eq!(subscriber.recv()?, price);
///         }
///         Ok(())
///     })?);
/// }
/// for price in [100, 101, 120] {
///     prices.send(price)?;
/// }
/// for child in children {
///     child.join()?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Source
/// An original algorithm; the argument is in `src/queue/ring/broadcast.rs`.
pub struct Broadcast<T: ?Sized + Item> {
    pub(crate) handle: QueueHandle,
    items: PhantomData<fn(&T)>,
}

impl BroadcastOptions {
    /// Creates a [`Broadcast`] that keeps `capacity` items, 1 to 2^20.
    ///
    /// ```
    /// use crossproc::{Broadcast, BroadcastOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast: Broadcast<u64> = BroadcastOptions::new().participants(10).create(16)?;
    /// assert_eq!(broadcast.capacity(), 16);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::UnsuitableQueue`] if the numbers are impossible, and
    /// [`RegionError::NoNamespace`].
    pub fn create<T: Plain + NoUninit>(
        &self,
        capacity: usize,
    ) -> Result<Broadcast<T>, RegionError> {
        let config = self.config(capacity, size_of::<T>(), align_of::<T>())?;
        create(config, T::layout(KIND)).map(Broadcast::of)
    }

    /// Creates a [`Broadcast`] that keeps `capacity` messages, 1 to 2^20, of at most `max_len`
    /// bytes.
    ///
    /// ```
    /// use crossproc::BroadcastOptions;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let lines = BroadcastOptions::new().create_bytes(16, 1024)?;
    /// let mut subscriber = lines.subscribe()?;
    /// lines.send(b"hello")?;
    /// assert_eq!(subscriber.recv()?, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`create`](BroadcastOptions::create).
    pub fn create_bytes(
        &self,
        capacity: usize,
        max_len: usize,
    ) -> Result<Broadcast<[u8]>, RegionError> {
        create(self.config(capacity, max_len, 1)?, <[u8]>::layout(KIND)).map(Broadcast::of)
    }
}

impl<T: Plain + NoUninit> Broadcast<T> {
    /// Creates a broadcast that keeps `capacity` items, 1 to 2^20, with the defaults of
    /// [`BroadcastOptions`].
    ///
    /// ```
    /// use crossproc::Broadcast;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast: Broadcast<u64> = Broadcast::new(16)?;
    /// assert_eq!((broadcast.capacity(), broadcast.subscribers()), (16, 0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError`]: there is no memory or no descriptor for it, or the capacity is impossible.
    pub fn new(capacity: usize) -> Result<Self, RegionError> {
        BroadcastOptions::new().create(capacity)
    }

    forms! {
        /// Sends an item to everybody who has subscribed.
        ///
        /// ```
        /// use crossproc::{Broadcast, QueueError};
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let broadcast: Broadcast<u64> = Broadcast::new(1)?;
        /// let (mut one, mut two) = (broadcast.subscribe()?, broadcast.subscribe()?);
        /// broadcast.send(7)?;
        /// assert_eq!(one.recv()?, 7);
        ///
        /// let refused = broadcast.try_send(8).unwrap_err();
        /// assert!(matches!(refused.error, QueueError::Full), "`two` has not read it");
        /// assert_eq!(two.recv()?, 7);
        /// broadcast.send(8)?;
        /// # Ok(())
        /// # }
        /// ```
        send, try_send, send_timeout, send_deadline, send_with
        (self: &Self, value: T) -> Result<(), PutError<T>>, Self::send_until,
        errors "[`Closed`](QueueError::Closed), [`Deadlock`](QueueError::Deadlock) if it would \
                wait for a subscriber of this thread, and those of becoming a participant \
                ([`QueueError`]).",
        now "[`Full`](QueueError::Full)."
    }

    #[inline]
    pub(super) fn send_until(
        &self,
        value: T,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), PutError<T>> {
        let memory = self.handle.memory();
        let write = |slot| copy_in(memory, slot, bytemuck::bytes_of(&value));
        let result = self.handle.with(|participation| participation.send_to_all(wait, write));
        result.and_then(|result| result).map_err(|error| PutError { value, error })
    }
}

impl Broadcast<[u8]> {
    /// Creates a broadcast that keeps `capacity` messages, 1 to 2^20, of at most `max_len` bytes,
    /// with the defaults of [`BroadcastOptions`].
    ///
    /// ```
    /// use crossproc::{Broadcast, QueueError};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let lines = Broadcast::with_max_len(8, 5)?;
    /// lines.send(b"hello")?;
    /// let refused = lines.send(b"good morning");
    /// assert!(matches!(refused, Err(QueueError::TooLong { len: 12, max: 5 })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError`]: there is no memory or no descriptor for it, or the capacity is impossible.
    pub fn with_max_len(capacity: usize, max_len: usize) -> Result<Self, RegionError> {
        BroadcastOptions::new().create_bytes(capacity, max_len)
    }

    forms! {
        /// Sends a message to everybody who has subscribed.
        ///
        /// ```
        /// use crossproc::Broadcast;
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let lines = Broadcast::with_max_len(8, 1024)?;
        /// let mut subscriber = lines.subscribe()?;
        /// lines.send(b"hello")?;
        /// lines.send(b"")?;
        /// assert_eq!((subscriber.recv()?, subscriber.recv()?), (b"hello".to_vec(), vec![]));
        /// # Ok(())
        /// # }
        /// ```
        send, try_send, send_timeout, send_deadline, send_with
        (self: &Self, message: &[u8]) -> Result<(), QueueError>, Self::send_until,
        errors "[`TooLong`](QueueError::TooLong), [`Closed`](QueueError::Closed), \
                [`Deadlock`](QueueError::Deadlock) if it would wait for a subscriber of this \
                thread, and those of becoming a participant ([`QueueError`]).",
        now "[`Full`](QueueError::Full)."
    }

    /// Returns the maximum length of a message, in bytes.
    ///
    /// ```
    /// use crossproc::Broadcast;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// assert_eq!(Broadcast::with_max_len(8, 1024)?.max_len(), 1024);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn max_len(&self) -> usize {
        max_len(&self.handle)
    }

    pub(super) fn send_until(
        &self,
        message: &[u8],
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<(), QueueError> {
        use crossproc_sys::atomic::Ordering::Relaxed;

        check_len(&self.handle, message.len())?;
        let memory = self.handle.memory();
        let write = |slot| {
            // Relaxed: the exchange orders it, or the fence by which a copy is believed.
            memory.payload_len(slot).store(message.len() as u32, Relaxed);
            copy_in(memory, slot, message);
        };
        self.handle.with(|participation| participation.send_to_all(wait, write))?
    }
}

impl<T: ?Sized + Item> Broadcast<T> {
    fn of(handle: QueueHandle) -> Self {
        Broadcast { handle, items: PhantomData }
    }

    /// Maps a broadcast that another process has created, from its descriptor. As
    /// [`Queue::attach`](crate::Queue::attach).
    ///
    /// ```
    /// use crossproc::Broadcast;
    /// use std::os::fd::AsFd;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast: Broadcast<u64> = Broadcast::new(16)?;
    /// // Here in the same process; other processes get the descriptor in some way.
    /// let again: Broadcast<u64> = Broadcast::attach(broadcast.as_fd().try_clone_to_owned()?)?;
    /// let mut subscriber = broadcast.subscribe()?;
    /// again.send(7)?;
    /// assert_eq!(subscriber.recv()?, 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError`], which has a variant for everything that can be wrong with the file.
    pub fn attach(file: impl Into<OwnedFd>) -> Result<Self, RegionError> {
        attach(file.into(), T::layout(KIND), T::name(), Kind::Broadcast).map(Broadcast::of)
    }

    /// Returns a subscriber that gets every item that is sent from now on. It belongs to the
    /// calling thread, and counts as a participant besides those that the thread is already.
    ///
    /// ```
    /// use crossproc::{Broadcast, QueueError};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast: Broadcast<u64> = Broadcast::new(16)?;
    /// broadcast.send(7)?;
    /// let mut subscriber = broadcast.subscribe()?;
    /// assert!(matches!(subscriber.try_recv(), Err(QueueError::Empty)));
    /// broadcast.send(8)?;
    /// assert_eq!(subscriber.recv()?, 8);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of becoming a participant, and [`Expelled`](QueueError::Expelled) if the thread was so
    /// slow over it.
    pub fn subscribe(&self) -> Result<Subscriber<T>, QueueError> {
        Subscriber::new(&self.handle, false)
    }

    /// Returns a subscriber that begins with the oldest item that is there: up to `capacity` items
    /// before the next one. If senders [let subscribers lag](crate::SlowSubscribers::Lag), that
    /// item may be gone by the time it is received: then the first receive is
    /// [`Lagged`](QueueError::Lagged).
    ///
    /// ```
    /// use crossproc::Broadcast;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let latest: Broadcast<u64> = Broadcast::new(1)?;
    /// latest.send(7)?;
    /// latest.send(8)?;
    /// assert_eq!(latest.subscribe_from_oldest()?.recv()?, 8);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`subscribe`](Broadcast::subscribe).
    pub fn subscribe_from_oldest(&self) -> Result<Subscriber<T>, QueueError> {
        Subscriber::new(&self.handle, true)
    }

    /// Returns how many subscribers there are. It may have changed by the time this returns. The
    /// dead do not count, nor do those that were [expelled](crate::SlowSubscribers::Expel).
    ///
    /// ```
    /// use crossproc::Broadcast;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast: Broadcast<u64> = Broadcast::new(16)?;
    /// let subscriber = broadcast.subscribe()?;
    /// assert_eq!(broadcast.subscribers(), 1);
    /// drop(subscriber);
    /// assert_eq!(broadcast.subscribers(), 0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.handle.memory().count_subscribers()
    }

    /// Returns how many items are kept: so far may a subscriber be behind.
    ///
    /// ```
    /// use crossproc::Broadcast;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast: Broadcast<u64> = Broadcast::new(1000)?;
    /// assert_eq!(broadcast.capacity(), 1000);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.handle.memory().config.items()
    }

    /// Closes the broadcast: from then on, sends fail, and receives fail once a subscriber has read
    /// everything. A send that is under way at the same time may succeed. All waiters are woken. A
    /// closed broadcast cannot be opened again.
    ///
    /// ```
    /// use crossproc::{Broadcast, QueueError};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast: Broadcast<u64> = Broadcast::new(16)?;
    /// let mut subscriber = broadcast.subscribe()?;
    /// broadcast.send(7)?;
    /// broadcast.close()?;
    /// assert!(matches!(broadcast.send(8).unwrap_err().error, QueueError::Closed));
    /// assert_eq!(subscriber.recv()?, 7);
    /// assert!(matches!(subscriber.recv(), Err(QueueError::Closed)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of becoming a participant.
    pub fn close(&self) -> Result<(), QueueError> {
        self.handle.with(|participation| participation.memory().close(participation.thread))
    }

    /// Returns whether the broadcast is closed.
    ///
    /// ```
    /// use crossproc::Broadcast;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast: Broadcast<u64> = Broadcast::new(16)?;
    /// broadcast.close()?;
    /// assert!(broadcast.is_closed());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Returns room for a send, to be [waited for](fn@crate::wait_any) along with other things. One
    /// who looks for room [expels](crate::SlowSubscribers::Expel) subscribers as a sender does. One
    /// who waits for descriptors, too, notices within a [slice](crate::set_recheck_interval) that
    /// it may.
    ///
    /// ```
    /// use crossproc::{Broadcast, wait_any};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broadcast: Broadcast<u64> = Broadcast::new(1)?;
    /// let subscriber = broadcast.subscribe()?;
    /// assert_eq!(wait_any(&[&subscriber.next_item(), &broadcast.room()])?, [1]);
    /// broadcast.send(7)?;
    /// assert_eq!(wait_any(&[&subscriber.next_item(), &broadcast.room()])?, [0]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn room(&self) -> Room<'_> {
        Room::new(&self.handle, 0)
    }
}

impl Participation {
    /// Writes an item into a slot of the participant's own, and sends it to all subscribers.
    #[inline]
    fn send_to_all(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
        write: impl FnOnce(usize),
    ) -> Result<(), QueueError> {
        let memory = self.memory();
        let place = memory.free_place(&self.participant);
        let slot = memory.slot(&self.participant, place)?;
        if viewed::contains(memory, slot) {
            return Err(QueueError::Spoiled);
        }
        memory.begin_writing();
        write(slot);
        let send = |ring: Ring<'_>| ring.send(&self.participant, place).map(|flags| (flags, ALL));
        match (memory.at_once(self.thread, Side::Putters, send), wait) {
            (Err(Refused::Full), Some(wait)) => self.send_to_all_waiting(place, wait()),
            (result, _) => Ok(result?),
        }
    }

    #[cold]
    fn send_to_all_waiting(&self, place: usize, wait: Wait) -> Result<(), QueueError> {
        let send = |ring: Ring<'_>| match ring.send(&self.participant, place) {
            Err(Refused::Full) if ring.waits_for(self.thread) => Err(Refused::Deadlock),
            result => result.map(|flags| (flags, ALL)),
        };
        let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep_for_room(waiter);
        let waiter = &mut Waiter::new(wait);
        Ok(self.memory().waiting(self.thread, Side::Putters, waiter, send, sleep)?)
    }
}

impl<T: ?Sized + Item> Clone for Broadcast<T> {
    /// Returns another handle in this process, to the same mapping.
    fn clone(&self) -> Self {
        Broadcast::of(self.handle.clone())
    }
}

impl<T: ?Sized + Item> AsFd for Broadcast<T> {
    /// Returns the descriptor that other processes [attach](Broadcast::attach) to; close-on-exec.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.region().as_fd()
    }
}

impl<T: ?Sized + Item> crate::memory::Handle for Broadcast<T> {
    fn from_fd(fd: OwnedFd) -> Result<Self, HandleError> {
        Ok(Broadcast::attach(fd)?)
    }
}

impl<T: ?Sized + Item> fmt::Debug for Broadcast<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast")
            .field("capacity", &self.capacity())
            .field("subscribers", &self.subscribers())
            .field("is_closed", &self.is_closed())
            .finish()
    }
}
