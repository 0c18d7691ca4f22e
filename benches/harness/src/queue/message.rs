//! Messages for queues that take bytes and copy them.

use std::cell::RefCell;

thread_local! {
    static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with a message's memory, which is always the same in a thread.
#[inline]
pub fn with_message<const WORDS: usize, R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    if WORDS == 1 {
        return work(&mut [0; 8]);
    }
    MESSAGE.with_borrow_mut(|message| {
        message.resize(WORDS * 8, 0);
        work(message)
    })
}

/// Calls `work` with a message of this value.
#[inline]
pub fn with_value<const WORDS: usize, R>(value: u64, work: impl FnOnce(&[u8]) -> R) -> R {
    with_message::<WORDS, R>(|message| {
        message[..8].copy_from_slice(&value.to_ne_bytes());
        work(message)
    })
}

/// Returns the value of a message.
#[inline]
pub fn value_of(message: &[u8]) -> u64 {
    u64::from_ne_bytes(message[..8].try_into().expect("eight bytes are an array of eight"))
}
