//! Stand-ins in the models: further entries of the participant itself. The kernel looks at them
//! when the participant dies.

use core::num::NonZeroUsize;

use crossproc_sys::robust;

use crate::wait::source::Source;

/// As in the real module. It counts one more than there are: the explorer compares all bytes of a
/// stack, and this type has no unused bytes, nor has an `Option` of it.
#[derive(Debug)]
pub(crate) struct Cover(NonZeroUsize);

impl Default for Cover {
    fn default() -> Self {
        Cover(NonZeroUsize::MIN)
    }
}

#[allow(dead_code, reason = "the models of state machines have no driver, and do not fork")]
impl Cover {
    pub(crate) fn of<'s>(sources: impl Iterator<Item = &'s dyn Source> + Clone) -> Self {
        let Ok(thread) = robust::current() else { return Cover::default() };
        let mut cover = Cover::default();
        for source in sources.filter(|source| !source.has_owner()) {
            source.pend(thread.lent(cover.len()));
            cover.0 = cover.0.saturating_add(1);
        }
        cover
    }

    pub(crate) fn len(&self) -> usize {
        self.0.get() - 1
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        if let Ok(thread) = robust::current() {
            (0..self.len()).for_each(|index| thread.lent(index).end());
        }
    }
}

/// Models have no threads of the crate's own.
#[allow(dead_code, reason = "the models of state machines do not fork")]
pub(crate) fn end_idle(_: usize) -> Option<usize> {
    Some(0)
}
