//! Values of any type, by way of serde: in messages, and in queues of bytes.
//!
//! The format is that of [postcard](https://postcard.jamesmunns.com/wire-format): compact and
//! without names. Both sides must have the same type, with its fields and variants in the same
//! order. Nothing but the bytes checks that.
//!
//! What a peer sends takes no more stack than [`MAX_DEPTH`] levels do. It has no more elements that
//! take no bytes than the limit in `unfit`. A value that would be refused for either is not sent.

use core::any::type_name;
use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connection::{Connection, ConnectionError, Receiver, Sender};
use crate::queue::{JoinableQueue, Queue, QueueError, Received, Task};
use crate::wait::Wait;
use crate::wait::forms;

mod decode;
mod encode;
mod unfit;

use self::unfit::{MAX_DEPTH, Unfit};

/// Why a value was not sent or put, or not received or got.
///
/// # What can be a value
/// The bytes do not describe themselves, so both ends must have the same type, with its fields and
/// variants in the same order. These cannot be values:
///
/// | what | refused by |
/// |---|---|
/// | more than 128 levels | both ends, by [`TooDeep`](ValueError::TooDeep) |
/// | more than 65,536 elements that take no bytes, as in a `Vec<()>` | both ends |
/// | `#[serde(flatten)]`, and other maps and sequences of unknown length | both ends |
/// | a field that `#[serde(skip_serializing_if = "…")]` leaves out | the sender |
/// | a type that asks the bytes what they are (`deserialize_any`): `serde_json::Value`, enums that are `#[serde(untagged)]` or have a `#[serde(tag = "…")]`, with or without a `content` | the receiver: the sender cannot tell |
/// | fields that only one direction skips (`skip_serializing`, `skip_deserializing`) | neither, unless the bytes do not fit |
///
/// `#[serde(skip)]`, `rename` and `default` are fine, but nothing takes the place of a field that
/// is left out.
///
/// # Levels
/// A struct, a tuple, an array, an enum, a sequence, a map and a `Some` is one level each, and so
/// is each of these inside it. A `Box` is none. So a linked list of structs, each with an
/// `Option<Box<_>>` of the next one, may have 64 of them: use a `Vec` instead.
///
/// In a build without optimisation, parsing a level takes several times the size of its type on the
/// stack. In a type that contains itself, box what is large, so that 128 levels fit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError<E> {
    /// The connection, or the queue, failed: this is its error.
    #[error(transparent)]
    Transport(#[from] E),
    /// The value could not be made into bytes: its type refuses.
    #[error("a value of type {type_name} cannot be made into bytes: {what}")]
    Encode {
        /// The value's type.
        type_name: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The value has too many levels.
    #[error(
        "a value of type {type_name} has more than {max} levels: send it flatter, such as in a \
         vector"
    )]
    TooDeep {
        /// The value's type.
        type_name: &'static str,
        /// How many levels it may have.
        max: usize,
        /// The bytes that came; empty if the value was to be sent.
        bytes: Vec<u8>,
    },
    /// The bytes that came are not a value of the type. They are kept here.
    #[error("{} bytes came that are no value of type {type_name}: {what}", bytes.len())]
    Decode {
        /// The type that was asked for.
        type_name: &'static str,
        /// What is wrong.
        what: String,
        /// The bytes that came.
        bytes: Vec<u8>,
    },
}

impl<E: Into<io::Error> + std::error::Error + Send + Sync + 'static> From<ValueError<E>>
    for io::Error
{
    fn from(error: ValueError<E>) -> Self {
        match error {
            ValueError::Transport(error) => error.into(),
            ValueError::Encode { .. } => io::Error::new(io::ErrorKind::InvalidInput, error),
            ValueError::TooDeep { ref bytes, .. } if bytes.is_empty() => {
                io::Error::new(io::ErrorKind::InvalidInput, error)
            }
            ValueError::TooDeep { .. } | ValueError::Decode { .. } => {
                io::Error::new(io::ErrorKind::InvalidData, error)
            }
        }
    }
}

fn encode<T: Serialize, E>(value: &T) -> Result<Vec<u8>, ValueError<E>> {
    let type_name = type_name::<T>();
    encode::to_bytes(value).map_err(|unfit| match unfit {
        Unfit::TooDeep => ValueError::TooDeep { type_name, max: MAX_DEPTH, bytes: Vec::new() },
        Unfit::Other(what) => ValueError::Encode { type_name, what },
    })
}

/// Makes a value of bytes, all of which must be the value's.
fn decode<T: DeserializeOwned, E>(bytes: &[u8]) -> Result<T, ValueError<E>> {
    let type_name = type_name::<T>();
    let what = match decode::from_bytes(bytes) {
        Ok((value, [])) => return Ok(value),
        Ok((_, left)) => format!("with {} of them left over", left.len()),
        Err(Unfit::TooDeep) => {
            return Err(ValueError::TooDeep { type_name, max: MAX_DEPTH, bytes: bytes.to_vec() });
        }
        Err(Unfit::Other(what)) => what,
    };
    Err(ValueError::Decode { type_name, what, bytes: bytes.to_vec() })
}

macro_rules! sending_values {
    ($($of:ident)*) => {$(
        impl $of {
            forms! {
                /// Sends a value of [almost any type](ValueError#what-can-be-a-value), whole. With
                /// the feature `serde`.
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
                errors "[`ValueError`]: as `send`, [`TooDeep`](ValueError::TooDeep), and \
                    [`Encode`](ValueError::Encode) if it cannot be made into bytes.",
                now "[`WouldBlock`](ConnectionError::WouldBlock).",
                of ConnectionError
            }

            fn send_value_until<T: Serialize>(
                &self,
                value: &T,
                wait: Option<impl FnOnce() -> Wait>,
            ) -> Result<(), ValueError<ConnectionError>> {
                Ok(self.send_until(&encode(value)?, wait)?)
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
                /// levels](ValueError#levels), and 65,536 elements that take no bytes.
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
                    [`TooDeep`](ValueError::TooDeep), or [`Decode`](ValueError::Decode), each \
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
                decode(&message)
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
                /// Puts a value of [almost any type](ValueError#what-can-be-a-value) behind all
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
                    [more than fit](QueueError::TooLong), [`TooDeep`](ValueError::TooDeep), and \
                    [`Encode`](ValueError::Encode) if it cannot be made into bytes.",
                now "[`Full`](QueueError::Full)."
            }

            fn put_value_until<T: Serialize>(
                &self,
                value: &T,
                wait: Option<impl FnOnce() -> Wait>,
            ) -> Result<(), ValueError<QueueError>> {
                Ok(self.put_until(&encode(value)?, wait)?)
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
        /// use crossproc::{ByteQueue, ValueError};
        ///
        /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let queue = ByteQueue::with_max_len(8, 1024)?;
        /// queue.put_value(&[Some("Rome"), None])?;
        /// assert_eq!(queue.get_value::<[Option<String>; 2]>()?, [Some("Rome".into()), None]);
        ///
        /// queue.put(b"\xff")?;
        /// let error = queue.get_value::<String>().unwrap_err();
        /// assert!(matches!(error, ValueError::Decode { bytes, .. } if bytes == b"\xff"));
        /// # Ok(())
        /// # }
        /// ```
        get_value, try_get_value, get_value_timeout, get_value_deadline,
        get_value_with <T: DeserializeOwned>
        (self: &Self) -> Result<T, ValueError<QueueError>>, Self::get_value_until,
        errors "[`ValueError`]: [`TooDeep`](ValueError::TooDeep) or \
            [`Decode`](ValueError::Decode) with the message that was got; otherwise as `get`.",
        now "[`Empty`](QueueError::Empty)."
    }

    fn get_value_until<T: DeserializeOwned>(
        &self,
        wait: Option<impl FnOnce() -> Wait>,
    ) -> Result<T, ValueError<QueueError>> {
        decode(&self.receive_until(wait)?)
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
    /// [`ValueError::TooDeep`], [`ValueError::Decode`].
    pub fn value<T: DeserializeOwned>(&self) -> Result<T, ValueError<QueueError>> {
        decode(self)
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
    /// [`ValueError::TooDeep`], [`ValueError::Decode`].
    pub fn value<T: DeserializeOwned>(&self) -> Result<T, ValueError<QueueError>> {
        decode(self)
    }
}
