//! Runs one operation a number of times, for `ci/costs.sh` to count its instructions.
//!
//! `cargo bench --bench instructions -- OPERATION TIMES` runs one. Without arguments, each
//! operation runs a few times.

use core::hint::black_box;

use crossproc::{
    BatchQueue, Event, JoinableQueue, Lock, Permits, Queue, RLock, RwLock, Semaphore, Shm, pipe,
    process, shared,
};

shared! {
    struct Board {
        lock: Lock<u64>,
        nested: Lock<u64>,
        rlock: RLock<u64>,
        rwlock: RwLock<u64, 4>,
        semaphore: Semaphore,
        permits: Permits<4>,
        event: Event,
    }
}

/// The operations' names. `run` has what each does.
const OPERATIONS: [&str; 18] = [
    "lock",
    "lock_in_lock",
    "rlock",
    "rlock_twice",
    "read",
    "write",
    "semaphore",
    "permits",
    "event",
    "put_get",
    "loan_receive",
    "get_of_none",
    "put_into_full",
    "batch",
    "batch_received",
    "task",
    "send_recv",
    "fork",
];

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match &arguments[..] {
        [operation, times] => run(operation, times.parse().expect("TIMES is a number")),
        _ => OPERATIONS.into_iter().for_each(|operation| run(operation, 3)),
    }
}

fn run(operation: &str, times: usize) {
    let board = Shm::new(Board {
        lock: Lock::new(0),
        nested: Lock::new(0),
        rlock: RLock::new(0),
        rwlock: RwLock::new(0),
        semaphore: Semaphore::new(1),
        permits: Permits::new(),
        event: Event::new(),
    })
    .unwrap();
    let queue: Queue<u64> = Queue::new(16).unwrap();
    let tasks: JoinableQueue<u64> = JoinableQueue::new(16).unwrap();
    let batches: BatchQueue<u64> = BatchQueue::with_max_batch(16, 16).unwrap();
    let mut numbers = Vec::with_capacity(16);
    let (left, right) = pipe().unwrap();
    let mut buffer = [0; 64];
    let mut once: Box<dyn FnMut()> = match operation {
        "lock" => Box::new(|| *board.lock.lock().unwrap() += 1),
        "lock_in_lock" => Box::new(|| {
            let outer = board.lock.lock().unwrap();
            *board.nested.lock().unwrap() += *outer;
        }),
        "rlock" => Box::new(|| board.rlock.lock().unwrap().set(1)),
        "rlock_twice" => Box::new(|| {
            let outer = board.rlock.lock().unwrap();
            board.rlock.lock().unwrap().set(outer.get());
        }),
        "read" => Box::new(|| {
            black_box(*board.rwlock.read().unwrap());
        }),
        "write" => Box::new(|| *board.rwlock.write().unwrap() += 1),
        "semaphore" => Box::new(|| {
            board.semaphore.acquire();
            board.semaphore.release().unwrap();
        }),
        "permits" => Box::new(|| drop(board.permits.acquire().unwrap())),
        "event" => Box::new(|| {
            board.event.set();
            board.event.wait();
            board.event.clear();
        }),
        "put_get" => Box::new(|| {
            queue.put(1).unwrap();
            black_box(queue.get().unwrap());
        }),
        "loan_receive" => Box::new(|| {
            let mut loan = queue.loan().unwrap();
            *loan = 1;
            loan.send().unwrap();
            black_box(*queue.receive().unwrap());
        }),
        "get_of_none" => Box::new(|| {
            black_box(queue.try_get().is_err());
        }),
        "put_into_full" => {
            while queue.try_put(1).is_ok() {}
            Box::new(|| {
                black_box(queue.try_put(1).is_err());
            })
        }
        "batch" => Box::new(|| {
            batches.put_many(&[1; 16]).unwrap();
            numbers.clear();
            batches.get_many(&mut numbers, 16).unwrap();
            black_box(&numbers);
        }),
        "batch_received" => Box::new(|| {
            batches.put_many(&[1; 16]).unwrap();
            black_box(&batches.receive().unwrap()[..]);
        }),
        "task" => Box::new(|| {
            tasks.put(1).unwrap();
            tasks.get().unwrap().done();
        }),
        "send_recv" => Box::new(|| {
            left.send(b"eight by").unwrap();
            black_box(right.recv_into(&mut buffer).unwrap());
        }),
        "fork" => Box::new(|| {
            process::fork(|| ()).unwrap().join().unwrap();
        }),
        _ => panic!("there is no operation {operation}: it is one of {OPERATIONS:?}"),
    };
    for _ in 0..times {
        once();
    }
}
