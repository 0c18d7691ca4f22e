//! `attach` refuses a queue whose stored item size differs from that of the type, also where an
//! item is one byte long.

use std::os::fd::{AsFd, OwnedFd};

use crossproc::{ByteQueue, JoinableByteQueue, JoinableQueue, Queue, QueueOptions, RegionError};

mod spoiled;
use spoiled::{SHAPE_SIZE, Sizes, Spoiler};

const SIZES: Sizes = Sizes { entries: 500, ids: 2, places: 2 };

fn options() -> QueueOptions {
    QueueOptions::new().participants(SIZES.ids).loans(SIZES.places - 1)
}

fn copy_of(queue: &impl AsFd) -> OwnedFd {
    queue.as_fd().try_clone_to_owned().unwrap()
}

/// Writes wrong sizes into a queue, and attaches to it.
fn attach_with_wrong_sizes<Q: AsFd>(
    queue: &Q,
    right: u64,
    attach: impl Fn(OwnedFd) -> Result<Q, RegionError>,
) {
    let spoiler = Spoiler::new(queue, SIZES);
    assert_eq!(spoiler.read(SHAPE_SIZE), right);
    for wrong in (0..10).filter(|&size| size != right) {
        spoiler.write(SHAPE_SIZE, wrong);
        let attached = attach(copy_of(queue));
        let is_refused = matches!(&attached, Err(RegionError::UnsuitableQueue { .. }));
        assert!(is_refused, "a queue of items of {right} bytes is attached as one of {wrong}");
    }
    spoiler.write(SHAPE_SIZE, right);
    attach(copy_of(queue)).unwrap();
}

#[test]
fn a_queue_of_bytes_with_items_of_another_size_is_not_attached() {
    attach_with_wrong_sizes(&options().create::<u8>(500).unwrap(), 1, Queue::<u8>::attach);
    attach_with_wrong_sizes(&options().create::<i8>(500).unwrap(), 1, Queue::<i8>::attach);
    attach_with_wrong_sizes(
        &options().create::<[u8; 1]>(500).unwrap(),
        1,
        Queue::<[u8; 1]>::attach,
    );
}

#[test]
fn a_joinable_queue_of_bytes_with_items_of_another_size_is_not_attached() {
    attach_with_wrong_sizes(
        &options().create_joinable::<u8>(500).unwrap(),
        1,
        JoinableQueue::<u8>::attach,
    );
}

#[test]
fn a_queue_of_longer_items_with_another_size_is_not_attached() {
    attach_with_wrong_sizes(
        &options().create::<[u8; 5]>(500).unwrap(),
        5,
        Queue::<[u8; 5]>::attach,
    );
}

/// Only the creator says how long messages may be.
#[test]
fn a_queue_of_messages_is_attached_whatever_their_length() {
    for max_len in [0, 1, 2, 100] {
        let queue = options().create_bytes(500, max_len).unwrap();
        assert_eq!(ByteQueue::attach(copy_of(&queue)).unwrap().max_len(), max_len);
        let queue = options().create_joinable_bytes(500, max_len).unwrap();
        assert_eq!(JoinableByteQueue::attach(copy_of(&queue)).unwrap().max_len(), max_len);
    }
}

#[test]
fn a_number_that_cannot_be_is_named_as_it_was_given() {
    let most = usize::MAX;
    let sum = (most as u128) + 1_024 * 4;
    let new = QueueOptions::new;
    let cases: [(Result<(), RegionError>, String); 8] = [
        (new().create::<u64>(most).map(drop), format!("1 to 1048576 items, not {most}")),
        (new().create::<u64>(0).map(drop), "1 to 1048576 items, not 0".to_owned()),
        (new().loans(most).create::<u64>(1).map(drop), format!("1 to 63 loans, not {most}")),
        (
            new().participants(most).create::<u64>(1).map(drop),
            format!("come to {} slots", 1 + most as u128 * 4),
        ),
        (
            new().attempts(None, most).create_joinable::<u64>(1).map(drop),
            format!("come to {} slots", 1 + sum),
        ),
        (new().create_bytes(1, most).map(drop), format!("4294967295 bytes at most, not {most}")),
        (
            new().create_joinable_bytes(1, 1 << 32).map(drop),
            "4294967295 bytes at most, not 4294967296".to_owned(),
        ),
        (new().participants(0).create::<u64>(1).map(drop), "one participant at least".to_owned()),
    ];
    for (result, words) in cases {
        let error = result.unwrap_err();
        assert!(matches!(&error, RegionError::UnsuitableQueue { .. }), "{error:?}");
        assert!(error.to_string().contains(&words), "{error} and not {words}");
    }
}
