//! What a process has printed and not written yet: std's buffer of the standard output.
//!
//! A forked child has a copy of the buffer. If both wrote theirs, the text would appear twice. If
//! the parent wrote it before the fork, a full disk, or a reader that is gone, would be an error of
//! the fork. A reader that reads nothing would hold the fork up. So the text stays the parent's,
//! which writes it when it would have without the fork. **The child forgets its copy**: it writes
//! it where nothing is written and nothing fails.
//!
//! The child writes what it prints itself at its end, as a program does. As there, a failure to
//! write is no failure of the child's task.

#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crossproc_sys::alarm;
use crossproc_sys::streams;
use crossproc_sys::threads::{Others, others};
use rustix::fs::stat;

/// How long the standard output may stay locked. A child waits this long for its own threads when
/// it ends. The same limit holds where it is unknown whether the thread that has it locked is in
/// this process.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the lock of std's buffer while this process has one thread.
static LOCK: AtomicU8 = AtomicU8::new(FREE);
/// No thread is known to have it locked, though a thread that has ended may.
const FREE: u8 = 0;
/// This process was forked from one with threads, and one of those may have had it locked.
const UNKNOWN: u8 = 1;
/// Such a thread had it locked, and it stays locked for ever, in forked children, too.
const STUCK: u8 = 2;

/// Notes that this is a child of a process that may have other threads.
pub(super) fn a_thread_may_have_had_it_locked() {
    // Relaxed, here and below: it is written while the process has one thread.
    let _ = LOCK.compare_exchange(FREE, UNKNOWN, Relaxed, Relaxed);
}

/// For a process that has one thread and is about to fork. Returns whether the child is to forget
/// what this process has printed.
///
/// std has no way to try the lock. So the child waits for it, and is killed if that takes long: see
/// [`is_known`]. While the lock is not known to be free, that risks no child in another pid
/// namespace: a namespace ends with its first process.
pub(super) fn is_to_be_forgotten() -> bool {
    match LOCK.load(Relaxed) {
        FREE => true,
        UNKNOWN => children_are_in_this_namespace(),
        _ => false,
    }
}

/// Notes whether a child had the lock. If it waited for it in vain, the lock is stuck for good.
pub(super) fn is_known(free: bool) {
    LOCK.store(if free { FREE } else { STUCK }, Relaxed);
}

/// Returns whether a child would be in this process's pid namespace.
pub(super) fn children_are_in_this_namespace() -> bool {
    // An error: the namespace for children has no process yet.
    match (stat("/proc/self/ns/pid"), stat("/proc/self/ns/pid_for_children")) {
        (Ok(own), Ok(childrens)) => {
            (own.st_dev, own.st_ino) == (childrens.st_dev, childrens.st_ino)
        }
        _ => false,
    }
}

/// In a child that has one thread, of a parent that had one: forgets what the parent has printed.
pub(super) fn forget() -> io::Result<()> {
    // std treats a write to a bad descriptor as done: it has programs without a standard output in
    // mind.
    streams::without_stdout(|| {
        let _ = io::stdout().flush();
    })?;
    is_known(true);
    Ok(())
}

/// Writes what the child has printed. The child is about to exit with this code.
///
/// A thread that the child has started may have the buffer locked and never release it, even a
/// thread that has ended. At the end of a program, std itself tries the lock; it lets no other code
/// do so.
pub(super) fn write(code: i32) {
    if LOCK.load(Relaxed) != FREE {
        return;
    }
    let flush = || {
        streams::without_sigpipe(|| {
            let _ = io::stdout().flush();
        });
    };
    if others().is_ok_and(|others| others == Others::None) {
        let _lock = alarm::exit_unless_done(PATIENCE, code, || io::stdout().lock());
        return flush();
    }
    // No alarm: it is for a process with one thread.
    let (locked, is_locked) = mpsc::channel();
    let flushing = thread::Builder::new().spawn(move || {
        let _lock = io::stdout().lock();
        let _ = locked.send(());
        flush();
    });
    // From then on only the reader is waited for, until the thread drops its end of the channel.
    if flushing.is_ok() && is_locked.recv_timeout(PATIENCE).is_ok() {
        let _ = is_locked.recv();
    }
}

/// Writes an error to the standard error as a `main` that returns it does. It takes no lock, which
/// a thread that is not in this process may have, and it does not fail.
pub(super) fn complain_of(error: &dyn fmt::Debug) {
    let mut message = Message { text: [0; LONGEST], len: 0 };
    let _ = writeln!(message, "Error: {error:?}").and_then(|()| message.send());
}

/// The most bytes in a piece.
const LONGEST: usize = 512;

/// A piece of a message, which is written when it is full.
struct Message {
    text: [u8; LONGEST],
    len: usize,
}

impl Message {
    /// Returns an error if the piece could not be written: no reader reads it, and the rest is
    /// dropped.
    fn send(&mut self) -> fmt::Result {
        // Cut between characters: every character that was added is whole.
        let text = core::str::from_utf8(&self.text[..self.len]).unwrap_or_default();
        let is_written = streams::complain(&[text]);
        self.len = 0;
        if is_written { Ok(()) } else { Err(fmt::Error) }
    }
}

impl fmt::Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let mut bytes = [0; 4];
            let bytes = character.encode_utf8(&mut bytes).as_bytes();
            if self.len + bytes.len() > self.text.len() {
                self.send()?;
            }
            self.text[self.len..][..bytes.len()].copy_from_slice(bytes);
            self.len += bytes.len();
        }
        Ok(())
    }
}
