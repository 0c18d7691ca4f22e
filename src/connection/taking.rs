//! How the handle that came with a message is taken out.

use super::error::ConnectionError;
use super::message::{Message, Parcel};
use crate::memory::Handle;

impl Message {
    /// Takes the handle out and checks that it is of this kind. Nothing that its sender says about
    /// it is trusted.
    ///
    /// ```
    /// use crossproc::{ConnectionError, Event, Lock, Shm, pipe};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (one, other) = pipe()?;
    /// one.send_handle(&Shm::new(Event::new())?)?;
    /// let mut message = other.recv()?;
    /// // It is not a lock. The error holds the message, and that still holds the handle.
    /// let error = message.take_handle::<Shm<Lock<u64>>>().unwrap_err();
    /// let ConnectionError::OtherHandle { mut message, .. } = error else { panic!() };
    /// let ready: Shm<Event> = message.take_handle()?;
    /// assert!(!ready.is_set());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConnectionError::NoHandle`] if there is none, and [`ConnectionError::OtherHandle`] if it
    /// is another one. Each holds the message as it was, with one exception: if this process can
    /// have no further descriptor, a handle of another kind is lost.
    pub fn take_handle<H: Handle>(&mut self) -> Result<H, ConnectionError> {
        let Some(Parcel { fd, kind }) = self.parcel.take() else {
            return Err(ConnectionError::NoHandle { message: self.take() });
        };
        // The duplicate keeps the handle if it is not of the right kind.
        let spare = fd.try_clone().ok();
        H::check(&kind).and_then(|()| H::from_fd(fd)).map_err(|source| {
            self.parcel = spare.map(|fd| Parcel { fd, kind: kind.clone() });
            ConnectionError::OtherHandle { kind, source, message: self.take() }
        })
    }

    fn take(&mut self) -> Box<Message> {
        Box::new(core::mem::replace(self, Message::small(Vec::new())))
    }
}
