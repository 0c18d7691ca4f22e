//! Children that are forked while another thread begins. std has a lock then, which stays taken in
//! the child (`crossproc_sys::thread`). What this crate does with threads goes on there all the
//! same.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crossproc::{Event, Shm, wait_any_timeout};

mod forked;
use forked::{PATIENCE, fork, join_all, wait_until, wait_until_asleep};

/// Stops the next thread that allocates, if told to.
struct Stopping;

const NOBODY: u32 = 0;
const NEXT: u32 = 1;
const STOPPED: u32 = 2;
static STOPS: AtomicU32 = AtomicU32::new(NOBODY);

thread_local! {
    static IS_EXEMPT: Cell<bool> = const { Cell::new(false) };
}

#[global_allocator]
static ALLOCATOR: Stopping = Stopping;

// SAFETY: all is the system allocator's.
unsafe impl GlobalAlloc for Stopping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !IS_EXEMPT.get() && STOPS.compare_exchange(NEXT, STOPPED, SeqCst, SeqCst).is_ok() {
            while STOPS.load(SeqCst) == STOPPED {
                thread::yield_now();
            }
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(start, layout) }
    }
}

/// Some of these threads are stopped where std has its lock, to note the thread in a map: every few
/// of them need another node.
#[test]
fn a_wait_for_several_things_ends_though_std_cannot_start_a_thread() {
    const THREADS: u32 = 24;
    IS_EXEMPT.set(true);
    let begun = AtomicU32::new(0);
    let over = Event::new();
    thread::scope(|scope| {
        let _over = Over(&over);
        for number in 1..=THREADS {
            STOPS.store(NEXT, SeqCst);
            scope.spawn(|| {
                begun.fetch_add(1, SeqCst);
                over.wait();
            });
            wait_until("it is stopped, or has begun", || {
                STOPS.load(SeqCst) == STOPPED || begun.load(SeqCst) == number
            });
            // Then nobody is to be stopped in the child.
            let _ = STOPS.compare_exchange(NEXT, NOBODY, SeqCst, SeqCst);
            let event = Shm::new(Event::new()).unwrap();
            let child = fork(|| {
                let (_one, other) = crossproc::pipe().unwrap();
                // One thread sleeps for the descriptor, and another for the event.
                assert_eq!(wait_any_timeout(&[&*event, &other], PATIENCE).unwrap(), [0]);
                // A thread stands in for this one in the queue of one of them.
                let two = [(); 2].map(|()| Shm::new(Event::new()).unwrap());
                assert!(wait_any_timeout(&[&*two[0], &*two[1]], Duration::from_millis(1)).is_err());
            });
            wait_until_asleep(&child);
            event.set();
            join_all([child]);
            STOPS.store(NOBODY, SeqCst);
            wait_until("it has begun", || begun.load(SeqCst) == number);
        }
    });
}

/// Lets all threads end, also where the test fails.
struct Over<'a>(&'a Event);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        STOPS.store(NOBODY, SeqCst);
        self.0.set();
    }
}
