//! Closing what strangers have made, on threads of its own.
//!
//! Closing the last descriptor of a file does what the file's maker wants: a TCP socket may wait for as long as its `SO_LINGER` says, a file of FUSE asks its daemon, memory of many gigabytes is freed page by page. Closing a Unix socket closes what is on its way to it.
//! So whatever a client has sent, and the sockets of clients, too, are closed here. A thread that is stuck is left alone; there is a bounded number of them, and when that is not enough, the server takes no more descriptors from clients until it is
//! ([`Closer::has_room`]), and goes on with everything else.
//!
//! Whoever hands something over takes no lock: a thread that closes may be anywhere when it loses its processor, and the server would wait for it to get one again. The descriptors go onto a stack, and a semaphore counts them; only those who close lock the list that they move them to.

#![allow(unsafe_code)]

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::*};
use core::time::Duration;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::semaphore::Semaphore;
use crossproc_sys::poll::Bell;

/// How many closes may be stuck before others have to wait for them.
const MAX_THREADS: usize = 16;
/// A thread that had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(1);

/// Closes descriptors on threads of its own.
#[derive(Debug)]
pub(super) struct Closer {
    /// What was handed over and not moved to `taken` yet, the last one first. Each node is its own `Box`'s, and belongs to whoever takes the stack away.
    handed: AtomicPtr<Node>,
    /// What is to be closed next. Only the threads that close lock it.
    taken: Mutex<Vec<OwnedFd>>,
    /// How many are in either: as many as the semaphore has been released for, and has not been acquired for.
    left: AtomicUsize,
    more: Semaphore,
    threads: AtomicUsize,
    /// How many threads sleep, or are about to.
    idle: AtomicUsize,
    is_over: AtomicBool,
    /// How many descriptors may be left to close before clients' are not received any more. Bounded they are in any case: each is open.
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
            room,
            bell,
        })
    }

    /// Whether a packet's worth of descriptors may be received.
    pub(super) fn has_room(&self) -> bool {
        // Relaxed: a bound that a few may exceed.
        self.left.load(Relaxed) < self.room
    }

    /// Starts a thread if something is left and nobody is there for it: none could be started when it came.
    pub(super) fn go_on(self: &Arc<Self>) {
        // Relaxed: asked again and again.
        if self.left.load(Relaxed) != 0 && self.threads.load(Relaxed) == 0 {
            self.start();
        }
    }

    fn close(self: &Arc<Self>, descriptor: OwnedFd) {
        self.hand_over(descriptor);
        // SeqCst: either this sees that a thread has ended, or the thread, in `run`, that something is left.
        let left = self.left.fetch_add(1, SeqCst) + 1;
        // It fails if there are more than there can be descriptors.
        let _ = self.more.release();
        // SeqCst: one that is about to end is not idle before it looks whether something is left.
        if self.idle.load(SeqCst) < left {
            self.start();
        }
    }

    /// Starts a thread, if there may be another one. Without memory for it, those that are there must do, or the next attempt.
    fn start(self: &Arc<Self>) {
        // SeqCst: see `close`.
        if self.threads.fetch_update(SeqCst, SeqCst, |threads| (threads < MAX_THREADS).then_some(threads + 1)).is_ok() {
            let closer = Arc::clone(self);
            if thread::Builder::new().name("crossproc-close".into()).spawn(move || closer.run()).is_err() {
                self.threads.fetch_sub(1, SeqCst);
            }
        }
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

    /// One of those that are left. Whoever has acquired the semaphore finds one.
    fn take(&self) -> Option<OwnedFd> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_empty() {
            // Acquire: pairs with the Release in `hand_over`, for the whole stack: each exchange goes on from the one before.
            let mut node = self.handed.swap(ptr::null_mut(), Acquire);
            while !node.is_null() {
                // SAFETY: the swap has taken the whole stack away, so nobody else has its nodes, each of which was a `Box`.
                let owned = unsafe { Box::from_raw(node) };
                node = owned.next;
                taken.push(owned.descriptor);
            }
        }
        taken.pop()
    }

    fn run(self: &Arc<Self>) {
        loop {
            self.idle.fetch_add(1, SeqCst);
            let acquired = self.more.acquire_timeout(IDLE);
            self.idle.fetch_sub(1, SeqCst);
            // Acquire: pairs with the Release in `finish`.
            let is_over = self.is_over.load(Acquire);
            if let Some(descriptor) = acquired.as_ref().ok().and_then(|()| self.take()) {
                if self.left.fetch_sub(1, SeqCst) == self.room {
                    self.bell.ring();
                }
                drop(descriptor);
                continue;
            }
            if acquired.is_err() || is_over {
                // SeqCst: see `close`. Whoever hands over something from now on starts another thread; for what was before, this one goes on.
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
