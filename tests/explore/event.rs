//! Explorations of `Event`.

use crossproc::{Event, EventError, wait_any};
use crossproc_sys::model::explorer::{End, Fate, Script};

use crate::{explore, in_time};

fn script() -> Script<Event, ()> {
    Script::new(())
}

fn wait(shared: &Event, _: &mut ()) -> u64 {
    shared.wait();
    0
}

fn wait_in_time() -> impl Fn(&Event, &mut ()) -> u64 {
    let wait = in_time();
    move |shared, ()| match shared.wait_with(wait) {
        Ok(()) => 1,
        Err(EventError::TimedOut) => 0,
        Err(error) => panic!("{error}"),
    }
}

fn set(shared: &Event, _: &mut ()) -> u64 {
    shared.set();
    0
}

fn clear(shared: &Event, _: &mut ()) -> u64 {
    shared.clear();
    0
}

/// Asserts that no thread waits for an event that is set.
fn who_waits_waits_for_it(end: &mut End<'_, Event, ()>) {
    let is_set = end.look(Event::is_set);
    assert!(
        !is_set || (0..end.threads()).all(|thread| end.fate(thread) != Fate::Asleep),
        "one waits for an event that is set"
    );
}

#[test]
fn a_set_wakes_all() {
    explore("event: a_set_wakes_all", Event::new())
        .thread(script().then(wait))
        .thread(script().then(wait))
        .thread(script().then(wait_in_time()))
        .thread(script().then(set))
        .run();
}

#[test]
fn two_killed_anywhere_strand_nobody() {
    explore("event: two_killed_anywhere_strand_nobody", Event::new())
        .thread(script().then(wait).killable())
        .thread(script().then(wait).killable())
        .thread(script().then(wait))
        .thread(script().then(set).killable())
        .kills(2)
        .check(who_waits_waits_for_it)
        .run();
}

#[test]
fn nobody_waits_for_what_is_set_after_clears() {
    explore("event: nobody_waits_for_what_is_set_after_clears", Event::new())
        .thread(script().then(wait))
        .thread(script().then(wait))
        .thread(script().then(set))
        .thread(script().then(clear).then(set).killable())
        .kills(1)
        .check(who_waits_waits_for_it)
        .run();
}

static NEVER: Event = Event::new();

/// Waits for the event, or for something that never happens.
fn watch_more(shared: &Event, _: &mut ()) -> u64 {
    drop(wait_any(&[&NEVER, shared]).unwrap());
    0
}

/// The watcher's own entry names the other event.
#[test]
fn a_setter_and_a_watcher_of_two_killed_anywhere_strand_nobody() {
    explore("event: a_setter_and_a_watcher_of_two_killed_anywhere_strand_nobody", Event::new())
        .thread(script().then(watch_more).killable())
        .thread(script().then(wait))
        .thread(script().then(set).killable())
        .kills(2)
        .check(who_waits_waits_for_it)
        .run();
}

#[test]
fn a_process_with_a_watcher_of_two_and_a_setter_strands_nobody() {
    explore("event: a_process_with_a_watcher_of_two_and_a_setter_strands_nobody", Event::new())
        .thread(script().then(watch_more).of_process(0))
        .thread(script().then(wait))
        .thread(script().then(set).of_process(0))
        .kills(1)
        .check(who_waits_waits_for_it)
        .run();
}
