//! What all locks with a condition have in common.

/// What the lock protects.
pub(crate) type Value = [u32; 2];

/// A value with a lock, and a condition on which one waits for a change of it.
pub(crate) trait Monitor {
    /// Waits, with the lock, as long as `condition` says true of the value, which it may change. It
    /// is asked first before any waiting.
    fn wait_while(&self, condition: impl FnMut(&mut Value) -> bool);

    #[allow(dead_code, reason = "who waits for an event is not one of many")]
    fn notify_one(&self);

    fn notify_all(&self);
}
