//! A state of an exploration, and how a step changes it: the words, the futexes' queues, and the
//! kernel's work at a thread's end.

use core::hash::Hash;

use super::MAX_THREADS;
use super::calls::{Action, WordId, Words, awake, time};
use super::scripts::{Failure, Moment, MomentId, Scripts};
use crate::robust::{OWNER_DIED, TID_MASK, WAITERS};

/// The status of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It has not begun: another thread must die first.
    Unborn,
    Awake,
    Asleep,
    /// Woken through the word at this place. It is still in the queues of its other words.
    Woken(u8),
    /// The kernel's progress at its end: twice the index of the [next item](Last), plus 1 if the
    /// kernel is about to wake a waiter for that item.
    Dying(u8),
    Dead,
    /// Stopped for ever: it never runs again, and no thread is told.
    Stopped,
}

/// An item of the kernel's work at a thread's end.
#[derive(Debug, Clone, Copy)]
enum Last {
    /// The kernel looks at the pending word of a thread that stands in for this one. This thread's
    /// TID means nothing there.
    StandIn(WordId),
    /// The kernel takes the thread out of the queues, if that was not done at once.
    Leave,
    /// The kernel looks at something that the thread holds.
    Held(WordId),
    /// The kernel looks at the pending word.
    Pending(WordId),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    pub(crate) moment: MomentId,
    pub(crate) status: Status,
}

/// A thread that sleeps on a word, and the place of that word among those it sleeps on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sleeper {
    word: WordId,
    thread: u8,
    place: u8,
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) words: Words,
    pub(crate) threads: [At; MAX_THREADS],
    /// Sorted by word; the sleepers on one word are in the order in which they went to sleep.
    queues: Vec<Sleeper>,
    pub(crate) kills: u32,
    pub(crate) stops: u32,
}

/// What can happen to a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Step,
    TimeOut,
    Kill,
    Stop,
}

pub(crate) const EVENTS: [Event; 4] = [Event::Step, Event::TimeOut, Event::Kill, Event::Stop];

/// The greatest numbers of kills and stops.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) kills: u32,
    pub(crate) stops: u32,
}

impl State {
    pub(crate) fn new(words: Words) -> Self {
        State {
            words,
            threads: [At { moment: 0, status: Status::Dead }; MAX_THREADS],
            queues: Vec::new(),
            kills: 0,
            stops: 0,
        }
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        let of_threads = self.threads.iter().map(|place| {
            let status = match place.status {
                Status::Unborn => 0,
                Status::Awake => 1,
                Status::Asleep => 2,
                Status::Dead => 3,
                Status::Stopped => 4,
                Status::Woken(at) => 0x100 | u64::from(at),
                Status::Dying(entry) => 0x200 | u64::from(entry),
            };
            u64::from(place.moment) << 32 | status
        });
        let of_queues = self.queues.iter().map(|asleep| {
            u64::from(asleep.word) << 32 | u64::from(asleep.thread) << 16 | u64::from(asleep.place)
        });
        let counts =
            [u64::from(self.kills) | u64::from(self.stops) << 32, self.queues.len() as u64];
        of_threads
            .chain(counts)
            .chain(of_queues)
            .chain(self.words.changed().iter().copied())
            .fold(0, mix)
    }

    fn enqueue(&mut self, sleeper: Sleeper) {
        let behind = self.queues.partition_point(|other| other.word <= sleeper.word);
        self.queues.insert(behind, sleeper);
    }

    fn unqueue(&mut self, thread: usize) {
        self.queues.retain(|asleep| usize::from(asleep.thread) != thread);
    }

    fn is_queued(&self, thread: usize) -> bool {
        self.queues.iter().any(|asleep| usize::from(asleep.thread) == thread)
    }

    /// Wakes the first `count` threads asleep on a word. A thread that was woken through another
    /// word and has not run since counts, too.
    fn wake(&mut self, word: WordId, count: u32) -> u32 {
        let first = self.queues.partition_point(|asleep| asleep.word < word);
        let all = self.queues[first..].iter().take_while(|asleep| asleep.word == word).count();
        let count = all.min(count as usize);
        for Sleeper { thread, place, .. } in self.queues.drain(first..first + count) {
            let status = &mut self.threads[usize::from(thread)].status;
            *status = match *status {
                // The dying thread takes the wake-up with it.
                Status::Dying(next) => Status::Dying(next),
                Status::Woken(before) => Status::Woken(before.max(place)),
                _ => Status::Woken(place),
            };
        }
        count as u32
    }
}

/// MurmurHash3's finaliser: one to one in `value` for each `hash`, and in `hash` for each `value`.
pub(super) fn mix(hash: u64, value: u64) -> u64 {
    let mut mixed = hash.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ value;
    mixed = (mixed ^ mixed >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33
}

impl<S, P: Clone + Eq + Hash> Scripts<S, P> {
    pub(super) fn start(&mut self) -> Result<State, Failure> {
        let (words, first) = self.prepare()?;
        let mut state = State::new(words);
        for (index, moment) in first.into_iter().enumerate() {
            let status =
                if self.scripts[index].after.is_some() { Status::Unborn } else { Status::Awake };
            state.threads[index] = At { moment, status };
        }
        Ok(state)
    }

    pub(super) fn moment(&self, state: &State, thread: usize) -> &Moment<P> {
        &self.moments[state.threads[thread].moment as usize]
    }

    /// Returns whether `event` can happen to the thread.
    pub(super) fn can(&self, state: &State, thread: usize, event: Event, most: Limits) -> bool {
        let status = state.threads[thread].status;
        let action = &self.moment(state, thread).action;
        match event {
            Event::Step => match status {
                Status::Awake => action.is_some(),
                Status::Woken(_) | Status::Dying(_) => true,
                Status::Unborn | Status::Asleep | Status::Dead | Status::Stopped => false,
            },
            Event::TimeOut => match status {
                Status::Asleep => matches!(action, Some(Action::Wait { has_deadline: true, .. })),
                Status::Awake => matches!(action, Some(Action::Clock)),
                _ => false,
            },
            Event::Kill => {
                let is_alive = matches!(status, Status::Awake | Status::Asleep | Status::Woken(_));
                let is_killable = self.scripts[thread]
                    .killable_from
                    .is_some_and(|first| self.moment(state, thread).done() >= first);
                is_alive && is_killable && state.kills < most.kills
            }
            // Not a thread that has been woken and has not yet acted on it.
            Event::Stop => {
                status == Status::Awake
                    && action.is_some()
                    && self.scripts[thread].is_stoppable
                    && state.stops < most.stops
            }
        }
    }

    /// Returns whether the thread's next step, and its timing, are invisible to all other threads.
    pub(super) fn is_private(&self, state: &State, thread: usize) -> bool {
        match state.threads[thread].status {
            Status::Awake => matches!(self.moment(state, thread).action, Some(Action::Private(_))),
            Status::Woken(_) => !state.is_queued(thread),
            _ => false,
        }
    }

    /// Lets `event` happen to the thread.
    pub(super) fn happen(
        &mut self,
        state: &mut State,
        thread: usize,
        event: Event,
    ) -> Result<(), Failure> {
        let status = state.threads[thread].status;
        match (event, status) {
            (Event::Kill, _) => {
                state.kills += 1;
                match self.scripts[thread].process {
                    None => {
                        state.unqueue(thread);
                        self.walk(state, thread, 0);
                    }
                    Some(process) => self.kill(state, process),
                }
            }
            (Event::Stop, _) => {
                state.stops += 1;
                state.threads[thread].status = Status::Stopped;
            }
            (Event::TimeOut, Status::Awake) => self.proceed(state, thread, time::LATE)?,
            (Event::TimeOut, _) => {
                state.unqueue(thread);
                self.proceed(state, thread, awake::TIMED_OUT)?;
            }
            (Event::Step, Status::Woken(place)) => {
                state.unqueue(thread);
                self.proceed(state, thread, awake::WOKEN + u64::from(place))?;
            }
            (Event::Step, Status::Dying(next)) => self.walk_on(state, thread, next),
            (Event::Step, _) => self.act(state, thread)?,
        }
        Ok(())
    }

    fn proceed(&mut self, state: &mut State, thread: usize, result: u64) -> Result<(), Failure> {
        let moment = self.after(state.threads[thread].moment, result)?;
        state.threads[thread] = At { moment, status: Status::Awake };
        Ok(())
    }

    fn act(&mut self, state: &mut State, thread: usize) -> Result<(), Failure> {
        let places = self.places();
        let Some(action) = &self.moments[state.threads[thread].moment as usize].action else {
            return Ok(());
        };
        let result = match action {
            Action::Wait { watched, .. } if state.words.are_expected(places, watched) => {
                for (place, watched) in watched.iter().enumerate() {
                    state.enqueue(Sleeper {
                        word: watched.word,
                        thread: thread as u8,
                        place: place as u8,
                    });
                }
                state.threads[thread].status = Status::Asleep;
                return Ok(());
            }
            Action::Wait { .. } => awake::CHANGED,
            Action::Wake(word, count) => state.wake(*word, *count).into(),
            Action::Clock => time::EARLY,
            Action::Private(_) => 0,
            _ => state.words.access(places, action).unwrap_or(0),
        };
        self.proceed(state, thread, result)
    }

    /// Kills all threads of a process.
    fn kill(&self, state: &mut State, process: usize) {
        for thread in
            (0..self.scripts.len()).filter(|&thread| self.scripts[thread].process == Some(process))
        {
            if matches!(
                state.threads[thread].status,
                Status::Awake | Status::Asleep | Status::Woken(_)
            ) {
                self.walk(state, thread, 0);
            }
        }
    }

    /// Returns the item `index` of the kernel's work at a thread's end.
    fn last(&self, state: &State, thread: usize, index: u8) -> Option<Last> {
        let walked = &self.moment(state, thread).walked;
        let stand_ins = walked.lent.iter().copied().map(Last::StandIn);
        let own =
            walked.held.iter().copied().map(Last::Held).chain(walked.pending.map(Last::Pending));
        stand_ins.chain([Last::Leave]).chain(own).nth(usize::from(index))
    }

    fn walk(&self, state: &mut State, thread: usize, next: u8) {
        let last = self.last(state, thread, next / 2);
        if matches!(last, Some(Last::Leave)) && !state.is_queued(thread) {
            return self.walk(state, thread, next + 2);
        }
        if last.is_some() {
            state.threads[thread].status = Status::Dying(next);
            return;
        }
        // What it did in its last operation is forgotten.
        let moment = self.moment(state, thread).first;
        state.threads[thread] = At { moment, status: Status::Dead };
        for (place, script) in state.threads.iter_mut().zip(&self.scripts) {
            if script.after == Some(thread) && place.status == Status::Unborn {
                place.status = Status::Awake;
            }
        }
    }

    /// Takes one step of the kernel's work at a thread's end. For an entry it is a part of
    /// `handle_futex_death`: the kernel marks the word, or wakes a sleeper on it.
    fn walk_on(&self, state: &mut State, thread: usize, next: u8) {
        let last = self.last(state, thread, next / 2).expect("the walk is not over");
        let (word, may_be_free, may_be_owned) = match last {
            Last::Leave => {
                state.unqueue(thread);
                return self.walk(state, thread, next + 2);
            }
            Last::StandIn(word) => (word, true, false),
            Last::Held(word) => (word, false, true),
            Last::Pending(word) => (word, true, true),
        };
        if next % 2 == 1 {
            state.wake(word, 1);
            return self.walk(state, thread, next + 1);
        }
        let places = self.places();
        let seen = state.words.get(places, word);
        let owner = seen as u32 & TID_MASK;
        let mut wakes = owner == 0 && may_be_free;
        if owner == thread as u32 + 1 && may_be_owned {
            assert!(
                places[usize::from(word)].bits == u64::from(u32::MAX),
                "the low half of a 64-bit state is taken for a lock's word"
            );
            wakes = seen as u32 & WAITERS != 0;
            state.words.set(places, word, u64::from(seen as u32 & WAITERS | OWNER_DIED));
        }
        self.walk(state, thread, next + if wakes { 1 } else { 2 });
    }
}
