//! The way of a result from a worker to the parent, in as many messages as it needs.

use std::borrow::Cow;
use std::io::{self, Write};

use crossproc::{ByteQueue, QueueError};

/// The longest message, in bytes.
pub(crate) const MESSAGE: usize = 64 << 10;

/// The length of a message's header: the worker's slot, the task's number, the message's number in
/// the result, and whether it is the last.
const HEADER: usize = 12;
const LAST: u32 = 1 << 31;

/// A worker's side.
pub(crate) struct Sender<'a> {
    queue: &'a ByteQueue,
    slot: u32,
    task: u32,
    part: u32,
    message: Vec<u8>,
}

impl<'a> Sender<'a> {
    pub(crate) fn new(queue: &'a ByteQueue, slot: usize) -> Self {
        Sender { queue, slot: slot as u32, task: 0, part: 0, message: Vec::with_capacity(MESSAGE) }
    }

    /// Sends what `write` writes, as the result of a task. Waits while the queue is full.
    pub(crate) fn send(
        &mut self,
        task: u32,
        write: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        (self.task, self.part) = (task, 0);
        self.begin_message();
        write(self)?;
        self.put(LAST)?;
        Ok(())
    }

    fn begin_message(&mut self) {
        self.message.clear();
        self.message.resize(HEADER, 0);
    }

    fn put(&mut self, flag: u32) -> Result<(), QueueError> {
        for (to, number) in
            self.message.chunks_exact_mut(4).zip([self.slot, self.task, self.part | flag])
        {
            to.copy_from_slice(&number.to_le_bytes());
        }
        self.queue.put(&self.message)
    }
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.message.len() == MESSAGE {
            self.put(0)?;
            self.part += 1;
            self.begin_message();
        }
        let fits = bytes.len().min(MESSAGE - self.message.len());
        self.message.extend_from_slice(&bytes[..fits]);
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The parent's side: the unfinished result of each slot.
///
/// A worker's messages come in the order in which it put them, and before any message of its
/// replacement. So if a worker dies in the middle of a result, the slot's next message is the first
/// one of another result. Then the unfinished result is dropped.
pub(crate) struct Receiver {
    halves: Vec<Half>,
}

#[derive(Default)]
struct Half {
    task: u32,
    parts: u32,
    bytes: Vec<u8>,
}

/// A task's result, from its first message to its last.
#[derive(Debug)]
pub(crate) struct Whole<'a> {
    pub(crate) task: u32,
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// The error for a message that no worker sends.
#[derive(Debug)]
pub(crate) struct Senseless;

impl Receiver {
    pub(crate) fn new(slots: usize) -> Self {
        Receiver { halves: (0..slots).map(|_| Half::default()).collect() }
    }

    /// Takes in a message. Returns the result, if the message completes one.
    pub(crate) fn take<'a>(&mut self, message: &'a [u8]) -> Result<Option<Whole<'a>>, Senseless> {
        let number =
            |at: usize| message.get(4 * at..4 * at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let (Some(slot), Some(task), Some(part)) = (number(0), number(1), number(2)) else {
            return Err(Senseless);
        };
        let half = self.halves.get_mut(slot as usize).ok_or(Senseless)?;
        let (is_last, part, bytes) = (part & LAST != 0, part & !LAST, &message[HEADER..]);
        if part == 0 {
            *half = Half { task, ..Half::default() };
            if is_last {
                return Ok(Some(Whole { task, bytes: bytes.into() }));
            }
        } else if (task, part) != (half.task, half.parts) {
            return Err(Senseless);
        }
        half.bytes.extend_from_slice(bytes);
        half.parts += 1;
        Ok(is_last.then(|| Whole { task, bytes: std::mem::take(half).bytes.into() }))
    }
}
