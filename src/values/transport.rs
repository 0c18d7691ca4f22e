//! Values over what carries bytes: connections, and queues of bytes.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CodecError, decode, encode};
use crate::connection::{Connection, ConnectionError, Receiver, Sender};
use crate::queue::{JoinableQueue, Queue, QueueError, Received, Task};
use crate::wait::Wait;
use crate::wait::forms;

/// Why a value was not sent or put, or not received or got. With the feature `serde`.
///
/// The module [`values`](crate::values) says what can be a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError<E> {
    /// The connection, or the queue, failed: this is its error.
    #[error(transparent)]
    Transport(#[from] E),
    /// The value could not be made into bytes, or the bytes that came are not a value of the type.
    #[error(transparent)]
    Codec(CodecError),
}

impl<E: Into<io::Error>> From<ValueError<E>> for io::Error {
    fn from(error: ValueError<E>) -> Self {
        match error {
            ValueError::Transport(error) => error.into(),
            ValueError::Codec(error) => error.into(),
        }
    }
}

macro_rules! sending_values {
    ($($of:ident)*) => {$(
        impl $of {
            forms! {
                /// Sends a value of [almost any type](crate::values#what-can-be-a-value), whole.
                /// With the feature `serde`.
                ///
                /// ```
                /// use crossproc::pipe;
                /// use serde::{Deserialize, Serialize};
                ///
                /// #[derive(Serialize, Deserialize, PartialEq, Debug)]
                /// enum Order {
                ///     Go { to: String, by: Option<u32> },
                ///     Stop,
                /// }
                ///
                /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
                /// let (one, other) = pipe()?;
                /// one.send_value(&Order::Go { to: "Rome".into(), by: Some(7) })?;
                /// one.send_value(&Order::Stop)?;
                /// let order: Order = other.recv_value(100)?;
                /// assert_eq!(order, Order::Go { to: "Rome".into(), by: Some(7) });
                /// assert_eq!(other.recv_value::<Order>(100)?, Order::Stop);
                /// # Ok(())
                /// # }
                /// ```
                send_value, try_send_value, send_value_timeout, send_value_deadline,
                send_value_with <T: Serialize>
                (self: &Self, value: &T) -> Result<(), ValueError<ConnectionError>>,
                Self::send_value_until,
                errors "[`ValueError`]: as `send`, [`TooDeep`](CodecError::TooDeep), and \
                    [`Encode`](CodecError::Encode) if it cannot be made into bytes.",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            fn send_value_until<T: Serialize>(
                &self,
                value: &T,
                wait: Option<impl FnOnce() -> Wait>,
            ) -> Result<(), ValueError<ConnectionError>> {
                Ok(self.send_until(&encode(value).map_err(ValueError::Codec)?, wait)?)
            }
        }
    )*};
}

macro_rules! receiving_values {
    ($($of:ident)*) => {$(
        impl $of {
            forms! {
                /// Receives a value whose bytes may not be more than `max`. With the feature
                /// `serde`.
                ///
                /// `T` must be the type that was sent: nothing but the bytes checks that, and those
                /// of another type may be a value, too, such as those of `7_u32` for an `i64`. So
                /// name the type at both ends, also of literals: `Some(7)` is an `Option<i32>`.
                ///
                /// The limit, together with the type, keeps a sender from making this process
                /// allocate without end. However many bytes there are, a value has at most [128
                /// levels](crate::values#levels), and 65,536 elements that take no bytes.
                ///
                /// ```
                /// use crossproc::{ConnectionError, ValueError, pipe};
                ///
                /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
                /// let (one, other) = pipe()?;
                /// one.send_value(&("Rome", vec![7, 8]))?;
                /// let (to, by): (String, Vec<i32>) = other.recv_value(1000)?;
                /// assert_eq!((to.as_str(), by), ("Rome", vec![7, 8]));
                ///
                /// one.send_value(&"x".repeat(1001))?;
                /// let error = other.recv_value::<String>(1000).unwrap_err();
                /// let ValueError::Transport(error) = error else { panic!("{error}") };
                /// assert!(matches!(error, ConnectionError::TooShort { max: 1000, .. }));
                /// # Ok(())
                /// # }
                /// ```
                recv_value, try_recv_value, recv_value_timeout, recv_value_deadline,
                recv_value_with <T: DeserializeOwned>
                (self: &Self, max: usize) -> Result<T, ValueError<ConnectionError>>,
                Self::recv_value_until,
                errors "[`ValueError`]: [`TooShort`](ConnectionError::TooShort) for more than \
                    `max` bytes, [`UnexpectedHandle`](ConnectionError::UnexpectedHandle), \
                    [`TooDeep`](CodecError::TooDeep), or [`Decode`](CodecError::Decode), each \
                    with what came; otherwise as `recv`.",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            fn recv_value_until<T: DeserializeOwned>(
                &self,
                max: usize,
                wait: Option<impl FnOnce() -> Wait>,
            ) -> Result<T, ValueError<ConnectionError>> {
                let message = self.recv_until(wait)?;
                if message.len() > max {
                    return Err(ConnectionError::TooShort { max, message: Box::new(message) }
                        .into());
                }
                if message.handle_kind().is_some() {
                    return Err(ConnectionError::UnexpectedHandle { message: Box::new(message) }
                        .into());
                }
                decode(&message).map_err(ValueError::Codec)
            }
        }
    )*};
}

sending_values!(Connection Sender);
receiving_values!(Connection Receiver);

macro_rules! putting_values {
    ($($of:ident)*) => {$(
        impl $of<[u8]> {
            forms! {
                /// Puts a value of [almost any type](crate::values#what-can-be-a-value) behind all
                /// messages. With the feature `serde`.
                ///
                /// ```
                /// use crossproc::{ByteQueue, JoinableByteQueue};
                ///
                /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
                /// let queue = ByteQueue::with_max_len(8, 1024)?;
                /// queue.put_value(&("Rome", Some(7)))?;
                /// let (to, by): (String, Option<i32>) = queue.get_value()?;
                /// assert_eq!((to.as_str(), by), ("Rome", Some(7)));
                ///
                /// let tasks = JoinableByteQueue::with_max_len(8, 1024)?;
                /// tasks.put_value(&vec!["sweep", "wash up"])?;
                /// assert_eq!(tasks.get()?.value::<Vec<String>>()?, ["sweep", "wash up"]);
                /// # Ok(())
                /// # }
                /// ```
                put_value, try_put_value, put_value_timeout, put_value_deadline,
                put_value_with <T: Serialize>
                (self: &Self, value: &T) -> Result<(), ValueError<QueueError>>,
                Self::put_value_until,
                errors "[`ValueError`]: as `put`, also if its bytes are \
                    [more than fit](QueueError::TooLong), [`TooDeep`](CodecError::TooDeep), and \
                    [`Encode`](CodecError::Encode) if it cannot be made into bytes.",
                now "[`Full`](QueueError::Full)."
            }

            fn put_value_until<T: Serialize>(
                &self,
                value: &T,
                wait: Option<impl FnOnce() -> Wait>,
            ) -> Result<(), ValueError<QueueError>> {
                Ok(self.put_until(&encode(value).map_err(ValueError::Codec)?, wait)?)
            }
        }
    )*};
}

putting_values!(Queue JoinableQueue);

impl Queue<[u8]> {
    forms! {
        /// Gets the first message as a value. With the feature `serde`.
        ///
        /// Its bytes are not more than the queue's messages can have. See
        /// [`recv_value`](Connection::recv_value) for its other limits, and for what happens if `T`
        /// is not the type that was put.
        ///
        /// ```
        /// use crossproc::values::CodecError;
        /// use crossproc::{ByteQueue, ValueError};
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue = ByteQueue::with_max_len(8, 1024)?;
        /// queue.put_value(&[Some("Rome"), None])?;
        /// assert_eq!(queue.get_value::<[Option<String>; 2]>()?, [Some("Rome".into()), None]);
        ///
        /// queue.put(b"\xff")?;
        /// let error = queue.get_value::<String>().unwrap_err();
        /// let ValueError::Codec(CodecError::Decode { bytes, .. }) = error else { unreachable!() };
        /// assert_eq!(bytes, b"\xff");
        /// # Ok(())
        /// # }
        /// ```
        get_value, try_get_value, get_value_timeout, get_value_deadline,
        get_value_with <T: DeserializeOwned>
        (self: &Self) -> Result<T, ValueError<QueueError>>, Self::get_value_until,
        errors "[`ValueError`]: [`TooDeep`](CodecError::TooDeep) or \
            [`Decode`](CodecError::Decode) with the message that was got; otherwise as `get`.",
        now "[`Empty`](QueueError::Empty)."
    }

    fn get_value_until<T: DeserializeOwned>(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<T, ValueError<QueueError>> {
        decode(&self.receive_until(wait)?).map_err(ValueError::Codec)
    }
}

impl Received<'_, [u8]> {
    /// Returns the message as a value. With the feature `serde`.
    ///
    /// ```
    /// use crossproc::ByteQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = ByteQueue::with_max_len(8, 1024)?;
    /// queue.put_value(&("Rome", 7))?;
    /// let received = queue.receive()?;
    /// assert_eq!(received.value::<(String, i32)>()?, ("Rome".into(), 7));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TooDeep`](CodecError::TooDeep) or [`Decode`](CodecError::Decode), in a
    /// [`ValueError::Codec`].
    pub fn value<T: DeserializeOwned>(&self) -> Result<T, ValueError<QueueError>> {
        decode(self).map_err(ValueError::Codec)
    }
}

impl Task<'_, [u8]> {
    /// Returns the task as a value. With the feature `serde`.
    ///
    /// ```
    /// use crossproc::JoinableByteQueue;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = JoinableByteQueue::with_max_len(8, 1024)?;
    /// tasks.put_value(&("sweep", 7))?;
    /// let task = tasks.get()?;
    /// assert_eq!(task.value::<(String, i32)>()?, ("sweep".into(), 7));
    /// task.done();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TooDeep`](CodecError::TooDeep) or [`Decode`](CodecError::Decode), in a
    /// [`ValueError::Codec`].
    pub fn value<T: DeserializeOwned>(&self) -> Result<T, ValueError<QueueError>> {
        decode(self).map_err(ValueError::Codec)
    }
}
