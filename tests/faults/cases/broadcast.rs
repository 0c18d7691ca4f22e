//! Broadcasts.

use core::cell::RefCell;

use crossproc::{Broadcast, BroadcastOptions, QueueError, SlowSubscribers, Subscriber};

use super::{Case, Peer, duplicate};
use crate::probe::{LONG, SHORT, done, require};

thread_local! {
    /// A peer's.
    static SUBSCRIBER: RefCell<Option<Subscriber<u64>>> = const { RefCell::new(None) };
}

pub(super) fn add(all: &mut Vec<Case>) {
    let mut case = |name, run| all.push(Case { name, run });
    case("broadcast: created", |probe| {
        let options =
            BroadcastOptions::new().participants(3).slow_subscribers(SlowSubscribers::Expel(LONG));
        probe.operate(|| done((Broadcast::<u64>::new(100)?, options.create_bytes(10, 300)?)));
    });
    case("broadcast: attach", |probe| {
        let broadcast: Broadcast<u64> = Broadcast::new(2).unwrap();
        broadcast.send(7).unwrap();
        let operation = || {
            let again: Broadcast<u64> = Broadcast::attach(duplicate(&broadcast)?)?;
            Ok(require(again.subscribe_from_oldest()?.try_recv()? == 7, "it is the same")?)
        };
        probe.operate(operation);
    });
    case("broadcast: a thread's first send", |probe| {
        let broadcast: Broadcast<u64> = Broadcast::new(2).unwrap();
        let mut subscriber = broadcast.subscribe().unwrap();
        let look = |is_ok: bool| {
            require(subscriber.lag() == usize::from(is_ok), "it is there if it was sent")?;
            require(!is_ok || subscriber.try_recv()? == 7, "it is what was sent")?;
            Ok(())
        };
        probe.operate_and_look(|| Ok(broadcast.send(7)?), look);
    });
    case("broadcast: subscribe, and leave", |probe| {
        let broadcast: Broadcast<u64> = Broadcast::new(2).unwrap();
        broadcast.send(7).unwrap();
        let operation = || {
            let (_now, mut oldest) = (broadcast.subscribe()?, broadcast.subscribe_from_oldest()?);
            Ok(require(oldest.try_recv()? == 7, "it is the oldest")?)
        };
        let look = |_: bool| Ok(require(broadcast.subscribers() == 0, "nobody is left")?);
        probe.operate_and_look(operation, look);
    });
    case("broadcast: a send times out", |probe| {
        let broadcast: Broadcast<u64> = Broadcast::new(1).unwrap();
        broadcast.send(1).unwrap();
        // It never reads.
        let reader = Peer::new(|| core::mem::forget(broadcast.subscribe_from_oldest().unwrap()));
        reader.ask();
        reader.finish().unwrap();
        let operation = || match broadcast.send_timeout(2, SHORT) {
            Err(error) if matches!(error.error, QueueError::TimedOut) => Ok(()),
            other => Ok(other?),
        };
        probe.operate(operation);
    });
    case("broadcast: a receive times out", |probe| {
        let broadcast: Broadcast<u64> = Broadcast::new(1).unwrap();
        let mut subscriber = broadcast.subscribe().unwrap();
        probe.operate(|| match subscriber.recv_timeout(SHORT) {
            Err(QueueError::TimedOut) => Ok(()),
            other => Ok(other.map(|_| ())?),
        });
    });
    case("broadcast: a receive is woken", |probe| {
        let broadcast: Broadcast<u64> = Broadcast::new(1).unwrap();
        let mut subscriber = broadcast.subscribe().unwrap();
        let sender = Peer::new(|| broadcast.send(7).unwrap());
        let operation = || {
            while subscriber.try_recv().is_ok() {}
            sender.ask();
            Ok(require(subscriber.recv_timeout(LONG)? == 7, "it is what was sent")?)
        };
        probe.operate_and_look(operation, |_| sender.finish());
    });
    case("broadcast: a send is woken, and wakes", |probe| {
        let broadcast: Broadcast<u64> = Broadcast::new(1).unwrap();
        let reader = Peer::new(|| {
            SUBSCRIBER.with_borrow_mut(|subscriber| {
                let subscriber = subscriber.get_or_insert_with(|| broadcast.subscribe().unwrap());
                while subscriber.try_recv().is_ok() {}
            });
        });
        reader.ask();
        reader.finish().unwrap();
        broadcast.send(7).unwrap();
        let operation = || {
            reader.ask();
            Ok(broadcast.send_timeout(7, LONG)?)
        };
        let look = |_: bool| {
            reader.finish()?;
            // There is no room, as before.
            let _ = broadcast.try_send(7);
            Ok(())
        };
        probe.operate_and_look(operation, look);
    });
    case("broadcast: a view", |probe| {
        let lines = Broadcast::with_max_len(2, 100).unwrap();
        let mut subscriber = lines.subscribe().unwrap();
        let operation = || {
            while subscriber.try_recv().is_ok() {}
            lines.send(b"hello")?;
            Ok(require(*subscriber.try_view()? == *b"hello", "it is what was sent")?)
        };
        probe.operate(operation);
    });
    case("broadcast: close wakes", |probe| {
        let operation = || {
            let broadcast: Broadcast<u64> = Broadcast::new(1)?;
            let mut subscriber = broadcast.subscribe()?;
            broadcast.close()?;
            Ok(require(matches!(subscriber.recv(), Err(QueueError::Closed)), "it is closed")?)
        };
        probe.operate(operation);
    });
}
