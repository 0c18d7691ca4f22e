//! Closing what strangers have made, on separate threads.
//!
//! Closing the last descriptor of a file does what the file's maker wants. A TCP socket may wait
//! for as long as its `SO_LINGER` says. A file of FUSE asks its daemon. Memory of many gigabytes is
//! freed page by page. Closing a Unix socket closes what is on its way to it. So everything that a
//! client has sent is closed here, and so are the sockets of clients.
//!
//! A stuck thread is left alone, and the number of threads is bounded. If they do not keep up, the
//! server takes no more descriptors from clients until there is room ([`Closer::has_room`]). It
//! goes on with everything else.
//!
//! If not even one thread can be started (RLIMIT_NPROC, pids.max), descriptors pile up until there
//! is no room. Then the serving thread closes as many as it must. A stranger may hold it up there
//! for as long as it likes; but otherwise the server would serve nobody at all. The first failure
//! to start a thread is reported on standard error.
//!
//! A hand-over takes no lock: a closing thread may lose its processor while it holds one, and the
//! server would wait until it gets a processor again. The descriptors go onto a stack, and a
//! semaphore counts them. Only closing threads lock the list that they move them to.

#![allow(unsafe_code)]

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::*};
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use crate::reactor::own_threads::{CLOSER, HasThreads};
use crate::sync::semaphore::Semaphore;
use crossproc_sys::poll::Bell;
use crossproc_sys::streams;
use crossproc_sys::thread;

/// The most threads: so many closes may be stuck before others have to wait for them.
const MAX_THREADS: usize = 16;
/// The time without work after which a thread ends.
const IDLE: Duration = Duration::from_secs(1);

/// Closes descriptors on separate threads.
#[derive(Debug)]
pub(super) struct Closer {
    /// The descriptors that were handed over and not moved to `taken` yet, the last one first. Each
    /// node was a `Box` of its own, and belongs to the thread that takes the stack away.
    handed: AtomicPtr<Node>,
    /// The descriptors to close next. Only threads that close lock it.
    taken: Mutex<Vec<OwnedFd>>,
    /// The number of descriptors in either, or about to be. Each is counted before any thread can
    /// take it. The thread that takes one subtracts one.
    left: AtomicUsize,
    more: Semaphore,
    threads: AtomicUsize,
    /// The number of threads that sleep, or are about to.
    idle: AtomicUsize,
    is_over: AtomicBool,
    /// The number of times that the idle threads were told to end.
    endings: AtomicUsize,
    /// Whether a failure to start a thread has been reported.
    has_complained: AtomicBool,
    /// The number of descriptors left to close at which clients' are not received any more. They
    /// are bounded in any case: each is open.
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

    /// Returns whether a packet's worth of descriptors may be received.
    pub(super) fn has_room(&self) -> bool {
        // Relaxed: a few descriptors may exceed the bound.
        self.left.load(Relaxed) < self.room
    }

    /// For the serving thread. Starts a thread if something is left and no thread is there, because
    /// none could be started when it came. If that fails again, and there is no room, this thread
    /// closes what it must to make some.
    pub(super) fn go_on(self: &Arc<Self>) {
        // Relaxed: the server asks again and again.
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
        // SeqCst: either this thread sees that another one has ended, or that one sees, in `run`,
        // that something is left.
        let left = self.left.fetch_add(1, SeqCst) + 1;
        self.hand_over(descriptor);
        // It fails only if there are more permits than there can be descriptors.
        let _ = self.more.release();
        // SeqCst: a thread that is about to end leaves `idle` before it looks whether something is
        // left.
        if self.idle.load(SeqCst) < left {
            self.start();
        }
    }

    /// Starts a thread, unless there are as many as there may be. Without memory for another one,
    /// those that are there must do, or the next attempt.
    fn start(self: &Arc<Self>) {
        // SeqCst: see `close`.
        if self
            .threads
            .fetch_update(SeqCst, SeqCst, |threads| (threads < MAX_THREADS).then_some(threads + 1))
            .is_ok()
        {
            let closer = Arc::clone(self);
            if let Err(error) = thread::spawn(CLOSER, thread::STACK, move || closer.run()) {
                // SeqCst: see `close`.
                self.threads.fetch_sub(1, SeqCst);
                self.complain(&error);
            }
        }
    }

    /// Reports once that a thread could not be started.
    fn complain(&self, error: &io::Error) {
        // Relaxed: the flag orders nothing.
        if !self.has_complained.swap(true, Relaxed) {
            let error = error.to_string();
            let _ = streams::complain(&[
                "crossproc: a directory could not start a thread to close what its clients have \
                 left (",
                &error,
                "). Without any, its serving thread does that, and can be held up: raise \
                 RLIMIT_NPROC or pids.max\n",
            ]);
        }
    }

    /// Closes one of the descriptors that are left, for a thread that has acquired the semaphore.
    /// Returns whether there was one.
    fn close_one(&self) -> bool {
        let Some(descriptor) = self.take() else { return false };
        // SeqCst: see `close`. No thread may see fewer left before this one is taken out.
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
            // SAFETY: `node` was made above, and no other thread can reach it before the exchange
            // succeeds.
            unsafe { (*node).next = next };
            // Release: pairs with the Acquire in `take`.
            match self.handed.compare_exchange_weak(next, node, Release, Relaxed) {
                Ok(_) => return,
                Err(other) => next = other,
            }
        }
    }

    /// Takes one of the descriptors that are left. A thread that has acquired the semaphore finds
    /// one, unless the permit was released to end the threads.
    fn take(&self) -> Option<OwnedFd> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_empty() {
            // Acquire: pairs with the Releases in `hand_over` of the whole stack: each exchange
            // continues the release sequence of the one before.
            let mut node = self.handed.swap(ptr::null_mut(), Acquire);
            while !node.is_null() {
                // SAFETY: the swap has taken the whole stack away, so no other thread has its
                // nodes. Each of them was a `Box`.
                let owned = unsafe { Box::from_raw(node) };
                node = owned.next;
                taken.push(owned.descriptor);
            }
        }
        taken.pop()
    }

    fn run(self: &Arc<Self>) {
        loop {
            // Acquire: pairs with the Release in `end_idle`. A thread that misses the ending in
            // this load learns of it from the permit that is released there.
            let endings = self.endings.load(Acquire);
            // SeqCst, both: see `close`. A thread that is counted here takes what is handed over
            // next.
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
                // SeqCst: see `close`. From here on, a hand-over can start another thread in place
                // of this one. For what was handed over before, this thread goes on.
                self.threads.fetch_sub(1, SeqCst);
                if self.left.load(SeqCst) == 0 {
                    return;
                }
                // SeqCst: as above.
                self.threads.fetch_add(1, SeqCst);
            }
        }
    }

    /// Has the threads end once they have closed what is left.
    pub(super) fn finish(&self) {
        // Release: pairs with the Acquire in `run`.
        self.is_over.store(true, Release);
        for _ in 0..MAX_THREADS {
            let _ = self.more.release();
        }
    }
}

impl Drop for Closer {
    /// Closes what is left because no thread could be started for it.
    fn drop(&mut self) {
        while self.take().is_some() {}
    }
}

impl HasThreads for Closer {
    fn end_idle(&self) {
        // SeqCst: threads that are about to sleep are counted.
        let idle = self.idle.load(SeqCst);
        // Release: pairs with the Acquires in `run`.
        self.endings.fetch_add(1, Release);
        for _ in 0..idle {
            let _ = self.more.release();
        }
    }
}

/// A descriptor that a [`Closer`] closes.
#[derive(Debug)]
pub(super) struct Foreign {
    /// `None` only during the drop.
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
    use std::thread;

    use super::*;

    #[test]
    fn what_is_closed_before_it_was_counted_is_none_less_than_none() {
        const COUNT: usize = 400_000;
        let closer = Closer::new(COUNT, Arc::new(Bell::new().unwrap()));
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            // Releases permits without descriptors, as at the end of a directory.
            scope.spawn(|| {
                while !is_done.load(Relaxed) {
                    closer.finish();
                    thread::yield_now();
                }
            });
            let closing = scope.spawn(|| {
                for _ in 0..COUNT {
                    drop(Foreign::new(file.try_clone().unwrap(), &closer));
                    // Stays below the number of descriptors that this process may have open.
                    while closer.left.load(Relaxed) > 200 {
                        assert!(closer.left.load(Relaxed) <= COUNT);
                        thread::yield_now();
                    }
                }
            });
            let closed = closing.join();
            is_done.store(true, Relaxed);
            closed.unwrap();
        });
        while closer.left.load(Relaxed) != 0 {
            thread::yield_now();
        }
    }
}
