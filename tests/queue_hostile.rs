//! A peer writes anything anywhere into a queue. It spoils what goes through the queue, but no call
//! crashes, panics, or waits beyond its deadline.

#![allow(unsafe_code)]

use core::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crossproc::process::Child;
use crossproc::{
    BatchQueue, Broadcast, BroadcastOptions, ByteQueue, JoinableByteQueue, JoinableQueue, Queue,
    QueueOptions, RegionError, SlowSubscribers,
};
use crossproc_sys::memory::{self, Mapping};

mod forked;
use forked::{PATIENCE, fork, kill};

/// The offset of the queue's own words, behind the header.
const CONTENTS: usize = 4_096;
/// How many pages the words of a state machine take, with the header.
const PAGES: usize = 7;
/// The length of a long message.
const LONG: usize = 5_000;
const SHORT: Duration = Duration::from_millis(1);

/// One queue of each kind.
#[derive(Clone)]
struct All {
    items: Queue<u64>,
    bytes: ByteQueue,
    tasks: JoinableQueue<u64>,
    byte_tasks: JoinableByteQueue,
    batches: BatchQueue<[u32; 3]>,
    /// Of messages that do not fit into slots, too.
    long_tasks: JoinableByteQueue,
    waiting: Broadcast<u64>,
    lagging: Broadcast<[u8]>,
    expelling: Broadcast<u64>,
}

fn new() -> All {
    let broadcast = |slow| BroadcastOptions::new().participants(12).slow_subscribers(slow);
    let options = QueueOptions::new().participants(8).loans(2).attempts(NonZeroU32::new(2), 2);
    All {
        items: options.create(3).unwrap(),
        bytes: options.create_bytes(4, 40).unwrap(),
        tasks: options.create_joinable(2).unwrap(),
        byte_tasks: options.create_joinable_bytes(5, 9).unwrap(),
        batches: options.create_batches(3, 5).unwrap(),
        long_tasks: options.long_messages(LONG, 2 * LONG).create_joinable_bytes(3, 8).unwrap(),
        waiting: broadcast(SlowSubscribers::Wait).create(2).unwrap(),
        lagging: broadcast(SlowSubscribers::Lag).create_bytes(3, 40).unwrap(),
        expelling: broadcast(SlowSubscribers::Expel(SHORT)).create(3).unwrap(),
    }
}

impl All {
    fn files(&self) -> [OwnedFd; 9] {
        [
            copy_of(&self.items),
            copy_of(&self.bytes),
            copy_of(&self.tasks),
            copy_of(&self.byte_tasks),
            copy_of(&self.batches),
            copy_of(&self.long_tasks),
            copy_of(&self.waiting),
            copy_of(&self.lagging),
            copy_of(&self.expelling),
        ]
    }

    fn mappings(&self) -> Vec<Mapping> {
        self.files().iter().map(mapped).collect()
    }
}

fn mapped(file: &OwnedFd) -> Mapping {
    Mapping::new(file, memory::len(file).unwrap() as usize).unwrap()
}

fn copy_of(queue: &impl AsFd) -> OwnedFd {
    queue.as_fd().try_clone_to_owned().unwrap()
}

fn word_at(mapping: &Mapping, offset: usize) -> *mut u64 {
    assert!(offset + 8 <= mapping.len());
    // SAFETY: the offset is inside the mapping, as was checked.
    unsafe { mapping.start().add(offset) }.as_ptr().cast()
}

/// Returns a word that is meaningful somewhere: a cycle near those in use with any flags, a slot
/// that exists or just does not, or the TID of a lock.
fn telling(random: &mut fastrand::Rng) -> u64 {
    let flags = random.u64(..4) << 21;
    match random.u32(..8) {
        0 => random.u64(..4),
        1 => u64::MAX >> random.u32(..64),
        2 => 1 << random.u32(..64),
        3 => random.u64(..1 << 21) | flags | random.u64(..4) << 23,
        4 => random.u64(..40) | flags | random.u64(..64) << 23,
        // Of a queue of batches.
        5 => random.u64(..40) | random.u64(..8) << 15 | flags | random.u64(..64) << 23,
        6 => [0x3fff_ffff, 0x4000_0000, 0x8000_0000, 0xc000_0000, u64::from(std::process::id())]
            [random.usize(..5)],
        _ => random.u64(..),
    }
}

/// Writes for ever: sometimes anywhere, mostly where the words of the state machine are.
fn scribble(all: &All, seed: u64) -> ! {
    let mappings = all.mappings();
    let mut random = fastrand::Rng::with_seed(seed);
    loop {
        let mapping = &mappings[random.usize(..mappings.len())];
        let words = if random.u32(..4) == 0 {
            mapping.len() / 8
        } else {
            mapping.len().min(CONTENTS * PAGES) / 8
        };
        let at = word_at(mapping, random.usize(..words) * 8);
        let value = telling(&mut random);
        // SAFETY: inside the mapping and aligned. All other accesses are atomic, or expect the
        // memory to be scribbled on.
        unsafe { at.write_volatile(value) };
        // Pauses of all lengths, so that some operations succeed in between.
        for _ in 0..1 << random.u32(..12) {
            std::hint::spin_loop();
        }
    }
}

fn operate_on_items(all: &All) {
    let queue = &all.items;
    let _ = queue.try_put(1);
    let _ = queue.try_get();
    let _ = queue.put_timeout(2, SHORT);
    let _ = queue.try_put_many(&[3; 5]);
    let _ = queue.try_get_many(&mut Vec::new(), 9);
    let _ = queue.put_many_timeout(&[4; 4], SHORT);
    let (one, two) = (queue.loan(), queue.try_receive());
    if let Ok(mut loan) = one {
        *loan = 5;
        let _ = loan.send_timeout(SHORT);
    }
    let _ = two.map(|item| *item);
    let _ = queue.get_many_timeout(&mut Vec::new(), 9, SHORT);
    let _ = format!("{queue:?}");
}

fn operate_on_batches(all: &All) {
    let queue = &all.batches;
    let _ = queue.try_put([1; 3]);
    let _ = queue.try_get();
    let _ = queue.try_put_many(&[[2; 3]; 12]);
    let _ = queue.get_timeout(SHORT);
    let _ = queue.put_many_timeout(&[[3; 3]; 4], SHORT);
    let _ = queue.try_get_many(&mut Vec::new(), 3);
    let _ = queue.try_receive().map(|items| items.iter().map(|item| item[0]).max());
    let _ = queue.get_many_timeout(&mut Vec::new(), 90, SHORT);
    let _ = format!("{queue:?}");
}

fn operate_on_bytes(all: &All) {
    let queue = &all.bytes;
    let _ = queue.put_timeout(&[1; 40], SHORT);
    let _ = queue.try_put(&[]);
    if let Ok(mut loan) = queue.loan(20) {
        loan.fill(2);
        let _ = loan.try_send();
    }
    assert!(queue.try_get().map_or(0, |message| message.len()) <= 40);
    assert!(queue.receive_timeout(SHORT).map_or(0, |message| message.to_vec().len()) <= 40);
    let _ = queue.get_timeout(SHORT);
}

fn operate_on_tasks(all: &All) {
    let queue = &all.tasks;
    let _ = queue.try_put(1);
    let _ = queue.put_many_timeout(&[2, 3, 4], SHORT);
    let one = queue.try_get();
    drop(queue.get_timeout(SHORT));
    let _ = one.map(|task| (*task, task.attempts(), task.done()));
    let _ = queue.join_timeout(SHORT);
    let _ = queue.dead_letter().map(|letter| *letter);
    let _ = format!("{queue:?} {}", queue.dead_letters());
    let queue = &all.byte_tasks;
    let _ = queue.put_timeout(&[5; 9], SHORT);
    let loan = queue.loan(3);
    assert!(queue.try_get().map_or(0, |task| task.to_vec().len()) <= 9);
    let _ = loan.map(|loan| loan.try_send().is_ok());
    let _ = queue.get_timeout(SHORT).map(crossproc::Task::done);
    let _ = queue.join_timeout(SHORT);
}

fn operate_on_long_tasks(all: &All) {
    let queue = &all.long_tasks;
    let _ = queue.put_timeout(&[5; LONG], SHORT);
    let _ = queue.try_put(&[6; 4_000]);
    let loan = queue.loan_timeout(4_000, SHORT);
    assert!(queue.try_get().map_or(0, |task| task.to_vec().len()) <= LONG);
    let _ = loan.map(|mut loan| {
        loan.fill(7);
        loan.try_send().is_ok()
    });
    let (one, two) = (queue.get_timeout(SHORT), queue.get_timeout(SHORT));
    let _ = one.map(|task| (task.to_vec(), task.done()));
    let _ = two.map(|task| task.to_vec());
    let _ = queue.dead_letter().map(|letter| letter.to_vec());
    let _ = queue.trim();
    let _ = crossproc::wait_any_timeout(&[&queue.room_for(LONG)], SHORT);
}

fn operate_on_broadcasts(all: &All) {
    for broadcast in [&all.waiting, &all.expelling] {
        let one = broadcast.subscribe();
        let two = broadcast.subscribe_from_oldest();
        let _ = broadcast.try_send(1);
        let _ = broadcast.send_timeout(2, SHORT);
        for mut subscriber in one.into_iter().chain(two) {
            let _ = subscriber.try_recv();
            let _ = subscriber.try_view().map(|item| *item);
            let _ = subscriber.recv_timeout(SHORT);
            let _ =
                crossproc::wait_any_timeout(&[&subscriber.next_item(), &broadcast.room()], SHORT);
            let _ = format!("{subscriber:?} {}", subscriber.lag());
        }
        let _ = format!("{broadcast:?}");
    }
    if let Ok(mut subscriber) = all.lagging.subscribe_from_oldest() {
        for len in 0..5 {
            let _ = all.lagging.try_send(&[7; 40][..10 * len]);
        }
        for _ in 0..3 {
            assert!(subscriber.try_recv().map_or(0, |message| message.len()) <= 40);
        }
        assert!(subscriber.recv_timeout(SHORT).map_or(0, |message| message.len()) <= 40);
    }
}

fn operate(all: &All, until: Instant) {
    while Instant::now() < until {
        operate_on_items(all);
        operate_on_bytes(all);
        operate_on_batches(all);
        operate_on_tasks(all);
        operate_on_long_tasks(all);
        operate_on_broadcasts(all);
        // Threads come and go, and take over what dead participants have left.
        std::thread::scope(|scope| {
            _ = scope.spawn(|| {
                [operate_on_items, operate_on_tasks, operate_on_long_tasks, operate_on_broadcasts]
                    .map(|operate| operate(all))
            });
        });
        if let Ok(again) = Queue::<u64>::attach(copy_of(&all.items)) {
            let _ = again.try_put(6);
        }
    }
}

fn join_in_time(children: impl IntoIterator<Item = Child>) {
    for child in children {
        let status = child.join_timeout(PATIENCE).expect("nobody hangs");
        assert!(status.success(), "{status}");
    }
}

#[test]
fn peers_of_a_scribbler_neither_crash_nor_hang() {
    let all = new();
    let scribblers = [1, 2].map(|seed| {
        let all = all.clone();
        fork(move || -> () { scribble(&all, seed) })
    });
    let until = Instant::now() + Duration::from_secs(4);
    let operators = [(); 2].map(|()| {
        let all = all.clone();
        fork(move || operate(&all, until))
    });
    // Other processes die in the middle of their operations.
    while Instant::now() < until {
        let theirs = all.clone();
        let mortal = fork(move || operate(&theirs, until));
        for _ in 0..100 {
            std::thread::yield_now();
        }
        kill(&mortal);
    }
    join_in_time(operators);
    scribblers.iter().for_each(kill);
}

/// One write at a time, everywhere: no later write repairs what is wrong.
#[test]
fn one_wrong_word_neither_crashes_nor_hangs_anybody() {
    let mut random = fastrand::Rng::with_seed(3);
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        let all = new();
        operate_on_tasks(&all);
        operate_on_long_tasks(&all);
        operate_on_broadcasts(&all);
        let _ = all.items.try_put(1);
        for mapping in all.mappings() {
            let words = CONTENTS / 8..mapping.len().min(CONTENTS * PAGES) / 8;
            for _ in 0..random.u32(1..4) {
                let at = word_at(&mapping, random.usize(words.clone()) * 8);
                // SAFETY: inside the mapping and aligned; this thread is in no operation, and no
                // other thread has the queue.
                unsafe { at.write_volatile(telling(&mut random)) };
            }
        }
        let theirs = all.clone();
        join_in_time([fork(move || operate(&theirs, Instant::now() + SHORT))]);
        operate(&all, Instant::now() + SHORT);
    }
}

/// Attaches to one of the files, as to what is in it. There is no other handle to that: while there
/// is one, nothing else is believed than what that one has found.
fn attach(file: &OwnedFd, which: usize) -> Result<(), RegionError> {
    let file = copy_of(file);
    match which {
        0 => Queue::<u64>::attach(file).map(|_| ()),
        1 => ByteQueue::attach(file).map(|_| ()),
        2 => JoinableQueue::<u64>::attach(file).map(|_| ()),
        3 => JoinableByteQueue::attach(file).map(|_| ()),
        5 => JoinableByteQueue::attach(file).map(|_| ()),
        6 | 8 => Broadcast::<u64>::attach(file).map(|_| ()),
        7 => Broadcast::<[u8]>::attach(file).map(|_| ()),
        _ => BatchQueue::<[u32; 3]>::attach(file).map(|_| ()),
    }
}

/// The first words of a queue: capacity, dead letters, participants, places, attempts, whether it
/// is joinable, size, alignment, the most items of a batch; of blocks how many, the longest
/// message, the bytes of a unit, and the units; of a broadcast the policy and the patience.
const SHAPE: usize = 15;
const ATTEMPTS: usize = 4;
const PATIENCE_AT: usize = 14;
/// The broadcast that expels.
const EXPELLING: usize = 8;

#[test]
fn a_queue_with_a_shape_that_cannot_be_is_not_attached() {
    let files = new().files();
    for (which, file) in files.iter().enumerate() {
        let mapping = &mapped(file);
        attach(file, which).unwrap();
        // Both may be any number.
        let is_free = |index| index == ATTEMPTS || index == PATIENCE_AT && which == EXPELLING;
        for index in (0..SHAPE).filter(|&index| !is_free(index)) {
            let at = word_at(mapping, CONTENTS + index * 8);
            // SAFETY: inside the mapping and aligned; no other thread writes it meanwhile.
            let right = unsafe { at.read_volatile() };
            let wrong = [
                (right + 1) << 32,
                u64::MAX,
                u64::MAX - right,
                1 << 32 | right,
                1 << 63 | right,
                right << 20 | 1 << 30,
                u64::from(u32::MAX),
                1 << 21,
            ];
            // A queue may have no dead letters, and messages may have no bytes.
            let can_be_none = index == 1 || index == 6 && which % 2 == 1;
            for wrong in wrong.into_iter().chain((!can_be_none && right != 0).then_some(0)) {
                // SAFETY: as above.
                unsafe { at.write_volatile(wrong) };
                assert!(
                    attach(file, which).is_err(),
                    "word {index} of queue {which} is {wrong:#x}, not {right:#x}"
                );
            }
            // SAFETY: as above.
            unsafe { at.write_volatile(right) };
        }
        attach(file, which).unwrap();
    }
}

#[test]
fn a_queue_with_another_header_is_not_attached() {
    let files = new().files();
    for (which, file) in files.iter().enumerate() {
        let mapping = &mapped(file);
        // Every word up to the mark that says the queue is complete, and the mark itself.
        for index in 0..=8 {
            let at = word_at(mapping, index * 8);
            // SAFETY: inside the mapping and aligned; no other thread writes it meanwhile.
            let right = unsafe { at.read_volatile() };
            for wrong in [!right, right.wrapping_add(1), right ^ 1 << 31] {
                // SAFETY: as above.
                unsafe { at.write_volatile(wrong) };
                assert!(
                    attach(file, which).is_err(),
                    "word {index} of the header of queue {which} is {wrong:#x}, not {right:#x}"
                );
            }
            // SAFETY: as above.
            unsafe { at.write_volatile(right) };
        }
        attach(file, which).unwrap();
    }
}

/// A handle goes by the values that it checked itself, whatever the words become.
#[test]
fn a_shape_that_changes_afterwards_changes_nothing() {
    let all = new();
    for mapping in all.mappings() {
        for index in 0..SHAPE {
            // SAFETY: inside the mapping and aligned; nothing reads it after this.
            unsafe { word_at(&mapping, CONTENTS + index * 8).write_volatile(u64::MAX) };
        }
    }
    all.items.try_put_many(&[1, 2, 3]).unwrap();
    assert!(all.items.is_full());
    assert_eq!(all.items.get().unwrap(), 1);
    all.bytes.put(b"whole").unwrap();
    assert_eq!((all.bytes.get().unwrap(), all.bytes.max_len()), (b"whole".to_vec(), 40));
    all.tasks.put(4).unwrap();
    all.tasks.get().unwrap().done();
    all.tasks.join().unwrap();
    all.batches.put_many(&[[5; 3]; 6]).unwrap();
    assert_eq!((all.batches.len(), all.batches.receive().unwrap().len()), (2, 5));
}

/// A message is no longer than its slot, whatever its slot says.
#[test]
fn a_message_whose_length_changes_is_as_long_as_its_slot_at_most() {
    const SENT: usize = 17;
    let broadcast = BroadcastOptions::new().create_bytes(3, 40).unwrap();
    let mut subscriber = broadcast.subscribe().unwrap();
    for wrong in [41, 1 << 20, u32::MAX] {
        broadcast.send(&[7; SENT]).unwrap();
        let mapping = mapped(&copy_of(&broadcast));
        let lengths = (CONTENTS / 4..mapping.len() / 4 - 1)
            .map(|word| word_at(&mapping, word * 4).cast::<u32>())
            // SAFETY: inside the mapping and aligned; this thread is in no operation, and no other
            // thread has the broadcast.
            .filter(|at| unsafe { at.read_volatile() } == SENT as u32);
        for at in lengths {
            // SAFETY: as above.
            unsafe { at.write_volatile(wrong) };
        }
        assert_eq!(subscriber.recv().unwrap().len(), 40);
    }
}

/// The participant that gave a task back looks at its place again and again, until the place makes
/// sense, or for good.
#[test]
fn a_returned_task_whose_place_makes_no_sense_hangs_nobody() {
    for wrong in [0, 1, (1 << 21) - 1, 1 << 22, (1 << 22) | ((1 << 21) - 1), 3 << 21, u64::MAX] {
        let tasks: JoinableQueue<u64> =
            QueueOptions::new().participants(1).loans(1).create_joinable(2).unwrap();
        tasks.put_many(&[1, 2]).unwrap();
        drop(tasks.get().unwrap());
        let mapping =
            Mapping::new(tasks.as_fd(), memory::len(tasks.as_fd()).unwrap() as usize).unwrap();
        // The only word with the mark of a returned task and the number of one of the few slots.
        let places = (CONTENTS / 8..mapping.len() / 8).map(|word| word_at(&mapping, word * 8));
        // The first condition excludes the count of how often a slot was taken: only a place has a
        // round.
        let is_marked = |word: u64| {
            word >> 23 != 0 && (1 << 22..(1 << 22) + 10).contains(&(word & !(u64::MAX << 23)))
        };
        // SAFETY: inside the mapping and aligned; this thread is in no operation, and no other
        // thread has the queue.
        let mut marked = places.filter(|place| is_marked(unsafe { place.read_volatile() }));
        let place = marked.next().expect("a place is marked");
        assert_eq!(marked.next(), None);
        // SAFETY: as above.
        unsafe { place.write_volatile(wrong) };
        let until = Instant::now() + PATIENCE;
        for _ in 0..3 {
            drop(tasks.get_timeout(SHORT));
            let _ = tasks.loan();
            let _ = tasks.try_put(3);
            let _ = tasks.join_timeout(SHORT);
        }
        assert!(Instant::now() < until, "with {wrong:#x}");
    }
}

/// A peer writes lengths of batches, and nothing else. What is got was put, or is an error.
#[test]
fn a_length_that_changes_makes_no_item_of_nothing() {
    const PUT: [u32; 3] = [7; 3];
    let queue: BatchQueue<[u32; 3]> =
        QueueOptions::new().participants(4).loans(1).create_batches(2, 5).unwrap();
    let all: Vec<Mapping> =
        vec![Mapping::new(queue.as_fd(), memory::len(queue.as_fd()).unwrap() as usize).unwrap()];
    // Every slot has its items' length behind the word that says who took it. An item of this size
    // is 12 bytes, so that a slot is 80.
    let until = Instant::now() + Duration::from_secs(2);
    let scribbler = fork(move || -> () {
        let mut random = fastrand::Rng::with_seed(5);
        loop {
            let slots = (all[0].len() - 2 * 4_096 - CONTENTS) / 80;
            let slot = random.usize(..slots.min(16));
            let at = word_at(&all[0], 3 * 4_096 + slot * 80 + 8).cast::<u32>();
            // SAFETY: inside the mapping and aligned; all other accesses are atomic.
            unsafe { at.write_volatile(random.u32(..7)) };
        }
    });
    let mut got = 0_u64;
    let mut random = fastrand::Rng::with_seed(6);
    while Instant::now() < until {
        let _ = queue.try_put_many(&[PUT; 5]);
        for _ in 0..random.u32(..4) {
            if let Ok(item) = queue.try_get() {
                assert!(item == PUT || item == [0; 3], "{item:?}");
                got += 1;
            }
        }
        let mut items = Vec::new();
        if let Ok(count) = queue.try_get_many(&mut items, random.usize(..3)) {
            assert!(count == items.len(), "{count} items");
        }
        if let Ok(items) = queue.try_receive() {
            assert!(!items.is_empty());
        }
    }
    kill(&scribbler);
    assert!(got > 0, "some were got");
}
