//! The printed form of a failure's steps.

use core::hash::Hash;
use core::ptr;

use super::calls::{Action, Change, WordId};
use super::scripts::Scripts;
use super::state::{Event, State, Status};

impl<S, P: Clone + Eq + Hash> Scripts<S, P> {
    /// Returns a word's name: its offset in what is shared.
    fn word(&self, word: WordId) -> String {
        let address = self.places()[usize::from(word)].address;
        let offset = address.wrapping_sub(ptr::from_ref(&*self.shared).addr());
        if offset < size_of::<S>() { format!("[{offset}]") } else { format!("[word {word}]") }
    }

    /// Describes what is about to happen to a thread.
    pub(super) fn describe(&self, state: &State, thread: usize, event: Event) -> String {
        let moment = self.moment(state, thread);
        let what: String = match (event, state.threads[thread].status) {
            (Event::Kill, _) => "is killed".into(),
            (Event::Stop, _) => "is stopped for ever".into(),
            (Event::TimeOut, Status::Awake) => "looks at the clock: its time is over".into(),
            (Event::TimeOut, _) => "wakes up: its time is over".into(),
            (Event::Step, Status::Woken(place)) => format!("wakes up through its word {place}"),
            (Event::Step, Status::Dying(entry)) if entry % 2 == 1 => {
                "the kernel wakes one for it".into()
            }
            (Event::Step, Status::Dying(_)) => "the kernel goes on with its end".into(),
            _ => moment.action.as_ref().map_or_else(
                || "has finished".into(),
                |action| self.describe_action(state, action),
            ),
        };
        format!("thread {thread}, operation {}: {what}", moment.done())
    }

    fn describe_action(&self, state: &State, action: &Action) -> String {
        let places = self.places();
        let seen = |word: WordId| state.words.get(places, word);
        match action {
            Action::Load(word) => format!("loads {}: {:#x}", self.word(*word), seen(*word)),
            Action::Change(word, change, operand) => {
                let name = match change {
                    Change::Store => "stores",
                    Change::Swap => "swaps",
                    Change::Add => "adds",
                    Change::And => "ands",
                    Change::Or => "ors",
                };
                format!("{name} {operand:#x} at {}: it was {:#x}", self.word(*word), seen(*word))
            }
            Action::CompareExchange { word, current, new } if seen(*word) == *current => {
                format!("exchanges {current:#x} for {new:#x} at {}", self.word(*word))
            }
            Action::CompareExchange { word, current, new } => {
                format!(
                    "does not exchange {current:#x} for {new:#x} at {}: it is {:#x}",
                    self.word(*word),
                    seen(*word)
                )
            }
            Action::Wait { watched, has_deadline } => {
                let words: Vec<_> = watched
                    .iter()
                    .map(|watched| format!("{} = {:#x}", self.word(watched.word), watched.expected))
                    .collect();
                let sleeps = if state.words.are_expected(places, watched) {
                    "sleeps"
                } else {
                    "does not sleep"
                };
                format!(
                    "{sleeps} on {}{}",
                    words.join(", "),
                    if *has_deadline { ", with a deadline" } else { "" }
                )
            }
            Action::Wake(word, count) => format!("wakes {count} on {}", self.word(*word)),
            Action::Clock => "looks at the clock".into(),
            Action::Private(what) => format!("{what:?} (its list)"),
        }
    }

    /// Describes the words and the threads.
    pub(super) fn describe_state(&self, state: &State) -> String {
        let places = self.places();
        let words: Vec<_> = (0..places.len() as WordId)
            .map(|word| format!("{} = {:#x}", self.word(word), state.words.get(places, word)))
            .collect();
        let threads = state.threads.iter().take(self.scripts.len()).enumerate();
        let threads: Vec<_> = threads
            .map(|(thread, at)| {
                format!(
                    "thread {thread} {:?} in operation {}",
                    at.status,
                    self.moment(state, thread).done()
                )
            })
            .collect();
        format!("{}; {}", words.join(", "), threads.join(", "))
    }
}
