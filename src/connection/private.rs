//! Ends that no forked child keeps.
//!
//! A forked child has a copy of every descriptor, and the end of a stream is told when the *last*
//! copy is closed. So a child that was forked later would keep its parent's end of each of its
//! elder siblings' connections, and its parent's death would be told to none of them but with its
//! own. Such ends are therefore noted here, by their number, from before they are open to after
//! they are closed, and every fork by this crate has the child put a dead descriptor in the place
//! of each.
//!
//! The list is locked through a fork: no number in it can be closed, and be another file's, before
//! the child has its copies. A child's own list is a new one. What was noted by its parent is
//! nothing to it: there a dead descriptor has the number for as long as anybody owns it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Connection, pipe};
use crate::failed::failed;
use crate::of_process::{Current, OfProcess};

type Numbers = Mutex<Vec<RawFd>>;

static PRIVATE: OfProcess<Numbers> = OfProcess::new();

/// Nothing panics under it.
fn lock(numbers: &Numbers) -> MutexGuard<'_, Vec<RawFd>> {
    numbers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the number of an end in the list. It is dropped before the end is.
#[derive(Debug)]
pub(super) struct Private {
    list: &'static Current<Numbers>,
    number: RawFd,
}

impl Private {
    fn note(list: &'static Current<Numbers>, numbers: &mut Vec<RawFd>, end: &OwnedFd) -> Self {
        let number = end.as_raw_fd();
        numbers.push(number);
        Private { list, number }
    }

    /// A duplicate of the descriptor, noted in the same list.
    pub(super) fn try_clone(&self, end: &OwnedFd) -> io::Result<(Option<Self>, OwnedFd)> {
        if !self.list.is_of_this_process() {
            return Ok((None, end.try_clone().map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?));
        }
        let mut numbers = lock(self.list);
        let clone = end.try_clone().map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?;
        Ok((Some(Private::note(self.list, &mut numbers, &clone)), clone))
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if self.list.is_of_this_process() {
            lock(self.list).retain(|&number| number != self.number);
        }
    }
}

/// A pipe of which no forked child keeps an end, but the one that is [given](adopt) one.
pub(crate) fn private_pipe() -> io::Result<(Connection, Connection)> {
    let list = PRIVATE.get().map_err(failed("making the list of the ends that no child keeps"))?;
    // From before there is anything to be copied.
    let mut numbers = lock(list);
    let (mut one, mut other) = pipe()?;
    for end in [&mut one, &mut other] {
        end.private = Some(Private::note(list, &mut numbers, &end.socket));
    }
    Ok((one, other))
}

/// In a child: makes the list to which [`adopt`] adds. It is the part of it that can fail.
pub(crate) fn begin() -> io::Result<()> {
    PRIVATE.get().map(|_| ())
}

/// In a child that was given an end: its own children do not keep it either.
pub(crate) fn adopt(end: &mut Connection) {
    let note = |list| Private::note(list, &mut lock(list), &end.socket);
    end.private = PRIVATE.existing().map(note);
}

/// The list as it is, and stays until this is dropped.
#[derive(Debug)]
pub(crate) struct Held(Option<MutexGuard<'static, Vec<RawFd>>>);

impl Held {
    /// If there is none yet, none comes meanwhile: one is made where there are no other threads,
    /// for [`fork_connected`](crate::process::fork_connected).
    pub(crate) fn hold() -> Self {
        Held(PRIVATE.existing().map(|list| lock(list)))
    }

    pub(crate) fn numbers(&self) -> &[RawFd] {
        self.0.as_ref().map_or(&[], |numbers| numbers)
    }
}

impl Connection {
    /// Lets children that are forked later have this end, too.
    ///
    /// A connection that [`fork_connected`](crate::process::fork_connected) made is its process's
    /// own: no child that this crate forks from it keeps either end, so that the other one is told
    /// when the process ends. Anything that is done with such an end in a child is
    /// [`ConnectionError::Closed`](super::ConnectionError::Closed). Of any other connection this
    /// changes nothing.
    #[must_use]
    pub fn inheritable(mut self) -> Self {
        self.private = None;
        self
    }

    pub(crate) fn number(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
