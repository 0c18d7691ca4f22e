//! The commands, the participants that carry them out, and how bytes become both.

use std::time::Duration;

/// An item's bytes: eight of them in a queue of numbers.
pub(crate) type Item = Vec<u8>;

/// The number of seats for participants.
pub(crate) const SEATS: usize = 3;
/// The most bytes of a message.
pub(crate) const MAX_LEN: usize = 10;
/// At least as many dead letters as there can ever be tasks here.
pub(crate) const MANY_LETTERS: usize = 64;

/// The parameters that a queue is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// Whether items are messages of bytes. Otherwise they are numbers.
    pub(crate) is_bytes: bool,
    pub(crate) is_joinable: bool,
    pub(crate) capacity: usize,
    pub(crate) loans: usize,
    pub(crate) participants: usize,
    pub(crate) attempts: u32,
    pub(crate) letters: usize,
}

/// The forms of an operation that may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Try,
    /// With a time-out of zero.
    Zero,
    /// As long as it takes, or until the test has failed.
    Long,
}

#[derive(Debug, Clone)]
pub(crate) enum Command {
    Put(Item, Form),
    /// For numbers only.
    PutMany(Vec<Item>, Form),
    /// Not for a joinable queue.
    Get(Form),
    /// For numbers only, and not for a joinable queue.
    GetMany(usize, Form),
    /// Takes a loan and writes this item.
    Loan(Item),
    /// Sends the loan with this index among what is held.
    Send(usize, Form),
    /// Takes an item or a task in hand.
    Receive(Form),
    Letter,
    /// Drops what is held with this index.
    Drop(usize),
    Leak(usize),
    /// Reports the held task with this index done.
    Done(usize),
    /// With a time-out of zero.
    Join,
    Close,
    /// The thread drops what it has, and ends.
    End,
    /// The thread ends with all that it has in hand. It is the kernel's to end its participation.
    Die,
}

/// A step of a program. Its bytes are interpreted once it is known what the participant has in
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

    /// Makes a setup of any three bytes; missing bytes count as 0.
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

    /// Returns the time-out, for the forms that have one.
    pub(crate) fn timeout(self) -> Option<Duration> {
        match self {
            Form::Try => None,
            Form::Zero => Some(Duration::ZERO),
            Form::Long => Some(Self::PATIENCE),
        }
    }
}

impl Command {
    /// Returns the same command in a form that does not wait.
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

    /// Returns the same command with one item at most, so that no operation of another participant
    /// comes between two items.
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
