//! What can happen to a key, in every order for some steps and in random orders for more. The
//! invariants hold after each step. When all has come to rest, no waiter waits without need.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::task::Waker;

use crossproc_sys::atomic::AtomicU32 as Control;
use crossproc_sys::futex::WordAddress;

use super::super::table::{After, Audience, Table, WaitList};
use super::{Calls, expecting};
use crate::reactor::stand_in::Cover;

const KEY: usize = 1;
const WAITERS: usize = 3;

/// Its address, with a version, stands for the words of the source.
static WORD: AtomicU32 = AtomicU32::new(0);

fn words(version: u32) -> [WordAddress; 1] {
    expecting(&WORD, version)
}

#[derive(Clone, Copy, Default)]
enum Doing {
    #[default]
    Nothing,
    /// The waiter has read the words, and found nothing.
    Looked(u32),
    /// The waiter is registered and waits.
    Waits,
    /// The waiter has what it wanted, and has looked on behalf of the others if it was on duty. It
    /// holds what the words were if there was no more.
    Leaves(Option<u32>),
}

#[derive(Default)]
struct Waiter {
    calls: Arc<Calls>,
    answered: usize,
    id: Option<u64>,
    /// The version when it began to wait.
    begun: u32,
    doing: Doing,
}

enum Thread {
    /// The thread has the result of its sleep: whether the key's words have changed.
    Up(bool),
    /// The thread goes to the kernel with what is armed.
    LiesDown,
    Asleep,
}

/// A source, its waiters, and the thread that sleeps for them.
struct World {
    audience: Audience,
    table: Table,
    batch: usize,
    thread: Thread,
    wait_list: WaitList,
    control: Arc<Control>,
    /// The thread was woken through the key's word, while it slept.
    is_woken: bool,
    /// The source: how often something was put, and how much there is.
    version: u32,
    there: u32,
    waiters: [Waiter; WAITERS],
}

impl World {
    fn new(audience: Audience) -> Self {
        let mut table = Table::default();
        let control = Arc::new(Control::new(0));
        let batch = table.add_batch(Arc::clone(&control));
        let (thread, wait_list) = (Thread::Up(false), WaitList::default());
        World {
            audience,
            table,
            batch,
            thread,
            wait_list,
            control,
            is_woken: false,
            version: 0,
            there: 0,
            waiters: Default::default(),
        }
    }

    /// Takes the step of this number. Returns whether it can be taken now.
    fn step(&mut self, choice: usize) -> bool {
        let done = match choice {
            0 => self.put(),
            1 => self.thread(),
            _ if choice % 2 == 0 => self.waiter(choice / 2 - 1),
            _ => self.give_up(choice / 2 - 1),
        };
        self.table.check();
        done
    }

    fn put(&mut self) -> bool {
        self.version += 1;
        self.there += u32::from(self.audience == Audience::First);
        self.is_woken |= matches!(self.thread, Thread::Asleep) && self.wait_list.words.len() > 1;
        true
    }

    fn thread(&mut self) -> bool {
        let is_kicked =
            self.control.load(std::sync::atomic::Ordering::SeqCst) != self.wait_list.control;
        let is_as_armed =
            self.wait_list.words.get(1).is_none_or(|word| *word == words(self.version)[0]);
        match self.thread {
            Thread::Up(has_changed) => {
                let mut after = After::default();
                self.table.get_up(self.batch);
                if has_changed {
                    self.table.fire(KEY, &mut after);
                }
                after.perform();
                self.table.go_to_sleep(self.batch, &mut self.wait_list);
                self.thread = Thread::LiesDown;
            }
            Thread::LiesDown if is_kicked || !is_as_armed => self.thread = Thread::Up(!is_as_armed),
            Thread::LiesDown => (self.thread, self.is_woken) = (Thread::Asleep, false),
            Thread::Asleep if is_kicked || self.is_woken => self.thread = Thread::Up(self.is_woken),
            Thread::Asleep => return false,
        }
        true
    }

    /// Returns whether there is what the waiter wants; if so, the waiter has it then.
    fn takes(&mut self, at: usize) -> bool {
        match self.audience {
            Audience::First | Audience::One => {
                self.there.checked_sub(1).map(|left| self.there = left).is_some()
            }
            Audience::All => self.version != self.waiters[at].begun,
        }
    }

    fn waiter(&mut self, at: usize) -> bool {
        let doing = self.waiters[at].doing;
        match doing {
            Doing::Nothing => {
                self.waiters[at].begun = self.version;
                if !self.takes(at) {
                    self.waiters[at].doing = Doing::Looked(self.version);
                }
            }
            Doing::Looked(version) => {
                let waiter = &mut self.waiters[at];
                let batch =
                    self.table.batch_for(KEY, 1, false).expect("there is one batch, with room");
                let waker = Waker::from(Arc::clone(&waiter.calls));
                let covers = (0..self.table.missing_covers((KEY, self.audience), Some(batch)))
                    .map(|_| Cover::default())
                    .collect();
                let (id, _, after) = self.table.arm(
                    (KEY, self.audience, false),
                    waiter.id,
                    (&words(version), covers),
                    batch,
                    waker,
                );
                (waiter.id, waiter.answered, waiter.doing) =
                    (Some(id), waiter.calls.count(), Doing::Waits);
                after.perform();
            }
            Doing::Waits if !self.is_notified(at) => return false,
            Doing::Waits if self.takes(at) => {
                let is_on_duty =
                    self.waiters[at].id.is_some_and(|id| self.table.is_on_duty(KEY, id));
                self.waiters[at].doing =
                    Doing::Leaves((is_on_duty && self.there == 0).then_some(self.version));
            }
            Doing::Waits => self.waiters[at].doing = Doing::Looked(self.version),
            Doing::Leaves(fresh) => self.leave(at, fresh),
        }
        true
    }

    fn is_notified(&self, at: usize) -> bool {
        self.waiters[at].calls.count() > self.waiters[at].answered
    }

    /// Has a waiter give up, whatever it was about to do. Returns whether it was registered.
    fn give_up(&mut self, at: usize) -> bool {
        let is_registered = self.waiters[at].id.is_some();
        if is_registered {
            self.leave(at, None);
        }
        is_registered
    }

    fn leave(&mut self, at: usize, fresh: Option<u32>) {
        let waiter = &mut self.waiters[at];
        waiter.doing = Doing::Nothing;
        if let Some(id) = waiter.id.take() {
            self.table
                .leave(KEY, id, fresh.map(words).as_ref().map(|words| &words[..]))
                .1
                .perform();
        }
    }

    /// Lets everything go on until nothing can, without newcomers.
    fn settle(mut self) {
        let may_go_on = |world: &World, choice: usize| {
            choice == 1 || !matches!(world.waiters[choice / 2 - 1].doing, Doing::Nothing)
        };
        let choices: Vec<usize> =
            (1..2 + 2 * WAITERS).filter(|&choice| choice == 1 || choice % 2 == 0).collect();
        while choices.iter().any(|&choice| may_go_on(&self, choice) && self.step(choice)) {}
        for at in 0..WAITERS {
            let waits = self.waiters[at].id.is_some();
            assert!(!waits || !self.takes(at), "{at} waits, and need not");
        }
        for at in 0..WAITERS {
            self.give_up(at);
        }
        assert_eq!(self.table.census().0, 0);
    }
}

/// Tries every order of `steps` steps, after some waiters have begun to wait.
fn every_order(audience: Audience, waiting: usize, steps: u32) {
    let choices = 2 + 2 * WAITERS;
    let mut script = vec![0; steps as usize];
    loop {
        let mut world = World::new(audience);
        (0..waiting).for_each(|at| {
            world.waiter(at);
            world.waiter(at);
        });
        for _ in 0..3 {
            world.thread();
        }
        let impossible = script.iter().position(|&choice| !world.step(choice));
        if impossible.is_none() {
            world.settle();
        }
        // The next order that begins differently: an impossible step is the last one that counts.
        let last = impossible.unwrap_or(script.len() - 1);
        script[last + 1..].fill(0);
        let Some(at) = (0..=last).rev().find(|&at| script[at] + 1 < choices) else { return };
        script[at] += 1;
        script[at + 1..].fill(0);
    }
}

#[test]
fn every_order_of_some_steps_for_the_first() {
    every_order(Audience::First, 0, 6);
    every_order(Audience::First, 2, 6);
    every_order(Audience::First, 3, 6);
}

#[test]
fn every_order_of_some_steps_for_all() {
    every_order(Audience::All, 0, 6);
    every_order(Audience::All, 2, 6);
}

#[test]
fn many_random_orders_of_many_steps() {
    for seed in 0..20_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new(if seed % 2 == 0 { Audience::First } else { Audience::All });
        for _ in 0..random.usize(..60) {
            world.step(random.usize(..2 + 2 * WAITERS));
        }
        world.settle();
    }
}
