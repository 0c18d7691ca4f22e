//! Ends that no forked child keeps.
//!
//! A forked child has a copy of every descriptor, and the end of a stream is told when the *last*
//! copy is closed. So a child that was forked later would keep its parent's end of each of its
//! elder siblings' connections, and its parent's death would be told to none of them but with its
//! own. Such ends are therefore listed here, by their number, and every fork by this crate has the
//! child put a dead descriptor in the place of each.
//!
//! An end is opened and listed under the list's lock, and leaves the list and is closed under it.
//!
//! The list is locked through a fork: no number in it can be closed, and be another file's, before
//! the child has its copies. A child's own list is a new one. What was noted by its parent is
//! nothing to it: there a dead descriptor has the number for as long as anybody owns it.

#![allow(unsafe_code)]

use core::mem::ManuallyDrop;
use core::ops::Deref;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Connection, pipe};
use crate::memory::per_process::{Current, PerProcess};
use crossproc_sys::failed::failed;

type Numbers = Mutex<Vec<RawFd>>;

static PRIVATE: PerProcess<Numbers> = PerProcess::new();

/// Nothing panics under it.
fn lock(numbers: &Numbers) -> MutexGuard<'_, Vec<RawFd>> {
    numbers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The socket of a connection.
#[derive(Debug)]
pub(super) struct End {
    /// The list that has its number, if it is one that no forked child keeps.
    list: Option<&'static Current<Numbers>>,
    socket: ManuallyDrop<OwnedFd>,
}

impl End {
    pub(super) fn of(socket: OwnedFd) -> Self {
        End { list: None, socket: ManuallyDrop::new(socket) }
    }

    /// Adds it to the list, which is locked.
    fn listed(mut self, list: &'static Current<Numbers>, numbers: &mut Vec<RawFd>) -> Self {
        numbers.push(self.as_raw_fd());
        self.list = Some(list);
        self
    }

    /// A duplicate of the descriptor, in the same list.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let clone =
            || self.socket.try_clone().map(End::of).map_err(failed("fcntl(F_DUPFD_CLOEXEC)"));
        let Some(list) = self.list_of_this_process() else { return clone() };
        let mut numbers = lock(list);
        Ok(clone()?.listed(list, &mut numbers))
    }

    /// `None` for a child's copy of its parent's, too.
    fn list_of_this_process(&self) -> Option<&'static Current<Numbers>> {
        self.list.filter(|list| list.is_of_this_process())
    }

    /// Leaves the list, which stays locked for as long as the result lives.
    fn leave(&mut self) -> Option<MutexGuard<'static, Vec<RawFd>>> {
        let mut numbers = lock(self.list_of_this_process()?);
        numbers.retain(|&number| number != self.as_raw_fd());
        self.list = None;
        Some(numbers)
    }
}

impl Deref for End {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        &self.socket
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Until it is closed: a fork by another thread in between would leave it to the child.
        let _numbers = self.leave();
        // SAFETY: nothing uses it after this.
        unsafe { ManuallyDrop::drop(&mut self.socket) };
    }
}

/// A pipe of which no forked child keeps an end, but the one that is [given](adopt) one.
pub(crate) fn private_pipe() -> io::Result<(Connection, Connection)> {
    let list = PRIVATE.get().map_err(failed("making the list of the ends that no child keeps"))?;
    // From before there is anything to be copied.
    let mut numbers = lock(list);
    let (one, other) = pipe()?;
    let mut listed =
        |end: Connection| Connection { end: end.end.listed(list, &mut numbers), ..end };
    Ok((listed(one), listed(other)))
}

/// In a child: makes the list to which [`adopt`] adds. It is the part of it that can fail.
pub(crate) fn begin() -> io::Result<()> {
    PRIVATE.get().map(|_| ())
}

/// In a child that was given an end: its own children do not keep it either.
pub(crate) fn adopt(connection: Connection) -> Connection {
    let Some(list) = PRIVATE.existing() else { return connection };
    let end = connection.end.listed(list, &mut lock(list));
    Connection { end, ..connection }
}

/// The list as it is, and stays until this is dropped.
#[derive(Debug)]
pub(crate) struct HeldEnds(Option<MutexGuard<'static, Vec<RawFd>>>);

impl HeldEnds {
    /// If there is none yet, none comes meanwhile: one is made where there are no other threads,
    /// for [`fork_connected`](crate::process::fork_connected).
    pub(crate) fn hold() -> Self {
        HeldEnds(PRIVATE.existing().map(|list| lock(list)))
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
        drop(self.end.leave());
        self
    }

    pub(crate) fn number(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
