//! The interface that all locks with a condition share.

/// The value that the lock protects.
pub(crate) type Value = [u32; 2];

/// A value with a lock, and a condition on which a thread waits for a change of the value.
pub(crate) trait Monitor {
    /// Waits, with the lock, as long as `condition` returns true for the value, which it may
    /// change. The first call of `condition` comes before any waiting.
    fn wait_while(&self, condition: impl FnMut(&mut Value) -> bool);

    #[allow(dead_code, reason = "who waits for an event is not one of many")]
    fn notify_one(&self);

    fn notify_all(&self);
}
