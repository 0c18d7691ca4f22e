//! From a value to its bytes.
//!
//! postcard writes numbers, strings and bytes. This module takes apart what has parts: it counts
//! levels, and refuses what the other end could not read.

use serde::ser::{self, Serialize, Serializer};

use super::unfit::{Empty, MAX_DEPTH, Unfit, deeper};

/// Appends the bytes of a value. If it has none, `to` is left as it was.
pub(super) fn append<T: ?Sized + Serialize>(value: &T, to: &mut Vec<u8>) -> Result<(), Unfit> {
    let before = to.len();
    let mut output = Output {
        leaves: postcard::Serializer { output: Bytes(core::mem::take(to)) },
        empty: Empty::default(),
    };
    let result = value.serialize(Encoder { output: &mut output, levels: MAX_DEPTH });
    *to = output.leaves.output.0;
    if result.is_err() {
        to.truncate(before);
    }
    result
}

struct Bytes(Vec<u8>);

impl postcard::ser_flavors::Flavor for Bytes {
    type Output = Vec<u8>;

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

struct Output {
    leaves: postcard::Serializer<Bytes>,
    empty: Empty,
}

impl Output {
    fn len(&self) -> usize {
        self.leaves.output.0.len()
    }
}

/// Takes one value, which may have this many levels.
struct Encoder<'a> {
    output: &'a mut Output,
    levels: usize,
}

impl<'a> Encoder<'a> {
    fn deeper(self) -> Result<Self, Unfit> {
        Ok(Encoder { levels: deeper(self.levels)?, ..self })
    }

    /// The parts of a value, whose number the type says.
    fn parts(self) -> Result<Parts<'a>, Unfit> {
        Ok(Parts(self.deeper()?))
    }

    /// The elements of a sequence or a map, whose number the bytes say.
    fn elements(self, len: Option<usize>, of: &str) -> Result<Elements<'a>, Unfit> {
        let len = len.ok_or_else(|| {
            Unfit::Other(format!("{of}, and how long it is must be known before"))
        })?;
        let inner = self.deeper()?;
        (&mut inner.output.leaves).serialize_u64(len as u64)?;
        let began = inner.output.len();
        Ok(Elements { inner, len, count: 0, began })
    }

    fn variant(self, index: u32) -> Result<Self, Unfit> {
        let inner = self.deeper()?;
        (&mut inner.output.leaves).serialize_u32(index)?;
        Ok(inner)
    }

    fn again(&mut self) -> Encoder<'_> {
        Encoder { output: &mut *self.output, levels: self.levels }
    }
}

macro_rules! leaves {
    ($($serialize:ident: $type:ty),*) => {$(
        fn $serialize(self, value: $type) -> Result<(), Unfit> {
            Ok((&mut self.output.leaves).$serialize(value)?)
        }
    )*};
}

impl<'a> Serializer for Encoder<'a> {
    type Ok = ();
    type Error = Unfit;
    type SerializeSeq = Elements<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Elements<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    leaves! {
        serialize_bool: bool, serialize_char: char, serialize_str: &str, serialize_bytes: &[u8],
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_u128: u128,
        serialize_f32: f32, serialize_f64: f64
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_none(self) -> Result<(), Unfit> {
        self.serialize_u8(0)
    }

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<(), Unfit> {
        let inner = self.deeper()?;
        (&mut inner.output.leaves).serialize_u8(1)?;
        value.serialize(inner)
    }

    fn serialize_unit(self) -> Result<(), Unfit> {
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Unfit> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
    ) -> Result<(), Unfit> {
        self.variant(index).map(|_| ())
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Unfit> {
        value.serialize(self.deeper()?)
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<(), Unfit> {
        value.serialize(self.variant(index)?)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Elements<'a>, Unfit> {
        self.elements(len, "it has a sequence of unknown length")
    }

    fn serialize_tuple(self, _len: usize) -> Result<Parts<'a>, Unfit> {
        self.parts()
    }

    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Parts<'a>, Unfit> {
        self.parts()
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Parts<'a>, Unfit> {
        self.variant(index).map(Parts)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Elements<'a>, Unfit> {
        self.elements(
            len,
            "it has a map of unknown length, as of a struct with `#[serde(flatten)]`",
        )
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Parts<'a>, Unfit> {
        self.parts()
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Parts<'a>, Unfit> {
        self.variant(index).map(Parts)
    }
}

struct Parts<'a>(Encoder<'a>);

macro_rules! parts {
    ($($kind:ident::$add:ident)*) => {$(
        impl ser::$kind for Parts<'_> {
            type Ok = ();
            type Error = Unfit;

            fn $add<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Unfit> {
                value.serialize(self.0.again())
            }

            fn end(self) -> Result<(), Unfit> {
                Ok(())
            }
        }
    )*};
}

parts!(
    SerializeTuple::serialize_element SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
);

macro_rules! fields {
    ($($kind:ident)*) => {$(
        impl ser::$kind for Parts<'_> {
            type Ok = ();
            type Error = Unfit;

            fn serialize_field<T: ?Sized + Serialize>(
                &mut self,
                _key: &'static str,
                value: &T,
            ) -> Result<(), Unfit> {
                value.serialize(self.0.again())
            }

            fn skip_field(&mut self, key: &'static str) -> Result<(), Unfit> {
                let what = format!(
                    "its field `{key}` is left out (`skip_serializing_if`), which the other end \
                     could not know"
                );
                Err(Unfit::Other(what))
            }

            fn end(self) -> Result<(), Unfit> {
                Ok(())
            }
        }
    )*};
}

fields!(SerializeStruct SerializeStructVariant);

struct Elements<'a> {
    inner: Encoder<'a>,
    /// How many elements there are, as the bytes say.
    len: usize,
    count: usize,
    /// How many bytes there were before the element that is under way.
    began: usize,
}

impl Elements<'_> {
    fn begin(&mut self) -> Encoder<'_> {
        self.began = self.inner.output.len();
        self.inner.again()
    }

    fn finish(&mut self) -> Result<(), Unfit> {
        self.count += 1;
        if self.inner.output.len() == self.began { self.inner.output.empty.count() } else { Ok(()) }
    }

    fn check(self) -> Result<(), Unfit> {
        if self.count == self.len {
            return Ok(());
        }
        Err(Unfit::Other(format!(
            "it says that it has {} elements, and has {}",
            self.len, self.count
        )))
    }
}

impl ser::SerializeSeq for Elements<'_> {
    type Ok = ();
    type Error = Unfit;

    fn serialize_element<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Unfit> {
        value.serialize(self.begin())?;
        self.finish()
    }

    fn end(self) -> Result<(), Unfit> {
        self.check()
    }
}

impl ser::SerializeMap for Elements<'_> {
    type Ok = ();
    type Error = Unfit;

    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Result<(), Unfit> {
        key.serialize(self.begin())
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Unfit> {
        value.serialize(self.inner.again())?;
        self.finish()
    }

    fn end(self) -> Result<(), Unfit> {
        self.check()
    }
}
