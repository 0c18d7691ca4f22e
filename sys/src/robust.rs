//! The robust list: what the kernel does for a thread that dies in the middle of an operation.
//!
//! # What the kernel does
//! Every thread has one list of the futexes that it owns, and one *pending* entry for the futex
//! that it is working on. When the thread ends, in whatever way, or calls `exec`, the kernel walks
//! the list. Where a futex word's TID bits are the dying thread's, the kernel stores `OWNER_DIED`
//! in their place, keeps `WAITERS`, and wakes one waiter if that was set.
//!
//! The pending entry is treated last, and has one more rule. If the TID bits are **zero**, the
//! kernel wakes one waiter and leaves the word as it is. That rule is there for an unlock that was
//! cut off before its wake; the crate uses it for everything that sleeps (see [`Thread::begin`]).
//! Kernels before 6.2 apply the rule only if the whole word is zero.
//!
//! # How we live in libc's list
//! There is one list per thread, and libc owns it. libc also fixes, per thread, the distance from
//! an entry to its futex word. So entries of another library must have libc's layout:
//! [`RobustWord`]. Ours stand between two private sentinels, the first of `slots` and `last`, which
//! are spliced into libc's list once per thread. Each lock hangs on a private slot of its own, and
//! points to the next slot:
//!
//! ```text
//! libc's newer mutexes -> slot 0 -> lock A -> slot 1 (free) -> slot 2 -> lock C -> slot 3
//!     -> last -> libc's older mutexes
//! ```
//!
//! libc edits the neighbours of its own mutexes only, so at most it touches the outer links of our
//! sentinels. Locks lie in shared memory, where a peer may scribble, or in memory that was freed
//! after a guard was leaked. So a lock's entry is written when the lock is taken, through the
//! borrow of its own guard. After that the program neither writes nor reads it: only the kernel
//! reads it. Everything that has to change later is in a slot.
//!
//! # Invariants
//! 1. A `Thread`'s cells are used by its own thread alone. Other threads may touch only the
//!    atomics: `last`'s word, `next_thread`, `made`, `slots`.
//! 2. Between any two instructions of any function here, the chain from libc's head is whole. Each
//!    store either prepares what is not linked yet, or switches one link. The kernel walks the
//!    chain in the dying thread's own context, after the last instruction that ran. So program
//!    order is enough: compiler fences, no CPU fences.
//! 3. `last`'s word holds the TID of the thread that the record belongs to. The kernel replaces it
//!    with `OWNER_DIED` when it has walked past `last`. After that nothing reads the record any
//!    more, and the record is free for another thread.
//! 4. Records are mapped `MADV_WIPEONFORK`. In a forked child they read as zero, however it was
//!    forked, so `tid` 0 means "not set up in this process". libc starts the child with an empty
//!    list.
//! 5. Slot k, for k < `made`, points to the lock that hangs on it. A free slot points to the slot
//!    after it. Slot `made` points to `last`. So the chain goes through all slots up to the last
//!    one in use, or through the first one alone. Taking or freeing a slot is one store.
//! 6. What a thread holds, how often, and by how many guards, is in its slots, in this process's
//!    own memory. The words lie where peers write: they say who may come next, never what is held
//!    here.
//! 7. Before the kernel walks the list of an ending thread, `end` has looked at what the thread
//!    holds.
//!
//! # A thread that ends and still holds something
//! A leaked guard may have left a reference that outlives its thread. If its lock were handed on,
//! two threads would have the same `&mut`. Nothing tells whether such a reference exists. So the
//! *process* ends with the thread, by [`abort`](std::process::abort) and a message. The next owner
//! learns that its predecessor died, and no thread is left that has the reference. SIGABRT is one
//! of the signals for which the kernel halts all threads first, to dump their core, and only then
//! lets them end (`coredump_wait`). So none of them is still running when the list is walked.
//!
//! The same goes for a permit, or a lock that was acquired without a guard, if its memory is no
//! shared mapping of the crate's (`mappings`). That memory may have been freed, and the kernel
//! would write a bit into whatever is there by then. In a shared mapping the kernel may hand it on.
//!
//! libc calls the destructors of thread-specific data in up to four rounds, after those of
//! thread-locals. The crate looks in the last round: a guard that another destructor drops until
//! then was not leaked. After that look the thread can take nothing any more
//! ([`Error::ThreadEnds`]). A thread may take its very first lock in such a destructor. It is then
//! looked at in the crate's next destructor call, since nothing tells which round that is.
//!
//! Three cases escape the look:
//! - A thread takes its very first lock in a destructor of thread-specific data, in the last round.
//! - A thread ends without libc, by a raw `exit`.
//! - Where the kernel may dump no core of the process (`PR_SET_DUMPABLE`), other threads run on
//!   until they are stopped.
//!
//! # Memory that was freed
//! A lock in a `Box` can be freed, or overwritten, while its guard is leaked. Its slot then leads
//! to whatever is there by now. So code that asks whether a thread holds the lock at an address
//! must compare the lock's word, too.
//!
//! In a shared mapping a peer may have written to the word, and the slot alone is the truth. No
//! lock that was held elsewhere before is at such an address
//! ([`Mapping::new`](crate::memory::Mapping::new)). The kernel's walk ends where it meets freed
//! memory, so what hangs behind it is not handed on.
//!
//! # What the list cannot cover
//! - A thread calls `exec` and is not its process's first one. It is given the first one's TID
//!   *before* the kernel walks its list. The list then fits none of its locks: they stay owned by a
//!   TID that is gone.
//! - A signal handler interrupts an operation, runs one itself, and is killed in it. Only the outer
//!   operation is pending.
//! - The threads of a process that exits, or is killed (SIGKILL), do not stop at once. While the
//!   list of one is walked, another may run on until the signal gets to its processor. If it has a
//!   reference from the first one's guard, it uses that at the same time as the lock's next owner.
//!
//! References: <https://docs.kernel.org/locking/robust-futexes.html>,
//! <https://man7.org/linux/man-pages/man2/get_robust_list.2.html>, the kernel's
//! `handle_futex_death`, glibc's `nptl/descr.h` (`ENQUEUE_MUTEX_BOTH`), musl's
//! `pthread_mutex_trylock.c`.

#![allow(unsafe_code)]

use core::cell::Cell;
use core::mem::offset_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};

use crate::futex::Word;
use crate::signals::Blocked;
use crate::{ids, namespace};

mod ending;
mod entry;
mod error;
mod lent;
mod libc_list;
mod records;
mod slots;
mod word;

pub use self::entry::{Entry, Pending};
pub use self::error::Error;
pub use self::lent::Lent;
use self::libc_list::{ListHead, registered_head};
use self::records::{map_record, publish, records};
use self::slots::SlotWord;
pub use self::slots::{Holding, NoSlot, Slot, any_held_within};
pub use self::word::{OWNER_DIED, RobustWord, TID_MASK, WAITERS, in_program_order};

/// The largest number of locks that one thread may hold. The kernel's walk stops after 2,048
/// entries, two for each lock; libc's own robust mutexes need some.
pub const MAX_HELD: usize = 1_000;

/// A thread's place in its robust list.
#[repr(C)]
pub struct Thread {
    /// The owner's TID; 0 in a forked child, whose copy is wiped (invariant 4).
    tid: Cell<u32>,
    /// A number that differs for every thread that ever has this record, even if a TID is given out
    /// again. 0 in a forked child, like `tid`, and after the thread's last look (`ending::end`).
    session: Cell<u64>,
    /// How many of `slots` can be used so far (invariant 5). Written by the thread alone.
    made: AtomicUsize,
    /// libc's head of the list. The kernel reads the `list_op_pending` in it.
    head: Cell<*const ListHead>,
    /// How many times libc has called the destructor `ending::end` for this thread.
    rounds: Cell<u32>,
    /// Whether the thread-locals were dropped after libc had been asked to call `ending::end`.
    has_lost_locals: Cell<bool>,
    last: RobustWord,
    next_thread: AtomicPtr<Thread>,
    /// What the locks hang on (invariant 5). Written by the thread alone; other threads read it to
    /// find what was leaked.
    slots: [SlotWord; MAX_HELD + 1],
}

impl core::fmt::Debug for Thread {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Thread")
            .field("tid", &self.tid)
            .field("slots", &self.made)
            .finish_non_exhaustive()
    }
}

/// The record of a thread that has none: all zero, and never written.
struct Unset(Thread);
// SAFETY: never written to. `ready` does not give it out, and `set_up` replaces it.
unsafe impl Sync for Unset {}
static UNSET: Unset = Unset::new();
/// The record of a thread whose list is left to the kernel. To the program the thread has no
/// record, for good.
static ENDED: Unset = Unset::new();

impl Unset {
    const fn new() -> Self {
        Unset(Thread {
            tid: Cell::new(0),
            session: Cell::new(0),
            made: AtomicUsize::new(0),
            head: Cell::new(ptr::null()),
            rounds: Cell::new(0),
            has_lost_locals: Cell::new(false),
            last: RobustWord::new(),
            next_thread: AtomicPtr::new(ptr::null_mut()),
            slots: [const { SlotWord::new() }; MAX_HELD + 1],
        })
    }
}

thread_local! {
    /// The calling thread's record. It has no drop glue, so it works in destructors of other
    /// thread-locals too.
    static RECORD: Cell<*const Thread> = const { Cell::new(&raw const UNSET.0) };
}

/// Returns the calling thread's record, set up or not. One that is not set up has TID 0, and no
/// slot.
#[inline]
fn record() -> &'static Thread {
    // SAFETY: RECORD points to `UNSET`, to `ENDED`, or to a record that is never unmapped and
    // belongs to this thread (invariant 1). In a forked child that record reads as zeroes at the
    // same address, which are a valid `Thread`.
    unsafe { &*RECORD.get() }
}

/// Returns the calling thread's record, if it is set up.
#[inline]
#[must_use]
pub fn ready() -> Option<&'static Thread> {
    Some(record()).filter(|thread| thread.tid.get() != 0)
}

/// Returns the calling thread's record, if it belongs to the thread `tid`, which is not 0.
#[inline]
#[must_use]
pub fn of(tid: u32) -> Option<&'static Thread> {
    Some(record()).filter(|thread| thread.tid.get() == tid)
}

/// Returns the calling thread's record and a slot for a lock, if the thread is set up and holds
/// nothing else. For all other cases there are [`current`] and [`slot_for`](Thread::slot_for).
#[inline]
#[must_use]
pub fn at_hand() -> Option<(&'static Thread, Slot<'static>)> {
    let thread = record();
    let first = thread.slot(0);
    // A record that is not set up has made no slots.
    (thread.made.load(Relaxed) == 1 && first.is_free()).then_some((thread, first))
}

/// Returns the calling thread's record, and sets it up on first use.
///
/// # Errors
/// [`Error`]; nothing has changed then, and the next call tries again.
#[inline]
pub fn current() -> Result<&'static Thread, Error> {
    ready().map_or_else(set_up, Ok)
}

impl Thread {
    /// Returns the thread's TID.
    #[inline]
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.tid.get()
    }

    /// Returns a number that tells this thread from every other one that has, or had, this record,
    /// the first threads of its forked children included. It is 0 only in a child in which it was
    /// not set up, and after the thread's last look (`ending`).
    #[inline]
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session.get()
    }

    /// Returns the entry that tells the kernel which futex this thread works on.
    #[inline]
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.head().list_op_pending
    }

    /// Calls [`Entry::begin`] on this thread's own entry.
    #[inline]
    pub fn begin<W: Word>(&self, word: &W) {
        self.entry().begin(word);
    }

    /// Calls [`Entry::end`] on this thread's own entry.
    #[inline]
    pub fn end(&self) {
        self.entry().end();
    }

    /// Calls [`Entry::begin_nested`] on this thread's own entry.
    pub fn begin_nested<W: Word>(&self, word: &W) -> Pending {
        self.entry().begin_nested(word)
    }

    /// Calls [`Entry::end_nested`] on this thread's own entry.
    pub fn end_nested(&self, before: Pending) {
        self.entry().end_nested(before);
    }

    #[inline]
    fn head(&self) -> &ListHead {
        // SAFETY: `set_up` sets it to what the kernel has registered for this thread. It lies in
        // libc's descriptor of the thread, which outlives every instruction that the thread
        // executes.
        unsafe { &*self.head.get() }
    }
}

/// How many records were ever set up, in this process and before it was forked.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

#[cold]
fn set_up() -> Result<&'static Thread, Error> {
    // A signal handler that needs the record must not come in between and make it, too.
    let _blocked = Blocked::all()?;
    if let Some(done) = ready() {
        // A handler made it before the signals were blocked.
        return Ok(done);
    }
    if ptr::eq(RECORD.get(), &raw const ENDED.0) {
        return Err(Error::ThreadEnds);
    }
    let wiped = Some(RECORD.get()).filter(|&record| !ptr::eq(record, &raw const UNSET.0));
    let head = registered_head()?;
    if namespace::current()? != namespace::first()? {
        return Err(Error::OtherPidNamespace);
    }
    let tid = ids::this_thread()?.as_raw_nonzero().get() as u32;
    let reused = if wiped.is_none() { records().find(|thread| thread.claim(tid)) } else { None };
    let record = match reused {
        Some(thread) => thread,
        None => {
            // A record that was wiped by a fork is still this thread's. It is no longer among the
            // records: the pool is wiped, too.
            let record = wiped
                .and_then(|record| NonNull::new(record.cast_mut()))
                .map_or_else(map_record, Ok)?;
            // SAFETY: mapped for good, zeroed, and aligned to a page: a valid `Thread`.
            let thread = unsafe { record.as_ref() };
            thread.last.word.store(tid, Relaxed);
            publish(record)?;
            thread
        }
    };
    record.splice(head);
    // Relaxed: nothing but the number itself counts. A child continues its parent's count, so it
    // gives out no number that any copy in it could have.
    record.session.set(1 + SESSIONS.fetch_add(1, Relaxed));
    record.tid.set(tid);
    RECORD.set(record);
    Ok(record)
}

impl Thread {
    /// Returns whether the thread that this record belonged to is gone for good (invariant 3), or
    /// there never was one.
    fn is_free(&self) -> bool {
        let owner = self.last.word.load(Relaxed);
        owner == 0 || owner & OWNER_DIED != 0
    }

    fn claim(&self, tid: u32) -> bool {
        let owner = self.last.word.load(Relaxed);
        // Acquire: pairs with the kernel's exchange, a full barrier, after its last read of the
        // record.
        self.is_free() && self.last.word.compare_exchange(owner, tid, Acquire, Relaxed).is_ok()
    }

    /// Puts the two sentinels at the front of libc's list, with nothing of ours between them yet.
    fn splice(&self, head: &'static ListHead) {
        self.head.set(head);
        self.rounds.set(0);
        self.has_lost_locals.set(false);
        // The first lock makes the first slot: see `slot_for`.
        self.made.store(0, Relaxed);
        // When glibc starts a forked child, it leaves this as it was in the parent.
        head.list_op_pending.end();
        let head_entry = ptr::from_ref(&head.list).expose_provenance();
        // Bit 0 may be libc's flag for a priority-inheritance mutex. The kernel needs it: copied as
        // it is.
        let older = head.list.get();
        let first = &self.slots[0].entry;
        first.prev.store(head_entry, Relaxed);
        first.next.store(self.last.entry(), Relaxed);
        self.last.prev.store(first.entry(), Relaxed);
        self.last.next.store(older, Relaxed);
        in_program_order();
        head.list.set(first.entry());
        in_program_order();
        if older != head_entry {
            let before_older =
                (older & !1) - (offset_of!(RobustWord, next) - offset_of!(RobustWord, prev));
            let prev = ptr::with_exposed_provenance::<AtomicUsize>(before_older);
            // SAFETY: an entry of libc's list is the `next` of a mutex that this thread holds. Its
            // `prev` stands before it, in the layout that libc has registered and `set_up` has
            // checked. Only this thread edits its list.
            let prev = unsafe { &*prev };
            prev.store(self.last.entry(), Relaxed);
        }
    }
}
