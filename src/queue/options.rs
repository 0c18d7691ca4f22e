//! [`QueueOptions`]: how a queue is created, and attached.

#![allow(unsafe_code)]

use core::num::NonZeroU32;
use core::ptr::NonNull;
use std::os::fd::OwnedFd;

use crossproc_sys::atomic::Ordering::Relaxed;

use super::item::{ItemSize, QueueLayout, check, check_numbers, sealed::Item as _};
use super::layout::{Config, Offsets};
use super::memory::QueueMemory;
use super::participation::QueueHandle;
use super::{JoinableQueue, KIND, Queue, joinable};
use crate::memory::region::{Region, RegionError};
use crate::memory::shared::Plain;

/// How to create a queue. Options that are not set are as in [`new`](QueueOptions::new).
///
/// ```
/// use crossproc::{Queue, QueueOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue: Queue<u64> = QueueOptions::new().participants(16).loans(8).create(1000)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct QueueOptions {
    participants: usize,
    loans: usize,
    attempts: Option<NonZeroU32>,
    dead_letters: usize,
}

impl Default for QueueOptions {
    fn default() -> Self {
        QueueOptions::new()
    }
}

impl QueueOptions {
    /// Returns the defaults: 1,024 participants, 3 loans for each, and any number of attempts.
    ///
    /// ```
    /// use crossproc::QueueOptions;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = QueueOptions::new().create::<u64>(16)?;
    /// assert_eq!(queue.capacity(), 16);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        QueueOptions { participants: 1_024, loans: 3, attempts: None, dead_letters: 0 }
    }

    /// Sets how many threads may take part at the same time, in all processes together. Memory is
    /// used for as many as ever did: for each a record of 128 bytes or more, and `loans` + 1 slots.
    ///
    /// ```
    /// use crossproc::{Queue, QueueError, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = QueueOptions::new().participants(1).create(16)?;
    /// queue.put(7)?;
    /// let others = queue.clone();
    /// let got = std::thread::spawn(move || others.get()).join().unwrap();
    /// assert!(matches!(got, Err(QueueError::TooManyParticipants { limit: 1 })));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn participants(mut self, most: usize) -> Self {
        self.participants = most;
        self
    }

    /// Sets how many items a participant may have loaned, received, or in hand as tasks at the same
    /// time: 1 to 63.
    ///
    /// ```
    /// use crossproc::{Queue, QueueError, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: Queue<u64> = QueueOptions::new().loans(1).create(16)?;
    /// let _loan = queue.loan()?;
    /// assert!(matches!(queue.loan(), Err(QueueError::TooManyLoans { limit: 1 })));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn loans(mut self, most: usize) -> Self {
        self.loans = most;
        self
    }

    /// Sets the number of attempts at a task of a [`JoinableQueue`]. A task that was given out
    /// `most` times and came back each time becomes a dead letter, if there are fewer than
    /// `letters` of them. Otherwise it is given out again. With `None`, tasks never become dead
    /// letters.
    ///
    /// ```
    /// use std::num::NonZeroU32;
    ///
    /// use crossproc::{JoinableQueue, QueueOptions};
    ///
    /// let options = QueueOptions::new().attempts(NonZeroU32::new(2), 100);
    /// let tasks: JoinableQueue<u64> = options.create_joinable(10)?;
    /// tasks.put(7)?;
    /// for _ in 0..2 {
    ///     drop(tasks.get()?); // ... without `done`: it comes back
    /// }
    /// assert_eq!(*tasks.dead_letter()?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn attempts(mut self, most: Option<NonZeroU32>, letters: usize) -> Self {
        self.attempts = most;
        self.dead_letters = letters;
        self
    }

    /// Creates a [`Queue`] for `capacity` items, 1 to 2^20.
    ///
    /// ```
    /// use crossproc::{Queue, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = QueueOptions::new();
    /// let queue: Queue<u64> = options.create(16)?;
    /// assert_eq!(queue.capacity(), 16);
    /// assert!(options.create::<u64>(0).is_err(), "there is no queue for nothing");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::UnsuitableQueue`] if the numbers are impossible, and
    /// [`RegionError::NoNamespace`].
    pub fn create<T: Plain>(&self, capacity: usize) -> Result<Queue<T>, RegionError> {
        let config = self.config(capacity, size_of::<T>(), align_of::<T>(), false)?;
        create(config, T::layout(KIND)).map(Queue::of)
    }

    /// Creates a [`ByteQueue`](super::ByteQueue) for `capacity` messages, 1 to 2^20, of at most
    /// `max_len` bytes, which are fewer than 2^32.
    ///
    /// ```
    /// use crossproc::{ByteQueue, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue: ByteQueue = QueueOptions::new().loans(8).create_bytes(16, 1024)?;
    /// assert_eq!((queue.capacity(), queue.max_len()), (16, 1024));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::UnsuitableQueue`] if the numbers are impossible, and
    /// [`RegionError::NoNamespace`].
    pub fn create_bytes(
        &self,
        capacity: usize,
        max_len: usize,
    ) -> Result<Queue<[u8]>, RegionError> {
        create(self.config(capacity, max_len, 1, false)?, <[u8]>::layout(KIND)).map(Queue::of)
    }

    /// Creates a [`JoinableQueue`] for `capacity` tasks, 1 to 2^20.
    ///
    /// ```
    /// use crossproc::{JoinableQueue, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = QueueOptions::new().participants(9).create_joinable(16)?;
    /// tasks.put(7)?;
    /// tasks.get()?.done();
    /// assert_eq!(tasks.unfinished(), 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::UnsuitableQueue`] if the numbers are impossible, and
    /// [`RegionError::NoNamespace`].
    pub fn create_joinable<T: Plain>(
        &self,
        capacity: usize,
    ) -> Result<JoinableQueue<T>, RegionError> {
        let config = self.config(capacity, size_of::<T>(), align_of::<T>(), true)?;
        create(config, T::layout(joinable::KIND)).map(JoinableQueue::of)
    }

    /// Creates a [`JoinableByteQueue`](super::JoinableByteQueue) for `capacity` tasks, 1 to 2^20,
    /// of at most `max_len` bytes, which are fewer than 2^32.
    ///
    /// ```
    /// use crossproc::{JoinableByteQueue, QueueOptions};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableByteQueue = QueueOptions::new().create_joinable_bytes(16, 1024)?;
    /// assert_eq!((tasks.capacity(), tasks.max_len()), (16, 1024));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RegionError::Create`] if there is no memory or no descriptor for it,
    /// [`RegionError::UnsuitableQueue`] if the numbers are impossible, and
    /// [`RegionError::NoNamespace`].
    pub fn create_joinable_bytes(
        &self,
        capacity: usize,
        max_len: usize,
    ) -> Result<JoinableQueue<[u8]>, RegionError> {
        create(self.config(capacity, max_len, 1, true)?, <[u8]>::layout(joinable::KIND))
            .map(JoinableQueue::of)
    }

    /// Returns the config, if its numbers are possible.
    fn config(
        &self,
        capacity: usize,
        size: usize,
        align: usize,
        is_joinable: bool,
    ) -> Result<Config, RegionError> {
        let dead_letters = if is_joinable { self.dead_letters } else { 0 };
        check_numbers(capacity, dead_letters, self.participants, self.loans)?;
        Ok(Config {
            // All fit: `check_numbers`. An alignment does, too.
            capacity: capacity as u32,
            letters: dead_letters as u32,
            ids: self.participants as u32,
            places: self.loans as u32 + 1,
            attempts: self.attempts.map_or(0, NonZeroU32::get),
            is_joinable,
            size: size as u64,
            align: align as u32,
        })
    }
}

fn create(config: Config, layout: QueueLayout) -> Result<QueueHandle, RegionError> {
    let offsets = check(&config)?;
    let fill = |base: NonNull<u8>| {
        // SAFETY: `base` points to `offsets.len` bytes, page aligned, which the region keeps mapped
        // for longer than this closure.
        let memory = unsafe { QueueMemory::new(base, config, offsets) };
        config.store(&memory);
        memory.fill();
    };
    let count = usize::try_from(config.capacity).unwrap_or(usize::MAX);
    let region = Region::create_with_holes(
        layout.region,
        count,
        offsets.len,
        &offsets.common(&config),
        fill,
    )?;
    Ok(handle(region, config, offsets))
}

/// Makes a handle to a region whose contents are as long as `offsets` says.
fn handle(region: Region, config: Config, offsets: Offsets) -> QueueHandle {
    // SAFETY: the handle keeps the region, and with it the mapping, for as long as it keeps the
    // memory.
    let memory = unsafe { QueueMemory::new(region.contents(), config, offsets) };
    QueueHandle::new(memory, region)
}

/// Makes a handle from a descriptor, if its file is a queue of such items.
pub(crate) fn attach(
    file: OwnedFd,
    layout: QueueLayout,
    name: &'static str,
    is_joinable: bool,
) -> Result<QueueHandle, RegionError> {
    let region = Region::attach(file, layout.region, name)?;
    let too_short =
        |needed: usize| RegionError::TooShort { len: region.len() as u64, needed: needed as u64 };
    if region.len() < size_of::<super::memory::Control>() {
        return Err(too_short(size_of::<super::memory::Control>()));
    }
    let unsuitable = |what: String| Err(RegionError::UnsuitableQueue { what });
    let Some(config) = Config::load(region.contents()) else {
        return unsuitable("its own account of itself has numbers that cannot be".into());
    };
    let offsets = check(&config)?;
    let is_of_size = match layout.items {
        ItemSize::Fixed(size) => config.size == size as u64,
        // The creator chose the maximum length of a message; `check` has found that it fits.
        ItemSize::Varying => true,
    };
    let is_expected = config.is_joinable == is_joinable
        && config.align as usize == layout.region.align
        && is_of_size;
    if !is_expected {
        return unsuitable(format!("its own account of its items is not that of {name}"));
    }
    if config.capacity as usize != region.count() {
        return unsuitable(format!(
            "it says that {} items fit, its header {}",
            config.capacity,
            region.count()
        ));
    }
    if offsets.len > region.len() {
        return Err(too_short(offsets.len));
    }
    Ok(handle(region, config, offsets))
}

impl Config {
    fn store(&self, memory: &QueueMemory) {
        let numbers = [
            self.capacity.into(),
            self.letters.into(),
            self.ids.into(),
            self.places.into(),
            self.attempts.into(),
            self.is_joinable.into(),
            self.size,
            self.align.into(),
        ];
        for (to, number) in memory.control().config.iter().zip(numbers) {
            // Relaxed: an attach is ordered after it by `initialised` in the region's header.
            to.store(number, Relaxed);
        }
    }

    /// Reads the config at the beginning of a region, which is at least as long as the control
    /// words. The result is unchecked; it is `None` if no creator can have stored it.
    fn load(base: NonNull<u8>) -> Option<Self> {
        let control = base.cast::<super::memory::Control>();
        // SAFETY: mapped, as the caller guarantees, page aligned, and all atomics.
        let control = unsafe { control.as_ref() };
        // Each is loaded once: this copy is checked and used.
        let numbers = control.config.each_ref().map(|number| number.load(Relaxed));
        let number = |index: usize| u32::try_from(numbers[index]).ok();
        Some(Config {
            capacity: number(0)?,
            letters: number(1)?,
            ids: number(2)?,
            places: number(3)?,
            attempts: number(4)?,
            is_joinable: match numbers[5] {
                0 => false,
                1 => true,
                _ => return None,
            },
            size: numbers[6],
            align: number(7)?,
        })
    }
}
