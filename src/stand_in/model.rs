//! Stand-ins in the models: further entries of the participant itself, at which the kernel looks when
//! it dies.

use core::num::NonZeroUsize;
use std::io;

use crossproc_sys::robust;

use crate::wait_any::source::Source;

/// As in the real module. It counts one more than there are: the explorer compares all bytes of a
/// stack, and this has none that are not used, nor has an `Option` of it.
#[derive(Debug)]
pub(crate) struct Cover(NonZeroUsize);

impl Default for Cover {
    fn default() -> Self {
        Cover(NonZeroUsize::MIN)
    }
}

impl Cover {
    /// # Errors
    /// None: as in the real module.
    #[allow(clippy::unnecessary_wraps, reason = "as in the real module")]
    pub(crate) fn of(sources: &[&dyn Source]) -> io::Result<Self> {
        let Ok(thread) = robust::current() else { return Ok(Cover::default()) };
        for (index, source) in sources.iter().enumerate() {
            source.pend(thread.lent(index));
        }
        Ok(Cover(NonZeroUsize::MIN.saturating_add(sources.len())))
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        if let Ok(thread) = robust::current() {
            (0..self.0.get() - 1).for_each(|index| thread.lent(index).end());
        }
    }
}

/// Models have no threads of the crate's own.
#[allow(dead_code, reason = "the models of state machines do not fork")]
pub(crate) fn end_idle() -> Option<usize> {
    Some(0)
}
