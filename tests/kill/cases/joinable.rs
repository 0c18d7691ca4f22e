//! `JoinableQueue`.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use core::time::Duration;
use std::thread;

use crossproc::{JoinableQueue, QueueError, QueueOptions, Task};

use self::checks::check;
use self::operations::{
    closing, finishing, getting, giving_back, giving_up, joining, looking_for_the_end, taken,
    taking_a_letter, trying_to_get, trying_to_put,
};
use self::peers::{adopting, beside_a_peer};
use self::sleepers::{blocked, waking};
use super::queue_words::{Stage, Words};
use super::{WAKER_STOPPED, warm_up};
use crate::harness::{Case, Fate, Mode, Moment, Operation, Subject};

pub(super) mod checks;
pub(super) mod companions;
pub(super) mod operations;
mod peers;
mod sleepers;

/// The numbers of those that put.
pub(super) const BEFORE: usize = 0;
pub(super) const VICTIM: usize = 1;
pub(super) const PEER: usize = 2;
const COMPANION: usize = 6;
pub(super) const SURVIVOR: usize = 10;
const JUDGE: usize = 12;
const ALL: usize = 13;

/// The most tasks of each.
const EACH: usize = 128;
/// The most rounds without an end: more are no progress.
const MOST_ROUNDS: usize = 10_000;
/// How often a survivor checks whether all is done, since a stopped process may hold a task.
const MOST_LOOKS: usize = 20;
const PARTICIPANTS: usize = 12;

/// What is known of a task.
struct Account {
    /// The TID of the process that has it in hand.
    holder: AtomicU32,
    /// Whether a process was about to report it done.
    is_doing: AtomicU32,
    /// How often it was reported done.
    done: AtomicU32,
}

/// The queue, and an account of it. A task consists of its producer and its number among that
/// producer's tasks.
pub(super) struct Board {
    pub(super) queue: JoinableQueue<u64>,
    pub(super) words: Words,
    put: [AtomicU64; ALL],
    tasks: [[Account; EACH]; ALL],
    /// The task that the operation under test ends, plus 1.
    victims: AtomicU64,
    /// How many companions wait for a task, or until all is done, and have not come to their ends.
    waiting: AtomicU32,
    joining: AtomicU32,
    /// How many companions wait for a dead letter.
    watching: AtomicU32,
    rounds: AtomicU32,
    pub(super) flag: AtomicU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// A task: each process that gets one puts one.
    Task,
    /// Nothing that is not done.
    Nothing,
    Closed,
}

impl Board {
    fn new(capacity: usize, attempts: u32) -> Self {
        Board::among(PARTICIPANTS, capacity, attempts)
    }

    pub(super) fn among(participants: usize, capacity: usize, attempts: u32) -> Self {
        let options =
            QueueOptions::new().participants(participants).attempts(NonZeroU32::new(attempts), 2);
        let queue = options.create_joinable(capacity).expect("there is memory");
        let account = || Account {
            holder: AtomicU32::new(0),
            is_doing: AtomicU32::new(0),
            done: AtomicU32::new(0),
        };
        Board {
            words: Words::of(&queue),
            queue,
            put: [const { AtomicU64::new(0) }; ALL],
            tasks: core::array::from_fn(|_| core::array::from_fn(|_| account())),
            victims: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            joining: AtomicU32::new(0),
            watching: AtomicU32::new(0),
            rounds: AtomicU32::new(0),
            flag: AtomicU32::new(0),
        }
    }

    fn item(&self, who: usize) -> u64 {
        (who as u64) << 32 | self.put[who].load(SeqCst)
    }

    fn account(&self, item: u64) -> &Account {
        &self.tasks[(item >> 32) as usize][item as u32 as usize]
    }

    pub(super) fn try_put(&self, who: usize) -> bool {
        self.after_put(who, self.queue.try_put(self.item(who)).map_err(|refused| refused.error))
    }

    fn after_put(&self, who: usize, result: Result<(), QueueError>) -> bool {
        match result {
            Ok(()) => {
                self.put[who].fetch_add(1, SeqCst);
                true
            }
            Err(QueueError::Full | QueueError::Closed) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Notes which process holds the task. No other process may hold it, unless that process is
    /// dead.
    pub(super) fn hold<'a>(
        &self,
        task: Result<Task<'a, u64>, QueueError>,
    ) -> Option<Task<'a, u64>> {
        let task = match task {
            Ok(task) => task,
            Err(QueueError::Empty | QueueError::Closed) => return None,
            Err(error) => panic!("{error}"),
        };
        // SAFETY: no arguments.
        let me = unsafe { libc::getpid() };
        let other = self.account(*task).holder.swap(me as u32, SeqCst);
        // SAFETY: sends nothing.
        let is_alive = other != 0 && unsafe { libc::kill(other as i32, 0) } == 0;
        assert!(!is_alive, "{:#x} is in the hands of {other} and {me}", *task);
        Some(task)
    }

    fn let_go(&self, task: &Task<'_, u64>) {
        self.account(**task).holder.store(0, SeqCst);
    }

    pub(super) fn finish(&self, task: Task<'_, u64>) {
        let account = self.account(*task);
        self.let_go(&task);
        account.is_doing.store(1, SeqCst);
        task.done();
        account.done.fetch_add(1, SeqCst);
    }

    fn try_work(&self) -> bool {
        self.hold(self.queue.try_get()).map(|task| self.finish(task)).is_some()
    }

    fn drain(&self) -> usize {
        (0..MOST_ROUNDS).take_while(|_| self.try_work()).count()
    }

    pub(super) fn take_part(&self) {
        warm_up();
        drop(self.queue.loan().expect("there are few participants"));
    }

    fn go_round(&self, who: usize) {
        let most = 2 * self.queue.capacity();
        let (mut puts, mut gets) = (0, 0);
        for _ in 0..MOST_ROUNDS {
            if self.queue.is_closed() {
                self.drain();
                return;
            }
            puts += usize::from((puts < most || self.queue.is_empty()) && self.try_put(who));
            gets += usize::from(self.try_work());
            // Others may get whatever this process puts, each time, if they are awake at the same
            // time.
            if puts >= most && (gets >= most || puts == EACH / 2) {
                return;
            }
        }
        panic!("no progress: {puts} puts, {gets} gets");
    }

    /// Returns how many tasks no process has been about to finish.
    fn outstanding(&self) -> usize {
        let of = |who: usize| {
            (0..self.put[who].load(SeqCst) as usize)
                .filter(move |&number| self.tasks[who][number].is_doing.load(SeqCst) == 0)
        };
        (0..ALL).map(|who| of(who).count()).sum()
    }
}

/// Returns a case whose queue has gone round by `shift` puts and gets, and then has `items` tasks.
fn case_with(
    name: &str,
    capacity: usize,
    shift: usize,
    items: usize,
    attempts: u32,
    leaves: Leaves,
) -> Case<Board> {
    let name = format!("joinable: {name} [{items} of {capacity}]");
    Case::new(name, move || Board::new(capacity, attempts))
        .before(move |board| {
            for _ in 0..shift {
                board.try_put(BEFORE);
                board.try_work();
            }
            (0..items).for_each(|_| assert!(board.try_put(BEFORE), "there is room"));
        })
        .survivor(move |board, me| {
            board.go_round(SURVIVOR + me.index);
            board.rounds.fetch_add(1, SeqCst);
            if me.index == 0 {
                while board.rounds.load(SeqCst) < 2 {
                    thread::yield_now();
                }
                leave(board, leaves);
            }
        })
        .may_wait(may_wait)
        .check(check)
}

fn case(name: &str, capacity: usize, items: usize, leaves: Leaves) -> Case<Board> {
    case_with(name, capacity, capacity + 1, items, 0, leaves)
}

fn leave(board: &Board, leaves: Leaves) {
    match leaves {
        Leaves::Task => {
            board.try_put(SURVIVOR);
        }
        Leaves::Nothing => {
            for _ in 0..MOST_LOOKS {
                board.drain();
                if board.queue.join_timeout(Duration::ZERO).is_ok() {
                    break;
                }
                thread::yield_now();
            }
        }
        Leaves::Closed => {
            board.queue.close().expect("a participant");
            while let Some(task) = board.hold(board.queue.get()) {
                board.finish(task);
            }
        }
    }
}

fn may_wait(board: &Board, now: &Moment) -> bool {
    let outstanding = board.outstanding();
    let places = || {
        (0..board.words.used()).flat_map(|id| (0..4).map(move |place| board.words.place(id, place)))
    };
    let has_returned = places().any(|word| word & super::queue_words::RETURNED != 0);
    let has_task = places().any(|word| word & super::queue_words::TASK != 0);
    // A stopped process counts as having given its task back only once it has announced so.
    let is_available = board.words.has_item()
        || has_returned && (!now.is_stopped || board.words.tells_of_returned());
    let joiners_may = board.joining.load(SeqCst) == 0
        || outstanding > 0
        || is_available
        || has_task
        || has_returned
        || board.words.has_any_come_to(Stage::Announced);
    let is_unfinished = outstanding > 0 && !now.is_stopped;
    let getters_may = board.waiting.load(SeqCst) == 0
        || !is_available && !is_unfinished && (!board.queue.is_closed() || now.is_stopped);
    let watchers_may = board.watching.load(SeqCst) == 0 || board.queue.dead_letters() == 0;
    // A survivor may wait for what the stopped process has in hand.
    joiners_may && getters_may && watchers_may
}

type Operate = fn(&Board, &Operation, usize);

pub(super) fn victim(case: Case<Board>, operate: Operate) -> Case<Board> {
    case.victim(move |board, operation| {
        board.take_part();
        operate(board, operation, VICTIM);
    })
}

fn known(case: Case<Board>) -> Box<dyn Subject> {
    Box::new(case.known_strand(Mode::Stop, WAKER_STOPPED))
}

pub(crate) fn cases() -> Vec<Box<dyn Subject>> {
    [alone(), waking(), blocked(), beside_a_peer(), adopting()].into_iter().flatten().collect()
}

fn alone() -> Vec<Box<dyn Subject>> {
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    for (capacity, items) in [(1, 1), (2, 1), (3, 3)] {
        let mut add = |name: &str, leaves: Leaves, operate: Operate| {
            cases.push(Box::new(victim(case(name, capacity, items, leaves), operate)));
        };
        add("try_put", Leaves::Nothing, trying_to_put);
        add("get", Leaves::Task, getting);
        add("done", Leaves::Nothing, finishing);
        add("drop", Leaves::Nothing, giving_back);
        add("join_timeout(0)", Leaves::Nothing, looking_for_the_end);
        add("close", Leaves::Nothing, closing);
    }
    cases.push(Box::new(victim(case("join", 2, 0, Leaves::Nothing), joining)));
    cases.push(Box::new(victim(case("try_get", 2, 0, Leaves::Nothing), trying_to_get)));
    // A task that came back.
    let returned = |name: &str, capacity: usize, items: usize| {
        case(name, capacity, items, Leaves::Task).peer(
            Fate::Stops,
            |board, operation| {
                board.take_part();
                let task = taken(board, PEER);
                operation.step(|| {
                    drop(task);
                    board.flag.store(1, SeqCst);
                });
            },
            |board| board.flag.load(SeqCst) == 1,
        )
    };
    cases.push(Box::new(victim(returned("get, one came back", 2, 1), getting)));
    cases.push(Box::new(victim(returned("get, one came back, there are more", 2, 2), getting)));
    cases.push(Box::new(victim(
        returned("join_timeout(0), one came back", 2, 1),
        looking_for_the_end,
    )));
    // Dead letters.
    cases.push(Box::new(victim(
        case_with("drop, the last attempt", 2, 3, 1, 1, Leaves::Nothing),
        giving_up,
    )));
    let with_letter = case_with("dead_letter", 2, 3, 1, 1, Leaves::Nothing);
    cases.push(Box::new(with_letter.victim(|board, operation| {
        board.take_part();
        drop(taken(board, PEER));
        // The letter is lost if the victim is killed with it.
        board.victims.store(board.put[BEFORE].load(SeqCst), SeqCst);
        taking_a_letter(board, operation, VICTIM);
    })));
    cases
}
