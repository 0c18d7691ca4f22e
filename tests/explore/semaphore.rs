//! Explorations of `Semaphore`.

use crossproc::Semaphore;
use crossproc_sys::model::explorer::Script;

use crate::{LONG, explore};

fn acquire(shared: &Semaphore, _: &mut ()) -> u64 {
    shared.acquire();
    1
}

fn release(shared: &Semaphore, _: &mut ()) -> u64 {
    shared.release().unwrap();
    0
}

/// Takes a permit if one comes in time.
fn acquire_in_time(shared: &Semaphore, _: &mut ()) -> u64 {
    shared.acquire_timeout(LONG).is_ok().into()
}

#[test]
fn nobody_sleeps_while_there_are_permits() {
    let acquirer = || Script::new(()).then(acquire).then(release);
    explore("semaphore: nobody_sleeps_while_there_are_permits", Semaphore::new(1))
        .thread(acquirer())
        .thread(acquirer())
        .thread(acquirer())
        .check(|end| {
            end.assert_nobody_sleeps();
            assert_eq!(end.look(Semaphore::value), 1);
        })
        .run();
}

#[test]
fn a_time_out_strands_nobody_and_takes_nothing() {
    let waiter = || Script::new(()).then(acquire);
    let impatient = || Script::new(()).then(acquire_in_time);
    let releaser = || Script::new(()).then(release);
    explore("semaphore: a_time_out_strands_nobody_and_takes_nothing", Semaphore::new(0))
        .thread(waiter())
        .thread(impatient())
        .thread(releaser().then(release))
        .check(|end| {
            end.assert_nobody_sleeps();
            let taken: u64 = (0..end.threads()).flat_map(|thread| end.outputs(thread)).sum();
            assert_eq!(u64::from(end.look(Semaphore::value)) + taken, 2);
        })
        .run();
}
