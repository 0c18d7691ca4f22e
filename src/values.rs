//! Values of any type, by way of serde: as bytes, in messages, and in queues of bytes. With the
//! feature `serde`.
//!
//! [`encode()`] and [`decode()`] make bytes of a value, and a value of bytes. `send_value`,
//! `recv_value`, `put_value` and `get_value` of connections and of queues of bytes do the same
//! with what they carry, such as [`Connection::send_value`](crate::Connection::send_value).
//!
//! ```
//! use crossproc::values;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, PartialEq, Debug)]
//! enum Order {
//!     Go { to: String, by: Option<u32> },
//!     Stop,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let order = Order::Go { to: "Rome".into(), by: Some(7) };
//! let bytes = values::encode(&order)?;
//! assert_eq!(bytes, b"\x00\x04Rome\x01\x07");
//! assert_eq!(values::decode::<Order>(&bytes)?, order);
//! # Ok(())
//! # }
//! ```
//!
//! # The format
//! It is the [wire format](https://postcard.jamesmunns.com/wire-format) of postcard, version 1:
//! compact and without names. The bytes do not describe themselves, so both ends must have the same
//! type, with its fields and variants in the same order. Nothing but the bytes checks that. Those
//! of another type may be a value, too, such as those of `7_u32` for an `i64`. So name the type at
//! both ends, also of literals: `Some(7)` is an `Option<i32>`.
//!
//! postcard itself writes and reads the same bytes. What this module refuses besides is in the
//! second table below. The bytes may come from anywhere: they overflow no stack, and announce no
//! more elements than come.
//!
//! # What can be a value
//! Types like these:
//!
//! | what | with |
//! |---|---|
//! | `bool`, `char`, integers and floats | those of 128 bits, and `usize`, which is written like `u64` |
//! | `String`, `CString`, `OsString`, `PathBuf` | `&str` and other borrowed types can be encoded; what is decoded is owned |
//! | `()` and structs without fields | `PhantomData` |
//! | tuples, arrays, structs and newtypes | up to 16 parts of a tuple, 32 of an array |
//! | enums | variants of each kind, with or without fields |
//! | `Option` and `Result` | several within each other |
//! | `Vec` and other collections | maps whose keys are of any type |
//! | `Box`, `Cow`, `Cell`, `Mutex` | the value inside alone |
//! | `Duration`, ranges, `NonZero`, network addresses | what else of std has serde's traits |
//! | `#[serde(skip)]`, `rename`, `default`, `transparent`, `with`, `from` and `into` | nothing takes the place of a field that is left out |
//!
//! These cannot be values:
//!
//! | what | refused by |
//! |---|---|
//! | more than 128 levels | both ends, by [`TooDeep`](CodecError::TooDeep) |
//! | more than 65,536 elements that take no bytes, as in a `Vec<()>` | both ends |
//! | `#[serde(flatten)]` | both ends |
//! | other maps and sequences of unknown length | the sender |
//! | a field that `#[serde(skip_serializing_if = "…")]` leaves out | the sender |
//! | a path that is not UTF-8 | the sender |
//! | a type that asks the bytes what they are (`deserialize_any`): `serde_json::Value`, enums that are `#[serde(untagged)]` or have a `#[serde(tag = "…")]`, with or without a `content` | the receiver: the sender cannot tell |
//! | fields that only one direction has (`skip_serializing`, `skip_deserializing`, `#[serde(tag = "…")]` of a struct) | neither, unless the bytes do not fit |
//!
//! The sender is [`encode()`] and refuses by [`Encode`](CodecError::Encode); the receiver is
//! [`decode()`] and refuses by [`Decode`](CodecError::Decode).
//!
//! # Levels
//! A struct, a tuple, an array, an enum, a sequence, a map and a `Some` is one level each, and so
//! is each of these inside it. A `Box` is none. So a linked list of structs, each with an
//! `Option<Box<_>>` of the next one, may have 64 of them: use a `Vec` instead.
//!
//! In a build without optimisation, parsing a level takes several times the size of its type on the
//! stack. In a type that contains itself, box what is large, so that 128 levels fit.

use core::any::type_name;
use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

mod decode;
mod encode;
pub(crate) mod transport;
mod unfit;

use self::unfit::{MAX_DEPTH, Unfit};

/// Why a value could not be made into bytes, or bytes not into a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
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
        /// The bytes that came; empty if the value was to be made into bytes.
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

impl From<CodecError> for io::Error {
    fn from(error: CodecError) -> Self {
        let kind = match &error {
            CodecError::Encode { .. } => io::ErrorKind::InvalidInput,
            CodecError::TooDeep { bytes, .. } if bytes.is_empty() => io::ErrorKind::InvalidInput,
            CodecError::TooDeep { .. } | CodecError::Decode { .. } => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// Returns the bytes of a value of [almost any type](self#what-can-be-a-value). It never blocks.
///
/// ```
/// use crossproc::values;
///
/// # fn main() -> Result<(), values::CodecError> {
/// let bytes = values::encode(&("Rome", vec![7_u32, 300]))?;
/// assert_eq!(bytes, b"\x04Rome\x02\x07\xac\x02");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CodecError::TooDeep`], without bytes; [`CodecError::Encode`] if the type refuses, or if the
/// other end could not read the bytes.
pub fn encode<T: ?Sized + Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    encode_into(value, &mut bytes)?;
    Ok(bytes)
}

/// Appends the bytes of a value to `bytes`, such as behind a header, or into memory that is used
/// again. It never blocks.
///
/// ```
/// use crossproc::values;
///
/// # fn main() -> Result<(), values::CodecError> {
/// let mut bytes = Vec::from(*b"job ");
/// values::encode_into(&("Rome", 7_u32), &mut bytes)?;
/// assert_eq!(bytes, b"job \x04Rome\x07");
/// assert_eq!(values::decode::<(String, u32)>(&bytes[4..])?, ("Rome".into(), 7));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As of [`encode()`]. Then `bytes` is as it was before.
///
/// # Panics
/// Only if the value's own code panics. That leaves `bytes` empty.
pub fn encode_into<T: ?Sized + Serialize>(
    value: &T,
    bytes: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let type_name = type_name::<T>();
    encode::append(value, bytes).map_err(|unfit| match unfit {
        Unfit::TooDeep => CodecError::TooDeep { type_name, max: MAX_DEPTH, bytes: Vec::new() },
        Unfit::Other(what) => CodecError::Encode { type_name, what },
    })
}

/// Makes a value of bytes, all of which must be the value's. It never blocks.
///
/// `T` must be the type that was encoded: nothing but the bytes [checks that](self#the-format).
/// Whatever the bytes are, a value has at most [128 levels](self#levels), and 65,536 elements that
/// take no bytes. The memory that it takes is limited by their number and by the type.
///
/// ```
/// use crossproc::values::{self, CodecError};
///
/// # fn main() -> Result<(), CodecError> {
/// let bytes = values::encode("Rome")?;
/// assert_eq!(values::decode::<String>(&bytes)?, "Rome");
///
/// let error = values::decode::<String>(&bytes[..3]).unwrap_err();
/// assert!(matches!(error, CodecError::Decode { bytes, .. } if bytes == b"\x04Ro"));
/// // Those of another type may be a value, too.
/// assert_eq!(values::decode::<i64>(&values::encode(&7_u32)?)?, -4);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CodecError::TooDeep`] or [`CodecError::Decode`], each with a copy of the bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let type_name = type_name::<T>();
    let what = match decode::from_bytes(bytes) {
        Ok((value, [])) => return Ok(value),
        Ok((_, left)) => format!("with {} of them left over", left.len()),
        Err(Unfit::TooDeep) => {
            return Err(CodecError::TooDeep { type_name, max: MAX_DEPTH, bytes: bytes.to_vec() });
        }
        Err(Unfit::Other(what)) => what,
    };
    Err(CodecError::Decode { type_name, what, bytes: bytes.to_vec() })
}
