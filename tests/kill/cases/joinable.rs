//! `JoinableQueue`.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use core::time::Duration;
use std::os::fd::AsFd;
use std::thread;

use crossproc::{JoinableQueue, QueueError, QueueOptions, Task};

use super::queue_words::{Stage, Words};
use super::{WAKER_STOPPED, warm_up};
use crate::harness::{Case, End, Fate, Me, Mode, Moment, Operation, Subject};

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
    /// How many companions wait for a task, or for a join, and have not come to their ends.
    waiting: AtomicU32,
    joining: AtomicU32,
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
    // A survivor may wait for what the stopped process has in hand.
    joiners_may && getters_may
}

pub(super) fn check(board: &Board, end: &End) -> Result<(), String> {
    let all: Vec<JoinableQueue<u64>> = (0..board.words.used())
        .map(|_| {
            let file =
                board.queue.as_fd().try_clone_to_owned().expect("there are descriptors left");
            let queue: JoinableQueue<u64> = JoinableQueue::attach(file).expect("it is a queue");
            drop(queue.loan().expect("nobody else takes part"));
            queue
        })
        .collect();
    drop(all);
    board.drain();
    while let Ok(letter) = board.queue.dead_letter() {
        board.account(*letter).done.fetch_add(1, SeqCst);
    }
    if let Err(error) = board.queue.join_timeout(Duration::ZERO) {
        return Err(format!("{} are unfinished: {error}", board.queue.unfinished()));
    }
    if board.queue.unfinished() != 0 || board.queue.dead_letters() != 0 {
        return Err(format!(
            "{} are unfinished, {} given up",
            board.queue.unfinished(),
            board.queue.dead_letters()
        ));
    }
    check_capacity(board)?;
    board.words.check_slots()?;
    check_tasks(board, end)
}

fn check_capacity(board: &Board) -> Result<(), String> {
    if board.queue.is_closed() {
        return Ok(());
    }
    for _ in 0..3 {
        let count = (0..MOST_ROUNDS).take_while(|_| board.try_put(JUDGE)).count();
        let drained = board.drain();
        if (count, drained) != (board.queue.capacity(), board.queue.capacity()) {
            return Err(format!(
                "{count} put, {drained} done, and there is room for {}",
                board.queue.capacity()
            ));
        }
    }
    Ok(())
}

/// Checks that each task that was put was done once. The exception is a task whose worker was
/// killed while reporting it done.
fn check_tasks(board: &Board, end: &End) -> Result<(), String> {
    let victims = board.victims.load(SeqCst);
    for who in 0..ALL {
        let put = board.put[who].load(SeqCst) as usize;
        for number in 0..EACH {
            let item = (who as u64) << 32 | number as u64;
            let done = board.tasks[who][number].done.load(SeqCst);
            let is_being_put = end.was_killed && who == VICTIM && number == put;
            let is_right = if victims == item + 1 && end.was_killed {
                match (end.had_not_begun, end.was_completed) {
                    (true, _) => done == 1,
                    (_, true) => done == 0,
                    _ => done <= 1,
                }
            } else if is_being_put {
                match (end.had_not_begun, end.was_completed && end.observed == 0) {
                    (true, _) => done == 0,
                    _ => done <= 1,
                }
            } else {
                done == u32::from(number < put)
            };
            if !is_right {
                return Err(format!(
                    "{number} of {who}, who has put {put}, was done {done} times; {end:?}"
                ));
            }
        }
    }
    Ok(())
}

// The operations of victims, peers and those that die.

type Operate = fn(&Board, &Operation, usize);

fn trying_to_put(board: &Board, operation: &Operation, who: usize) {
    let item = board.item(who);
    let result = operation.step(|| board.queue.try_put(item));
    board.after_put(who, result.map_err(|refused| refused.error));
}

pub(super) fn getting(board: &Board, operation: &Operation, who: usize) {
    let result = operation.step(|| board.queue.get());
    if let Some(task) = board.hold(result) {
        board.finish(task);
        board.try_put(who);
    }
}

pub(super) fn trying_to_get(board: &Board, operation: &Operation, _: usize) {
    let result = operation.step(|| board.queue.try_get());
    if let Some(task) = board.hold(result) {
        board.finish(task);
    }
}

/// Takes a task in hand: the first one, if this is the first process to come.
pub(super) fn taken<'a>(board: &'a Board, who: usize) -> Task<'a, u64> {
    let task = board.hold(board.queue.try_get()).expect("there is a task");
    board.let_go(&task);
    if who == VICTIM {
        board.account(*task).is_doing.store(1, SeqCst);
    }
    task
}

fn finishing(board: &Board, operation: &Operation, who: usize) {
    let task = taken(board, who);
    let item = *task;
    if who == VICTIM {
        board.victims.store(item + 1, SeqCst);
    }
    operation.step(|| task.done());
    board.account(item).done.fetch_add(1, SeqCst);
}

fn giving_back(board: &Board, operation: &Operation, _: usize) {
    let task = taken(board, PEER);
    operation.step(|| drop(task));
    board.drain();
}

/// Like [`giving_back`], with a task that is thereby given up.
fn giving_up(board: &Board, operation: &Operation, _: usize) {
    let task = taken(board, VICTIM);
    operation.step(|| drop(task));
    board.drain();
}

pub(super) fn joining(board: &Board, operation: &Operation, _: usize) {
    let result = operation.step(|| board.queue.join());
    result.expect("it has none in hand");
    assert_eq!(unfinished_of_before(board), 0, "joined, and not all are done");
}

fn looking_for_the_end(board: &Board, operation: &Operation, _: usize) {
    let _ = operation.step(|| board.queue.join_timeout(Duration::ZERO));
    board.drain();
}

fn taking_a_letter(board: &Board, operation: &Operation, _: usize) {
    let result = operation.step(|| board.queue.dead_letter());
    if let Ok(letter) = result {
        board.account(*letter).done.fetch_add(1, SeqCst);
    }
}

fn closing(board: &Board, operation: &Operation, _: usize) {
    operation.step(|| board.queue.close()).expect("a participant");
}

fn unfinished_of_before(board: &Board) -> usize {
    let tasks = &board.tasks[BEFORE][..board.put[BEFORE].load(SeqCst) as usize];
    tasks.iter().filter(|task| task.is_doing.load(SeqCst) == 0).count()
}

// The companions.

fn getter(board: &Board, me: &Me) {
    board.waiting.fetch_add(1, SeqCst);
    if let Some(task) = board.hold(board.queue.get()) {
        board.finish(task);
        board.try_put(COMPANION + me.index);
    }
    board.waiting.fetch_sub(1, SeqCst);
}

/// Gets tasks until the queue is closed.
fn worker(board: &Board, _: &Me) {
    board.waiting.fetch_add(1, SeqCst);
    while let Some(task) = board.hold(board.queue.get()) {
        board.finish(task);
    }
    board.waiting.fetch_sub(1, SeqCst);
}

fn joiner(board: &Board, _: &Me) {
    board.joining.fetch_add(1, SeqCst);
    board.queue.join().expect("it has none in hand");
    assert_eq!(unfinished_of_before(board), 0, "joined, and not all are done");
    board.joining.fetch_sub(1, SeqCst);
}

fn later_getter(board: &Board, me: &Me) {
    me.pause();
    getter(board, me);
}

fn later_worker(board: &Board, me: &Me) {
    me.pause();
    worker(board, me);
}

fn later_joiner(board: &Board, me: &Me) {
    me.pause();
    joiner(board, me);
}

/// Puts `count` tasks when the victim sleeps.
fn supplier(count: usize) -> impl Fn(&Board, &Me) + Clone {
    move |board, me| {
        board.take_part();
        me.pause();
        (0..count).for_each(|_| {
            board.try_put(COMPANION + me.index);
        });
    }
}

/// Holds a task until the victim sleeps, and then finishes it.
fn finisher(board: &Board, me: &Me) {
    let task = board.hold(board.queue.try_get());
    me.pause();
    task.into_iter().for_each(|task| board.finish(task));
}

/// Holds a task until the victim sleeps, and then gives it back.
fn returner(board: &Board, me: &Me) {
    let task = board.hold(board.queue.try_get());
    me.pause();
    if let Some(task) = task {
        board.let_go(&task);
        drop(task);
    }
}

/// Adds a companion that holds a task, and dies with it when the victim sleeps.
fn with_dying_holder(case: Case<Board>) -> Case<Board> {
    let script = |board: &Board, operation: &Operation| {
        board.take_part();
        let task = taken(board, PEER);
        operation.step(|| drop(task));
    };
    case.dying(script, |_| true)
}

/// Adds a companion that holds a task, and dies while giving it back when the victim sleeps.
fn with_dying_returner(case: Case<Board>) -> Case<Board> {
    let script = |board: &Board, operation: &Operation| {
        board.take_part();
        let task = taken(board, PEER);
        operation.step(|| drop(task));
    };
    case.dying(script, |board| {
        (0..board.words.used()).any(|id| {
            (0..4).any(|place| board.words.place(id, place) & super::queue_words::RETURNED != 0)
        })
    })
}

pub(super) fn with_peer(
    case: Case<Board>,
    index: usize,
    fate: Fate,
    stage: Stage,
    puts: u64,
    operate: Operate,
) -> Case<Board> {
    let script = move |board: &Board, operation: &Operation| {
        board.take_part();
        if fate == Fate::Dies && puts != 0 && stage != Stage::Announced {
            // Accounted for beforehand: the item will be there, and nothing reads the account
            // before that.
            let item = board.item(PEER + index);
            board.put[PEER + index].fetch_add(puts, SeqCst);
            let _ = operation.step(|| board.queue.try_put(item));
            return;
        }
        operate(board, operation, PEER + index);
    };
    case.peer(fate, script, move |board| board.words.has_come_to(index, stage))
}

/// Adds a peer that has given back a task, and then does nothing.
fn with_idle_peer(case: Case<Board>) -> Case<Board> {
    case.peer(
        Fate::Stops,
        |board, operation| {
            board.take_part();
            drop(taken(board, PEER));
            operation.step(|| board.flag.store(1, SeqCst));
        },
        |board| board.flag.load(SeqCst) == 1,
    )
}

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

fn waking() -> Vec<Box<dyn Subject>> {
    vec![
        known(victim(
            case("try_put, 1 waits", 1, 0, Leaves::Task).companion(getter),
            trying_to_put,
        )),
        known(victim(
            case("try_put, 2 wait, 1 joins", 2, 0, Leaves::Closed)
                .companions(2, getter)
                .companion(joiner),
            trying_to_put,
        )),
        known(victim(case("drop, 1 waits", 1, 1, Leaves::Task).companion(getter), giving_back)),
        known(victim(case("drop, 2 wait", 2, 1, Leaves::Task).companions(2, getter), giving_back)),
        known(victim(
            case("drop, 1 waits, 2 join", 2, 1, Leaves::Closed)
                .companion(worker)
                .companions(2, joiner),
            giving_back,
        )),
        known(victim(case("done, 1 joins", 1, 1, Leaves::Nothing).companion(joiner), finishing)),
        known(victim(
            case("done, 2 join, 1 waits", 2, 1, Leaves::Closed)
                .companions(2, joiner)
                .companion(worker),
            finishing,
        )),
        known(victim(
            case_with("drop, the last attempt, 2 join", 2, 3, 1, 1, Leaves::Nothing)
                .companions(2, joiner),
            giving_up,
        )),
        known(victim(case("get, 2 join", 2, 1, Leaves::Closed).companions(2, joiner), getting)),
        known(victim(
            case("close, 2 wait, 1 joins", 2, 0, Leaves::Closed)
                .companions(2, worker)
                .companion(joiner),
            closing,
        )),
    ]
}

fn blocked() -> Vec<Box<dyn Subject>> {
    vec![
        known(victim(case("get, then put", 1, 0, Leaves::Task).companion(supplier(1)), getting)),
        known(victim(
            case("get, then put, 1 waits behind", 2, 0, Leaves::Task)
                .companion(later_getter)
                .companion(supplier(2)),
            getting,
        )),
        known(victim(
            case("get, then one comes back", 2, 1, Leaves::Task).companion(returner),
            getting,
        )),
        known(victim(
            with_dying_holder(case("get, then its holder dies", 2, 1, Leaves::Task)),
            getting,
        )),
        known(victim(
            with_dying_holder(
                case("get, then its holder dies, 1 waits behind", 2, 1, Leaves::Task)
                    .companion(later_getter),
            ),
            getting,
        )),
        known(victim(
            with_dying_returner(case(
                "get, then its holder dies giving it back",
                2,
                1,
                Leaves::Task,
            )),
            getting,
        )),
        known(victim(case("join, then done", 2, 1, Leaves::Nothing).companion(finisher), joining)),
        known(victim(
            case("join, then done, 1 joins behind", 2, 1, Leaves::Nothing)
                .companion(later_joiner)
                .companion(finisher),
            joining,
        )),
        known(victim(
            with_dying_holder(
                case("join, then its holder dies, 1 waits behind", 2, 1, Leaves::Closed)
                    .companion(later_worker),
            ),
            joining,
        )),
        known(victim(
            case("join, then one comes back, 1 waits", 2, 1, Leaves::Closed)
                .companion(returner)
                .companion(worker),
            joining,
        )),
    ]
}

/// A peer has died, or is stopped, in the middle of an operation. The victim takes part already,
/// and takes over what the peer left if it looks for that.
fn beside_a_peer() -> Vec<Box<dyn Subject>> {
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    for stage in [Stage::Announced, Stage::Exchanged, Stage::Taken, Stage::Placed] {
        for fate in [Fate::Dies, Fate::Stops] {
            let does = if fate == Fate::Dies { "died" } else { "stopped" };
            let name = |what: &str| format!("{what}, {stage:?} and {does}");
            let looks = case(&name("join_timeout(0), a getter"), 2, 1, Leaves::Nothing);
            cases.push(Box::new(victim(
                with_peer(looks, 0, fate, stage, 0, trying_to_get),
                looking_for_the_end,
            )));
            if fate == Fate::Dies {
                let gets = case(&name("get, a getter"), 2, 1, Leaves::Task);
                cases.push(known(victim(
                    with_peer(gets, 0, fate, stage, 0, trying_to_get),
                    getting,
                )));
                let joins = case(&name("join, a getter"), 1, 1, Leaves::Closed).companion(worker);
                cases.push(known(victim(
                    with_peer(joins, 0, fate, stage, 0, trying_to_get),
                    joining,
                )));
            }
            let puts = case(&name("get, a putter"), 2, 0, Leaves::Task);
            let peers = u64::from(stage != Stage::Announced);
            if stage != Stage::Announced {
                cases.push(known(victim(
                    with_peer(puts, 0, fate, stage, peers, trying_to_put),
                    getting,
                )));
            }
            // The peer takes a task that came back to another participant.
            let again = with_idle_peer(case(
                &name("try_get, a taker of one that came back"),
                2,
                2,
                Leaves::Task,
            ))
            .companions(0, getter);
            let again = again.peer(
                fate,
                |board, operation| {
                    board.take_part();
                    trying_to_get(board, operation, PEER + 1);
                },
                move |board| board.words.has_come_to(1, stage),
            );
            cases.push(known(victim(again, trying_to_get)));
        }
    }
    cases
}

/// The victim becomes a participant with the id of one that died in the middle of an operation.
fn adopting() -> Vec<Box<dyn Subject>> {
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    let comes = |case: Case<Board>| {
        known(case.victim(|board, operation| {
            warm_up();
            trying_to_get(board, operation, VICTIM);
        }))
    };
    let gives_back: Operate = |board, operation, _| {
        let task = taken(board, PEER);
        operation.step(|| drop(task));
    };
    for stage in [Stage::Announced, Stage::Exchanged, Stage::Taken, Stage::Placed] {
        let name = |what: &str| format!("try_get as one that died, {what} {stage:?}");
        let gets = case(&name("get"), 1, 1, Leaves::Nothing);
        cases.push(comes(with_peer(gets, 0, Fate::Dies, stage, 0, trying_to_get)));
        let letter = case_with(&name("the last attempt"), 2, 3, 1, 1, Leaves::Nothing);
        cases.push(comes(with_peer(letter, 0, Fate::Dies, stage, 0, gives_back)));
        // The word has gone on since.
        for fate in [Fate::Stops, Fate::Dies] {
            let by = if fate == Fate::Dies { "by one dead" } else { "by one stopped" };
            if stage == Stage::Announced {
                let both = case(&name(&format!("get, {by}")), 1, 1, Leaves::Nothing);
                let both = with_peer(both, 0, Fate::Dies, stage, 0, trying_to_get);
                cases.push(comes(with_peer(both, 1, fate, Stage::Exchanged, 0, trying_to_get)));
            } else {
                let both = case(&name(&format!("get, {by}")), 1, 1, Leaves::Nothing);
                let both = with_peer(both, 0, Fate::Dies, stage, 0, trying_to_get);
                cases.push(comes(with_peer(both, 1, fate, Stage::Exchanged, 1, trying_to_put)));
            }
        }
    }
    // A participant died with a task in hand, and others are asleep.
    let holds = |name: &str| {
        case(name, 2, 1, Leaves::Closed).peer(
            Fate::Dies,
            |board, operation| {
                board.take_part();
                let _task = taken(board, PEER);
                operation.step(|| board.flag.store(1, SeqCst));
            },
            |board| board.flag.load(SeqCst) == 1,
        )
    };
    cases.push(comes(holds("try_get as one that died with a task")));
    cases.push(comes(
        holds("try_get as one that died with a task, 1 waits, 1 joins")
            .companion(worker)
            .companion(joiner),
    ));
    cases
}
