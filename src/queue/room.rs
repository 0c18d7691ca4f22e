//! Waiting for a queue along with other things. The queue itself stands for an item or a task, and
//! [`Room`] for room.

use crossproc_sys::robust::Entry;

use super::participation::QueueHandle;
use super::ring::waiting::Side;
use super::ring::watching::{WORDS, WORDS_FOR_SENDER, WORDS_FOR_TASK};
use super::{Item, JoinableQueue, Queue};
use crate::wait::source::{Armed, Source, WatchState, Words};

/// Room in a queue, as something to [wait for](fn@crate::wait_any) along with other things. It is
/// ready while there is room, or once the queue is closed. [`Queue::room`] and
/// [`JoinableQueue::room`] return it.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    handle: &'a QueueHandle,
    /// What the message takes of the memory for long ones.
    units: u32,
}

impl<'a> Room<'a> {
    /// Room for a message of `len` bytes; any length for other items.
    pub(super) fn new(handle: &'a QueueHandle, len: usize) -> Self {
        let memory = handle.memory();
        let is_long = memory.has_blocks() && len as u64 <= memory.config.blocks.longest;
        let units = if is_long { memory.units(len) } else { 0 };
        Room { handle, units }
    }
}

impl<T: ?Sized + Item> Queue<T> {
    /// Returns room for a put, to be [waited for](fn@crate::wait_any) along with other things.
    ///
    /// ```
    /// use crossproc::{Queue, wait_any};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (from, to): (Queue<u64>, Queue<u64>) = (Queue::new(1)?, Queue::new(1)?);
    /// from.put(7)?;
    /// assert_eq!(wait_any(&[&from, &to.room()])?, [0, 1]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn room(&self) -> Room<'_> {
        Room::new(&self.handle, 0)
    }
}

impl Queue<[u8]> {
    /// Returns room for a put of `len` bytes, to be [waited for](fn@crate::wait_any) along with
    /// other things. For a [long message](super::QueueOptions::long_messages) it is ready only
    /// while there is memory, too. A message that is too long is never waited for.
    ///
    /// ```
    /// use crossproc::{ByteQueue, QueueOptions, wait_any};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = QueueOptions::new().long_messages(100_000, 100_000);
    /// let queue: ByteQueue = options.create_bytes(8, 1_000)?;
    /// queue.put(&[7; 80_000])?;
    /// assert_eq!(wait_any(&[&queue.room_for(80_000), &queue.room_for(1_000)])?, [1]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn room_for(&self, len: usize) -> Room<'_> {
        Room::new(&self.handle, len)
    }
}

impl JoinableQueue<[u8]> {
    /// Returns room for a put of `len` bytes, as [`Queue::room_for`] does.
    ///
    /// ```
    /// use crossproc::{JoinableByteQueue, QueueOptions, wait_any};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = QueueOptions::new().long_messages(100_000, 100_000);
    /// let tasks: JoinableByteQueue = options.create_joinable_bytes(8, 1_000)?;
    /// tasks.put(&[7; 80_000])?;
    /// assert_eq!(wait_any(&[&tasks.room_for(80_000), &tasks.room_for(1_000)])?, [1]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn room_for(&self, len: usize) -> Room<'_> {
        Room::new(&self.handle, len)
    }
}

impl<T: ?Sized + Item> JoinableQueue<T> {
    /// Returns room for a put, to be [waited for](fn@crate::wait_any) along with other things.
    ///
    /// ```
    /// use crossproc::{JoinableQueue, wait_any};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks: JoinableQueue<u64> = JoinableQueue::new(1)?;
    /// assert_eq!(wait_any(&[&tasks, &tasks.room()])?, [1]);
    /// tasks.put(7)?;
    /// assert_eq!(wait_any(&[&tasks, &tasks.room()])?, [0]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn room(&self) -> Room<'_> {
        Room::new(&self.handle, 0)
    }
}

/// Waits for an item or a task.
impl Source for QueueHandle {
    fn key(&self) -> usize {
        self.memory().key(Side::Getters)
    }

    fn begin(&self) -> WatchState {
        let id = if self.memory().config.is_joinable {
            self.with(|participation| {
                participation.memory().bury_nested(participation.thread);
                participation.participant.id
            })
            .ok()
        } else {
            None
        };
        // A thread that cannot take part has no tasks. `u64::MAX` is no participant's id.
        WatchState { begun: id.map_or(u64::MAX, |id| id as u64), ..WatchState::default() }
    }

    /// Once a queue of tasks is closed, it ends for each thread when no other thread has a task.
    fn is_for_each(&self) -> bool {
        self.memory().config.is_joinable && self.memory().is_closed()
    }

    /// Which tasks can still come depends on the thread.
    fn go_on(&self, state: &mut WatchState) {
        *state = self.begin();
    }

    fn look(&self, state: &WatchState) -> bool {
        let memory = self.memory();
        if memory.config.is_joinable {
            memory.has_task_for(state.begun as usize)
        } else {
            memory.is_ready(Side::Getters)
        }
    }

    fn words(&self) -> usize {
        if self.memory().config.is_joinable { WORDS_FOR_TASK } else { WORDS }
    }

    fn more_words(&self) -> usize {
        // Also for participants that come during the sleep.
        if self.memory().config.is_joinable { self.memory().config.ids as usize } else { 0 }
    }

    fn arm<'a>(&'a self, state: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        let memory = self.memory();
        if memory.config.is_joinable {
            memory.arm_for_task(state.begun as usize, words)
        } else {
            memory.arm(Side::Getters, words)
        }
    }

    fn pend(&self, entry: &Entry) {
        self.memory().pend(entry);
    }

    fn awake(&self, state: &mut WatchState) {
        self.memory().awake();
        if self.look(state) {
            self.memory().wake_side(Side::Getters);
        }
    }
}

impl Source for Room<'_> {
    fn key(&self) -> usize {
        let memory = self.handle.memory();
        if self.units == 0 { memory.key(Side::Putters) } else { memory.key_for_memory(self.units) }
    }

    fn look(&self, _: &WatchState) -> bool {
        let memory = self.handle.memory();
        memory.is_ready(Side::Putters) && (memory.has_memory(self.units) || memory.is_closed())
    }

    fn words(&self) -> usize {
        if self.handle.memory().config.is_broadcast() { WORDS_FOR_SENDER } else { WORDS }
    }

    fn more_words(&self) -> usize {
        if self.units == 0 { 0 } else { self.handle.memory().config.ids as usize }
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        let memory = self.handle.memory();
        if memory.is_ready(Side::Putters) && self.units != 0 {
            memory.arm_for_memory(self.units, words)
        } else {
            memory.arm(Side::Putters, words)
        }
    }

    fn pend(&self, entry: &Entry) {
        self.handle.memory().pend(entry);
    }

    fn awake(&self, state: &mut WatchState) {
        self.handle.memory().awake();
        if self.look(state) {
            self.handle.memory().wake_side(Side::Putters);
            if self.units != 0 {
                self.handle.memory().wake_for_memory();
            }
        }
    }
}

#[cfg(feature = "tokio")]
impl crate::reactor::Lead for Room<'_> {
    fn source(&self) -> &dyn Source {
        self
    }
}
