//! The description of what is tested: a case, and its type-erased form for the engine.

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::SeqCst;

use super::arena::{Arena, Control, PAUSED, Seat, futex_wait};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Kill,
    Stop,
}

/// The victim's state at the moment when companions and survivors may be asleep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// The victim's TID.
    pub(crate) victim: u32,
    /// Whether it is stopped, as opposed to dead.
    pub(crate) is_stopped: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    /// Whether the victim was killed. Otherwise it was stopped or left alone, and has ended by
    /// itself.
    pub(crate) was_killed: bool,
    /// Whether the kill or stop came before any instruction of the operation was executed.
    pub(crate) had_not_begun: bool,
    /// Whether the operation had returned before the kill or stop.
    pub(crate) was_completed: bool,
    /// What [`Case::observe`] returned at the kill or stop.
    pub(crate) observed: u64,
}

/// The place of a companion or survivor in the run.
pub(crate) struct Me {
    pub(crate) control: &'static Control,
    pub(crate) seat: &'static Seat,
    /// Its index among the processes of its kind.
    pub(crate) index: usize,
    pub(crate) passed: Cell<u32>,
}

impl Me {
    /// Pauses until the victim sleeps or ends. Each further pause lasts until a further sleep.
    pub(crate) fn pause(&self) {
        let gate = self.passed.get() + 1;
        self.passed.set(gate);
        while self.seat.opened.load(SeqCst) < gate {
            let seen = self.seat.opened.load(SeqCst);
            self.seat.state.store(PAUSED, SeqCst);
            futex_wait(&self.seat.opened, seen);
        }
    }

    /// For a survivor: returns how many companions had not ended when the survivors began.
    pub(crate) fn unfinished(&self) -> u32 {
        self.control.unfinished.load(SeqCst)
    }
}

/// The victim's handle for marking what is to be stepped through.
pub(crate) struct Operation {
    pub(crate) seat: &'static Seat,
}

impl Operation {
    /// Runs the operation. The victim can be killed or stopped after every visible instruction of
    /// it.
    #[inline(always)]
    pub(crate) fn step<R>(&self, operation: impl FnOnce() -> R) -> R {
        self.begin();
        let result = operation();
        self.end();
        result
    }

    /// Marks the beginning of the operation, where [`step`](Operation::step) does not fit.
    #[inline(always)]
    pub(crate) fn begin(&self) {
        super::victim::trap();
    }

    /// Marks the end of the operation.
    #[inline(always)]
    pub(crate) fn end(&self) {
        self.seat.is_completed.store(1, SeqCst);
    }
}

type Before<B> = Box<dyn Fn(&B)>;
type Observer<B> = Box<dyn Fn(&B, u32) -> u64>;
/// What a process does, given its place in the run.
type Script<B, P, R = ()> = Box<dyn Fn(&B, &P) -> R>;

enum Companion<B> {
    Lives(Script<B, Me>),
    Dies { script: Script<B, Operation>, when: Box<dyn Fn(&B) -> bool> },
}

/// The fate of a peer that is stepped into the middle of its operation before the victim begins its
/// own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is killed there.
    Dies,
    /// It stays there until all others have ended.
    Stops,
}

/// A process in the middle of an operation.
struct Peer<B> {
    fate: Fate,
    script: Script<B, Operation>,
    when: Box<dyn Fn(&B) -> bool>,
}

/// A case: its set-up, its operation, and what must hold afterwards.
pub(crate) struct Case<B> {
    name: String,
    make: Box<dyn Fn() -> B>,
    before: Option<Before<B>>,
    peers: Vec<Peer<B>>,
    companions: Vec<Companion<B>>,
    victim: Script<B, Operation>,
    survivor: Script<B, Me>,
    may_wait: Script<B, Moment, bool>,
    observe: Observer<B>,
    check: Script<B, End, Result<(), String>>,
    traits: Traits,
    board: Cell<Option<NonNull<B>>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Traits {
    /// Whether the victim's sleep ends by its time-out.
    pub(crate) expires: bool,
    /// The most points to try, if the operation is too long for all of them.
    pub(crate) most_points: Option<usize>,
    /// The number of points, if it is known.
    pub(crate) points: Option<usize>,
    /// The modes in which sleepers may be stranded while slices are off, each with its reason.
    pub(crate) known_strands: Vec<(Mode, &'static str)>,
}

impl<B: 'static> Case<B> {
    /// Creates a case. `make` makes its board anew for each run, in memory that all processes
    /// share.
    pub(crate) fn new(name: impl Into<String>, make: impl Fn() -> B + 'static) -> Self {
        Case {
            name: name.into(),
            make: Box::new(make),
            before: None,
            peers: Vec::new(),
            companions: Vec::new(),
            victim: Box::new(|_, operation| operation.step(|| ())),
            survivor: Box::new(|_, _| ()),
            may_wait: Box::new(|_, _| false),
            observe: Box::new(|_, _| 0),
            check: Box::new(|_, _| Ok(())),
            traits: Traits::default(),
            board: Cell::new(None),
        }
    }

    /// Runs this script first, in a process of its own that ends without destructors. It dies with
    /// everything that it then holds.
    pub(crate) fn before(mut self, script: impl Fn(&B) + 'static) -> Self {
        self.before = Some(Box::new(script));
        self
    }

    /// Adds a process that prepares itself before the victim does. After that it is stepped through
    /// its operation, up to the first instruction after which `when` holds for the board. Of
    /// several peers, each goes that far before the next begins.
    pub(crate) fn peer(
        mut self,
        fate: Fate,
        script: impl Fn(&B, &Operation) + 'static,
        when: impl Fn(&B) -> bool + 'static,
    ) -> Self {
        self.peers.push(Peer { fate, script: Box::new(script), when: Box::new(when) });
        self
    }

    /// Adds a process that comes after the victim has prepared itself. It runs the script until it
    /// sleeps, [pauses](Me::pause) or ends.
    pub(crate) fn companion(mut self, script: impl Fn(&B, &Me) + 'static) -> Self {
        self.companions.push(Companion::Lives(Box::new(script)));
        self
    }

    /// Adds a companion that dies when the victim sleeps, after all others have gone on. It is
    /// stepped through its operation, and killed at the first instruction after which `when` holds
    /// for the board. So the victim is the second to die.
    pub(crate) fn dying(
        mut self,
        script: impl Fn(&B, &Operation) + 'static,
        when: impl Fn(&B) -> bool + 'static,
    ) -> Self {
        self.companions.push(Companion::Dies { script: Box::new(script), when: Box::new(when) });
        self
    }

    /// Adds `count` companions with the same script.
    pub(crate) fn companions(
        mut self,
        count: usize,
        script: impl Fn(&B, &Me) + Clone + 'static,
    ) -> Self {
        for _ in 0..count {
            self = self.companion(script.clone());
        }
        self
    }

    /// Sets the victim's script. What it does before the operation is its preparation. What it does
    /// afterwards only happens if it lives.
    pub(crate) fn victim(mut self, script: impl Fn(&B, &Operation) + 'static) -> Self {
        self.victim = Box::new(script);
        self
    }

    /// Sets the script of the two processes that come last.
    pub(crate) fn survivor(mut self, script: impl Fn(&B, &Me) + 'static) -> Self {
        self.survivor = Box::new(script);
        self
    }

    /// Sets the predicate that says whether the board's state is a reason to be asleep.
    pub(crate) fn may_wait(mut self, may_wait: impl Fn(&B, &Moment) -> bool + 'static) -> Self {
        self.may_wait = Box::new(may_wait);
        self
    }

    /// Sets what to remember of the board when the victim, whose TID is passed, is killed or
    /// stopped. The victim stands still at that time.
    pub(crate) fn observe(mut self, observe: impl Fn(&B, u32) -> u64 + 'static) -> Self {
        self.observe = Box::new(observe);
        self
    }

    /// Sets the check of the invariants, for when all processes have ended.
    pub(crate) fn check(
        mut self,
        check: impl Fn(&B, &End) -> Result<(), String> + 'static,
    ) -> Self {
        self.check = Box::new(check);
        self
    }

    /// Says that the victim's sleep ends by its time-out: companions stay paused while it sleeps.
    pub(crate) fn expires(mut self) -> Self {
        self.traits.expires = true;
        self
    }

    /// Says how many points the operation has.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_points(mut self, points: usize) -> Self {
        self.traits.points = Some(points);
        self
    }

    /// Says that the operation is long: at most `most` of its points are tried, evenly spread.
    pub(crate) fn most_points(mut self, most: usize) -> Self {
        self.traits.most_points = Some(most);
        self
    }

    /// Says that sleepers may be stranded in this mode when slices are off. With slices on they may
    /// not. At most one call for each mode.
    pub(crate) fn known_strand(mut self, mode: Mode, reason: &'static str) -> Self {
        self.traits.known_strands.push((mode, reason));
        self
    }

    fn board(&self) -> &B {
        let board = self.board.get().expect("a run has begun");
        // SAFETY: `place` has written the board, and `clear`, which ends it, takes it out of the
        // cell. The processes share it as they would `Sync` memory: a board consists of primitives,
        // atomics and values that do not change.
        unsafe { board.as_ref() }
    }
}

/// A case with its types erased.
pub(crate) trait Subject {
    fn name(&self) -> &str;
    fn traits(&self) -> &Traits;
    fn companions(&self) -> usize;
    fn has_before(&self) -> bool;
    fn place(&self, arena: &Arena);
    fn clear(&self);
    fn run_before(&self);
    fn peers(&self) -> usize;
    fn fate(&self, peer: usize) -> Fate;
    fn has_come_far_enough(&self, peer: usize) -> bool;
    fn run_peer(&self, peer: usize, operation: &Operation);
    fn is_dying(&self, companion: usize) -> bool;
    fn is_to_die(&self, companion: usize) -> bool;
    fn run_companion(&self, me: &Me);
    fn run_dying(&self, companion: usize, operation: &Operation);
    fn run_victim(&self, operation: &Operation);
    fn run_survivor(&self, me: &Me);
    fn others_may_wait(&self, moment: &Moment) -> bool;
    fn observed(&self, victim: u32) -> u64;
    fn checked(&self, end: &End) -> Result<(), String>;
}

impl<B: 'static> Subject for Case<B> {
    fn name(&self) -> &str {
        &self.name
    }

    fn traits(&self) -> &Traits {
        &self.traits
    }

    fn companions(&self) -> usize {
        self.companions.len()
    }

    fn has_before(&self) -> bool {
        self.before.is_some()
    }

    fn place(&self, arena: &Arena) {
        let board = arena.board::<B>();
        // SAFETY: the memory is large and aligned enough, and nothing is alive there: `clear` has
        // ended the previous board.
        unsafe { board.write((self.make)()) };
        self.board.set(Some(board));
    }

    fn clear(&self) {
        if let Some(board) = self.board.take() {
            // SAFETY: written by `place`, and taken out of the cell, so nothing uses it after this;
            // all other processes have ended.
            unsafe { board.drop_in_place() };
        }
    }

    fn run_before(&self) {
        if let Some(before) = &self.before {
            before(self.board());
        }
    }

    fn peers(&self) -> usize {
        self.peers.len()
    }

    fn fate(&self, peer: usize) -> Fate {
        self.peers[peer].fate
    }

    fn has_come_far_enough(&self, peer: usize) -> bool {
        (self.peers[peer].when)(self.board())
    }

    fn run_peer(&self, peer: usize, operation: &Operation) {
        (self.peers[peer].script)(self.board(), operation);
    }

    fn run_companion(&self, me: &Me) {
        if let Companion::Lives(script) = &self.companions[me.index] {
            script(self.board(), me);
        }
    }

    fn run_dying(&self, companion: usize, operation: &Operation) {
        if let Companion::Dies { script, .. } = &self.companions[companion] {
            script(self.board(), operation);
        }
    }

    fn is_dying(&self, companion: usize) -> bool {
        matches!(self.companions[companion], Companion::Dies { .. })
    }

    fn is_to_die(&self, companion: usize) -> bool {
        matches!(&self.companions[companion], Companion::Dies { when, .. } if when(self.board()))
    }

    fn run_victim(&self, operation: &Operation) {
        (self.victim)(self.board(), operation);
    }

    fn run_survivor(&self, me: &Me) {
        me.pause();
        (self.survivor)(self.board(), me);
    }

    fn others_may_wait(&self, moment: &Moment) -> bool {
        (self.may_wait)(self.board(), moment)
    }

    fn observed(&self, victim: u32) -> u64 {
        (self.observe)(self.board(), victim)
    }

    fn checked(&self, end: &End) -> Result<(), String> {
        (self.check)(self.board(), end)
    }
}
