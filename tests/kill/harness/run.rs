//! One run of one case.

use core::sync::atomic::Ordering::SeqCst;
use core::time::Duration;

use super::arena::Arena;
use super::case::{End, Fate, Mode, Moment, Subject};
use super::process::{Awaited, Crew};
use super::victim::{Victim, Walk};
use super::visible::Meanings;

/// The length of a slice, in runs with slices.
pub(crate) const SLICE: Duration = Duration::from_millis(20);
/// How long survivors may take with slices on. What goes beyond the slice is the machine's share.
/// Up to eight processes share one CPU with whatever else runs on it, in ticks of 4 ms, and each
/// yields a dozen times. Beside a busy compiler, 130 ms were seen in uncontended cases.
pub(crate) const LATE: Duration = Duration::from_millis(20 + 280);
/// How long all processes must be asleep without a time-out to count as stranded.
pub(crate) const STRANDED_FOR: Duration = Duration::from_millis(40);
/// The longest that a script may take.
const LIMIT: Duration = Duration::from_secs(1);
const SURVIVORS: usize = 2;
/// The limit for a whole run, in seconds; a longer run is the harness's own fault.
const WATCHDOG: u32 = 60;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) has_slices: bool,
    pub(crate) point: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Late(Duration),
    Stranded(String),
    Broken(String),
    /// The shared memory changed while instructions ran, from this address on, that were taken for
    /// invisible.
    Noticed(Option<u64>),
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Fault::Late(took) => write!(f, "late: {took:?}"),
            Fault::Stranded(who) => write!(f, "stranded: {who}"),
            Fault::Broken(how) => f.write_str(how),
            Fault::Noticed(_) => {
                f.write_str("this and what follows were taken for invisible, and are not")
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) walk: Walk,
    /// The time from the kill or stop to the end of the last script, unless a process had to wait
    /// for a stopped victim.
    pub(crate) took: Option<Duration>,
    /// Whether a process was stranded in a known way.
    pub(crate) was_known_strand: bool,
    pub(crate) fault: Option<Fault>,
}

/// Runs one case once, as `plan` says.
pub(crate) fn run(
    arena: &Arena,
    meanings: &mut Meanings,
    subject: &dyn Subject,
    plan: Plan,
) -> Report {
    // SAFETY: takes a number. The signal's default action ends the harness, and with it all the
    // processes.
    unsafe { libc::alarm(WATCHDOG) };
    arena.reset();
    crossproc::set_recheck_interval(plan.has_slices.then_some(SLICE));
    subject.place(arena);
    let mut report = Report::default();
    let mut run = Run {
        arena,
        subject,
        plan,
        crew: Crew::new(*arena, meanings),
        first: 0,
        fresh: 0,
        end: 0,
        halted: Vec::new(),
        dying: Vec::new(),
        report: &mut report,
    };
    if let Err(fault) = run.go() {
        run.report.fault = Some(fault);
    }
    drop(run);
    subject.clear();
    report
}

struct Run<'a> {
    arena: &'a Arena,
    subject: &'a dyn Subject,
    plan: Plan,
    crew: Crew<'a>,
    /// Companions are `first..fresh`, survivors `fresh..end`.
    first: usize,
    fresh: usize,
    end: usize,
    /// The peers that are stopped.
    halted: Vec<Victim>,
    /// The companions that are to die before the victim and have not died yet, with their indices.
    dying: Vec<(usize, Victim)>,
    report: &'a mut Report,
}

/// Kills the companions that are to die before the victim. Returns whether there was one.
fn let_die(
    crew: &mut Crew,
    subject: &dyn Subject,
    dying: &mut Vec<(usize, Victim)>,
) -> Result<bool, Fault> {
    let has_any = !dying.is_empty();
    for (index, mut victim) in dying.drain(..) {
        victim.die_when(crew, || subject.is_to_die(index))?;
    }
    Ok(has_any)
}

impl Run<'_> {
    fn go(&mut self) -> Result<(), Fault> {
        let mut victim = self.prepare()?;
        let (companions, subject, dying) = (self.first..self.fresh, self.subject, &mut self.dying);
        self.report.walk = victim.walk(&mut self.crew, self.plan.point, |crew| {
            match subject.traits().expires {
                true => Ok(false),
                false => Ok(crew.next_gates(companions.clone())? | let_die(crew, subject, dying)?),
            }
        })?;
        let walk = &self.report.walk;
        self.check_points()?;
        let end = End {
            was_killed: self.plan.mode == Mode::Kill,
            had_not_begun: walk.points == 0,
            was_completed: walk.is_completed,
            observed: self.subject.observed(victim.tid()),
        };
        let began = crossproc_sys::clock::now();
        match self.plan.mode {
            Mode::Kill => victim.kill(&mut self.crew),
            Mode::Stop => victim.stop(&mut self.crew)?,
        }
        self.others_go_on(&victim, began)?;
        if self.plan.mode == Mode::Stop {
            victim.go_on();
            let all = victim.member..self.end;
            self.await_end(all, "after the victim went on")?;
        }
        for peer in core::mem::take(&mut self.halted) {
            peer.go_on();
            self.await_end(peer.member..peer.member + 1, "after all others have ended")?;
        }
        self.subject.checked(&end).map_err(Fault::Broken)
    }

    /// Checks the number of points, if it is known, and that all other instructions were compared.
    fn check_points(&self) -> Result<(), Fault> {
        let Some(points) = self.subject.traits().points else { return Ok(()) };
        let walk = &self.report.walk;
        if self.plan.point == usize::MAX
            && (walk.points, walk.compared) != (points, walk.instructions - points)
        {
            let text = format!(
                "{} instructions, {} points, not {points}; {} compared",
                walk.instructions, walk.points, walk.compared
            );
            return Err(Fault::Broken(text));
        }
        Ok(())
    }

    /// Brings all processes into their places.
    fn prepare(&mut self) -> Result<Victim, Fault> {
        let subject = self.subject;
        if subject.has_before() {
            let member = self.crew.fork(0, |_| {
                subject.run_before();
                // It leaves everything as if it had been killed.
                crossproc_sys::process::exit_now(0);
            })?;
            self.await_end(member..member + 1, "before the victim came")?;
        }
        let mut peers = Vec::new();
        for index in 0..subject.peers() {
            peers.push(Victim::prepare(&mut self.crew, self.arena, |operation| {
                subject.run_peer(index, operation);
            })?);
        }
        let victim =
            Victim::prepare(&mut self.crew, self.arena, |operation| subject.run_victim(operation))?;
        for (index, mut peer) in peers.into_iter().enumerate() {
            peer.walk_until(&mut self.crew, || subject.has_come_far_enough(index))?;
            match subject.fate(index) {
                Fate::Dies => peer.kill(&mut self.crew),
                Fate::Stops => self.halted.push(peer),
            }
        }
        self.first = victim.member + 1;
        self.fresh = self.first + subject.companions();
        self.end = self.fresh + SURVIVORS;
        for index in 0..subject.companions() {
            if subject.is_dying(index) {
                let dying = Victim::prepare(&mut self.crew, self.arena, |operation| {
                    subject.run_dying(index, operation);
                })?;
                self.dying.push((index, dying));
                continue;
            }
            let member = self.crew.fork(index, |me| subject.run_companion(me))?;
            self.crew.settle(member)?;
        }
        for index in 0..SURVIVORS {
            let member = self.crew.fork(index, |me| subject.run_survivor(me))?;
            self.crew.settle(member)?;
        }
        Ok(victim)
    }

    fn others_go_on(&mut self, victim: &Victim, began: u64) -> Result<(), Fault> {
        let is_stopped = self.plan.mode == Mode::Stop;
        let moment = Moment { victim: victim.tid(), is_stopped };
        let_die(&mut self.crew, self.subject, &mut self.dying)?;
        self.crew.all_gates(self.first..self.fresh);
        self.await_others(self.first..self.fresh, &moment, "among themselves")?;
        let unfinished = self.crew.unfinished(self.first..self.fresh);
        self.arena.control.unfinished.store(unfinished, SeqCst);
        self.crew.all_gates(self.fresh..self.end);
        if is_stopped {
            self.await_others(self.first..self.end, &moment, "while the victim is stopped")?;
        } else {
            self.await_end(self.first..self.end, "with fresh survivors")?;
        }
        if self.crew.unfinished(self.first..self.end) == 0 {
            let took = Duration::from_nanos(
                self.crew.ended_at(self.first..self.end).saturating_sub(began),
            );
            self.report.took = Some(took);
            if self.plan.has_slices && took > LATE {
                return Err(Fault::Late(took));
            }
        }
        Ok(())
    }

    /// Waits until the members have ended, or sleep for a reason.
    fn await_others(
        &mut self,
        members: core::ops::Range<usize>,
        moment: &Moment,
        when: &str,
    ) -> Result<(), Fault> {
        let subject = self.subject;
        match self.crew.wait(members, || subject.others_may_wait(moment), STRANDED_FOR, LIMIT)? {
            Awaited::Ended | Awaited::Waiting => Ok(()),
            Awaited::Stranded(who) => {
                let is_known =
                    subject.traits().known_strands.iter().any(|&(mode, _)| mode == self.plan.mode);
                if is_known && !self.plan.has_slices {
                    self.report.was_known_strand = true;
                    return Ok(());
                }
                Err(Fault::Stranded(format!("{who}, {when}")))
            }
        }
    }

    /// Waits until the members have ended; no sleep is excused.
    fn await_end(&mut self, members: core::ops::Range<usize>, when: &str) -> Result<(), Fault> {
        match self.crew.wait(members, || false, STRANDED_FOR, LIMIT)? {
            Awaited::Ended | Awaited::Waiting => Ok(()),
            Awaited::Stranded(who) => Err(Fault::Stranded(format!("{who}, {when}"))),
        }
    }
}
