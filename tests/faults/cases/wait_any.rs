//! Waits for several things at once.

use core::num::NonZeroU32;

use crossproc::process::{Builder, Child};
use crossproc::{
    Event, JoinableQueue, Lock, Queue, QueueOptions, Readable, Semaphore, Shm, WaitAnyError,
    Waitable, Writable, pipe, try_wait_any, wait_any_timeout,
};

use super::{Case, Peer};
use crate::probe::{LONG, Outcome, Probe, SHORT, require};

/// Requires a time-out: none of the things is ready.
fn times_out(probe: Probe<'_>, on: &[&dyn Waitable]) {
    probe.operate(|| match wait_any_timeout(on, SHORT) {
        Err(WaitAnyError::TimedOut) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(ready) => Ok(require(false, &format!("{ready:?} are ready"))?),
    });
}

/// Waits until a peer makes the last of the things ready.
fn is_woken(probe: Probe<'_>, on: &[&dyn Waitable], wake: impl FnMut() + Send, again: impl Fn()) {
    let peer = Peer::new(wake);
    let operation = || {
        peer.ask();
        let ready = wait_any_timeout(on, LONG)?;
        Ok(require(ready == [on.len() - 1], "what is ready is told")?)
    };
    let look = |_| {
        peer.finish()?;
        again();
        Ok(())
    };
    probe.operate_and_look(operation, look);
}

fn sleeping_child() -> Child {
    // SAFETY: it only sleeps.
    unsafe {
        Builder::new().daemon(true).fork_with_threads(|| -> () {
            loop {
                std::thread::park();
            }
        })
    }
    .unwrap()
}

pub(super) fn add(all: &mut Vec<Case>) {
    let mut case = |name, run| all.push(Case { name, run });
    case("wait_any: two times out", |probe| {
        let (event, semaphore) =
            (Shm::new(Event::new()).unwrap(), Shm::new(Semaphore::new(0)).unwrap());
        times_out(probe, &[&*event, &*semaphore]);
    });
    case("wait_any: many time out", |probe| {
        let events: Shm<[Event]> = Shm::from_fn(200, |_| Event::new()).unwrap();
        let on: Vec<&dyn Waitable> = events.iter().map(|event| event as &dyn Waitable).collect();
        times_out(probe, &on);
    });
    case("wait_any: a descriptor times out", |probe| {
        let (ours, _theirs) = pipe().unwrap();
        times_out(probe, &[&Readable(&ours)]);
    });
    case("wait_any: words, descriptor and child time out", |probe| {
        let (ours, _theirs) = pipe().unwrap();
        let (event, child) = (Shm::new(Event::new()).unwrap(), sleeping_child());
        times_out(probe, &[&*event, &Readable(&ours), &child]);
    });
    case("wait_any: two are woken", |probe| {
        let (event, semaphore) =
            (Shm::new(Event::new()).unwrap(), Shm::new(Semaphore::new(0)).unwrap());
        is_woken(
            probe,
            &[&*event, &*semaphore],
            || semaphore.release().unwrap(),
            || _ = semaphore.try_acquire(),
        );
    });
    case("wait_any: a word beside a descriptor is woken", |probe| {
        let (ours, _theirs) = pipe().unwrap();
        let event = Shm::new(Event::new()).unwrap();
        is_woken(probe, &[&Readable(&ours), &*event], || event.set(), || event.clear());
    });
    case("wait_any: a descriptor beside a word is woken", |probe| {
        let (ours, theirs) = pipe().unwrap();
        let event = Shm::new(Event::new()).unwrap();
        let again = || drop(ours.try_recv());
        is_woken(probe, &[&*event, &Readable(&ours)], || theirs.send(b"x").unwrap(), again);
    });
    case("wait_any: a queue and a lock's owner", |probe| {
        let queue: Queue<u64> = Queue::new(2).unwrap();
        let lock = Shm::new(Lock::new(0)).unwrap();
        let owner = Peer::new(|| core::mem::forget(lock.lock().unwrap()));
        owner.ask();
        owner.finish().unwrap();
        let again = || drop(queue.try_get());
        is_woken(probe, &[&lock.owner_death(), &queue], || queue.put(1).unwrap(), again);
    });
    case("wait_any: until all tasks are done", |probe| {
        let tasks: JoinableQueue<u64> = JoinableQueue::new(2).unwrap();
        tasks.put(7).unwrap();
        let worker = || tasks.get().unwrap().done();
        is_woken(probe, &[&tasks.all_done()], worker, || tasks.put(7).unwrap());
    });
    case("wait_any: a dead letter", |probe| {
        let tasks: JoinableQueue<u64> =
            QueueOptions::new().attempts(NonZeroU32::new(1), 2).create_joinable(4).unwrap();
        tasks.put(7).unwrap();
        let again = || {
            drop(tasks.dead_letter().unwrap());
            tasks.put(7).unwrap();
        };
        let worker = || drop(tasks.get().unwrap());
        is_woken(probe, &[&tasks.next_dead_letter()], worker, again);
    });
    case("try_wait_any: of each kind", |probe| {
        let (ours, _theirs) = pipe().unwrap();
        let (event, child) = (Shm::new(Event::new()).unwrap(), sleeping_child());
        let queue: Queue<u64> = Queue::new(2).unwrap();
        let lock = Shm::new(Lock::new(0)).unwrap();
        let (room, death) = (queue.room(), lock.owner_death());
        let looks = || -> Outcome {
            let ready = try_wait_any(&[
                &*event,
                &Readable(&ours),
                &Writable(&ours),
                &child,
                &queue,
                &room,
                &death,
            ])?;
            Ok(require(ready == [2, 5], "what is ready is told")?)
        };
        probe.operate(looks);
    });
}
