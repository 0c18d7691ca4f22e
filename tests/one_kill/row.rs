//! A row: one survivor, and many victims, one after the other.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crossproc::{Event, Shm};

use crate::forked::fork;
use crate::things::Thing;
use crate::victim::{End, Lot, Sleepers, await_round, cpus, live, pin};

/// The number of kills in a row, unless `KILLS` says otherwise.
const KILLS: u32 = 100;
/// The longest that the survivor may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A row ends when the survivor was stuck this often.
const MOST_STUCK: u32 = 10;
/// The operation that is aimed at is among this many first ones of a victim.
const MOST_ROUNDS: u32 = 4;
/// SIGALRM ends any process that takes more seconds than this, and the row fails.
const WATCHDOG: u32 = 20;
/// The time that the sleepers have to fall asleep.
const TO_FALL_ASLEEP: Duration = Duration::from_micros(60);

/// The operator's place when it ended: before, in or after the operation that was aimed at.
pub(crate) const BEFORE: u32 = 0;
pub(crate) const INSIDE: u32 = 1;
pub(crate) const AFTER: u32 = 2;

/// Held by the running row: each row has both CPUs to itself.
static ALONE: Mutex<()> = Mutex::new(());

/// When a victim is killed, in nanoseconds after it has started its timer. The bounds follow from
/// where earlier victims were hit, so that some kills come too early, and some too late.
pub(crate) struct Aim {
    earliest: AtomicU32,
    latest: AtomicU32,
}

impl Aim {
    const STEP: u32 = 50;
    /// The initial value of `latest`.
    const LATEST: u32 = 12_000;
    /// One in this many kills is too early, and one too late.
    const RARELY: u32 = 10;

    /// Returns a delay that is mostly short. An operation ends with a long system call, and what
    /// matters comes before it.
    pub(crate) fn delay(&self) -> u32 {
        let (earliest, latest) = (self.earliest.load(SeqCst), self.latest.load(SeqCst));
        let share = fastrand::f64();
        earliest + (f64::from(latest - earliest) * share * share) as u32
    }

    fn learn(&self, stage: u32) {
        let (earliest, latest) = (self.earliest.load(SeqCst), self.latest.load(SeqCst));
        let up = |from: u32, is_far: bool| {
            from + if is_far { Self::STEP * Self::RARELY } else { Self::STEP }
        };
        let down = |from: u32, is_far: bool| {
            from.saturating_sub(if is_far { Self::STEP * Self::RARELY } else { Self::STEP })
        };
        let earliest = if stage == BEFORE { up(earliest, true) } else { down(earliest, false) };
        let latest = if stage == AFTER { down(latest, true) } else { up(latest, false) };
        self.earliest.store(earliest, SeqCst);
        self.latest.store(latest.max(earliest + 10 * Self::STEP), SeqCst);
    }
}

/// The memory that all processes of a row share.
pub(crate) struct Table {
    /// How often the victim's operator was about to operate.
    pub(crate) round: AtomicU32,
    /// How many of the victim's sleepers have begun.
    pub(crate) begun: AtomicU32,
    /// What the survivor waits for between its rounds: a futex.
    pub(crate) turn: AtomicU32,
    /// How often the survivor was told to go on: a futex.
    opened: AtomicU32,
    /// The turn in which the survivor waits.
    pub(crate) trying: AtomicU32,
    /// The turn, or the number, that the survivor has reached.
    pub(crate) passed: AtomicU32,
    /// The operator's place: [`BEFORE`], [`INSIDE`] or [`AFTER`].
    pub(crate) stage: AtomicU32,
    pub(crate) aim: Aim,
    kills: AtomicU32,
    inside: AtomicU32,
    stuck: AtomicU32,
}

impl Table {
    /// Maps the table, in memory that children inherit, and that is never unmapped.
    fn map() -> &'static Table {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: no address is requested, so no existing mapping is changed.
        let start = unsafe { libc::mmap(ptr::null_mut(), size_of::<Table>(), prot, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "the table can be mapped");
        let start: NonNull<Table> = NonNull::new(start.cast()).expect("a mapping is not at 0");
        // SAFETY: long enough, page aligned and never unmapped. It is zeroed, which is a valid
        // table.
        let table = unsafe { start.as_ref() };
        table.aim.latest.store(Aim::LATEST, SeqCst);
        table
    }

    /// Waits until this turn, or a later one.
    pub(crate) fn await_turn(&self, turn: u32) {
        let mut now = self.turn.load(SeqCst);
        while now < turn {
            futex_wait(&self.turn, now);
            now = self.turn.load(SeqCst);
        }
    }

    /// Begins a turn.
    pub(crate) fn next_turn(&self, turn: u32) {
        self.turn.store(turn, SeqCst);
        futex_wake(&self.turn);
    }

    /// Waits until the victim's sleepers have gone to sleep again, so that they are woken first.
    pub(crate) fn rest(&self) {
        futex_wait(&self.opened, self.opened.load(SeqCst));
    }

    /// Lets the survivor go on, whatever it waits for, even if the process that was to say so has
    /// died.
    pub(crate) fn open(&self) {
        self.opened.fetch_add(1, SeqCst);
        futex_wake(&self.opened);
        futex_wake(&self.turn);
    }

    /// Leaves the CPU to the sleepers, which otherwise get their turn only by chance. This is aim,
    /// not proof: if they do not sleep yet, no dying sleeper can take the wake with it. No verdict
    /// depends on it.
    pub(crate) fn let_them_sleep(&self) {
        std::thread::sleep(TO_FALL_ASLEEP);
    }
}

fn futex_wait(word: &AtomicU32, seen: u32) {
    let no_timeout = ptr::null::<libc::timespec>();
    // SAFETY: reads an aligned word that is mapped as long as it is borrowed.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, no_timeout) };
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: uses only the address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

pub(crate) struct Row<T> {
    pub(crate) thing: T,
    /// An event that never happens.
    pub(crate) never: Shm<Event>,
    pub(crate) table: &'static Table,
    pub(crate) sleepers: Sleepers,
    pub(crate) end: End,
}

/// Kills as many victims as `KILLS` says. Fails if the survivor was ever stuck.
pub(crate) fn run<T: Thing>(sleepers: Sleepers, end: End) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let kills =
        std::env::var("KILLS").map_or(KILLS, |kills| kills.parse().expect("KILLS is a number"));
    let never = Shm::new(Event::new()).expect("there is memory");
    let row = Row { thing: T::new(), never, table: Table::map(), sleepers, end };
    let began = Instant::now();
    // A process with a single thread, which can fork freely.
    let driver = fork(|| row.drive(kills));
    let status = driver.join().expect("it is ours");
    let (done, stuck) = (row.table.kills.load(SeqCst), row.table.stuck.load(SeqCst));
    let per_kill = began.elapsed().as_secs_f64() * 1e3 / f64::from(done.max(1));
    let inside = row.table.inside.load(SeqCst);
    println!(
        "{} beside {sleepers:?}, {end:?}: {done} kills, {stuck} stuck; {inside} in the \
         operation, {per_kill:.2} ms each",
        T::NAME
    );
    assert!(status.success(), "the driver ended with {status}");
    assert_eq!(stuck, 0, "a survivor slept on for {PATIENCE:?}");
    assert_eq!(done, kills, "all were killed");
}

/// Forks a child of this single-threaded process. The child dies with its parent.
fn fork_here(body: impl FnOnce()) -> i32 {
    // SAFETY: no arguments.
    let parent = unsafe { libc::getpid() };
    // SAFETY: this process has one thread, so the child may do whatever its parent could.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            // SAFETY: takes numbers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            // SAFETY: no arguments.
            if unsafe { libc::getppid() } == parent {
                body();
            }
            crossproc_sys::process::exit_now(0)
        }
        child => child,
    }
}

/// Waits for the end of a child, and returns its status.
fn reap(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: writes the status of a child where its argument points.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child, "it is ours");
    status
}

fn watch_dog() {
    // SAFETY: takes a number; the signal's default action ends this process.
    unsafe { libc::alarm(WATCHDOG) };
}

fn kill(child: i32) {
    // SAFETY: signals a child that was not reaped.
    unsafe { libc::kill(child, libc::SIGKILL) };
}

impl<T: Thing> Row<T> {
    fn drive(&self, kills: u32) {
        let [_, others] = cpus();
        pin(&[others]);
        let survivor = fork_here(|| {
            loop {
                self.thing.survive(self.table);
            }
        });
        for _ in 0..kills {
            watch_dog();
            self.have_one_die();
            self.table.kills.fetch_add(1, SeqCst);
            if !self.settles() {
                self.thing.mend(self.table);
                if self.table.stuck.fetch_add(1, SeqCst) + 1 == MOST_STUCK {
                    break;
                }
            }
            self.thing.go_on(self.table);
        }
        kill(survivor);
        let status = reap(survivor);
        assert!(
            libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL,
            "the survivor has lived until now"
        );
    }

    /// Lets a victim live for some rounds, and end.
    fn have_one_die(&self) {
        let table = self.table;
        table.round.store(0, SeqCst);
        table.begun.store(0, SeqCst);
        table.stage.store(BEFORE, SeqCst);
        let lot = Lot {
            // In the first round the survivor sleeps before the victim's sleepers.
            target: fastrand::u32(2..=MOST_ROUNDS),
            ends_beside: fastrand::u8(0..4) == 0,
            is_scattered: fastrand::u8(0..4) == 0,
        };
        let victim = fork_here(|| {
            watch_dog();
            live(self, lot)
        });
        if lot.ends_beside && self.end == End::Kill {
            await_round(table, lot.target);
            kill(victim);
        }
        let status = reap(victim);
        let is_right = match self.end {
            End::Kill => libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL,
            End::Exit => libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        };
        assert!(is_right, "the victim ended with {status:#x}");
        let stage = table.stage.load(SeqCst);
        if !lot.ends_beside {
            table.aim.learn(stage);
        }
        table.inside.fetch_add(u32::from(stage == INSIDE), SeqCst);
    }

    /// Returns whether the survivor gets what is there in time.
    fn settles(&self) -> bool {
        let began = Instant::now();
        self.table.open();
        while !self.thing.is_settled(self.table) {
            if began.elapsed() > PATIENCE {
                return false;
            }
            // It may have taken something else before, and be resting.
            self.table.open();
            std::thread::yield_now();
        }
        true
    }
}
