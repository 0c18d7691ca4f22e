//! [`Refused`]: why an operation did nothing.

/// Why there was no exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Empty,
    Closed,
    /// The operation would wait for the calling thread itself.
    Deadlock,
    /// The words make no sense: a peer has scribbled on them.
    Corrupt,
}
