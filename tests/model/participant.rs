//! A participant: a thread that carries out commands, with all that it has in hand.

use core::num::NonZeroU32;
use std::mem;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use crossproc::{
    ByteQueue, DeadLetter, JoinableByteQueue, JoinableQueue, Loan, PutManyError, Queue, QueueError,
    QueueOptions, Received, RegionError, Task,
};

use crossproc_sys::robust;

use super::program::{Command, Form, Item, MAX_LEN, Setup};

/// A queue of any kind.
#[derive(Clone, Debug)]
pub(crate) enum Any {
    Items(Queue<u64>),
    Bytes(ByteQueue),
    Tasks(JoinableQueue<u64>),
    ByteTasks(JoinableByteQueue),
}

/// Evaluates the same expression for all kinds of queues.
macro_rules! each {
    ($any:expr, $queue:ident => $result:expr) => {
        match $any {
            Any::Items($queue) => $result,
            Any::Bytes($queue) => $result,
            Any::Tasks($queue) => $result,
            Any::ByteTasks($queue) => $result,
        }
    };
}

/// Calls an operation in one of its forms.
macro_rules! form {
    ($form:expr, $on:ident.$try_name:ident, $timeout:ident($($argument:expr),*)) => {
        match $form.timeout() {
            None => $on.$try_name($($argument),*),
            Some(timeout) => $on.$timeout($($argument,)* timeout),
        }
    };
}

/// The reason for which nothing came of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    Empty,
    TimedOut,
    Closed,
    TooLong,
    TooManyLoans,
    TooManyParticipants,
    Deadlock,
    /// It still waits. Only used as an expectation.
    Blocks,
}

/// The outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Got(Vec<Item>),
    /// A thing is in hand, and was given out this many times.
    Held(Item, u32),
    /// Only this many of several items were put.
    Put(usize, Refusal),
    Refused(Refusal),
}

impl From<QueueError> for Refusal {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Full => Refusal::Full,
            QueueError::Empty => Refusal::Empty,
            QueueError::TimedOut => Refusal::TimedOut,
            QueueError::Closed => Refusal::Closed,
            QueueError::TooLong { max: MAX_LEN, .. } => Refusal::TooLong,
            QueueError::TooManyLoans { .. } => Refusal::TooManyLoans,
            QueueError::TooManyParticipants { .. } => Refusal::TooManyParticipants,
            QueueError::Deadlock => Refusal::Deadlock,
            other => panic!("no program leads to this: {other}"),
        }
    }
}

impl Any {
    pub(crate) fn new(setup: &Setup) -> Self {
        let options = QueueOptions::new()
            .participants(setup.participants)
            .loans(setup.loans)
            .attempts(NonZeroU32::new(setup.attempts), setup.letters);
        let capacity = setup.capacity;
        match (setup.is_joinable, setup.is_bytes) {
            (false, false) => options.create(capacity).map(Any::Items),
            (false, true) => options.create_bytes(capacity, MAX_LEN).map(Any::Bytes),
            (true, false) => options.create_joinable(capacity).map(Any::Tasks),
            (true, true) => options.create_joinable_bytes(capacity, MAX_LEN).map(Any::ByteTasks),
        }
        .expect("there is memory for a small queue")
    }

    /// Maps the same queue once more.
    pub(crate) fn mapped_again(&self) -> Result<Self, RegionError> {
        let file = self.file().try_clone_to_owned().expect("there is a descriptor");
        Ok(match self {
            Any::Items(_) => Any::Items(Queue::attach(file)?),
            Any::Bytes(_) => Any::Bytes(Queue::attach(file)?),
            Any::Tasks(_) => Any::Tasks(JoinableQueue::attach(file)?),
            Any::ByteTasks(_) => Any::ByteTasks(JoinableQueue::attach(file)?),
        })
    }

    pub(crate) fn file(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        each!(self, queue => queue.as_fd())
    }

    /// Returns what can be seen without taking part: the length, and whether the queue is empty,
    /// full and closed.
    pub(crate) fn looks(&self) -> (usize, bool, bool, bool) {
        each!(self, queue => (queue.len(), queue.is_empty(), queue.is_full(), queue.is_closed()))
    }

    /// Returns how many tasks are unfinished, and how many dead letters there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        match self {
            Any::Items(_) | Any::Bytes(_) => (0, 0),
            Any::Tasks(queue) => (queue.unfinished(), queue.dead_letters()),
            Any::ByteTasks(queue) => (queue.unfinished(), queue.dead_letters()),
        }
    }

    fn put(&self, item: &Item, form: Form) -> Result<(), QueueError> {
        let check = |error: crossproc::PutError<u64>| {
            assert_eq!(error.value, number(item), "what was not put comes back");
            error.error
        };
        match self {
            Any::Items(queue) => {
                form!(form, queue.try_put, put_timeout(number(item))).map_err(check)
            }
            Any::Bytes(queue) => form!(form, queue.try_put, put_timeout(item)),
            Any::Tasks(queue) => {
                form!(form, queue.try_put, put_timeout(number(item))).map_err(check)
            }
            Any::ByteTasks(queue) => form!(form, queue.try_put, put_timeout(item)),
        }
    }

    fn put_many(&self, items: &[Item], form: Form) -> Result<(), PutManyError> {
        let numbers: Vec<u64> = items.iter().map(number).collect();
        match self {
            Any::Items(queue) => form!(form, queue.try_put_many, put_many_timeout(&numbers)),
            Any::Tasks(queue) => form!(form, queue.try_put_many, put_many_timeout(&numbers)),
            Any::Bytes(_) | Any::ByteTasks(_) => unreachable!("messages are put one by one"),
        }
    }

    fn get(&self, form: Form) -> Result<Item, QueueError> {
        match self {
            Any::Items(queue) => form!(form, queue.try_get, get_timeout()).map(bytes),
            Any::Bytes(queue) => form!(form, queue.try_get, get_timeout()),
            Any::Tasks(_) | Any::ByteTasks(_) => unreachable!("tasks are taken in hand"),
        }
    }

    fn get_many(&self, most: usize, form: Form) -> Result<Vec<Item>, QueueError> {
        let Any::Items(queue) = self else { unreachable!("messages and tasks are got one by one") };
        let mut numbers = Vec::new();
        let count = form!(form, queue.try_get_many, get_many_timeout(&mut numbers, most))?;
        assert_eq!(count, numbers.len());
        Ok(numbers.into_iter().map(bytes).collect())
    }

    fn loan(&self, item: &Item) -> Result<Guard<'_>, QueueError> {
        match self {
            Any::Items(queue) => Ok(Guard::of_number(queue.loan()?, item)),
            Any::Tasks(queue) => Ok(Guard::of_number(queue.loan()?, item)),
            Any::Bytes(queue) => Ok(Guard::of_message(queue.loan(item.len())?, item)),
            Any::ByteTasks(queue) => Ok(Guard::of_message(queue.loan(item.len())?, item)),
        }
    }

    fn receive(&self, form: Form) -> Result<Guard<'_>, QueueError> {
        match self {
            Any::Items(queue) => form!(form, queue.try_receive, receive_timeout()).map(Guard::Item),
            Any::Bytes(queue) => {
                form!(form, queue.try_receive, receive_timeout()).map(Guard::Bytes)
            }
            Any::Tasks(queue) => form!(form, queue.try_get, get_timeout()).map(Guard::Task),
            Any::ByteTasks(queue) => form!(form, queue.try_get, get_timeout()).map(Guard::ByteTask),
        }
    }

    fn letter(&self) -> Result<Guard<'_>, QueueError> {
        match self {
            Any::Tasks(queue) => queue.dead_letter().map(Guard::Letter),
            Any::ByteTasks(queue) => queue.dead_letter().map(Guard::ByteLetter),
            Any::Items(_) | Any::Bytes(_) => unreachable!("items do not die"),
        }
    }

    fn join(&self) -> Result<(), QueueError> {
        match self {
            Any::Tasks(queue) => queue.join_timeout(Duration::ZERO),
            Any::ByteTasks(queue) => queue.join_timeout(Duration::ZERO),
            Any::Items(_) | Any::Bytes(_) => unreachable!("items are not finished"),
        }
    }
}

fn number(item: &Item) -> u64 {
    u64::from_le_bytes(item[..].try_into().expect("a number has eight bytes"))
}

fn bytes(number: u64) -> Item {
    number.to_le_bytes().to_vec()
}

/// A thing that a participant has in hand.
enum Guard<'a> {
    Loan(Loan<'a, u64>),
    ByteLoan(Loan<'a, [u8]>),
    Item(Received<'a, u64>),
    Bytes(Received<'a, [u8]>),
    Task(Task<'a, u64>),
    ByteTask(Task<'a, [u8]>),
    Letter(DeadLetter<'a, u64>),
    ByteLetter(DeadLetter<'a, [u8]>),
}

impl<'a> Guard<'a> {
    fn of_number(mut loan: Loan<'a, u64>, item: &Item) -> Self {
        *loan = number(item);
        Guard::Loan(loan)
    }

    fn of_message(mut loan: Loan<'a, [u8]>, item: &Item) -> Self {
        loan.copy_from_slice(item);
        Guard::ByteLoan(loan)
    }

    fn contents(&self) -> Item {
        match self {
            Guard::Loan(guard) => bytes(**guard),
            Guard::ByteLoan(guard) => guard.to_vec(),
            Guard::Item(guard) => bytes(**guard),
            Guard::Bytes(guard) => guard.to_vec(),
            Guard::Task(guard) => bytes(**guard),
            Guard::ByteTask(guard) => guard.to_vec(),
            Guard::Letter(guard) => bytes(**guard),
            Guard::ByteLetter(guard) => guard.to_vec(),
        }
    }

    fn attempts(&self) -> u32 {
        match self {
            Guard::Task(task) => task.attempts(),
            Guard::ByteTask(task) => task.attempts(),
            Guard::Letter(letter) => letter.attempts(),
            Guard::ByteLetter(letter) => letter.attempts(),
            Guard::Loan(_) | Guard::ByteLoan(_) | Guard::Item(_) | Guard::Bytes(_) => 0,
        }
    }

    /// Sends the loan, or returns it with the error.
    fn send(self, form: Form) -> Result<(), (Self, QueueError)> {
        match self {
            Guard::Loan(loan) => form!(form, loan.try_send, send_timeout())
                .map_err(|e| (Guard::Loan(e.value), e.error)),
            Guard::ByteLoan(loan) => form!(form, loan.try_send, send_timeout())
                .map_err(|e| (Guard::ByteLoan(e.value), e.error)),
            _ => unreachable!("only loans are sent"),
        }
    }

    fn done(self) {
        match self {
            Guard::Task(task) => task.done(),
            Guard::ByteTask(task) => task.done(),
            _ => unreachable!("only tasks are done"),
        }
    }
}

/// Acts as if the thread were killed: what it has leaked is handed on when it ends. No reference to
/// that is left.
fn hand_on() {
    if let Some(thread) = robust::ready() {
        // SAFETY: a guard that was leaked here gave no reference that is kept.
        unsafe { thread.disown_guards() };
    }
}

/// Carries out commands until it is told to end. The test waits for each outcome, except that it
/// waits for the thread after the last command.
pub(crate) fn live(queue: &Any, commands: &Receiver<Command>, outcomes: &Sender<Outcome>) {
    let mut held: Vec<(Guard<'_>, Item)> = Vec::new();
    for command in commands {
        match command {
            Command::End => break,
            Command::Die => {
                held.into_iter().for_each(mem::forget);
                // With at least one guard leaked, the destructors do not end the thread's
                // participation.
                if let Ok(loan) = queue.loan(&vec![0; 8]) {
                    mem::forget(loan);
                }
                return hand_on();
            }
            command => {
                let outcome = operate(queue, &mut held, &command)
                    .unwrap_or_else(|error| Outcome::Refused(error.into()));
                for (guard, contents) in &held {
                    assert_eq!(guard.contents(), *contents, "what is in hand does not change");
                }
                // If the test has failed, nothing receives this any more.
                let _ = outcomes.send(outcome);
            }
        }
    }
    // What is in hand is given back first, so that only what was leaked is left.
    drop(held);
    hand_on();
}

fn operate<'a>(
    queue: &'a Any,
    held: &mut Vec<(Guard<'a>, Item)>,
    command: &Command,
) -> Result<Outcome, QueueError> {
    let mut hold = |guard: Guard<'a>| {
        let (contents, attempts) = (guard.contents(), guard.attempts());
        held.push((guard, contents.clone()));
        Outcome::Held(contents, attempts)
    };
    match command {
        Command::Put(item, form) => queue.put(item, *form)?,
        Command::PutMany(items, form) => {
            if let Err(error) = queue.put_many(items, *form) {
                return Ok(Outcome::Put(error.put, error.error.into()));
            }
        }
        Command::Get(form) => return Ok(Outcome::Got(vec![queue.get(*form)?])),
        Command::GetMany(most, form) => return Ok(Outcome::Got(queue.get_many(*most, *form)?)),
        Command::Loan(item) => return Ok(hold(queue.loan(item)?)),
        Command::Receive(form) => return Ok(hold(queue.receive(*form)?)),
        Command::Letter => return Ok(hold(queue.letter()?)),
        Command::Send(which, form) => {
            let (guard, contents) = held.remove(*which);
            if let Err((guard, error)) = guard.send(*form) {
                held.insert(*which, (guard, contents));
                return Err(error);
            }
        }
        Command::Drop(which) => drop(held.remove(*which)),
        Command::Leak(which) => mem::forget(held.remove(*which)),
        Command::Done(which) => held.remove(*which).0.done(),
        Command::Join => queue.join()?,
        Command::Close => each!(queue, queue => queue.close())?,
        Command::End | Command::Die => unreachable!("the thread ends"),
    }
    Ok(Outcome::Done)
}
