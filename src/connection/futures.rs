//! Sending and receiving as futures, with the feature `tokio`.

use core::future::poll_fn;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll};

use crossproc_sys::poll::PollFlags;

use super::{Connection, ConnectionError, MAX_INLINE, Message, Receiver, Sender};
use crate::memory::Handle;
use crate::reactor::{Descriptor, MOST_LOOKS};

/// An operation that is attempted whenever its socket seems to be ready.
struct Attempts<'a> {
    socket: BorrowedFd<'a>,
    flags: PollFlags,
    /// Made when the future first asks whether the socket is ready.
    watched: Option<Descriptor>,
}

impl<'a> Attempts<'a> {
    fn new(socket: &'a impl AsFd, flags: PollFlags) -> Self {
        Attempts { socket: socket.as_fd(), flags, watched: None }
    }

    /// Returns whether the socket is ready. If not, the runtime calls the waker when it may be.
    fn is_ready(&mut self, context: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let failed = |source| ConnectionError::Os {
            what: "having the runtime watch the connection",
            source,
        };
        let watched = match self.watched.take() {
            Some(watched) => watched,
            None => Descriptor::new(self.socket, self.flags).map_err(failed)?,
        };
        self.watched.insert(watched).poll_ready(context).map_err(failed)
    }

    fn poll<R>(
        &mut self,
        context: &mut Context<'_>,
        mut attempt: impl FnMut() -> Result<R, ConnectionError>,
    ) -> Poll<Result<R, ConnectionError>> {
        for _ in 0..MOST_LOOKS {
            match attempt() {
                Err(ConnectionError::WouldBlock) => {}
                result => return Poll::Ready(result),
            }
            match self.is_ready(context) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // Others at this end are always faster. Let them go on, and this thread's other tasks, too.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

macro_rules! sending {
    ($($of:ident)*) => {$(
        impl $of {
            /// Sends a message, whole, as a future that waits for room.
            ///
            /// With the feature `tokio`; it runs in a tokio runtime.
            ///
            /// # Cancellation
            /// A future that is dropped before it completes has sent nothing.
            ///
            /// # Errors
            /// As `send`; no descriptor for the runtime to watch.
            ///
            /// # Panics
            /// If it must wait outside a tokio runtime, or in a runtime without I/O.
            ///
            /// # Examples
            /// ```
            /// # #[tokio::main(flavor = "current_thread")]
            /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
            /// let (one, other) = crossproc::pipe()?;
            /// one.send_async(b"hello").await?;
            /// assert_eq!(other.recv_async().await?, b"hello");
            /// # Ok(())
            /// # }
            /// ```
            pub async fn send_async(&self, message: &[u8]) -> Result<(), ConnectionError> {
                let mut attempts = Attempts::new(self, PollFlags::OUT);
                if message.len() > MAX_INLINE {
                    // Each attempt copies the message, so the first one is made when there seems to
                    // be room.
                    poll_fn(|context| match attempts.is_ready(context) {
                        Ok(false) => Poll::Pending,
                        result => Poll::Ready(result),
                    })
                    .await?;
                }
                poll_fn(move |context| attempts.poll(context, || self.try_send(message))).await
            }

            /// Sends a handle, as a future that waits for room.
            ///
            /// With the feature `tokio`; otherwise as [`send_async`](Self::send_async).
            ///
            /// ```
            /// # #[tokio::main(flavor = "current_thread")]
            /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
            /// use crossproc::{Event, Shm, pipe};
            ///
            /// let (one, other) = pipe()?;
            /// let ready = Shm::new(Event::new())?;
            /// one.send_handle_async(&ready).await?;
            /// other.recv_handle::<Shm<Event>>()?.set();
            /// ready.wait_async().await?;
            /// # assert!(ready.is_set());
            /// # Ok(())
            /// # }
            /// ```
            ///
            /// # Errors
            /// As `send_handle`; no descriptor for the runtime to watch.
            ///
            /// # Panics
            /// As [`send_async`](Self::send_async).
            pub async fn send_handle_async<H: Handle>(
                &self,
                handle: &H,
            ) -> Result<(), ConnectionError> {
                let mut attempts = Attempts::new(self, PollFlags::OUT);
                poll_fn(move |context| attempts.poll(context, || self.try_send_handle(handle)))
                    .await
            }
        }
    )*};
}

macro_rules! receiving {
    ($($of:ident)*) => {$(
        impl $of {
            /// Receives a message, whole, as a future.
            ///
            /// With the feature `tokio`; it runs in a tokio runtime, which watches a duplicate of
            /// the descriptor while the future waits.
            ///
            /// # Cancellation
            /// A future that is dropped before it completes has received nothing: the message is
            /// left for the next receiver.
            ///
            /// # Errors
            /// As `recv`; no descriptor for the runtime to watch.
            ///
            /// # Panics
            /// If it must wait outside a tokio runtime, or in a runtime without I/O.
            ///
            /// # Examples
            /// ```
            /// # #[tokio::main(flavor = "current_thread")]
            /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
            /// let (one, other) = crossproc::pipe()?;
            /// let (sent, received) = tokio::join!(one.send_async(b"hello"), other.recv_async());
            /// sent?;
            /// assert_eq!(received?, b"hello");
            /// # Ok(())
            /// # }
            /// ```
            pub async fn recv_async(&self) -> Result<Message, ConnectionError> {
                let mut attempts = Attempts::new(self, PollFlags::IN);
                poll_fn(move |context| attempts.poll(context, || self.try_recv())).await
            }

            /// Receives a handle and checks that it is of this kind, as a future.
            ///
            /// With the feature `tokio`; otherwise as [`recv_async`](Self::recv_async).
            ///
            /// ```
            /// # #[tokio::main(flavor = "current_thread")]
            /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
            /// use crossproc::{Queue, pipe};
            ///
            /// let (one, other) = pipe()?;
            /// let numbers: Queue<u64> = Queue::new(16)?;
            /// numbers.put(7)?;
            /// one.send_handle(&numbers)?;
            /// let theirs: Queue<u64> = other.recv_handle_async().await?;
            /// assert_eq!(theirs.get_async().await?, 7);
            /// # Ok(())
            /// # }
            /// ```
            ///
            /// # Errors
            /// As `recv_handle`; no descriptor for the runtime to watch.
            ///
            /// # Panics
            /// As [`recv_async`](Self::recv_async).
            pub async fn recv_handle_async<H: Handle>(&self) -> Result<H, ConnectionError> {
                self.recv_async().await?.take_handle()
            }
        }
    )*};
}

sending!(Connection Sender);
receiving!(Connection Receiver);
