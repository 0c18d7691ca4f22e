//! [`Unfit`], and the limits that both directions share.

use core::fmt;

/// How many levels a value may have. A level takes stack, and a peer chooses how many come.
pub(super) const MAX_DEPTH: usize = 128;

/// How many elements of sequences and maps may take no bytes, in a whole value. Without a limit, a
/// few bytes of a peer could say that there are 2^64 of them.
const MAX_EMPTY: usize = 1 << 16;

/// Why a value has no bytes, or why some bytes are not a value.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it has more than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("{0}")]
    Other(String),
}

impl From<postcard::Error> for Unfit {
    fn from(error: postcard::Error) -> Self {
        Unfit::Other(error.to_string())
    }
}

impl serde::ser::Error for Unfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Unfit::Other(message.to_string())
    }
}

impl serde::de::Error for Unfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Unfit::Other(message.to_string())
    }
}

/// Returns the levels that are left one level further down.
pub(super) fn deeper(levels: usize) -> Result<usize, Unfit> {
    levels.checked_sub(1).ok_or(Unfit::TooDeep)
}

/// Counts elements that take no bytes.
#[derive(Debug, Default)]
pub(super) struct Empty(usize);

impl Empty {
    pub(super) fn count(&mut self) -> Result<(), Unfit> {
        self.0 += 1;
        if self.0 > MAX_EMPTY {
            return Err(Unfit::Other(format!(
                "more than {MAX_EMPTY} of its elements take no bytes"
            )));
        }
        Ok(())
    }
}
