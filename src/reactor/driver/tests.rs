//! Tests of the driver, with words of this process, and wakers that count.

#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::task::{Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crossproc_sys::futex::{self, Watch, WordAddress};
use crossproc_sys::per_process::Current;

use super::{Arm as _, Audience, Driver, Registration};
use crate::wait::set_recheck_interval;

mod children;
mod taking;
mod turns;

/// How long anything may take before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// A waker that counts its calls.
#[derive(Debug, Default)]
struct Calls(AtomicUsize);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Calls {
    fn new() -> (Arc<Self>, Waker) {
        let calls = Arc::<Self>::default();
        (Arc::clone(&calls), Waker::from(calls))
    }

    fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

fn wait_until(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !state() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::yield_now();
    }
}

/// Makes a driver of the test's own, with no slices that hide anything.
fn driver() -> &'static Current<Driver> {
    set_recheck_interval(None);
    Current::make().unwrap()
}

fn key(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word).addr()
}

fn expecting(word: &AtomicU32, expected: u32) -> [WordAddress; 1] {
    [Watch::new(word, expected).into()]
}

/// Registers a waiter for a change of a word from what it is.
fn join(
    driver: &'static Current<Driver>,
    word: &AtomicU32,
    audience: Audience,
) -> (Arc<Calls>, Option<Registration>) {
    let (calls, waker) = Calls::new();
    let mut registration = None;
    driver
        .arm(
            &mut registration,
            key(word),
            (audience, &[]),
            &expecting(word, word.load(SeqCst)),
            &waker,
        )
        .unwrap()
        .1
        .perform();
    (calls, registration)
}

fn change(word: &AtomicU32) {
    change_by(word, 1);
}

fn change_by(word: &AtomicU32, more: u32) {
    word.fetch_add(more, SeqCst);
    futex::wake(word, u32::MAX);
}

/// Returns how many threads sleep on the word in the kernel. The kernel counts them when it
/// requeues all of them to where they are.
fn sleepers(word: &AtomicU32) -> i64 {
    let all = i32::MAX as usize;
    // SAFETY: two addresses of a word that exists; the call reads it and wakes nobody.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_CMP_REQUEUE,
            0_usize,
            all,
            word.as_ptr(),
            word.load(SeqCst),
        )
    }
}

fn wait_until_slept_on(word: &AtomicU32) {
    wait_until("a thread sleeps on the word", || sleepers(word) > 0);
}

fn wait_until_called(calls: &Calls) {
    wait_until("the waker is called", || calls.count() > 0);
}

fn wait_until_gone(driver: &Driver) {
    wait_until("keys and threads are gone", || driver.table().census() == (0, 0));
}

#[test]
fn a_change_notifies_the_first_in_the_line_who_passes_it_on_by_leaving() {
    let driver = driver();
    let word = AtomicU32::new(0);
    let [first, second, third] = [(); 3].map(|()| join(driver, &word, Audience::First));
    wait_until_slept_on(&word);
    change(&word);
    wait_until_called(&first.0);
    assert_eq!((second.0.count(), third.0.count()), (0, 0));
    drop(second.1);
    drop(first.1);
    assert_eq!((first.0.count(), second.0.count(), third.0.count()), (1, 0, 1));
    drop(third.1);
    wait_until_gone(driver);
}

#[test]
fn a_change_notifies_all_where_it_is_for_all() {
    let driver = driver();
    let word = AtomicU32::new(0);
    let waiters = [(); 5].map(|()| join(driver, &word, Audience::All));
    change(&word);
    for (calls, _) in &waiters {
        wait_until_called(calls);
    }
    assert_eq!(driver.table().census(), (1, 1));
    drop(waiters);
    assert_eq!(driver.table().census(), (0, 1));
}

#[test]
fn what_changed_before_the_thread_slept_is_seen() {
    let driver = driver();
    let (word, other) = (AtomicU32::new(7), AtomicU32::new(0));
    let bystander = join(driver, &other, Audience::First);
    let (calls, waker) = Calls::new();
    let mut registration = None;
    // The second of these words is not as expected.
    let words = [expecting(&other, 0)[0], expecting(&word, 6)[0]];
    driver
        .arm(&mut registration, key(&word), (Audience::First, &[]), &words, &waker)
        .unwrap()
        .1
        .perform();
    wait_until_called(&calls);
    wait_until_slept_on(&other);
    assert_eq!(bystander.0.count(), 0);
}

#[test]
fn a_wake_without_a_change_is_told() {
    let driver = driver();
    let word = AtomicU32::new(0);
    let (calls, _registration) = join(driver, &word, Audience::First);
    wait_until_slept_on(&word);
    assert_eq!(futex::wake(&word, 1), 1);
    wait_until_called(&calls);
}

#[test]
fn two_wakes_at_once_without_a_change_are_told() {
    let driver = driver();
    let words = [const { AtomicU32::new(0) }; 3];
    let waiters = [0, 1, 2].map(|word| join(driver, &words[word], Audience::First));
    words.iter().for_each(wait_until_slept_on);
    // The words at the lowest and at the highest address, so that one wake is hidden whatever the
    // order.
    // SAFETY: two words that exist. FUTEX_OP_ADD adds 0 to the second, and FUTEX_OP_CMP_EQ with 0
    // is true of it: one sleeper of each is woken.
    let woken = unsafe {
        libc::syscall(
            libc::SYS_futex,
            words[0].as_ptr(),
            libc::FUTEX_WAKE_OP,
            1_usize,
            1_usize,
            words[2].as_ptr(),
            1 << 28,
        )
    };
    assert_eq!(woken, 2);
    wait_until_called(&waiters[0].0);
    wait_until_called(&waiters[2].0);
}

#[test]
fn a_wake_that_nobody_is_registered_for_any_more_is_passed_on() {
    let driver = driver();
    let word = AtomicU32::new(0);
    let (_, registration) = join(driver, &word, Audience::First);
    wait_until_slept_on(&word);
    let sleeper_is_awake = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = crossproc_sys::clock::now() + 2 * PATIENCE.as_nanos() as u64;
            sleeper_is_awake
                .store(futex::wait(&word, 0, Some(deadline)) == futex::Awake::Woken, SeqCst);
        });
        wait_until("two sleep on the word", || sleepers(&word) == 2);
        // The waiter has left. The driver's thread, which is the first of the two, does not know
        // that yet.
        let registration = registration.unwrap();
        let (_, after) = driver.table().leave(registration.key, registration.id, None);
        std::mem::forget(registration);
        assert_eq!(futex::wake(&word, 1), 1);
        wait_until("the other one is awake", || sleeper_is_awake.load(SeqCst));
        after.perform();
    });
}

#[test]
fn a_word_that_nobody_is_registered_for_is_slept_on_no_longer() {
    let driver = driver();
    let (kept, left) = (AtomicU32::new(0), AtomicU32::new(0));
    let _kept = join(driver, &kept, Audience::First);
    let leaving = join(driver, &left, Audience::First);
    wait_until_slept_on(&left);
    drop(leaving);
    wait_until("nobody sleeps on the word", || sleepers(&left) == 0);
    wait_until_slept_on(&kept);
}

#[test]
fn a_newcomer_with_other_words_stands_for_all() {
    let driver = driver();
    let word = AtomicU32::new(0);
    let older = join(driver, &word, Audience::First);
    let newer_word = AtomicU32::new(0);
    let (newer, waker) = Calls::new();
    let mut registration = None;
    driver
        .arm(
            &mut registration,
            key(&word),
            (Audience::First, &[]),
            &expecting(&newer_word, 0),
            &waker,
        )
        .unwrap()
        .1
        .perform();
    wait_until_slept_on(&newer_word);
    // No thread sleeps on the earlier words any more.
    assert_eq!(futex::wake(&word, 1), 0);
    change(&newer_word);
    wait_until_called(&older.0);
    assert_eq!(newer.count(), 0);
}

#[test]
fn a_newcomer_with_other_words_tells_those_who_missed_something_for_all() {
    let driver = driver();
    let word = AtomicU32::new(0);
    let [first, second] = [(); 2].map(|()| join(driver, &word, Audience::All));
    word.store(1, SeqCst);
    let third = join(driver, &word, Audience::All);
    assert_eq!((first.0.count(), second.0.count(), third.0.count()), (1, 1, 0));
}

#[test]
fn one_on_duty_arms_the_key_for_the_others() {
    let driver = driver();
    let word = AtomicU32::new(0);
    let [first, second] = [(); 2].map(|()| join(driver, &word, Audience::First));
    change(&word);
    wait_until_called(&first.0);
    first.1.unwrap().leave(|| Some(expecting(&word, word.load(SeqCst)).to_vec())).1.perform();
    assert_eq!(second.0.count(), 0);
    wait_until_slept_on(&word);
    change(&word);
    wait_until_called(&second.0);
    // No waiter depends on the last one.
    second.1.unwrap().leave(|| unreachable!("nobody waits")).1.perform();
    assert_eq!(driver.table().census(), (0, 1));
}

#[test]
fn one_who_looks_in_vain_keeps_its_place() {
    let driver = driver();
    let word = AtomicU32::new(0);
    let [mut first, second] = [(); 2].map(|()| join(driver, &word, Audience::First));
    for _ in 0..100 {
        let before = first.0.count();
        change(&word);
        // The wake may come after the change was told, and be told, too.
        wait_until("the first is notified", || first.0.count() > before);
        let waker = Waker::from(Arc::clone(&first.0));
        driver
            .arm(
                &mut first.1,
                key(&word),
                (Audience::First, &[]),
                &expecting(&word, word.load(SeqCst)),
                &waker,
            )
            .unwrap()
            .1
            .perform();
    }
    assert_eq!(second.0.count(), 0);
}

#[test]
fn unmapped_words_are_told_and_others_are_watched_on() {
    let driver = driver();
    let kept = AtomicU32::new(0);
    let bystander = join(driver, &kept, Audience::First);
    let page = crossproc_sys::pages::map_wiped_on_fork(4096).unwrap();
    // SAFETY: zeroed pages.
    let word = unsafe { page.cast::<AtomicU32>().as_ref() };
    let gone = join(driver, word, Audience::First);
    wait_until_slept_on(word);
    // SAFETY: the page was mapped above; `word` is not used any more.
    assert_eq!(unsafe { libc::munmap(page.as_ptr(), 4096) }, 0);
    // The thread gets up for this waiter, and goes to sleep on all three words then.
    let third_word = AtomicU32::new(0);
    let third = join(driver, &third_word, Audience::First);
    wait_until_called(&gone.0);
    wait_until_slept_on(&kept);
    assert_eq!((bystander.0.count(), third.0.count()), (0, 0));
    change(&kept);
    wait_until_called(&bystander.0);
    drop(gone);
    drop((bystander, third));
    wait_until_gone(driver);
}

#[test]
fn a_thousand_keys_have_eight_threads_which_end() {
    let driver = driver();
    let words: Vec<AtomicU32> = (0..1_000).map(AtomicU32::new).collect();
    let mut waiters: Vec<_> =
        words.iter().map(|word| Some(join(driver, word, Audience::First))).collect();
    assert_eq!(driver.table().census(), (1_000, 1_000_usize.div_ceil(127)));
    let mut order: Vec<usize> = (0..1_000).collect();
    fastrand::shuffle(&mut order);
    for (done, &at) in order.iter().enumerate() {
        change(&words[at]);
        wait_until_called(&waiters[at].as_ref().unwrap().0);
        if done % 100 == 0 {
            driver.table().check();
        }
        waiters[at] = None;
    }
    assert_eq!(driver.table().census().0, 0);
    wait_until_gone(driver);
}

#[test]
fn a_key_that_outgrows_its_thread_moves() {
    let driver = driver();
    let words: Vec<AtomicU32> = (0..100).map(AtomicU32::new).collect();
    let all: Vec<WordAddress> =
        words.iter().map(|word| expecting(word, word.load(SeqCst))[0]).collect();
    let mut waiters: Vec<_> = (0..2).map(|at| (Calls::new(), key(&words[at]), None)).collect();
    for count in [40, 100, 20] {
        for ((_, waker), key, registration) in &mut waiters {
            driver
                .arm(registration, *key, (Audience::First, &[]), &all[..count], waker)
                .unwrap()
                .1
                .perform();
            driver.table().check();
        }
    }
    assert_eq!(driver.table().census(), (2, 2));
    wait_until_slept_on(&words[19]);
    change(&words[19]);
    for ((calls, _), ..) in &waiters {
        wait_until_called(calls);
    }
}

/// A waker that comes back to the driver, and then panics.
struct Nuisance(Arc<AtomicBool>, &'static Current<Driver>, &'static AtomicU32);

impl Wake for Nuisance {
    fn wake(self: Arc<Self>) {
        drop(join(self.1, self.2, Audience::First));
        self.0.store(true, SeqCst);
        panic!("on purpose");
    }
}

#[test]
fn a_waker_may_come_back_to_the_driver_and_may_panic() {
    static WORD: AtomicU32 = AtomicU32::new(0);
    let driver = driver();
    let called = Arc::new(AtomicBool::new(false));
    let waker = Waker::from(Arc::new(Nuisance(Arc::clone(&called), driver, &WORD)));
    let mut registration = None;
    driver
        .arm(&mut registration, key(&WORD), (Audience::All, &[]), &expecting(&WORD, 0), &waker)
        .unwrap()
        .1
        .perform();
    let other = join(driver, &WORD, Audience::All);
    change(&WORD);
    wait_until("the waker is called", || called.load(SeqCst));
    wait_until_called(&other.0);
}
