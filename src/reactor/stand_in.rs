//! [`Cover`]: pending entries for one whose own names something else.
//!
//! # Why
//! Whoever sleeps on a word, and is given the kernel's one wake-up for somebody dead, owes it to
//! others. Should it die with that in its hands, the kernel has to pass it on: for that it has the
//! word pending (`crossproc_sys::robust`). A thread has one such entry. Who sleeps for several
//! things has several words, and so does a thread of the [driver](crate::reactor::driver).
//!
//! But a process dies as a whole, and with it each of its threads. So the entry may as well be that
//! of another thread, which does nothing but have one: it *stands in*. The word is named there by
//! whoever sleeps on it, with one store.
//!
//! # How many
//! *As many entries of a process name a word as threads of it may be in that word's queue, and one
//! more while somebody has one of its wake-ups in hand.* When the process is killed none of its
//! threads does anything any more, but those that sleep are in the queues until each of them ends.
//! Each of them can be given one wake-up, and each entry has another one woken. So one of them
//! reaches somebody else.
//!
//! | who sleeps | its entries |
//! |---|---|
//! | a thread, for one thing | its own |
//! | a thread, for several | its own for one of them, a stand-in for each of the others |
//! | a thread of the driver | a stand-in for each thing |
//!
//! It is true of words without an owner, whose TID bits are always 0. The word of a lock that is
//! held means nothing to the kernel in a stand-in's entry, and that one may end before the owner
//! does, if they are of one process. So a lock has no stand-in: a thread that
//! [sleeps for it](Source::has_owner) has its word in its own entry, which is looked at when it is
//! in no queue any more.
//!
//! # The threads
//! They are started when they are needed, kept for those who come next, and end [`IDLE`] after
//! that, or for a fork. They sleep, with all signals blocked, on 64 KiB of stack. A forked child
//! has none of them, and begins with none.
//!
//! # What is left to slices
//! - More than [`MOST`] things at once, in a process; a process that can start no thread; one whose
//!   threads have no robust lists, or that is refused futexes; kernels before 6.2.
//! - Two processes that are killed in the same moment, of which one wakes somebody in between: the
//!   entries of the other one may have been used up before, and one of its sleepers not be gone
//!   yet.
//! - A future that was leaked is covered for ever. If its word was freed, and what is there by now
//!   looks to the kernel like a lock of the thread that stands in, it marks that.

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
use crossproc_sys::robust::Lent;
use crossproc_sys::signals::with_all_blocked;

use crate::memory::per_process::{Current, PerProcess};
use crate::reactor::own_threads::SLEEPER;
use crate::wait::source::Source;

/// How long a thread that nobody needs waits for somebody who does, in nanoseconds.
const IDLE: u64 = 1_000_000_000;
/// How many of them a process has at the most.
const MOST: usize = 256;
/// It calls a futex, and libc when it ends.
const STACK: usize = 64 << 10;

static POOL: PerProcess<Pool> = PerProcess::new();

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
    /// The thread's own, which it does not use itself. It is there until the thread has taken
    /// itself out of `free`.
    entry: Lent,
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

    /// Gives out so many, or as many as there can be.
    fn give_out(this: &'static Current<Pool>, count: usize) -> Vec<Arc<Post>> {
        let mut posts = this.posts();
        let count = count.min(MOST - posts.given_out);
        let kept = posts.free.len().saturating_sub(count);
        let mut given: Vec<_> = posts.free.drain(kept..).map(|(post, _)| post).collect();
        given.iter().for_each(|post| post.is_to_end.store(false, Relaxed));
        posts.given_out += count;
        drop(posts);
        given.extend((given.len()..count).map_while(|_| Pool::start(this).ok().flatten()));
        if given.len() < count {
            this.posts().given_out -= count - given.len();
        }
        given
    }

    /// Starts a thread, which somebody has. `None`: it has no entry, or there are no futexes.
    fn start(this: &'static Current<Pool>) -> io::Result<Option<Arc<Post>>> {
        // In a sandbox that refuses them, libc ends a process of which two threads want one of its
        // locks. So none is started for what can do without.
        if futex::try_wake(&AtomicU32::new(0), 1).is_none() {
            return Ok(None);
        }
        let (tell, told) = sync_channel(1);
        let builder = thread::Builder::new().name(SLEEPER.into()).stack_size(STACK);
        with_all_blocked(|| builder.spawn(move || this.stand(&tell)))?;
        // It always says something.
        Ok(told.recv().ok().flatten())
    }

    /// What such a thread does.
    fn stand(&self, tell: &SyncSender<Option<Arc<Post>>>) {
        // SAFETY: those have it to whom it is given out, one after the other, which the mutex
        // orders. They give it back, and the thread ends after it has taken it out of `free`. It
        // works on nothing meanwhile: it has a futex of its own, and a mutex of std's.
        let entry = unsafe { Lent::of_this_thread() };
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
            if let Some(free) = free
                .filter(|_| own.is_to_end.load(Relaxed) || until.is_some_and(|until| now >= until))
            {
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

/// The stand-ins of one who sleeps. Dropping it names nothing any more.
#[derive(Debug, Default)]
pub(crate) struct Cover {
    posts: Vec<Arc<Post>>,
    /// Whose they are, if there are any.
    pool: Option<&'static Current<Pool>>,
}

impl Cover {
    /// One for each of these sources, but for locks, and as many as there can be: see the top.
    pub(crate) fn of<'s>(sources: impl Iterator<Item = &'s dyn Source> + Clone) -> Self {
        let sources = sources.filter(|source| !source.has_owner());
        let count = sources.clone().count();
        let Some(pool) = POOL.get().ok().filter(|_| count != 0) else { return Cover::default() };
        let posts = Pool::give_out(pool, count);
        sources.zip(&posts).for_each(|(source, post)| source.pend(post.entry.entry()));
        Cover { posts, pool: Some(pool) }
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.posts.len()
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        // Copies in a forked child lead to threads that are not there.
        let Some(pool) = self.pool.filter(|pool| pool.is_of_this_process()) else { return };
        self.posts.iter().for_each(|post| post.entry.entry().end());
        let now = clock::now();
        let mut posts = pool.posts();
        posts.given_out -= self.posts.len();
        for post in self.posts.drain(..) {
            if post.is_at_rest.swap(false, Relaxed) {
                post.ring();
            }
            posts.free.push((post, now));
        }
    }
}

/// Has the threads end that nobody needs. How many they are, with those that are about to be given
/// back, or `None` if somebody needs others.
pub(crate) fn end_idle(about_to_be_given_back: usize) -> Option<usize> {
    let Some(pool) = POOL.existing() else { return Some(0) };
    let posts = pool.posts();
    for (post, _) in &posts.free {
        post.is_to_end.store(true, Relaxed);
        post.ring();
    }
    (posts.given_out <= about_to_be_given_back).then_some(posts.free.len() + posts.given_out)
}
