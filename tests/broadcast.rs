//! Broadcasts: who gets what, what senders do about slow subscribers, and what deaths leave.
//!
//! `BROADCAST_SECONDS` sets how long the processes of the last test are killed; it is 2 if it is
//! not set.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{
    Broadcast, BroadcastOptions, Plain, QueueError, RegionError, Shm, SlowSubscribers, Subscriber,
    WaitAnyError, set_recheck_interval, wait_any, wait_any_timeout,
};
use crossproc_sys::memory::len_and_allocated;

mod forked;
use forked::{fork, join_all, kill, patience, wait_until, wait_until_asleep};

const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_millis(300);
const POLICIES: [SlowSubscribers; 3] =
    [SlowSubscribers::Wait, SlowSubscribers::Lag, SlowSubscribers::Expel(Duration::ZERO)];

fn broadcast(capacity: usize, slow: SlowSubscribers) -> Broadcast<u64> {
    BroadcastOptions::new().slow_subscribers(slow).create(capacity).unwrap()
}

/// What a subscriber should have: the items to come, or those that it has missed.
struct Model {
    subscriber: Subscriber<u64>,
    items: VecDeque<u64>,
    missed: u64,
    is_out: bool,
}

/// Compares all results of random operations with those of a simple model.
#[test]
fn everybody_gets_everything() {
    for slow in POLICIES {
        for capacity in [1, 2, 3, 8] {
            for seed in 0..20 {
                compare(slow, capacity, seed);
            }
        }
    }
}

fn compare(slow: SlowSubscribers, capacity: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let broadcast = broadcast(capacity, slow);
    let mut kept = VecDeque::new();
    let mut all: Vec<Model> = Vec::new();
    for number in 0..400 {
        let full = |model: &Model| !model.is_out && model.items.len() == capacity;
        match random.u32(..10) {
            0..4 => {
                let result = broadcast.try_send(number);
                if slow == SlowSubscribers::Wait && all.iter().any(full) {
                    assert!(matches!(result.unwrap_err().error, QueueError::Full));
                    continue;
                }
                result.unwrap();
                kept.push_back(number);
                kept.truncate_front_to(capacity);
                for model in &mut all {
                    if full(model) && slow != SlowSubscribers::Lag {
                        model.is_out = true;
                    }
                    model.items.push_back(number);
                    model.missed += model.items.truncate_front_to(capacity);
                }
            }
            4..8 if !all.is_empty() => {
                let index = random.usize(..all.len());
                receive(&mut all[index], slow, &mut random);
            }
            8 if all.len() < 4 => {
                let oldest = random.bool();
                let subscriber = if oldest {
                    broadcast.subscribe_from_oldest().unwrap()
                } else {
                    broadcast.subscribe().unwrap()
                };
                let items = if oldest { kept.clone() } else { VecDeque::new() };
                all.push(Model { subscriber, items, missed: 0, is_out: false });
            }
            9 if !all.is_empty() => drop(all.swap_remove(random.usize(..all.len()))),
            _ => {}
        }
        assert_eq!(broadcast.subscribers(), all.iter().filter(|model| !model.is_out).count());
        for model in all.iter().filter(|model| !model.is_out && model.missed == 0) {
            assert_eq!(model.subscriber.lag(), model.items.len());
        }
    }
    broadcast.close().unwrap();
    for mut model in all {
        while !model.is_out && (!model.items.is_empty() || model.missed != 0) {
            receive(&mut model, slow, &mut random);
        }
        let end = model.subscriber.recv();
        match model.is_out {
            true => assert!(matches!(end, Err(QueueError::Expelled)), "{end:?}"),
            false => assert!(matches!(end, Err(QueueError::Closed)), "{end:?}"),
        }
    }
}

fn receive(model: &mut Model, slow: SlowSubscribers, random: &mut fastrand::Rng) {
    if slow == SlowSubscribers::Wait && random.bool() {
        match (model.subscriber.try_view(), model.items.pop_front()) {
            (Ok(view), Some(item)) => assert_eq!(*view, item),
            (Err(QueueError::Empty | QueueError::Closed), None) => {}
            other => panic!("{other:?}"),
        }
        return;
    }
    match (model.subscriber.try_recv(), model.is_out, mem::take(&mut model.missed)) {
        (Err(QueueError::Expelled), true, _) => {}
        (Err(QueueError::Lagged { missed }), false, should) => assert_eq!(missed, should),
        (Ok(item), false, 0) => assert_eq!(Some(item), model.items.pop_front()),
        (Err(QueueError::Empty | QueueError::Closed), false, 0) if model.items.is_empty() => {}
        other => panic!("{other:?}, with {:?}", model.items),
    }
}

trait Truncate {
    /// Removes the first ones until no more than `len` are left. Returns how many.
    fn truncate_front_to(&mut self, len: usize) -> u64;
}

impl<T> Truncate for VecDeque<T> {
    fn truncate_front_to(&mut self, len: usize) -> u64 {
        let gone = self.len().saturating_sub(len);
        self.drain(..gone);
        gone as u64
    }
}

#[test]
fn messages_of_all_lengths_come_whole() {
    for slow in POLICIES {
        let broadcast =
            BroadcastOptions::new().slow_subscribers(slow).create_bytes(3, 100).unwrap();
        let mut subscriber = broadcast.subscribe().unwrap();
        assert_eq!(broadcast.max_len(), 100);
        for len in (0..=100).chain([0, 7, 99]) {
            let message: Vec<u8> = (0..len).collect();
            broadcast.send(&message).unwrap();
            broadcast.send(b"short").unwrap();
            if slow == SlowSubscribers::Wait {
                assert_eq!(*subscriber.view().unwrap(), *message);
            } else {
                assert_eq!(subscriber.recv().unwrap(), message);
                assert!(matches!(subscriber.view(), Err(QueueError::NotInPlace)));
            }
            assert_eq!(subscriber.recv().unwrap(), b"short");
        }
        let refused = broadcast.send(&[0; 101]);
        assert!(matches!(refused, Err(QueueError::TooLong { len: 101, max: 100 })));
    }
}

/// Each item is itself, of several words, so that a torn copy would show.
#[test]
fn all_get_the_same_in_the_same_order_in_all_processes() {
    const SENDERS: u64 = 3;
    const SUBSCRIBERS: usize = 3;
    const EACH: u64 = 20_000;
    for slow in POLICIES {
        let options = BroadcastOptions::new().slow_subscribers(slow).participants(16);
        let broadcast: Broadcast<[u64; 5]> = options.create(16).unwrap();
        let ready = Shm::new(AtomicU64::new(0)).unwrap();
        let sums = Shm::from_fn(SUBSCRIBERS, |_| AtomicU64::new(0)).unwrap();
        let subscribers: Vec<Child> = (0..SUBSCRIBERS)
            .map(|index| {
                let (broadcast, ready, sums) = (broadcast.clone(), ready.clone(), sums.clone());
                fork(move || {
                    let mut subscriber = broadcast.subscribe().unwrap();
                    ready.fetch_add(1, SeqCst);
                    let mut last = [0; SENDERS as usize];
                    let mut sum = 0_u64;
                    loop {
                        match subscriber.recv() {
                            Ok(item @ [number, sender, ..]) => {
                                assert_eq!(item, [number, sender, number, sender, number]);
                                let last = &mut last[sender as usize];
                                let is_next = number == *last + 1;
                                assert!(is_next || slow != SlowSubscribers::Wait && number > *last);
                                *last = number;
                                sum = sum.wrapping_mul(31).wrapping_add(10 * number + sender);
                            }
                            Err(QueueError::Lagged { .. }) if slow == SlowSubscribers::Lag => {}
                            Err(QueueError::Expelled) if slow != SlowSubscribers::Lag => {
                                assert_ne!(slow, SlowSubscribers::Wait);
                                subscriber = subscribe_again(&broadcast);
                            }
                            Err(QueueError::Closed) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    sums[index].store(sum, SeqCst);
                })
            })
            .collect();
        wait_until("all have subscribed", || ready.load(SeqCst) == SUBSCRIBERS as u64);
        join_all((0..SENDERS).map(|sender| {
            let broadcast = broadcast.clone();
            fork(move || {
                for number in 1..=EACH {
                    broadcast.send([number, sender, number, sender, number]).unwrap();
                }
            })
        }));
        broadcast.close().unwrap();
        join_all(subscribers);
        if slow == SlowSubscribers::Wait {
            let sums: Vec<u64> = sums.iter().map(|sum| sum.load(SeqCst)).collect();
            assert!(sums.iter().all(|&sum| sum == sums[0]), "{sums:?}");
        }
    }
}

/// Subscribes until the thread is not too slow for that.
fn subscribe_again<T: Plain>(broadcast: &Broadcast<T>) -> Subscriber<T> {
    loop {
        match broadcast.subscribe_from_oldest() {
            Err(QueueError::Expelled) => {}
            subscriber => return subscriber.unwrap(),
        }
    }
}

/// Returns a child that has subscribed, and does nothing else.
fn idle_subscriber(broadcast: &Broadcast<u64>) -> Child {
    let before = broadcast.subscribers();
    let theirs = broadcast.clone();
    let child = fork(move || -> () {
        let _subscriber = theirs.subscribe().unwrap();
        loop {
            std::thread::park();
        }
    });
    wait_until("it has subscribed", || broadcast.subscribers() == before + 1);
    child
}

/// Stops a child, and waits until it is stopped.
fn stop(child: &Child) {
    rustix::process::pidfd_send_signal(child, rustix::process::Signal::STOP).unwrap();
    let status = format!("/proc/{}/status", child.id());
    wait_until("it is stopped", || {
        std::fs::read_to_string(&status).unwrap().contains("\nState:\tT")
    });
}

/// Returns processes that send these, once they sleep for want of room. They have no slices.
fn senders_asleep(broadcast: &Broadcast<u64>, numbers: [u64; 2]) -> [Child; 2] {
    let senders = numbers.map(|number| {
        let broadcast = broadcast.clone();
        fork(move || {
            set_recheck_interval(None);
            broadcast.send(number).unwrap();
        })
    });
    senders.iter().for_each(wait_until_asleep);
    senders
}

/// Without slices: the kernel wakes a sender, and that one all others.
#[test]
fn senders_go_on_when_the_subscriber_that_they_wait_for_dies() {
    let broadcast = broadcast(2, SlowSubscribers::Wait);
    let victim = idle_subscriber(&broadcast);
    let mut own = broadcast.subscribe().unwrap();
    broadcast.send(1).unwrap();
    broadcast.send(2).unwrap();
    assert_eq!((own.recv().unwrap(), own.recv().unwrap()), (1, 2));
    let senders = senders_asleep(&broadcast, [3, 4]);
    assert!(matches!(broadcast.try_send(5).unwrap_err().error, QueueError::Full));
    assert!(matches!(broadcast.send_timeout(5, SHORT).unwrap_err().error, QueueError::TimedOut));
    kill(&victim);
    join_all(senders);
    assert_eq!(own.recv().unwrap() + own.recv().unwrap(), 7);
    assert_eq!(broadcast.subscribers(), 1);
}

/// Without slices, too.
#[test]
fn senders_go_on_when_the_subscriber_that_they_wait_for_goes_on_or_leaves() {
    for leaves in [false, true] {
        let broadcast = broadcast(1, SlowSubscribers::Wait);
        let mut subscriber = broadcast.subscribe().unwrap();
        broadcast.send(1).unwrap();
        let senders = senders_asleep(&broadcast, [2, 3]);
        if leaves {
            drop(subscriber);
        } else {
            let sum: u64 = (0..3).map(|_| subscriber.recv().unwrap()).sum();
            assert_eq!(sum, 6);
        }
        join_all(senders);
    }
}

#[test]
fn subscribers_that_sleep_are_all_woken() {
    let broadcast = broadcast(4, SlowSubscribers::Wait);
    let read = Shm::new(AtomicU64::new(0)).unwrap();
    let children: Vec<Child> = (0..3)
        .map(|_| {
            let (broadcast, read) = (broadcast.clone(), read.clone());
            fork(move || {
                set_recheck_interval(None);
                let mut subscriber = broadcast.subscribe().unwrap();
                assert_eq!(subscriber.recv().unwrap(), 7);
                read.fetch_add(1, SeqCst);
                assert!(matches!(subscriber.recv(), Err(QueueError::Closed)));
            })
        })
        .collect();
    wait_until("all have subscribed", || broadcast.subscribers() == 3);
    children.iter().for_each(wait_until_asleep);
    broadcast.send(7).unwrap();
    wait_until("all have read it", || read.load(SeqCst) == 3);
    children.iter().for_each(wait_until_asleep);
    broadcast.close().unwrap();
    join_all(children);
}

#[test]
fn a_stopped_subscriber_holds_up_senders_as_the_policy_says() {
    let after = Duration::from_millis(50);
    for slow in [SlowSubscribers::Wait, SlowSubscribers::Lag, SlowSubscribers::Expel(after)] {
        let broadcast = broadcast(2, slow);
        let stopped = idle_subscriber(&broadcast);
        stop(&stopped);
        let mut own = broadcast.subscribe().unwrap();
        let mut sent = 0;
        while sent < 2 {
            broadcast.send(sent).unwrap();
            assert_eq!(own.recv().unwrap(), sent);
            sent += 1;
        }
        let began = Instant::now();
        let refused = broadcast.try_send(2);
        match slow {
            SlowSubscribers::Wait => {
                assert!(matches!(refused.unwrap_err().error, QueueError::Full));
                let late = broadcast.send_timeout(2, after).unwrap_err().error;
                assert!(matches!(late, QueueError::TimedOut));
                assert_eq!(broadcast.subscribers(), 2);
            }
            SlowSubscribers::Lag => {
                refused.unwrap();
                assert_eq!(broadcast.subscribers(), 2);
            }
            _ => {
                assert!(matches!(refused.unwrap_err().error, QueueError::Full));
                broadcast.send_timeout(2, patience()).unwrap();
                assert!(began.elapsed() >= after, "it was out after {:?}", began.elapsed());
                assert_eq!(broadcast.subscribers(), 1);
                broadcast.try_send(3).unwrap();
            }
        }
        kill(&stopped);
    }
}

/// A sender that never waits tells since when a subscriber is in its way, too.
#[test]
fn a_sender_that_does_not_wait_expels_subscribers_all_the_same() {
    let broadcast = broadcast(1, SlowSubscribers::Expel(Duration::from_millis(20)));
    let mut subscriber = broadcast.subscribe().unwrap();
    for round in 0..3 {
        broadcast.send(round).unwrap();
        assert!(broadcast.try_send(9).is_err());
        assert_eq!(subscriber.recv().unwrap(), round, "it has its time for each item");
    }
    broadcast.send(3).unwrap();
    wait_until("it is out", || broadcast.try_send(4).is_ok());
    assert!(matches!(subscriber.recv(), Err(QueueError::Expelled)));
    assert!(matches!(subscriber.try_recv(), Err(QueueError::Expelled)));
    assert_eq!(broadcast.subscribers(), 0);
    let mut again = broadcast.subscribe_from_oldest().unwrap();
    assert_eq!(again.recv().unwrap(), 4);
}

/// The first one's time is over when the second one comes, with its id and its cursor.
#[test]
fn a_newcomer_has_all_of_the_senders_patience() {
    let broadcast = broadcast(2, SlowSubscribers::Expel(LONG));
    let first = broadcast.subscribe().unwrap();
    broadcast.send(1).unwrap();
    broadcast.send(2).unwrap();
    let begun = Instant::now();
    assert!(matches!(broadcast.try_send(3).unwrap_err().error, QueueError::Full));
    drop(first);
    wait_until("its time is over", || begun.elapsed() > 2 * LONG);
    let mut second = broadcast.subscribe_from_oldest().unwrap();
    assert!(matches!(broadcast.try_send(3).unwrap_err().error, QueueError::Full));
    assert_eq!(second.recv().unwrap(), 1);
}

/// Senders are patient with all who are in the way at once, and not with one after the other.
#[test]
fn patience_with_several_is_not_longer() {
    // Without slices, too.
    set_recheck_interval(None);
    let sends: [fn(&Broadcast<u64>); 3] = [
        |broadcast| wait_until("they are out", || broadcast.try_send(2).is_ok()),
        |broadcast| assert_eq!(wait_any_timeout(&[&broadcast.room()], patience()).unwrap(), [0]),
        |broadcast| broadcast.send_timeout(2, patience()).unwrap(),
    ];
    for (way, send) in sends.into_iter().enumerate() {
        let broadcast = broadcast(1, SlowSubscribers::Expel(LONG));
        let in_the_way: Vec<_> = (0..10).map(|_| broadcast.subscribe().unwrap()).collect();
        broadcast.send(1).unwrap();
        let begun = Instant::now();
        send(&broadcast);
        let took = begun.elapsed();
        assert!((LONG..5 * LONG).contains(&took), "{took:?} in the way {way}");
        drop(in_the_way);
    }
}

#[test]
fn a_thread_does_not_wait_for_its_own_subscriber() {
    let broadcast = broadcast(1, SlowSubscribers::Wait);
    let subscriber = broadcast.subscribe().unwrap();
    broadcast.send(1).unwrap();
    assert!(matches!(broadcast.send(2).unwrap_err().error, QueueError::Deadlock));
    assert!(matches!(broadcast.try_send(2).unwrap_err().error, QueueError::Full));
    drop(subscriber);
    broadcast.send(2).unwrap();
}

#[test]
fn a_view_keeps_its_item() {
    let broadcast = broadcast(1, SlowSubscribers::Wait);
    let mut subscriber = broadcast.subscribe().unwrap();
    broadcast.send(1).unwrap();
    let view = subscriber.view().unwrap();
    assert!(broadcast.try_send(2).is_err());
    assert_eq!((*view, format!("{view:?}")), (1, "1".to_owned()));
    drop(view);
    broadcast.try_send(2).unwrap();
    assert_eq!(subscriber.recv().unwrap(), 2);
}

thread_local! {
    static KEPT: RefCell<Option<Subscriber<u64>>> = const { RefCell::new(None) };
}

/// A closure cannot take a subscriber into a child, but a thread-local variable can.
#[test]
fn a_forked_child_has_no_subscriber_of_its_parents() {
    let broadcast = broadcast(4, SlowSubscribers::Wait);
    KEPT.set(Some(broadcast.subscribe().unwrap()));
    broadcast.send(1).unwrap();
    let theirs = broadcast.clone();
    join_all([fork(move || {
        let mut subscriber = KEPT.take().unwrap();
        assert!(matches!(subscriber.recv(), Err(QueueError::NotOwner)));
        assert!(matches!(subscriber.view(), Err(QueueError::NotOwner)));
        drop(subscriber);
        assert_eq!(theirs.subscribers(), 1, "the parent's is still there");
        let mut own = theirs.subscribe_from_oldest().unwrap();
        assert_eq!(own.recv().unwrap(), 1);
        theirs.send(2).unwrap();
    })]);
    let mut subscriber = KEPT.take().unwrap();
    assert_eq!((subscriber.recv().unwrap(), subscriber.recv().unwrap()), (1, 2));
}

#[test]
fn ids_go_round_between_senders_and_subscribers() {
    let broadcast: Broadcast<u64> = BroadcastOptions::new().participants(2).create(4).unwrap();
    for round in 0..10 {
        let theirs = broadcast.clone();
        join_all([fork(move || {
            let mut subscriber = theirs.subscribe().unwrap();
            theirs.send(round).unwrap();
            assert_eq!(subscriber.recv().unwrap(), round);
            let refused = theirs.subscribe();
            assert!(matches!(refused, Err(QueueError::TooManyParticipants { limit: 2 })));
            // It dies with both ids.
            if round % 2 == 0 {
                mem::forget(subscriber);
            }
        })]);
        let theirs = broadcast.clone();
        join_all([fork(move || {
            let mut one = theirs.subscribe_from_oldest().unwrap();
            let _two = theirs.subscribe().unwrap();
            assert_eq!(one.lag(), 4.min(round as usize + 1));
            one.recv().unwrap();
        })]);
    }
}

/// A sender's slots are there before it writes to them. A subscriber that had its id had none.
#[test]
fn a_sender_that_comes_after_a_subscriber_has_all_its_memory() {
    const LEN: usize = 1 << 20;
    let broadcast = BroadcastOptions::new().participants(1).create_bytes(1, LEN).unwrap();
    let allocated = || len_and_allocated(&broadcast).unwrap().1;
    join_all([fork(|| drop(broadcast.subscribe().unwrap()))]);
    let before = allocated();
    join_all([fork(|| broadcast.send(b"short").unwrap())]);
    assert!(allocated() - before >= LEN as u64, "{before} bytes, and then {}", allocated());
}

#[test]
fn impossible_numbers_are_refused() {
    let refused = |result: Result<Broadcast<u64>, RegionError>, text: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(Broadcast::new(0), "the capacity must be 1 to 1048576 items, not 0");
    refused(Broadcast::new((1 << 20) + 1), "the capacity must be 1 to 1048576 items");
    refused(BroadcastOptions::new().participants(0).create(1), "one participant at least");
    let hours = SlowSubscribers::Expel(Duration::from_secs(7_201));
    refused(
        BroadcastOptions::new().slow_subscribers(hours).create(1),
        "senders can wait 7200s at most for a slow subscriber, not 7201s",
    );
    let most = SlowSubscribers::Expel(Duration::from_secs(7_200));
    BroadcastOptions::new().slow_subscribers(most).create::<u64>(1 << 20).unwrap();
}

#[test]
fn it_is_waited_for_among_other_things() {
    let broadcast = broadcast(1, SlowSubscribers::Wait);
    let mut subscriber = broadcast.subscribe().unwrap();
    let early = wait_any_timeout(&[&subscriber.next_item()], SHORT);
    assert!(matches!(early, Err(WaitAnyError::TimedOut)));
    let theirs = broadcast.clone();
    let child = fork(move || {
        set_recheck_interval(None);
        let mut own = theirs.subscribe().unwrap();
        theirs.send(1).unwrap();
        assert_eq!(own.recv().unwrap(), 1);
        // Until its parent has read it.
        assert_eq!(wait_any(&[&theirs.room()]).unwrap(), [0]);
        theirs.try_send(2).unwrap();
    });
    assert_eq!(wait_any(&[&subscriber.next_item()]).unwrap(), [0]);
    wait_until_asleep(&child);
    assert_eq!(subscriber.recv().unwrap(), 1);
    assert_eq!(wait_any(&[&subscriber.next_item()]).unwrap(), [0]);
    join_all([child]);
    assert_eq!(subscriber.try_recv().unwrap(), 2);
    broadcast.close().unwrap();
    assert_eq!(wait_any(&[&subscriber.next_item(), &broadcast.room()]).unwrap(), [0, 1]);
}

/// Each life of a sender has a number of its own, and counts its items. So a subscriber that misses
/// one, or gets one twice, notices, whoever dies.
#[test]
fn what_the_living_get_is_exact_whoever_is_killed() {
    let seconds = std::env::var("BROADCAST_SECONDS").map_or(2, |text| text.parse().unwrap());
    for slow in [SlowSubscribers::Wait, SlowSubscribers::Expel(Duration::from_millis(2))] {
        kill_for(Duration::from_secs(seconds), slow);
    }
}

fn kill_for(time: Duration, slow: SlowSubscribers) {
    const EACH: usize = 4;
    let options = BroadcastOptions::new().slow_subscribers(slow).participants(4 * EACH);
    let broadcast: Broadcast<[u64; 3]> = options.create(32).unwrap();
    let words = Shm::from_fn(3, |_| AtomicU64::new(0)).unwrap();
    let work = |is_sender: bool| -> Child {
        let (broadcast, words) = (broadcast.clone(), words.clone());
        fork(move || {
            if is_sender { send(&broadcast, &words) } else { receive_all(&broadcast, &words, slow) }
        })
    };
    let mut workers: Vec<Child> = (0..2 * EACH).map(|index| work(index < EACH)).collect();
    let end = Instant::now() + time;
    let mut killed = 0;
    while Instant::now() < end {
        // The pace of the kills: any instant is as good as any other.
        std::thread::sleep(Duration::from_millis(5));
        let index = fastrand::usize(..workers.len());
        kill(&workers[index]);
        workers[index] = work(index < EACH);
        killed += 1;
    }
    words[1].store(1, SeqCst);
    let subscribers = workers.split_off(EACH);
    join_all(workers);
    broadcast.close().unwrap();
    join_all(subscribers);
    let (senders, received) = (words[0].load(SeqCst), words[2].load(SeqCst));
    println!("{slow:?}: {killed} killed, {senders} lives of senders, {received} items received");
    assert!(received > 0);
    assert_eq!(broadcast.subscribers(), 0);
}

fn send(broadcast: &Broadcast<[u64; 3]>, words: &[AtomicU64]) {
    let sender = words[0].fetch_add(1, SeqCst);
    for number in 0.. {
        if words[1].load(SeqCst) != 0 {
            break;
        }
        broadcast.send([sender, number, sender ^ number]).unwrap();
    }
}

fn receive_all(broadcast: &Broadcast<[u64; 3]>, words: &[AtomicU64], slow: SlowSubscribers) {
    let mut next: HashMap<u64, u64> = HashMap::new();
    let mut subscriber = broadcast.subscribe().unwrap();
    loop {
        match subscriber.recv() {
            Ok([sender, number, check]) => {
                assert_eq!(check, sender ^ number);
                let next = next.entry(sender).or_insert(number);
                assert_eq!(*next, number, "of sender {sender}");
                *next += 1;
                words[2].fetch_add(1, SeqCst);
            }
            Err(QueueError::Closed) => break,
            Err(QueueError::Expelled) if slow != SlowSubscribers::Wait => {
                subscriber = subscribe_again(broadcast);
                next.clear();
            }
            Err(error) => panic!("{error}"),
        }
    }
}
