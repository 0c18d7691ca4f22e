//! What `crossbeam` and `std::sync` are to threads, for processes: futex-based locks, semaphores,
//! events, conditions and barriers, and lock-free queues, in shared memory that has no name.
//!
//! **Any participant may be killed or stopped at any instruction, and everyone else goes on.** What
//! a dead process held is handed to the next, with a typed error where its data may be half
//! written.
//!
//! ```standalone_crate
//! use crossproc::{Event, Lock, Shm, process, shared};
//!
//! shared! {
//!     struct Board {
//!         hits: Lock<u64>,
//!         go: Event,
//!     }
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     let board = Shm::new(Board { hits: Lock::new(0), go: Event::new() })?;
//!     let mut children = Vec::new();
//!     for _ in 0..4 {
//!         let board = board.clone();
//!         children.push(process::fork(move || -> std::io::Result<()> {
//!             board.go.wait();
//!             *board.hits.lock()? += 1;
//!             Ok(())
//!         })?);
//!     }
//!     board.go.set();
//!     for child in &children {
//!         assert!(child.join()?.success());
//!     }
//!     assert_eq!(*board.hits.lock()?, 4);
//!     Ok(())
//! }
//! ```
//!
//! # What there is
//!
//! | type | is | when a participant dies |
//! |---|---|---|
//! | [`Shm<T>`](Shm) | a value or a slice in memory that processes share | the memory goes with its last user |
//! | [`Lock<T>`](Lock) | mutual exclusion around plain data | the next one to lock gets [`LockError::OwnerDied`] and the guard |
//! | [`RLock<T>`](RLock) | the same, for owners that lock again | the same, at whatever depth |
//! | [`RwLock<T>`](RwLock) | several readers or one writer | a reader is gone; after a writer, the next ones get [`LockError::OwnerDied`] and the guard |
//! | [`Once`] | something that is done once | the next one does it |
//! | [`Semaphore`] | a number of permits without owners | permits that it had taken are gone, and nothing else |
//! | [`BoundedSemaphore`] | the same, never more than at the start | the same |
//! | [`Permits<N>`](Permits) | permits that belong to their holders | they are back at once |
//! | [`Event`] | something that happens | nothing; also not if it died while setting it |
//! | [`Condition`] | a change of what a lock protects | nothing; its notification is another waiter's |
//! | [`Barrier`] | parties that wait for each other | it counts if it had arrived; otherwise the others' time-out breaks the barrier |
//! | [`Queue<T>`](Queue), [`ByteQueue`] | a bounded queue, lock-free, written and read in place | what it put is there, or was not put; what it had got is gone; nothing else |
//! | [`JoinableQueue<T>`](JoinableQueue), [`JoinableByteQueue`] | a queue of tasks | its tasks are another's |
//! | [`pipe`], [`Connection`], [`simplex`] | whole messages and handles between two processes | its message was sent whole or not at all; then the others are told the end |
//! | [`wait_any`](fn@wait_any) | a wait for any of many of these, of processes and descriptors | it has taken nothing |
//! | [`Fixed<T>`](Fixed) | plain data that is set at creation | nothing |
//! | [`Directory`], [`DirectoryClient`] | handles served by name, over a Unix socket | a client's names go with it; what others have got of it, or of a dead server, they keep |
//! | [`process`] | forked children, started programs, handles for them | its [`Child`](process::Child) tells how it ended; its daemons die with it |
//!
//! Structs of one's own, with primitives as fields, are declared with [`shared!`]. Primitives have
//! a `const fn new`, are valid at any address in any mapping, and work between the threads of one
//! process, too.
//!
//! # What all operations have in common
//! - **Time.** What blocks has a `try_` form, a `_timeout` form and a `_deadline` form. Deadlines
//!   are absolute, on `CLOCK_MONOTONIC`, and bound the whole call. A signal handler that runs
//!   meanwhile changes nothing, unless that is asked for: the `_with` form takes a [`Wait`], which
//!   may be interruptible, also [without missing a signal](Wait::interruptible_by).
//! - **Cost.** An uncontended operation makes no system call and allocates nothing; a wake-up is a
//!   system call only when someone sleeps. (A thread's first one sets up its robust list, and its
//!   part in a queue.)
//! - **Slices.** Sleepers look at the state again every 100 ms ([`set_slice`]), which bounds the
//!   delay from any wake-up that is lost nevertheless.
//!
//! # Whom it trusts
//! Participants are programs of one owner that follow the protocol and may crash at any point. One
//! that writes anything anywhere into the shared memory can spoil data and refuse to cooperate, but
//! it cannot make this crate index out of bounds, follow a pointer, panic, or spin for ever. The
//! kernel does follow the entries of locks that a thread holds when it *ends*: end no thread with
//! locks held beside such a peer. What it cannot be kept from is to change the value of a [`Lock`]
//! while another has it locked: do not share memory with a program that you would not run. A thread
//! knows by a lock's address that it holds it already, whatever that peer writes: attach a region
//! once in a process, and clone the handle.
//!
//! # Fork, exec, threads
//! Everything belongs to a thread: locks are owned by threads, wherever they run. A forked child
//! has its parent's handles and none of its locks; `exec` and the end of a thread release what it
//! held, as its death. A thread that ends with a guard leaked ends its process, since references
//! may be left ([`LockGuard`](LockGuard#leaked-guards)), and a process that holds a guard cannot
//! fork. The rules for fork in a program with threads are in [`process`].
//!
//! # Futures
//! With the feature `tokio` the waits are futures, too: `get_async` and `put_async` of the queues,
//! [`Event`]'s `wait_async`, the semaphores' `acquire_async`, and `wait_any_async`. They run on any
//! executor; what waits for descriptors needs tokio's. A poll is the operation that does not wait,
//! by the thread that polls, so that all that is said here about threads is so for futures. Nothing
//! is taken, or put, but in the poll that says so: a future that is dropped loses nothing, and
//! another is told in its place. One that finds something at once does not yield: a loop over a
//! queue that never runs empty has to.
//!
//! While futures wait, threads of this process sleep on their futexes: one for each 127 words, in
//! which there is room for 21 queues, however many futures wait for each of them. They are started
//! by the first wait, and end a second after the last.
//!
//! # Where it runs
//! 64-bit Linux from 5.4 on, with glibc or musl, and with `/proc` mounted. From 6.2 on the kernel
//! completes the wake-ups of the dead by itself; before that, some take a slice. All participants
//! must be in one pid namespace, which is checked when memory is attached.

pub use bytemuck;
pub use crossproc_sys::robust::Error as RobustListError;

mod connection;
pub mod directory;
mod memory;
pub mod process;
mod queue;
mod reactor;
mod sync;
#[cfg(feature = "serde")]
mod values;
mod wait;
mod wait_any;

pub use self::connection::{Connection, ConnectionError, Message, Receiver, Sender, pipe, simplex};
pub use self::directory::{Directory, DirectoryClient, DirectoryError, DirectoryOptions};
pub use self::memory::Fixed;
pub use self::memory::RegionError;
pub use self::memory::{Contents, Shm};
pub use self::memory::{Fingerprint, Plain, Shared};
pub use self::queue::{
    ByteQueue, DeadLetter, Item, JoinableByteQueue, JoinableQueue, Loan, PutError, PutManyError,
    Queue, QueueError, QueueOptions, Received, Room, Task,
};
pub use self::sync::barrier::{Arrival, Barrier, BarrierError, BarrierPassed};
pub use self::sync::condition::{Condition, ConditionError, Held};
pub use self::sync::event::{Event, EventError};
pub use self::sync::lock::{Acquired, Lock, LockError, LockGuard};
pub use self::sync::once::{Once, OnceError, OnceState};
pub use self::sync::permits::{Permit, Permits, PermitsError};
pub use self::sync::rlock::{RLock, RLockGuard};
pub use self::sync::rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use self::sync::semaphore::{BoundedSemaphore, Semaphore, SemaphoreError, SemaphoreGuard};
#[cfg(feature = "serde")]
pub use self::values::ValueError;
pub use self::wait::{Wait, set_slice, slice};
#[cfg(feature = "tokio")]
pub use self::wait_any::wait_any_async;
pub use self::wait_any::{
    OwnerDeath, Readable, WaitAnyError, Waitable, Writable, try_wait_any, wait_any,
    wait_any_deadline, wait_any_timeout, wait_any_with,
};
