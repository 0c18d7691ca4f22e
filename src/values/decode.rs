//! From bytes to a value.
//!
//! postcard reads numbers, strings and bytes. This module puts together what has parts: it counts
//! levels, so that no bytes of a peer overflow the stack.

use serde::de::value::U32Deserializer;
use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor,
};

use super::unfit::{Empty, MAX_DEPTH, Unfit, deeper};

/// Returns a value, and the bytes after it.
pub(super) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), Unfit> {
    let mut input = Input { bytes, empty: Empty::default() };
    let value = T::deserialize(Decoder { input: &mut input, levels: MAX_DEPTH })?;
    Ok((value, input.bytes))
}

struct Input<'de> {
    bytes: &'de [u8],
    empty: Empty,
}

impl<'de> Input<'de> {
    /// Takes something without parts.
    fn leaf<T: Deserialize<'de>>(&mut self) -> Result<T, Unfit> {
        let (leaf, left) = postcard::take_from_bytes(self.bytes)?;
        self.bytes = left;
        Ok(leaf)
    }

    fn len(&mut self) -> Result<usize, Unfit> {
        let len: u64 = self.leaf()?;
        usize::try_from(len).map_err(|_| {
            Unfit::Other(format!("{len} elements are more than an address space holds"))
        })
    }
}

/// Makes one value, which may have this many levels.
struct Decoder<'a, 'de> {
    input: &'a mut Input<'de>,
    levels: usize,
}

impl<'a, 'de> Decoder<'a, 'de> {
    fn deeper(self) -> Result<Self, Unfit> {
        Ok(Decoder { levels: deeper(self.levels)?, ..self })
    }

    /// The elements of a sequence or a map, whose number the bytes say.
    fn elements(self) -> Result<Elements<'a, 'de>, Unfit> {
        let inner = self.deeper()?;
        let len = inner.input.len()?;
        Ok(Elements { inner, left: len, is_counted: true, began: 0 })
    }

    /// Parts, whose number the type says.
    fn parts(self, count: usize) -> Elements<'a, 'de> {
        Elements { inner: self, left: count, is_counted: false, began: 0 }
    }

    fn again(&mut self) -> Decoder<'_, 'de> {
        Decoder { input: &mut *self.input, levels: self.levels }
    }
}

/// Refuses a type that the bytes would have to describe.
fn not_described<T>() -> Result<T, Unfit> {
    Err(Unfit::Other(
        "its type asks the bytes what they are, and these do not say it: `serde_json::Value`, \
         enums that are `#[serde(untagged)]` or have a `#[serde(tag)]`, and structs with \
         `#[serde(flatten)]` cannot be received"
            .into(),
    ))
}

macro_rules! leaves {
    ($($deserialize:ident: $type:ty, $visit:ident;)*) => {$(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
            visitor.$visit(self.input.leaf::<$type>()?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Decoder<'_, 'de> {
    type Error = Unfit;

    leaves! {
        deserialize_bool: bool, visit_bool;
        deserialize_char: char, visit_char;
        deserialize_i8: i8, visit_i8;
        deserialize_i16: i16, visit_i16;
        deserialize_i32: i32, visit_i32;
        deserialize_i64: i64, visit_i64;
        deserialize_i128: i128, visit_i128;
        deserialize_u8: u8, visit_u8;
        deserialize_u16: u16, visit_u16;
        deserialize_u32: u32, visit_u32;
        deserialize_u64: u64, visit_u64;
        deserialize_u128: u128, visit_u128;
        deserialize_f32: f32, visit_f32;
        deserialize_f64: f64, visit_f64;
        deserialize_str: &'de str, visit_borrowed_str;
        deserialize_string: &'de str, visit_borrowed_str;
        deserialize_bytes: &'de [u8], visit_borrowed_bytes;
        deserialize_byte_buf: &'de [u8], visit_borrowed_bytes;
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self.input.leaf::<u8>()? {
            0 => visitor.visit_none(),
            1 => visitor.visit_some(self.deeper()?),
            other => Err(Unfit::Other(format!("an option begins with 0 or 1, not with {other}"))),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_newtype_struct(self.deeper()?)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_seq(self.elements()?)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_seq(self.deeper()?.parts(len))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_seq(self.deeper()?.parts(len))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_map(self.elements()?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_seq(self.deeper()?.parts(fields.len()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_enum(self.deeper()?)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Unfit> {
        not_described()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Unfit> {
        not_described()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Unfit> {
        not_described()
    }
}

impl<'de> de::EnumAccess<'de> for Decoder<'_, 'de> {
    type Error = Unfit;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Unfit> {
        let index: U32Deserializer<Unfit> = self.input.leaf::<u32>()?.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

/// A variant's level is that of the enum.
impl<'de> de::VariantAccess<'de> for Decoder<'_, 'de> {
    type Error = Unfit;

    fn unit_variant(self) -> Result<(), Unfit> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Unfit> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_seq(self.parts(len))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_seq(self.parts(fields.len()))
    }
}

struct Elements<'a, 'de> {
    inner: Decoder<'a, 'de>,
    left: usize,
    /// The bytes, not the type, say how many elements there are. So the elements that take no bytes
    /// are counted.
    is_counted: bool,
    /// How many bytes were left before the element that is under way.
    began: usize,
}

impl<'de> Elements<'_, 'de> {
    /// Begins another element. Returns whether there is one.
    fn begin(&mut self) -> bool {
        self.began = self.inner.input.bytes.len();
        let is_left = self.left > 0;
        self.left -= usize::from(is_left);
        is_left
    }

    fn make<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Unfit> {
        seed.deserialize(self.inner.again())
    }

    fn finish(&mut self) -> Result<(), Unfit> {
        let is_empty = self.inner.input.bytes.len() == self.began;
        if self.is_counted && is_empty { self.inner.input.empty.count() } else { Ok(()) }
    }

    /// Returns how many elements to allocate for: nothing is allocated for elements that a peer has
    /// announced and not sent.
    fn hint(&self) -> Option<usize> {
        Some(self.left).filter(|&left| left <= self.inner.input.bytes.len())
    }
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Unfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Unfit> {
        if !self.begin() {
            return Ok(None);
        }
        let element = self.make(seed)?;
        self.finish()?;
        Ok(Some(element))
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> de::MapAccess<'de> for Elements<'_, 'de> {
    type Error = Unfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Unfit> {
        if self.begin() { self.make(seed).map(Some) } else { Ok(None) }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Unfit> {
        let value = self.make(seed)?;
        self.finish()?;
        Ok(value)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}
