//! What a child reports to its supervisor, in shared memory: without a system call, also from a
//! panic.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicIsize, AtomicU32, AtomicUsize, Ordering::*};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The phase that the child is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// The objects are being made.
    Preparing = 0,
    /// The operation: calls may fail.
    Operating = 1,
    /// The check of what is left, and a repetition of the operation: no call fails.
    Looking = 2,
}

/// The shared state, initially all zero.
pub(crate) struct Board {
    phase: AtomicU32,
    /// The descriptor plus 1, or 0 while there is none.
    listener: AtomicI32,
    is_taken: AtomicU32,
    pub(crate) outcome: Text,
    pub(crate) violation: Text,
    /// What the child has before the operation.
    pub(crate) before: Left,
    /// What the child has at the end.
    pub(crate) after: Left,
    /// How many more of each there may be at the end, in the order of [`Left::since`]. A thread
    /// that waits for work takes a second to end, and has a descriptor.
    pub(crate) allowed: [AtomicIsize; 4],
}

/// How much of each resource a process has.
#[derive(Default)]
pub(crate) struct Left {
    pub(crate) descriptors: AtomicUsize,
    /// Mappings of shared memory.
    pub(crate) mappings: AtomicUsize,
    pub(crate) threads: AtomicUsize,
    pub(crate) children: AtomicUsize,
}

impl Left {
    /// Returns the name of each, and how many more there are than before.
    pub(crate) fn since(&self, before: &Left) -> [(&'static str, isize); 4] {
        let more = |of: fn(&Left) -> &AtomicUsize| {
            of(self).load(Relaxed) as isize - of(before).load(Relaxed) as isize
        };
        [
            ("descriptors", more(|left| &left.descriptors)),
            ("shared mappings", more(|left| &left.mappings)),
            ("threads", more(|left| &left.threads)),
            ("children", more(|left| &left.children)),
        ]
    }
}

impl Board {
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u32, Release);
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Acquire) {
            0 => Phase::Preparing,
            1 => Phase::Operating,
            _ => Phase::Looking,
        }
    }

    /// Gives the supervisor the listener, and waits until it has taken it.
    pub(crate) fn hand_over(&self, listener: i32) {
        self.listener.store(listener + 1, Release);
        while self.is_taken.load(Acquire) == 0 {
            std::thread::yield_now();
        }
    }

    pub(crate) fn listener(&self) -> Option<i32> {
        match self.listener.load(Acquire) {
            0 => None,
            more => Some(more - 1),
        }
    }

    pub(crate) fn take(&self) {
        self.is_taken.store(1, Release);
    }
}

const MOST: usize = 1_000;

/// A text that is written once, and cut off where it is too long.
pub(crate) struct Text {
    len: AtomicUsize,
    bytes: UnsafeCell<[u8; MOST]>,
}

// SAFETY: only the thread whose exchange of `len` succeeded writes the bytes. They are read only
// once `len` says that they are written.
unsafe impl Sync for Text {}

/// The length while a thread writes.
const WRITING: usize = usize::MAX;

impl Text {
    /// Writes the text, unless something is written already.
    pub(crate) fn write(&self, text: fmt::Arguments<'_>) {
        if self.len.compare_exchange(0, WRITING, Acquire, Relaxed).is_err() {
            return;
        }
        // SAFETY: the exchange excludes other writers, and nothing reads before the store below.
        let bytes = unsafe { &mut *self.bytes.get() };
        let mut to = Cursor { bytes, len: 0 };
        let _ = to.write_fmt(text);
        let len = to.len;
        self.len.store(len, Release);
    }

    pub(crate) fn read(&self) -> Option<String> {
        let len = self.len.load(Acquire);
        if len == 0 || len == WRITING {
            return None;
        }
        // SAFETY: written once, and never again.
        let bytes = unsafe { &*self.bytes.get() };
        Some(String::from_utf8_lossy(&bytes[..len]).into_owned())
    }
}

struct Cursor<'a> {
    bytes: &'a mut [u8; MOST],
    len: usize,
}

impl Write for Cursor<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.len().min(MOST - self.len);
        self.bytes[self.len..self.len + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        Ok(())
    }
}

/// A board in shared memory, which is unmapped on drop.
pub(crate) struct SharedBoard(*mut Board);

// SAFETY: shared like a reference to a board, which is Sync.
unsafe impl Sync for SharedBoard {}

impl SharedBoard {
    pub(crate) fn new() -> Self {
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new memory, at an address of the kernel's choice.
        let at =
            unsafe { mmap_anonymous(ptr::null_mut(), size_of::<Board>(), both, MapFlags::SHARED) };
        SharedBoard(at.expect("memory for a board").cast())
    }
}

impl core::ops::Deref for SharedBoard {
    type Target = Board;

    fn deref(&self) -> &Board {
        // SAFETY: mapped until the drop. It is all zero at first, which is a valid board.
        unsafe { &*self.0 }
    }
}

impl Drop for SharedBoard {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no reference is left.
        let _ = unsafe { munmap(self.0.cast(), size_of::<Board>()) };
    }
}
