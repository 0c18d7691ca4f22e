//! Tests that the explorer sees what there is to be seen.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::futex::{self, Awake, Watch};
use crossproc_sys::model::explorer::{End, Fate, Script};
use crossproc_sys::robust::{self, Holding, OWNER_DIED, RobustWord};

use crate::explore;

type Words = [AtomicU32; 2];

fn words() -> Words {
    [const { AtomicU32::new(0) }; 2]
}

/// The set of ends that an exploration comes to.
struct Ends<T>(Rc<RefCell<BTreeSet<T>>>);

impl<T: Ord + Clone + 'static> Ends<T> {
    fn new() -> Self {
        Ends(Rc::default())
    }

    fn note<S: 'static>(
        &self,
        of: impl Fn(&mut End<'_, S, ()>) -> T + 'static,
    ) -> impl Fn(&mut End<'_, S, ()>) + 'static {
        let ends = Rc::clone(&self.0);
        move |end| _ = ends.borrow_mut().insert(of(end))
    }

    fn all(&self) -> Vec<T> {
        self.0.borrow().iter().cloned().collect()
    }
}

fn add_one_carelessly(words: &Words, _: &mut ()) -> u64 {
    words[0].store(words[0].load(Relaxed) + 1, Relaxed);
    0
}

#[test]
fn each_result_of_a_race_is_seen() {
    let ends = Ends::new();
    let adder = || Script::new(()).then(add_one_carelessly);
    explore("explorer: each_result_of_a_race_is_seen", words())
        .thread(adder())
        .thread(adder().then(add_one_carelessly))
        .check(ends.note(|end| end.look(|words: &Words| words[0].load(Relaxed))))
        .run();
    assert_eq!(ends.all(), [1, 2, 3]);
}

fn sleep(words: &Words, _: &mut ()) -> u64 {
    u64::from(futex::wait(&words[0], 0, None) == Awake::Woken)
}

fn change_and_wake(words: &Words, _: &mut ()) -> u64 {
    words[0].store(1, Relaxed);
    futex::wake(&words[0], 1).into()
}

#[test]
fn a_sleep_is_woken_or_does_not_begin() {
    let ends = Ends::new();
    explore("explorer: a_sleep_is_woken_or_does_not_begin", words())
        .thread(Script::new(()).then(sleep))
        .thread(Script::new(()).then(change_and_wake))
        .check(ends.note(|end| (end.outputs(0)[0], end.outputs(1)[0])))
        .run();
    // Each time the waker knows whether it woke the sleeper.
    assert_eq!(ends.all(), [(0, 0), (1, 1)]);
}

#[test]
#[should_panic(expected = "[0, 1] sleep")]
fn whoever_nobody_wakes_is_found() {
    explore("explorer: whoever_nobody_wakes_is_found", words())
        .thread(Script::new(()).then(sleep))
        .thread(Script::new(()).then(sleep))
        .run();
}

#[test]
fn the_last_of_the_words_that_were_woken_is_told() {
    let ends = Ends::new();
    let wait = |words: &Words, (): &mut ()| {
        let (awake, through) =
            futex::wait_any_of(&[Watch::new(&words[0], 0), Watch::new(&words[1], 0)], None)
                .unwrap();
        assert_eq!(awake, Awake::Woken);
        through as u64
    };
    let wake = |words: &Words, (): &mut ()| {
        u64::from(futex::wake(&words[0], 1)) * 2 + u64::from(futex::wake(&words[1], 1))
    };
    let of = |end: &mut End<'_, Words, ()>| (end.outputs(0).first().copied(), end.outputs(1)[0]);
    explore("explorer: the_last_of_the_words_that_were_woken_is_told", words())
        .thread(Script::new(()).then(wait))
        .thread(Script::new(()).then(wake))
        .check(ends.note(of))
        .run();
    // The sleeper came too late; it left before the second wake; it came between the two; both
    // wakes reached it.
    assert_eq!(ends.all(), [(None, 0), (Some(0), 2), (Some(1), 1), (Some(1), 3)]);
}

fn take(word: &RobustWord, _: &mut ()) -> u64 {
    let thread = robust::current().unwrap();
    let slot = thread.slot_for(word).unwrap();
    thread.begin(word.word());
    word.word().swap(thread.tid(), Relaxed);
    thread.link(slot, word, Holding::BY_GUARD);
    thread.end();
    0
}

#[test]
fn the_kernel_marks_what_the_dead_held_or_worked_on() {
    let ends = Ends::new();
    explore("explorer: the_kernel_marks_what_the_dead_held_or_worked_on", RobustWord::new())
        .thread(Script::new(()).then(take).killable())
        .kills(1)
        .check(ends.note(|end| {
            (end.fate(0) == Fate::Killed, end.look(|word: &RobustWord| word.word().load(Relaxed)))
        }))
        .run();
    assert_eq!(ends.all(), [(false, 1), (true, 0), (true, OWNER_DIED)]);
}

#[test]
#[should_panic(expected = "alone does not finish")]
fn whoever_waits_for_another_without_sleeping_is_found() {
    let spin = |words: &Words, (): &mut ()| {
        while words[0].load(Relaxed) == 0 {}
        0
    };
    explore("explorer: whoever_waits_for_another_without_sleeping_is_found", words())
        .thread(Script::new(()).then(spin))
        .thread(Script::new(()).then(change_and_wake))
        .run();
}
