//! What is done, by whom: commands, and how bytes become some.

use std::time::Duration;

/// An item's bytes: eight of them in a queue of numbers.
pub(crate) type Item = Vec<u8>;

/// How many seats there are for participants.
pub(crate) const SEATS: usize = 3;
/// The most bytes of a message.
pub(crate) const MAX_LEN: usize = 10;
/// As many dead letters as there can ever be tasks here, or more.
pub(crate) const MANY_LETTERS: usize = 64;

/// How a queue is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// Items are messages of bytes, otherwise numbers.
    pub(crate) is_bytes: bool,
    pub(crate) is_joinable: bool,
    pub(crate) capacity: usize,
    pub(crate) loans: usize,
    pub(crate) participants: usize,
    pub(crate) attempts: u32,
    pub(crate) letters: usize,
}

/// The forms of what may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Try,
    /// A time-out of zero.
    Zero,
    /// As long as it takes, or until the test has failed.
    Long,
}

#[derive(Debug, Clone)]
pub(crate) enum Command {
    Put(Item, Form),
    /// Only numbers.
    PutMany(Vec<Item>, Form),
    /// Not of a joinable queue.
    Get(Form),
    /// Only numbers, and not of a joinable queue.
    GetMany(usize, Form),
    /// Takes a loan and writes this.
    Loan(Item),
    /// Sends the loan that is held as number so and so.
    Send(usize, Form),
    /// Takes an item or a task in hand.
    Receive(Form),
    Letter,
    /// Drops what is held as number so and so.
    Drop(usize),
    Leak(usize),
    /// The task that is held as number so and so is done.
    Done(usize),
    /// With a time-out of zero.
    Join,
    Close,
    /// The thread drops what it has, and ends.
    End,
    /// The thread ends with all that it has in hand, and its participation is the kernel's to end.
    Die,
}

/// A step of a program: the bytes are looked at again when it is known what the participant has in
/// hand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) seat: usize,
    pub(crate) verb: u8,
    pub(crate) form: Form,
    pub(crate) number: usize,
}

impl Setup {
    pub(crate) const LEN: usize = 3;

    /// Any three bytes make one; what is missing is 0.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let byte = |index: usize| usize::from(bytes.get(index).copied().unwrap_or(0));
        Setup {
            is_bytes: byte(0) & 1 != 0,
            is_joinable: byte(0) & 2 != 0,
            loans: 1 + (byte(0) >> 2 & 3),
            participants: 1 + (byte(0) >> 4 & 3),
            capacity: 1 + byte(1) % 9,
            attempts: (byte(2) & 3) as u32,
            letters: [0, 1, MANY_LETTERS, MANY_LETTERS][byte(2) >> 2 & 3],
        }
    }
}

impl Step {
    pub(crate) const LEN: usize = 2;

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let (first, second) = (bytes[0], bytes[1]);
        let form = [Form::Try, Form::Zero, Form::Long, Form::Long][usize::from(second & 3)];
        Step {
            seat: usize::from(first >> 5) % SEATS,
            verb: first & 31,
            form,
            number: usize::from(second >> 2),
        }
    }
}

impl Form {
    pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

    /// For the forms with a time-out.
    pub(crate) fn timeout(self) -> Option<Duration> {
        match self {
            Form::Try => None,
            Form::Zero => Some(Duration::ZERO),
            Form::Long => Some(Self::PATIENCE),
        }
    }
}

impl Command {
    /// The same without waiting.
    pub(crate) fn at_once(self) -> Self {
        match self {
            Command::Put(item, Form::Long) => Command::Put(item, Form::Try),
            Command::PutMany(items, Form::Long) => Command::PutMany(items, Form::Try),
            Command::Get(Form::Long) => Command::Get(Form::Try),
            Command::GetMany(most, Form::Long) => Command::GetMany(most, Form::Try),
            Command::Send(which, Form::Long) => Command::Send(which, Form::Try),
            Command::Receive(Form::Long) => Command::Receive(Form::Try),
            other => other,
        }
    }

    /// The same with one item at the most: two operations of others cannot come in between.
    pub(crate) fn single(self) -> Self {
        match self {
            Command::PutMany(items, form) => {
                Command::PutMany(items.into_iter().take(1).collect(), form)
            }
            Command::GetMany(most, form) => Command::GetMany(most.min(1), form),
            other => other,
        }
    }
}
