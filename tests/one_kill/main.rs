//! One SIGKILL, or one `_exit`, of a process with several threads: one thread operates, and the
//! others sleep for the same thing. A survivor, which sleeps for it in a process of its own, must
//! get it.
//!
//! The kernel's wake for the thread that operated may go to a thread beside it that is asleep, and
//! is dying, too. Slices are off, so a wake that is lost there leaves the survivor asleep for good.
//!
//! Each row is a test. `KILLS` says how many kills a row has.

#![allow(unsafe_code)]

#[path = "../forked/mod.rs"]
mod forked;
mod row;
mod things;
mod victim;

use row::run;
use things::{Bell, Items, Mutex, Permits, Room, Tasks};
use victim::{End, Sleepers};

macro_rules! rows {
    ($($name:ident: $thing:ty, $sleepers:ident, $end:ident;)*) => {
        $(
            #[test]
            fn $name() {
                run::<$thing>(Sleepers::$sleepers, End::$end);
            }
        )*
    };
}

rows! {
    queue_beside_getters: Items, Plain, Kill;
    queue_beside_futures: Items, Futures, Kill;
    queue_beside_watchers_of_it_second: Items, AnySecond, Kill;
    queue_beside_watchers_of_it_first: Items, AnyFirst, Kill;
    queue_beside_getters_exit: Items, Plain, Exit;
    queue_beside_futures_exit: Items, Futures, Exit;
    queue_beside_watchers_of_it_second_exit: Items, AnySecond, Exit;
    queue_beside_watchers_of_it_first_exit: Items, AnyFirst, Exit;

    room_beside_putters: Room, Plain, Kill;
    room_beside_futures: Room, Futures, Kill;
    room_beside_watchers_of_it_second: Room, AnySecond, Kill;
    room_beside_watchers_of_it_first: Room, AnyFirst, Kill;

    task_beside_getters: Tasks, Plain, Kill;
    task_beside_futures: Tasks, Futures, Kill;
    task_beside_watchers_of_it_second: Tasks, AnySecond, Kill;
    task_beside_watchers_of_it_first: Tasks, AnyFirst, Kill;

    event_beside_waiters: Bell, Plain, Kill;
    event_beside_futures: Bell, Futures, Kill;
    event_beside_watchers_of_it_second: Bell, AnySecond, Kill;
    event_beside_watchers_of_it_first: Bell, AnyFirst, Kill;
    event_beside_waiters_exit: Bell, Plain, Exit;
    event_beside_futures_exit: Bell, Futures, Exit;
    event_beside_watchers_of_it_second_exit: Bell, AnySecond, Exit;
    event_beside_watchers_of_it_first_exit: Bell, AnyFirst, Exit;

    semaphore_beside_acquirers: Permits, Plain, Kill;
    semaphore_beside_futures: Permits, Futures, Kill;
    semaphore_beside_watchers_of_it_second: Permits, AnySecond, Kill;
    semaphore_beside_watchers_of_it_first: Permits, AnyFirst, Kill;
    semaphore_beside_acquirers_exit: Permits, Plain, Exit;
    semaphore_beside_futures_exit: Permits, Futures, Exit;
    semaphore_beside_watchers_of_it_second_exit: Permits, AnySecond, Exit;
    semaphore_beside_watchers_of_it_first_exit: Permits, AnyFirst, Exit;

    lock_beside_lockers: Mutex, Plain, Kill;
    lock_beside_futures: Mutex, Futures, Kill;
    lock_beside_watchers_of_it_second: Mutex, AnySecond, Kill;
    lock_beside_watchers_of_it_first: Mutex, AnyFirst, Kill;
    lock_beside_lockers_exit: Mutex, Plain, Exit;
    lock_beside_futures_exit: Mutex, Futures, Exit;
    lock_beside_watchers_of_it_second_exit: Mutex, AnySecond, Exit;
    lock_beside_watchers_of_it_first_exit: Mutex, AnyFirst, Exit;
}
