//! Threads take from a pile through the driver, and change their minds at any time. None of them
//! waits while there is something to take.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crossproc_sys::per_process::Current;

use super::{
    Audience, Driver, PATIENCE, Registration, change_by, driver, expecting, key, wait_until,
    wait_until_gone,
};
use crate::reactor::driver::Arm as _;

/// A waker that has a thread go on.
#[derive(Debug, Default)]
struct Bell(Mutex<bool>, Condvar);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
}

impl Bell {
    /// Returns whether it has rung in time.
    fn wait(&self, time: Duration) -> bool {
        let (mut rung, _) =
            self.1.wait_timeout_while(self.0.lock().unwrap(), time, |rung| !*rung).unwrap();
        core::mem::take(&mut *rung)
    }
}

/// Bits 0-15: how many things there are. The rest: how often something was put.
#[derive(Debug, Default)]
struct Pile(AtomicU32);

const THERE: u32 = 0xffff;
const ONE_PUT: u32 = 0x1_0001;

impl Pile {
    fn put(&self) {
        change_by(&self.0, ONE_PUT);
    }

    /// Takes one thing, or returns the word.
    fn take(&self) -> Result<(), u32> {
        self.0
            .fetch_update(
                SeqCst,
                SeqCst,
                |seen| if seen & THERE == 0 { None } else { Some(seen - 1) },
            )
            .map(|_| ())
    }

    /// Returns the word, if there is nothing.
    fn look(&self) -> Option<u32> {
        Some(self.0.load(SeqCst)).filter(|seen| seen & THERE == 0)
    }
}

/// Takes one thing, or gives up in the end. Returns whether it has taken one.
fn take(driver: &'static Current<Driver>, pile: &Pile, patience: Duration) -> bool {
    let bell = Arc::<Bell>::default();
    let waker = Waker::from(Arc::clone(&bell));
    let mut registration: Option<Registration> = None;
    let deadline = Instant::now() + patience;
    while let Err(seen) = pile.take() {
        driver
            .arm(
                &mut registration,
                key(&pile.0),
                (Audience::First, &[]),
                &expecting(&pile.0, seen),
                &waker,
            )
            .unwrap()
            .1
            .perform();
        if !bell.wait(deadline.saturating_duration_since(Instant::now())) {
            // The waiter may be notified at this moment.
            return false;
        }
    }
    if let Some(registration) = registration.filter(|_| fastrand::bool()) {
        registration
            .leave(|| pile.look().map(|seen| expecting(&pile.0, seen).to_vec()))
            .1
            .perform();
    }
    true
}

/// Has threads take what is put: some that never give up, one for each pile, and others that always
/// do.
fn take_all(piles: usize, fickle: usize, count: usize) {
    let driver = driver();
    let piles: Vec<Pile> = (0..piles).map(|_| Pile::default()).collect();
    let (taken, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for taker in 0..piles.len() + fickle {
            let (pile, is_patient) = (&piles[taker % piles.len()], taker < piles.len());
            let (taken, is_over) = (&taken, &is_over);
            scope.spawn(move || {
                while !is_over.load(SeqCst) {
                    let patience = if is_patient {
                        PATIENCE
                    } else {
                        Duration::from_micros(fastrand::u64(..300))
                    };
                    let has_taken = take(driver, pile, patience);
                    assert!(has_taken || !is_patient, "one that waits was forgotten");
                    taken.fetch_add(usize::from(has_taken), SeqCst);
                }
            });
        }
        for put in 0..count {
            piles[put % piles.len()].put();
            let ahead = fastrand::usize(..8);
            wait_until("enough is taken", || taken.load(SeqCst) + ahead > put);
        }
        wait_until("all is taken", || taken.load(SeqCst) == count);
        is_over.store(true, SeqCst);
        // For the threads that still wait.
        piles.iter().for_each(|pile| (0..=fickle).for_each(|_| pile.put()));
    });
    driver.table().check();
    wait_until_gone(driver);
}

#[test]
fn nothing_is_lost_by_those_who_give_up_on_one_key() {
    take_all(1, 5, 10_000);
}

#[test]
fn nothing_is_lost_by_those_who_give_up_on_several_keys() {
    take_all(3, 6, 10_000);
}
