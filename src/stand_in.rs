//! [`StandIn`]: a pending entry for one whose own names something else.
//!
//! # Why
//! Whoever sleeps on a word, and is given the kernel's one wake-up for somebody dead, owes it to
//! others. Should it die with that in its hands, the kernel has to pass it on: for that it has the
//! word pending (`crossproc_sys::robust`). A thread has one such entry. Who sleeps for several
//! things has several words, and so does a thread of the [bridge](crate::bridge).
//!
//! But a process dies as a whole, and with it each of its threads. So the entry may as well be that
//! of another thread, which does nothing but have one: its entry *stands in*. The word is named there
//! by whoever sleeps on it, with one store.
//!
//! # How many
//! *As many entries of a process name a word as threads of it sleep on that word's wake-ups, and one
//! more while one of those wake-ups is in hand.* When the process is killed, each that sleeps can be
//! given one wake-up before it is gone, and each entry has another one woken. So one of them reaches
//! somebody else. All threads of a process are marked to die before the first of them ends, and one
//! that is marked does not go to sleep any more.
//!
//! | who sleeps | its entries |
//! |---|---|
//! | a thread, for one thing | its own |
//! | a thread, for several | its own for the first, a stand-in for each of the others |
//! | a thread of the bridge | a stand-in for each thing |
//!
//! # The threads
//! They are started when they are needed, kept for those who come next, and end [`IDLE`] after that,
//! or for a fork. They sleep, with all signals blocked, on 64 KiB of stack. A forked child has none
//! of them, and begins with none.
//!
//! # What is left to slices
//! A thread without a robust list has no entry, and a kernel before 6.2 looks at none.

#![allow(unsafe_code)]

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::clock;
use crossproc_sys::futex;
use crossproc_sys::process::with_signals_blocked;
use crossproc_sys::robust::Entry;

use crate::of_process::{Current, OfProcess};
use crate::own_threads::SLEEPER;
use crate::wait_any::source::Source;

/// How long a thread that nobody needs waits for somebody who does, in nanoseconds.
const IDLE: u64 = 1_000_000_000;

/// It calls a futex, and libc when it ends.
const STACK: usize = 64 << 10;

static POOL: OfProcess<Pool> = OfProcess::new();

/// The threads of a process that stand in for others.
#[derive(Debug, Default)]
struct Pool(Mutex<Posts>);

#[derive(Debug, Default)]
struct Posts {
    /// Those that nobody has, and since when; the last one is the next to be given out.
    free: Vec<(Arc<Post>, u64)>,
    given_out: usize,
}

/// A thread that stands in.
#[derive(Debug)]
struct Post {
    /// The thread's own, which it does not use itself. It is there until the thread has taken itself
    /// out of `free`.
    entry: &'static Entry,
    /// What the thread sleeps on. Moves when it is to look again.
    bell: AtomicU32,
    /// Under the mutex: it sleeps without an end, since somebody has it.
    is_at_rest: AtomicBool,
    /// Under the mutex: it does not wait for anybody.
    is_to_end: AtomicBool,
}

impl Post {
    /// Under the mutex. The thread looks again.
    fn ring(&self) {
        // Relaxed: the thread reads it under the mutex, and then the kernel does, which orders it
        // with the wake.
        self.bell.fetch_add(1, Relaxed);
        futex::wake(&self.bell, 1);
    }
}

impl Pool {
    fn posts(&self) -> MutexGuard<'_, Posts> {
        // Nothing panics under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread, which somebody has. `None`: it has no entry.
    fn start(pool: &'static Current<Pool>) -> io::Result<Option<Arc<Post>>> {
        let (tell, told) = sync_channel(1);
        let builder = thread::Builder::new().name(SLEEPER.into()).stack_size(STACK);
        with_signals_blocked(|| builder.spawn(move || pool.stand(&tell)))?;
        // It always says something.
        Ok(told.recv().ok().flatten())
    }

    /// What such a thread does.
    fn stand(&self, tell: &SyncSender<Option<Arc<Post>>>) {
        // SAFETY: nobody but those has it to whom it is given from `free`, or by `tell`, once. They
        // give it back, and the thread ends after it has taken it out of there. It works on nothing
        // meanwhile: a futex and a mutex of std's.
        let entry = unsafe { Entry::of_this_thread() };
        let own = entry.ok().map(|entry| {
            let (is_at_rest, is_to_end) = (AtomicBool::new(false), AtomicBool::new(false));
            Arc::new(Post { entry, bell: AtomicU32::new(0), is_at_rest, is_to_end })
        });
        // Whoever has started it waits for it.
        let _ = tell.send(own.clone());
        let Some(own) = own else { return };
        loop {
            let mut posts = self.posts();
            let now = clock::now();
            let free = posts.free.iter().position(|(post, _)| Arc::ptr_eq(post, &own));
            let until = free.map(|free| posts.free[free].1.saturating_add(IDLE));
            if let Some(free) = free.filter(|_| own.is_to_end.load(Relaxed) || until.is_some_and(|until| now >= until)) {
                posts.free.remove(free);
                return;
            }
            own.is_at_rest.store(free.is_none(), Relaxed);
            let bell = own.bell.load(Relaxed);
            drop(posts);
            futex::wait(&own.bell, bell, until);
        }
    }
}

/// The entry of a thread that does nothing else. Dropping it names nothing any more.
#[derive(Debug)]
pub(crate) struct StandIn {
    pool: &'static Current<Pool>,
    post: Arc<Post>,
}

impl StandIn {
    /// One that names the word of a source. `None` where threads have no robust lists, or others
    /// than this program was compiled for.
    ///
    /// # Errors
    /// What the system says to a thread that cannot be started.
    fn of(source: &dyn Source) -> io::Result<Option<Self>> {
        let pool = POOL.get()?;
        let mut posts = pool.posts();
        posts.given_out += 1;
        let free = posts.free.pop();
        if let Some((post, _)) = &free {
            post.is_to_end.store(false, Relaxed);
        }
        drop(posts);
        let started = free.map_or_else(|| Pool::start(pool), |(post, _)| Ok(Some(post)));
        let Some(post) = started.as_ref().ok().and_then(Option::clone) else {
            pool.posts().given_out -= 1;
            return started.map(|_| None);
        };
        source.pend(post.entry);
        Ok(Some(StandIn { pool, post }))
    }
}

/// A stand-in for each source that somebody sleeps for.
#[derive(Debug, Default)]
pub(crate) struct Cover(#[allow(dead_code, reason = "there to be dropped")] Vec<StandIn>);

impl Cover {
    /// # Errors
    /// As [`StandIn::of`]: then there is none.
    pub(crate) fn of(sources: &[&dyn Source]) -> io::Result<Self> {
        sources.iter().filter_map(|&source| StandIn::of(source).transpose()).collect::<io::Result<_>>().map(Cover)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // The copy in a forked child leads to a thread that is not there.
        if !self.pool.is_of_this_process() {
            return;
        }
        self.post.entry.end();
        let mut posts = self.pool.posts();
        posts.given_out -= 1;
        posts.free.push((Arc::clone(&self.post), clock::now()));
        if self.post.is_at_rest.swap(false, Relaxed) {
            self.post.ring();
        }
    }
}

/// Has the threads end that nobody needs. How many they are, or `None` if somebody needs others.
pub(crate) fn end_idle() -> Option<usize> {
    let Some(pool) = POOL.existing() else { return Some(0) };
    let posts = pool.posts();
    for (post, _) in &posts.free {
        post.is_to_end.store(true, Relaxed);
        post.ring();
    }
    (posts.given_out == 0).then_some(posts.free.len())
}
