//! What is tested: the description of a case, without its types for the engine.

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

/// The state of the victim when companions and survivors may be asleep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// The victim's TID.
    pub(crate) victim: u32,
    /// It is stopped, and not dead.
    pub(crate) is_stopped: bool,
}

/// A run that is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    /// The victim was killed. If not, it was stopped, or left alone, and has ended.
    pub(crate) was_killed: bool,
    /// No instruction of the operation was executed when it was killed or stopped.
    pub(crate) had_not_begun: bool,
    /// The operation had returned when it was killed or stopped.
    pub(crate) was_completed: bool,
    /// What [`Case::observe`] said when it was killed or stopped.
    pub(crate) observed: u64,
}

/// A companion's or survivor's place in the run.
pub(crate) struct Me {
    pub(crate) control: &'static Control,
    pub(crate) seat: &'static Seat,
    /// Which one of its kind it is.
    pub(crate) index: usize,
    pub(crate) passed: Cell<u32>,
}

impl Me {
    /// Pauses: until the victim sleeps, or until its end. Further pauses are until further sleeps.
    pub(crate) fn pause(&self) {
        let gate = self.passed.get() + 1;
        self.passed.set(gate);
        while self.seat.opened.load(SeqCst) < gate {
            let seen = self.seat.opened.load(SeqCst);
            self.seat.state.store(PAUSED, SeqCst);
            futex_wait(&self.seat.opened, seen);
        }
    }

    /// For a survivor: how many companions had not ended when the survivors began.
    pub(crate) fn unfinished(&self) -> u32 {
        self.control.unfinished.load(SeqCst)
    }
}

/// The victim's way to say what is to be stepped through.
pub(crate) struct Operation {
    pub(crate) seat: &'static Seat,
}

impl Operation {
    /// The operation. After every visible instruction of it is a point to be killed or stopped at.
    #[inline(always)]
    pub(crate) fn step<R>(&self, operation: impl FnOnce() -> R) -> R {
        self.begin();
        let result = operation();
        self.end();
        result
    }

    /// The operation begins here: where [`step`](Operation::step) does not fit.
    #[inline(always)]
    pub(crate) fn begin(&self) {
        super::victim::trap();
    }

    /// It ends here.
    #[inline(always)]
    pub(crate) fn end(&self) {
        self.seat.is_completed.store(1, SeqCst);
    }
}

type Before<B> = Box<dyn Fn(&B)>;
type Observer<B> = Box<dyn Fn(&B, u32) -> u64>;
/// What a process does, with its place in the run.
type Script<B, P, R = ()> = Box<dyn Fn(&B, &P) -> R>;

enum Companion<B> {
    Lives(Script<B, Me>),
    Dies { script: Script<B, Operation>, when: Box<dyn Fn(&B) -> bool> },
}

/// What comes of one who is stepped into the middle of an operation before the victim begins its
/// own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is killed there.
    Dies,
    /// It stays there until all others have come to their ends.
    Stops,
}

/// Somebody in the middle of an operation.
struct Peer<B> {
    fate: Fate,
    script: Script<B, Operation>,
    when: Box<dyn Fn(&B) -> bool>,
}

/// A case: how it comes about, the operation, and what must hold after it.
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
    /// The victim's sleep ends by itself.
    pub(crate) expires: bool,
    /// Too long to be stepped through as a whole.
    pub(crate) most_points: Option<usize>,
    /// How many there are, if it is known.
    pub(crate) points: Option<usize>,
    /// Sleepers may be stranded while slices are off, in these modes, and why.
    pub(crate) known_strands: Vec<(Mode, &'static str)>,
}

impl<B: 'static> Case<B> {
    /// A case whose board is `make`'s, anew for each run. The board lies in memory that all share.
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

    /// A process of its own runs this first, and ends without destructors: what it then holds, it
    /// dies with.
    pub(crate) fn before(mut self, script: impl Fn(&B) + 'static) -> Self {
        self.before = Some(Box::new(script));
        self
    }

    /// A process that prepares itself before the victim does, and is stepped through its operation
    /// after that, up to the first instruction after which the board is as `when` says. Of
    /// several each goes that far before the next begins.
    pub(crate) fn peer(
        mut self,
        fate: Fate,
        script: impl Fn(&B, &Operation) + 'static,
        when: impl Fn(&B) -> bool + 'static,
    ) -> Self {
        self.peers.push(Peer { fate, script: Box::new(script), when: Box::new(when) });
        self
    }

    /// A process that comes after the victim has prepared itself. It runs the script until it
    /// sleeps, [pauses](Me::pause) or ends.
    pub(crate) fn companion(mut self, script: impl Fn(&B, &Me) + 'static) -> Self {
        self.companions.push(Companion::Lives(Box::new(script)));
        self
    }

    /// A companion that is stepped through its operation when the victim sleeps, after all others
    /// have gone on, and is killed at the first instruction after which the board is as `when`
    /// says. So the victim is the second to die.
    pub(crate) fn dying(
        mut self,
        script: impl Fn(&B, &Operation) + 'static,
        when: impl Fn(&B) -> bool + 'static,
    ) -> Self {
        self.companions.push(Companion::Dies { script: Box::new(script), when: Box::new(when) });
        self
    }

    /// `count` of them.
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

    /// The victim: what it does before the operation is its preparation, what it does after it only
    /// happens if it lives.
    pub(crate) fn victim(mut self, script: impl Fn(&B, &Operation) + 'static) -> Self {
        self.victim = Box::new(script);
        self
    }

    /// The script of the two processes that come last.
    pub(crate) fn survivor(mut self, script: impl Fn(&B, &Me) + 'static) -> Self {
        self.survivor = Box::new(script);
        self
    }

    /// Whether in this state of the board there is reason to be asleep.
    pub(crate) fn may_wait(mut self, may_wait: impl Fn(&B, &Moment) -> bool + 'static) -> Self {
        self.may_wait = Box::new(may_wait);
        self
    }

    /// What to remember of the board when the victim, whose TID is given, is killed or stopped. It
    /// stands still then.
    pub(crate) fn observe(mut self, observe: impl Fn(&B, u32) -> u64 + 'static) -> Self {
        self.observe = Box::new(observe);
        self
    }

    /// The invariants at the end, when all have ended.
    pub(crate) fn check(
        mut self,
        check: impl Fn(&B, &End) -> Result<(), String> + 'static,
    ) -> Self {
        self.check = Box::new(check);
        self
    }

    /// The victim's sleep ends by its time-out: companions go on pausing while it sleeps.
    pub(crate) fn expires(mut self) -> Self {
        self.traits.expires = true;
        self
    }

    /// It is known how many points the operation has.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_points(mut self, points: usize) -> Self {
        self.traits.points = Some(points);
        self
    }

    /// The operation is long: of its points so many at the most are tried, evenly spread.
    pub(crate) fn most_points(mut self, most: usize) -> Self {
        self.traits.most_points = Some(most);
        self
    }

    /// Sleepers may be stranded in this mode when slices are off; with slices on they may not. Once
    /// for each mode.
    pub(crate) fn known_strand(mut self, mode: Mode, reason: &'static str) -> Self {
        self.traits.known_strands.push((mode, reason));
        self
    }

    fn board(&self) -> &B {
        let board = self.board.get().expect("a run has begun");
        // SAFETY: `place` has written it and `clear`, which ends it, takes it out of the cell. The
        // processes share it as they would `Sync` memory: what is in a board are primitives
        // and atomics, or what does not change.
        unsafe { board.as_ref() }
    }
}

/// A case without its types.
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
        // SAFETY: large and aligned enough, and nothing is alive there: `clear` has ended the board
        // before.
        unsafe { board.write((self.make)()) };
        self.board.set(Some(board));
    }

    fn clear(&self) {
        if let Some(board) = self.board.take() {
            // SAFETY: written by `place`, and taken out of the cell, so nobody uses it after this;
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
