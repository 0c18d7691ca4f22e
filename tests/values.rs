//! Values of any type, over connections and through queues of bytes.

use std::collections::BTreeMap;
use std::io;

use crossproc::{ByteQueue, ConnectionError, Event, JoinableByteQueue, QueueError, Shm, ValueError, pipe, simplex};
use proptest::prelude::*;
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
        (prop::collection::vec(".{0,20}", 0..20), any::<Option<u64>>()).prop_map(|(paths, limit)| Order::Count { paths, limit }),
        prop::collection::btree_map(".{0,8}", -1e9..1e9, 0..20).prop_map(Order::Weights),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

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
    fn bytes_that_are_no_value_are_an_error_that_keeps_them(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
        let (sender, receiver) = simplex().unwrap();
        sender.send(&bytes).unwrap();
        match receiver.recv_value::<Order>(200) {
            // Some bytes are a value. They are all of it then, which bytes left over are not.
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
        Err(ValueError::Transport(ConnectionError::TooShort { max: 1_001, message })) => assert_eq!(message.len(), 1_002),
        result => panic!("{result:?}"),
    }
    one.send_value(&vec![7_u8; 1_000]).unwrap();
    assert_eq!(other.recv_value::<Vec<u8>>(1_002).unwrap(), [7; 1_000]);
    // A length that the bytes do not have makes nobody allocate that much.
    one.send(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1]).unwrap();
    assert!(matches!(other.recv_value::<Vec<u8>>(100), Err(ValueError::Decode { .. })));
    one.send_value(&1_u8).unwrap();
    one.send(&[1, 2]).unwrap();
    assert_eq!(other.recv_value::<u8>(10).unwrap(), 1);
    let error = other.recv_value::<u8>(10).unwrap_err();
    assert!(format!("{error}").contains("with 1 of them left over"), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidData);
    let queue = ByteQueue::with_max_len(2, 10).unwrap();
    assert!(matches!(queue.put_value(&[0_u64; 30]), Err(ValueError::Transport(QueueError::TooLong { len: 30, max: 10 }))));
    queue.put_value(&[0_u64; 10]).unwrap();
    assert!(matches!(queue.get_value::<u8>(), Err(ValueError::Decode { bytes, .. }) if bytes == [0; 10]));
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
    assert!(matches!(other.try_recv_value::<u8>(10), Err(ValueError::Transport(ConnectionError::WouldBlock))));
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
