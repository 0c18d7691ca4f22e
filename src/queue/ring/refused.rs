//! [`Refused`]: why an operation did nothing.

/// Why there was no exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Empty,
    Closed,
    /// A subscriber was too slow for so many items, and goes on with the next one that is there.
    Missed(u64),
    /// A subscriber was too slow, and is none any more.
    Expelled,
    /// The operation would wait for the calling thread itself.
    Deadlock,
    /// The words make no sense: a peer has scribbled on them.
    Corrupt,
}
