//! Queues.

use core::num::NonZeroU32;
use crossproc::{BatchQueue, ByteQueue, JoinableQueue, Queue, QueueError, QueueOptions};

use super::{Case, Peer, duplicate};
use crate::probe::{LONG, SHORT, done, require};

/// The length of a message that does not fit into a slot.
const LONG_MESSAGE: usize = 5_000;

/// Returns a queue with memory for two long messages.
fn long_messages() -> ByteQueue {
    QueueOptions::new().long_messages(LONG_MESSAGE, 2 * 8_192).create_bytes(10, 100).unwrap()
}

pub(super) fn add(all: &mut Vec<Case>) {
    let mut case = |name, run| all.push(Case { name, run });
    case("queue: new", |probe| {
        probe.operate(|| done(Queue::<u64>::new(100)?));
    });
    case("queue: created with options, of bytes and tasks", |probe| {
        let options = QueueOptions::new().participants(3).loans(4);
        probe
            .operate(|| done((options.create_bytes(10, 300)?, options.create_joinable::<u64>(5)?)));
    });
    case("queue: of long messages", |probe| {
        let options = QueueOptions::new().long_messages(LONG_MESSAGE, 2 * LONG_MESSAGE);
        probe.operate(|| done(options.create_bytes(10, 100)?));
    });
    case("queue: a long message's put and get", |probe| {
        let queue = long_messages();
        let operation = || {
            queue.put(&[7; LONG_MESSAGE])?;
            Ok(require(queue.get()? == [7; LONG_MESSAGE], "it is what was put")?)
        };
        // Nothing of the memory is lost.
        let look = |_: bool| {
            while queue.try_get().is_ok() {}
            done((queue.try_loan(LONG_MESSAGE)?, queue.try_loan(LONG_MESSAGE)?))
        };
        probe.operate_and_look(operation, look);
    });
    case("queue: a loan needs what other messages had", |probe| {
        let queue = long_messages();
        let operation = || {
            drop((queue.loan(LONG_MESSAGE)?, queue.loan(LONG_MESSAGE)?));
            done((queue.loan(101)?, queue.loan(LONG_MESSAGE)?))
        };
        let look = |_: bool| done((queue.try_loan(LONG_MESSAGE)?, queue.try_loan(LONG_MESSAGE)?));
        probe.operate_and_look(operation, look);
    });
    case("queue: a loan times out for want of memory", |probe| {
        let queue = long_messages();
        queue.put(&[7; LONG_MESSAGE]).unwrap();
        queue.put(&[7; LONG_MESSAGE]).unwrap();
        probe.operate(|| match queue.loan_timeout(LONG_MESSAGE, SHORT) {
            Err(QueueError::TimedOut) => Ok(()),
            other => done(other?),
        });
    });
    case("queue: trim", |probe| {
        let queue = long_messages();
        let operation = || {
            queue.put(&[7; LONG_MESSAGE])?;
            queue.get()?;
            Ok(queue.trim()?)
        };
        let look = |_: bool| {
            while queue.try_get().is_ok() {}
            done((queue.try_loan(LONG_MESSAGE)?, queue.try_loan(LONG_MESSAGE)?))
        };
        probe.operate_and_look(operation, look);
    });
    case("queue: attach", |probe| {
        let queue: Queue<u64> = Queue::new(2).unwrap();
        queue.put(7).unwrap();
        let operation = || {
            let again: Queue<u64> = Queue::attach(duplicate(&queue)?)?;
            Ok(require(again.len() == 1, "it is the same")?)
        };
        probe.operate(operation);
    });
    case("queue: a thread's first put", |probe| {
        let queue: Queue<u64> = Queue::new(2).unwrap();
        let look = |is_ok: bool| {
            require(queue.len() == usize::from(is_ok), "it is there if it was put")?;
            require(!is_ok || queue.try_get()? == 7, "it is what was put")?;
            Ok(())
        };
        probe.operate_and_look(|| Ok(queue.put(7)?), look);
    });
    case("queue: a thread's first get", |probe| {
        let queue: Queue<u64> = Queue::new(2).unwrap();
        let refill = || {
            Peer::new(|| {
                if queue.is_empty() {
                    queue.put(7).unwrap();
                }
            })
        };
        let peer = refill();
        peer.ask();
        peer.finish().unwrap();
        let look = |is_ok: bool| {
            require(queue.len() == usize::from(!is_ok), "it is got if that was said")?;
            peer.ask();
            peer.finish()
        };
        probe.operate_and_look(|| Ok(require(queue.try_get()? == 7, "it is what was put")?), look);
    });
    case("queue: a put times out", |probe| {
        let queue: Queue<u64> = Queue::new(1).unwrap();
        queue.put(1).unwrap();
        let operation = || match queue.put_timeout(2, SHORT) {
            Err(error) if matches!(error.error, QueueError::TimedOut) => Ok(()),
            other => Ok(other?),
        };
        probe.operate_and_look(operation, |_| Ok(require(queue.len() == 1, "one is there")?));
    });
    case("queue: a get times out", |probe| {
        let queue: Queue<u64> = Queue::new(1).unwrap();
        probe.operate(|| match queue.get_timeout(SHORT) {
            Err(QueueError::TimedOut) => Ok(()),
            other => Ok(other.map(|_| ())?),
        });
    });
    case("queue: a get is woken", |probe| {
        let queue: Queue<u64> = Queue::new(1).unwrap();
        let peer = Peer::new(|| queue.put(7).unwrap());
        let operation = || {
            peer.ask();
            Ok(require(queue.get_timeout(LONG)? == 7, "it is what was put")?)
        };
        let look = |is_ok: bool| {
            peer.finish()?;
            require(is_ok || queue.try_get()? == 7, "it was not got, and is there")?;
            Ok(())
        };
        probe.operate_and_look(operation, look);
    });
    case("queue: a put is woken, and wakes", |probe| {
        let queue: Queue<u64> = Queue::new(1).unwrap();
        queue.put(7).unwrap();
        let peer = Peer::new(|| _ = queue.get().unwrap());
        let operation = || {
            peer.ask();
            Ok(queue.put_timeout(7, LONG)?)
        };
        let look = |is_ok: bool| {
            peer.finish()?;
            require(queue.len() == usize::from(is_ok), "it is there if it was put")?;
            if !is_ok {
                queue.put(7)?;
            }
            Ok(())
        };
        probe.operate_and_look(operation, look);
    });
    case("queue: many are put and got", |probe| {
        let queue: Queue<u64> = Queue::new(8).unwrap();
        let operation = || {
            queue.put_many(&[1, 2, 3])?;
            Ok(())
        };
        let look = |is_ok: bool| {
            let mut got = Vec::new();
            let _ = queue.try_get_many(&mut got, 8);
            Ok(require(
                got == [1, 2, 3][..if is_ok { 3 } else { 0 }],
                "they are there if they were put",
            )?)
        };
        probe.operate_and_look(operation, look);
    });
    case("batches: put, and got", |probe| {
        let queue: BatchQueue<u64> = BatchQueue::with_max_batch(4, 2).unwrap();
        let operation = || {
            queue.put_many(&[1, 2, 3])?;
            require(queue.try_get()? == 1, "it is the first")?;
            require(queue.try_receive()?[..] == [2], "it is the rest of the first batch")?;
            Ok(())
        };
        let look = |is_ok: bool| {
            let mut left = Vec::new();
            let _ = queue.try_get_many(&mut left, 8);
            let is_right = if is_ok {
                left == [3]
            } else {
                [&[][..], &[3], &[2, 3], &[1, 2, 3]].contains(&&left[..])
            };
            Ok(require(is_right, "what was not got is there if it was put")?)
        };
        probe.operate_and_look(operation, look);
    });
    case("queue: a loan", |probe| {
        let queue: ByteQueue = ByteQueue::with_max_len(4, 100).unwrap();
        let operation = || {
            let mut loan = queue.loan(5)?;
            loan.copy_from_slice(b"hello");
            Ok(loan.send().map_err(|error| error.error)?)
        };
        let look = |is_ok: bool| {
            require(queue.len() == usize::from(is_ok), "it is there if it was put")?;
            require(!is_ok || &*queue.try_receive()? == b"hello", "it is what was put")?;
            Ok(())
        };
        probe.operate_and_look(operation, look);
    });
    case("queue: close wakes", |probe| {
        let operation = || {
            let queue: Queue<u64> = Queue::new(1)?;
            queue.close()?;
            Ok(require(matches!(queue.get(), Err(QueueError::Closed)), "it is closed")?)
        };
        probe.operate(operation);
    });
    case("tasks: got and done", |probe| {
        let tasks: JoinableQueue<u64> = JoinableQueue::new(4).unwrap();
        let operation = || {
            let task = tasks.try_get()?;
            require(*task == 7, "it is what was put")?;
            task.done();
            Ok(())
        };
        let peer = Peer::new(|| {
            if tasks.unfinished() == 0 {
                tasks.put(7).unwrap();
            }
        });
        peer.ask();
        peer.finish().unwrap();
        let look = |is_ok: bool| {
            require(tasks.unfinished() == usize::from(!is_ok), "it is done, or there")?;
            peer.ask();
            peer.finish()
        };
        probe.operate_and_look(operation, look);
    });
    case("tasks: put", |probe| {
        let tasks: JoinableQueue<u64> = JoinableQueue::new(4).unwrap();
        let look = |is_ok: bool| {
            require(tasks.unfinished() == usize::from(is_ok), "it is there if it was put")?;
            if is_ok {
                tasks.try_get()?.done();
            }
            Ok(())
        };
        probe.operate_and_look(|| Ok(tasks.put(7)?), look);
    });
    case("tasks: join times out", |probe| {
        let tasks: JoinableQueue<u64> = JoinableQueue::new(4).unwrap();
        tasks.put(7).unwrap();
        probe.operate(|| match tasks.join_timeout(SHORT) {
            Err(QueueError::TimedOut) => Ok(()),
            other => Ok(other?),
        });
    });
    case("tasks: join is woken", |probe| {
        let tasks: JoinableQueue<u64> = JoinableQueue::new(4).unwrap();
        let worker = Peer::new(|| tasks.get().unwrap().done());
        let operation = || {
            tasks.put(7)?;
            worker.ask();
            Ok(tasks.join_timeout(LONG)?)
        };
        let look = |is_ok: bool| {
            if !is_ok && tasks.unfinished() == 0 {
                // It was not put, or is done already.
                return Ok(());
            }
            worker.finish()
        };
        probe.operate_and_look(operation, look);
    });
    case("tasks: a dead worker's", |probe| {
        let tasks: JoinableQueue<u64> = JoinableQueue::new(4).unwrap();
        tasks.put(7).unwrap();
        let worker = Peer::new(|| {
            core::mem::forget(tasks.get().unwrap());
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) };
        });
        worker.ask();
        worker.end().unwrap();
        // Given up again each time, so that it is there the next time.
        probe.operate(|| Ok(require(*tasks.get_timeout(LONG)? == 7, "it is what was put")?));
    });
    case("tasks: a dead letter", |probe| {
        let tasks: JoinableQueue<u64> =
            QueueOptions::new().attempts(NonZeroU32::new(1), 2).create_joinable(4).unwrap();
        tasks.put(7).unwrap();
        let worker = Peer::new(|| {
            core::mem::forget(tasks.get().unwrap());
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) };
        });
        worker.ask();
        worker.end().unwrap();
        let operation = || match tasks.dead_letter() {
            Ok(letter) => done(letter),
            Err(QueueError::Empty) => Ok(()),
            Err(error) => Err(error.into()),
        };
        probe.operate(operation);
    });
}
