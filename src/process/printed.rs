//! What a process has printed and not written yet: std's buffer of the standard output.
//!
//! A forked child has a copy of it. Were both to write theirs, it would be there twice. The parent
//! could write it before the fork; but then a full disk, or a reader that is gone, would be an
//! error of the fork, and a reader that reads nothing would hold it up. So it stays the parent's,
//! which writes it when it would have done so without the fork, and **the child forgets its copy**:
//! it writes it where nothing is written and nothing fails.
//!
//! What the child prints itself, it writes at its end, as a program does; and as there, that this
//! fails is no failure of what it was to do.

#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crossproc_sys::alarm;
use crossproc_sys::process as sys;
use crossproc_sys::threads::{Others, others};
use rustix::fs::stat;

/// How long the standard output may be locked: when a child ends, by its own threads; and where
/// nobody can tell whether the thread that has it locked is in this process.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the lock of std's buffer while this process has one thread.
static LOCK: AtomicU8 = AtomicU8::new(FREE);
/// Nobody has it locked, as far as anybody knows: a thread that has ended may have.
const FREE: u8 = 0;
/// This process was forked from one with threads, of which one may have had it locked.
const UNKNOWN: u8 = 1;
/// One had, and it stays locked for ever, in forked children, too.
const STUCK: u8 = 2;

/// In a child of a process that may have other threads.
pub(super) fn a_thread_may_have_had_it_locked() {
    // Relaxed, here and below: it is written while the process has one thread.
    let _ = LOCK.compare_exchange(FREE, UNKNOWN, Relaxed, Relaxed);
}

/// In a process that has one thread, and is about to fork: whether the child is to forget what this
/// one has printed. std has no way to try the lock, so the child waits for it, and is killed if
/// that takes long: see [`is_known`]. Where it is not known to be free, that risks no child that a
/// new pid namespace would live by, as by its first one.
pub(super) fn is_to_be_forgotten() -> bool {
    match LOCK.load(Relaxed) {
        FREE => true,
        UNKNOWN => children_are_in_this_namespace(),
        _ => false,
    }
}

/// Whether a child had the lock, or waited for it in vain: then it is stuck, for good.
pub(super) fn is_known(free: bool) {
    LOCK.store(if free { FREE } else { STUCK }, Relaxed);
}

/// Whether a child would be in this process's pid namespace.
fn children_are_in_this_namespace() -> bool {
    // An error: there is none in it yet.
    match (stat("/proc/self/ns/pid"), stat("/proc/self/ns/pid_for_children")) {
        (Ok(own), Ok(childrens)) => {
            (own.st_dev, own.st_ino) == (childrens.st_dev, childrens.st_ino)
        }
        _ => false,
    }
}

/// In a child that has one thread, of a parent that had one.
pub(super) fn forget() -> io::Result<()> {
    // A write that is refused for a bad descriptor is taken for done by std, which has programs
    // without a standard output in mind.
    sys::without_stdout(|| {
        let _ = io::stdout().flush();
    })?;
    is_known(true);
    Ok(())
}

/// Writes what the child has printed. It is about to exit, with this code.
///
/// A thread that it has started may have the buffer locked and never let go of it, also one that
/// has ended. std's own end of a program tries the lock, which it lets nobody else do.
pub(super) fn write(code: i32) {
    if LOCK.load(Relaxed) != FREE {
        return;
    }
    let flush = || {
        sys::without_sigpipe(|| {
            let _ = io::stdout().flush();
        });
    };
    if others().is_ok_and(|others| others == Others::None) {
        let _lock = alarm::exit_unless_done(PATIENCE, code, || io::stdout().lock());
        return flush();
    }
    // No alarm, which is for one thread.
    let (locked, is_locked) = mpsc::channel();
    let flushing = thread::Builder::new().spawn(move || {
        let _lock = io::stdout().lock();
        let _ = locked.send(());
        flush();
    });
    // What is waited for then is the reader alone, until the thread is done with its end.
    if flushing.is_ok() && is_locked.recv_timeout(PATIENCE).is_ok() {
        let _ = is_locked.recv();
    }
}

/// Writes an error to the standard error as a `main` that returns it does, but without the lock,
/// which a thread may have that is not in this process, and without failing.
pub(super) fn complain_of(error: &dyn fmt::Debug) {
    let mut message = Message { text: [0; LONGEST], len: 0 };
    let _ = writeln!(message, "Error: {error:?}").and_then(|()| message.send());
}

/// The most bytes of a piece.
const LONGEST: usize = 512;

/// A piece of a message, which is written when it is full.
struct Message {
    text: [u8; LONGEST],
    len: usize,
}

impl Message {
    /// An error: nobody reads it, and there is no more to be written.
    fn send(&mut self) -> fmt::Result {
        // Cut between characters, of which each that was added was whole.
        let text = core::str::from_utf8(&self.text[..self.len]).unwrap_or_default();
        let is_written = sys::complain(&[text]);
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
