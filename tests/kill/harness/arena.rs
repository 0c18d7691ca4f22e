//! The memory that the processes of a run share: the board of the case, and a seat for each
//! process.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};

/// The most processes in a run.
pub(crate) const SEATS: usize = 16;
const TEXT: usize = 480;
const BOARD: usize = 1 << 16;

pub(crate) const RUNNING: u32 = 0;
pub(crate) const PAUSED: u32 = 1;

/// What a process and the tracer tell each other. Every access here is SeqCst: it is far from the
/// code under test, and slow anyway.
#[repr(C)]
pub(crate) struct Seat {
    /// [`RUNNING`], or [`PAUSED`] at a gate.
    pub(crate) state: AtomicU32,
    /// How many gates are open: a futex.
    pub(crate) opened: AtomicU32,
    /// When its script was finished, in nanoseconds.
    pub(crate) ended_at: AtomicU64,
    /// Whether the operation that is stepped through has returned.
    pub(crate) is_completed: AtomicU32,
    text_len: AtomicU32,
    text: [AtomicU8; TEXT],
}

impl Seat {
    /// Notes why the process fails; a long text is cut off.
    pub(crate) fn complain(&self, text: &str) {
        for (to, from) in self.text.iter().zip(text.bytes()) {
            to.store(from, SeqCst);
        }
        self.text_len.store(text.len().min(TEXT) as u32, SeqCst);
    }

    pub(crate) fn complaint(&self) -> String {
        let len = self.text_len.load(SeqCst) as usize;
        let bytes: Vec<u8> =
            self.text[..len.min(TEXT)].iter().map(|byte| byte.load(SeqCst)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn reset(&self) {
        self.state.store(RUNNING, SeqCst);
        self.opened.store(0, SeqCst);
        self.ended_at.store(0, SeqCst);
        self.is_completed.store(0, SeqCst);
        self.text_len.store(0, SeqCst);
    }
}

#[repr(C)]
pub(crate) struct Control {
    /// How many companions had not ended when the survivors began.
    pub(crate) unfinished: AtomicU32,
    pub(crate) seats: [Seat; SEATS],
}

/// The mapping, which is never unmapped.
#[derive(Clone, Copy)]
pub(crate) struct Arena {
    pub(crate) control: &'static Control,
    board: NonNull<u8>,
}

impl Arena {
    pub(crate) fn map() -> Arena {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        let len = size_of::<Control>().next_multiple_of(4096) + BOARD;
        // SAFETY: no address is requested, so no existing mapping is changed.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "the arena can be mapped");
        let start = NonNull::new(start.cast::<u8>()).expect("a mapping is not at 0");
        // SAFETY: the mapping is long enough, page aligned and never unmapped. It is zeroed, which
        // is a valid `Control` (atomics).
        let control = unsafe { start.cast::<Control>().as_ref() };
        // SAFETY: inside the mapping, whose length was computed from the same number.
        let board = unsafe { start.add(size_of::<Control>().next_multiple_of(4096)) };
        Arena { control, board }
    }

    pub(crate) fn reset(&self) {
        self.control.unfinished.store(0, SeqCst);
        self.control.seats.iter().for_each(Seat::reset);
    }

    /// Returns the place for a board of type `B`: page aligned, large enough, and used by nothing
    /// else.
    pub(crate) fn board<B>(&self) -> NonNull<B> {
        assert!(size_of::<B>() <= BOARD && align_of::<B>() <= 4096, "the board is too large");
        self.board.cast()
    }
}

/// `FUTEX_WAIT`, for the harness's own use.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32) {
    let no_timeout = ptr::null::<libc::timespec>();
    // SAFETY: the call reads an aligned word that is mapped as long as it is borrowed.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, no_timeout)
    };
}

/// `FUTEX_WAKE` of all.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: the call uses only the address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}
