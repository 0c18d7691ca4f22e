//! What a type may be: values of each shape arrive, and a type that cannot be is refused.

use std::collections::HashMap;
use std::fmt::Debug;

use crossproc::{ConnectionError, ValueError, pipe};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Nothing;
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Two(u8, String);

#[test]
fn structs_of_every_kind_arrive() {
    let (one, other) = pipe().unwrap();
    one.send_value(&(Nothing, Two(7, "seven".into()), ())).unwrap();
    assert_eq!(
        other.recv_value::<(Nothing, Two, ())>(100).unwrap(),
        (Nothing, Two(7, "seven".into()), ())
    );
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
struct Inner {
    number: u8,
}
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    #[serde(flatten)]
    inner: Inner,
}
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Skipping {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_out: Option<u8>,
    #[serde(skip)]
    never: u8,
    #[serde(rename = "other")]
    number: u8,
}

fn is_not_received<T: Serialize + DeserializeOwned + Debug>(value: &T) {
    let (one, other) = pipe().unwrap();
    one.send_value(value).unwrap();
    let error = other.recv_value::<T>(100).unwrap_err();
    assert!(matches!(error, ValueError::Decode { .. }));
    let what = format!("{error}");
    assert!(what.contains("its type asks the bytes what they are"), "{what}");
    assert!(what.contains("serde_json::Value") && what.contains("untagged"), "{what}");
}

fn is_not_sent(value: &impl Serialize, why: &str) {
    let (one, other) = pipe().unwrap();
    let error = one.send_value(value).unwrap_err();
    assert!(
        matches!(error, ValueError::Encode { .. }) && format!("{error}").contains(why),
        "{error}"
    );
    assert!(matches!(other.try_recv(), Err(ConnectionError::WouldBlock)), "nothing was sent");
}

fn arrives<T: Serialize + DeserializeOwned + Debug + PartialEq>(value: T) {
    let (one, other) = pipe().unwrap();
    one.send_value(&value).unwrap();
    assert_eq!(other.recv_value::<T>(1_000).unwrap(), value);
}

#[test]
fn a_type_that_asks_the_bytes_is_refused_with_the_reason() {
    is_not_received(&serde_json::json!({ "a": [1, "b"] }));
    is_not_received(&Untagged::Text("text".into()));
    is_not_received(&Tagged::Some { number: 1 });
    is_not_received(&Adjacent::None);
    is_not_received(&Adjacent::Number(1));
    is_not_received(&Adjacent::Fields { number: 1 });
    is_not_sent(&Flat { inner: Inner { number: 1 } }, "`#[serde(flatten)]`");
    is_not_sent(&Skipping::default(), "its field `left_out` is left out (`skip_serializing_if`)");
    let (one, other) = pipe().unwrap();
    one.send(&[1, 1, 65, 1]).unwrap();
    let error = other.recv_value::<Flat>(10).unwrap_err();
    assert!(format!("{error}").contains("`#[serde(flatten)]`"), "{error}");
}

#[test]
fn a_sequence_that_is_not_as_long_as_it_says_is_not_sent() {
    struct Lying(Option<usize>);
    impl Serialize for Lying {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeSeq;
            let mut sequence = serializer.serialize_seq(self.0)?;
            sequence.serialize_element(&1_u8)?;
            sequence.end()
        }
    }
    is_not_sent(&Lying(Some(2)), "it says that it has 2 elements, and has 1");
    is_not_sent(&Lying(Some(0)), "it says that it has 0 elements, and has 1");
    is_not_sent(&Lying(None), "unknown length");
}

#[test]
fn a_value_of_each_shape_arrives() {
    arrives(Skipping { left_out: Some(1), never: 0, number: 3 });
    arrives((true, 'ä', "text".to_owned(), (), [1_i8, -1], (1_u16, -1_i16), (1_u32, -1_i32)));
    arrives((u64::MAX, i64::MIN, u128::MAX, i128::MIN, 1.5_f32, -2.5_f64));
    arrives((Some(Some(1_u8)), None::<u8>, Ok::<u8, String>(1), Err::<u8, _>("no".to_owned())));
    arrives(HashMap::from([("one".to_owned(), vec![1_u8]), (String::new(), vec![])]));
    arrives((
        std::time::Duration::from_millis(1_500),
        std::net::Ipv4Addr::LOCALHOST,
        std::path::PathBuf::from("/tmp"),
    ));
    arrives((
        std::ffi::CString::new("bytes").unwrap(),
        std::num::NonZero::new(7_u64).unwrap(),
        1..2_u8,
    ));
}
