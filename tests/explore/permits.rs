//! Explorations of `Permits`.

use crossproc::{Permits, PermitsError};
use crossproc_sys::model::explorer::{End, Fate, Script};

use crate::{explore, in_time};

fn acquire_and_release<const N: usize>(shared: &Permits<N>, _: &mut ()) -> u64 {
    drop(shared.acquire().unwrap());
    1
}

fn acquire_and_release_in_time<const N: usize>() -> impl Fn(&Permits<N>, &mut ()) -> u64 {
    let wait = in_time();
    move |shared, ()| match shared.acquire_with(wait) {
        Ok(_permit) => 1,
        Err(PermitsError::TimedOut) => 0,
        Err(error) => panic!("{error}"),
    }
}

/// Asserts that all permits are free and that no thread sleeps. A killed thread keeps no permit.
fn all_are_there<const N: usize>(end: &mut End<'_, Permits<N>, ()>) {
    let value = end.look(Permits::value);
    let asleep = (0..end.threads()).filter(|&thread| end.fate(thread) == Fate::Asleep).count();
    assert_eq!((value, asleep), (N, 0), "permits that are left, and those who sleep");
}

fn script<const N: usize>() -> Script<Permits<N>, ()> {
    Script::new(())
}

/// A fourth thread would make too many states.
#[test]
fn nobody_sleeps_while_the_permit_is_free() {
    let thread = || script().then(acquire_and_release::<1>);
    explore("permits: nobody_sleeps_while_the_permit_is_free", Permits::<1>::new())
        .thread(thread())
        .thread(thread())
        .thread(thread())
        .check(all_are_there)
        .run();
}

#[test]
fn nobody_sleeps_while_one_of_two_is_free() {
    let thread = || script().then(acquire_and_release::<2>);
    explore("permits: nobody_sleeps_while_one_of_two_is_free", Permits::<2>::new())
        .thread(thread())
        .thread(thread())
        .thread(thread())
        .check(all_are_there)
        .run();
}

#[test]
fn a_time_out_strands_nobody() {
    explore("permits: a_time_out_strands_nobody", Permits::<1>::new())
        .thread(script().then(acquire_and_release::<1>))
        .thread(script().then(acquire_and_release::<1>))
        .thread(script().then(acquire_and_release_in_time()))
        .check(all_are_there)
        .run();
}

/// Explores with two of the three threads killable, and at most `kills` kills.
fn killed_anywhere(name: &str, kills: u32) {
    let thread = || script().then(acquire_and_release::<1>);
    explore(name, Permits::<1>::new())
        .thread(thread().killable())
        .thread(thread().killable())
        .thread(thread())
        .kills(kills)
        .check(all_are_there)
        .run();
}

#[test]
fn one_killed_anywhere_strands_nobody() {
    killed_anywhere("permits: one_killed_anywhere_strands_nobody", 1);
}

#[test]
fn two_killed_anywhere_strand_nobody() {
    killed_anywhere("permits: two_killed_anywhere_strand_nobody", 2);
}
