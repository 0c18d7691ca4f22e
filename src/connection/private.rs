//! Ends that no forked child keeps.
//!
//! A forked child has a copy of every descriptor, and a stream ends only when the *last* copy is
//! closed. So a later child would keep its parent's end of the connection of each elder sibling.
//! The siblings would be told of the parent's death only once that child has died, too. Such ends
//! are therefore listed here, by number. Every fork by this crate has the child put a dead
//! descriptor in the place of each.
//!
//! An end is opened and listed under the list's lock. It also leaves the list and is closed under
//! that lock.
//!
//! The list is locked through a fork. So no number in it can be closed, and become another file's,
//! before the child has its copies. A child has a new list of its own. What its parent noted means
//! nothing there: a dead descriptor keeps the number for as long as anything in the child owns it.

#![allow(unsafe_code)]

use core::mem::ManuallyDrop;
use core::ops::Deref;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Connection, pipe};
use crossproc_sys::failed::failed;
use crossproc_sys::per_process::{Current, PerProcess};

type Numbers = Mutex<Vec<RawFd>>;

static PRIVATE: PerProcess<Numbers> = PerProcess::new();

fn list() -> io::Result<&'static Current<Numbers>> {
    PRIVATE.get().map_err(failed("making the list of the ends that no child keeps"))
}

/// Locks the list. Poison is ignored: nothing panics under the lock.
fn lock(numbers: &Numbers) -> MutexGuard<'_, Vec<RawFd>> {
    numbers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The socket of a connection.
#[derive(Debug)]
pub(super) struct End {
    /// The list that holds its number, if no forked child keeps this end.
    list: Option<&'static Current<Numbers>>,
    socket: ManuallyDrop<OwnedFd>,
}

impl End {
    pub(super) fn of(socket: OwnedFd) -> Self {
        End { list: None, socket: ManuallyDrop::new(socket) }
    }

    /// Adds it to the list, which the caller has locked.
    fn listed(mut self, list: &'static Current<Numbers>, numbers: &mut Vec<RawFd>) -> Self {
        numbers.push(self.as_raw_fd());
        self.list = Some(list);
        self
    }

    /// Makes a duplicate of the descriptor, in the same list.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let clone =
            || self.socket.try_clone().map(End::of).map_err(failed("fcntl(F_DUPFD_CLOEXEC)"));
        let Some(list) = self.list_of_this_process() else { return clone() };
        let mut numbers = lock(list);
        Ok(clone()?.listed(list, &mut numbers))
    }

    /// Returns its list. `None` also for a child's copy of its parent's end.
    fn list_of_this_process(&self) -> Option<&'static Current<Numbers>> {
        self.list.filter(|list| list.is_of_this_process())
    }

    /// Leaves the list, which stays locked until the result is dropped.
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
        // Held until the socket is closed: a fork by another thread in between would leave it to
        // the child.
        let _numbers = self.leave();
        // SAFETY: nothing uses it after this.
        unsafe { ManuallyDrop::drop(&mut self.socket) };
    }
}

/// Makes a pipe whose ends no forked child keeps, but the child that is [given](adopt) one.
pub(crate) fn private_pipe() -> io::Result<(Connection, Connection)> {
    let list = list()?;
    // Locked before there is anything that a fork could copy.
    let mut numbers = lock(list);
    let (one, other) = pipe()?;
    let mut listed =
        |end: Connection| Connection { end: end.end.listed(list, &mut numbers), ..end };
    Ok((listed(one), listed(other)))
}

/// Makes, in a child, the list to which [`adopt`] adds. Only this part of adopting an end can fail.
pub(crate) fn begin() -> io::Result<()> {
    PRIVATE.get().map(|_| ())
}

/// Lists an end in the child that was given it: the child's own children do not keep it either.
pub(crate) fn adopt(connection: Connection) -> Connection {
    let Some(list) = PRIVATE.existing() else { return connection };
    let end = connection.end.listed(list, &mut lock(list));
    Connection { end, ..connection }
}

/// The locked list, which stays as it is until this is dropped.
#[derive(Debug)]
pub(crate) struct HeldEnds(MutexGuard<'static, Vec<RawFd>>);

impl HeldEnds {
    /// Locks the list. It is made if there is none: another thread could make one meanwhile.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn hold() -> io::Result<Self> {
        Ok(HeldEnds(lock(list()?)))
    }

    pub(crate) fn numbers(&self) -> &[RawFd] {
        &self.0
    }
}

impl Connection {
    /// Lets children that are forked later have this end, too.
    ///
    /// A connection that [`fork_connected`](crate::process::fork_connected) made is its process's
    /// own: no child that this crate forks from it keeps either end. So the other end is told when
    /// the process ends. In such a child, every use of the end fails with
    /// [`ConnectionError::Closed`](super::ConnectionError::Closed). Any other connection is left
    /// unchanged.
    ///
    /// ```standalone_crate
    /// use crossproc::process;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (child, to_child) = process::fork_connected(|parent| parent.recv().map(|_| ()))?;
    /// let to_child = to_child.inheritable();
    /// let sibling = process::fork(move || to_child.send(b"hello"))?;
    /// assert!(sibling.join()?.success());
    /// assert!(child.join()?.success());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn inheritable(mut self) -> Self {
        drop(self.end.leave());
        self
    }

    pub(crate) fn number(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
