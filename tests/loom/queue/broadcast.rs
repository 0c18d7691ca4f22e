//! Broadcasts: what a subscriber reads is what was sent, and senders leave alone what it may read.

use std::sync::Arc;

use crossproc_sys::model::Futexes::{Look, Sleep};
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
use loom::thread::{self, JoinHandle};

use super::{BlockConfig, Config, Plot, SlowConfig, me, plot_of};
use crate::ring::ends::Ring;
use crate::ring::layout::{EXPEL, LAG, WAIT};
use crate::ring::participant::Participant;
use crate::ring::refused::Refused;
use crate::ring::waiting::Side;
use crate::wait::{Wait, Waiter};
use crate::{join, kill_model, model, participant, share, spawn};

/// A broadcast. The payloads of its plot are those that are read in place. The others may be copied
/// while they are written to.
#[derive(Debug)]
struct Cast {
    plot: Plot,
    words: Vec<AtomicU64>,
}

/// Makes a broadcast for so many items, with all its participants. They need no token.
fn cast(items: u32, ids: u32, policy: u32) -> Arc<Cast> {
    let slow = SlowConfig { policy, patience: 0 };
    let config = Config {
        capacity: items + u32::from(slow.has_spare_entry()),
        letters: 0,
        ids,
        places: 2,
        attempts: 0,
        is_joinable: false,
        size: 8,
        align: 8,
        batch: 0,
        blocks: BlockConfig::default(),
        slow,
    };
    let plot = plot_of(config);
    plot.furnish();
    let words = (0..config.slots()).map(|_| AtomicU64::new(0)).collect();
    share(Cast { plot, words })
}

impl Cast {
    fn subscriber(&self, id: usize) -> Participant {
        let me = self.plot.participant(id);
        self.plot.memory.subscribe(&me, false).unwrap();
        me
    }

    /// Sends a value that is read in place.
    fn send(&self, me: &Participant, value: u64) -> Result<(), Refused> {
        let place = self.plot.write(me, value);
        self.plot.ring().send(me, place).map(|_| ())
    }

    /// Reads the next item in place.
    fn view(&self, me: &Participant) -> Result<u64, Refused> {
        let memory = &self.plot.memory;
        let found = self.plot.ring().next_item(me)?;
        let value = self.plot.payloads[memory.slot_in(found.entry)].get();
        memory.go_on(me)?;
        Ok(value)
    }

    /// Sends a value that is copied.
    fn send_copied(&self, me: &Participant, value: u64) -> Result<(), Refused> {
        let memory = &self.plot.memory;
        let place = memory.free_place(me);
        memory.begin_writing();
        self.words[memory.slot(me, place).unwrap()].store(value, Relaxed);
        self.plot.ring().send(me, place).map(|_| ())
    }

    fn receive(&self, me: &Participant) -> Result<u64, Refused> {
        let copy = |slot: usize| self.words[slot].load(Relaxed);
        self.plot.ring().receive(me, copy).map(|(_, value)| value)
    }
}

fn spawn_sender(
    cast: &Arc<Cast>,
    body: impl FnOnce(&Cast, &Participant) + 'static,
) -> JoinHandle<()> {
    let cast = Arc::clone(cast);
    thread::spawn(move || body(&cast, &cast.plot.participant(0)))
}

#[test]
fn a_view_sees_what_was_sent() {
    model("broadcast: a_view_sees_what_was_sent", Look, None, || {
        let cast = cast(1, 2, WAIT);
        let subscriber = cast.subscriber(1);
        let sender = spawn_sender(&cast, |cast, me| cast.send(me, 7).unwrap());
        match cast.view(&subscriber) {
            Ok(value) => assert_eq!(value, 7),
            Err(refused) => assert_eq!(refused, Refused::Empty),
        }
        sender.join().unwrap();
    });
}

/// The slot of the item that is read comes back to the sender, which writes to it.
#[test]
fn a_sender_does_not_write_to_what_is_being_read() {
    model("broadcast: a_sender_does_not_write_to_what_is_being_read", Look, Some(3), || {
        let cast = cast(1, 2, WAIT);
        let subscriber = cast.subscriber(1);
        cast.send(&cast.plot.participant(0), 1).unwrap();
        let sender = spawn_sender(&cast, |cast, me| {
            for value in 2..5 {
                if cast.send(me, value).is_err() {
                    break;
                }
            }
        });
        assert_eq!(cast.view(&subscriber), Ok(1));
        if let Ok(value) = cast.view(&subscriber) {
            assert_eq!(value, 2);
        }
        sender.join().unwrap();
    });
}

/// The sender may not have seen the newcomer when it sends.
#[test]
fn a_sender_does_not_write_to_what_a_newcomer_reads() {
    model("broadcast: a_sender_does_not_write_to_what_a_newcomer_reads", Look, Some(2), || {
        let cast = cast(1, 2, WAIT);
        cast.send(&cast.plot.participant(0), 1).unwrap();
        let sender = spawn_sender(&cast, |cast, me| {
            for value in 2..5 {
                if cast.send(me, value).is_err() {
                    break;
                }
                // It writes to the slot that it got.
                cast.plot.write(me, 9);
            }
        });
        let me = cast.plot.participant(1);
        cast.plot.memory.subscribe(&me, true).unwrap();
        let first = cast.view(&me).unwrap();
        if let Ok(second) = cast.view(&me) {
            assert_eq!(second, first + 1);
        }
        sender.join().unwrap();
    });
}

/// Two senders: one goes on from what the other has sent.
#[test]
fn a_newcomer_is_seen_by_a_sender_that_follows_another() {
    model("broadcast: a_newcomer_is_seen_by_a_sender_that_follows_another", Look, Some(2), || {
        let cast = cast(1, 3, WAIT);
        cast.send(&cast.plot.participant(0), 1).unwrap();
        let send = |id: usize, value: u64| {
            let cast = Arc::clone(&cast);
            thread::spawn(move || {
                let me = cast.plot.participant(id);
                let _ = cast.send(&me, value);
                cast.plot.write(&me, 9);
            })
        };
        let senders = [send(0, 2), send(2, 3)];
        let me = cast.plot.participant(1);
        cast.plot.memory.subscribe(&me, true).unwrap();
        assert_ne!(cast.view(&me).unwrap(), 9);
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn a_copy_is_of_one_item() {
    model("broadcast: a_copy_is_of_one_item", Look, Some(3), || {
        let cast = cast(1, 2, LAG);
        let subscriber = cast.subscriber(1);
        cast.send_copied(&cast.plot.participant(0), 1).unwrap();
        let sender = spawn_sender(&cast, |cast, me| {
            cast.send_copied(me, 2).unwrap();
            // Into the slot of the first item.
            let memory = &cast.plot.memory;
            memory.begin_writing();
            cast.words[memory.slot(me, memory.free_place(me)).unwrap()].store(9, Relaxed);
        });
        match cast.receive(&subscriber) {
            Ok(value) => assert_eq!(value, 1),
            Err(refused) => {
                assert_eq!(refused, Refused::Missed(1));
                assert_eq!(cast.receive(&subscriber), Ok(2));
            }
        }
        sender.join().unwrap();
    });
}

#[test]
fn one_who_is_expelled_believes_no_copy() {
    model("broadcast: one_who_is_expelled_believes_no_copy", Look, Some(3), || {
        let cast = cast(1, 2, EXPEL);
        let subscriber = cast.subscriber(1);
        cast.send_copied(&cast.plot.participant(0), 1).unwrap();
        let sender = spawn_sender(&cast, |cast, me| {
            for value in 2..4 {
                cast.send_copied(me, value).unwrap();
            }
            let memory = &cast.plot.memory;
            memory.begin_writing();
            cast.words[memory.slot(me, memory.free_place(me)).unwrap()].store(9, Relaxed);
        });
        match cast.receive(&subscriber) {
            Ok(value) => assert_eq!(value, 1),
            Err(refused) => assert_eq!(refused, Refused::Expelled),
        }
        sender.join().unwrap();
    });
}

/// The newcomer gets the dead subscriber's id, and no sender waits for it.
#[test]
fn a_recovered_token_comes_with_no_cursor_of_the_dead() {
    kill_model(
        "broadcast: a_recovered_token_comes_with_no_cursor_of_the_dead",
        Some(2),
        |killed_at| {
            let cast = cast(1, 3, WAIT);
            let dead = participant(1, Some(killed_at), || {
                let memory = &cast.plot.memory;
                memory.record(1).token.try_lock_contended().unwrap();
                let me = cast.plot.participant(1);
                memory.subscribe(&me, false).unwrap();
            });
            let has_subscribed = cast.plot.memory.count_subscribers() == 0 && dead.killed;
            let newcomer = spawn(2, None, &cast, |cast| {
                let memory = &cast.plot.memory;
                if memory.record(1).token.try_lock_contended().is_ok() {
                    memory.begin_life(1);
                }
            });
            participant(3, None, || {
                let me = cast.plot.participant(0);
                let sent = [1, 2].map(|value| cast.send(&me, value));
                if has_subscribed {
                    assert_eq!(sent, [Ok(()), Ok(())]);
                }
            });
            join(newcomer);
            dead
        },
    );
}

#[test]
fn a_sender_is_woken_by_an_advance() {
    model("broadcast: a_sender_is_woken_by_an_advance", Sleep, Some(2), || {
        let cast = cast(1, 2, WAIT);
        let subscriber = participant_value(2, || {
            let memory = &cast.plot.memory;
            memory.record(1).token.try_lock_contended().unwrap();
            cast.subscriber(1)
        });
        participant(1, None, || cast.send(&cast.plot.participant(0), 1).unwrap());
        let sender = spawn(1, None, &cast, |cast| {
            let sender = cast.plot.participant(0);
            let place = cast.plot.write(&sender, 2);
            let send = |ring: Ring<'_>| ring.send(&sender, place).map(|flags| (flags, 1));
            let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep_for_room(waiter);
            let waiter = &mut Waiter::new(Wait::FOREVER);
            cast.plot.memory.waiting(me(), Side::Putters, waiter, send, sleep).unwrap();
        });
        participant(2, None, || {
            let view = |_: Ring<'_>| {
                let memory = &cast.plot.memory;
                assert_eq!(cast.plot.ring().next_item(&subscriber).map(|_| ()), Ok(()));
                memory.go_on(&subscriber).map(|flags| (flags, 1))
            };
            cast.plot.memory.at_once(me(), Side::Getters, view).unwrap();
        });
        join(sender);
    });
}

fn participant_value<T>(tid: u32, body: impl FnOnce() -> T) -> T {
    let mut value = None;
    participant(tid, None, || value = Some(body()));
    value.unwrap()
}
