//! Values of any type, over connections and through queues of bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::io;

use crossproc::values::CodecError;
use crossproc::{
    ByteQueue, ConnectionError, Event, JoinableByteQueue, QueueError, Shm, ValueError, pipe,
    simplex,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

mod levels;
mod types;

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
            Err(ValueError::Codec(CodecError::Decode { bytes: kept, .. })) => {
                prop_assert_eq!(kept, bytes);
            }
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
    assert!(matches!(
        other.recv_value::<Vec<u8>>(100),
        Err(ValueError::Codec(CodecError::Decode { .. }))
    ));
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
    assert!(matches!(
        queue.get_value::<u8>(),
        Err(ValueError::Codec(CodecError::Decode { bytes, .. })) if bytes == [0; 10]
    ));
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
    assert!(matches!(one.send_value(&Sullen), Err(ValueError::Codec(CodecError::Encode { .. }))));
    assert!(matches!(other.try_recv(), Err(ConnectionError::WouldBlock)), "nothing was sent");
    let queue = ByteQueue::with_max_len(1, 8).unwrap();
    queue.put_value(&1_u8).unwrap();
    assert!(matches!(queue.try_put_value(&1_u8), Err(ValueError::Transport(QueueError::Full))));
}

#[test]
fn bytes_that_no_type_describes_or_that_no_option_begins_with_are_an_error() {
    let (one, other) = pipe().unwrap();
    let says = |error: ValueError<ConnectionError>, words: &str| {
        let text = error.to_string();
        assert!(
            matches!(error, ValueError::Codec(CodecError::Decode { .. })) && text.contains(words),
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
        kind(ValueError::Codec(CodecError::Encode { type_name: "T", what: what() })),
        io::ErrorKind::InvalidInput
    );
    // One error about what was to be sent, and one about what came.
    assert_eq!(
        kind(ValueError::Codec(CodecError::TooDeep { type_name: "T", max: 1, bytes: vec![] })),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(ValueError::Codec(CodecError::TooDeep { type_name: "T", max: 1, bytes: vec![1] })),
        io::ErrorKind::InvalidData
    );
    let error =
        io::Error::from(CodecError::Decode { type_name: "T", what: what(), bytes: vec![1] });
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(error.to_string(), "1 bytes came that are no value of type T: it is odd");
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
            Err(ValueError::Codec(CodecError::Decode { bytes, .. }))
                if bytes == endless
        ));
        one.send(endless).unwrap();
        assert!(matches!(
            other.recv_value::<HashMap<(),
            ()>>(100), Err(ValueError::Codec(CodecError::Decode { bytes, .. }))
                if bytes == endless
        ));
    }
    one.send_value(&vec![(); MOST]).unwrap();
    assert_eq!(other.recv_value::<Vec<()>>(10).unwrap().len(), MOST);
    // The limit counts the elements of a value, not of a sequence.
    one.send_value(&(vec![(); MOST - 1], vec![Nothing::default()])).unwrap();
    assert_eq!(other.recv_value::<(Vec<()>, Vec<Nothing>)>(10).unwrap().0.len(), MOST - 1);
    assert!(matches!(
        one.send_value(&vec![(); MOST + 1]),
        Err(ValueError::Codec(CodecError::Encode { .. }))
    ));
    assert!(matches!(
        one.send_value(&(vec![(); MOST], [vec![()]])),
        Err(ValueError::Codec(CodecError::Encode { .. }))
    ));
    assert!(matches!(other.try_recv(), Err(ConnectionError::WouldBlock)), "nothing was sent");
    // Elements that take bytes are limited by the number of bytes alone.
    one.send_value(&vec![0_u8; 10 * MOST]).unwrap();
    assert_eq!(other.recv_value::<Vec<u8>>(11 * MOST).unwrap().len(), 10 * MOST);
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
