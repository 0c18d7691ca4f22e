//! [`RobustWord`]: a futex word with the entry that puts it into a robust list.

use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst, compiler_fence};

use crate::atomic::AtomicU32;

/// The TID bits of a robust futex word.
pub const TID_MASK: u32 = 0x3fff_ffff;
/// Set by the kernel when the owner has died.
pub const OWNER_DIED: u32 = 0x4000_0000;
/// Set by a thread that sleeps, or may sleep: the kernel wakes only if it is set.
pub const WAITERS: u32 = 0x8000_0000;

/// The distance from an entry to its futex word, as libc registered it for every thread.
pub(super) const FUTEX_OFFSET: isize = if cfg!(target_env = "musl") { -28 } else { -32 };

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
    pub(super) word: AtomicU32,
    #[cfg(not(target_env = "musl"))]
    _reserved: AtomicU32,
    /// musl wakes once more for an ending thread if this is not 0: a count of waiters.
    _waiters: AtomicU32,
    spare: [AtomicU32; 2],
    _unused: AtomicU32,
    /// The place where libc expects the address of the previous entry. Used in sentinels only.
    pub(super) prev: AtomicUsize,
    /// The entry: the address of the next entry.
    pub(super) next: AtomicUsize,
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
            _waiters: AtomicU32::new(0),
            spare: [const { AtomicU32::new(0) }; 2],
            _unused: AtomicU32::new(0),
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

    /// Two words that neither libc nor the kernel uses in an entry that is not libc's own. They are
    /// for whoever has the futex word.
    #[inline]
    #[must_use]
    pub fn spare(&self) -> &[AtomicU32; 2] {
        &self.spare
    }

    #[inline]
    pub(super) fn entry(&self) -> usize {
        ptr::from_ref(&self.next).expose_provenance()
    }
}

impl Default for RobustWord {
    fn default() -> Self {
        RobustWord::new()
    }
}

/// Keeps the stores before it before the stores after it, for the kernel's walk in this thread's
/// own context (invariant 2). SeqCst is the one ordering of a compiler fence that forbids moving a
/// store across it in both directions; it costs no instruction.
#[inline]
pub fn in_program_order() {
    compiler_fence(SeqCst);
}
