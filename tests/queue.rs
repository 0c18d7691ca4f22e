//! `Queue` and `ByteQueue` in one process and between processes.

mod forked;

use crossproc::{ByteQueue, Queue, QueueError, QueueOptions};

use forked::{fork, join_all};

#[test]
fn items_come_out_in_order_and_as_many_as_fit() {
    for capacity in [1, 2, 3, 5, 64, 1000] {
        let queue: Queue<u64> = Queue::<u64>::new(capacity).unwrap();
        for round in 0..5_u64 {
            for index in 0..capacity as u64 {
                queue.try_put(round * 1000 + index).unwrap();
            }
            assert!(queue.is_full());
            let refused = queue.try_put(7).unwrap_err();
            assert!(matches!(refused.error, QueueError::Full));
            assert_eq!(refused.value, 7);
            for index in 0..capacity as u64 {
                assert_eq!(queue.try_get().unwrap(), round * 1000 + index);
            }
            assert!(matches!(queue.try_get(), Err(QueueError::Empty)));
            assert!(queue.is_empty());
        }
    }
}

#[test]
fn four_producers_and_four_consumers_lose_nothing() {
    const EACH: u64 = 50_000;
    let queue = Queue::<u64>::new(16).unwrap();
    let sums = Queue::<u64>::new(16).unwrap();
    let producers: Vec<_> = (0..4)
        .map(|producer| {
            let queue = queue.clone();
            fork(move || -> Result<(), QueueError> {
                for index in 0..EACH {
                    queue.put(producer << 32 | index)?;
                }
                Ok(())
            })
        })
        .collect();
    let consumers: Vec<_> = (0..4)
        .map(|_| {
            let (queue, sums) = (queue.clone(), sums.clone());
            fork(move || -> Result<(), QueueError> {
                let mut last = [None; 4];
                let mut sum = 0;
                loop {
                    match queue.get() {
                        Ok(item) => {
                            let producer = (item >> 32) as usize;
                            assert!(last[producer] < Some(item), "out of order");
                            last[producer] = Some(item);
                            sum += item & 0xffff_ffff;
                        }
                        Err(QueueError::Closed) => break,
                        Err(error) => return Err(error),
                    }
                }
                sums.put(sum)?;
                Ok(())
            })
        })
        .collect();
    join_all(producers);
    queue.close().unwrap();
    join_all(consumers);
    let total: u64 = (0..4).map(|_| sums.try_get().unwrap()).sum();
    assert_eq!(total, 4 * (EACH * (EACH - 1) / 2));
}

#[test]
fn messages_of_any_length_come_through() {
    let queue = ByteQueue::new(3, 100).unwrap();
    for len in 0..=100 {
        let message: Vec<u8> = (0..len).collect();
        queue.put(&message).unwrap();
        assert_eq!(queue.get().unwrap(), message);
        let mut loan = queue.loan(len.into()).unwrap();
        loan.copy_from_slice(&message);
        loan.send().unwrap();
        assert_eq!(*queue.receive().unwrap(), message[..]);
    }
    assert!(matches!(queue.put(&[0; 101]), Err(QueueError::TooLong { len: 101, max: 100 })));
}

#[test]
fn loans_are_limited_and_come_back() {
    let queue: Queue<u64> = QueueOptions::new().loans(2).create(4).unwrap();
    let first = queue.loan().unwrap();
    let mut second = queue.loan().unwrap();
    assert!(matches!(queue.loan(), Err(QueueError::TooManyLoans { limit: 2 })));
    *second = 5;
    second.send().unwrap();
    assert_eq!(*queue.receive().unwrap(), 5);
    drop(first);
    queue.put(6).unwrap();
    assert_eq!(queue.get().unwrap(), 6);
}
