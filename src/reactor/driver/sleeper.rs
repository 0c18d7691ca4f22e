//! The thread of a batch. It sleeps on all that is armed there, finds out what has changed, and has
//! the waiters notified.

use std::io;
use std::sync::Arc;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::clock;
use crossproc_sys::futex::{self, Awake, Slept};
use crossproc_sys::per_process::Current;
use crossproc_sys::robust;
use crossproc_sys::signals::with_all_blocked;
use crossproc_sys::thread;

use super::Driver;
use super::table::{After, Table, WaitList};
use crate::reactor::own_threads::SLEEPER;
use crate::wait::recheck_interval;

/// How long a thread with no registrations waits before it ends, in nanoseconds.
const IDLE: u64 = 1_000_000_000;
/// How long keys are in doubt before they are fired, in nanoseconds: a wake of theirs may have been
/// hidden by another key's.
const DOUBT: u64 = 10_000_000;
/// How often all keys are fired where the kernel cannot watch several words, in nanoseconds.
const BLIND: u64 = 5_000_000;

#[derive(Debug)]
pub(crate) struct Sleeper {
    driver: &'static Current<Driver>,
    batch: usize,
    control: Arc<AtomicU32>,
    wait_list: WaitList,
    /// The keys of the wait list that are to be fired, by index.
    found: Vec<usize>,
    /// How many keys, from the first one on, may have been woken unseen. The key after these was
    /// woken.
    doubted: Option<usize>,
    /// When all keys are fired, when those in doubt are, and when the thread ends.
    slice_end: Option<u64>,
    doubt_end: Option<u64>,
    idle_end: Option<u64>,
}

impl Sleeper {
    /// Starts a thread for a new batch, and returns the batch's index.
    pub(crate) fn start(driver: &'static Current<Driver>, table: &mut Table) -> io::Result<usize> {
        let control = Arc::new(AtomicU32::new(0));
        let batch = table.add_batch(Arc::clone(&control));
        let sleeper = Sleeper {
            driver,
            batch,
            control,
            wait_list: WaitList::default(),
            found: Vec::new(),
            doubted: None,
            slice_end: None,
            doubt_end: None,
            idle_end: None,
        };
        // The thread begins by taking the mutex, which the caller has.
        let started = with_all_blocked(|| thread::spawn(SLEEPER, thread::STACK, || sleeper.run()));
        if started.is_err() {
            table.remove_batch(batch);
        }
        started.map(|_| batch)
    }

    fn run(mut self) {
        while self.go_to_sleep() {
            self.sleep();
            self.tell();
        }
    }

    /// Fills the wait list. Returns `false` if the thread is to end.
    fn go_to_sleep(&mut self) -> bool {
        let mut table = self.driver.table();
        let is_over =
            table.is_to_end(self.batch) || self.idle_end.is_some_and(|end| clock::now() >= end);
        if is_over && table.remove_batch(self.batch) {
            return false;
        }
        let is_needed = table.go_to_sleep(self.batch, &mut self.wait_list);
        // A thread without a robust list sleeps all the same.
        match self.wait_list.pending {
            Some(word) => robust::current().iter().for_each(|thread| thread.entry().begin_at(word)),
            None => robust::ready().iter().for_each(|thread| thread.end()),
        }
        if is_needed {
            self.idle_end = None;
            self.slice_end = self.slice_end.or_else(|| {
                recheck_interval().map(|slice| clock::now().saturating_add(slice.as_nanos() as u64))
            });
        } else {
            self.idle_end = self.idle_end.or_else(|| Some(clock::now() + IDLE));
            self.slice_end = None;
        }
        true
    }

    fn sleep(&mut self) {
        match futex::wait_at(&self.wait_list.words, self.until()) {
            // The control word: what is armed has changed.
            Slept::Ended(Awake::Woken, 0)
            | Slept::Ended(Awake::TimedOut | Awake::Interrupted | Awake::Refused, _) => {}
            Slept::Ended(Awake::Woken, word) => self.doubt_before(word),
            Slept::Ended(Awake::Changed, _) => self.find_changed(),
            Slept::Unmapped => {
                self.find_changed();
                if self.found.is_empty() {
                    // The memory was mapped again meanwhile, or as something that cannot be slept
                    // on. Waiters that are interested will come back and say so.
                    self.found.extend(0..self.wait_list.keys.len());
                }
                // If nothing was disarmed meanwhile, a waiter waits for such a word. The waiters
                // that are told now come back with it at once, and would have this thread spin.
                futex::wait(&*self.control, self.wait_list.control, Some(clock::now() + BLIND));
            }
            Slept::Unsupported => {
                let blind = clock::now() + BLIND;
                self.slice_end = Some(self.slice_end.map_or(blind, |end| end.min(blind)));
                futex::wait(&*self.control, self.wait_list.control, self.until());
            }
        }
    }

    fn until(&self) -> Option<u64> {
        [self.slice_end, self.doubt_end, self.idle_end].into_iter().flatten().min()
    }

    /// Notes that the thread was woken through `word`. It is the last word that was woken: some
    /// before it may have been woken, too.
    fn doubt_before(&mut self, word: usize) {
        let key = self.wait_list.keys.partition_point(|&(_, end)| end <= word);
        self.found.push(key);
        self.doubted = Some(key);
    }

    /// Compares each word, since the kernel does not say which one has changed.
    fn find_changed(&mut self) {
        let keys = 0..self.wait_list.keys.len();
        self.found.extend(keys.filter(|&key| {
            !self.wait_list.words_of(key).iter().all(|&word| futex::still_holds(word))
        }));
    }

    /// Fires the keys that were found, and those whose time has come.
    fn tell(&mut self) {
        let now = clock::now();
        let is_over = |end: &mut Option<u64>| end.take_if(|end| now >= *end).is_some();
        let (slice_is_over, doubt_is_over) =
            (is_over(&mut self.slice_end), is_over(&mut self.doubt_end));
        if self.found.is_empty() && !slice_is_over && !doubt_is_over {
            return;
        }
        let mut after = After::default();
        let mut table = self.driver.table();
        table.get_up(self.batch);
        if let Some(doubted) = self.doubted.take() {
            for key in 0..=doubted {
                let address = self.wait_list.keys[key].0;
                if !table.contains(address) {
                    after.pass_on(self.wait_list.words_of(key));
                } else if key < doubted {
                    table.doubt(address);
                    self.doubt_end = self.doubt_end.or(Some(now + DOUBT));
                }
            }
        }
        for key in self.found.drain(..) {
            table.fire(self.wait_list.keys[key].0, &mut after);
        }
        if slice_is_over || doubt_is_over {
            table.fire_batch(self.batch, !slice_is_over, &mut after);
        }
        drop(table);
        after.perform();
    }
}
