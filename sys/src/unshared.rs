//! Descriptors that forked children do not get: a child has a dead end in their place.
//!
//! A file lives as long as any process has it open. So a forked child that has nothing to do with a
//! socket keeps its parent's address taken, and its peers waiting, after the parent's death. The
//! kernel has `O_CLOEXEC` for executed programs and nothing for forks (there is no `O_CLOFORK` on
//! Linux). So a handler of `pthread_atfork(3)` closes the file in the child, before anything else
//! runs there.
//!
//! The number stays taken: code in the child that believes it has the descriptor may use and close
//! it. The number leads to one end of a pair of sockets whose other end is closed. Sending is
//! EPIPE, receiving is the end of the stream, accepting is EINVAL.
//!
//! # Limits
//! A child made by a raw system call (`clone(2)`, `fork(2)` past libc), which runs no handlers, has
//! all such descriptors. So has a child that another thread forks between the system call that
//! makes a descriptor and [`Unshared::new`]. A child made by `vfork(3)` or `posix_spawn(3)` has
//! them until it calls `exec`.

#![allow(unsafe_code)]

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::{DupFlags, dup3};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::descriptor::{above_standard, inode_of, leads_to};
use crate::per_process::PerProcess;
use crate::process::at_fork;
use crate::retry::retry;

/// Keeps a descriptor from forked children until this is dropped.
#[derive(Debug)]
pub struct Unshared {
    note: &'static Note,
    /// What the note says about the descriptor.
    mine: u64,
}

/// A note about a descriptor, or room for one. Never freed: there are as many as there were
/// descriptors at one time.
#[derive(Debug)]
struct Note {
    /// Bits 0-31: the number of the descriptor, or [`FREE`], or [`TAKEN`]. Bits 32-63: the owner of
    /// the note, so that a child's copy of its parent's `Unshared` does not free another's note.
    word: AtomicU64,
    /// The file, in case other code has closed it and the number leads to another file.
    inode: AtomicU64,
    /// Set before the note is published.
    next: AtomicPtr<Note>,
}

const FREE: u32 = u32::MAX;
const TAKEN: u32 = u32::MAX - 1;

/// The first note.
static NOTES: AtomicPtr<Note> = AtomicPtr::new(ptr::null_mut());
/// The next owner of a note.
static NEXT: AtomicU32 = AtomicU32::new(0);
/// The dead end, or -1; and its file.
static DEAD_END: AtomicI32 = AtomicI32::new(-1);
static DEAD_ENDS_INODE: AtomicU64 = AtomicU64::new(0);

impl Unshared {
    /// Keeps a descriptor from children that are forked from now on. From the first call on, the
    /// process has one more descriptor (close-on-exec).
    ///
    /// # Safety
    /// The descriptor is open until the result is dropped.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM: the caller reports them.
    pub unsafe fn new(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        set_up()?;
        let inode = inode_of(descriptor)?;
        // Relaxed: the number only has to differ from those before.
        let owner = u64::from(NEXT.fetch_add(1, Relaxed)) << u32::BITS;
        let note = take_note(owner);
        // Relaxed: the store below releases it.
        note.inode.store(inode, Relaxed);
        let mine = owner | u64::from(descriptor.as_raw_fd() as u32);
        // Release: pairs with the Acquire in `leave_to_parent`.
        note.word.store(mine, Release);
        Ok(Unshared { note, mine })
    }

    /// Closes the file, though the descriptor stays open and leads to the dead end. There is no
    /// moment in which a child could get the file. Does nothing in a child, where the descriptor
    /// leads there already.
    pub fn close(&self) {
        if self.note.word.load(Relaxed) == self.mine {
            put_in_place(self.mine as u32 as RawFd, dead_end());
        }
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        // The note is another's if this is a copy in a child. Relaxed: a child that is forked at
        // this moment has the descriptor or not.
        let _ = self.note.word.compare_exchange(self.mine, u64::from(FREE), Relaxed, Relaxed);
    }
}

/// Takes a note that no other thread has.
fn take_note(owner: u64) -> &'static Note {
    let taken = owner | u64::from(TAKEN);
    for note in notes() {
        // Relaxed: what it says is stored by the caller.
        if note.word.compare_exchange(u64::from(FREE), taken, Relaxed, Relaxed).is_ok() {
            return note;
        }
    }
    let made = Note {
        word: AtomicU64::new(taken),
        inode: AtomicU64::new(0),
        next: AtomicPtr::new(ptr::null_mut()),
    };
    let note: *mut Note = Box::into_raw(Box::new(made));
    // SAFETY: made by the line above, and never freed.
    let of_note: &'static Note = unsafe { &*note };
    let mut first = NOTES.load(Relaxed);
    loop {
        // Relaxed: released by the exchange.
        of_note.next.store(first, Relaxed);
        // Release: pairs with the Acquire in `notes`.
        match NOTES.compare_exchange_weak(first, note, Release, Relaxed) {
            Ok(_) => return of_note,
            Err(now) => first = now,
        }
    }
}

fn notes() -> impl Iterator<Item = &'static Note> {
    // Acquire: pairs with the Release in `take_note`. The later notes were there before.
    let mut next = NOTES.load(Acquire);
    core::iter::from_fn(move || {
        // SAFETY: null, or a note; notes are never freed.
        let note = unsafe { next.as_ref() }?;
        next = note.next.load(Relaxed);
        Some(note)
    })
}

/// Makes forked children call [`leave_to_parent`], and makes the dead end that this process and its
/// children use.
fn set_up() -> io::Result<()> {
    static IS_SET_UP: AtomicBool = AtomicBool::new(false);
    static SETTING_UP: PerProcess<Mutex<()>> = PerProcess::new();
    // Relaxed: it is changed under the lock.
    static IS_HANDLED: AtomicBool = AtomicBool::new(false);
    if IS_SET_UP.load(Acquire) {
        return Ok(());
    }
    // Poisoned only by a panic in here, of which there is none; the flags are whole either way.
    let _setting_up = SETTING_UP.get()?.lock().unwrap_or_else(PoisonError::into_inner);
    if !IS_HANDLED.load(Relaxed) {
        // SAFETY: the handler only loads, stores and makes system calls.
        unsafe { at_fork(None, leave_to_parent) }?;
        IS_HANDLED.store(true, Relaxed);
    }
    if DEAD_END.load(Relaxed) == -1 {
        let made = new_dead_end()?;
        DEAD_ENDS_INODE.store(inode_of(made.as_fd())?, Relaxed);
        DEAD_END.store(made.into_raw_fd(), Relaxed);
    }
    // Release: pairs with the Acquire above.
    IS_SET_UP.store(true, Release);
    Ok(())
}

fn new_dead_end() -> io::Result<OwnedFd> {
    let (end, _) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok(above_standard(end)?)
}

/// Returns the dead end, if no code has closed it.
fn dead_end() -> Option<BorrowedFd<'static>> {
    let number = DEAD_END.load(Relaxed);
    leads_to(number, DEAD_ENDS_INODE.load(Relaxed)).then(|| {
        // SAFETY: this module's own, open from when it was made. It was checked a moment ago that
        // it still is, for programs that close what is not theirs.
        unsafe { BorrowedFd::borrow_raw(number) }
    })
}

/// Runs in the child. Async-signal-safe: system calls and atomics.
extern "C" fn leave_to_parent() {
    let mut end = None;
    for note in notes() {
        // Acquire: pairs with the Release in `new`. A thread that is just taking the note is the
        // parent's, and its note has no owner here.
        let word = note.word.swap(u64::from(FREE), Acquire);
        let number = word as u32;
        if number != FREE && number != TAKEN && leads_to(number as RawFd, note.inode.load(Relaxed))
        {
            // A new dead end, if the program has closed the old one, which was not its own.
            let end = end.get_or_insert_with(|| {
                dead_end().map_or_else(|| new_dead_end().map(End::Made), |end| Ok(End::There(end)))
            });
            put_in_place(number as RawFd, end.as_ref().ok().map(AsFd::as_fd));
        }
    }
}

enum End {
    There(BorrowedFd<'static>),
    Made(OwnedFd),
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            End::There(end) => *end,
            End::Made(end) => end.as_fd(),
        }
    }
}

/// Makes a number lead to the dead end. If there is none, or the kernel refuses, everything stays
/// as it is. A file that stays open for too long is a lesser evil than a number that another file
/// may get.
fn put_in_place(number: RawFd, end: Option<BorrowedFd<'_>>) {
    let Some(end) = end else { return };
    // SAFETY: the code that noted the number keeps it open. This closes the file, and the number
    // stays theirs. It is given back, not closed.
    let mut there = unsafe { OwnedFd::from_raw_fd(number) };
    let _ = retry(|| dup3(end, &mut there, DupFlags::CLOEXEC));
    let _ = there.into_raw_fd();
}
