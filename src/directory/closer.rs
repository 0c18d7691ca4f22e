//! Closing what strangers have made, on threads of its own.
//!
//! Closing the last descriptor of a file does what the file's maker wants: a TCP socket may wait
//! for as long as its `SO_LINGER` says, a file of FUSE asks its daemon, memory of many gigabytes is
//! freed page by page. Closing a Unix socket closes what is on its way to it. So whatever a client
//! has sent, and the sockets of clients, too, are closed here. A thread that is stuck is left
//! alone; there is a bounded number of them, and when that is not enough, the server takes no more
//! descriptors from clients until it is ([`Closer::has_room`]), and goes on with everything else.
//!
//! Where not one thread can be started (RLIMIT_NPROC, pids.max), what is left piles up until there
//! is no room, and then the thread that serves closes as much as it must. It may be stuck in that
//! for as long as a stranger likes;
//! but otherwise it would serve nobody at all. The first thread that cannot be started is told of
//! on the standard error.
//!
//! Whoever hands something over takes no lock: a thread that closes may be anywhere when it loses
//! its processor, and the server would wait for it to get one again. The descriptors go onto a
//! stack, and a semaphore counts them; only those who close lock the list that they move them to.

#![allow(unsafe_code)]

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::*};
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::reactor::own_threads::{CLOSER, HasThreads};
use crate::sync::semaphore::Semaphore;
use crossproc_sys::poll::Bell;
use crossproc_sys::process;

/// How many closes may be stuck before others have to wait for them.
const MAX_THREADS: usize = 16;
/// A thread that had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(1);

/// Closes descriptors on threads of its own.
#[derive(Debug)]
pub(super) struct Closer {
    /// What was handed over and not moved to `taken` yet, the last one first. Each node is its own
    /// `Box`'s, and belongs to whoever takes the stack away.
    handed: AtomicPtr<Node>,
    /// What is to be closed next. Only the threads that close lock it.
    taken: Mutex<Vec<OwnedFd>>,
    /// How many are in either, or are about to be. Each is counted before anybody can take it:
    /// whoever takes one takes one off.
    left: AtomicUsize,
    more: Semaphore,
    threads: AtomicUsize,
    /// How many threads sleep, or are about to.
    idle: AtomicUsize,
    is_over: AtomicBool,
    /// How often the idle threads were told to end.
    endings: AtomicUsize,
    /// Whether somebody has been told that a thread could not be started.
    has_complained: AtomicBool,
    /// How many descriptors may be left to close before clients' are not received any more.
    /// Bounded they are in any case: each is open.
    room: usize,
    /// Rung when there is room again.
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct Node {
    descriptor: OwnedFd,
    next: *mut Node,
}

impl Closer {
    pub(super) fn new(room: usize, bell: Arc<Bell>) -> Arc<Self> {
        Arc::new(Closer {
            handed: AtomicPtr::new(ptr::null_mut()),
            taken: Mutex::default(),
            left: AtomicUsize::new(0),
            more: Semaphore::new(0),
            threads: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            endings: AtomicUsize::new(0),
            has_complained: AtomicBool::new(false),
            room,
            bell,
        })
    }

    /// Whether a packet's worth of descriptors may be received.
    pub(super) fn has_room(&self) -> bool {
        // Relaxed: a bound that a few may exceed.
        self.left.load(Relaxed) < self.room
    }

    /// Starts a thread if something is left and nobody is there for it: none could be started when
    /// it came. If that fails again, and there is no room, this thread closes what it must to make
    /// some. For the one that serves.
    pub(super) fn go_on(self: &Arc<Self>) {
        // Relaxed: asked again and again.
        if self.left.load(Relaxed) != 0 && self.threads.load(Relaxed) == 0 {
            self.start();
            while !self.has_room()
                && self.threads.load(Relaxed) == 0
                && self.more.try_acquire().is_ok()
            {
                self.close_one();
            }
        }
    }

    fn close(self: &Arc<Self>, descriptor: OwnedFd) {
        // SeqCst: either this sees that a thread has ended, or the thread, in `run`, that something
        // is left.
        let left = self.left.fetch_add(1, SeqCst) + 1;
        self.hand_over(descriptor);
        // It fails if there are more than there can be descriptors.
        let _ = self.more.release();
        // SeqCst: one that is about to end is not idle before it looks whether something is left.
        if self.idle.load(SeqCst) < left {
            self.start();
        }
    }

    /// Starts a thread, if there may be another one. Without memory for it, those that are there
    /// must do, or the next attempt.
    fn start(self: &Arc<Self>) {
        // SeqCst: see `close`.
        if self
            .threads
            .fetch_update(SeqCst, SeqCst, |threads| (threads < MAX_THREADS).then_some(threads + 1))
            .is_ok()
        {
            let closer = Arc::clone(self);
            if let Err(error) =
                thread::Builder::new().name(CLOSER.into()).spawn(move || closer.run())
            {
                // SeqCst: see `close`.
                self.threads.fetch_sub(1, SeqCst);
                self.complain(&error);
            }
        }
    }

    /// Says, once, that a thread could not be started.
    fn complain(&self, error: &io::Error) {
        // Relaxed: it orders nothing.
        if !self.has_complained.swap(true, Relaxed) {
            let error = error.to_string();
            let _ = process::complain(&[
                "crossproc: a directory could not start a thread to close what its clients have left (",
                &error,
                "). Without any, its serving thread does that, and can be held up: raise RLIMIT_NPROC or pids.max\n",
            ]);
        }
    }

    /// Closes one of those that are left, for who has acquired the semaphore. Whether there was
    /// one.
    fn close_one(&self) -> bool {
        let Some(descriptor) = self.take() else { return false };
        // SeqCst: see `close`. Nobody may see fewer left before this one is taken out.
        if self.left.fetch_sub(1, SeqCst) == self.room {
            self.bell.ring();
        }
        drop(descriptor);
        true
    }

    fn hand_over(&self, descriptor: OwnedFd) {
        let node = Box::into_raw(Box::new(Node { descriptor, next: ptr::null_mut() }));
        // Relaxed: the exchange below publishes the node, and nothing is read through `next` here.
        let mut next = self.handed.load(Relaxed);
        loop {
            // SAFETY: made above, and nobody else's before the exchange succeeds.
            unsafe { (*node).next = next };
            // Release: pairs with the Acquire in `take`.
            match self.handed.compare_exchange_weak(next, node, Release, Relaxed) {
                Ok(_) => return,
                Err(other) => next = other,
            }
        }
    }

    /// One of those that are left. Whoever has acquired the semaphore finds one, unless it was
    /// released for the end.
    fn take(&self) -> Option<OwnedFd> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_empty() {
            // Acquire: pairs with the Release in `hand_over`, for the whole stack: each exchange
            // goes on from the one before.
            let mut node = self.handed.swap(ptr::null_mut(), Acquire);
            while !node.is_null() {
                // SAFETY: the swap has taken the whole stack away, so nobody else has its nodes,
                // each of which was a `Box`.
                let owned = unsafe { Box::from_raw(node) };
                node = owned.next;
                taken.push(owned.descriptor);
            }
        }
        taken.pop()
    }

    fn run(self: &Arc<Self>) {
        loop {
            // Acquire: pairs with the Release in `end_idle`. One that has not come to this is told
            // of the ending by the permit that is released there.
            let endings = self.endings.load(Acquire);
            // SeqCst, both: see `close`. One that is counted here takes what is handed over next.
            self.idle.fetch_add(1, SeqCst);
            let acquired = self.more.acquire_timeout(IDLE);
            self.idle.fetch_sub(1, SeqCst);
            // Acquire: pairs with the Release in `finish`.
            let is_over = self.is_over.load(Acquire);
            if acquired.is_ok() && self.close_one() {
                continue;
            }
            // Acquire: as above.
            let is_told = self.endings.load(Acquire) != endings;
            if acquired.is_err() || is_over || is_told {
                // SeqCst: see `close`. Whoever hands over something from now on starts another
                // thread; for what was before, this one goes on.
                self.threads.fetch_sub(1, SeqCst);
                if self.left.load(SeqCst) == 0 {
                    return;
                }
                self.threads.fetch_add(1, SeqCst);
            }
        }
    }

    /// Has the threads end when they have closed what is left.
    pub(super) fn finish(&self) {
        // Release: pairs with the Acquire in `run`.
        self.is_over.store(true, Release);
        for _ in 0..MAX_THREADS {
            let _ = self.more.release();
        }
    }
}

impl Drop for Closer {
    /// What nobody could be started for.
    fn drop(&mut self) {
        while self.take().is_some() {}
    }
}

impl HasThreads for Closer {
    fn end_idle(&self) {
        // SeqCst: those that are about to sleep are counted.
        let idle = self.idle.load(SeqCst);
        // Release: pairs with the Acquires in `run`.
        self.endings.fetch_add(1, Release);
        for _ in 0..idle {
            let _ = self.more.release();
        }
    }
}

/// A descriptor that is closed by a [`Closer`].
#[derive(Debug)]
pub(super) struct Foreign {
    /// `None` only while it is dropped.
    fd: Option<OwnedFd>,
    closer: Arc<Closer>,
}

impl Foreign {
    pub(super) fn new(fd: OwnedFd, closer: &Arc<Closer>) -> Self {
        Foreign { fd: Some(fd), closer: Arc::clone(closer) }
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("there until it is dropped").as_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            self.closer.close(fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_before_it_was_counted_is_none_less_than_none() {
        const COUNT: usize = 400_000;
        let closer = Closer::new(COUNT, Arc::new(Bell::new().unwrap()));
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            // Threads that come for more than there is, as at the end of a directory.
            scope.spawn(|| {
                while !is_done.load(Relaxed) {
                    closer.finish();
                    thread::yield_now();
                }
            });
            let closing = scope.spawn(|| {
                for _ in 0..COUNT {
                    drop(Foreign::new(file.try_clone().unwrap(), &closer));
                    // Not more than this process may have open.
                    while closer.left.load(SeqCst) > 200 {
                        assert!(closer.left.load(SeqCst) <= COUNT);
                        thread::yield_now();
                    }
                }
            });
            let closed = closing.join();
            is_done.store(true, Relaxed);
            closed.unwrap();
        });
        while closer.left.load(SeqCst) != 0 {
            thread::yield_now();
        }
    }
}
