//! Watchers that die take nothing with them.

use std::sync::atomic::{AtomicU64, Ordering::*};

use crossproc::{Event, Queue, Semaphore, Shm, wait_any};

use super::board;
use crate::forked::{fork, kill, wait_until, wait_until_asleep};

/// Watchers die at any moment while survivors wait in the ordinary way. The survivors take
/// everything that is given.
fn survive(watch: impl Fn() + Sync, wait: impl Fn() + Sync, give: impl Fn(), kills: usize) {
    let taken = &Shm::new(AtomicU64::new(0)).unwrap();
    let survivors = [(); 3].map(|()| {
        fork(|| -> () {
            loop {
                wait();
                taken.fetch_add(1, SeqCst);
            }
        })
    });
    survivors.iter().for_each(wait_until_asleep);
    for round in 1..=kills as u64 {
        let watchers = [(); 2].map(|()| fork(|| -> () { watch() }));
        watchers.iter().for_each(wait_until_asleep);
        give();
        // About as long as the watchers take to be woken and go back to sleep.
        for _ in 0..fastrand::u32(0..20_000) {
            core::hint::spin_loop();
        }
        watchers.iter().for_each(kill);
        wait_until("a survivor has taken it", || taken.load(SeqCst) == round);
    }
    survivors.iter().for_each(kill);
}

const KILLS: usize = 300;

#[test]
fn watchers_that_die_take_no_permit_with_them() {
    let (semaphore, event) =
        (&Shm::new(Semaphore::new(0)).unwrap(), &Shm::new(Event::new()).unwrap());
    let watch = || loop {
        wait_any(&[&**event, &**semaphore]).unwrap();
    };
    survive(watch, || semaphore.acquire(), || semaphore.release().unwrap(), KILLS);
}

#[test]
fn watchers_that_die_take_no_item_with_them() {
    let (queue, event) = (&Queue::<u64>::new(2).unwrap(), &Shm::new(Event::new()).unwrap());
    let watch = || loop {
        wait_any(&[&**event, queue, &queue.room()]).unwrap();
        wait_any(&[&**event, queue]).unwrap();
    };
    let get = || assert_eq!(queue.get().unwrap(), 7);
    survive(watch, get, || queue.put(7).unwrap(), KILLS);
}

#[test]
fn watchers_that_die_take_no_lock_with_them() {
    let board = &board();
    let watch = || loop {
        wait_any(&[&board.event, &board.rlock.owner_death(), &board.lock.owner_death()]).unwrap();
    };
    // Each survivor unlocks once for the giver.
    let lock = || {
        board.counts[1].fetch_add(1, SeqCst);
        *board.lock.lock().unwrap() += 1;
        board.semaphore.acquire();
    };
    let guard = std::cell::Cell::new(Some(board.lock.lock().unwrap()));
    let survivors = [(); 3].map(|()| {
        fork(|| -> () {
            loop {
                lock();
            }
        })
    });
    for round in 1..=KILLS as u64 {
        survivors.iter().for_each(wait_until_asleep);
        let watchers = [(); 2].map(|()| fork(|| -> () { watch() }));
        watchers.iter().for_each(wait_until_asleep);
        drop(guard.take());
        for _ in 0..fastrand::u32(0..20_000) {
            core::hint::spin_loop();
        }
        watchers.iter().for_each(kill);
        // All three get the lock, one after the other.
        wait_until("all survivors have had the lock", || {
            board.lock.owner().is_none() && *board.lock.lock().unwrap() == 3 * round
        });
        guard.set(Some(board.lock.lock().unwrap()));
        board.semaphore.release_many(3).unwrap();
        wait_until("they are back", || board.counts[1].load(SeqCst) == 3 * (round + 1));
    }
    survivors.iter().for_each(kill);
}
