//! Operations whose wake-ups outlive their thread.

use crossproc_sys::futex::Word;
use crossproc_sys::robust;

/// Runs an operation on a word, which the kernel completes by waking one sleeper if the thread dies
/// in it: the word's TID bits are 0. A signal handler may have interrupted another operation for
/// it. Not around an operation on a lock, which has its own word pending.
pub(crate) fn with_wake_on_death<W: Word, R>(word: &W, operation: impl FnOnce() -> R) -> R {
    // A thread without a list operates all the same: should it die in here, a slice wakes whom it
    // was to wake.
    let thread = robust::current().ok();
    let before = thread.map(|thread| thread.begin_nested(word));
    let result = operation();
    if let (Some(thread), Some(before)) = (thread, before) {
        thread.end_nested(before);
    }
    result
}
