//! Errors that say what failed, besides what the system said about it.

use core::fmt;
use std::borrow::Cow;
use std::error::Error;
use std::io;

/// Returns a function that makes a system error say which call failed. The kind stays, and that
/// error is the source.
pub fn failed<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> io::Error {
    move |source| because(format!("{call} failed"))(source)
}

/// Returns a function that puts a system error behind a sentence of one's own. The kind stays, and
/// that error is the source.
pub fn because<E: Into<io::Error>>(
    what: impl Into<Cow<'static, str>>,
) -> impl FnOnce(E) -> io::Error {
    move |source| {
        let source = source.into();
        io::Error::new(source.kind(), Failed { what: what.into(), source })
    }
}

#[derive(Debug)]
struct Failed {
    what: Cow<'static, str>,
    source: io::Error,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}
