//! The process that is killed: a thread that operates, and threads that sleep.

use core::hint;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::Ordering::SeqCst;
use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Instant;

use crossproc::{Event, Waitable, wait_any};
use tokio::runtime::Builder;

use crate::row::{AFTER, BEFORE, INSIDE, Row, Table};
use crate::things::Thing;

/// The number of the victim's threads that sleep.
const SLEEPERS: usize = 3;
/// The longest that the operator waits, in nanoseconds, before the operation that a kill from
/// another CPU is to hit. About the time that it takes from one CPU to the other.
const LEAD: u64 = 80_000;

/// How the victim's other threads sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sleepers {
    /// In the operation that waits.
    Plain,
    /// As futures, for which a thread of the crate sleeps.
    Futures,
    /// In `wait_any`, after something that does not happen.
    AnySecond,
    /// In `wait_any`, before something that does not happen.
    AnyFirst,
}

/// How the victim ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By SIGKILL: from a timer, which takes the operator off its CPU wherever it is, or from
    /// another process.
    Kill,
    /// By `_exit`: in a signal handler that interrupts the operator, or in a thread beside it.
    Exit,
}

/// Returns the CPU for the victim and the CPU for the others. They are the same if there is only
/// one.
pub(crate) fn cpus() -> [usize; 2] {
    // SAFETY: all zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: writes the set, whose size is passed.
    unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    // SAFETY: reads an initialised set, at indices inside it.
    let mut all =
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) });
    let first = all.next().unwrap_or(0);
    [first, all.next().unwrap_or(first)]
}

/// Runs the calling thread, and those that it starts, on these CPUs. Where that is refused, fewer
/// kills hit, and what they show is just as true.
pub(crate) fn pin(cpus: &[usize]) {
    // SAFETY: all zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    for &cpu in cpus {
        // SAFETY: the set is initialised, and the index inside it.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: reads the set, whose size is passed.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

/// Makes a thread that is woken, or killed, wait until the operator is off the CPU. So the sleepers
/// are still queued when the kernel wakes one for the operator.
fn give_way() {
    // SAFETY: integers, for which zero is valid; musl has more of them.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: reads the parameters, for this thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
}

extern "C" fn exit_in_handler(_: libc::c_int) {
    crossproc_sys::process::exit_now(0)
}

/// A timer that ends this process by a signal.
struct Timer(libc::timer_t);

impl Timer {
    fn new(end: End) -> Timer {
        // SAFETY: all zero is a valid value of its fields, which are numbers and pointers.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGKILL;
        if end == End::Exit {
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGUSR1;
            // SAFETY: no arguments.
            event.sigev_notify_thread_id = unsafe { libc::gettid() };
            // SAFETY: the handler makes one system call, which ends the process.
            unsafe {
                libc::signal(libc::SIGUSR1, exit_in_handler as *const () as libc::sighandler_t)
            };
        }
        let mut timer = ptr::null_mut();
        // SAFETY: reads the event, and writes the timer.
        let failed =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        assert_eq!(failed, 0, "there are few timers");
        Timer(timer)
    }

    fn start(&self, nanoseconds: u32) {
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds.max(1).into() };
        let once = libc::itimerspec { it_interval: never, it_value };
        // SAFETY: the timer exists, and the time is only read.
        let failed = unsafe { libc::timer_settime(self.0, 0, &raw const once, ptr::null_mut()) };
        assert_eq!(failed, 0, "a time of less than a second");
    }
}

/// Waits until the operator is about to operate for the `target`th time.
pub(crate) fn await_round(table: &Table, target: u32) {
    while table.round.load(SeqCst) < target {
        thread::yield_now();
    }
}

fn spin_for(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        hint::spin_loop();
    }
}

/// The way in which one victim lives and ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lot {
    /// The number of the operation that is aimed at.
    pub(crate) target: u32,
    /// Whether it is ended from another CPU, and not from the operator's.
    pub(crate) ends_beside: bool,
    /// Whether its threads run on any CPU, and die in any order.
    pub(crate) is_scattered: bool,
}

/// Operates, and ends at about the time that its lot says.
pub(crate) fn live<T: Thing>(row: &Row<T>, lot: Lot) -> ! {
    let Lot { target, ends_beside, is_scattered } = lot;
    let [mine, others] = cpus();
    let Row { thing, never, table, sleepers, end } = row;
    if !is_scattered {
        pin(&[mine]);
    } else {
        pin(&[mine, others]);
    }
    thread::scope(|scope| {
        if ends_beside && *end == End::Exit {
            scope.spawn(move || {
                pin(&[others]);
                await_round(table, target);
                crossproc_sys::process::exit_now(0)
            });
        }
        let has_plain = T::HAS_PLAIN_BESIDE && fastrand::bool();
        for index in 0..SLEEPERS {
            let how = if has_plain && index == 0 { Sleepers::Plain } else { *sleepers };
            scope.spawn(move || {
                if !is_scattered {
                    give_way();
                }
                let _ = catch_unwind(AssertUnwindSafe(|| sleep(thing, never, table, how)));
                // It has panicked, and the exit code shows that to the process that waits for the
                // victim.
                crossproc_sys::process::exit_now(3)
            });
        }
        let timer = Timer::new(*end);
        while (table.begun.load(SeqCst) as usize) < SLEEPERS {
            thread::yield_now();
        }
        loop {
            // The more of them are asleep, the more a kill shows. What it shows is true in any
            // case.
            table.let_them_sleep();
            table.open();
            table.let_them_sleep();
            thing.operate(table, &mut |operation| {
                table.stage.store(BEFORE, SeqCst);
                let is_time = table.round.fetch_add(1, SeqCst) + 1 == target;
                match ends_beside {
                    true if is_time => spin_for(Duration::from_nanos(fastrand::u64(..LEAD))),
                    false if is_time => timer.start(table.aim.delay()),
                    _ => {}
                }
                table.stage.store(INSIDE, SeqCst);
                operation();
                table.stage.store(AFTER, SeqCst);
            });
        }
    })
}

/// Runs a sleeper.
fn sleep<T: Thing>(thing: &T, never: &Event, table: &Table, how: Sleepers) -> ! {
    table.begun.fetch_add(1, SeqCst);
    let watch = |is_first: bool| {
        let watched = thing.watched(|it| {
            let both: [&dyn Waitable; 2] = if is_first { [it, never] } else { [never, it] };
            wait_any(&both).is_ok()
        });
        assert!(watched, "there is memory");
        thing.try_take(table);
    };
    match how {
        Sleepers::Plain => loop {
            thing.wait(table);
        },
        Sleepers::Futures => {
            Builder::new_current_thread().build().expect("there is memory").block_on(async {
                loop {
                    thing.wait_async(table).await;
                }
            })
        }
        Sleepers::AnySecond => loop {
            watch(false);
        },
        Sleepers::AnyFirst => loop {
            watch(true);
        },
    }
}
