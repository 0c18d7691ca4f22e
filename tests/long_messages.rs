//! Messages that do not fit into a slot: how they wait for memory, and where the memory goes.
//!
//! `LONG_SECONDS` sets how long the processes of the last test are killed; it is 2 if it is not
//! set.

use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{
    ByteQueue, JoinableByteQueue, QueueError, QueueOptions, RegionError, Shm, wait_any,
    wait_any_timeout,
};
use crossproc_sys::memory;

mod forked;
use forked::{fork, join_all, kill, wait_until, wait_until_asleep};

const PAGE: usize = 4_096;
const MIB: usize = 1 << 20;
const SHORT: Duration = Duration::from_millis(5);

/// Returns a queue for messages of up to `longest` bytes, which have `total` bytes altogether.
fn queue(longest: usize, total: usize) -> ByteQueue {
    QueueOptions::new()
        .participants(16)
        .long_messages(longest, total)
        .create_bytes(64, 100)
        .unwrap()
}

fn tasks(longest: usize, total: usize) -> JoinableByteQueue {
    let options = QueueOptions::new().attempts(NonZeroU32::new(2), 4);
    options.long_messages(longest, total).create_joinable_bytes(8, 100).unwrap()
}

/// Returns how much memory a queue has.
fn allocated(queue: &impl AsFd) -> u64 {
    memory::len_and_allocated(queue).unwrap().1
}

/// Returns a message that differs from others of its length.
fn message(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

#[test]
fn messages_of_all_lengths_come_in_order_in_every_way() {
    let queue = queue(MIB, 4 * MIB);
    assert_eq!(queue.max_len(), MIB);
    for len in [0, 1, 100, 101, PAGE, PAGE + 1, 9 * PAGE, 100_000, MIB - 1, MIB] {
        let message = message(len, len as u64);
        queue.put(&message).unwrap();
        queue.try_put(b"short").unwrap();
        let mut loan = queue.loan(len).unwrap();
        loan.copy_from_slice(&message);
        loan.send().unwrap();
        assert!(queue.get().unwrap() == message);
        assert_eq!(queue.get().unwrap(), b"short");
        assert!(*queue.receive().unwrap() == *message);
    }
    let refused = queue.put(&vec![0; MIB + 1]);
    assert!(matches!(refused, Err(QueueError::TooLong { len, max: MIB }) if len == MIB + 1));
    assert!(matches!(queue.loan(MIB + 1), Err(QueueError::TooLong { .. })));
}

/// There are few slots: each has had a long message before it gets a short one.
#[test]
fn a_slot_has_long_and_short_messages_in_turn() {
    let options = QueueOptions::new().participants(1).loans(1).long_messages(PAGE, 4 * PAGE);
    let queue = options.create_bytes(1, 100).unwrap();
    for round in 0..20 {
        for len in [PAGE, 100, 0] {
            queue.put(&message(len, round)).unwrap();
            assert!(queue.get().unwrap() == message(len, round));
            queue.put(&message(len, round)).unwrap();
            assert!(*queue.receive().unwrap() == message(len, round));
        }
    }
}

#[test]
fn the_total_is_what_all_messages_can_have() {
    let queue = queue(4 * PAGE, 8 * PAGE);
    for round in 0..3 {
        // In messages of one page, of all of them, and in between.
        for lens in [vec![PAGE; 8], vec![4 * PAGE; 2], vec![PAGE, 4 * PAGE, 3 * PAGE]] {
            for len in &lens {
                queue.try_put(&message(*len, round)).unwrap();
            }
            assert!(matches!(queue.try_put(&[0; 101]), Err(QueueError::Full)), "{lens:?}");
            queue.try_put(&[0; 100]).unwrap();
            for len in &lens {
                assert!(queue.get().unwrap() == message(*len, round));
            }
            assert_eq!(queue.get().unwrap(), [0; 100]);
        }
    }
}

#[test]
fn a_trim_gives_the_memory_back() {
    let queue = queue(MIB, 4 * MIB);
    queue.put(&[]).unwrap();
    let before = allocated(&queue);
    for len in [MIB, 300_000, 5 * PAGE, MIB] {
        queue.put(&message(len, 1)).unwrap();
    }
    assert!(allocated(&queue) > before + 2 * MIB as u64);
    assert_eq!(queue.get().unwrap(), []);
    assert_eq!(queue.get().unwrap().len(), MIB);
    queue.trim().unwrap();
    let kept = allocated(&queue);
    assert!(kept < before + 2 * MIB as u64, "{kept}: the first message's is free");
    for len in [300_000, 5 * PAGE, MIB] {
        assert!(queue.get().unwrap() == message(len, 1), "trimming takes nothing that is in use");
    }
    queue.trim().unwrap();
    // A page of records is left.
    assert!(allocated(&queue) <= before + PAGE as u64);
}

#[test]
fn memory_that_is_kept_is_used_again() {
    let queue = queue(MIB, 4 * MIB);
    queue.put(&message(MIB, 1)).unwrap();
    queue.get().unwrap();
    let before = allocated(&queue);
    for _ in 0..100 {
        queue.put(&message(MIB, 2)).unwrap();
        queue.get().unwrap();
    }
    assert_eq!(allocated(&queue), before);
}

/// Each finds a block that keeps as much as it needs.
#[test]
fn short_and_long_ones_take_nothing_from_each_other() {
    let queue = queue(8 * PAGE, 16 * PAGE);
    queue.put(&[]).unwrap();
    queue.get().unwrap();
    let before = allocated(&queue);
    for _ in 0..3 {
        for len in [8 * PAGE, PAGE, 3 * PAGE] {
            queue.put(&message(len, 1)).unwrap();
            queue.get().unwrap();
        }
    }
    // And a page of records.
    assert_eq!(allocated(&queue), before + (8 + 1 + 3 + 1) as u64 * PAGE as u64);
}

#[test]
fn a_put_waits_for_memory_until_its_deadline() {
    let queue = queue(2 * PAGE, 2 * PAGE);
    queue.put(&message(2 * PAGE, 1)).unwrap();
    assert!(matches!(queue.try_put(&[0; PAGE]), Err(QueueError::Full)));
    assert!(matches!(queue.put_timeout(&[0; PAGE], SHORT), Err(QueueError::TimedOut)));
    assert!(matches!(queue.try_loan(PAGE), Err(QueueError::Full)));
    assert!(matches!(queue.loan_timeout(PAGE, SHORT), Err(QueueError::TimedOut)));
    let putter = fork({
        let queue = queue.clone();
        move || queue.put(&message(PAGE, 2)).unwrap()
    });
    wait_until_asleep(&putter);
    let received = queue.receive().unwrap();
    // Until the message is dropped, it has the memory.
    assert!(matches!(queue.try_put(&[0; PAGE]), Err(QueueError::Full)));
    drop(received);
    join_all([putter]);
    assert!(queue.get().unwrap() == message(PAGE, 2));
}

#[test]
fn a_close_ends_the_wait_for_memory() {
    let queue = queue(2 * PAGE, 2 * PAGE);
    queue.put(&message(2 * PAGE, 1)).unwrap();
    let putter = fork({
        let queue = queue.clone();
        move || assert!(matches!(queue.put(&[0; PAGE]), Err(QueueError::Closed)))
    });
    wait_until_asleep(&putter);
    queue.close().unwrap();
    join_all([putter]);
    // With or without memory, at once or not.
    assert!(matches!(queue.try_put(&[0; PAGE]), Err(QueueError::Closed)));
    assert!(matches!(queue.put_timeout(&[0; PAGE], SHORT), Err(QueueError::Closed)));
    assert_eq!(wait_any_timeout(&[&queue.room_for(PAGE)], SHORT).unwrap(), [0]);
    assert_eq!(queue.get().unwrap().len(), 2 * PAGE);
    assert!(matches!(queue.try_put(&[0; PAGE]), Err(QueueError::Closed)));
}

#[test]
fn the_memory_of_the_dead_is_free() {
    let queue = queue(2 * PAGE, 4 * PAGE);
    let has_it = Shm::new(AtomicU64::new(0)).unwrap();
    for is_loan in [true, false] {
        queue.put(&message(2 * PAGE, 1)).unwrap();
        has_it.store(0, SeqCst);
        let child = fork({
            let (queue, has_it) = (queue.clone(), has_it.clone());
            move || -> () {
                let _loan = is_loan.then(|| queue.loan(2 * PAGE).unwrap());
                let _received = (!is_loan).then(|| queue.receive().unwrap());
                has_it.store(1, SeqCst);
                loop {
                    std::thread::park();
                }
            }
        });
        wait_until("it has it", || has_it.load(SeqCst) == 1);
        if is_loan {
            // A sleeper notices the death, too.
            let waiter = fork({
                let queue = queue.clone();
                move || drop((queue.loan(2 * PAGE).unwrap(), queue.loan(PAGE).unwrap()))
            });
            wait_until_asleep(&waiter);
            kill(&child);
            queue.get().unwrap();
            join_all([waiter]);
        } else {
            kill(&child);
        }
        drop((queue.try_loan(2 * PAGE).unwrap(), queue.try_loan(2 * PAGE).unwrap()));
    }
}

#[test]
fn a_task_keeps_its_memory_until_it_is_done() {
    let tasks = tasks(2 * PAGE, 4 * PAGE);
    tasks.put(&message(2 * PAGE, 1)).unwrap();
    tasks.put(&message(2 * PAGE, 2)).unwrap();
    let full = || matches!(tasks.try_put(&[0; PAGE]), Err(QueueError::Full));
    let first = tasks.get().unwrap();
    assert!(*first == *message(2 * PAGE, 1) && full());
    drop(first);
    assert!(full(), "it comes back");
    let first = tasks.get().unwrap();
    assert!(*first == *message(2 * PAGE, 1) && first.attempts() == 2);
    drop(first);
    // It is a dead letter, which has memory.
    let second = tasks.get().unwrap();
    assert!(*second == *message(2 * PAGE, 2) && full());
    second.done();
    tasks.put(&message(PAGE, 3)).unwrap();
    let letter = tasks.dead_letter().unwrap();
    assert!(*letter == *message(2 * PAGE, 1));
    assert!(matches!(tasks.try_put(&[0; 2 * PAGE]), Err(QueueError::Full)));
    drop(letter);
    tasks.put(&message(2 * PAGE, 4)).unwrap();
    for (len, seed) in [(PAGE, 3), (2 * PAGE, 4)] {
        let task = tasks.get().unwrap();
        assert!(*task == *message(len, seed));
        task.done();
    }
    tasks.join().unwrap();
}

#[test]
fn a_dead_workers_long_task_comes_back() {
    let tasks = tasks(2 * PAGE, 2 * PAGE);
    tasks.put(&message(2 * PAGE, 1)).unwrap();
    let has_it = Shm::new(AtomicU64::new(0)).unwrap();
    let worker = fork({
        let (tasks, has_it) = (tasks.clone(), has_it.clone());
        move || -> () {
            let _task = tasks.get().unwrap();
            has_it.store(1, SeqCst);
            loop {
                std::thread::park();
            }
        }
    });
    wait_until("it has it", || has_it.load(SeqCst) == 1);
    kill(&worker);
    let task = tasks.get().unwrap();
    assert!(*task == *message(2 * PAGE, 1) && task.attempts() == 2);
    task.done();
    tasks.put(&message(2 * PAGE, 2)).unwrap();
}

#[test]
fn room_for_a_long_message_is_memory_too() {
    let queue = queue(2 * PAGE, 2 * PAGE);
    queue.put(&message(2 * PAGE, 1)).unwrap();
    assert_eq!(wait_any(&[&queue.room_for(PAGE), &queue.room()]).unwrap(), [1]);
    // One that is too long is refused whenever it is put.
    assert_eq!(wait_any(&[&queue.room_for(2 * PAGE + 1)]).unwrap(), [0]);
    let waiter = fork({
        let queue = queue.clone();
        move || assert_eq!(wait_any(&[&queue.room_for(2 * PAGE)]).unwrap(), [0])
    });
    wait_until_asleep(&waiter);
    queue.get().unwrap();
    join_all([waiter]);
    let received = queue.try_loan(PAGE).unwrap();
    assert!(wait_any_timeout(&[&queue.room_for(2 * PAGE)], SHORT).is_err());
    drop(received);
    assert_eq!(wait_any_timeout(&[&queue.room_for(2 * PAGE)], SHORT).unwrap(), [0]);
}

#[test]
fn a_refused_put_leaves_no_block_behind() {
    let options = QueueOptions::new().participants(4).long_messages(PAGE, 4 * PAGE);
    let queue: ByteQueue = options.create_bytes(1, 8).unwrap();
    queue.put(b"full").unwrap();
    for _ in 0..10 {
        assert!(matches!(queue.try_put(&[0; PAGE]), Err(QueueError::Full)));
        let loan = queue.loan(PAGE).unwrap();
        assert!(matches!(loan.try_send().unwrap_err().error, QueueError::Full));
    }
    queue.close().unwrap();
    for _ in 0..10 {
        assert!(matches!(queue.put(&[0; PAGE]), Err(QueueError::Closed)));
    }
    let loans: Vec<_> = (0..3).map(|_| queue.try_loan(PAGE).unwrap()).collect();
    assert_eq!(loans.len(), 3);
}

#[test]
fn totals_that_cannot_be_are_refused() {
    let create = |longest, total| {
        QueueOptions::new().long_messages(longest, total).create_bytes(8, 100).map(drop)
    };
    let text = |longest, total| match create(longest, total) {
        Err(error @ RegionError::UnsuitableQueue { .. }) => error.to_string(),
        result => panic!("{result:?}"),
    };
    assert!(text(2 * PAGE, 2 * PAGE - 1).contains("does not fit into 8191"));
    assert!(text(1 << 32, 1 << 32).contains("4294967295 bytes at most"));
    assert!(text(PAGE, usize::MAX).contains("bytes altogether"));
    // As long as a slot, or the largest.
    create(100, 1).unwrap();
    create(u32::MAX as usize, u32::MAX as usize).unwrap();
}

crossproc::shared! {
    /// What is known of all messages.
    struct Account {
        is_over: AtomicU64,
        /// By the number of the message, whether it was put, and got.
        put: [AtomicU64; MESSAGES],
        got: [AtomicU64; MESSAGES],
        next: AtomicU64,
    }
}

const MESSAGES: usize = 1 << 17;
const WORKERS: usize = 4;

/// Puts messages of any length, most of them short.
fn produce(queue: &ByteQueue, account: &Account) {
    let mut random = fastrand::Rng::new();
    while account.is_over.load(SeqCst) == 0 {
        let number = account.next.fetch_add(1, SeqCst);
        assert!(number < MESSAGES as u64, "there are not enough numbers");
        // An empty message now and then, which nobody counts.
        if number % 16 == 0 {
            queue.put(&[]).unwrap();
        }
        // Up to 64 MiB: as many of each order of magnitude.
        let len = (random.usize(..=64 * MIB) >> random.u32(..26)).max(8);
        let mut loan = queue.loan(len).unwrap();
        for chunk in loan.chunks_mut(PAGE) {
            let end = chunk.len().min(8);
            chunk[..end].copy_from_slice(&number.to_ne_bytes()[..end]);
        }
        loan.send().map_err(|refused| refused.error).unwrap();
        account.put[number as usize].store(1, SeqCst);
    }
}

fn consume(queue: &ByteQueue, account: &Account) {
    loop {
        let message = match queue.receive() {
            Ok(message) => message,
            Err(QueueError::Closed) => return,
            Err(error) => panic!("{error}"),
        };
        let Some(number) = message.first_chunk() else {
            assert!(message.is_empty());
            continue;
        };
        let number = u64::from_ne_bytes(*number);
        for chunk in message.chunks(PAGE) {
            let end = chunk.len().min(8);
            assert_eq!(chunk[..end], number.to_ne_bytes()[..end], "a message of several");
        }
        assert_eq!(account.got[number as usize].fetch_add(1, SeqCst), 0, "{number} came twice");
    }
}

/// Four producers and four consumers, one of which is killed every 20 ms.
#[test]
fn messages_of_any_length_survive_kills() {
    let seconds = std::env::var("LONG_SECONDS").map_or(2, |seconds| seconds.parse().unwrap());
    let options = QueueOptions::new().participants(2 * WORKERS + 4);
    let queue = options.long_messages(64 * MIB, 256 * MIB).create_bytes(32, 64).unwrap();
    let account = Shm::new_in_place(|_: &mut Account| ()).unwrap();
    let before = allocated(&queue);
    let work = |is_producer: bool| -> Child {
        let (queue, account) = (queue.clone(), account.clone());
        fork(
            move || if is_producer { produce(&queue, &account) } else { consume(&queue, &account) },
        )
    };
    let mut workers: Vec<Child> = (0..2 * WORKERS).map(|index| work(index < WORKERS)).collect();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut killed, mut consumers_killed) = (0, 0);
    while Instant::now() < end {
        // The pace of the kills: any instant is as good as any other.
        std::thread::sleep(Duration::from_millis(20));
        let index = fastrand::usize(..workers.len());
        kill(&workers[index]);
        workers[index] = work(index < WORKERS);
        killed += 1;
        consumers_killed += usize::from(index >= WORKERS);
    }
    account.is_over.store(1, SeqCst);
    let consumers = workers.split_off(WORKERS);
    join_all(workers);
    queue.close().unwrap();
    join_all(consumers);
    let numbers = account.next.load(SeqCst) as usize;
    let count = |words: &[AtomicU64]| words.iter().filter(|word| word.load(SeqCst) == 1).count();
    let (put, got) = (count(&account.put[..numbers]), count(&account.got[..numbers]));
    let is_missing = |&number: &usize| {
        account.put[number].load(SeqCst) == 1 && account.got[number].load(SeqCst) == 0
    };
    let missing = (0..numbers).filter(is_missing).count();
    println!(
        "{killed} killed, {consumers_killed} of them consumers; {numbers} messages begun, \
         {put} put, {got} got, {missing} gone with consumers"
    );
    assert!(missing <= consumers_killed, "more are missing than consumers have died");
    // All of the memory is free, and can be given back.
    let loans: Vec<_> = (0..3).map(|_| queue.try_loan(64 * MIB).unwrap()).collect();
    drop(loans);
    queue.trim().unwrap();
    let left = allocated(&queue) - before;
    println!("{left} bytes are left of the records and participants");
    assert!(left <= (64 * PAGE) as u64);
}
