//! [`Entry`]: the futex that a thread works on, as it tells the kernel.

use core::cell::Cell;
use core::ptr;

use super::{Error, FUTEX_OFFSET, in_program_order, registered_head};
use crate::futex::{Word, WordAddress};

/// A thread's pending entry, in libc's head of its list. The kernel reads it when the thread ends.
///
/// The thread that it belongs to uses it, or, if that works on nothing, others of its process do.
///
/// It stays in its thread, whose descriptor it lies in; [`Lent`] does not.
#[derive(Debug)]
#[repr(transparent)]
pub struct Entry(Cell<usize>);

/// The entry of a thread that works on nothing, for others of its process to use.
#[derive(Debug, Clone, Copy)]
pub struct Lent(&'static Entry);

// SAFETY: there as long as it is used, by one thread at a time: see `Lent::of_this_thread`.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

/// What was pending when an operation began.
#[derive(Debug)]
#[must_use = "an operation that began must end"]
pub struct Pending(usize);

impl Lent {
    /// That of the calling thread. So a process has as many words pending as it likes: when it ends
    /// all its threads do.
    ///
    /// # Errors
    /// [`Error`]; libc has registered no list, or another one.
    ///
    /// # Safety
    /// It is used by one thread after the other, each of which happens after the one before. Nobody
    /// uses it once the thread has ended, nor while the thread itself works on anything: neither
    /// with this crate, nor with libc's robust mutexes.
    pub unsafe fn of_this_thread() -> Result<Self, Error> {
        Ok(Lent(&registered_head()?.list_op_pending))
    }

    /// The entry.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        self.0
    }
}

/// What the kernel takes for the entry of a futex.
#[inline]
fn entry_of(futex: usize) -> usize {
    futex.wrapping_add_signed(-FUTEX_OFFSET)
}

impl Entry {
    /// Names the futex that is going to be worked on; to be followed by [`end`](Entry::end) with
    /// the result.
    ///
    /// If the thread that the entry belongs to dies in between, the kernel looks at the word: TID
    /// bits that are the thread's become `OWNER_DIED`; if the TID bits are 0, it wakes one waiter.
    /// So whoever changes a word and then wakes, and whoever may have consumed a wake-up and not
    /// yet acted on it, does so between `begin` and `end`, and the wake-up outlives it. The word
    /// need not be a lock: the low half of a 64-bit state whose TID bits are always 0 has the
    /// second rule alone.
    ///
    /// A lock's operation is not for signal handlers, so nothing else is pending. For others there
    /// is [`begin_nested`](Entry::begin_nested).
    #[inline]
    pub fn begin<W: Word>(&self, word: &W) {
        // The kernel reads it in the context of the thread that it belongs to. Who names a word in
        // another's entry makes a system call before it can be given a wake-up.
        self.0.set(entry_of(ptr::from_ref(word.futex()).addr()));
        in_program_order();
    }

    /// [`begin`](Entry::begin) with a futex by its address. There need not be one: then the kernel
    /// looks at nothing.
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

    /// [`begin`](Entry::begin) for operations that a signal handler may use. If it has interrupted
    /// another operation, that one stays pending: what that one may leave behind is worse.
    pub fn begin_nested<W: Word>(&self, word: &W) -> Pending {
        let before = self.now();
        if before.is_nothing() {
            self.begin(word);
        }
        before
    }

    /// What is pending now.
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
    /// Whether nothing was.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.0 == 0
    }
}
