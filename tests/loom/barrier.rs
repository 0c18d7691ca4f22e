//! Models of `Barrier`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crossproc::{Barrier, BarrierError};
use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::{End, expire, participant};

use crate::{Watched, join, join_all, kill_model, model, share, spawn};

const LONG: Duration = Duration::from_secs(3600);

fn pass(shared: &Barrier) {
    shared.wait().unwrap();
}

/// Arrives in place of a victim that died before it could.
fn stand_in_for(victim: End, shared: &Barrier) {
    if victim.writes == 0 {
        participant(9, None, || pass(shared));
    }
}

/// A barrier, with the indices and the number of leaders of its phases.
#[derive(Debug)]
struct Noted {
    barrier: Barrier,
    indices: [AtomicU32; 2],
    leaders: [AtomicU32; 2],
}

fn noted(parties: u32) -> std::sync::Arc<Noted> {
    share(Noted {
        barrier: Barrier::new(parties),
        indices: Default::default(),
        leaders: Default::default(),
    })
}

fn pass_noting(shared: &Noted, phase: usize) {
    let passed = shared.barrier.wait().unwrap();
    let bit = 1 << passed.index();
    assert_eq!(
        shared.indices[phase].fetch_or(bit, Relaxed) & bit,
        0,
        "two have the index {}",
        passed.index()
    );
    shared.leaders[phase].fetch_add(u32::from(passed.is_leader()), Relaxed);
}

fn pass_twice_noting(shared: &Noted) {
    pass_noting(shared, 0);
    pass_noting(shared, 1);
}

fn assert_noted(shared: &Noted, phases: usize) {
    for phase in 0..phases {
        let indices = (1 << shared.barrier.parties()) - 1;
        assert_eq!(
            (shared.indices[phase].load(Relaxed), shared.leaders[phase].load(Relaxed)),
            (indices, 1)
        );
    }
}

#[test]
fn the_parties_see_what_the_others_wrote() {
    model("barrier: the_parties_see_what_the_others_wrote", Look, Some(2), || {
        let shared = share((Barrier::new(2), [Watched::default(), Watched::default()]));
        let parties = [0, 1].map(|own| {
            spawn(own as u32 + 1, None, &shared, move |(shared, data)| {
                data[own].add(1);
                pass(shared);
                assert_eq!(data[1 - own].get(), 1);
                pass(shared);
                // The other party has read it, and writes elsewhere.
                data[own].add(1);
            })
        });
        join_all(parties);
    });
}

#[test]
fn the_first_of_three_sees_what_the_second_and_the_third_wrote() {
    model(
        "barrier: the_first_of_three_sees_what_the_second_and_the_third_wrote",
        Look,
        Some(2),
        || {
            let shared = share((Barrier::new(3), [Watched::default(), Watched::default()]));
            let first = spawn(1, None, &shared, |(shared, data)| {
                pass(shared);
                assert_eq!((data[0].get(), data[1].get()), (1, 1));
            });
            let others = [0, 1].map(|own| {
                spawn(own as u32 + 2, None, &shared, move |(shared, data)| {
                    data[own].add(1);
                    let _ = shared.arrive().unwrap();
                })
            });
            join(first);
            join_all(others);
        },
    );
}

#[test]
fn try_wait_sees_what_the_others_wrote() {
    model("barrier: try_wait_sees_what_the_others_wrote", Look, None, || {
        let shared = share((Barrier::new(2), Watched::default()));
        let first = spawn(1, None, &shared, |(shared, data)| {
            data.add(1);
            let _ = shared.arrive().unwrap();
        });
        let last = spawn(2, None, &shared, |(shared, data)| match shared.try_wait() {
            Ok(passed) => assert_eq!((passed.index(), data.get()), (1, 1)),
            Err(BarrierError::WouldBlock) => {}
            Err(error) => panic!("{error:?}"),
        });
        join_all([first, last]);
    });
}

#[test]
fn two_phases_end_for_both_parties() {
    model("barrier: two_phases_end_for_both_parties", Sleep, Some(2), || {
        let shared = noted(2);
        join_all([1, 2].map(|tid| spawn(tid, None, &shared, pass_twice_noting)));
        assert_noted(&shared, 2);
    });
}

#[test]
fn a_phase_ends_for_three_parties() {
    model("barrier: a_phase_ends_for_three_parties", Sleep, Some(2), || {
        let shared = noted(3);
        let others = [1, 2].map(|tid| spawn(tid, None, &shared, |shared| pass_noting(shared, 0)));
        participant(3, None, || pass_noting(&shared, 0));
        join_all(others);
        assert_noted(&shared, 1);
    });
}

#[test]
fn a_time_out_breaks_it_for_all_or_comes_too_late() {
    model("barrier: a_time_out_breaks_it_for_all_or_comes_too_late", Sleep, Some(2), || {
        let shared = share((Barrier::new(2), AtomicU32::new(0)));
        let impatient =
            spawn(1, None, &shared, |(shared, passed)| match shared.wait_timeout(LONG) {
                Ok(_) => _ = passed.fetch_add(1, Relaxed),
                Err(BarrierError::TimedOut) => assert!(shared.is_broken()),
                Err(error) => panic!("{error:?}"),
            });
        let other = spawn(2, None, &shared, |(shared, passed)| match shared.wait() {
            Ok(_) => _ = passed.fetch_add(1, Relaxed),
            Err(BarrierError::Broken) => {}
            Err(error) => panic!("{error:?}"),
        });
        expire();
        join_all([impatient, other]);
        assert!([0, 2].contains(&shared.1.load(Relaxed)), "one passed, and the other did not");
    });
}

#[test]
fn a_time_out_ends_the_wait_of_two_who_miss_a_third() {
    model("barrier: a_time_out_ends_the_wait_of_two_who_miss_a_third", Sleep, Some(2), || {
        let shared = share(Barrier::new(3));
        let patient =
            spawn(1, None, &shared, |shared| assert_eq!(shared.wait(), Err(BarrierError::Broken)));
        let impatient = spawn(2, None, &shared, |shared| {
            assert_eq!(shared.wait_timeout(LONG), Err(BarrierError::TimedOut));
        });
        expire();
        join_all([patient, impatient]);
    });
}

#[test]
fn abort_breaks_it_for_all() {
    model("barrier: abort_breaks_it_for_all", Sleep, Some(2), || {
        let shared = share(Barrier::new(3));
        let parties = [1, 2].map(|tid| {
            spawn(tid, None, &shared, |shared| assert_eq!(shared.wait(), Err(BarrierError::Broken)))
        });
        participant(3, None, || shared.abort());
        join_all(parties);
        assert_eq!((shared.is_broken(), shared.n_waiting()), (true, 0));
    });
}

#[test]
fn reset_breaks_the_phase_of_those_who_wait_alone() {
    model("barrier: reset_breaks_the_phase_of_those_who_wait_alone", Sleep, Some(2), || {
        let shared = share(Barrier::new(2));
        let waiter = spawn(1, None, &shared, |shared| match shared.wait() {
            Ok(_) => {}
            Err(BarrierError::Broken) => pass(shared),
            Err(error) => panic!("{error:?}"),
        });
        participant(2, None, || {
            shared.reset();
            pass(&shared);
        });
        join(waiter);
        assert!(!shared.is_broken());
    });
}

/// A party that is slow to look finds its phase long gone, and still learns how it ended.
#[test]
fn a_phase_that_ended_before_a_reset_has_ended_well() {
    model("barrier: a_phase_that_ended_before_a_reset_has_ended_well", Sleep, Some(2), || {
        let shared = share(Barrier::new(2));
        let slow = spawn(1, None, &shared, pass);
        participant(2, None, || {
            pass(&shared);
            shared.reset();
        });
        join(slow);
    });
}

#[test]
fn a_reset_makes_a_broken_barrier_whole() {
    model("barrier: a_reset_makes_a_broken_barrier_whole", Sleep, Some(2), || {
        let shared = share(Barrier::new(2));
        let waiter = spawn(1, None, &shared, |shared| {
            let first = shared.wait();
            assert!(matches!(first, Ok(_) | Err(BarrierError::Broken)));
        });
        participant(2, None, || {
            shared.abort();
            shared.reset();
            assert!(!shared.is_broken());
            // For a party that comes only after the reset.
            let _ = shared.arrive().unwrap();
        });
        join(waiter);
    });
}

#[test]
fn a_party_killed_anywhere_has_arrived_or_has_not() {
    kill_model("barrier: a_party_killed_anywhere_has_arrived_or_has_not", Some(1), |killed_at| {
        let shared = share(Barrier::new(3));
        let others = [1, 2].map(|tid| spawn(tid, None, &shared, pass));
        let end = participant(3, Some(killed_at), || {
            let _ = shared.arrive().unwrap();
        });
        stand_in_for(end, &shared);
        join_all(others);
        end
    });
}

#[test]
fn a_waiting_party_killed_anywhere_strands_nobody() {
    kill_model("barrier: a_waiting_party_killed_anywhere_strands_nobody", Some(1), |killed_at| {
        let shared = share(Barrier::new(3));
        let victim = spawn(1, Some(killed_at), &shared, pass);
        let other = spawn(2, None, &shared, pass);
        let third = spawn(3, None, &shared, |shared| {
            let _ = shared.arrive().unwrap();
        });
        join(third);
        let end = join(victim);
        stand_in_for(end, &shared);
        join(other);
        end
    });
}

#[test]
fn one_killed_while_it_aborts_has_woken_all_or_nobody() {
    kill_model(
        "barrier: one_killed_while_it_aborts_has_woken_all_or_nobody",
        Some(1),
        |killed_at| {
            let shared = share(Barrier::new(3));
            let parties = [1, 2].map(|tid| {
                spawn(tid, None, &shared, |shared| {
                    assert_eq!(shared.wait(), Err(BarrierError::Broken));
                })
            });
            let end = participant(3, Some(killed_at), || shared.abort());
            // Has no effect on a broken barrier.
            participant(4, None, || shared.abort());
            join_all(parties);
            end
        },
    );
}

#[test]
fn one_killed_as_its_time_is_over_strands_nobody() {
    kill_model("barrier: one_killed_as_its_time_is_over_strands_nobody", Some(1), |killed_at| {
        let shared = share(Barrier::new(3));
        let victim = spawn(1, Some(killed_at), &shared, |shared| _ = shared.wait_timeout(LONG));
        let other =
            spawn(2, None, &shared, |shared| assert_eq!(shared.wait(), Err(BarrierError::Broken)));
        expire();
        let end = join(victim);
        participant(4, None, || shared.abort());
        join(other);
        end
    });
}
