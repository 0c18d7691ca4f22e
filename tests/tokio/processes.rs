//! Futures in a process that starts no thread, or that forks.

use std::pin::pin;
use std::task::Poll;

use crossproc::{
    BoundedSemaphore, Event, EventError, JoinableQueue, Queue, QueueError, Semaphore,
    SemaphoreError, Shm, WaitAnyError, set_recheck_interval, wait_any_async,
};

use super::poll_once;
use crate::forked::{fork, join_all, wait_until};
use crate::refused;

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
