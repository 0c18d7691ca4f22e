//! A peer that writes any bytes anywhere. What it shares with others is spoilt, but none of them
//! crashes, panics, or waits beyond its deadline.

#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crossproc::{
    Barrier, BoundedSemaphore, Condition, Event, Fixed, Lock, Once, Permits, RLock, RwLock,
    Semaphore, Shm, Wait, shared,
};
use crossproc_sys::memory::Mapping;

mod forked;
use forked::{PATIENCE, fork, kill};

shared! {
    struct All {
        locks: [Lock<u64>; 4],
        rlock: RLock<u64>,
        rwlock: RwLock<u64, 2>,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        permits: Permits<3>,
        event: Event,
        condition: Condition,
        barrier: Barrier,
        once: Once,
        fixed: Fixed<[u64; 4]>,
    }
}

fn new() -> Shm<All> {
    Shm::new(All {
        locks: [const { Lock::new(0) }; 4],
        rlock: RLock::new(0),
        rwlock: RwLock::new(0),
        semaphore: Semaphore::new(1),
        bounded: BoundedSemaphore::new(1),
        permits: Permits::new(),
        event: Event::new(),
        condition: Condition::new(),
        barrier: Barrier::new(2),
        once: Once::new(),
        fixed: Fixed::new([0; 4]),
    })
    .unwrap()
}

/// Values with a meaning somewhere, to reach states that random values never reach.
const TELLING: [u32; 8] =
    [0, 1, 0x3fff_ffff, 0x4000_0000, 0x8000_0000, 0xc000_0000, 0xffff_ffff, 0x7fff_ffff];

fn scribble(all: &Shm<All>, seed: u64) -> ! {
    let len = 4096 + size_of::<All>();
    let mapping = Mapping::new(all.as_fd(), len).unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    loop {
        let word = random.usize(..len / 4);
        let value =
            if random.bool() { random.u32(..) } else { TELLING[random.usize(..TELLING.len())] };
        // SAFETY: inside the mapping.
        let at = unsafe { mapping.start().cast::<u32>().add(word) };
        // SAFETY: inside the mapping, and aligned. All others access it by atomics, or expect that
        // it is scribbled on.
        unsafe { at.write_volatile(value) };
    }
}

fn operate(all: &All, until: Instant) {
    let short = Duration::from_millis(1);
    while Instant::now() < until {
        for lock in &all.locks {
            if let Ok(mut guard) = lock.lock_or_repair_timeout(short, |_| ()) {
                *guard = guard.wrapping_add(1);
            }
        }
        // Two are held at once, so that unlinking meets scribbled entries.
        let one = all.locks[0].try_lock();
        let two = all.locks[1].try_lock();
        drop(one);
        drop(two);
        operate_on_the_others(all, short);
        let _ = all.semaphore.acquire_timeout(short);
        let _ = all.semaphore.release();
        let _ = all.semaphore.release_many(u32::MAX);
        let _ = all.event.wait_timeout(short);
        all.event.set();
        all.event.clear();
        let _ = all.fixed.get();
        let _ = format!("{:?} {:?} {:?}", all.locks[0], all.semaphore, all.event);
    }
}

fn operate_on_the_others(all: &All, short: Duration) {
    let outer = all.rlock.lock_timeout(short);
    drop(all.rlock.lock_timeout(short));
    drop(outer);
    for _ in 0..2 {
        let one = all.rwlock.read_timeout(short);
        let two = all.rwlock.try_read();
        drop(one);
        drop(two);
    }
    if let Ok(mut guard) = all.rwlock.write_or_repair_timeout(short, |_| ()) {
        *guard = guard.wrapping_add(1);
    }
    let _ = all.bounded.access_timeout(short);
    let _ = all.bounded.release_many(u32::MAX);
    let permits = [
        all.permits.acquire_timeout(short),
        all.permits.try_acquire(),
        all.permits.try_acquire(),
        all.permits.try_acquire(),
    ];
    drop(permits);
    // Nobody scribbles on this lock: a condition waits for its lock as long as that takes.
    let own = Lock::new(());
    let mut guard = own.lock().unwrap();
    let _ = all.condition.wait_timeout(&mut guard, short);
    all.condition.notify(2);
    all.condition.notify_all();
    if let Ok(arrival) = all.barrier.arrive() {
        let _ = all.barrier.wait_for(arrival, Wait::timeout(short));
    }
    let _ = all.barrier.wait_timeout(short);
    all.barrier.abort();
    all.barrier.reset();
    let _ = all.once.call_once_timeout(short, |_| ());
    let _ = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?}",
        all.rlock, all.rwlock, all.bounded, all.permits, all.barrier, all.once
    );
}

#[test]
fn peers_of_a_scribbler_neither_crash_nor_hang() {
    let all = new();
    let scribblers = [1, 2].map(|seed| {
        let all = all.clone();
        fork(move || -> () { scribble(&all, seed) })
    });
    let until = Instant::now() + Duration::from_secs(3);
    let operators = [(); 3].map(|()| {
        let all = all.clone();
        fork(move || operate(&all, until))
    });
    for operator in operators {
        let status = operator.join_timeout(PATIENCE).expect("nobody hangs");
        assert!(status.success(), "{status}");
    }
    scribblers.iter().for_each(kill);
}

#[test]
fn attaching_to_what_is_scribbled_on_is_an_error_or_succeeds() {
    let all = new();
    let scribbler = {
        let all = all.clone();
        fork(move || -> () { scribble(&all, 3) })
    };
    let until = Instant::now() + Duration::from_secs(1);
    let (mut refused, mut attached) = (0, 0);
    while Instant::now() < until {
        match Shm::<All>::attach(all.as_fd().try_clone_to_owned().unwrap()) {
            Ok(_) => attached += 1,
            Err(_) => refused += 1,
        }
    }
    println!("{refused} refused, {attached} attached");
    assert!(refused > 0);
    kill(&scribbler);
}

/// Waiters without a deadline must not spin on a word that makes no sense: they sleep, and look
/// again.
#[test]
fn a_word_that_makes_no_sense_costs_no_processor_time() {
    let all = new();
    let mapping = Mapping::new(all.as_fd(), 4096 + size_of::<All>()).unwrap();
    let offset = 4096 + std::mem::offset_of!(All, event);
    // SAFETY: inside the mapping.
    let event = unsafe { mapping.start().add(offset) }.cast::<u64>();
    // SAFETY: inside the mapping, and aligned; nobody uses it yet. The value has bits that are
    // always 0, and not `SET`.
    unsafe { event.write_volatile(0x3fff_ffff) };
    let theirs = all.clone();
    let waiter = fork(move || {
        let before = cpu_time();
        let _ = theirs.event.wait_timeout(Duration::from_millis(500));
        assert!(cpu_time() - before < Duration::from_millis(100), "it spun");
    });
    assert!(waiter.join_timeout(PATIENCE).unwrap().success());
}

fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
