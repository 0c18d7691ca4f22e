//! The expected outcome of every command: a plain queue, and what each participant holds.

use std::collections::VecDeque;

use super::participant::{Outcome, Refusal};
use super::program::{Command, Form, Item, MAX_LEN, SEATS, Setup};

mod looks;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    item: Item,
    attempts: u32,
}

#[derive(Debug, Clone)]
enum Held {
    Loan(Item),
    /// A received item, or a dead letter: it is gone, whatever happens to it.
    Taken,
    Task(Task),
}

/// The occupant of a seat. Without an id it does not take part yet.
#[derive(Debug, Clone, Default)]
struct Participant {
    id: Option<usize>,
    held: Vec<Held>,
    leaked: Vec<Held>,
}

/// The holder of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    Nobody,
    Alive,
    /// Dead, with the tasks that it had in hand. No participant has noticed yet.
    Dead(Vec<Task>),
}

#[derive(Debug, Clone)]
struct Id {
    holder: Holder,
    /// Tasks that have come back, and that no participant has taken since.
    returned: Vec<Task>,
}

#[derive(Debug, Clone)]
pub(crate) struct Reference {
    setup: Setup,
    items: VecDeque<Task>,
    is_closed: bool,
    ids: Vec<Id>,
    /// One more than there are seats, for the end.
    seats: [Participant; SEATS + 1],
    letters: VecDeque<Task>,
}

impl Reference {
    pub(crate) fn new(setup: Setup) -> Self {
        let (items, ids, letters) = (VecDeque::new(), Vec::new(), VecDeque::new());
        Reference { setup, items, is_closed: false, ids, seats: Default::default(), letters }
    }

    /// Applies a command, and returns its expected outcome. Where there is a choice of the task
    /// that comes back first, it follows `actual`.
    pub(crate) fn expect(
        &mut self,
        seat: usize,
        command: &Command,
        actual: Option<&Outcome>,
    ) -> Outcome {
        match self.operate(seat, command, actual) {
            Ok(outcome) => outcome,
            Err(refusal) if matches!(command, Command::PutMany(..)) => Outcome::Put(0, refusal),
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    /// Returns the expected outcome of a command, were it carried out now.
    pub(crate) fn foresee(&self, seat: usize, command: &Command) -> Outcome {
        self.clone().expect(seat, command, None)
    }

    fn operate(
        &mut self,
        seat: usize,
        command: &Command,
        actual: Option<&Outcome>,
    ) -> Result<Outcome, Refusal> {
        match command {
            Command::Put(item, _) | Command::Loan(item)
                if self.setup.is_bytes && item.len() > MAX_LEN =>
            {
                return Err(Refusal::TooLong);
            }
            Command::Drop(_)
            | Command::Leak(_)
            | Command::Done(_)
            | Command::End
            | Command::Die => {}
            _ => self.attach(seat)?,
        }
        match command {
            Command::Put(item, form) => self.put(item, *form)?,
            Command::PutMany(items, form) => {
                for (put, item) in items.iter().enumerate() {
                    if let Err(refusal) = self.put(item, *form) {
                        return Ok(Outcome::Put(put, refusal));
                    }
                }
            }
            Command::Get(form) => {
                return Ok(Outcome::Got(vec![self.first(seat, *form, actual)?.item]));
            }
            Command::GetMany(most, form) => return self.get_many(seat, *most, *form),
            Command::Loan(item) => {
                self.check_places(seat)?;
                self.seats[seat].held.push(Held::Loan(item.clone()));
                return Ok(Outcome::Held(item.clone(), 0));
            }
            Command::Receive(form) => return self.receive(seat, *form, actual),
            Command::Letter => return self.letter(seat, actual),
            Command::Send(which, form) => {
                let Held::Loan(item) = self.seats[seat].held[*which].clone() else {
                    unreachable!("only loans are sent")
                };
                self.put(&item, *form)?;
                self.seats[seat].held.remove(*which);
            }
            Command::Drop(which) => {
                let held = self.seats[seat].held.remove(*which);
                self.give_back(self.seats[seat].id, tasks_of([held]));
            }
            Command::Leak(which) => {
                let held = self.seats[seat].held.remove(*which);
                self.seats[seat].leaked.push(held);
            }
            Command::Done(which) => _ = self.seats[seat].held.remove(*which),
            Command::Join => self.join(seat)?,
            Command::Close => self.is_closed = true,
            Command::End | Command::Die => self.end(seat, matches!(command, Command::Die)),
        }
        Ok(Outcome::Done)
    }

    /// Takes the first id that no living participant holds, and what its holder has left.
    fn attach(&mut self, seat: usize) -> Result<(), Refusal> {
        if self.seats[seat].id.is_some() {
            return Ok(());
        }
        let id = match self.ids.iter().position(|id| id.holder != Holder::Alive) {
            Some(id) => id,
            None if self.ids.len() == self.setup.participants => {
                return Err(Refusal::TooManyParticipants);
            }
            None => {
                self.ids.push(Id { holder: Holder::Nobody, returned: Vec::new() });
                self.ids.len() - 1
            }
        };
        self.bury(id);
        self.give_up_own(id);
        self.ids[id].holder = Holder::Alive;
        self.seats[seat].id = Some(id);
        Ok(())
    }

    /// Buries the holder of an id if it is dead, so that its tasks come back. Returns whether it
    /// was dead.
    fn bury(&mut self, id: usize) -> bool {
        let holder = &mut self.ids[id].holder;
        let Holder::Dead(tasks) = holder else { return false };
        let tasks = std::mem::take(tasks);
        *holder = Holder::Nobody;
        // Tasks that were given out too often count as letters, as far as there is room. They stay
        // where they are until a living participant comes by.
        self.ids[id].returned.extend(tasks);
        true
    }

    fn bury_all(&mut self) -> bool {
        let dead: Vec<bool> = (0..self.ids.len()).map(|id| self.bury(id)).collect();
        dead.contains(&true)
    }

    fn is_given_up(&self, task: &Task) -> bool {
        self.setup.attempts != 0 && task.attempts >= self.setup.attempts
    }

    fn give_back(&mut self, id: Option<usize>, tasks: Vec<Task>) {
        for task in tasks {
            if self.is_given_up(&task) && self.letters.len() < self.setup.letters {
                self.letters.push_back(task);
            } else if let Some(id) = id {
                self.ids[id].returned.push(task);
            }
        }
    }

    /// Moves tasks that have come back to an id to the letters, if they are given up and there is
    /// room.
    fn give_up_own(&mut self, id: usize) {
        let returned = std::mem::take(&mut self.ids[id].returned);
        self.give_back(Some(id), returned);
    }

    fn give_up_all(&mut self) {
        (0..self.ids.len()).for_each(|id| self.give_up_own(id));
    }

    fn put(&mut self, item: &Item, form: Form) -> Result<(), Refusal> {
        if self.is_closed {
            Err(Refusal::Closed)
        } else if self.items.len() == self.setup.capacity {
            Err(refusal(form, Refusal::Full))
        } else {
            self.items.push_back(Task { item: item.clone(), attempts: 0 });
            Ok(())
        }
    }

    /// Returns what a participant gets if it gets now.
    fn first(
        &mut self,
        seat: usize,
        form: Form,
        actual: Option<&Outcome>,
    ) -> Result<Task, Refusal> {
        if self.setup.is_joinable {
            self.seats[seat].id.into_iter().for_each(|id| self.give_up_own(id));
        }
        loop {
            let is_own = self.seats[seat].id.is_some_and(|id| !self.ids[id].returned.is_empty());
            if self.setup.is_joinable && !is_own {
                self.give_up_all();
            }
            let taken = self.take_returned(seat, actual).or_else(|| self.items.pop_front());
            if let Some(mut task) = taken {
                task.attempts += 1;
                return Ok(task);
            }
            let is_over = self.is_closed && !self.others_have_tasks(seat);
            if self.is_closed && !is_over && form != Form::Try && self.has_task(seat) {
                if self.bury_all() {
                    continue;
                }
                return Err(Refusal::Deadlock);
            }
            let refused = if is_over { Refusal::Closed } else { refusal(form, Refusal::Empty) };
            // A participant that finds no task looks for the dead.
            if refused == Refusal::Closed || !self.setup.is_joinable || !self.bury_all() {
                return Err(refused);
            }
        }
    }

    /// Takes one of the tasks that have come back: the one that was actually got. Of several that
    /// look the same, the participant's own comes first: this matters for the places that they are
    /// in.
    fn take_returned(&mut self, seat: usize, actual: Option<&Outcome>) -> Option<Task> {
        let is_that = |task: &Task| match actual {
            Some(Outcome::Held(item, attempts)) => {
                task.item == *item && task.attempts + 1 == *attempts
            }
            _ => true,
        };
        let any = self.ids.iter().any(|id| !id.returned.is_empty());
        let own = self.seats[seat].id.into_iter();
        let found = own.chain(0..self.ids.len()).find_map(|id| {
            let returned = &mut self.ids[id].returned;
            let at = returned.iter().position(is_that)?;
            Some(returned.remove(at))
        });
        assert!(
            !any || found.is_some(),
            "{actual:?}, and not one of those that came back: {:?}",
            self.ids
        );
        found
    }

    fn has_task(&self, seat: usize) -> bool {
        let own = self.seats[seat].held.iter().chain(&self.seats[seat].leaked);
        own.into_iter().any(|held| matches!(held, Held::Task(_)))
    }

    fn others_have_tasks(&self, seat: usize) -> bool {
        let others = self.seats.iter().enumerate().filter(|&(other, _)| other != seat);
        others
            .flat_map(|(_, other)| other.held.iter().chain(&other.leaked))
            .any(|held| matches!(held, Held::Task(_)))
            || self
                .ids
                .iter()
                .any(|id| matches!(&id.holder, Holder::Dead(tasks) if !tasks.is_empty()))
    }

    fn get_many(&mut self, seat: usize, most: usize, form: Form) -> Result<Outcome, Refusal> {
        let mut got = Vec::new();
        while got.len() < most {
            match self.first(seat, form, None) {
                Ok(task) => got.push(task.item),
                Err(refusal) if got.is_empty() => return Err(refusal),
                Err(_) => break,
            }
        }
        Ok(Outcome::Got(got))
    }

    fn count_in_hand(&self, seat: usize) -> usize {
        self.seats[seat].held.len() + self.seats[seat].leaked.len()
    }

    /// Checks that there is a place for a loan. Tasks that this participant gave back, and that no
    /// participant has taken since, still occupy places.
    fn check_places(&self, seat: usize) -> Result<(), Refusal> {
        let returned = self.seats[seat].id.map_or(0, |id| self.ids[id].returned.len());
        if self.count_in_hand(seat) + returned >= self.setup.loans {
            Err(Refusal::TooManyLoans)
        } else {
            Ok(())
        }
    }

    fn receive(
        &mut self,
        seat: usize,
        form: Form,
        actual: Option<&Outcome>,
    ) -> Result<Outcome, Refusal> {
        if self.count_in_hand(seat) >= self.setup.loans {
            return Err(Refusal::TooManyLoans);
        }
        let mut task = self.first(seat, form, actual)?;
        let item = task.item.clone();
        if !self.setup.is_joinable {
            task.attempts = 0;
        }
        let attempts = task.attempts;
        self.seats[seat].held.push(if self.setup.is_joinable {
            Held::Task(task)
        } else {
            Held::Taken
        });
        Ok(Outcome::Held(item, attempts))
    }

    fn letter(&mut self, seat: usize, actual: Option<&Outcome>) -> Result<Outcome, Refusal> {
        self.check_places(seat)?;
        if self.setup.letters == 0 {
            return Err(Refusal::Empty);
        }
        self.bury_all();
        let letter = self.first_letter(actual).ok_or(Refusal::Empty)?;
        self.seats[seat].held.push(Held::Taken);
        Ok(Outcome::Held(letter.item, letter.attempts))
    }

    /// Takes a letter. Those in the ring are in order, except those that the dead had: nothing says
    /// who moved these, and when.
    fn first_letter(&mut self, actual: Option<&Outcome>) -> Option<Task> {
        let is_that = |letter: &Task| {
            matches!(
                actual,
                Some(Outcome::Held(item, attempts))
                    if letter.item == *item && letter.attempts == *attempts
            )
        };
        if let Some(at) = self.letters.iter().position(is_that) {
            return self.letters.remove(at);
        }
        let is_one = |task: &Task| self.setup.attempts != 0 && task.attempts >= self.setup.attempts;
        let all = self.ids.iter().enumerate().flat_map(|(id, of)| {
            of.returned.iter().enumerate().map(move |(at, task)| (id, at, task))
        });
        let given_up: Vec<_> = all.filter(|(.., task)| is_one(task)).collect();
        let of_them = given_up.iter().find(|(.., task)| is_that(task)).or(given_up.first());
        let of_them = of_them
            .filter(|_| self.setup.letters != 0 && (actual.is_some() || self.letters.is_empty()));
        match of_them.map(|&(id, at, _)| (id, at)) {
            Some((id, at)) => Some(self.ids[id].returned.remove(at)),
            None => self.letters.pop_front(),
        }
    }

    fn join(&mut self, seat: usize) -> Result<(), Refusal> {
        if self.has_task(seat) {
            return Err(Refusal::Deadlock);
        }
        self.bury_all();
        // What is in its own places needs no other place.
        if let Some(own) = self.seats[seat].id {
            self.give_up_own(own);
        }
        if self.check_places(seat).is_ok() {
            self.give_up_all();
        }
        if self.returned_or_held() == 0 { Ok(()) } else { Err(Refusal::TimedOut) }
    }

    /// Ends a participant. It is the kernel's to end what was leaked, or everything if the
    /// participant dies.
    fn end(&mut self, seat: usize, dies: bool) {
        let Participant { id, held, mut leaked } = std::mem::take(&mut self.seats[seat]);
        let Some(id) = id else { return };
        if dies {
            leaked.extend(held);
        } else {
            held.into_iter().for_each(|held| self.give_back(Some(id), tasks_of([held])));
        }
        self.ids[id].holder = if dies || !leaked.is_empty() {
            Holder::Dead(tasks_of(leaked))
        } else {
            Holder::Nobody
        };
    }
}

fn refusal(form: Form, now: Refusal) -> Refusal {
    match form {
        Form::Try => now,
        Form::Zero => Refusal::TimedOut,
        Form::Long => Refusal::Blocks,
    }
}

fn tasks_of(held: impl IntoIterator<Item = Held>) -> Vec<Task> {
    let tasks = held.into_iter().filter_map(|held| match held {
        Held::Task(task) => Some(task),
        Held::Loan(_) | Held::Taken => None,
    });
    tasks.collect()
}
