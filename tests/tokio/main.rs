//! The futures, with the processes that make them ready.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use crossproc::{
    BoundedSemaphore, ByteQueue, Event, JoinableQueue, Queue, Semaphore, Shm, set_recheck_interval,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;

mod deaths;
#[path = "../forked/mod.rs"]
mod forked;
mod giving_up;
mod long;
mod processes;
mod queues;
#[path = "../refused/mod.rs"]
mod refused;
mod several;

use forked::{PATIENCE, fork, join_all, wait_until};

fn threads(count: usize) -> Runtime {
    set_recheck_interval(None);
    Builder::new_multi_thread().worker_threads(count).enable_all().build().unwrap()
}

fn one_thread() -> Runtime {
    set_recheck_interval(None);
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Fails instead of hanging.
async fn in_time<R>(future: impl Future<Output = R>) -> R {
    timeout(PATIENCE, future).await.expect("it is done in time")
}

fn assert_send<F: Send>(future: F) -> F {
    future
}

/// Polls once, with a waker that does nothing.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn each_future_is_done_by_another_process() {
    let runtime = one_thread();
    let (event, permits) = (Shm::new(Event::new()).unwrap(), Shm::new(Semaphore::new(0)).unwrap());
    let bounded = Shm::new(BoundedSemaphore::new(1)).unwrap();
    bounded.acquire();
    let (numbers, messages) =
        (Queue::<u64>::new(1).unwrap(), ByteQueue::with_max_len(1, 16).unwrap());
    let (tasks, results) = (JoinableQueue::<u64>::new(1).unwrap(), Queue::<u64>::new(1).unwrap());
    results.put(0).unwrap();
    let go = Shm::new(Event::new()).unwrap();
    let theirs = (
        event.clone(),
        permits.clone(),
        bounded.clone(),
        numbers.clone(),
        messages.clone(),
        tasks.clone(),
        results.clone(),
        go.clone(),
    );
    let child = fork(move || {
        let (event, permits, bounded, numbers, messages, tasks, results, go) = theirs;
        go.wait();
        event.set();
        permits.release().unwrap();
        bounded.release().unwrap();
        numbers.put(7).unwrap();
        messages.put(b"hello").unwrap();
        tasks.put(8).unwrap();
        assert_eq!((results.get().unwrap(), results.get().unwrap()), (0, 9));
    });
    runtime.block_on(in_time(async {
        let set = assert_send(event.wait_async());
        let permit = assert_send(permits.acquire_async());
        let bounded = assert_send(bounded.acquire_async());
        let number = assert_send(numbers.get_async());
        let message = assert_send(messages.get_async());
        let task = assert_send(tasks.get_async());
        let put = assert_send(results.put_async(9));
        let begin = async { go.set() };
        let (set, permit, bounded, number, message, task, put, ()) =
            tokio::join!(set, permit, bounded, number, message, task, put, begin);
        set.unwrap();
        permit.unwrap();
        bounded.unwrap();
        put.unwrap();
        assert_eq!((number.unwrap(), &message.unwrap()[..]), (7, &b"hello"[..]));
        task.unwrap().done();
    }));
    assert_eq!(permits.value(), 0);
    tasks.join().unwrap();
    join_all([child]);
}

#[test]
fn an_event_that_is_set_and_cleared_at_once_is_seen_by_all() {
    let runtime = threads(2);
    let event: &'static Event = Box::leak(Box::default());
    for _ in 0..100 {
        let mut waits = JoinSet::new();
        (0..20).for_each(|_| drop(waits.spawn_on(event.wait_async(), runtime.handle())));
        event.set();
        event.clear();
        runtime.block_on(in_time(waits.join_all()));
    }
}

/// A waker that counts its calls.
#[derive(Default)]
struct Calls(AtomicU64);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn an_event_that_was_set_is_told_though_others_have_begun_to_wait_since() {
    set_recheck_interval(None);
    let event = Event::new();
    for _ in 0..300 {
        let calls = Arc::<Calls>::default();
        let mut before = pin!(event.wait_async());
        assert!(
            before
                .as_mut()
                .poll(&mut Context::from_waker(&Waker::from(Arc::clone(&calls))))
                .is_pending()
        );
        // Most likely this comes before the thread that sleeps for the future is up. That thread
        // then only finds what the second future has armed.
        event.set();
        event.clear();
        let mut after = pin!(event.wait_async());
        assert!(poll_once(after.as_mut()).is_pending());
        wait_until("the first is told", || calls.0.load(SeqCst) > 0);
        assert!(poll_once(before.as_mut()).is_ready());
    }
}
