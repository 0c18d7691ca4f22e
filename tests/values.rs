//! Values of any type, over connections and through queues of bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::io;
use std::thread;

use crossproc::{
    ByteQueue, ConnectionError, Event, JoinableByteQueue, QueueError, Shm, ValueError, pipe,
    simplex,
};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Order {
    Stop,
    Count { paths: Vec<String>, limit: Option<u64> },
    Weights(BTreeMap<String, f64>),
}

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::Stop),
        (prop::collection::vec(".{0,20}", 0..20), any::<Option<u64>>())
            .prop_map(|(paths, limit)| Order::Count { paths, limit }),
        prop::collection::btree_map(".{0,8}", -1e9..1e9, 0..20).prop_map(Order::Weights),
    ]
}

type Numbers = (i64, u128, f32, char, Option<i16>);

fn config() -> ProptestConfig {
    ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_value_arrives_as_it_was(order in orders()) {
        let (one, other) = pipe().unwrap();
        one.send_value(&order).unwrap();
        prop_assert_eq!(&other.recv_value::<Order>(1 << 20).unwrap(), &order);
        let queue = ByteQueue::with_max_len(2, 1 << 16).unwrap();
        queue.put_value(&order).unwrap();
        queue.put_value(&order).unwrap();
        prop_assert_eq!(&queue.get_value::<Order>().unwrap(), &order);
        prop_assert_eq!(&queue.receive().unwrap().value::<Order>().unwrap(), &order);
        let tasks = JoinableByteQueue::with_max_len(2, 1 << 16).unwrap();
        tasks.put_value(&order).unwrap();
        let task = tasks.get().unwrap();
        prop_assert_eq!(&task.value::<Order>().unwrap(), &order);
        task.done();
    }

    #[test]
    fn bytes_that_are_no_value_are_an_error_that_keeps_them(
        bytes in prop::collection::vec(any::<u8>(), 1..200)
    ) {
        let (sender, receiver) = simplex().unwrap();
        sender.send(&bytes).unwrap();
        match receiver.recv_value::<Order>(200) {
            // Some bytes are a valid value. Then they are all of it, as left-over bytes would be an
            // error.
            Ok(order) => {
                sender.send_value(&order).unwrap();
                prop_assert_eq!(receiver.recv_value::<Order>(200).unwrap(), order);
            }
            Err(ValueError::Decode { bytes: kept, .. }) => prop_assert_eq!(kept, bytes),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_limit_is_kept_and_nothing_lost() {
    let (one, other) = pipe().unwrap();
    one.send_value(&vec![7_u8; 1_000]).unwrap();
    match other.recv_value::<Vec<u8>>(1_001) {
        Err(ValueError::Transport(ConnectionError::TooShort { max: 1_001, message })) => {
            assert_eq!(message.len(), 1_002);
        }
        result => panic!("{result:?}"),
    }
    one.send_value(&vec![7_u8; 1_000]).unwrap();
    assert_eq!(other.recv_value::<Vec<u8>>(1_002).unwrap(), [7; 1_000]);
    // A length that exceeds the bytes causes no allocation of that size.
    one.send(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1]).unwrap();
    assert!(matches!(other.recv_value::<Vec<u8>>(100), Err(ValueError::Decode { .. })));
    one.send_value(&1_u8).unwrap();
    one.send(&[1, 2]).unwrap();
    assert_eq!(other.recv_value::<u8>(10).unwrap(), 1);
    let error = other.recv_value::<u8>(10).unwrap_err();
    assert!(format!("{error}").contains("with 1 of them left over"), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidData);
    let queue = ByteQueue::with_max_len(2, 10).unwrap();
    assert!(matches!(
        queue.put_value(&[0_u64; 30]),
        Err(ValueError::Transport(QueueError::TooLong { len: 30, max: 10 }))
    ));
    queue.put_value(&[0_u64; 10]).unwrap();
    assert!(
        matches!(queue.get_value::<u8>(), Err(ValueError::Decode { bytes, .. }) if bytes == [0; 10])
    );
}

#[test]
fn a_handle_is_no_value() {
    let (one, other) = pipe().unwrap();
    one.send_both(&[1], &Shm::new(Event::new()).unwrap()).unwrap();
    match other.recv_value::<u8>(10) {
        Err(ValueError::Transport(ConnectionError::UnexpectedHandle { mut message })) => {
            message.take_handle::<Shm<Event>>().unwrap();
        }
        result => panic!("{result:?}"),
    }
    assert!(matches!(
        other.try_recv_value::<u8>(10),
        Err(ValueError::Transport(ConnectionError::WouldBlock))
    ));
}

#[test]
fn a_value_that_refuses_is_an_error() {
    struct Sullen;
    impl Serialize for Sullen {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no"))
        }
    }
    let (one, other) = pipe().unwrap();
    assert!(matches!(one.send_value(&Sullen), Err(ValueError::Encode { .. })));
    assert!(matches!(other.try_recv(), Err(ConnectionError::WouldBlock)), "nothing was sent");
    let queue = ByteQueue::with_max_len(1, 8).unwrap();
    queue.put_value(&1_u8).unwrap();
    assert!(matches!(queue.try_put_value(&1_u8), Err(ValueError::Transport(QueueError::Full))));
}

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

#[test]
fn bytes_that_no_type_describes_or_that_no_option_begins_with_are_an_error() {
    let (one, other) = pipe().unwrap();
    let says = |error: ValueError<ConnectionError>, words: &str| {
        let text = error.to_string();
        assert!(
            matches!(error, ValueError::Decode { .. }) && text.contains(words),
            "{text:?} and not {words:?}"
        );
    };
    one.send(&[2, 7]).unwrap();
    says(
        other.recv_value::<Option<u8>>(100).unwrap_err(),
        "an option begins with 0 or 1, not with 2",
    );
    one.send(&[2, 7]).unwrap();
    says(
        other.recv_value::<serde::de::IgnoredAny>(100).unwrap_err(),
        "asks the bytes what they are",
    );
}

#[test]
fn an_error_of_a_value_becomes_one_of_io() {
    let kind = |error: ValueError<QueueError>| io::Error::from(error).kind();
    let what = || "it is odd".to_owned();
    assert_eq!(kind(ValueError::Transport(QueueError::TimedOut)), io::ErrorKind::TimedOut);
    assert_eq!(
        kind(ValueError::Encode { type_name: "T", what: what() }),
        io::ErrorKind::InvalidInput
    );
    // One error about what was to be sent, and one about what came.
    assert_eq!(
        kind(ValueError::TooDeep { type_name: "T", max: 1, bytes: vec![] }),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(ValueError::TooDeep { type_name: "T", max: 1, bytes: vec![1] }),
        io::ErrorKind::InvalidData
    );
    let error = io::Error::from(ValueError::<QueueError>::Decode {
        type_name: "T",
        what: what(),
        bytes: vec![1],
    });
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(error.to_string(), "1 bytes came that are no value of type T: it is odd");
}

/// Runs `run` on a thread with the stack size that std uses by default.
fn with_usual_stack<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        thread::Builder::new().stack_size(2 << 20).spawn_scoped(scope, run).unwrap().join().unwrap()
    })
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Node(Box<Tree>),
}

/// Returns a tree with this many levels, one enum each.
fn tree(levels: usize) -> Tree {
    (1..levels).fold(Tree::Leaf, |tree, _| Tree::Node(Box::new(tree)))
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Newtype(Option<Box<Newtype>>);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct List {
    number: u8,
    next: Option<Box<List>>,
}
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Pair(u8, Vec<Pair>);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sequence(Vec<Sequence>);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Map(BTreeMap<u8, Map>);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Fields {
    End,
    More { number: u8, next: Box<Fields> },
}
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Tuples {
    End,
    More(u8, Box<Tuples>),
}
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Arrays {
    End,
    More([Box<Arrays>; 1]),
}
/// One level takes far more of the stack than it sends.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Wide {
    #[serde(skip)]
    numbers: [u64; 32],
    text: String,
    next: Vec<Wide>,
    other: BTreeMap<String, Wide>,
}

/// Asserts that bytes with more levels than any stack has room for are an error, in each way to
/// receive them.
fn is_refused<T: DeserializeOwned + Debug + Send>(level: &[u8]) {
    let bytes = level.repeat(100_000);
    let is_too_deep = |error: ValueError<QueueError>| match error {
        ValueError::TooDeep { max: 128, bytes: kept, .. } => kept == bytes,
        _ => false,
    };
    with_usual_stack(|| {
        let (one, other) = pipe().unwrap();
        one.send(&bytes).unwrap();
        match other.recv_value::<T>(1 << 20).unwrap_err() {
            ValueError::TooDeep { max: 128, bytes: kept, .. } => assert_eq!(kept, bytes),
            error => panic!("{error}"),
        }
        let queue = ByteQueue::with_max_len(2, bytes.len()).unwrap();
        queue.put(&bytes).unwrap();
        queue.put(&bytes).unwrap();
        assert!(is_too_deep(queue.get_value::<T>().unwrap_err()));
        assert!(is_too_deep(queue.receive().unwrap().value::<T>().unwrap_err()));
        let tasks = JoinableByteQueue::with_max_len(1, bytes.len()).unwrap();
        tasks.put(&bytes).unwrap();
        let task = tasks.get().unwrap();
        assert!(is_too_deep(task.value::<T>().unwrap_err()));
        task.done();
    });
}

#[test]
fn bytes_of_too_many_levels_overflow_no_stack() {
    is_refused::<Tree>(&[1]);
    is_refused::<Newtype>(&[1]);
    is_refused::<List>(&[7, 1]);
    is_refused::<Pair>(&[7, 1]);
    is_refused::<Sequence>(&[1]);
    is_refused::<Map>(&[1, 7]);
    is_refused::<Fields>(&[1, 7]);
    is_refused::<Tuples>(&[1, 7]);
    is_refused::<Arrays>(&[1]);
    is_refused::<Wide>(&[0, 1]);
    // Through the values of a map: no elements, one entry, an empty name.
    is_refused::<Wide>(&[0, 0, 1, 0]);
}

#[test]
fn as_many_levels_as_are_allowed_arrive() {
    with_usual_stack(|| {
        let (one, other) = pipe().unwrap();
        let deepest = tree(128);
        one.send_value(&deepest).unwrap();
        assert_eq!(other.recv_value::<Tree>(1 << 10).unwrap(), deepest);
        // Levels that lie side by side do not add up.
        let wide = Sequence((0..1_000).map(|_| Sequence(vec![])).collect());
        one.send_value(&wide).unwrap();
        assert_eq!(other.recv_value::<Sequence>(1 << 20).unwrap(), wide);
        let list = (1..64).fold(List { number: 0, next: None }, |list, number| List {
            number,
            next: Some(Box::new(list)),
        });
        one.send_value(&list).unwrap();
        assert_eq!(other.recv_value::<List>(1 << 10).unwrap(), list);
    });
}

/// A value that the other end would refuse is not sent.
#[test]
fn a_value_of_too_many_levels_is_not_sent() {
    with_usual_stack(|| {
        let (one, other) = pipe().unwrap();
        let queue = ByteQueue::with_max_len(1, 1 << 20).unwrap();
        for levels in [129, 100_000] {
            let mut too_deep = tree(levels);
            let error = one.send_value(&too_deep).unwrap_err();
            assert!(
                matches!(&error, ValueError::TooDeep { max: 128, bytes, .. } if bytes.is_empty()),
                "{error}"
            );
            assert!(format!("{error}").contains("more than 128 levels"), "{error}");
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
            assert!(matches!(queue.put_value(&too_deep), Err(ValueError::TooDeep { .. })));
            // A drop of the whole value would itself overflow the stack.
            while let Tree::Node(inner) = too_deep {
                too_deep = *inner;
            }
        }
        assert!(matches!(other.try_recv(), Err(ConnectionError::WouldBlock)), "nothing was sent");
        let too_long = (0..64).fold(List { number: 0, next: None }, |list, number| List {
            number,
            next: Some(Box::new(list)),
        });
        assert!(matches!(one.send_value(&too_long), Err(ValueError::TooDeep { .. })));
        let fields = (0..128)
            .fold(Fields::End, |next, number| Fields::More { number, next: Box::new(next) });
        assert!(matches!(one.send_value(&fields), Err(ValueError::TooDeep { .. })));
        let tuples =
            (0..128).fold(Tuples::End, |next, number| Tuples::More(number, Box::new(next)));
        assert!(matches!(one.send_value(&tuples), Err(ValueError::TooDeep { .. })));
        let maps = (0..64).fold(Map(BTreeMap::new()), |map, key| Map(BTreeMap::from([(key, map)])));
        assert!(matches!(one.send_value(&maps), Err(ValueError::TooDeep { .. })));
    });
}

/// A peer's ten bytes neither keep a receiver busy for ever, nor make it allocate for each element.
#[test]
fn elements_that_take_no_bytes_are_counted() {
    #[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
    struct Nothing {
        #[serde(skip)]
        numbers: [u64; 32],
    }
    const MOST: usize = 1 << 16;
    let (one, other) = pipe().unwrap();
    for endless in [&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f][..], &[0x81, 0x80, 4]] {
        one.send(endless).unwrap();
        let error = other.recv_value::<Vec<()>>(100).unwrap_err();
        assert!(
            format!("{error}").contains("more than 65536 of its elements take no bytes"),
            "{error}"
        );
        one.send(endless).unwrap();
        assert!(matches!(
            other.recv_value::<Vec<Nothing>>(100),
            Err(ValueError::Decode { bytes, .. })
                if bytes == endless
        ));
        one.send(endless).unwrap();
        assert!(matches!(
            other.recv_value::<HashMap<(),
            ()>>(100), Err(ValueError::Decode { bytes, .. })
                if bytes == endless
        ));
    }
    one.send_value(&vec![(); MOST]).unwrap();
    assert_eq!(other.recv_value::<Vec<()>>(10).unwrap().len(), MOST);
    // The limit counts the elements of a value, not of a sequence.
    one.send_value(&(vec![(); MOST - 1], vec![Nothing::default()])).unwrap();
    assert_eq!(other.recv_value::<(Vec<()>, Vec<Nothing>)>(10).unwrap().0.len(), MOST - 1);
    assert!(matches!(one.send_value(&vec![(); MOST + 1]), Err(ValueError::Encode { .. })));
    assert!(matches!(
        one.send_value(&(vec![(); MOST], [vec![()]])),
        Err(ValueError::Encode { .. })
    ));
    assert!(matches!(other.try_recv(), Err(ConnectionError::WouldBlock)), "nothing was sent");
    // Elements that take bytes are limited by the number of bytes alone.
    one.send_value(&vec![0_u8; 10 * MOST]).unwrap();
    assert_eq!(other.recv_value::<Vec<u8>>(11 * MOST).unwrap().len(), 10 * MOST);
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

proptest! {
    #![proptest_config(config())]

    /// The bytes are those of postcard, in both directions.
    #[test]
    fn the_bytes_are_those_of_postcard(order in orders(), numbers in any::<Numbers>()) {
        let value = (order, numbers);
        let (one, other) = pipe().unwrap();
        one.send_value(&value).unwrap();
        let bytes = other.recv().unwrap();
        let as_postcard: (Order, Numbers) = postcard::from_bytes(&bytes).unwrap();
        prop_assert_eq!(postcard::to_stdvec(&as_postcard).unwrap(), bytes.to_vec());
        one.send(&bytes).unwrap();
        let received: (Order, Numbers) = other.recv_value(1 << 20).unwrap();
        prop_assert_eq!(received, value);
    }
}
