//! Models of `RwLock`.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crossproc::{LockError, RwLock, RwLockReadGuard, RwLockWriteGuard, Wait};
use crossproc_sys::model::Futexes::{Look, Sleep};
use crossproc_sys::model::{expire, participant};

use crate::{Watched, join, join_all, kill_model, model, sampled_kill_model, share, spawn};

const LONG: Duration = Duration::from_secs(3600);

/// A lock, and data that is used under the lock.
#[derive(Debug)]
struct Under<const N: usize> {
    lock: RwLock<u64, N>,
    data: Watched,
    /// Whether the participant that may die has written.
    has_written: AtomicBool,
}

fn under<const N: usize>() -> std::sync::Arc<Under<N>> {
    share(Under {
        lock: RwLock::new(0),
        data: Watched::default(),
        has_written: AtomicBool::new(false),
    })
}

fn read<const N: usize>(shared: &Under<N>) -> RwLockReadGuard<'_, u64, N> {
    let guard = shared.lock.read_unrepaired(Wait::FOREVER).unwrap();
    assert!(
        !guard.is_inconsistent() || shared.has_written.load(Relaxed),
        "one died before it wrote, and is said to have left it half written"
    );
    guard
}

fn write<const N: usize>(shared: &Under<N>) -> (RwLockWriteGuard<'_, u64, N>, bool) {
    let mut died = false;
    let guard = shared.lock.write_or_repair(|_| {
        assert!(
            shared.has_written.load(Relaxed),
            "one died before it wrote, and is said to have left it half written"
        );
        died = true;
    });
    (guard.unwrap(), died)
}

fn look_at_data<const N: usize>(shared: &Under<N>) {
    let _guard = read(shared);
    shared.data.get();
}

fn add_one<const N: usize>(shared: &Under<N>) {
    let _guard = write(shared).0;
    shared.data.add(1);
}

/// Sets the value to 1 and then to 2, with steps in between.
fn write_in_two_parts<const N: usize>(shared: &Under<N>) {
    let mut guard = write(shared).0;
    shared.has_written.store(true, Relaxed);
    shared.data.add(1);
    *guard = 1;
    assert!(shared.lock.writer().is_some());
    *guard = 2;
}

fn assert_whole_or_told<const N: usize>(shared: &Under<N>) {
    let guard = read(shared);
    shared.data.get();
    assert!(*guard != 1 || guard.is_inconsistent(), "a writer died halfway and nobody was told");
}

#[test]
fn a_reader_and_a_writer_exclude_each_other() {
    model("rwlock: a_reader_and_a_writer_exclude_each_other", Look, Some(3), || {
        let shared = under::<1>();
        join_all([spawn(1, None, &shared, look_at_data), spawn(2, None, &shared, add_one)]);
    });
}

#[test]
fn a_writer_sees_that_two_readers_have_gone() {
    model("rwlock: a_writer_sees_that_two_readers_have_gone", Look, Some(1), || {
        let shared = under::<2>();
        let readers = [1, 2].map(|tid| {
            spawn(tid, None, &shared, |shared| match shared.lock.try_read() {
                Ok(_guard) => _ = shared.data.get(),
                Err(LockError::WouldBlock) => {}
                Err(error) => panic!("{error:?}"),
            })
        });
        let writer = spawn(3, None, &shared, add_one);
        join_all(readers);
        join(writer);
    });
}

#[test]
fn two_writers_exclude_each_other() {
    model("rwlock: two_writers_exclude_each_other", Look, Some(3), || {
        let shared = under::<1>();
        join_all([1, 2].map(|tid| spawn(tid, None, &shared, add_one)));
        assert_eq!(shared.data.get(), 2);
    });
}

#[test]
fn those_who_try_exclude_each_other() {
    model("rwlock: those_who_try_exclude_each_other", Look, None, || {
        let shared = under::<1>();
        let reader = spawn(1, None, &shared, |shared| match shared.lock.try_read() {
            Ok(_guard) => _ = shared.data.get(),
            Err(LockError::WouldBlock) => {}
            Err(error) => panic!("{error:?}"),
        });
        participant(2, None, || match shared.lock.try_write() {
            Ok(_guard) => shared.data.add(1),
            Err(LockError::WouldBlock) => {}
            Err(error) => panic!("{error:?}"),
        });
        join(reader);
    });
}

#[test]
fn a_reader_and_a_writer_strand_nobody() {
    model("rwlock: a_reader_and_a_writer_strand_nobody", Sleep, Some(3), || {
        let shared = under::<1>();
        join_all([spawn(1, None, &shared, look_at_data), spawn(2, None, &shared, add_one)]);
    });
}

#[test]
fn two_readers_with_one_place_and_a_writer_strand_nobody() {
    model("rwlock: two_readers_with_one_place_and_a_writer_strand_nobody", Sleep, Some(1), || {
        let shared = under::<1>();
        let others = [spawn(1, None, &shared, look_at_data), spawn(2, None, &shared, add_one)];
        participant(3, None, || look_at_data(&shared));
        join_all(others);
    });
}

#[test]
fn two_readers_and_a_writer_strand_nobody() {
    model("rwlock: two_readers_and_a_writer_strand_nobody", Sleep, Some(1), || {
        let shared = under::<2>();
        let readers = [1, 2].map(|tid| spawn(tid, None, &shared, look_at_data));
        let writer = spawn(3, None, &shared, add_one);
        join_all(readers);
        join(writer);
    });
}

#[test]
fn two_writers_and_a_reader_strand_nobody() {
    model("rwlock: two_writers_and_a_reader_strand_nobody", Sleep, Some(1), || {
        let shared = under::<1>();
        let writers = [1, 2].map(|tid| spawn(tid, None, &shared, add_one));
        let reader = spawn(3, None, &shared, look_at_data);
        join_all(writers);
        join(reader);
        assert_eq!(shared.data.get(), 2);
    });
}

#[test]
fn a_readers_time_out_strands_nobody() {
    model("rwlock: a_readers_time_out_strands_nobody", Sleep, Some(1), || {
        let shared = under::<1>();
        let impatient = spawn(1, None, &shared, |shared| match shared.lock.read_timeout(LONG) {
            Ok(_guard) => _ = shared.data.get(),
            Err(LockError::TimedOut) => {}
            Err(error) => panic!("{error:?}"),
        });
        let other = spawn(2, None, &shared, add_one);
        expire();
        participant(3, None, || look_at_data(&shared));
        join_all([impatient, other]);
    });
}

#[test]
fn a_writers_time_out_strands_nobody() {
    model("rwlock: a_writers_time_out_strands_nobody", Sleep, Some(1), || {
        let shared = under::<1>();
        let impatient = spawn(1, None, &shared, |shared| match shared.lock.write_timeout(LONG) {
            Ok(_guard) => shared.data.add(1),
            Err(LockError::TimedOut) => {}
            Err(error) => panic!("{error:?}"),
        });
        let others = [spawn(2, None, &shared, add_one), spawn(3, None, &shared, look_at_data)];
        expire();
        join(impatient);
        join_all(others);
    });
}

#[test]
fn a_writer_killed_anywhere_is_reported_if_it_was_writing() {
    kill_model(
        "rwlock: a_writer_killed_anywhere_is_reported_if_it_was_writing",
        Some(1),
        |killed_at| {
            let shared = under::<1>();
            let victim = spawn(1, Some(killed_at), &shared, write_in_two_parts);
            let reader = spawn(2, None, &shared, assert_whole_or_told);
            let end = join(victim);
            join(reader);
            participant(3, None, || assert_whole_or_told(&shared));
            participant(4, None, || _ = write(&shared));
            participant(5, None, || {
                assert!(shared.lock.read().is_ok(), "told again, though recovered");
            });
            end
        },
    );
}

#[test]
fn a_writer_killed_anywhere_strands_nobody() {
    sampled_kill_model(
        "rwlock: a_writer_killed_anywhere_strands_nobody",
        Some(1),
        4,
        |killed_at| {
            let shared = under::<2>();
            let victim = spawn(1, Some(killed_at), &shared, write_in_two_parts);
            let reader = spawn(2, None, &shared, look_at_data);
            participant(3, None, || add_one(&shared));
            let end = join(victim);
            join(reader);
            end
        },
    );
}

#[test]
fn a_reader_killed_anywhere_strands_nobody() {
    sampled_kill_model(
        "rwlock: a_reader_killed_anywhere_strands_nobody",
        Some(1),
        7,
        |killed_at| {
            let shared = under::<1>();
            let victim = spawn(1, Some(killed_at), &shared, look_at_data);
            let writer = spawn(2, None, &shared, add_one);
            participant(3, None, || look_at_data(&shared));
            let end = join(victim);
            join(writer);
            assert_eq!((shared.lock.readers(), shared.lock.writer()), (0, None));
            end
        },
    );
}

#[test]
fn a_reader_that_dies_reading_lets_the_writer_in() {
    model("rwlock: a_reader_that_dies_reading_lets_the_writer_in", Sleep, Some(1), || {
        let shared = under::<2>();
        let dying = spawn(1, None, &shared, |shared| std::mem::forget(read(shared)));
        let reader = spawn(2, None, &shared, look_at_data);
        let writer = spawn(3, None, &shared, add_one);
        join_all([dying, reader, writer]);
    });
}
