//! What a type may be: the lists on the page of the module `values`, row by row. What they say can
//! be a value arrives, and each end refuses what they say it does.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::{CString, OsString};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crossproc::values::{self, CodecError};
use crossproc::{ConnectionError, ValueError, pipe};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize, Serializer};

/// Returns the first cells of the rows of a list, which follow these columns.
fn rows(columns: &str) -> Vec<&'static str> {
    include_str!("../../src/values.rs")
        .lines()
        .skip_while(|line| *line != format!("//! | {columns} |"))
        .skip(2)
        .map_while(|line| line.strip_prefix("//! | ")?.split(" | ").next())
        .collect()
}

type Rows<'a> = &'a [(&'a str, fn())];

/// Runs what is asserted of each row of a list. A row may be named by how it begins.
fn go_through(columns: &str, list: Rows) {
    let rows = rows(columns);
    assert_eq!(rows.len(), list.len(), "{rows:?}");
    for (row, (begins, holds)) in rows.iter().zip(list) {
        assert!(row.starts_with(begins), "{row:?} does not begin with {begins:?}");
        println!("{row}");
        holds();
    }
}

/// Encodes a value, decodes it, and also sends it.
fn again<T: Serialize + DeserializeOwned>(value: &T) -> [T; 2] {
    let bytes = values::encode(value).unwrap();
    let (one, other) = pipe().unwrap();
    one.send_value(value).unwrap();
    [values::decode(&bytes).unwrap(), other.recv_value(1_000).unwrap()]
}

fn arrives<T: Serialize + DeserializeOwned + Debug + PartialEq>(value: T) {
    assert!(again(&value).iter().all(|again| *again == value), "{value:?}");
}

fn what_of(error: CodecError) -> String {
    match error {
        CodecError::Encode { what, .. } | CodecError::Decode { what, .. } => what,
        error => panic!("{error}"),
    }
}

fn is_not_encoded(value: &impl Serialize, why: &str) {
    let mut bytes = b"before".to_vec();
    let error = values::encode_into(value, &mut bytes).unwrap_err();
    assert!(matches!(error, CodecError::Encode { .. }), "{error}");
    let what = what_of(error);
    assert!(what.contains(why), "{what}");
    assert_eq!(bytes, b"before");
    let (one, other) = pipe().unwrap();
    let error = one.send_value(value).unwrap_err();
    assert!(matches!(error, ValueError::Codec(CodecError::Encode { .. })), "{error}");
    assert!(matches!(other.try_recv(), Err(ConnectionError::WouldBlock)), "nothing was sent");
}

fn is_not_decoded<T: DeserializeOwned>(bytes: &[u8], why: &str) {
    let Err(error) = values::decode::<T>(bytes) else { panic!("{bytes:?} are a value") };
    assert!(matches!(&error, CodecError::Decode { bytes: kept, .. } if kept == bytes), "{error}");
    let what = what_of(error);
    assert!(what.contains(why), "{what}");
}

fn asks_the_bytes<T: Serialize + DeserializeOwned>(value: &T) {
    let bytes = values::encode(value).unwrap();
    is_not_decoded::<T>(&bytes, "its type asks the bytes what they are");
    is_not_decoded::<T>(&bytes, "serde_json::Value");
    is_not_decoded::<T>(&bytes, "untagged");
    let (one, other) = pipe().unwrap();
    one.send_value(value).unwrap();
    let error = other.recv_value::<T>(100).map(drop).unwrap_err();
    assert!(matches!(error, ValueError::Codec(CodecError::Decode { .. })), "{error}");
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Nothing;
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Two(u8, String);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Newtype(u8);
#[derive(Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Named {
    number: u8,
}
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Variants {
    Unit,
    Newtype(u8),
    Tuple(u8, String),
    Struct { number: u8, text: String },
}
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Attributes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_out: Option<u8>,
    #[serde(skip)]
    never: u8,
    #[serde(rename = "other", alias = "third")]
    number: u8,
    #[serde(with = "as_text")]
    text: u8,
    transparent: Transparent,
    percent: Percent,
}
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Transparent {
    number: u8,
}
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "f32", into = "f32")]
struct Percent(f32);

impl From<f32> for Percent {
    fn from(part: f32) -> Self {
        Percent(part * 100.0)
    }
}

impl From<Percent> for f32 {
    fn from(percent: Percent) -> Self {
        percent.0 / 100.0
    }
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &u8, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

fn numbers() {
    arrives((true, false, 'ä', '\0'));
    arrives(([1_i8, -1], (1_u16, -1_i16), (1_u32, -1_i32), u64::MAX, i64::MIN));
    arrives((u128::MAX, i128::MIN, 1.5_f32, -2.5_f64, f64::INFINITY, usize::MAX, isize::MIN));
    let odd = f32::from_bits(0x7fc0_1234);
    assert!(again(&odd).iter().all(|again| again.to_bits() == odd.to_bits()));
}

fn strings() {
    arrives((String::new(), "text".to_owned(), CString::new("bytes").unwrap()));
    arrives((OsString::from("os"), PathBuf::from("/tmp")));
    let owned = ("text".to_owned(), vec![1_u8]);
    assert_eq!(values::encode(&("text", &[1_u8][..])).unwrap(), values::encode(&owned).unwrap());
    assert_eq!(values::encode("text").unwrap(), values::encode(&owned.0).unwrap());
}

fn nothing() {
    arrives(((), Nothing, PhantomData::<u8>));
    assert!(values::encode(&Nothing).unwrap().is_empty());
}

fn structs() {
    arrives((Two(7, "seven".into()), Newtype(8), Named { number: 9 }));
    arrives(([1_u8; 32], (1_u8, "two".to_owned(), [[3_u16]])));
    type Sixteen = (u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8);
    let bytes: Vec<u8> = (0..16).collect();
    let sixteen: Sixteen = values::decode(&bytes).unwrap();
    assert_eq!((sixteen.0, sixteen.15), (0, 15));
    assert_eq!(values::encode(&sixteen).unwrap(), bytes);
}

fn enums() {
    let text = || "text".to_owned();
    arrives(Variants::Unit);
    arrives(Variants::Newtype(1));
    arrives(Variants::Tuple(1, text()));
    arrives(Variants::Struct { number: 1, text: text() });
}

fn options() {
    arrives((Some(Some(1_u8)), Some(None::<u8>), None::<Option<u8>>, Some(())));
    arrives((Ok::<u8, String>(1), Err::<u8, _>("no".to_owned()), Ok::<_, ()>(Some(Nothing))));
}

fn collections() {
    arrives((vec![1_u8], Vec::<String>::new(), VecDeque::from([1, 2]), vec![(); 3]));
    arrives(HashMap::from([("one".to_owned(), vec![1_u8]), (String::new(), vec![])]));
    arrives(HashMap::from([(Named { number: 1 }, 2), (Named { number: 2 }, 3)]));
    arrives((BTreeSet::from([(1, 'a')]), BTreeMap::from([(vec![1], BTreeMap::from([(1, 2)]))])));
}

fn around_a_value() {
    arrives((Box::new(1), Cow::Borrowed("text").into_owned(), Cell::new(2)));
    arrives(Cow::<'static, str>::Owned("text".into()));
    assert!(again(&Mutex::new(7)).map(|again| again.into_inner().unwrap()) == [7, 7]);
    let bare = values::encode(&7).unwrap();
    assert_eq!(values::encode(&Box::new(7)).unwrap(), bare);
    assert_eq!(values::encode(&Mutex::new(7)).unwrap(), bare);
}

fn of_std() {
    let after = Duration::from_millis(1_500);
    arrives((after, SystemTime::UNIX_EPOCH + after, 1..2_u8, 1..=2_u8, NonZero::new(7_u64)));
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    arrives((Ipv4Addr::LOCALHOST, address, SocketAddr::new(address, 80)));
}

fn attributes() {
    let transparent = Transparent { number: 4 };
    let percent = Percent(50.0);
    arrives(Attributes { left_out: Some(1), never: 0, number: 3, text: 7, transparent, percent });
    let set = Attributes { left_out: Some(1), never: 9, ..Attributes::default() };
    assert!(again(&set).iter().all(|again| again.never == 0));
}

#[test]
fn what_the_page_says_can_be_a_value_arrives() {
    go_through(
        "what | with",
        &[
            ("`bool`, `char`, integers and floats", numbers),
            ("`String`", strings),
            ("`()` and structs without fields", nothing),
            ("tuples, arrays, structs and newtypes", structs),
            ("enums", enums),
            ("`Option` and `Result`", options),
            ("`Vec` and other collections", collections),
            ("`Box`, `Cow`, `Cell`, `Mutex`", around_a_value),
            ("`Duration`, ranges, `NonZero`, network addresses", of_std),
            ("`#[serde(skip)]`", attributes),
        ],
    );
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    #[serde(flatten)]
    inner: Named,
}
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u8),
    Text(String),
}
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Some { number: u8 },
}
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "with")]
enum Adjacent {
    None,
    Number(u8),
    Fields { number: u8 },
}
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Written {
    number: u8,
    #[serde(skip_deserializing)]
    one_way: u8,
}
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Read {
    #[serde(skip_serializing)]
    one_way: u8,
    number: u8,
}
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
struct TaggedStruct {
    number: u8,
}

/// A sequence, or a map, that says how long it is, or does not.
struct Announced {
    len: Option<usize>,
    is_map: bool,
}

impl Serialize for Announced {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::{SerializeMap, SerializeSeq};
        if self.is_map {
            let mut map = serializer.serialize_map(self.len)?;
            map.serialize_entry(&1_u8, &1_u8)?;
            return map.end();
        }
        let mut sequence = serializer.serialize_seq(self.len)?;
        sequence.serialize_element(&1_u8)?;
        sequence.end()
    }
}

fn too_deep() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf,
        Node(Box<Tree>),
    }
    let tree = |levels| (1..levels).fold(Tree::Leaf, |tree, _| Tree::Node(Box::new(tree)));
    arrives(tree(128));
    let error = values::encode(&tree(129)).unwrap_err();
    assert!(
        matches!(&error, CodecError::TooDeep { max: 128, bytes, .. } if bytes.is_empty()),
        "{error}"
    );
    let bytes = [vec![1; 128], vec![0]].concat();
    let error = values::decode::<Tree>(&bytes).unwrap_err();
    assert!(
        matches!(&error, CodecError::TooDeep { max: 128, bytes: kept, .. } if *kept == bytes),
        "{error}"
    );
}

fn too_many_of_no_bytes() {
    let why = "more than 65536 of its elements take no bytes";
    assert_eq!(again(&vec![(); 1 << 16])[0].len(), 1 << 16);
    is_not_encoded(&vec![(); (1 << 16) + 1], why);
    is_not_decoded::<Vec<()>>(&[0x81, 0x80, 4], why);
}

fn flattened() {
    is_not_encoded(&Flat { inner: Named { number: 1 } }, "`#[serde(flatten)]`");
    is_not_decoded::<Flat>(&[1, 1, 65, 1], "`#[serde(flatten)]`");
}

fn of_unknown_length() {
    is_not_encoded(&Announced { len: None, is_map: false }, "unknown length");
    is_not_encoded(&Announced { len: None, is_map: true }, "unknown length");
    for is_map in [false, true] {
        let lying = |len| Announced { len: Some(len), is_map };
        is_not_encoded(&lying(2), "it says that it has 2 elements, and has 1");
        is_not_encoded(&lying(0), "it says that it has 0 elements, and has 1");
        assert_eq!(values::encode(&lying(1)).unwrap()[..2], [1, 1]);
    }
}

fn left_out() {
    is_not_encoded(
        &Attributes::default(),
        "its field `left_out` is left out (`skip_serializing_if`)",
    );
}

fn path() {
    use std::os::unix::ffi::OsStringExt;
    let odd = OsString::from_vec(vec![b'/', 0xff]);
    is_not_encoded(&PathBuf::from(odd.clone()), "UTF-8");
    arrives(odd);
}

fn described() {
    asks_the_bytes(&serde_json::json!({ "a": [1, "b"] }));
    asks_the_bytes(&Untagged::Number(1));
    asks_the_bytes(&Untagged::Text("text".into()));
    asks_the_bytes(&Tagged::Some { number: 1 });
    asks_the_bytes(&Adjacent::None);
    asks_the_bytes(&Adjacent::Number(1));
    asks_the_bytes(&Adjacent::Fields { number: 1 });
    is_not_decoded::<IgnoredAny>(&[1], "its type asks the bytes what they are");
}

fn of_one_direction() {
    let bytes = values::encode(&Written { number: 1, one_way: 2 }).unwrap();
    is_not_decoded::<Written>(&bytes, "with 1 of them left over");
    let bytes = values::encode(&Read { one_way: 1, number: 2 }).unwrap();
    is_not_decoded::<Read>(&bytes, "");
    // What is not there is taken from what follows.
    let bytes = values::encode(&(Read { one_way: 1, number: 2 }, 3_u8)).unwrap();
    assert_eq!(values::decode::<Read>(&bytes).unwrap(), Read { one_way: 2, number: 3 });
    let bytes = values::encode(&TaggedStruct { number: 1 }).unwrap();
    is_not_decoded::<TaggedStruct>(&bytes, "left over");
}

#[test]
fn what_the_page_says_an_end_refuses_it_refuses() {
    go_through(
        "what | refused by",
        &[
            ("more than 128 levels", too_deep),
            ("more than 65,536 elements that take no bytes", too_many_of_no_bytes),
            ("`#[serde(flatten)]`", flattened),
            ("other maps and sequences of unknown length", of_unknown_length),
            ("a field that `#[serde(skip_serializing_if", left_out),
            ("a path that is not UTF-8", path),
            ("a type that asks the bytes what they are", described),
            ("fields that only one direction has", of_one_direction),
        ],
    );
}

#[test]
fn bytes_are_appended_and_all_must_be_the_values() {
    let mut bytes = vec![1];
    values::encode_into(&7_u8, &mut bytes).unwrap();
    values::encode_into("ab", &mut bytes).unwrap();
    assert_eq!(bytes, [1, 7, 2, b'a', b'b']);
    assert_eq!(values::decode::<(u8, u8, String)>(&bytes).unwrap(), (1, 7, "ab".into()));
    is_not_decoded::<(u8, u8)>(&bytes, "with 3 of them left over");
    let error = values::decode::<String>(&[0xff]).unwrap_err();
    assert!(error.to_string().starts_with("1 bytes came that are no value of type "), "{error}");
}
