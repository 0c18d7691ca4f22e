//! Descriptors as things to wait for, and the wait for them alone, by one `ppoll`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crossproc_sys::futex::Awake;
use crossproc_sys::poll::{PollFd, PollFlags, Polled, look, poll};

use super::sealed::{Of, Waits};
use super::{WaitAnyError, Waitable};
use crate::connection::{Connection, Receiver, Sender};
use crate::process::Child;
use crate::wait::Waiter;

/// A descriptor that can be read from, as something to [wait for](fn@crate::wait_any). It is ready
/// if there is something to read, if the other end is closed, or if there is an error.
///
/// ```
/// use crossproc::{Event, Readable, wait_any};
/// use std::io::Write;
/// use std::os::unix::net::UnixStream;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stop = Event::new();
/// let (mut ours, theirs) = UnixStream::pair()?;
/// ours.write_all(b"hello")?;
/// assert_eq!(wait_any(&[&stop, &Readable(&theirs)])?, [1]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Readable<F: AsFd>(
    /// The descriptor.
    pub F,
);

/// A descriptor that can be written to, as something to [wait for](fn@crate::wait_any). It is ready
/// if there is room, or an error, such as that no reader is left.
///
/// ```
/// use crossproc::{Event, Writable, try_wait_any};
/// use std::io::Write;
/// use std::os::unix::net::UnixStream;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stop = Event::new();
/// let (mut ours, _theirs) = UnixStream::pair()?;
/// ours.set_nonblocking(true)?;
/// assert_eq!(try_wait_any(&[&stop, &Writable(&ours)])?, [1]);
/// while ours.write(&[0; 4096]).is_ok() {}
/// assert!(try_wait_any(&[&stop, &Writable(&ours)]).is_err(), "there is no room");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Writable<F: AsFd>(
    /// The descriptor.
    pub F,
);

impl<F: AsFd + Sync> Waitable for Readable<F> {}

impl<F: AsFd> Waits for Readable<F> {
    fn of(&self) -> Of<'_> {
        Of::Descriptor(self.0.as_fd(), PollFlags::IN)
    }
}

impl<F: AsFd + Sync> Waitable for Writable<F> {}

impl<F: AsFd> Waits for Writable<F> {
    fn of(&self) -> Of<'_> {
        Of::Descriptor(self.0.as_fd(), PollFlags::OUT)
    }
}

/// Makes types waitable by their descriptors.
macro_rules! by_descriptor {
    ($($of:ty: $flags:expr;)*) => {$(
        impl Waitable for $of {}

        impl Waits for $of {
            fn of(&self) -> Of<'_> {
                Of::Descriptor(self.as_fd(), $flags)
            }
        }
    )*};
}

by_descriptor! {
    Child: PollFlags::IN;
    Connection: PollFlags::IN;
    Receiver: PollFlags::IN;
    Sender: PollFlags::OUT;
}

/// Descriptors to be polled, and the index of each among the things that are waited for.
pub(super) struct Descriptors<'a> {
    polled: Vec<PollFd<'a>>,
    indices: Vec<usize>,
}

impl<'a> Descriptors<'a> {
    pub(super) fn of(on: &'a [&'a dyn Waitable]) -> Self {
        let descriptors = on.iter().enumerate().filter_map(|(index, waits)| match waits.of() {
            Of::Descriptor(descriptor, flags) => {
                Some((PollFd::from_borrowed_fd(descriptor, flags), index))
            }
            Of::Source(_) => None,
        });
        let (polled, indices) = descriptors.unzip();
        Descriptors { polled, indices }
    }

    /// Adds a descriptor that the caller did not ask for.
    pub(super) fn add(&mut self, descriptor: BorrowedFd<'a>) {
        self.polled.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
    }

    /// Returns the indices of those that were ready when they were last polled.
    pub(super) fn ready(&self) -> impl Iterator<Item = usize> {
        self.polled
            .iter()
            .zip(&self.indices)
            .filter(|(polled, _)| !polled.revents().is_empty())
            .map(|(_, &index)| index)
    }

    /// Finds out which are ready, without waiting.
    pub(super) fn look(&mut self) -> io::Result<()> {
        if self.polled.is_empty() { Ok(()) } else { look(&mut self.polled) }
    }

    /// Sleeps for a slice at most, until one is ready. Returns whether one is.
    pub(super) fn sleep(&mut self, waiter: &mut Waiter) -> io::Result<bool> {
        let mut polled = None;
        waiter.sleep(|until| {
            let result = poll(&mut self.polled, until);
            let awake = match result {
                Ok(Polled::TimedOut) => Awake::TimedOut,
                Ok(Polled::Interrupted) => Awake::Interrupted,
                _ => Awake::Woken,
            };
            polled = Some(result);
            awake
        });
        // If the waiter did not sleep, the descriptors are looked at all the same.
        let polled = polled.unwrap_or_else(|| poll(&mut self.polled, Some(0)));
        Ok(polled? == Polled::Ready)
    }
}

/// Waits for descriptors alone.
pub(super) fn wait(on: &[&dyn Waitable], waiter: &mut Waiter) -> Result<Vec<usize>, WaitAnyError> {
    let mut descriptors = Descriptors::of(on);
    loop {
        if descriptors.sleep(waiter).map_err(WaitAnyError::Os)? {
            return Ok(descriptors.ready().collect());
        }
        waiter.check()?;
    }
}
