//! Explorations of `Semaphore`.

use crossproc::{Event, Semaphore, SemaphoreError, Waitable, wait_any};
use crossproc_sys::model::explorer::{End, Fate, Script};

use crate::{explore, in_time};

/// The result of a release; an acquisition returns 1.
const RELEASED: u64 = 1 << 32;

fn acquire(shared: &Semaphore, _: &mut ()) -> u64 {
    shared.acquire();
    1
}

fn release(shared: &Semaphore, _: &mut ()) -> u64 {
    shared.release().unwrap();
    RELEASED
}

fn release_two(shared: &Semaphore, _: &mut ()) -> u64 {
    shared.release_many(2).unwrap();
    2 * RELEASED
}

/// Acquires a permit if one comes in time.
fn acquire_in_time() -> impl Fn(&Semaphore, &mut ()) -> u64 {
    let wait = in_time();
    move |shared, ()| match shared.acquire_with(wait) {
        Ok(()) => 1,
        Err(SemaphoreError::TimedOut) => 0,
        Err(error) => panic!("{error}"),
    }
}

/// Asserts that no thread sleeps while there are permits, and that the permits add up. There are
/// `first` at the start, and each was acquired at most once. What is left may differ only by what
/// killed threads did in the middle of an operation.
fn permits_add_up(first: u64) -> impl Fn(&mut End<'_, Semaphore, ()>) {
    move |end| {
        let value = u64::from(end.look(Semaphore::value));
        assert!(
            value == 0 || (0..end.threads()).all(|thread| end.fate(thread) != Fate::Asleep),
            "one sleeps while there are {value} permits"
        );
        let done: u64 =
            (0..end.threads()).map(|thread| end.outputs(thread).iter().sum::<u64>()).sum();
        let (released, acquired) = (done / RELEASED, done % RELEASED);
        // A killed thread may have acquired one more permit, or released two.
        let kills = u64::from(end.kills());
        let (most, least) =
            (first + released + 2 * kills, (first + released).saturating_sub(kills));
        assert!(
            (least..=most).contains(&(value + acquired)),
            "{value} permits are left, and {acquired} were acquired"
        );
    }
}

fn script() -> Script<Semaphore, ()> {
    Script::new(())
}

#[test]
fn nobody_sleeps_while_there_are_permits() {
    let acquirer = || script().then(acquire).then(release);
    explore("semaphore: nobody_sleeps_while_there_are_permits", Semaphore::new(1))
        .thread(acquirer())
        .thread(acquirer())
        .thread(acquirer())
        .thread(acquirer())
        .check(permits_add_up(1))
        .run();
}

#[test]
fn a_time_out_strands_nobody_and_takes_nothing() {
    explore("semaphore: a_time_out_strands_nobody_and_takes_nothing", Semaphore::new(0))
        .thread(script().then(acquire))
        .thread(script().then(acquire))
        .thread(script().then(acquire_in_time()))
        .thread(script().then(release).then(release))
        .check(permits_add_up(0))
        .run();
}

#[test]
fn two_killed_anywhere_strand_nobody() {
    explore("semaphore: two_killed_anywhere_strand_nobody", Semaphore::new(0))
        .thread(script().then(acquire).killable())
        .thread(script().then(acquire).killable())
        .thread(script().then(acquire))
        .thread(script().then(release_two).killable())
        .kills(2)
        .check(permits_add_up(0))
        .run();
}

#[test]
fn one_killed_anywhere_strands_nobody_who_acquires_and_releases() {
    let acquirer = || script().then(acquire).then(release);
    explore(
        "semaphore: one_killed_anywhere_strands_nobody_who_acquires_and_releases",
        Semaphore::new(1),
    )
    .thread(acquirer().killable())
    .thread(acquirer().killable())
    .thread(acquirer())
    .kills(1)
    .check(permits_add_up(1))
    .run();
}

/// Waits for a permit, or for something that never happens. Then it takes the permit, unless
/// another thread is faster; in that case it waits again.
fn watch(event: &'static Event) -> impl Fn(&Semaphore, &mut ()) -> u64 {
    move |shared, ()| {
        while shared.try_acquire().is_err() {
            wait_on(&[event, shared]);
        }
        1
    }
}

/// Waits for a permit without taking it.
fn look_on(shared: &Semaphore, _: &mut ()) -> u64 {
    wait_on(&[shared]);
    0
}

fn wait_on(on: &[&dyn Waitable]) {
    drop(wait_any(on).unwrap());
}

static NEVER: Event = Event::new();

#[test]
fn watchers_and_acquirers_take_all_permits() {
    explore("semaphore: watchers_and_acquirers_take_all_permits", Semaphore::new(0))
        .thread(script().then(watch(&NEVER)))
        .thread(script().then(acquire))
        .thread(script().then(release).then(release))
        .check(permits_add_up(0))
        .run();
}

#[test]
fn a_watcher_killed_anywhere_takes_no_wake_with_it() {
    explore("semaphore: a_watcher_killed_anywhere_takes_no_wake_with_it", Semaphore::new(0))
        .thread(script().then(look_on).killable())
        .thread(script().then(acquire))
        .thread(script().then(acquire))
        .thread(script().then(release).then(release))
        .kills(1)
        .check(permits_add_up(0))
        .run();
}

#[test]
fn a_releaser_killed_anywhere_strands_nobody_beside_a_watcher() {
    explore(
        "semaphore: a_releaser_killed_anywhere_strands_nobody_beside_a_watcher",
        Semaphore::new(0),
    )
    .thread(script().then(look_on))
    .thread(script().then(acquire))
    .thread(script().then(watch(&NEVER)))
    .thread(script().then(release_two).killable())
    .kills(1)
    .check(permits_add_up(0))
    .run();
}

/// The watcher's own entry names the event.
#[test]
fn a_releaser_and_a_watcher_of_two_killed_anywhere_strand_no_acquirer() {
    explore(
        "semaphore: a_releaser_and_a_watcher_of_two_killed_anywhere_strand_no_acquirer",
        Semaphore::new(0),
    )
    .thread(script().then(watch(&NEVER)).killable())
    .thread(script().then(acquire))
    .thread(script().then(release_two).killable())
    .kills(2)
    .check(permits_add_up(0))
    .run();
}

#[test]
fn a_process_with_a_watcher_of_two_and_a_releaser_strands_no_acquirer() {
    explore(
        "semaphore: a_process_with_a_watcher_of_two_and_a_releaser_strands_no_acquirer",
        Semaphore::new(0),
    )
    .thread(script().then(watch(&NEVER)).of_process(0))
    .thread(script().then(acquire))
    .thread(script().then(release_two).of_process(0))
    .kills(1)
    .check(permits_add_up(0))
    .run();
}

/// Asserts that a stopped thread withholds no more than the one wake-up that it may have had.
fn one_wake_up_is_withheld(end: &mut End<'_, Semaphore, ()>) {
    let value = end.look(Semaphore::value);
    let of = |fate| (0..end.threads()).filter(|&thread| end.fate(thread) == fate).count() as u32;
    assert!(
        value <= of(Fate::Stopped) || of(Fate::Asleep) == 0,
        "one sleeps while there are {value} permits"
    );
}

#[test]
fn a_stopped_acquirer_withholds_one_wake_up() {
    explore("semaphore: a_stopped_acquirer_withholds_one_wake_up", Semaphore::new(0))
        .thread(script().then(acquire).stoppable())
        .thread(script().then(acquire).then(acquire))
        .thread(script().then(release))
        .thread(script().then(release).then(release))
        .stops(1)
        .check(one_wake_up_is_withheld)
        .run();
}

#[test]
fn a_stopped_releaser_withholds_one_wake_up() {
    explore("semaphore: a_stopped_releaser_withholds_one_wake_up", Semaphore::new(0))
        .thread(script().then(acquire))
        .thread(script().then(acquire).then(acquire))
        .thread(script().then(release).stoppable())
        .thread(script().then(release).then(release))
        .stops(1)
        .check(one_wake_up_is_withheld)
        .run();
}
