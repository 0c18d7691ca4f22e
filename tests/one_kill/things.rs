//! The actions of operators, sleepers and survivors on each kind of thing.

use core::sync::atomic::Ordering::SeqCst;
use std::future::Future;
use std::thread;

use crossproc::{Event, JoinableQueue, Lock, LockGuard, Queue, QueueOptions, Semaphore, Shm};
use crossproc::{Waitable, try_wait_any, wait_any_async};

use crate::row::Table;

/// Runs an operation, which the kill is aimed at.
pub(crate) type Step<'a> = &'a mut dyn FnMut(&mut dyn FnMut());

/// A thing that one thread operates on, and that others sleep for.
pub(crate) trait Thing: Send + Sync {
    const NAME: &str;

    fn new() -> Self;

    /// Operates once, through `step`, and waits until another thread has had the result.
    fn operate(&self, table: &Table, step: Step<'_>);

    /// Sleeps for it, and takes it: one round of a sleeper.
    fn wait(&self, table: &Table);

    /// Does the same as a future.
    fn wait_async(&self, table: &Table) -> impl Future<Output = ()>;

    /// Passes what `wait_any` takes.
    fn watched<R>(&self, by: impl FnOnce(&dyn Waitable) -> R) -> R;

    /// Takes it if it is there, after `wait_any`.
    fn try_take(&self, table: &Table);

    /// Whether, in some victims, a sleeper waits plainly beside those that watch it. The plain
    /// waiter has the thing pending, so its death may repair what a watcher's death has lost.
    const HAS_PLAIN_BESIDE: bool = false;

    /// Runs one round of the survivor, which rests afterwards.
    fn survive(&self, table: &Table) {
        self.wait(table);
        table.rest();
    }

    /// Returns whether nothing is there that the survivor should have had.
    fn is_settled(&self, table: &Table) -> bool;

    /// Prepares for the next victim, when all is settled.
    fn go_on(&self, _: &Table) {}

    /// Takes away what the survivor has left, and wakes the survivor if needed.
    fn mend(&self, table: &Table);
}

const PARTICIPANTS: usize = 16;

/// Waits for `state`, with the sleepers on the same CPU.
fn until(state: impl Fn() -> bool) {
    while !state() {
        thread::yield_now();
    }
}

/// Items of a queue.
pub(crate) struct Items(Queue<u64>);

impl Thing for Items {
    const NAME: &str = "queue";

    fn new() -> Self {
        Items(QueueOptions::new().participants(PARTICIPANTS).create(4).expect("there is memory"))
    }

    fn operate(&self, table: &Table, step: Step<'_>) {
        step(&mut || self.0.put(1).expect("it is open"));
        until(|| self.is_settled(table));
    }

    fn wait(&self, _: &Table) {
        self.0.get().expect("it is open");
    }

    async fn wait_async(&self, _: &Table) {
        self.0.get_async().await.expect("it is open");
    }

    fn watched<R>(&self, by: impl FnOnce(&dyn Waitable) -> R) -> R {
        by(&self.0)
    }

    fn try_take(&self, _: &Table) {
        let _ = self.0.try_get();
    }

    fn is_settled(&self, _: &Table) -> bool {
        // Not the length: the counters may lag behind what was put.
        try_wait_any(&[&self.0]).is_err()
    }

    fn mend(&self, _: &Table) {
        while self.0.try_get().is_ok() {}
    }
}

/// Room in a queue.
pub(crate) struct Room(Queue<u64>);

impl Thing for Room {
    const NAME: &str = "room";

    fn new() -> Self {
        let queue: Queue<u64> =
            QueueOptions::new().participants(PARTICIPANTS).create(4).expect("there is memory");
        while queue.try_put(0).is_ok() {}
        Room(queue)
    }

    fn operate(&self, table: &Table, step: Step<'_>) {
        step(&mut || _ = self.0.get().expect("it is open"));
        until(|| self.is_settled(table));
    }

    fn wait(&self, _: &Table) {
        self.0.put(1).expect("it is open");
    }

    async fn wait_async(&self, _: &Table) {
        self.0.put_async(1).await.expect("it is open");
    }

    fn watched<R>(&self, by: impl FnOnce(&dyn Waitable) -> R) -> R {
        by(&self.0.room())
    }

    fn try_take(&self, _: &Table) {
        let _ = self.0.try_put(1);
    }

    fn is_settled(&self, _: &Table) -> bool {
        try_wait_any(&[&self.0.room()]).is_err()
    }

    fn mend(&self, _: &Table) {
        while self.0.try_put(1).is_ok() {}
    }
}

/// Tasks of a joinable queue.
pub(crate) struct Tasks(JoinableQueue<u64>);

impl Thing for Tasks {
    const NAME: &str = "task";

    fn new() -> Self {
        Tasks(
            QueueOptions::new()
                .participants(PARTICIPANTS)
                .create_joinable(4)
                .expect("there is memory"),
        )
    }

    fn operate(&self, table: &Table, step: Step<'_>) {
        step(&mut || self.0.put(1).expect("it is open"));
        until(|| self.is_settled(table));
    }

    fn wait(&self, _: &Table) {
        self.0.get().expect("it is open").done();
    }

    async fn wait_async(&self, _: &Table) {
        self.0.get_async().await.expect("it is open").done();
    }

    fn watched<R>(&self, by: impl FnOnce(&dyn Waitable) -> R) -> R {
        by(&self.0)
    }

    fn try_take(&self, _: &Table) {
        if let Ok(task) = self.0.try_get() {
            task.done();
        }
    }

    fn is_settled(&self, _: &Table) -> bool {
        self.0.unfinished() == 0
    }

    fn mend(&self, table: &Table) {
        until(|| {
            self.try_take(table);
            self.is_settled(table)
        });
    }
}

/// Permits of a semaphore.
pub(crate) struct Permits(Shm<Semaphore>);

impl Thing for Permits {
    const NAME: &str = "semaphore";

    fn new() -> Self {
        Permits(Shm::new(Semaphore::new(0)).expect("there is memory"))
    }

    fn operate(&self, table: &Table, step: Step<'_>) {
        step(&mut || self.0.release().expect("few permits"));
        until(|| self.is_settled(table));
    }

    fn wait(&self, _: &Table) {
        self.0.acquire();
    }

    async fn wait_async(&self, _: &Table) {
        self.0.acquire_async().await.expect("it can be waited for");
    }

    fn watched<R>(&self, by: impl FnOnce(&dyn Waitable) -> R) -> R {
        by(&*self.0)
    }

    fn try_take(&self, _: &Table) {
        let _ = self.0.try_acquire();
    }

    fn is_settled(&self, _: &Table) -> bool {
        self.0.value() == 0
    }

    fn mend(&self, _: &Table) {
        while self.0.try_acquire().is_ok() {}
    }
}

/// An event, which is cleared when the survivor has seen that it was set. `passed` counts what the
/// survivor has seen. `turn` follows when the event was cleared.
pub(crate) struct Bell(Shm<Event>);

impl Bell {
    fn until_cleared(&self) {
        until(|| !self.0.is_set());
    }
}

impl Thing for Bell {
    const NAME: &str = "event";

    fn new() -> Self {
        Bell(Shm::new(Event::new()).expect("there is memory"))
    }

    fn operate(&self, table: &Table, step: Step<'_>) {
        step(&mut || self.0.set());
        until(|| table.passed.load(SeqCst) > table.turn.load(SeqCst));
        self.go_on(table);
    }

    fn wait(&self, _: &Table) {
        self.0.wait();
        self.until_cleared();
    }

    async fn wait_async(&self, _: &Table) {
        self.0.wait_async().await.expect("it can be waited for");
        self.until_cleared();
    }

    fn watched<R>(&self, by: impl FnOnce(&dyn Waitable) -> R) -> R {
        by(&*self.0)
    }

    fn try_take(&self, _: &Table) {
        self.until_cleared();
    }

    fn survive(&self, table: &Table) {
        self.0.wait();
        let passed = table.passed.fetch_add(1, SeqCst) + 1;
        table.await_turn(passed);
    }

    fn is_settled(&self, table: &Table) -> bool {
        !self.0.is_set() || table.passed.load(SeqCst) > table.turn.load(SeqCst)
    }

    fn go_on(&self, table: &Table) {
        self.0.clear();
        table.let_them_sleep();
        table.next_turn(table.passed.load(SeqCst));
    }

    fn mend(&self, table: &Table) {
        self.0.clear();
        self.0.set();
        until(|| table.passed.load(SeqCst) > table.turn.load(SeqCst));
        self.go_on(table);
    }
}

/// A lock. The owner begins a turn and frees the lock. Every process locks it once in each turn.
pub(crate) struct Mutex(Shm<Lock<u64>>);

impl Mutex {
    fn lock(&self) -> LockGuard<'_, u64> {
        self.0.lock_or_repair(|_| ()).unwrap()
    }
}

impl Thing for Mutex {
    const NAME: &str = "lock";
    const HAS_PLAIN_BESIDE: bool = true;

    fn new() -> Self {
        Mutex(Shm::new(Lock::new(0)).expect("there is memory"))
    }

    fn operate(&self, table: &Table, step: Step<'_>) {
        let mut guard = Some(self.lock());
        let turn = table.turn.load(SeqCst) + 1;
        table.next_turn(turn);
        until(|| table.trying.load(SeqCst) == turn);
        table.let_them_sleep();
        step(&mut || drop(guard.take()));
        until(|| self.is_settled(table));
    }

    fn wait(&self, table: &Table) {
        let turn = table.turn.load(SeqCst);
        drop(self.lock());
        table.await_turn(turn + 1);
    }

    async fn wait_async(&self, _: &Table) {
        wait_any_async(&[&self.0.owner_death()]).await.expect("it is not this thread's");
    }

    fn watched<R>(&self, by: impl FnOnce(&dyn Waitable) -> R) -> R {
        by(&self.0.owner_death())
    }

    fn try_take(&self, _: &Table) {
        // The lock's owner has died, and so has this process.
        thread::yield_now();
    }

    fn survive(&self, table: &Table) {
        table.await_turn(table.passed.load(SeqCst) + 1);
        let turn = table.turn.load(SeqCst);
        table.trying.store(turn, SeqCst);
        let guard = self.lock();
        table.passed.store(turn, SeqCst);
        drop(guard);
    }

    fn is_settled(&self, table: &Table) -> bool {
        table.passed.load(SeqCst) == table.turn.load(SeqCst)
    }

    fn mend(&self, table: &Table) {
        drop(self.lock());
        until(|| self.is_settled(table));
    }
}
