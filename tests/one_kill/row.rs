//! A row: one survivor, and many victims one after the other.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crossproc::{Event, Shm};

use crate::forked::fork;
use crate::things::Thing;
use crate::victim::{End, Lot, Sleepers, await_round, cpus, live, pin};

/// The kills of a row if nothing is said.
const KILLS: u32 = 100;
/// How long the survivor may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A row ends when it was stuck so often.
const MOST_STUCK: u32 = 10;
/// Of the first operations of a victim one is aimed at.
const MOST_ROUNDS: u32 = 4;
/// What takes longer than so many seconds is ended by SIGALRM, and the row fails.
const WATCHDOG: u32 = 20;
/// How long the sleepers have to fall asleep.
const TO_FALL_ASLEEP: Duration = Duration::from_micros(60);

/// Where the operator was when it ended: before, in or after the operation that was aimed at.
pub(crate) const BEFORE: u32 = 0;
pub(crate) const INSIDE: u32 = 1;
pub(crate) const AFTER: u32 = 2;

/// The rows have both CPUs to themselves, one after the other.
static ALONE: Mutex<()> = Mutex::new(());

/// When a victim is killed, in nanoseconds after it has started its timer. The earliest and the
/// latest follow from where the others were, so that some come too early, and some too late.
pub(crate) struct Aim {
    earliest: AtomicU32,
    latest: AtomicU32,
}

impl Aim {
    const STEP: u32 = 50;
    /// What `latest` begins with.
    const LATEST: u32 = 12_000;
    /// How often one is too early, and too late: one in so many.
    const RARELY: u32 = 10;

    /// Mostly early: an operation ends with a long system call, and it is about what comes before.
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

/// What all processes of a row share.
pub(crate) struct Table {
    /// How often the victim's operator was about to operate.
    pub(crate) round: AtomicU32,
    /// How many of its sleepers have begun.
    pub(crate) begun: AtomicU32,
    /// What the survivor waits for between its rounds: a futex.
    pub(crate) turn: AtomicU32,
    /// How often the survivor was told to go on: a futex.
    opened: AtomicU32,
    /// The turn in which the survivor waits.
    pub(crate) trying: AtomicU32,
    /// The turn, or the number, up to which the survivor has come.
    pub(crate) passed: AtomicU32,
    /// Where the operator is: [`BEFORE`], [`INSIDE`] or [`AFTER`].
    pub(crate) stage: AtomicU32,
    pub(crate) aim: Aim,
    kills: AtomicU32,
    inside: AtomicU32,
    stuck: AtomicU32,
}

impl Table {
    /// In memory that children inherit, and that is never unmapped.
    fn map() -> &'static Table {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: no address is asked for, so nothing that exists is changed.
        let start = unsafe { libc::mmap(ptr::null_mut(), size_of::<Table>(), prot, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "the table can be mapped");
        let start: NonNull<Table> = NonNull::new(start.cast()).expect("a mapping is not at 0");
        // SAFETY: long enough, page aligned, zeroed, which is a valid table, and never unmapped.
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

    /// Lets the survivor go on, whatever it waits for, and whoever has died on the way to say so.
    pub(crate) fn open(&self) {
        self.opened.fetch_add(1, SeqCst);
        futex_wake(&self.opened);
        futex_wake(&self.turn);
    }

    /// Leaves the CPU to the sleepers, whose turn it is otherwise only by chance. It is aim, not
    /// proof: if they do not sleep yet the kill finds nobody who could take the wake with it, and
    /// no verdict depends on that.
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
    // SAFETY: uses the address only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

pub(crate) struct Row<T> {
    pub(crate) thing: T,
    /// What does not happen.
    pub(crate) never: Shm<Event>,
    pub(crate) table: &'static Table,
    pub(crate) sleepers: Sleepers,
    pub(crate) end: End,
}

/// Kills as many victims as `KILLS` says, and fails if the survivor was ever stuck.
pub(crate) fn run<T: Thing>(sleepers: Sleepers, end: End) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let kills =
        std::env::var("KILLS").map_or(KILLS, |kills| kills.parse().expect("KILLS is a number"));
    let never = Shm::new(Event::new()).expect("there is memory");
    let row = Row { thing: T::new(), never, table: Table::map(), sleepers, end };
    let began = Instant::now();
    // One with a single thread, which can be forked as it is.
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

/// Forks a process that dies with this one, which has one thread.
fn fork_here(body: impl FnOnce()) -> i32 {
    // SAFETY: no arguments.
    let parent = unsafe { libc::getpid() };
    // SAFETY: this process has one thread, so the child may do whatever it could.
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

/// Waits for the end of a child: its status.
fn reap(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: writes the status of a child where its argument points.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child, "it is ours");
    status
}

fn watch_dog() {
    // SAFETY: takes a number; the signal's default ends this process.
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

    /// Whether the survivor gets what is there in time.
    fn settles(&self) -> bool {
        let began = Instant::now();
        self.table.open();
        while !self.thing.is_settled(self.table) {
            if began.elapsed() > PATIENCE {
                return false;
            }
            // It may have had something else before, and rest.
            self.table.open();
            std::thread::yield_now();
        }
        true
    }
}
