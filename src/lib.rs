//! What `crossbeam` and `std::sync` are to threads, this crate is to processes: futex-based locks,
//! semaphores, events, conditions and barriers, and lock-free queues, in anonymous shared memory.
//!
//! **Any participant may be killed or stopped at any instruction, and everyone else goes on**. What
//! a dead process held passes to the next owner, with a typed error where its data may be half
//! written.
//!
//! ```standalone_crate
#![doc = include_str!("../examples/first.rs")]
//! ```
//!
//! # What there is
//!
#![doc = include_str!("../docs/what-there-is.md")]
//!
//! [`OwnerDied`]: LockError::OwnerDied
#![cfg_attr(
    not(feature = "serde"),
    doc = "[`values`]: https://docs.rs/crossproc/latest/crossproc/values/index.html"
)]
//!
//! [`shared!`] declares your own structs with primitives as fields. Primitives have a
//! `const fn new`, are valid at any address in any mapping, and also work between the threads of
//! one process.
//!
//! # What all operations have in common
//! - **Time.** Every operation of a primitive that may block has a `try_` form, a `_timeout` form
//!   and a `_deadline` form, where one makes sense. Deadlines are absolute, on `CLOCK_MONOTONIC`,
//!   and bound the whole call. A signal handler that runs meanwhile changes nothing by default. The
//!   `_with` form takes a [`Wait`], which can be made interruptible, also [without missing a
//!   signal](Wait::interruptible_by).
//! - **Cost.** An uncontended operation makes no system call and allocates nothing. A wake-up is a
//!   system call only if a thread sleeps. (A thread's first operation sets up its robust list, and
//!   its part in a queue.)
//! - **Slices.** Sleeping threads look at the state again every 100 ms ([`set_recheck_interval`]).
//!   This bounds the delay from any wake-up that is lost nevertheless.
//!
//! # Trust model
//! Participants are programs of one owner that follow the protocol and may crash at any point. A
//! participant that writes anything anywhere into the shared memory can spoil data and refuse to
//! cooperate. It cannot make this crate index out of bounds, follow a pointer, panic, or spin for
//! ever. The kernel does follow the entries of locks that a thread holds when it *ends*: beside
//! such a peer, end no thread that holds locks. Such a peer can also change the value of a [`Lock`]
//! while another thread has it locked: do not share memory with a program that you would not run. A
//! thread knows by a lock's address that it holds it already, whatever that peer writes: attach a
//! region once in a process, and clone the handle.
//!
//! # Fork, exec, threads
//! Everything belongs to a thread: locks are owned by threads, in whatever process they run. A
//! forked child has its parent's handles and none of its locks. `exec` and the end of a thread
//! release what it held, as its death does. A thread that ends with a leaked guard ends its
//! process, since references may be left ([`LockGuard`](LockGuard#leaked-guards)). A process that
//! holds a guard cannot fork. The rules for fork in a program with threads are in [`process`].
//!
//! # Futures
//! With the feature `tokio` the waits are also futures: `get_async` and `put_async` of the queues,
//! [`Event`]'s `wait_async`, the semaphores' `acquire_async`, and `wait_any_async`. They run on any
//! executor; those that wait for descriptors need tokio's. Each poll runs the `try_` form in the
//! thread that polls, so all that is said here about threads holds for futures. An item or a permit
//! is taken, or put, only in the poll that reports it. A future that is dropped loses nothing, and
//! another is notified in its place. A future that finds something at once does not yield: a loop
//! over a queue that never runs empty has to yield by itself.
//!
//! While futures wait, threads of this process sleep on their futexes. There is one thread for each
//! 127 words, which is room for 21 queues, however many futures wait for each of them. The first
//! wait starts the threads, and they end a second after the last.
//!
//! # Where it runs
//! 64-bit Linux from 5.4 on, with glibc or musl, and with `/proc` mounted. From 6.2 on the kernel
//! itself completes the wake-ups of dead threads; before that, some take a slice. All participants
//! must be in one pid namespace, which is checked when memory is attached.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub use bytemuck;

mod connection;
pub mod directory;
mod memory;
pub mod process;
mod queue;
mod reactor;
mod sync;
#[cfg(feature = "serde")]
pub mod values;
mod wait;
mod wait_any;

pub use self::connection::{Connection, ConnectionError, Message, Receiver, Sender, pipe, simplex};
pub use self::memory::Fixed;
pub use self::memory::RegionError;
pub use self::memory::{Contents, Shm, ShmOptions};
pub use self::memory::{Fields, Fingerprint, Guarded, Plain, Shared};
pub use self::memory::{Flag, Text, TextTooLong};
pub use self::memory::{Observe, Part, Parts, ReadOnly};
pub use self::queue::{
    AllDone, Batch, BatchQueue, Broadcast, BroadcastOptions, ByteQueue, DeadLetter, Item,
    JoinableByteQueue, JoinableQueue, Loan, NextDeadLetter, NextItem, PutError, PutManyError,
    Queue, QueueError, QueueOptions, Received, Room, SlowSubscribers, Subscriber, Task, View,
};
pub use self::sync::barrier::{Arrival, Barrier, BarrierError, BarrierPassed};
pub use self::sync::condition::{Condition, ConditionError, Held};
pub use self::sync::error::{NotOwner, RobustListError};
pub use self::sync::event::{Event, EventError};
pub use self::sync::lock::{Acquired, Lock, LockError, LockGuard};
pub use self::sync::once::{Once, OnceError, OnceState};
pub use self::sync::permits::{Permit, Permits, PermitsError};
pub use self::sync::rlock::{RLock, RLockGuard};
pub use self::sync::rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use self::sync::semaphore::{
    BoundedSemaphore, OverRelease, Semaphore, SemaphoreError, SemaphoreGuard,
};
#[cfg(feature = "serde")]
pub use self::values::transport::ValueError;
pub use self::wait::{Wait, recheck_interval, set_recheck_interval};
#[cfg(feature = "tokio")]
pub use self::wait_any::wait_any_async;
pub use self::wait_any::{
    OwnerDeath, Readable, WaitAnyError, Waitable, Writable, try_wait_any, wait_any,
    wait_any_deadline, wait_any_timeout, wait_any_with,
};

/// The examples of the README and of the guide run with those of the documentation.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/after-a-death.md")]
    struct AfterADeath;
}
