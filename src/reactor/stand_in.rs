//! [`Cover`]: pending entries for a sleeper whose own entry names something else.
//!
//! # Why
//! A sleeper that is given the kernel's one wake-up for a dead thread owes it to others. Should the
//! sleeper die with the wake-up in hand, the kernel has to pass it on: for that the sleeper has the
//! word pending (`crossproc_sys::robust`). A thread has one such entry. A thread that sleeps for
//! several things has several words, and so does a thread of the [driver](crate::reactor::driver).
//!
//! But a process dies as a whole, and with it each of its threads. So the entry may as well be that
//! of another thread, which does nothing but have one: it *stands in*. The sleeper names the word
//! there, with one store.
//!
//! # How many
//! *A word is named in as many entries of a process as threads of the process may be in its queue.
//! There is one more while a waiter has one of its wake-ups in hand.*
//!
//! When the process is killed, none of its threads does anything any more, but sleepers are in the
//! queues until each of them ends. Each of them can be given one wake-up, and each entry wakes
//! another sleeper. So one of the wake-ups reaches another process.
//!
//! | sleeper | its entries |
//! |---|---|
//! | a thread, for one thing | its own |
//! | a thread, for several | its own for one of them, a stand-in for each of the others |
//! | a thread of the driver | a stand-in for each thing |
//!
//! That is true of words without an owner, whose TID bits are always 0. The word of a held lock
//! means nothing to the kernel in a stand-in's entry. And the stand-in may end before the owner
//! does, if they are of one process. So a lock has no stand-in. A thread that [sleeps for
//! it](Source::has_owner) has its word in its own entry. The kernel looks at that when the thread
//! is in no queue any more.
//!
//! # The threads
//! They are started when they are needed, kept for later waits, and end [`IDLE`] after that, or for
//! a fork. They sleep, with all signals blocked, on 64 KiB of stack. A forked child has none of
//! them, and begins with none.
//!
//! Of those that are not given out, the one that has been free for longest sleeps with a deadline,
//! and when it ends it wakes the next. The others *rest*: to give them out and to take them back
//! wakes none of them.
//!
//! # What is left to slices
//! - More than [`MOST`] things at once, in a process.
//! - A process that can start no thread, whose threads have no robust lists, or that is refused
//!   futexes.
//! - Kernels before 6.2.
//! - Two processes that are killed in the same moment, of which one wakes a waiter in between. The
//!   entries of the other process may have been used up before, while one of its sleepers is not
//!   gone yet.
//! - A future that was leaked is covered for ever. If its word was freed, what is there by now may
//!   look to the kernel like a lock of the thread that stands in. Then the kernel marks that.

#![allow(unsafe_code)]

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::clock;
use crossproc_sys::futex;
use crossproc_sys::per_process::{Current, PerProcess};
use crossproc_sys::robust::Lent;
use crossproc_sys::signals::with_all_blocked;
use crossproc_sys::thread;

use crate::reactor::own_threads::SLEEPER;
use crate::wait::source::Source;

/// How long a thread that is not given out waits to be needed again, in nanoseconds.
const IDLE: u64 = 1_000_000_000;
/// The most such threads in a process.
const MOST: usize = 256;
/// The stack of such a thread, in bytes. It calls a futex, and libc when it ends.
const STACK: usize = 64 << 10;

static POOL: PerProcess<Pool> = PerProcess::new();

/// The threads of a process that stand in for others.
#[derive(Debug, Default)]
struct Pool(Mutex<Posts>);

#[derive(Debug, Default)]
struct Posts {
    /// Those that are not given out, and since when; the last one is the next to be given out.
    free: Vec<(Arc<Post>, u64)>,
    given_out: usize,
}

impl Posts {
    /// Has the first one that is free look at the time, if it rests.
    fn wake_first(&self) {
        if let Some((first, _)) = self.free.first() {
            if first.is_at_rest.swap(false, Relaxed) {
                first.ring();
            }
        }
    }
}

/// A thread that stands in.
#[derive(Debug)]
struct Post {
    /// The thread's own entry, which the thread does not use itself. It is there until the thread
    /// has taken itself out of `free`.
    entry: Lent,
    /// The word that the thread sleeps on. It moves when the thread is to look again.
    bell: AtomicU32,
    /// Under the mutex: the thread sleeps without a deadline.
    is_at_rest: AtomicBool,
    /// Under the mutex: the thread is not to wait until it is needed again.
    is_to_end: AtomicBool,
}

impl Post {
    /// Has the thread look again. The caller holds the mutex.
    fn ring(&self) {
        // Relaxed: the thread reads it under the mutex, and then the kernel reads it, which orders
        // it with the wake.
        self.bell.fetch_add(1, Relaxed);
        futex::wake(&self.bell, 1);
    }
}

impl Pool {
    fn posts(&self) -> MutexGuard<'_, Posts> {
        // Nothing panics under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives out `count` threads, or as many as there can be.
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

    /// Starts a thread, which is given out. Returns `None` if it has no entry, or there are no
    /// futexes.
    fn start(this: &'static Current<Pool>) -> io::Result<Option<Arc<Post>>> {
        // In a sandbox that refuses futexes, libc ends a process of which two threads want one of
        // its locks. So no thread is started for what can do without.
        if futex::try_wake(&AtomicU32::new(0), 1).is_none() {
            return Ok(None);
        }
        let (tell, told) = sync_channel(1);
        with_all_blocked(|| thread::spawn(SLEEPER, STACK, move || this.stand(&tell)))?;
        // The thread always sends an answer.
        Ok(told.recv().ok().flatten())
    }

    /// Runs such a thread.
    fn stand(&self, tell: &SyncSender<Option<Arc<Post>>>) {
        // SAFETY: the entry is used by those to which it is given out, one after the other, which
        // the mutex orders. They give it back, and the thread ends only after it has taken it out
        // of `free`. The thread works on nothing meanwhile: it has a futex of its own, and a mutex
        // of std's.
        let entry = unsafe { Lent::of_this_thread() };
        let own = entry.ok().map(|entry| {
            let (is_at_rest, is_to_end) = (AtomicBool::new(false), AtomicBool::new(false));
            Arc::new(Post { entry, bell: AtomicU32::new(0), is_at_rest, is_to_end })
        });
        // The thread that has started this one waits for it.
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
                posts.wake_first();
                return;
            }
            let until = until.filter(|_| free == Some(0));
            own.is_at_rest.store(until.is_none(), Relaxed);
            let bell = own.bell.load(Relaxed);
            drop(posts);
            futex::wait(&own.bell, bell, until);
        }
    }
}

/// The stand-ins of one sleeper. When it is dropped, their entries name nothing any more.
#[derive(Debug, Default)]
pub(crate) struct Cover {
    posts: Vec<Arc<Post>>,
    /// The pool that they are from, if there are any.
    pool: Option<&'static Current<Pool>>,
}

impl Cover {
    /// Takes a stand-in for each of these sources except locks, or as many as there can be: see the
    /// module's documentation.
    pub(crate) fn of<'s>(sources: impl Iterator<Item = &'s dyn Source> + Clone) -> Self {
        let sources = sources.filter(|source| !source.has_owner());
        let count = sources.clone().count();
        let Some(pool) = POOL.get().ok().filter(|_| count != 0) else { return Cover::default() };
        let posts = Pool::give_out(pool, count);
        sources.zip(&posts).for_each(|(source, post)| source.pend(post.entry.entry()));
        Cover { posts, pool: Some(pool) }
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.posts.len()
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        // Copies in a forked child lead to threads that do not exist there.
        let Some(pool) = self.pool.filter(|pool| pool.is_of_this_process()) else { return };
        self.posts.iter().for_each(|post| post.entry.entry().end());
        let now = clock::now();
        let mut posts = pool.posts();
        posts.given_out -= self.posts.len();
        posts.free.extend(self.posts.drain(..).map(|post| (post, now)));
        posts.wake_first();
    }
}

/// Ends the threads that are not needed. Returns how many they are, with those that are about to be
/// given back, or `None` if others are needed.
pub(crate) fn end_idle(about_to_be_given_back: usize) -> Option<usize> {
    let Some(pool) = POOL.existing() else { return Some(0) };
    let posts = pool.posts();
    for (post, _) in &posts.free {
        post.is_to_end.store(true, Relaxed);
        post.ring();
    }
    (posts.given_out <= about_to_be_given_back).then_some(posts.free.len() + posts.given_out)
}
