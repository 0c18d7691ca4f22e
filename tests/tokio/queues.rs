//! Queues: puts, closes, and tasks.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::thread;

use crossproc::{ByteQueue, Event, JoinableByteQueue, JoinableQueue, Queue, QueueError, Shm};
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};

use super::{assert_send, in_time, one_thread, poll_once, threads};
use crate::forked::{fork, join_all};

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
