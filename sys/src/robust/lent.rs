//! [`Lent`]: an entry for other threads than its own.

#![allow(unsafe_code)]

use super::entry::Entry;
use super::error::Error;
use super::libc_list::registered_head;

/// The entry of a thread that works on nothing, lent to other threads of its process.
#[derive(Debug, Clone, Copy)]
pub struct Lent(&'static Entry);

// SAFETY: the entry exists while it is used, and is used by one thread at a time: see
// `Lent::of_this_thread`.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

impl Lent {
    /// Returns the calling thread's entry. With such entries a process can have any number of words
    /// pending: when the process ends, all its threads end.
    ///
    /// # Errors
    /// [`Error`]: libc has registered no list, or one with another layout.
    ///
    /// # Safety
    /// The entry is used by one thread after the other, and each use happens after the one before.
    /// No thread uses it once its own thread has ended, nor while its own thread works on anything,
    /// with this crate or with libc's robust mutexes.
    pub unsafe fn of_this_thread() -> Result<Self, Error> {
        Ok(Lent(&registered_head()?.list_op_pending))
    }

    /// Returns the entry.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        self.0
    }
}
