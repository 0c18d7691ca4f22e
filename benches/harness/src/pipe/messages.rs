//! crossproc's queue of bytes, with long messages, as ends.

use std::hint::black_box;

use crossproc::{ByteQueue, QueueOptions};

use super::ends::End;

/// The longest message, and the most bytes of all long ones together.
const LONGEST: usize = 64 << 20;
const TOTAL: usize = 256 << 20;
/// The longest message that is in its slot, in bytes.
const INLINE: usize = 4 << 10;
const CAPACITY: usize = 16;

/// A queue each way.
struct Queues {
    there: ByteQueue,
    back: ByteQueue,
}

fn pair() -> (Queues, Queues) {
    let options = QueueOptions::new().participants(8).long_messages(LONGEST, TOTAL);
    let queue = || options.create_bytes(CAPACITY, INLINE).unwrap();
    let (there, back) = (queue(), queue());
    let other = Queues { there: back.clone(), back: there.clone() };
    (Queues { there, back }, other)
}

/// Copies messages in and out.
pub struct Copied(Queues);

impl End for Copied {
    const MAX: usize = LONGEST;

    fn pair() -> (Self, Self) {
        let (one, other) = pair();
        (Copied(one), Copied(other))
    }

    fn send(&self, message: &[u8]) {
        self.0.there.put(message).unwrap();
    }

    fn recv(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0.back.receive().unwrap());
    }
}

/// Writes the ends of a message where it lies, and reads them there.
pub struct InPlace(Queues);

impl End for InPlace {
    const MAX: usize = LONGEST;

    fn pair() -> (Self, Self) {
        let (one, other) = pair();
        (InPlace(one), InPlace(other))
    }

    fn send(&self, message: &[u8]) {
        let mut loan = self.0.there.loan(message.len()).unwrap();
        loan[0] = message[0];
        loan[message.len() - 1] = message[message.len() - 1];
        loan.send().unwrap();
    }

    fn recv(&self, buffer: &mut [u8]) {
        let message = self.0.back.receive().unwrap();
        assert_eq!(message.len(), buffer.len());
        black_box((message[0], message[buffer.len() - 1]));
    }
}
