//! Messages for the standard error.

use std::fmt;
use std::io::{self, Write};

/// Prints a message there. If that is impossible, nobody is left to be told, and the exit status
/// still says that something was wrong.
pub(crate) fn complain(message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "wordcount: {message}");
}
