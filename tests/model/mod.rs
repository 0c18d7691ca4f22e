//! Programs for the participants of a queue, run in lockstep, and compared with a plain model of
//! the queue.
//!
//! Bytes become a [setup](program::Setup) and [steps](program::Step). Each participant is a thread
//! that does one thing when it is told to. The outcome must be exactly what the [model](reference)
//! says. One participant at a time may wait for what another one does. A participant may die: it
//! leaks all that it has in hand, and ends, so that the kernel ends its participation.
//!
//! The fuzz target runs the same programs.

#![allow(unsafe_code)]

mod leaks;
mod participant;
mod program;
mod reference;

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use leaks::Leaks;
use participant::{Any, Outcome, Refusal, live};
use program::{Command, Form, Item, MAX_LEN, SEATS, Setup, Step};
use reference::Reference;

/// The most steps of a program.
const MOST_STEPS: usize = 200;

/// The participant that ends it all, in a seat of its own.
const LAST: usize = SEATS;

/// Runs the program that the bytes encode.
///
/// # Panics
/// If the queue does not do what it must.
pub(crate) fn run(bytes: &[u8]) {
    crossproc::set_recheck_interval(None);
    let (setup, steps) = bytes.split_at(bytes.len().min(Setup::LEN));
    let mut run = Run::new(Setup::from_bytes(setup));
    for step in steps.chunks_exact(Step::LEN).take(MOST_STEPS) {
        run.step(Step::from_bytes(step));
    }
    run.finish();
}

/// A participant's thread, and the channels to it.
struct Thread {
    commands: Sender<Command>,
    outcomes: Receiver<Outcome>,
    handle: JoinHandle<()>,
}

struct Run {
    setup: Setup,
    queue: Any,
    reference: Reference,
    threads: [Option<Thread>; SEATS + 1],
    /// The participant that waits, and the command that it waits in.
    waiting: Option<(usize, Command)>,
    /// The number of items so far.
    number: u64,
    leaks: Leaks,
    /// The commands so far, with their outcomes.
    log: Vec<String>,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "after this, with {:?}:\n{}\n{:?}",
            self.setup,
            self.log.join("\n"),
            self.reference
        )
    }
}

impl Run {
    fn new(setup: Setup) -> Self {
        let queue = Any::new(&setup);
        let leaks = Leaks::of(queue.file());
        let threads = [const { None }; SEATS + 1];
        Run {
            setup,
            queue,
            reference: Reference::new(setup),
            threads,
            waiting: None,
            number: 0,
            leaks,
            log: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        let Step { seat, number, .. } = step;
        if self.waiting.as_ref().is_some_and(|(waits, _)| *waits == seat) {
            return;
        }
        if self.threads[seat].is_none() {
            self.sit_down(seat, number % 4 == 0);
        }
        let Some(command) = self.command(step) else { return };
        let command = if self.waiting.is_some() { command.single() } else { command };
        let would_wait = |outcome| {
            matches!(outcome, Outcome::Refused(Refusal::Blocks) | Outcome::Put(_, Refusal::Blocks))
        };
        if !would_wait(self.reference.foresee(seat, &command)) {
            self.make(seat, command);
        } else if self.may_wait(seat, &command) {
            self.tell(seat, command.clone());
            self.waiting = Some((seat, command));
        } else {
            self.make(seat, command.at_once());
        }
    }

    /// Returns whether it can be told what this command does while others go on. A sleeping
    /// participant buries the dead meanwhile, at some time, and their tasks come back.
    fn may_wait(&self, seat: usize, command: &Command) -> bool {
        let is_single = !matches!(command, Command::PutMany(..) | Command::GetMany(..));
        let is_alone = self.setup.participants < 2;
        self.waiting.is_none()
            && is_single
            && !is_alone
            && self.reference.takes_part(seat)
            && !(self.setup.is_joinable && self.reference.leaves_dead())
    }

    /// Returns the command that a step stands for, or `None` if there is nothing to do it with.
    fn command(&mut self, Step { seat, verb, form, number }: Step) -> Option<Command> {
        let Setup { is_bytes, is_joinable, .. } = self.setup;
        let one_of =
            |places: Vec<usize>| (!places.is_empty()).then(|| places[number % places.len()]);
        Some(match verb {
            0..=4 => Command::Put(self.item(number), form),
            5 | 6 if !is_bytes => {
                Command::PutMany((0..number % 12).map(|_| self.item(0)).collect(), form)
            }
            5..=7 => Command::Put(self.item(number), Form::Try),
            8..=10 if !is_joinable => Command::Get(form),
            11 | 12 if !is_joinable && !is_bytes => Command::GetMany(number % 12, form),
            8..=15 => Command::Receive(form),
            16 | 17 => Command::Loan(self.item(number)),
            18 | 19 => Command::Send(one_of(self.reference.loans(seat))?, form),
            20 | 21 => self.command_of_drop(seat, number, false)?,
            22 => self.command_of_drop(seat, number, true)?,
            23..=25 if is_joinable => Command::Done(one_of(self.reference.tasks(seat))?),
            26 | 27 if is_joinable => Command::Join,
            28 if is_joinable => Command::Letter,
            23..=28 => Command::Get(Form::Try),
            29 if number % 4 == 0 => Command::Close,
            29 | 30 => self.command_of_end(seat, Command::End)?,
            _ => self.command_of_end(seat, Command::Die)?,
        })
    }

    /// With room for one dead letter, it is unspecified which of several tasks becomes one. So
    /// there are no more than two at a time: one that has become a letter, and one that waits for
    /// room. The dead leave none.
    fn has_little_room(&self) -> bool {
        self.setup.is_joinable && self.setup.letters == 1
    }

    fn command_of_drop(&self, seat: usize, number: usize, leaks: bool) -> Option<Command> {
        let held = self.reference.held(seat);
        let which = *held.get(number % held.len().max(1))?;
        if self.has_little_room()
            && self.reference.holds_given_up(seat, which)
            && self.reference.count_given_up() > 1
        {
            return Some(Command::Done(which));
        }
        let leaks = leaks && self.waiting.is_none() && !self.has_little_room();
        Some(if leaks { Command::Leak(which) } else { Command::Drop(which) })
    }

    fn command_of_end(&mut self, seat: usize, command: Command) -> Option<Command> {
        let command = if self.reference.takes_part(seat) { command } else { Command::End };
        let most = if matches!(command, Command::Die) || self.reference.count_given_up() > 0 {
            0
        } else {
            2
        };
        while self.has_little_room() && self.reference.tasks(seat).len() > most {
            let first = self.reference.tasks(seat)[0];
            self.make(seat, Command::Done(first));
        }
        // A sleeping participant would bury the dead one at some time, unless it wakes for what the
        // dead one leaves.
        if let Some((waits, waited)) = &self.waiting {
            let mut after = self.reference.clone();
            after.expect(seat, &command, None);
            if self.setup.is_joinable
                && matches!(command, Command::Die)
                && after.foresee(*waits, waited) == Outcome::Refused(Refusal::Blocks)
            {
                return None;
            }
        }
        Some(command)
    }

    /// Returns a new item, of eight bytes in a queue of numbers.
    fn item(&mut self, number: usize) -> Item {
        self.number += 1;
        let bytes = self.number.to_le_bytes();
        if self.setup.is_bytes {
            bytes.into_iter().cycle().take(number % (MAX_LEN + 2)).collect()
        } else {
            bytes.to_vec()
        }
    }

    /// Starts a participant's thread, which maps the queue itself, or has a clone of the handle.
    fn sit_down(&mut self, seat: usize, maps: bool) {
        let queue = if maps {
            self.queue.mapped_again().expect("a queue can be attached")
        } else {
            self.queue.clone()
        };
        self.leaks.note(queue.file());
        let (commands, to_do) = channel();
        let (done, outcomes) = channel();
        let handle = std::thread::spawn(move || live(&queue, &to_do, &done));
        self.threads[seat] = Some(Thread { commands, outcomes, handle });
    }

    fn tell(&self, seat: usize, command: Command) {
        self.threads[seat]
            .as_ref()
            .expect("somebody sits there")
            .commands
            .send(command)
            .expect("the thread listens");
    }

    fn outcome(&self, seat: usize, command: &Command) -> Outcome {
        let outcomes = &self.threads[seat].as_ref().expect("somebody sits there").outcomes;
        outcomes
            .recv_timeout(Form::PATIENCE)
            .unwrap_or_else(|_| panic!("{command:?} of {seat} never ended"))
    }

    /// Has a participant that does not wait carry out the command, and checks everything.
    fn make(&mut self, seat: usize, command: Command) {
        let is_last = matches!(command, Command::End | Command::Die);
        self.tell(seat, command.clone());
        let outcome = if is_last {
            let Thread { commands, outcomes, handle } =
                self.threads[seat].take().expect("somebody sits there");
            handle.join().expect("a participant does not panic");
            drop((commands, outcomes));
            Outcome::Done
        } else {
            self.outcome(seat, &command)
        };
        self.check(seat, &command, &outcome);
        if let Some((waits, waited)) = self.waiting.take() {
            if self.reference.foresee(waits, &waited) == Outcome::Refused(Refusal::Blocks) {
                self.waiting = Some((waits, waited));
            } else {
                let outcome = self.outcome(waits, &waited);
                self.check(waits, &waited, &outcome);
            }
        }
        assert_eq!(self.queue.looks(), self.reference.looks(), "{self}");
        assert_eq!(self.queue.counts(), self.reference.counts(), "{self}");
    }

    fn check(&mut self, seat: usize, command: &Command, outcome: &Outcome) {
        self.log.push(format!("{seat}: {command:?} -> {outcome:?}"));
        let expected = self.reference.expect(seat, command, Some(outcome));
        assert_eq!(*outcome, expected, "{self}");
    }

    /// Ends all participants. A last one then gets all that is left.
    fn finish(mut self) {
        for seat in 0..SEATS {
            if self.threads[seat].is_some()
                && self.waiting.as_ref().is_none_or(|(waits, _)| *waits != seat)
            {
                let command = self.command_of_end(seat, Command::End).expect("it does not die");
                self.make(seat, command);
            }
        }
        self.sit_down(LAST, false);
        self.make(LAST, Command::Close);
        for seat in 0..SEATS {
            if self.threads[seat].is_some() {
                let command = self.command_of_end(seat, Command::End).expect("it does not die");
                self.make(seat, command);
            }
        }
        assert!(self.waiting.is_none(), "a close, or what comes back, wakes everybody");
        if self.setup.is_joinable {
            self.make(LAST, Command::Join);
        }
        while self.reference.foresee(LAST, &Command::Receive(Form::Try))
            != Outcome::Refused(Refusal::Closed)
        {
            self.make(LAST, Command::Receive(Form::Try));
            self.make(
                LAST,
                if self.setup.is_joinable { Command::Done(0) } else { Command::Drop(0) },
            );
        }
        self.make(LAST, Command::Receive(Form::Try));
        if self.setup.is_joinable {
            while self.reference.counts().1 != 0 {
                self.make(LAST, Command::Letter);
                self.make(LAST, Command::Drop(0));
            }
            self.make(LAST, Command::Letter);
            self.make(LAST, Command::Join);
        }
        self.make(LAST, Command::End);
        let Run { queue, leaks, .. } = self;
        drop(queue);
        leaks.free();
    }
}
