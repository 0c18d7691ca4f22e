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

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crossproc_sys::process as sys;
use crossproc_sys::threads::{Others, others};

/// How long a child that ends waits for its own threads to let go of the standard output.
const PATIENCE: Duration = Duration::from_secs(1);

/// In a child that has one thread, of a parent that had one: nobody has the buffer locked.
pub(super) fn forget() -> io::Result<()> {
    // A write that is refused for a bad descriptor is taken for done by std, which has programs
    // without a standard output in mind.
    sys::without_stdout(|| {
        let _ = io::stdout().flush();
    })
}

/// Writes what the child has printed. It is about to exit.
pub(super) fn write() {
    let flush = || {
        sys::without_sigpipe(|| {
            let _ = io::stdout().flush();
        });
    };
    if others().is_ok_and(|others| others == Others::None) {
        return flush();
    }
    // A thread that the child has started may have the buffer locked, and never let go of it.
    let (done, is_done) = mpsc::channel();
    let flushing = thread::Builder::new().spawn(move || {
        flush();
        let _ = done.send(());
    });
    if flushing.is_ok() {
        let _ = is_done.recv_timeout(PATIENCE);
    }
}

/// Writes an error to the standard error as a `main` that returns it does, but without the lock,
/// which a thread may have that is not in this process, and without failing.
pub(super) fn complain_of(error: &dyn fmt::Debug) {
    let mut message = Message { text: [0; _], len: 0 };
    let _ = writeln!(message, "Error: {error:?}");
    message.send();
}

/// A piece of a message, which is written when it is full.
struct Message {
    text: [u8; 512],
    len: usize,
}

impl Message {
    fn send(&mut self) {
        // Cut between characters, of which each that was added was whole.
        if let Ok(text) = core::str::from_utf8(&self.text[..self.len]) {
            sys::complain(&[text]);
        }
        self.len = 0;
    }
}

impl fmt::Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let mut bytes = [0; 4];
            let bytes = character.encode_utf8(&mut bytes).as_bytes();
            if self.len + bytes.len() > self.text.len() {
                self.send();
            }
            self.text[self.len..][..bytes.len()].copy_from_slice(bytes);
            self.len += bytes.len();
        }
        Ok(())
    }
}
