//! [`Ledger`]: what the parent has received for each task.

use std::collections::BTreeMap;

use crate::listing::Files;
use crate::reader::Flaw;
use crate::results::{Receiver, Senseless, Whole};
use crate::sheet::Sheet;
use crate::task::Tasks;

/// Which tasks are counted, and their sum. A task may be done more than once. Only its first whole
/// result counts.
pub(crate) struct Ledger {
    receiver: Receiver,
    is_counted: Vec<bool>,
    counted: u32,
    /// The tasks that were given up, and how often they were tried. A late result still counts.
    given_up: BTreeMap<u32, u32>,
    total: Sheet,
}

impl Ledger {
    pub(crate) fn new(tasks: &Tasks, slots: usize, has_words: bool) -> Self {
        let is_counted = vec![false; tasks.len() as usize];
        Ledger {
            receiver: Receiver::new(slots),
            is_counted,
            counted: 0,
            given_up: BTreeMap::new(),
            total: Sheet::new(has_words),
        }
    }

    /// Returns how many tasks need nothing more: they are counted or given up.
    pub(crate) fn settled(&self) -> u32 {
        self.counted + self.given_up.len() as u32
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled() as usize == self.is_counted.len()
    }

    /// Takes in a worker's message.
    pub(crate) fn take(&mut self, message: &[u8]) -> Result<(), Senseless> {
        let Some(Whole { task, bytes }) = self.receiver.take(message)? else { return Ok(()) };
        let is_counted = self.is_counted.get_mut(task as usize).ok_or(Senseless)?;
        if !std::mem::replace(is_counted, true) {
            self.total.add(&bytes).ok_or(Senseless)?;
            self.given_up.remove(&task);
            self.counted += 1;
        }
        Ok(())
    }

    pub(crate) fn give_up(&mut self, task: u32, attempts: u32) {
        // The last worker may have died after it sent the result.
        if !self.is_counted[task as usize] {
            self.given_up.insert(task, attempts);
        }
    }

    /// Returns the sum, and the files that were not counted to the end, in order, each once.
    pub(crate) fn close(self, tasks: &Tasks, files: &Files) -> (Sheet, Vec<(usize, Flaw)>) {
        let mut flaws = self.total.flaws.clone();
        for (&task, &attempts) in &self.given_up {
            flaws.extend(tasks.get(task).chunks().map(|chunk| (chunk, Flaw::GivenUp(attempts))));
        }
        flaws.sort_unstable_by_key(|&(chunk, _)| chunk);
        let mut flawed: Vec<(usize, Flaw)> =
            flaws.into_iter().map(|(chunk, flaw)| (files.part(chunk).file, flaw)).collect();
        flawed.dedup_by_key(|&mut (file, _)| file);
        (self.total, flawed)
    }
}
