//! [`Entry`]: the futex that a thread works on, as the kernel sees it.

use core::cell::Cell;
use core::ptr;

use super::word::{FUTEX_OFFSET, in_program_order};
use crate::futex::{Word, WordAddress};

/// A thread's pending entry, in libc's head of its list. The kernel reads it when the thread ends.
///
/// The thread that the entry belongs to uses it. If that thread works on nothing, other threads of
/// its process may use it.
///
/// An `Entry` stays in its thread, whose descriptor it lies in; a [`Lent`](super::Lent) does not.
#[derive(Debug)]
#[repr(transparent)]
pub struct Entry(Cell<usize>);

/// The value that was pending when an operation began.
#[derive(Debug)]
#[must_use = "an operation that began must end"]
pub struct Pending(usize);

/// Returns the address that the kernel takes for the entry of a futex.
#[inline]
fn entry_of(futex: usize) -> usize {
    futex.wrapping_add_signed(-FUTEX_OFFSET)
}

impl Entry {
    /// Names the futex that is going to be worked on. Call [`end`](Entry::end) when the result is
    /// there.
    ///
    /// If the thread that the entry belongs to dies in between, the kernel looks at the word. If
    /// the TID bits are the thread's, they become `OWNER_DIED`; if they are 0, the kernel wakes one
    /// waiter. So two kinds of operation run between `begin` and `end`, and their wake-ups outlive
    /// the thread. One changes a word and then wakes. The other may have consumed a wake-up and not
    /// acted on it yet. The word need not be a lock: the low half of a 64-bit state whose TID bits
    /// are always 0 has the second rule alone.
    ///
    /// A lock's operation is not for signal handlers, so nothing else is pending. For other
    /// operations there is [`begin_nested`](Entry::begin_nested).
    #[inline]
    pub fn begin<W: Word>(&self, word: &W) {
        // The kernel reads it in the context of the thread that it belongs to. A thread that names
        // a word in another's entry makes a system call before it can be given a wake-up.
        self.0.set(entry_of(ptr::from_ref(word.futex()).addr()));
        in_program_order();
    }

    /// [`begin`](Entry::begin) with a futex by its address. There need not be a futex at that
    /// address: then the kernel looks at nothing.
    pub fn begin_at(&self, word: WordAddress) {
        self.0.set(entry_of(word.address()));
        in_program_order();
    }

    /// Ends what [`begin`](Entry::begin) began.
    #[inline]
    pub fn end(&self) {
        in_program_order();
        self.0.set(0);
    }

    /// [`begin`](Entry::begin) for operations that a signal handler may use. If the handler has
    /// interrupted another operation, that one stays pending: what it may leave behind is worse.
    pub fn begin_nested<W: Word>(&self, word: &W) -> Pending {
        let before = self.now();
        if before.is_nothing() {
            self.begin(word);
        }
        before
    }

    /// Returns what is pending at the moment.
    pub fn now(&self) -> Pending {
        Pending(self.0.get())
    }

    /// Ends what [`begin_nested`](Entry::begin_nested) began, or what began after
    /// [`now`](Entry::now).
    pub fn end_nested(&self, before: Pending) {
        in_program_order();
        self.0.set(before.0);
    }
}

impl Pending {
    /// Returns whether nothing was pending.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.0 == 0
    }
}
