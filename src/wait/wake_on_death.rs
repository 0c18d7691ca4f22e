//! Operations whose wake-ups outlive their thread.

use crossproc_sys::futex::Word;
use crossproc_sys::robust;

/// Runs an operation on a word whose TID bits are 0. If the thread dies in it, the kernel completes
/// it by waking one sleeper. A signal handler that runs this may have interrupted another
/// operation. Not for operations on a lock, which has its own word pending.
pub(crate) fn with_wake_on_death<W: Word, R>(word: &W, operation: impl FnOnce() -> R) -> R {
    // A thread without a robust list operates all the same. If it dies in here, the sleeper that it
    // was to wake wakes after a slice.
    let thread = robust::current().ok();
    let before = thread.map(|thread| thread.begin_nested(word));
    let result = operation();
    if let (Some(thread), Some(before)) = (thread, before) {
        thread.end_nested(before);
    }
    result
}
