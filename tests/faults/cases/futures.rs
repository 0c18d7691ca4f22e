//! Futures.

use core::time::Duration;

use crossproc::{Event, Queue, Readable, Semaphore, Shm, pipe, wait_any_async};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::{Case, Peer};
use crate::probe::{LONG, SHORT, done, require};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Polls a future until it is done or the time is over.
fn done_in<F: Future>(runtime: &Runtime, time: Duration, future: F) -> Option<F::Output> {
    runtime.block_on(async { timeout(time, future).await.ok() })
}

pub(super) fn add(all: &mut Vec<Case>) {
    let mut case = |name, run| all.push(Case { name, run });
    case("future: an event's is given up", |probe| {
        let (runtime, event) = (runtime(), Shm::new(Event::new()).unwrap());
        probe.operate(|| match done_in(&runtime, SHORT, event.wait_async()) {
            None => Ok(()),
            Some(result) => Ok(result?),
        });
    });
    case("future: a semaphore's is done", |probe| {
        let (runtime, semaphore) = (runtime(), Shm::new(Semaphore::new(0)).unwrap());
        let peer = Peer::new(|| semaphore.release().unwrap());
        let operation = || {
            peer.ask();
            match done_in(&runtime, LONG, semaphore.acquire_async()) {
                None => Ok(require(false, "it is done in time")?),
                Some(result) => Ok(result?),
            }
        };
        probe.operate_and_look(operation, |is_ok| {
            peer.finish()?;
            require(semaphore.value() == u32::from(!is_ok), "the permit was taken if it says so")?;
            _ = semaphore.try_acquire();
            Ok(())
        });
    });
    case("future: a queue's is done", |probe| {
        let (runtime, queue) = (runtime(), Queue::<u64>::new(1).unwrap());
        let peer = Peer::new(|| queue.put(7).unwrap());
        let operation = || {
            peer.ask();
            match done_in(&runtime, LONG, queue.get_async()) {
                None => Ok(require(false, "it is done in time")?),
                Some(result) => Ok(require(result? == 7, "it is what was put")?),
            }
        };
        probe.operate_and_look(operation, |is_ok| {
            peer.finish()?;
            require(is_ok || queue.try_get()? == 7, "it is there if it was not got")?;
            Ok(())
        });
    });
    case("future: a connection's is done", |probe| {
        let (runtime, (ours, theirs)) = (runtime(), pipe().unwrap());
        let peer = Peer::new(|| theirs.send(b"hello").unwrap());
        let operation = || {
            peer.ask();
            match done_in(&runtime, LONG, ours.recv_async()) {
                None => Ok(require(false, "it is done in time")?),
                Some(message) => Ok(require(&*message? == b"hello", "it is what was sent")?),
            }
        };
        probe.operate_and_look(operation, |is_ok| {
            peer.finish()?;
            Ok(require(is_ok || ours.try_recv().is_ok(), "it is there if it was not received")?)
        });
    });
    case("future: of several, a descriptor's is done", |probe| {
        let (runtime, (ours, theirs), event) =
            (runtime(), pipe().unwrap(), Shm::new(Event::new()).unwrap());
        let peer = Peer::new(|| theirs.send(b"hello").unwrap());
        let operation = || {
            peer.ask();
            let readable = Readable(&ours);
            match done_in(&runtime, LONG, wait_any_async(&[&*event, &readable])) {
                None => Ok(require(false, "it is done in time")?),
                Some(ready) => Ok(require(ready? == [1], "what is ready is told")?),
            }
        };
        probe.operate_and_look(operation, |_| {
            peer.finish()?;
            done(ours.try_recv()?)
        });
    });
}
