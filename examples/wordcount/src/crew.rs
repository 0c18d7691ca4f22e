//! [`Crew`]: the parent's side. It fills the slots with workers, buries those that die, and knows
//! when all is done.

use std::fmt::Display;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::{Builder, Child};
use crossproc::{PutManyError, QueueError};

use crate::Stop;
use crate::chaos::Plan;
use crate::complaint::complain;
use crate::job::{self, Board};
use crate::ledger::Ledger;
use crate::listing::Files;
use crate::progress::Progress;
use crate::results::Senseless;
use crate::signals::Signals;
use crate::task::{Task, Tasks};
use crate::worker;

/// A task is given up after this many deaths of its workers, and as many more as the plan has
/// kills. A slot is given up after this many deaths in a row of workers that had no task.
pub(crate) const MAX_DEATHS: u32 = 5;

/// The longest that the parent sleeps before it looks at everything again: signals, deaths, dead
/// letters.
const TURN: Duration = Duration::from_millis(50);

/// How many messages the parent reads before it looks at the rest.
const MOST_READ: usize = 2 * job::RESULTS;

/// How long killed workers may take to be gone. A worker that hangs in a file system, so that the
/// kernel cannot end it, is left to the kernel.
const END: Duration = Duration::from_secs(5);

/// The sums over all deaths.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deaths {
    /// Workers killed by the plan.
    pub(crate) killed: u32,
    /// Workers that died from anything else.
    pub(crate) died: u32,
    /// Workers that were started in the place of another.
    pub(crate) replaced: u32,
    /// The time lost by deaths. For each death it runs from when the dead worker took up the task
    /// that had to be done again, or else from the death. It ends when the replacement takes up a
    /// task. The sum may be longer than the job.
    pub(crate) lost: Duration,
}

/// What the parent knows about a slot.
struct Post {
    state: State,
    /// Whether any worker was started in it.
    is_used: bool,
    /// Whether the plan's kill was sent to the worker.
    is_doomed: bool,
    /// How many workers in a row died without a task, not counting the plan's kills.
    deaths: u32,
    /// Since when work has been lost, until the next worker takes up a task.
    lost_since: Option<u64>,
}

enum State {
    /// To be filled.
    Vacant,
    Working(Child),
    /// All tasks were done.
    Retired,
    GivenUp,
}

impl Post {
    fn vacant() -> Self {
        Post { state: State::Vacant, is_used: false, is_doomed: false, deaths: 0, lost_since: None }
    }

    fn worker(&self) -> Option<&Child> {
        match &self.state {
            State::Working(child) => Some(child),
            _ => None,
        }
    }

    fn is_at_rest(&self) -> bool {
        matches!(self.state, State::Retired | State::GivenUp)
    }
}

pub(crate) struct Crew<'a> {
    board: &'a Arc<Board>,
    files: &'a Arc<Files>,
    tasks: &'a Tasks,
    plan: &'a Plan,
    signals: &'a Signals,
    progress: &'a Progress,
    has_words: bool,
    ledger: Ledger,
    posts: Vec<Post>,
    /// How many of the plan's kills were sent.
    kills: usize,
    /// How many tasks were put into the queue.
    put: u32,
    deaths: Deaths,
}

impl<'a> Crew<'a> {
    pub(crate) fn new(
        board: &'a Arc<Board>,
        files: &'a Arc<Files>,
        tasks: &'a Tasks,
        plan: &'a Plan,
        signals: &'a Signals,
        progress: &'a Progress,
        has_words: bool,
    ) -> Self {
        let posts: Vec<Post> = board.slots.iter().map(|_| Post::vacant()).collect();
        let ledger = Ledger::new(tasks, posts.len(), has_words);
        Crew {
            board,
            files,
            tasks,
            plan,
            signals,
            progress,
            has_words,
            ledger,
            posts,
            kills: 0,
            put: 0,
            deaths: Deaths::default(),
        }
    }

    /// Lets the workers do all tasks. When it returns, no worker is left.
    pub(crate) fn count(mut self) -> Result<(Ledger, Deaths), Stop> {
        match self.supervise() {
            Ok(()) => Ok((self.ledger, self.deaths)),
            Err(stop) => Err(self.end(stop)),
        }
    }

    fn supervise(&mut self) -> Result<(), Stop> {
        loop {
            if let Some(signal) = self.signals.caught() {
                return Err(Stop::Interrupted { signal, what: String::new() });
            }
            self.reap()?;
            let is_over = self.posts.iter().all(Post::is_at_rest);
            let is_all_read = self.read(None)?;
            self.open_dead_letters()?;
            if is_over && is_all_read {
                let workers = self.posts.len();
                return if self.ledger.is_settled() {
                    Ok(())
                } else {
                    Err(Stop::NoWorkersLeft { workers })
                };
            }
            self.fill();
            self.put_tasks()?;
            self.kill_next()?;
            self.progress.show(self.ledger.settled());
            self.wait()?;
        }
    }

    /// Notes which workers have ended.
    fn reap(&mut self) -> Result<(), Stop> {
        for slot in 0..self.posts.len() {
            let Some(worker) = self.posts[slot].worker() else { continue };
            let pid = worker.id();
            match worker.try_join().map_err(Stop::system("looking after a worker"))? {
                None => {}
                Some(status) if status.success() => {
                    self.settle(slot);
                    self.posts[slot].state = State::Retired;
                }
                Some(status) => self.bury(slot, pid, status),
            }
        }
        Ok(())
    }

    fn bury(&mut self, slot: usize, pid: u32, status: ExitStatus) {
        self.settle(slot);
        let slots = &self.board.slots;
        let lost_since = slots[slot].since().unwrap_or_else(|| self.board.now());
        let had_task = slots[slot].first().is_some();
        let post = &mut self.posts[slot];
        post.state = State::Vacant;
        // If the worker died before its first task, the time since its predecessor's death is still
        // being lost.
        post.lost_since.get_or_insert(lost_since);
        if std::mem::take(&mut post.is_doomed) && status.signal() == Some(libc::SIGKILL) {
            self.deaths.killed += 1;
            return;
        }
        self.deaths.died += 1;
        post.deaths = if had_task { 0 } else { post.deaths + 1 };
        self.progress
            .aside(|| complain(format_args!("worker {pid} ended before its time: {status}")));
        self.give_up_if_hopeless(slot, &status);
    }

    fn give_up_if_hopeless(&mut self, slot: usize, last: &dyn Display) {
        let post = &mut self.posts[slot];
        if post.deaths >= MAX_DEATHS {
            post.state = State::GivenUp;
            let row = format!("{MAX_DEATHS} deaths in a row without a task");
            self.progress.aside(|| {
                complain(format_args!(
                    "slot {slot} is given up after {row}, at last of this: {last}"
                ));
            });
        }
    }

    /// Adds up the time that was lost in this slot, if its present worker has taken up a task.
    fn settle(&mut self, slot: usize) {
        let post = &mut self.posts[slot];
        if let (Some(since), Some(first)) = (post.lost_since, self.board.slots[slot].first()) {
            self.deaths.lost += Duration::from_nanos(first.saturating_sub(since));
            post.lost_since = None;
        }
    }

    /// Starts a worker in each vacant slot. A refusal by the system counts as a death, and the next
    /// turn tries again.
    fn fill(&mut self) {
        for slot in 0..self.posts.len() {
            if !matches!(self.posts[slot].state, State::Vacant) {
                continue;
            }
            self.board.slots[slot].clear();
            let (board, files, has_words) =
                (Arc::clone(self.board), Arc::clone(self.files), self.has_words);
            match Builder::new()
                .daemon(true)
                .fork(move || worker::run(&board, &files, slot, has_words))
            {
                Ok(worker) => {
                    let post = &mut self.posts[slot];
                    post.state = State::Working(worker);
                    self.deaths.replaced += u32::from(post.is_used);
                    post.is_used = true;
                }
                Err(error) => {
                    self.posts[slot].deaths += 1;
                    self.give_up_if_hopeless(
                        slot,
                        &format_args!("no worker could be started: {error}"),
                    );
                }
            }
        }
    }

    /// Puts tasks into the queue: as many as may be done before the plan's next kill, and as many
    /// as there is room for. The last task closes the queue.
    fn put_tasks(&mut self) -> Result<(), Stop> {
        let queue = &self.board.tasks;
        let gate = self.plan.gate(self.kills);
        while self.put < gate {
            let next: Vec<Task> =
                (self.put..gate).take(job::TASKS).map(|number| self.tasks.get(number)).collect();
            match queue.try_put_many(&next) {
                Ok(()) => self.put += next.len() as u32,
                Err(PutManyError { put, error: QueueError::Full }) => {
                    self.put += put as u32;
                    break;
                }
                Err(error) => return Err(Stop::system("giving out tasks")(error)),
            }
        }
        if self.put == self.tasks.len() && !queue.is_closed() {
            queue.close().map_err(Stop::system("giving out tasks"))?;
        }
        Ok(())
    }

    /// Notes the tasks that were given up.
    fn open_dead_letters(&mut self) -> Result<(), Stop> {
        loop {
            match self.board.tasks.dead_letter() {
                Ok(task) => self.ledger.give_up(task.number, task.attempts()),
                Err(QueueError::Empty) => return Ok(()),
                Err(error) => return Err(Stop::system("giving up a task")(error)),
            }
        }
    }

    /// Takes in what workers have sent. It waits at most `wait` for the first message. Returns
    /// whether that was all.
    fn read(&mut self, wait: Option<Duration>) -> Result<bool, Stop> {
        let queue = &self.board.results;
        for turn in std::iter::once(wait).chain([None; MOST_READ]) {
            match turn.map_or_else(|| queue.try_receive(), |turn| queue.receive_timeout(turn)) {
                Ok(message) => {
                    self.ledger.take(&message).map_err(|Senseless| Stop::SenselessResult)?;
                }
                Err(QueueError::Empty | QueueError::TimedOut) => return Ok(true),
                Err(error) => return Err(Stop::system("reading results")(error)),
            }
        }
        Ok(false)
    }

    /// Carries out the plan's next kill, if it is due and there is a victim.
    fn kill_next(&mut self) -> Result<(), Stop> {
        let Some(kill) = self.plan.kills().get(self.kills) else { return Ok(()) };
        if self.ledger.settled() < kill.done {
            return Ok(());
        }
        let count = self.posts.len();
        let mut from_there = (0..count).map(|next| (kill.slot + next) % count);
        let victim = from_there
            .find(|&slot| self.posts[slot].worker().is_some() && !self.posts[slot].is_doomed);
        let Some(victim) = victim.map(|slot| &mut self.posts[slot]) else { return Ok(()) };
        let Some(worker) = victim.worker() else { return Ok(()) };
        thread::sleep(kill.delay);
        worker.kill().map_err(Stop::system("killing a worker"))?;
        victim.is_doomed = true;
        self.kills += 1;
        Ok(())
    }

    /// Sleeps until something may have happened, at most for a turn.
    fn wait(&mut self) -> Result<(), Stop> {
        let is_settled = self.ledger.is_settled();
        let mut working = self.posts.iter().filter(|post| post.worker().is_some());
        let ending = working.find(|post| post.is_doomed || is_settled).and_then(Post::worker);
        let Some(ending) = ending else { return self.read(Some(TURN)).map(|_| ()) };
        match ending.join_timeout(TURN) {
            Err(error) if error.kind() != io::ErrorKind::TimedOut => {
                Err(Stop::system("waiting for a worker")(error))
            }
            _ => Ok(()),
        }
    }

    /// Ends all workers. If a signal is the reason, the result says so.
    fn end(&mut self, stop: Stop) -> Stop {
        let workers: Vec<&Child> = self.posts.iter().filter_map(Post::worker).collect();
        let deadline = Instant::now() + END;
        for worker in &workers {
            // This cannot be refused, as nobody changes the user. Even if it could, the end of this
            // process would kill the worker.
            let _ = worker.kill();
        }
        let left = workers.iter().filter(|worker| worker.join_deadline(deadline).is_err()).count();
        let (ended, tasks) = (workers.len() - left, self.tasks.len());
        match stop {
            Stop::Interrupted { signal, .. } => {
                let hang = if left == 0 {
                    String::new()
                } else {
                    format!(", {left} hang in the kernel and will end when it lets them")
                };
                let what = format!(
                    "{ended} workers were ended{hang}, {} of {tasks} tasks were done",
                    self.ledger.settled()
                );
                Stop::Interrupted { signal, what }
            }
            other => other,
        }
    }
}
