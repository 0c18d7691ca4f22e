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
use core::mem::{MaybeUninit, offset_of};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::*, compiler_fence};
use rustix::io::Errno;
use rustix::mm::munmap;

use crate::atomic::AtomicU32;
use crate::futex::Word;
use crate::memory::map_wiped_on_fork;
use crate::retry::last_errno;
use crate::signals::Blocked;
use crate::{ids, mappings, namespace};

mod ending;
mod entry;

pub use self::entry::{Entry, Lent, Pending};

/// The TID bits of a robust futex word.
pub const TID_MASK: u32 = 0x3fff_ffff;
/// Set by the kernel when the owner has died.
pub const OWNER_DIED: u32 = 0x4000_0000;
/// Set by a thread that sleeps, or may sleep: the kernel wakes only if it is set.
pub const WAITERS: u32 = 0x8000_0000;

/// The largest number of locks that one thread may hold. The kernel's walk stops after 2,048
/// entries, two for each lock; libc's own robust mutexes need some.
pub const MAX_HELD: usize = 1_000;

/// The distance from an entry to its futex word, as libc registered it for every thread.
const FUTEX_OFFSET: isize = if cfg!(target_env = "musl") { -28 } else { -32 };

const _: () = assert!(
    offset_of!(RobustWord, word) as isize - offset_of!(RobustWord, next) as isize == FUTEX_OFFSET
);
const _: () = assert!(size_of::<RobustWord>() == 40 && align_of::<RobustWord>() == 8);

/// A futex word and its robust-list entry, laid out as libc's `pthread_mutex_t` lays out its own.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct RobustWord {
    #[cfg(target_env = "musl")]
    _kind: AtomicU32,
    word: AtomicU32,
    #[cfg(not(target_env = "musl"))]
    _reserved: AtomicU32,
    _unused: [AtomicU32; 4],
    /// The place where libc expects the address of the previous entry. Used in sentinels only.
    prev: AtomicUsize,
    /// The entry: the address of the next entry.
    next: AtomicUsize,
}

impl RobustWord {
    /// Creates a word that is 0: free.
    #[must_use]
    pub const fn new() -> Self {
        RobustWord {
            // Process-shared: musl reads this field when a thread ends.
            #[cfg(target_env = "musl")]
            _kind: AtomicU32::new(128),
            word: AtomicU32::new(0),
            #[cfg(not(target_env = "musl"))]
            _reserved: AtomicU32::new(0),
            _unused: [const { AtomicU32::new(0) }; 4],
            prev: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        }
    }

    /// The futex word. Bits 0-29: the owner's TID, 0 when free; bit 30: [`OWNER_DIED`]; bit 31:
    /// [`WAITERS`].
    #[inline]
    #[must_use]
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    #[inline]
    fn entry(&self) -> usize {
        ptr::from_ref(&self.next).expose_provenance()
    }
}

impl Default for RobustWord {
    fn default() -> Self {
        RobustWord::new()
    }
}

/// Why this thread can have no robust list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// libc has registered no list for this thread: libc did not create it (a raw `clone`).
    NoList,
    /// libc's list has another layout than this program was compiled for.
    OtherLayout {
        /// The distance that libc registered.
        futex_offset: isize,
    },
    /// This process was forked into another pid namespace than its parent's, and can see the
    /// parent's locks.
    OtherPidNamespace,
    /// The thread is about to end: its last destructors are running.
    ThreadEnds,
    /// This process cannot find out its pid namespace.
    UnknownPidNamespace(namespace::Unknown),
    /// A system call failed, such as the one for the memory of the thread's record.
    Os(Errno),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::NoList => f.write_str(
                "libc has registered no robust list for this thread: start threads and processes \
                 through libc",
            ),
            Error::OtherLayout { futex_offset } => {
                write!(
                    f,
                    "libc's robust list has its futex words at {futex_offset}, this program was \
                     compiled for {FUTEX_OFFSET}"
                )
            }
            Error::OtherPidNamespace => {
                // A TID may name another thread in each namespace.
                f.write_str(
                    "forked into another pid namespace: exec before using locks, which name their \
                     owner by TID",
                )
            }
            Error::ThreadEnds => f.write_str(
                "the thread is about to end: what it took now, \
                 nobody would release",
            ),
            Error::UnknownPidNamespace(unknown) => core::fmt::Display::fmt(unknown, f),
            Error::Os(errno) => write!(f, "the thread's robust list could not be set up: {errno}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::UnknownPidNamespace(unknown) => unknown.source(),
            Error::Os(errno) => Some(errno),
            _ => None,
        }
    }
}

impl From<namespace::Unknown> for Error {
    fn from(unknown: namespace::Unknown) -> Self {
        Error::UnknownPidNamespace(unknown)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Error::Os(errno)
    }
}

/// The kernel's `struct robust_list_head`, which lies in libc's thread descriptor.
#[repr(C)]
struct ListHead {
    list: Cell<usize>,
    futex_offset: Cell<isize>,
    list_op_pending: Entry,
}

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

/// A slot: what a lock hangs on, and how that lock is held.
#[derive(Debug)]
#[repr(C)]
struct SlotWord {
    /// The slot's entry. Its futex word is always 0, and only its `next` is used.
    entry: RobustWord,
    /// How the lock that hangs on the slot is held (invariant 6).
    holding: Cell<Holding>,
}

impl SlotWord {
    const fn new() -> Self {
        SlotWord { entry: RobustWord::new(), holding: Cell::new(Holding::NOT) }
    }
}

/// How a thread holds a lock. It lies in this process's own memory: no peer can change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct Holding {
    /// How many times the thread holds it.
    pub depth: u32,
    /// How many guards of this thread stand for it. What they give references to belongs to this
    /// thread while they exist. A lock held by 0 guards was acquired without one.
    pub guards: u32,
}

impl Holding {
    /// Not held.
    pub const NOT: Holding = Holding { depth: 0, guards: 0 };
    /// Held once, by a guard.
    pub const BY_GUARD: Holding = Holding { depth: 1, guards: 1 };
    /// Held once, without a guard.
    pub const BY_HAND: Holding = Holding { depth: 1, guards: 0 };

    /// Returns the holding with one hold less. `by_guard` removes a guard with it. Without that, a
    /// guard goes only if there would be fewer holds than guards.
    #[must_use]
    pub fn less(self, by_guard: bool) -> Self {
        let depth = self.depth.saturating_sub(1);
        let guards = self.guards.saturating_sub(by_guard.into());
        Holding { depth, guards: guards.min(depth) }
    }
}

/// Why a thread cannot take one more lock.
#[derive(Debug)]
pub enum NoSlot {
    /// It holds this one already, whatever the lock's word says.
    Held,
    /// It holds [`MAX_HELD`] locks.
    TooMany,
    /// libc cannot call the crate when the thread ends, for lack of memory or of keys for
    /// thread-specific data (EAGAIN, ENOMEM).
    Unavailable(Error),
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

/// A place in the list for one more lock, or the one that a lock hangs on. With it comes the place
/// after it.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a>(&'a [SlotWord; 2]);

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

    /// Returns a free slot for a lock that this thread does not hold. For `None`,
    /// [`no_slot`](Thread::no_slot) tells the reason.
    #[must_use]
    pub fn slot_for(&self, lock: &RobustWord) -> Option<Slot<'_>> {
        let made = self.made.load(Relaxed);
        let mut free = None;
        for index in 0..made {
            let slot = self.slot(index);
            if slot.holds(lock) {
                if is_shared(lock) {
                    return None;
                }
                if lock.word().load(Relaxed) & TID_MASK != self.tid() {
                    // The slot belongs to another lock, that was there before.
                    slot.lead_to(slot.after());
                }
            }
            if slot.is_free() {
                free = free.or(Some(index));
            }
        }
        match free {
            Some(index) => Some(self.slot(index)),
            // Not done in `set_up`, which signal handlers need: libc may allocate for it.
            None if made == 0 && self.will_be_called_at_end().is_err() => None,
            None if made == MAX_HELD => None,
            None => {
                // Makes one more slot: its end first, then the link to it.
                self.slots[made + 1].entry.next.store(self.last.entry(), Relaxed);
                in_program_order();
                self.slots[made].entry.next.store(self.slots[made + 1].entry.entry(), Relaxed);
                self.made.store(made + 1, Relaxed);
                Some(self.slot(made))
            }
        }
    }

    /// Returns why there is no [slot for](Thread::slot_for) a lock.
    #[cold]
    #[must_use]
    pub fn no_slot(&self, lock: &RobustWord) -> NoSlot {
        if self.made.load(Relaxed) == 0 {
            return self
                .will_be_called_at_end()
                .map_or_else(NoSlot::Unavailable, |()| NoSlot::TooMany);
        }
        if self.slot_of(lock).is_some() { NoSlot::Held } else { NoSlot::TooMany }
    }

    /// Returns whether this thread still holds a lock for which it has a [slot](Thread::slot_of).
    #[inline]
    #[must_use]
    pub fn is_held_still(&self, lock: &RobustWord) -> bool {
        lock.word().load(Relaxed) & TID_MASK == self.tid() || is_shared(lock)
    }

    /// Lets the calling thread end though it has leaked guards. The locks that they stood for are
    /// then handed on as those of a dead owner.
    ///
    /// # Safety
    /// No guard of this thread is left, and no reference that came from one.
    pub unsafe fn disown_guards(&self) {
        for slot in self.slots_made().filter(|slot| !slot.is_free()) {
            slot.hold(Holding { guards: 0, ..slot.holding() });
        }
    }

    #[inline]
    fn slot(&self, index: usize) -> Slot<'_> {
        // There is one more slot than can be used, so each has one after it.
        let both = self.slots[index..].first_chunk().expect("a slot that can be used");
        Slot(both)
    }

    /// Returns the slots that can be used so far.
    fn slots_made(&self) -> impl DoubleEndedIterator<Item = Slot<'_>> {
        (0..self.made.load(Relaxed)).map(|index| self.slot(index))
    }

    /// Returns the slot that the lock hangs on, if this thread holds it. This is the truth about
    /// that (invariant 6), if it [is that lock still](Thread::is_held_still).
    #[inline]
    #[must_use]
    pub fn slot_of(&self, lock: &RobustWord) -> Option<Slot<'_>> {
        let first = self.slot(0);
        if first.holds(lock) {
            return Some(first);
        }
        if self.made.load(Relaxed) <= 1 {
            return None;
        }
        Some(self.slot(self.later_index_of(lock)?))
    }

    #[cold]
    fn later_index_of(&self, lock: &RobustWord) -> Option<usize> {
        // Takes the last one: an earlier one of the same address was leaked, and its memory used
        // again.
        (1..self.made.load(Relaxed)).rev().find(|&index| self.slot(index).holds(lock))
    }

    /// Returns whether this thread holds a lock whose entry lies in the `len` bytes from address
    /// `start`.
    #[inline]
    #[must_use]
    pub fn holds_within(&self, start: usize, len: usize) -> bool {
        let is_within = |slot: Slot<'_>| slot.leads_to().wrapping_sub(start) < len;
        is_within(self.slot(0)) || (self.made.load(Relaxed) > 1 && self.slots_made().any(is_within))
    }

    /// Returns how many guards this thread has.
    #[must_use]
    pub fn guards(&self) -> u32 {
        let held = self.slots_made().filter(|slot| !slot.is_free());
        held.map(|slot| slot.holding().guards).fold(0, u32::saturating_add)
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

    /// Links a lock that this thread has just acquired, in a [free slot](Thread::slot_for) of its
    /// own. To be called between `begin` and `end`.
    #[inline]
    pub fn link(&self, free: Slot<'_>, lock: &RobustWord, holding: Holding) {
        free.hold(holding);
        lock.next.store(free.after(), Relaxed);
        in_program_order();
        free.lead_to(lock.entry());
        in_program_order();
    }

    /// Unlinks a lock that this thread is about to release, between `begin` and `end`. Returns
    /// whether the thread held it.
    #[inline]
    #[must_use]
    pub fn unlink(&self, lock: &RobustWord) -> bool {
        in_program_order();
        let first = self.slot(0);
        let was_held = if first.holds(lock) {
            first.lead_to(first.after());
            true
        } else {
            self.unlink_later(lock)
        };
        in_program_order();
        was_held
    }

    #[cold]
    fn unlink_later(&self, lock: &RobustWord) -> bool {
        let mut made = self.made.load(Relaxed);
        let Some(index) = self.later_index_of(lock) else { return false };
        self.slot(index).lead_to(self.slot(index).after());
        // Free slots at the end are unmade, so that the fast path is open again.
        while made > 1 && self.slot(made - 1).is_free() {
            made -= 1;
            in_program_order();
            self.slots[made].entry.next.store(self.last.entry(), Relaxed);
            self.made.store(made, Relaxed);
        }
        true
    }

    #[inline]
    fn head(&self) -> &ListHead {
        // SAFETY: `set_up` sets it to what the kernel has registered for this thread. It lies in
        // libc's descriptor of the thread, which outlives every instruction that the thread
        // executes.
        unsafe { &*self.head.get() }
    }
}

impl Slot<'_> {
    /// Returns the entry that this one points to.
    #[inline]
    fn leads_to(self) -> usize {
        self.0[0].entry.next.load(Relaxed)
    }

    #[inline]
    fn lead_to(self, entry: usize) {
        self.0[0].entry.next.store(entry, Relaxed);
    }

    /// Returns the entry of the slot after it.
    #[inline]
    fn after(self) -> usize {
        self.0[1].entry.entry()
    }

    #[inline]
    fn is_free(self) -> bool {
        self.leads_to() == self.after()
    }

    #[inline]
    fn holds(self, lock: &RobustWord) -> bool {
        self.leads_to() == lock.entry()
    }

    /// Returns how the lock that hangs here is held.
    #[inline]
    #[must_use]
    pub fn holding(self) -> Holding {
        self.0[0].holding.get()
    }

    /// Records how the lock that hangs here is held.
    #[inline]
    pub fn hold(self, holding: Holding) {
        self.0[0].holding.set(holding);
    }
}

/// Returns whether any thread of this process holds a lock whose entry lies in the `len` bytes from
/// address `start`. The answer is exact for memory in which no lock is being taken or released. For
/// other memory it may err to either side.
#[must_use]
pub fn any_held_within(start: usize, len: usize) -> bool {
    let is_within = |slot: &SlotWord| slot.entry.next.load(Relaxed).wrapping_sub(start) < len;
    records().any(|thread| {
        !thread.is_free()
            && thread.slots[..thread.made.load(Relaxed).min(MAX_HELD)].iter().any(is_within)
    })
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

/// Returns whether the lock must be the same one as when it was taken. Outside shared mappings, a
/// lock at the same address may have been leaked and freed, and its memory used again.
#[cold]
fn is_shared(lock: &RobustWord) -> bool {
    mappings::contain(ptr::from_ref(lock).addr())
}

/// Keeps the stores before it before the stores after it, for the kernel's walk in this thread's
/// own context (invariant 2). SeqCst is the one ordering of a compiler fence that forbids moving a
/// store across it in both directions; it costs no instruction.
#[inline]
pub fn in_program_order() {
    compiler_fence(SeqCst);
}

/// Returns what libc has registered for the calling thread, checked against the layout of
/// [`RobustWord`].
fn registered_head() -> Result<&'static ListHead, Error> {
    let mut head = get_robust_list()?;
    if head.is_null() {
        // musl registers a thread's list when the thread locks its first process-shared mutex.
        lock_a_shared_mutex();
        head = get_robust_list()?;
    }
    // SAFETY: the kernel returns what libc has registered for this very thread. It lies in the
    // thread's descriptor, which outlives the thread's code.
    let head: &'static ListHead = unsafe { head.as_ref() }.ok_or(Error::NoList)?;
    match head.futex_offset.get() {
        FUTEX_OFFSET => Ok(head),
        futex_offset => Err(Error::OtherLayout { futex_offset }),
    }
}

/// Calls `get_robust_list(2)` for the calling thread. That has no errnos: the call neither asks for
/// another thread, nor passes a bad pointer.
fn get_robust_list() -> Result<*const ListHead, Error> {
    let mut head: *const ListHead = ptr::null();
    let mut len: usize = 0;
    // SAFETY: the call writes a pointer and a size where its two arguments point.
    let failed =
        unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) };
    if failed != 0 {
        return Err(Error::Os(last_errno()));
    }
    Ok(if len == size_of::<ListHead>() { head } else { ptr::null() })
}

fn lock_a_shared_mutex() {
    let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
    let mut mutex = MaybeUninit::<libc::pthread_mutex_t>::uninit();
    // SAFETY: initialises the attributes.
    unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
    // SAFETY: initialised by the line above.
    unsafe {
        libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST)
    };
    // SAFETY: initialised as well.
    unsafe {
        libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED)
    };
    // SAFETY: initialises the mutex from initialised attributes.
    unsafe { libc::pthread_mutex_init(mutex.as_mut_ptr(), attributes.as_ptr()) };
    // SAFETY: initialised, and no other code knows it.
    unsafe { libc::pthread_mutex_lock(mutex.as_mut_ptr()) };
    // SAFETY: held by this thread since the line above. Once it is unlocked, the list does not name
    // it any more.
    unsafe { libc::pthread_mutex_unlock(mutex.as_mut_ptr()) };
    // SAFETY: unlocked, and not used again.
    unsafe { libc::pthread_mutex_destroy(mutex.as_mut_ptr()) };
    // SAFETY: not used again.
    unsafe { libc::pthread_mutexattr_destroy(attributes.as_mut_ptr()) };
}

/// The place of the pointer to the process's first record: a page of its own that is wiped on fork.
/// Null before the first use.
static POOL: AtomicPtr<AtomicPtr<Thread>> = AtomicPtr::new(ptr::null_mut());

/// Returns all records of this process. They are never unmapped: a thread that is gone leaves its
/// own to the next one.
fn records() -> impl Iterator<Item = &'static Thread> {
    // Acquire: pairs with the Release in `publish`, as does the one below: what a pointer leads to
    // is there.
    let pool = NonNull::new(POOL.load(Acquire));
    // SAFETY: once set, POOL points to a page that stays mapped and holds an `AtomicPtr`.
    let first = pool.map_or(ptr::null_mut(), |pool| unsafe { pool.as_ref() }.load(Acquire));
    // SAFETY: records are published whole and stay mapped. Of other threads' records only the
    // atomics are used (invariant 1).
    let at = |record: *mut Thread| unsafe { record.as_ref() };
    core::iter::successors(at(first), move |thread| at(thread.next_thread.load(Acquire)))
}

/// Adds a record to those that `records` finds.
fn publish(record: NonNull<Thread>) -> Result<(), Error> {
    let mut pool = POOL.load(Acquire);
    if pool.is_null() {
        let page = map_wiped_on_fork(size_of::<AtomicPtr<Thread>>())?.cast();
        // Release: pairs with the Acquire in `records`. Acquire on failure: another thread's page
        // is used instead.
        pool = match POOL.compare_exchange(ptr::null_mut(), page.as_ptr(), Release, Acquire) {
            Ok(_) => page.as_ptr(),
            Err(others) => {
                // SAFETY: mapped above, with this length, and known to no other code.
                let _ = unsafe { munmap(page.as_ptr().cast(), size_of::<AtomicPtr<Thread>>()) };
                others
            }
        };
    }
    // SAFETY: not null, so it is the page that stays mapped.
    let first = unsafe { &*pool };
    // SAFETY: the caller's record is mapped for good.
    let next = &unsafe { record.as_ref() }.next_thread;
    let mut seen = first.load(Relaxed);
    loop {
        next.store(seen, Relaxed);
        // Release: pairs with the Acquire in `records`.
        match first.compare_exchange_weak(seen, record.as_ptr(), Release, Relaxed) {
            Ok(_) => return Ok(()),
            Err(now) => seen = now,
        }
    }
}

fn map_record() -> Result<NonNull<Thread>, Error> {
    Ok(map_wiped_on_fork(size_of::<Thread>())?.cast())
}
