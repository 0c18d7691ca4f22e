//! The futures, with the processes that make them ready.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use crossproc::{
    BoundedSemaphore, ByteQueue, Event, EventError, JoinableByteQueue, JoinableQueue, Queue,
    QueueError, QueueOptions, Readable, Semaphore, SemaphoreError, Shm, WaitAnyError,
    set_recheck_interval, wait_any_async,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};
use tokio::time::{sleep, timeout};

mod forked;
mod refused;
use forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};

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

#[test]
fn a_close_is_told_to_all() {
    let runtime = threads(2);
    let queue = Queue::<u64>::new(4).unwrap();
    let mut waits = JoinSet::new();
    for _ in 0..100 {
        let queue = queue.clone();
        waits.spawn_on(async move { queue.get_async().await }, runtime.handle());
    }
    let child = fork(move || queue.close().unwrap());
    let results = runtime.block_on(in_time(waits.join_all()));
    assert!(results.iter().all(|result| matches!(result, Err(QueueError::Closed))));
    join_all([child]);
}

#[test]
fn a_failed_put_gives_the_value_back() {
    let queue = Queue::<u64>::new(1).unwrap();
    queue.close().unwrap();
    let error = one_thread().block_on(queue.put_async(7)).unwrap_err();
    assert_eq!(error.value, 7);
    assert!(matches!(error.error, QueueError::Closed));
}

/// The first put finds room. A later one waits for the room that another process makes.
#[test]
fn bytes_and_tasks_are_put_by_futures_as_soon_as_there_is_room() {
    let messages = ByteQueue::with_max_len(1, 16).unwrap();
    let tasks = JoinableQueue::<u64>::new(1).unwrap();
    let byte_tasks = JoinableByteQueue::with_max_len(1, 16).unwrap();
    let go = Shm::new(Event::new()).unwrap();
    let theirs = (messages.clone(), tasks.clone(), byte_tasks.clone(), go.clone());
    let child = fork(move || {
        let (messages, tasks, byte_tasks, go) = theirs;
        go.wait();
        for number in 0..2 {
            assert_eq!(messages.get().unwrap(), [number; 3]);
            let task = tasks.get().unwrap();
            assert_eq!(*task, u64::from(number));
            task.done();
            let task = byte_tasks.get().unwrap();
            assert_eq!(task[..], [number; 16]);
            task.done();
        }
    });
    one_thread().block_on(in_time(async {
        messages.put_async(&[0; 3]).await.unwrap();
        tasks.put_async(0).await.unwrap();
        byte_tasks.put_async(&[0; 16]).await.unwrap();
        assert!(matches!(messages.try_put(&[1; 3]), Err(QueueError::Full)));
        let (message, task, bytes) = ([1; 3], 1, [1; 16]);
        let mut message = pin!(assert_send(messages.put_async(&message)));
        let mut task = pin!(assert_send(tasks.put_async(task)));
        let mut bytes = pin!(assert_send(byte_tasks.put_async(&bytes)));
        assert!(poll_once(message.as_mut()).is_pending());
        assert!(poll_once(task.as_mut()).is_pending());
        assert!(poll_once(bytes.as_mut()).is_pending());
        go.set();
        message.await.unwrap();
        task.await.unwrap();
        bytes.await.unwrap();
    }));
    join_all([child]);
    tasks.join().unwrap();
    byte_tasks.join().unwrap();
}

#[test]
fn what_cannot_be_put_is_told_by_futures_at_once() {
    let runtime = one_thread();
    let (messages, byte_tasks) =
        (ByteQueue::with_max_len(1, 16).unwrap(), JoinableByteQueue::with_max_len(1, 16).unwrap());
    let tasks = JoinableQueue::<u64>::new(1).unwrap();
    let too_long = [7; 17];
    for result in [
        runtime.block_on(messages.put_async(&too_long)),
        runtime.block_on(byte_tasks.put_async(&too_long)),
    ] {
        assert!(matches!(result, Err(QueueError::TooLong { len: 17, max: 16 })), "{result:?}");
    }
    messages.close().unwrap();
    byte_tasks.close().unwrap();
    tasks.close().unwrap();
    for result in [
        runtime.block_on(messages.put_async(b"late")),
        runtime.block_on(byte_tasks.put_async(b"late")),
    ] {
        assert!(matches!(result, Err(QueueError::Closed)), "{result:?}");
    }
    let error = runtime.block_on(tasks.put_async(7)).unwrap_err();
    assert!(error.value == 7 && matches!(error.error, QueueError::Closed), "{error:?}");
    assert!(matches!(runtime.block_on(byte_tasks.get_async()), Err(QueueError::Closed)));
}

#[test]
fn a_future_that_is_dropped_has_taken_and_put_nothing() {
    let queue = Queue::<u64>::new(1).unwrap();
    set_recheck_interval(None);
    {
        let mut get = pin!(queue.get_async());
        assert!(poll_once(get.as_mut()).is_pending());
        queue.put(1).unwrap();
    }
    {
        let mut put = pin!(queue.put_async(2));
        assert!(poll_once(put.as_mut()).is_pending());
        assert_eq!(queue.get().unwrap(), 1);
    }
    assert!(matches!(queue.try_get(), Err(QueueError::Empty)));
    let permits = Semaphore::new(0);
    {
        let mut acquire = pin!(permits.acquire_async());
        assert!(poll_once(acquire.as_mut()).is_pending());
        permits.release().unwrap();
    }
    assert_eq!(permits.value(), 1);
}

/// Getters give up after a random time, until they have got all that several processes put.
#[test]
fn nothing_is_lost_by_getters_that_give_up() {
    const PRODUCERS: u64 = 3;
    const EACH: u64 = 4_000;
    let queue = Queue::<u64>::new(8).unwrap();
    let children: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let queue = queue.clone();
            fork(move || (0..EACH).for_each(|number| queue.put(producer * EACH + number).unwrap()))
        })
        .collect();
    let runtime = threads(3);
    let (sum, count) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut getters = JoinSet::new();
    for getter in 0..20 {
        let (queue, sum, count) = (queue.clone(), Arc::clone(&sum), Arc::clone(&count));
        let get = async move {
            loop {
                // Some getters never give up: if one of them sleeps on, something was lost.
                let patience = if getter % 5 == 0 {
                    PATIENCE
                } else {
                    Duration::from_micros(fastrand::u64(..2_000))
                };
                tokio::select! {
                    biased;
                    () = sleep(patience) => {}
                    number = queue.get_async() => match number {
                        Ok(number) => {
                            sum.fetch_add(number, SeqCst);
                            count.fetch_add(1, SeqCst);
                        }
                        Err(error) => return assert!(matches!(error, QueueError::Closed)),
                    },
                }
            }
        };
        getters.spawn_on(get, runtime.handle());
    }
    join_all(children);
    wait_until("all is got", || count.load(SeqCst) == PRODUCERS * EACH);
    queue.close().unwrap();
    runtime.block_on(in_time(getters.join_all()));
    assert_eq!(sum.load(SeqCst), (0..PRODUCERS * EACH).sum());
}

#[test]
fn nothing_is_lost_by_putters_that_give_up() {
    const ALL: u64 = 5_000;
    let queue = Queue::<u64>::new(2).unwrap();
    let theirs = queue.clone();
    let total = Shm::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let total = total.unwrap();
    let their_total = total.clone();
    let child = fork(move || {
        while let Ok(number) = theirs.get() {
            their_total[0].fetch_add(number, SeqCst);
        }
    });
    let runtime = threads(3);
    let mut putters = JoinSet::new();
    for _ in 0..10 {
        let (queue, total) = (queue.clone(), total.clone());
        let put = async move {
            while total[1].load(SeqCst) < ALL {
                let number = fastrand::u64(..1_000);
                let patience = Duration::from_micros(fastrand::u64(..1_000));
                // The sum of the numbers that were put, by the putters' own count.
                tokio::select! {
                    biased;
                    () = sleep(patience) => {}
                    put = queue.put_async(number) => {
                        put.unwrap();
                        total[1].fetch_add(1, SeqCst);
                        total[0].fetch_sub(number, SeqCst);
                    }
                }
            }
        };
        putters.spawn_on(put, runtime.handle());
    }
    runtime.block_on(in_time(putters.join_all()));
    queue.close().unwrap();
    join_all([child]);
    assert_eq!(total[0].load(SeqCst), 0);
}

#[test]
fn no_permit_is_lost_by_those_who_give_up() {
    const PERMITS: u32 = 3;
    let permits = Shm::new(Semaphore::new(PERMITS)).unwrap();
    let stop = Shm::new(Event::new()).unwrap();
    let children: Vec<_> = (0..2)
        .map(|_| {
            let (permits, stop) = (permits.clone(), stop.clone());
            fork(move || {
                while !stop.is_set() {
                    permits.acquire();
                    permits.release().unwrap();
                }
            })
        })
        .collect();
    let runtime = threads(2);
    let mut takers = JoinSet::new();
    for taker in 0..20 {
        let permits = permits.clone();
        let take = async move {
            for _ in 0..200 {
                let patience = if taker % 4 == 0 {
                    PATIENCE
                } else {
                    Duration::from_micros(fastrand::u64(..500))
                };
                tokio::select! {
                    biased;
                    () = sleep(patience) => assert!(taker % 4 != 0, "one that waits was forgotten"),
                    taken = permits.acquire_async() => {
                        taken.unwrap();
                        yield_now().await;
                        permits.release().unwrap();
                    }
                }
            }
        };
        takers.spawn_on(take, runtime.handle());
    }
    runtime.block_on(in_time(takers.join_all()));
    stop.set();
    join_all(children);
    assert_eq!(permits.value(), PERMITS);
}

#[test]
fn tasks_of_a_killed_worker_come_to_a_future() {
    let queue = JoinableQueue::<u64>::new(8).unwrap();
    let runtime = threads(2);
    for round in 1..=20 {
        queue.put(round).unwrap();
        let theirs = queue.clone();
        let has_it = Shm::new(Event::new()).unwrap();
        let told = has_it.clone();
        let worker = fork(move || {
            let _task = theirs.get().unwrap();
            told.set();
            Event::new().wait();
        });
        has_it.wait();
        let ours = queue.clone();
        let got = runtime.spawn(async move {
            let task = ours.get_async().await.unwrap();
            let got = (*task, task.attempts());
            task.done();
            got
        });
        if round % 2 == 0 {
            // Most likely the future has found no task by then, and waits when the worker dies.
            runtime.block_on(async { yield_now().await });
        }
        kill(&worker);
        assert_eq!(runtime.block_on(in_time(got)).unwrap(), (round, 2));
    }
    queue.join().unwrap();
}

#[test]
fn killed_producers_lose_nothing_of_others_and_futures_go_on() {
    let queue = QueueOptions::new().participants(8).create::<u64>(4).unwrap();
    let runtime = threads(2);
    let (got, stop) = (Arc::new(AtomicU64::new(0)), Shm::new(Event::new()).unwrap());
    // The survivor's items all come, in order.
    let (theirs, their_stop) = (queue.clone(), stop.clone());
    let survivor = fork(move || {
        let mut number = 0;
        while !their_stop.is_set() {
            number += 1;
            theirs.put(number).unwrap();
        }
        theirs.put(number | 1 << 63).unwrap();
    });
    let (ours, counted) = (queue.clone(), Arc::clone(&got));
    let getter = runtime.spawn(async move {
        let mut last = 0;
        loop {
            match ours.get_async().await.unwrap() {
                0 => {}
                end if end >> 63 != 0 => return assert_eq!(end & !(1 << 63), last),
                number => {
                    assert_eq!(number, last + 1);
                    last = number;
                }
            }
            counted.fetch_add(1, SeqCst);
        }
    });
    for _ in 0..50 {
        let theirs = queue.clone();
        let victim = fork(move || -> () {
            loop {
                theirs.put(0).unwrap();
            }
        });
        let before = got.load(SeqCst);
        let more = fastrand::u64(1..200);
        wait_until("items are got", || got.load(SeqCst) > before + more);
        kill(&victim);
    }
    stop.set();
    runtime.block_on(in_time(getter)).unwrap();
    join_all([survivor]);
}

#[test]
fn a_sleeper_elsewhere_is_not_forgotten_for_a_future_that_is_dropped() {
    let queue = Queue::<u64>::new(4).unwrap();
    set_recheck_interval(None);
    for round in 0..200 {
        let mut get = Box::pin(queue.get_async());
        assert!(poll_once(get.as_mut()).is_pending());
        let theirs = queue.clone();
        let child = fork(move || assert_eq!(theirs.get().unwrap(), round));
        wait_until_asleep(&child);
        // The thread of this process is the first sleeper. The wake may reach it before the drop,
        // or after it.
        if round % 2 == 0 {
            queue.put(round).unwrap();
            drop(get);
        } else {
            drop(get);
            queue.put(round).unwrap();
        }
        join_all([child]);
    }
}

#[test]
fn several_things_are_waited_for_at_once() {
    let runtime = one_thread();
    let (event, queue) = (Shm::new(Event::new()).unwrap(), Queue::<u64>::new(4).unwrap());
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let go = Shm::new(Semaphore::new(0)).unwrap();
    let (their_event, their_queue, their_go) = (event.clone(), queue.clone(), go.clone());
    let child = fork(move || {
        their_go.acquire();
        their_queue.put(1).unwrap();
        their_go.acquire();
        their_event.set();
        their_event.clear();
        their_go.acquire();
    });
    runtime.block_on(in_time(async {
        let readable = Readable(&theirs);
        let on: [&dyn crossproc::Waitable; 4] = [&*event, &queue, &readable, &child];
        let first = wait_any_async(&on);
        go.release().unwrap();
        assert_eq!(first.await.unwrap(), [1]);
        assert_eq!(queue.get_async().await.unwrap(), 1);
        let second = assert_send_any(&on);
        go.release().unwrap();
        assert_eq!(second.await.unwrap(), [0]);
        wait_until("the event is cleared", || !event.is_set());
        let (third, _) = tokio::join!(wait_any_async(&on), async {
            yield_now().await;
            ours.write_all(b"hello").unwrap();
        });
        assert_eq!(third.unwrap(), [2]);
        drop(ours);
        let (fourth, _) =
            tokio::join!(wait_any_async(&[&*event, &child]), async { go.release().unwrap() });
        assert_eq!(fourth.unwrap(), [1]);
        assert!(matches!(wait_any_async(&[]).await, Err(WaitAnyError::Nothing)));
    }));
    join_all([child]);
}

fn assert_send_any<'a>(
    on: &[&'a dyn crossproc::Waitable],
) -> impl Future<Output = Result<Vec<usize>, WaitAnyError>> + Send + use<'a> {
    assert_send(wait_any_async(on))
}

#[test]
fn a_wait_that_moves_to_another_thread_is_that_threads() {
    set_recheck_interval(None);
    let queue = JoinableQueue::<u64>::new(4).unwrap();
    let mut wait = Box::pin(assert_send_any(&[&queue]));
    assert!(poll_once(wait.as_mut()).is_pending());
    thread::scope(|scope| {
        let queue = &queue;
        scope.spawn(move || {
            queue.put(7).unwrap();
            let task = queue.get().unwrap();
            queue.close().unwrap();
            // Only this thread has a task in hand, so there will be none for it.
            assert!(poll_once(wait.as_mut()).is_ready());
            task.done();
        });
    });
}

#[test]
fn a_descriptor_whose_data_another_took_is_waited_for_again() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let others = theirs.try_clone().unwrap();
    let (polls, is_taken_away) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(true)));
    let (counted, takes) = (Rc::clone(&polls), Rc::clone(&is_taken_away));
    let local = LocalSet::new();
    // A task of its own, which is polled only when it is woken.
    let wait = local.spawn_local(async move {
        let readable = Readable(&others);
        let mut wait = pin!(wait_any_async(&[&readable]));
        poll_fn(|context| {
            counted.set(counted.get() + 1);
            if takes.get() {
                // The runtime has seen the data, but they are gone when the future looks.
                let _ = theirs.read(&mut [0; 8]);
            }
            wait.as_mut().poll(context)
        })
        .await
    });
    let all = local.run_until(in_time(async {
        for taken in 1..4 {
            while polls.get() < taken {
                yield_now().await;
            }
            ours.write_all(b"1").unwrap();
        }
        while polls.get() < 4 {
            yield_now().await;
        }
        is_taken_away.set(false);
        ours.write_all(b"2").unwrap();
        assert_eq!(wait.await.unwrap().unwrap(), [0]);
    }));
    one_thread().block_on(all);
}

#[test]
fn those_who_wait_for_several_things_tell_each_other() {
    let runtime = threads(2);
    let queues: Arc<Vec<Queue<u64>>> = Arc::new((0..4).map(|_| Queue::new(16).unwrap()).collect());
    let theirs = Arc::clone(&queues);
    let child = fork(move || {
        for number in 0..2_000 {
            theirs[number % 4].put(number as u64).unwrap();
        }
        theirs.iter().for_each(|queue| queue.close().unwrap());
    });
    let mut getters = JoinSet::new();
    for _ in 0..8 {
        let queues = Arc::clone(&queues);
        let get = async move {
            let mut sum = 0;
            let mut open: Vec<&Queue<u64>> = queues.iter().collect();
            while !open.is_empty() {
                let on: Vec<&dyn crossproc::Waitable> =
                    open.iter().map(|queue| *queue as &dyn crossproc::Waitable).collect();
                for at in wait_any_async(&on).await.unwrap().into_iter().rev() {
                    match open[at].try_get() {
                        Ok(number) => sum += number,
                        Err(QueueError::Empty) => {}
                        Err(_) => drop(open.remove(at)),
                    }
                }
            }
            sum
        };
        getters.spawn_on(get, runtime.handle());
    }
    let sums = runtime.block_on(in_time(getters.join_all()));
    assert_eq!(sums.iter().sum::<u64>(), (0..2_000).sum());
    join_all([child]);
}

#[test]
fn a_close_is_told_to_those_who_have_the_last_task_themselves() {
    let queue = JoinableQueue::<u64>::new(4).unwrap();
    queue.put(7).unwrap();
    let (has_task, waits) = (Event::new(), Event::new());
    thread::scope(|scope| {
        let first_in_line = scope.spawn(|| {
            has_task.wait();
            let mut get = pin!(queue.get_async());
            one_thread().block_on(in_time(poll_fn(|context| {
                let polled = get.as_mut().poll(context);
                waits.set();
                polled.map(|result| result.map(drop))
            })))
        });
        let local = LocalSet::new();
        let ours = queue.clone();
        let all = local.run_until(in_time(async {
            let task = ours.get_async().await.unwrap();
            has_task.set();
            waits.wait();
            let theirs = queue.clone();
            // A task of its own, which is polled once here, and again when it is notified.
            let second = spawn_local(async move { theirs.get_async().await.map(drop) });
            yield_now().await;
            queue.close().unwrap();
            // The future of the other thread is told first: for it there may still be this task.
            assert!(matches!(second.await.unwrap(), Err(QueueError::Closed)));
            task.done();
        }));
        one_thread().block_on(all);
        assert!(matches!(first_in_line.join().unwrap(), Err(QueueError::Closed)));
    });
}

#[test]
fn tasks_are_worked_on_across_awaits_on_one_thread() {
    let queue = JoinableQueue::<u64>::new(16).unwrap();
    let theirs = queue.clone();
    let child = fork(move || {
        (0..100).for_each(|number| theirs.put(number).unwrap());
        theirs.close().unwrap();
    });
    let runtime = one_thread();
    let local = LocalSet::new();
    let sum = Rc::new(Cell::new(0));
    for _ in 0..4 {
        let (queue, sum) = (queue.clone(), Rc::clone(&sum));
        local.spawn_local(async move {
            while let Ok(task) = queue.get_async().await {
                yield_now().await;
                sum.set(sum.get() + *task);
                task.done();
            }
        });
    }
    runtime.block_on(in_time(local));
    assert_eq!(sum.get(), (0..100).sum());
    join_all([child]);
    queue.join().unwrap();
}

#[test]
fn without_a_thread_that_sleeps_a_future_is_an_error_and_what_is_there_is_taken() {
    join_all([fork(|| {
        let (event, permits, bounded) = (Event::new(), Semaphore::new(0), BoundedSemaphore::new(0));
        let (numbers, tasks) =
            (Queue::<u64>::new(1).unwrap(), JoinableQueue::<u64>::new(1).unwrap());
        numbers.put(1).unwrap();
        refused::refuse(
            &[libc::SYS_clone, libc::SYS_clone3].map(|clone| refused::call(clone, libc::EAGAIN)),
        );
        for _ in 0..2 {
            let result = poll_once(pin!(event.wait_async()));
            assert!(matches!(result, Poll::Ready(Err(EventError::NoThread))), "{result:?}");
            let result = poll_once(pin!(permits.acquire_async()));
            assert!(matches!(result, Poll::Ready(Err(SemaphoreError::NoThread))), "{result:?}");
            let result = poll_once(pin!(bounded.acquire_async()));
            assert!(matches!(result, Poll::Ready(Err(SemaphoreError::NoThread))), "{result:?}");
            let result = poll_once(pin!(tasks.get_async())).map(|result| result.map(drop));
            assert!(matches!(result, Poll::Ready(Err(QueueError::NoThread(_)))), "{result:?}");
            match poll_once(pin!(numbers.put_async(7))) {
                Poll::Ready(Err(error)) => assert!(
                    error.value == 7 && matches!(error.error, QueueError::NoThread(_)),
                    "{error:?}"
                ),
                result => panic!("{result:?}"),
            }
            let result = poll_once(pin!(wait_any_async(&[&event, &tasks])));
            assert!(matches!(result, Poll::Ready(Err(WaitAnyError::Os(_)))), "{result:?}");
        }
        event.set();
        assert!(matches!(poll_once(pin!(event.wait_async())), Poll::Ready(Ok(()))));
        assert!(matches!(poll_once(pin!(numbers.get_async())), Poll::Ready(Ok(1))));
        assert!(matches!(poll_once(pin!(numbers.put_async(2))), Poll::Ready(Ok(()))));
    })]);
}

#[test]
fn a_future_that_was_carried_into_a_child_is_nothing_there() {
    set_recheck_interval(None);
    let event = Shm::new(Event::new()).unwrap();
    let mut carried = Box::pin(event.wait_async());
    assert!(poll_once(carried.as_mut()).is_pending());
    let mut stays = Box::pin(event.wait_async());
    assert!(poll_once(stays.as_mut()).is_pending());
    // The child drops its copy. So does this process.
    join_all([fork(move || drop(carried))]);
    let theirs = event.clone();
    join_all([fork(move || theirs.set())]);
    wait_until("the other one is told", || poll_once(stays.as_mut()).is_ready());
}

#[test]
fn a_future_that_is_waiting_keeps_its_process_from_forking_and_says_so() {
    join_all([fork(|| {
        let event = Event::new();
        let mut waiting = Box::pin(event.wait_async());
        assert!(poll_once(waiting.as_mut()).is_pending());
        let said = crossproc::process::fork(|| ()).unwrap_err().to_string();
        assert!(
            said.contains("\"crossproc-futex\" (TID ")
                && said.contains("or a future: let that end, or drop it"),
            "{said}"
        );
        // The failed fork did not disturb the future.
        event.set();
        wait_until("it is told", || poll_once(waiting.as_mut()).is_ready());
        drop(waiting);
        assert!(crossproc::process::fork(|| ()).unwrap().join().unwrap().success());
    })]);
}
