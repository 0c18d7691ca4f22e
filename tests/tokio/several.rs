//! Waits for several things at once.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::num::NonZeroU32;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use crossproc::{
    Event, JoinableQueue, Queue, QueueError, QueueOptions, Readable, Semaphore, Shm, WaitAnyError,
    set_recheck_interval, wait_any_async,
};
use tokio::task::{JoinSet, LocalSet, yield_now};

use super::{assert_send, in_time, one_thread, poll_once, threads};
use crate::forked::{fork, join_all, kill, wait_until};

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
fn what_becomes_of_tasks_is_waited_for() {
    set_recheck_interval(None);
    let options = QueueOptions::new().attempts(NonZeroU32::new(1), 4);
    let tasks: JoinableQueue<u64> = options.create_joinable(4).unwrap();
    tasks.put_many(&[1, 2, 3]).unwrap();
    let go = Shm::new(Semaphore::new(0)).unwrap();
    let (their_tasks, their_go) = (tasks.clone(), go.clone());
    let worker = fork(move || {
        their_go.acquire();
        drop(their_tasks.get().unwrap()); // its only attempt
        their_go.acquire();
        their_tasks.get().unwrap().done();
        let _last = their_tasks.get().unwrap();
        their_go.acquire();
        their_go.acquire();
    });
    one_thread().block_on(in_time(async {
        let (all, letter) = (tasks.all_done(), tasks.next_dead_letter());
        let on: [&dyn crossproc::Waitable; 2] = [&all, &letter];
        let wait = assert_send_any(&on);
        go.release().unwrap();
        assert_eq!(wait.await.unwrap(), [1]);
        assert_eq!(*tasks.dead_letter().unwrap(), 1);
        let (told, _) = tokio::join!(wait_any_async(&[&letter]), async {
            yield_now().await;
            go.release().unwrap();
            wait_until("the worker has its last task", || tasks.is_empty());
            kill(&worker);
        });
        assert_eq!(told.unwrap(), [0]);
        assert_eq!(*tasks.dead_letter().unwrap(), 3);
        assert_eq!(wait_any_async(&on).await.unwrap(), [0]);
    }));
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
