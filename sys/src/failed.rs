//! What failed, beside what the system said about it.

use core::fmt;
use std::error::Error;
use std::io;

/// Makes an error of the system one that says what was tried: its kind stays, and it is the
/// source.
pub fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> io::Error {
    move |source| {
        let source = source.into();
        io::Error::new(source.kind(), Failed { what, source })
    }
}

#[derive(Debug)]
struct Failed {
    /// A system call, or what it is for.
    what: &'static str,
    source: io::Error,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.what, self.source)
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}
