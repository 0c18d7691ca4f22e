//! What can be seen of the expected state, and counted of it.

use super::{Held, Holder, Reference};

impl Reference {
    /// Returns how many tasks that have come back count as letters.
    fn count_letters_to_come(&self) -> usize {
        let given_up = self
            .ids
            .iter()
            .flat_map(|id| &id.returned)
            .filter(|task| self.is_given_up(task))
            .count();
        given_up.min(self.setup.letters - self.letters.len())
    }

    /// Returns how many tasks are to become letters, or are letters.
    pub(crate) fn count_given_up(&self) -> usize {
        self.letters.len()
            + self
                .ids
                .iter()
                .flat_map(|id| &id.returned)
                .filter(|task| self.is_given_up(task))
                .count()
    }

    /// Returns whether a task in hand becomes a letter once it is given back.
    pub(crate) fn holds_given_up(&self, seat: usize, which: usize) -> bool {
        matches!(&self.seats[seat].held[which], Held::Task(task) if self.is_given_up(task))
    }

    /// Returns what can be seen without taking part: the length, and whether the queue is empty,
    /// full and closed.
    pub(crate) fn looks(&self) -> (usize, bool, bool, bool) {
        let len = self.items.len();
        (len, len == 0, len == self.setup.capacity, self.is_closed)
    }

    /// Returns how many tasks are unfinished, and how many dead letters there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        if !self.setup.is_joinable {
            return (0, 0);
        }
        let in_hand = self.seats.iter().flat_map(|seat| seat.held.iter().chain(&seat.leaked));
        let in_hand = in_hand.filter(|held| matches!(held, Held::Task(_))).count();
        let left = self.ids.iter().map(|id| match &id.holder {
            Holder::Dead(tasks) => tasks.len() + id.returned.len(),
            Holder::Nobody | Holder::Alive => id.returned.len(),
        });
        let to_come = self.count_letters_to_come();
        (self.items.len() + in_hand + left.sum::<usize>() - to_come, self.letters.len() + to_come)
    }

    /// Returns how many tasks a join waits for.
    pub(super) fn returned_or_held(&self) -> usize {
        self.counts().0 + self.count_letters_to_come()
    }

    pub(crate) fn takes_part(&self, seat: usize) -> bool {
        self.seats[seat].id.is_some()
    }

    /// Returns whether a participant has died unnoticed, or will be dead to the others when it
    /// ends.
    pub(crate) fn leaves_dead(&self) -> bool {
        self.ids.iter().any(|id| matches!(id.holder, Holder::Dead(_)))
            || self.seats.iter().any(|seat| !seat.leaked.is_empty())
    }

    /// Returns the indices of the loans in a participant's hand. The functions below do so for
    /// tasks, and for everything.
    pub(crate) fn loans(&self, seat: usize) -> Vec<usize> {
        self.places(seat, |held| matches!(held, Held::Loan(_)))
    }

    pub(crate) fn tasks(&self, seat: usize) -> Vec<usize> {
        self.places(seat, |held| matches!(held, Held::Task(_)))
    }

    pub(crate) fn held(&self, seat: usize) -> Vec<usize> {
        self.places(seat, |_| true)
    }

    fn places(&self, seat: usize, is_one: impl Fn(&Held) -> bool) -> Vec<usize> {
        let held = self.seats[seat].held.iter().enumerate();
        held.filter(|(_, held)| is_one(held)).map(|(at, _)| at).collect()
    }
}
