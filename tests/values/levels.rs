//! Values with many levels: what is received or sent overflows no stack.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::thread;

use crossproc::values::CodecError;
use crossproc::{ByteQueue, ConnectionError, JoinableByteQueue, QueueError, ValueError, pipe};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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
        ValueError::Codec(CodecError::TooDeep { max: 128, bytes: kept, .. }) => kept == bytes,
        _ => false,
    };
    with_usual_stack(|| {
        let (one, other) = pipe().unwrap();
        one.send(&bytes).unwrap();
        match other.recv_value::<T>(1 << 20).unwrap_err() {
            ValueError::Codec(CodecError::TooDeep { max: 128, bytes: kept, .. }) => {
                assert_eq!(kept, bytes);
            }
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
            let ValueError::Codec(CodecError::TooDeep { max: 128, bytes, .. }) = &error else {
                panic!("{error}")
            };
            assert!(bytes.is_empty());
            assert!(format!("{error}").contains("more than 128 levels"), "{error}");
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
            assert!(matches!(
                queue.put_value(&too_deep),
                Err(ValueError::Codec(CodecError::TooDeep { .. }))
            ));
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
        assert!(matches!(
            one.send_value(&too_long),
            Err(ValueError::Codec(CodecError::TooDeep { .. }))
        ));
        let fields = (0..128)
            .fold(Fields::End, |next, number| Fields::More { number, next: Box::new(next) });
        assert!(matches!(
            one.send_value(&fields),
            Err(ValueError::Codec(CodecError::TooDeep { .. }))
        ));
        let tuples =
            (0..128).fold(Tuples::End, |next, number| Tuples::More(number, Box::new(next)));
        assert!(matches!(
            one.send_value(&tuples),
            Err(ValueError::Codec(CodecError::TooDeep { .. }))
        ));
        let maps = (0..64).fold(Map(BTreeMap::new()), |map, key| Map(BTreeMap::from([(key, map)])));
        assert!(matches!(
            one.send_value(&maps),
            Err(ValueError::Codec(CodecError::TooDeep { .. }))
        ));
    });
}
