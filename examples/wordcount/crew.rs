//! [`Crew`]: the parent's side. It fills the slots with workers, buries those that die, and knows when all is done.

use std::fmt::Display;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::{Builder, Child};

use crate::Stop;
use crate::chaos::Plan;
use crate::complaint::complain;
use crate::job::{Board, Slot};
use crate::listing::Files;
use crate::progress::Progress;
use crate::signals::Signals;
use crate::worker;

/// A slot whose workers die so often in a row, without that any of them finishes a chunk, gets no more of them.
pub(crate) const MAX_DEATHS: u32 = 5;

/// The longest that the parent sleeps before it looks at everything again: signals, deaths, reports that never came.
const TURN: Duration = Duration::from_millis(50);

/// How long workers that were killed may take to be gone. One that the kernel cannot end, because it hangs in a file system, is left to it.
const END: Duration = Duration::from_secs(5);

/// What the deaths came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deaths {
    /// By the plan.
    pub(crate) killed: u32,
    /// By anything else.
    pub(crate) died: u32,
    /// How many workers were started in the place of another.
    pub(crate) replaced: u32,
    /// For each that died: from when it took up the chunk that had to be done again, or else from its death, until its
    /// replacement took up a chunk. The sum of all, so it may be longer than the job.
    pub(crate) lost: Duration,
}

/// What the parent knows about a slot.
struct Post {
    state: State,
    /// Whether any worker was started in it.
    is_used: bool,
    /// The plan's kill was sent to the worker.
    is_doomed: bool,
    /// How many died in a row, but not by the plan, with `stood_at` the same.
    deaths: u32,
    /// The chunk that the last one that died was at, and whether that was done.
    stood_at: (Option<u32>, bool),
    /// Since when work was lost, until the next worker takes up a chunk.
    lost_since: Option<u64>,
}

enum State {
    /// To be filled.
    Vacant,
    Working(Child),
    /// The worker found nothing left to claim.
    Retired,
    GivenUp,
}

impl Post {
    fn vacant() -> Self {
        Post { state: State::Vacant, is_used: false, is_doomed: false, deaths: 0, stood_at: (None, false), lost_since: None }
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
    board: &'a Board,
    files: &'a Files,
    plan: &'a Plan,
    signals: &'a Signals,
    progress: &'a Progress,
    posts: Vec<Post>,
    /// How many of the plan's kills were sent.
    kills: usize,
    /// Where the dispenser's gate was moved to last.
    gate: u32,
    /// How many chunks were ever seen to be claimed.
    claimed: u32,
    deaths: Deaths,
}

impl<'a> Crew<'a> {
    pub(crate) fn new(board: &'a Board, files: &'a Files, plan: &'a Plan, signals: &'a Signals, progress: &'a Progress) -> Self {
        let posts = board.slots.iter().map(|_| Post::vacant()).collect();
        Crew { board, files, plan, signals, progress, posts, kills: 0, gate: 0, claimed: 0, deaths: Deaths::default() }
    }

    /// Has all chunks counted. When it returns, there are no workers any more.
    pub(crate) fn count(mut self) -> Result<Deaths, Stop> {
        match self.supervise() {
            Ok(()) => Ok(self.deaths),
            Err(stop) => Err(self.end(stop)),
        }
    }

    fn supervise(&mut self) -> Result<(), Stop> {
        loop {
            if let Some(signal) = self.signals.caught() {
                return Err(Stop::Interrupted { signal, what: String::new() });
            }
            self.reap()?;
            if self.posts.iter().all(Post::is_at_rest) && !self.rehire()? {
                return Ok(());
            }
            self.fill();
            self.move_gate()?;
            self.kill_next()?;
            self.progress.show(self.done());
            self.wait()?;
        }
    }

    /// How many chunks are done: those that were claimed, but for those that the workers are at. A hint while there are
    /// workers: the slots change one after the other. It is exact as long as all of them wait for the gate.
    fn done(&mut self) -> u32 {
        let claimed = self.board.slots.iter().filter_map(Slot::chunk).map(|chunk| chunk + 1).max();
        self.claimed = self.claimed.max(claimed.unwrap_or(0));
        let unfinished = (0..self.posts.len()).filter(|&slot| self.board.unfinished(slot).is_some()).count();
        self.claimed.saturating_sub(unfinished as u32)
    }

    /// Takes note of workers that have ended.
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
        let unfinished = self.board.unfinished(slot);
        let now = self.board.now();
        let lost_since = if unfinished.is_some() { self.board.slots[slot].since() } else { now };
        let post = &mut self.posts[slot];
        post.state = State::Vacant;
        // If it died before its first chunk, its predecessor's time is being lost still.
        post.lost_since.get_or_insert(lost_since);
        if std::mem::take(&mut post.is_doomed) && status.signal() == Some(libc::SIGKILL) {
            self.deaths.killed += 1;
            return;
        }
        self.deaths.died += 1;
        let stood_at = (self.board.slots[slot].chunk(), unfinished.is_none());
        post.deaths = if stood_at == post.stood_at { post.deaths + 1 } else { 1 };
        post.stood_at = stood_at;
        self.progress.aside(|| complain(format_args!("worker {pid} ended before its time: {status}")));
        self.give_up_if_hopeless(slot, &status);
    }

    fn give_up_if_hopeless(&mut self, slot: usize, last: &dyn Display) {
        let post = &mut self.posts[slot];
        if post.deaths >= MAX_DEATHS {
            post.state = State::GivenUp;
            let row = format_args!("{MAX_DEATHS} deaths in a row without a finished chunk");
            self.progress.aside(|| complain(format_args!("slot {slot} is given up after {row}, at last of this: {last}")));
        }
    }

    /// Adds up the time that was lost in this slot, if its present worker has made an end of that.
    fn settle(&mut self, slot: usize) {
        let post = &mut self.posts[slot];
        if let (Some(since), Some(first)) = (post.lost_since, self.board.slots[slot].first()) {
            self.deaths.lost += Duration::from_nanos(first.saturating_sub(since));
            post.lost_since = None;
        }
    }

    /// No slot has a worker or waits for one: whether chunks are left that are not done, of slots that were given up. They go to others.
    fn rehire(&mut self) -> Result<bool, Stop> {
        let mut open = (0..).zip(self.board.chunks.iter()).filter(|(_, chunk)| !chunk.is_done()).map(|(number, _)| number).peekable();
        if open.peek().is_none() {
            return Ok(false);
        }
        let mut lost: Vec<u64> = Vec::new();
        for (post, slot) in self.posts.iter_mut().zip(self.board.slots.iter()).filter(|(post, _)| matches!(post.state, State::GivenUp)) {
            slot.hand(None);
            lost.extend(post.lost_since.take());
        }
        let retired = self.posts.iter_mut().zip(self.board.slots.iter()).filter(|(post, _)| matches!(post.state, State::Retired));
        let mut hired = false;
        for ((post, slot), chunk) in retired.zip(open) {
            slot.hand(Some(chunk));
            *post = Post { lost_since: lost.pop(), is_used: true, ..Post::vacant() };
            hired = true;
        }
        if hired { Ok(true) } else { Err(Stop::NoWorkersLeft { workers: self.posts.len() }) }
    }

    /// Starts a worker in each vacant slot. If the system refuses, that counts as a death; the next turn tries again.
    fn fill(&mut self) {
        for slot in 0..self.posts.len() {
            if !matches!(self.posts[slot].state, State::Vacant) {
                continue;
            }
            self.board.slots[slot].clear_first();
            let (board, files) = (self.board, self.files);
            match Builder::new().daemon(true).fork(move || worker::run(board, files, slot)) {
                Ok(worker) => {
                    let post = &mut self.posts[slot];
                    post.state = State::Working(worker);
                    self.deaths.replaced += u32::from(post.is_used);
                    post.is_used = true;
                }
                Err(error) => {
                    self.posts[slot].deaths += 1;
                    self.give_up_if_hopeless(slot, &format_args!("no worker could be started: {error}"));
                }
            }
        }
    }

    fn move_gate(&mut self) -> Result<(), Stop> {
        let gate = self.plan.gate(self.kills);
        if gate != self.gate && self.board.open(gate, TURN).map_err(Stop::system("locking the dispenser"))? {
            self.gate = gate;
        }
        Ok(())
    }

    /// Carries out the plan's next kill, if it is due and there is a victim.
    fn kill_next(&mut self) -> Result<(), Stop> {
        let Some(kill) = self.plan.kills().get(self.kills) else { return Ok(()) };
        if self.done() < kill.done {
            return Ok(());
        }
        let count = self.posts.len();
        let mut from_there = (0..count).map(|next| (kill.slot + next) % count);
        let victim = from_there.find(|&slot| self.posts[slot].worker().is_some() && !self.posts[slot].is_doomed);
        let Some(victim) = victim.map(|slot| &mut self.posts[slot]) else { return Ok(()) };
        let Some(worker) = victim.worker() else { return Ok(()) };
        thread::sleep(kill.delay);
        worker.kill().map_err(Stop::system("killing a worker"))?;
        victim.is_doomed = true;
        self.kills += 1;
        Ok(())
    }

    /// Sleeps until something may have happened, and for a turn at most.
    fn wait(&mut self) -> Result<(), Stop> {
        let all_done = self.done() == self.files.chunks();
        let mut working = self.posts.iter().filter(|post| post.worker().is_some());
        let ending = working.find(|post| post.is_doomed || all_done).and_then(Post::worker);
        let Some(ending) = ending else {
            let finished = &self.board.job.finished;
            if finished.acquire_timeout(TURN).is_ok() {
                // As many as there are now: for others that come meanwhile, the next turn returns at once.
                let _ = (0..finished.value()).try_for_each(|_| finished.try_acquire());
            }
            return Ok(());
        };
        match ending.join_timeout(TURN) {
            Err(error) if error.kind() != io::ErrorKind::TimedOut => Err(Stop::system("waiting for a worker")(error)),
            _ => Ok(()),
        }
    }

    /// Ends all workers, and says so if that is because of a signal.
    fn end(&mut self, stop: Stop) -> Stop {
        let workers: Vec<&Child> = self.posts.iter().filter_map(Post::worker).collect();
        let deadline = Instant::now() + END;
        for worker in &workers {
            // It cannot be refused: nobody changes the user. If it could, the end of this process would still kill it.
            let _ = worker.kill();
        }
        let left = workers.iter().filter(|worker| worker.join_deadline(deadline).is_err()).count();
        let (ended, chunks) = (workers.len() - left, self.files.chunks());
        match stop {
            Stop::Interrupted { signal, .. } => {
                let hang = if left == 0 { String::new() } else { format!(", {left} hang in the kernel and will end when it lets them") };
                let what = format!("{ended} workers were ended{hang}, {} of {chunks} chunks were done", self.done());
                Stop::Interrupted { signal, what }
            }
            other => other,
        }
    }
}
