//! Eight processes perform random operations on one instance of each primitive. Every 20 ms one of
//! them is killed and replaced. `ci/soak.sh SECONDS` sets the duration; among the other tests it is
//! three seconds.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, compiler_fence};
use std::time::{Duration, Instant};
use std::{env, thread};

use crossproc::process::{Builder, Child};
use crossproc::{
    Barrier, BoundedSemaphore, Condition, ConditionError, Event, Lock, LockError, Once,
    OverRelease, Permits, RLock, RwLock, Semaphore, Shm, Wait, shared,
};

const WORKERS: usize = 8;
const ONCES: usize = 4096;
const PERMITS: usize = 3;
const BOUND: u32 = 4;
/// How long an operation may take that another process will end. For the operations that wait for
/// others, the parent acts every few milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

shared! {
    /// What the workers in one place have done.
    struct Place {
        /// The number of operations.
        operations: AtomicU64,
        /// The current operation; after a death, the one in which the worker died.
        operation: AtomicU32,
        /// The permits released and acquired, of the semaphore and of the bounded one.
        released: [AtomicU64; 2],
        acquired: [AtomicU64; 2],
    }
}

shared! {
    struct World {
        lock: Lock<[u64; 2]>,
        rlock: RLock<[u64; 2]>,
        rwlock: RwLock<[u64; 2], 4>,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        permits: Permits<PERMITS>,
        event: Event,
        condition: Condition,
        items: Lock<u64>,
        barrier: Barrier,
        onces: [Once; ONCES],
        values: [AtomicU32; ONCES],
        places: [Place; WORKERS],
        over: AtomicU32,
    }
}

type Operation = fn(&World, &Place, &mut fastrand::Rng);

const OPERATIONS: [(&str, Operation); 16] = [
    ("Lock", |world, _, _| {
        let mut guard = world.lock.lock_or_repair(|_| ()).unwrap();
        // A dead owner's halves may differ by the one that the owner was adding.
        assert!(guard[0] - guard[1] <= 1);
        guard[1] = guard[0];
        guard[0] += 1;
        compiler_fence(SeqCst);
        guard[1] += 1;
    }),
    ("Lock, in time", |world, _, rng| {
        match world.lock.lock_timeout(Duration::from_micros(rng.u64(..200))) {
            Ok(guard) => assert_eq!(guard[0], guard[1]),
            Err(LockError::OwnerDied | LockError::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
    }),
    ("RLock", |world, _, rng| {
        let guards: Vec<_> = (0..rng.usize(1..4))
            .map(|_| world.rlock.lock_or_repair(|both| both.set([both.get()[0]; 2])).unwrap())
            .collect();
        assert_eq!(world.rlock.depth() as usize, guards.len());
        let [one, other] = guards[0].get();
        assert_eq!(one, other);
        guards[0].set([one + 1, other + 1]);
    }),
    ("RwLock, reading", |world, _, _| {
        let guard = world.rwlock.read_unrepaired(Wait::FOREVER).unwrap();
        assert!(guard[0] - guard[1] <= u64::from(guard.is_inconsistent()));
    }),
    ("RwLock, writing", |world, _, _| {
        let mut guard = world.rwlock.write_or_repair(|both| both[1] = both[0]).unwrap();
        assert_eq!(guard[0], guard[1]);
        guard[0] += 1;
        compiler_fence(SeqCst);
        guard[1] += 1;
    }),
    ("RwLock, in time", |world, _, rng| {
        let _ = world.rwlock.write_timeout(Duration::from_micros(rng.u64(..200)));
        let _ = world.rwlock.read_timeout(Duration::from_micros(rng.u64(..200)));
    }),
    ("Semaphore, acquiring", |world, place, rng| {
        if world.semaphore.acquire_timeout(Duration::from_micros(rng.u64(..500))).is_ok() {
            place.acquired[0].fetch_add(1, Relaxed);
        }
    }),
    ("Semaphore, releasing", |world, place, rng| {
        let count = rng.u32(..3);
        world.semaphore.release_many(count).unwrap();
        place.released[0].fetch_add(u64::from(count), Relaxed);
    }),
    ("BoundedSemaphore, acquiring", |world, place, rng| {
        if world.bounded.acquire_timeout(Duration::from_micros(rng.u64(..500))).is_ok() {
            place.acquired[1].fetch_add(1, Relaxed);
        }
    }),
    ("BoundedSemaphore, releasing", |world, place, _| match world.bounded.release() {
        Ok(()) => drop(place.released[1].fetch_add(1, Relaxed)),
        Err(OverRelease { bound: BOUND }) => {}
        Err(error) => panic!("{error}"),
    }),
    ("Permits", |world, _, rng| {
        let first = world.permits.acquire().unwrap();
        let _others: Vec<_> =
            (0..rng.usize(..PERMITS)).map_while(|_| world.permits.try_acquire().ok()).collect();
        drop(first);
    }),
    ("Event", |world, _, rng| match rng.u32(..8) {
        0 => world.event.set(),
        1 => world.event.clear(),
        // The parent sets and clears the event at once, again and again.
        _ => world.event.wait(),
    }),
    ("Condition, waiting", |world, _, _| {
        let mut items = world.items.lock_or_repair(|_| ()).unwrap();
        // The parent notifies all waiters, again and again.
        match world.condition.wait(&mut items) {
            Ok(()) => *items += 1,
            Err(ConditionError::OwnerDied) => drop(items.recover()),
            Err(error) => panic!("{error}"),
        }
    }),
    ("Condition, notifying", |world, _, rng| world.condition.notify(rng.u32(..4))),
    // The parent breaks the barrier, again and again.
    ("Barrier", |world, _, rng| match rng.u32(..16) {
        0 => drop(world.barrier.wait_timeout(Duration::from_micros(rng.u64(..500)))),
        _ => drop(world.barrier.wait()),
    }),
    ("Once", |world, _, rng| {
        let index = rng.usize(..ONCES);
        world.onces[index].call_once(|_| world.values[index].store(42, Relaxed)).unwrap();
        assert_eq!(world.values[index].load(Relaxed), 42);
    }),
];

fn world() -> Shm<World> {
    Shm::new(World {
        lock: Lock::new([0; 2]),
        rlock: RLock::new([0; 2]),
        rwlock: RwLock::new([0; 2]),
        semaphore: Semaphore::new(0),
        bounded: BoundedSemaphore::new(BOUND),
        permits: Permits::new(),
        event: Event::new(),
        condition: Condition::new(),
        items: Lock::new(0),
        barrier: Barrier::new(3),
        onces: [const { Once::new() }; ONCES],
        values: [const { AtomicU32::new(0) }; ONCES],
        places: [const {
            Place {
                operations: AtomicU64::new(0),
                operation: AtomicU32::new(0),
                released: [const { AtomicU64::new(0) }; 2],
                acquired: [const { AtomicU64::new(0) }; 2],
            }
        }; WORKERS],
        over: AtomicU32::new(0),
    })
    .unwrap()
}

fn worker(world: &Shm<World>, index: usize) -> Child {
    let world = world.clone();
    // SAFETY: no other thread of this process takes part, as this test is the only one in its
    // program. The child uses the crate, atomics and system calls.
    let child = unsafe {
        Builder::new().daemon(true).fork_with_threads(move || {
            let mut rng = fastrand::Rng::new();
            rng.seed(u64::from(std::process::id()));
            let place = &world.places[index];
            while world.over.load(Relaxed) == 0 {
                let operation = rng.usize(..OPERATIONS.len());
                place.operation.store(operation as u32, Relaxed);
                compiler_fence(SeqCst);
                OPERATIONS[operation].1(&world, place, &mut rng);
                place.operations.fetch_add(1, Relaxed);
            }
        })
    };
    child.expect("a worker can be forked")
}

/// Releases the workers that wait for each other.
fn stir(world: &World) {
    world.event.set();
    world.event.clear();
    world.condition.notify_all();
    world.barrier.abort();
    world.barrier.reset();
}

/// A worker, the operation count that was last seen, and since when it has been the same.
struct Watched {
    child: Child,
    seen: u64,
    since: Instant,
}

impl Watched {
    fn new(child: Child) -> Self {
        Watched { child, seen: u64::MAX, since: Instant::now() }
    }

    fn must_go_on(&mut self, place: &Place) {
        let seen = place.operations.load(Relaxed);
        let (name, _) = OPERATIONS[place.operation.load(Relaxed) as usize];
        if seen != self.seen {
            (self.seen, self.since) = (seen, Instant::now());
        }
        assert!(self.since.elapsed() < PATIENCE, "a worker hangs in {name}");
        if let Some(status) = self.child.try_join().unwrap() {
            panic!("a worker has ended in {name}: {status}");
        }
    }
}

/// The permits that killed workers may have acquired or released without counting them. Each array
/// holds those of the semaphore, then those of the bounded semaphore.
#[derive(Default)]
struct Uncounted {
    acquired: [u64; 2],
    released: [u64; 2],
}

impl Uncounted {
    fn note(&mut self, place: &Place) {
        match OPERATIONS[place.operation.load(Relaxed) as usize].0 {
            "Semaphore, acquiring" => self.acquired[0] += 1,
            "Semaphore, releasing" => self.released[0] += 2,
            "BoundedSemaphore, acquiring" => self.acquired[1] += 1,
            "BoundedSemaphore, releasing" => self.released[1] += 1,
            _ => {}
        }
    }
}

#[test]
fn eight_processes_survive_each_others_deaths() {
    let seconds = env::var("CROSSPROC_SOAK_SECONDS")
        .map_or(3, |seconds| seconds.parse().expect("CROSSPROC_SOAK_SECONDS is a number"));
    let world = world();
    let mut workers: Vec<_> =
        (0..WORKERS).map(|index| Watched::new(worker(&world, index))).collect();
    let mut uncounted = Uncounted::default();
    let (mut kills, mut stops) = (0, 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut next_kill = Instant::now();
    while Instant::now() < end {
        stir(&world);
        for (worker, place) in workers.iter_mut().zip(&world.places) {
            worker.must_go_on(place);
        }
        // The loop needs time itself to pass, and watches the workers meanwhile.
        thread::sleep(Duration::from_millis(2));
        if Instant::now() < next_kill {
            continue;
        }
        next_kill += Duration::from_micros(fastrand::u64(..35_000));
        let victim = fastrand::usize(..WORKERS);
        if fastrand::u32(..8) == 0 {
            workers[victim].child.stop().unwrap();
            thread::sleep(Duration::from_millis(fastrand::u64(..20)));
            workers[victim].child.resume().unwrap();
            stops += 1;
        } else {
            workers[victim].child.kill().unwrap();
            workers[victim].child.join_timeout(PATIENCE).unwrap();
            uncounted.note(&world.places[victim]);
            workers[victim] = Watched::new(worker(&world, victim));
            kills += 1;
        }
    }
    world.over.store(1, Relaxed);
    for (worker, place) in workers.iter().zip(&world.places) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            stir(&world);
            match worker.child.join_timeout(Duration::from_millis(5)) {
                Ok(status) => break status,
                Err(_) => assert!(
                    Instant::now() < deadline,
                    "a worker hangs in {}",
                    OPERATIONS[place.operation.load(Relaxed) as usize].0
                ),
            }
        };
        assert!(status.success(), "a worker ended with {status}");
    }
    let operations: u64 = world.places.iter().map(|place| place.operations.load(Relaxed)).sum();
    println!("{seconds} s: {operations} operations, {kills} killed, {stops} stopped");
    must_be_whole(&world, &uncounted);
}

/// Asserts what must hold when all workers are gone.
fn must_be_whole(world: &World, uncounted: &Uncounted) {
    let sum = |count: fn(&Place) -> &AtomicU64| -> u64 {
        world.places.iter().map(|place| count(place).load(Relaxed)).sum()
    };
    let counts = [
        (
            "Semaphore",
            world.semaphore.value(),
            0,
            sum(|place| &place.released[0]),
            sum(|place| &place.acquired[0]),
        ),
        (
            "BoundedSemaphore",
            world.bounded.value(),
            BOUND,
            sum(|place| &place.released[1]),
            sum(|place| &place.acquired[1]),
        ),
    ];
    for (index, (name, value, initial, released, acquired)) in counts.into_iter().enumerate() {
        let left = i128::from(initial) + i128::from(released) - i128::from(acquired);
        let least = left - i128::from(uncounted.acquired[index]);
        let most = left + i128::from(uncounted.released[index]);
        println!("{name}: {value} permits, of {least} to {most}");
        assert!(
            (least..=most).contains(&i128::from(value)),
            "{name} has {value} permits, not {least} to {most}"
        );
    }
    assert!(world.bounded.value() <= BOUND);
    assert_eq!(world.permits.value(), PERMITS);
    assert_eq!((world.lock.owner(), world.rlock.owner(), world.items.owner()), (None, None, None));
    assert_eq!((world.rwlock.readers(), world.rwlock.writer()), (0, None));
    for (once, value) in world.onces.iter().zip(&world.values) {
        assert!(!once.is_completed() || value.load(Relaxed) == 42);
    }
    // Every operation still succeeds.
    for _ in 0..2 {
        for (name, operation) in OPERATIONS {
            if !matches!(name, "Event" | "Condition, waiting" | "Barrier") {
                operation(world, &world.places[0], &mut fastrand::Rng::with_seed(1));
            }
        }
    }
    world.barrier.reset();
    let arrivals = [(); 2].map(|()| world.barrier.arrive().unwrap());
    assert!(world.barrier.try_wait().unwrap().is_leader());
    for arrival in arrivals {
        world.barrier.wait_for(arrival, crossproc::Wait::NONE).unwrap();
    }
}
