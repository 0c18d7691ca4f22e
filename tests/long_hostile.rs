//! A peer writes that a long message is in a block where another one is.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::{ByteQueue, QueueError, QueueOptions};
use crossproc_sys::memory::{self, Mapping};

const LEN: usize = 5_000;
/// The units of a message, in pages.
const UNITS: u64 = 2;
/// The bits of a word that tell a slot, or how many units there are.
const SLOT: u64 = (1 << 21) - 1;
const COUNT: u64 = (1 << 20) - 1;

/// The words of a queue with two messages, as a peer finds them.
struct Words {
    mapping: Mapping,
    /// Where the notes of the messages' slots are, in the order of their blocks.
    notes: Vec<usize>,
    /// Where the owner words of these blocks are.
    owners: Vec<usize>,
}

impl Words {
    fn of(queue: &ByteQueue) -> Self {
        let len = memory::len(queue).unwrap() as usize;
        let mut words = Words {
            mapping: Mapping::new(queue, len).unwrap(),
            notes: Vec::new(),
            owners: Vec::new(),
        };
        // All but the pages of the blocks.
        for at in (4_096..len.min(16 * 4_096) - 32).step_by(8) {
            let word = |index: usize| words.get(at + 8 * index);
            let is_record = word(0) & SLOT != 0 && word(1) & COUNT == UNITS && word(1) == word(2);
            if is_record && word(3) == UNITS {
                words.owners.push(at);
            } else if word(0) as u32 as usize == LEN && [1, 2].contains(&(word(1) as u32)) {
                words.notes.push(at + 8);
            }
        }
        let order = |at: &usize| words.get(*at) as u32;
        let mut notes = words.notes.clone();
        notes.sort_by_key(order);
        words.notes = notes;
        assert_eq!((words.notes.len(), words.owners.len()), (2, 2));
        words
    }

    fn at(&self, at: usize) -> &AtomicU64 {
        assert!(at + 8 <= self.mapping.len() && at % 8 == 0);
        // SAFETY: inside the mapping, as was checked.
        let word = unsafe { self.mapping.start().add(at) };
        // SAFETY: aligned, and mapped as long as `self`. All use it as atomics.
        unsafe { word.cast().as_ref() }
    }

    fn get(&self, at: usize) -> u64 {
        self.at(at).load(Relaxed)
    }

    fn set(&self, at: usize, word: u64) {
        self.at(at).store(word, Relaxed);
    }
}

/// Returns a queue with a message of ones, and one of twos.
fn queue() -> ByteQueue {
    let options = QueueOptions::new().participants(2).long_messages(LEN, 4 * LEN);
    let queue = options.create_bytes(2, 24).unwrap();
    queue.put(&[1; LEN]).unwrap();
    queue.put(&[2; LEN]).unwrap();
    queue
}

/// A peer writes all the time that the messages are in their slots, which have no room for them.
#[test]
fn a_loan_is_where_there_is_room() {
    let queue = queue();
    let words = Words::of(&queue);
    drop((queue.get().unwrap(), queue.get().unwrap()));
    let until = Instant::now() + Duration::from_secs(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < until {
                for &note in &words.notes {
                    words.set(note, 0);
                }
            }
        });
        while Instant::now() < until {
            // The first loan is of a slot that has had a message.
            let (long, short) = (queue.loan(LEN).unwrap(), queue.loan(24).unwrap());
            let (short, long) = (short.as_ptr_range(), long.as_ptr_range());
            assert!(short.end <= long.start || long.end <= short.start, "{short:?} {long:?}");
            let between = long.start.addr().abs_diff(short.start.addr());
            assert!(between > LEN, "it is in a slot: {short:?} {long:?}");
        }
    });
}

#[test]
fn a_message_is_not_read_from_another_slots_block() {
    let queue = queue();
    let words = Words::of(&queue);
    words.set(words.notes[0], words.get(words.notes[1]));
    assert!(matches!(queue.receive(), Err(QueueError::Spoiled)));
    assert_eq!(queue.get().unwrap(), [2; LEN]);
}

#[test]
fn a_message_is_not_read_from_a_block_that_there_is_not() {
    for wrong in [1_000, 1 << 20, u32::MAX] {
        let queue = queue();
        let words = Words::of(&queue);
        words.set(words.notes[0], wrong.into());
        assert!(matches!(queue.receive(), Err(QueueError::Spoiled)), "{wrong}");
        assert_eq!(queue.get().unwrap(), [2; LEN]);
    }
}

/// The peer says of the block, too, that it belongs to the second slot.
#[test]
fn a_thread_has_no_block_twice() {
    let queue = queue();
    let words = Words::of(&queue);
    let first = queue.receive().unwrap();
    words.set(words.notes[1], words.get(words.notes[0]));
    words.set(words.owners[0], words.get(words.owners[1]));
    assert!(matches!(queue.receive(), Err(QueueError::Spoiled)));
    assert_eq!(*first, [1; LEN]);
}

/// The peer says that the block is free.
#[test]
fn a_thread_takes_no_block_that_it_has() {
    let queue = queue();
    let words = Words::of(&queue);
    let first = queue.receive().unwrap();
    words.set(words.owners[0], words.get(words.owners[0]) & !SLOT);
    // Its pages are not freed, and nothing is written there.
    queue.trim().unwrap();
    let refused = queue.try_loan(LEN).map(drop);
    assert!(matches!(refused, Ok(()) | Err(QueueError::Spoiled | QueueError::Full)));
    assert_eq!(*first, [1; LEN]);
}
