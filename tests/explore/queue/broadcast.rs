//! Broadcasts: everybody gets everything, and senders wait for whom they have to.

use std::cell::RefCell;
use std::collections::HashSet;

use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::model::explorer::{End, Fate};

use super::Op::{
    Attach, Close, Receive, ReceiveWaiting, Send, SendWaiting, Subscribe, Unsubscribe, WatchItem,
    WatchRoom,
};
use super::operations::{failed, list, refused};
use super::sources::{NEVER, Watched, WatchedItem};
use super::{Config, Me, Op, Part, Plot, SlowConfig, config, output, part, plot};
use crate::explore;
use crate::ring::ends::Ring;
use crate::ring::layout::{EXPEL, LAG, WAIT};
use crate::ring::waiting::Side;
use crate::ring::words::lap;
use crate::wait::source::WatchState;
use crate::wait::{Wait, Waiter};
use crate::wait_any::watching::watch;

/// How many sleepers a send wakes.
const ALL: usize = u32::MAX as usize;

impl Plot {
    pub(super) fn cast(&self, me: &mut Me, op: Op) -> u64 {
        let memory = &self.memory;
        let roster = &memory.control().roster.0;
        let waiter = &mut Waiter::new(Wait::FOREVER);
        if let Subscribe(oldest) = op {
            me.0 = memory.attach(list(), true, |_| Ok(())).unwrap();
            list().begin(roster);
            let result = memory.subscribe(&me.0, oldest);
            list().end();
            return result.map_or_else(refused, |()| output::DONE);
        }
        let Me(participant) = &*me;
        let place = memory.free_place(participant);
        let send = |ring: Ring<'_>| ring.send(participant, place).map(|flags| (flags, ALL));
        let at = participant.head.get();
        let mut value = 0;
        let mut receive = |ring: Ring<'_>| {
            let read = |slot: usize| self.payloads[slot].load(Relaxed);
            let (flags, read) = ring.receive(participant, read)?;
            value = read;
            Ok((flags, 1))
        };
        if let Send(value) | SendWaiting(value) = op {
            memory.begin_writing();
            let slot = memory.slot(participant, place).unwrap();
            self.payloads[slot].store(value, Relaxed);
        }
        let result = match op {
            Send(_) => memory.at_once(list(), Side::Putters, send).map_err(Into::into),
            SendWaiting(_) => {
                let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep_for_room(waiter);
                memory.waiting(list(), Side::Putters, waiter, send, sleep)
            }
            Receive => memory.at_once(list(), Side::Getters, &mut receive).map_err(Into::into),
            ReceiveWaiting => {
                let sleep = |ring: Ring<'_>, waiter: &mut Waiter| ring.sleep_for_item(at, waiter);
                let no_item = || self.ring().no_item(at);
                memory.waiting_while(list(), Side::Getters, waiter, no_item, &mut receive, sleep)
            }
            WatchRoom => {
                let watched = Watched(*memory, Side::Putters);
                watch::<24>(&[&NEVER, &watched], &mut [WatchState::default(); 2], waiter).unwrap();
                Ok(())
            }
            WatchItem => {
                let watched = WatchedItem(*memory, at);
                watch::<24>(&[&NEVER, &watched], &mut [WatchState::default(); 2], waiter).unwrap();
                Ok(())
            }
            _ => {
                list().begin(roster);
                memory.unsubscribe(participant);
                list().end();
                memory.detach(list(), participant);
                Ok(())
            }
        };
        result.map_or_else(failed, |()| value)
    }

    /// Returns what was sent last, in order: as many items as the ring has entries.
    fn kept(&self) -> Vec<u64> {
        let memory = &self.memory;
        let mut kept: Vec<_> = (0..memory.config.entries())
            .map(|at| (memory.entry(at).load(Relaxed), at))
            .filter(|&(entry, _)| lap(entry) != 0)
            .map(|(entry, at)| (lap(entry), at, memory.slot_in(entry)))
            .collect();
        kept.sort_unstable();
        kept.into_iter().map(|(.., slot)| self.payloads[slot].load(Relaxed)).collect()
    }
}

/// What a thread has done, as in `sequential`.
type History = Vec<(Op, Option<u64>)>;

/// Where a subscriber is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Seat {
    None,
    /// It subscribes, and holds up senders, but has not read where it begins.
    Coming(usize),
    At(usize),
    Out,
}

/// A plain broadcast.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Model {
    sent: Vec<u64>,
    is_closed: bool,
    /// Whether a subscriber was told that it is closed and there is nothing more.
    is_sealed: bool,
    seats: Vec<Seat>,
    next: Vec<usize>,
}

struct Search<'a> {
    histories: &'a [History],
    fates: &'a [Fate],
    kept: &'a [u64],
    items: usize,
    policy: u32,
    tried: HashSet<Model>,
}

impl Search<'_> {
    /// Returns whether all remaining operations can be done from here on.
    fn finish(&mut self, model: &Model) -> bool {
        if !self.tried.insert(model.clone()) {
            return false;
        }
        let threads = 0..self.histories.len();
        if model.sent.ends_with(self.kept) && threads.clone().all(|at| self.is_over(model, at)) {
            return true;
        }
        threads.clone().any(|thread| {
            let op = self.histories[thread].get(model.next[thread]).copied();
            // An operation that was cut off by a death may have happened. One that sleeps has not.
            let is_asleep = self.fates[thread] == Fate::Asleep;
            let mut after = Vec::new();
            if let Some((op, result)) = op.filter(|(_, result)| result.is_some() || !is_asleep) {
                if let (Subscribe(oldest), Seat::None) = (op, model.seats[thread]) {
                    let mut next = model.clone();
                    next.seats[thread] = Seat::Coming(self.first(model, oldest));
                    after.push(next);
                }
                let mut next = model.clone();
                next.next[thread] += 1;
                after.extend(self.happens(next, thread, op, result));
            }
            // A dead subscriber is out.
            let is_dead = self.fates[thread] == Fate::Killed;
            if is_dead && op.is_none_or(|(_, result)| result.is_none()) {
                let mut next = model.clone();
                next.seats[thread] = Seat::None;
                after.push(next);
            }
            after.iter().any(|after| self.finish(after))
        })
    }

    /// Returns whether a thread has done everything, or sleeps and has to.
    fn is_over(&self, model: &Model, thread: usize) -> bool {
        let rest = &self.histories[thread][model.next[thread]..];
        match rest.first() {
            None => true,
            Some(_) if self.fates[thread] == Fate::Killed => {
                rest.iter().all(|(_, result)| result.is_none())
            }
            Some(&(op, None)) if self.fates[thread] == Fate::Asleep => match op {
                SendWaiting(_) | WatchRoom => {
                    // A dead subscriber holds up nobody for good.
                    let mut living = model.clone();
                    for (seat, fate) in living.seats.iter_mut().zip(self.fates) {
                        if *fate == Fate::Killed {
                            *seat = Seat::None;
                        }
                    }
                    !model.is_closed && self.is_full(&living)
                }
                ReceiveWaiting | WatchItem => {
                    !model.is_closed && model.seats[thread] == Seat::At(model.sent.len())
                }
                _ => false,
            },
            Some(_) => false,
        }
    }

    /// Returns where a newcomer begins.
    fn first(&self, model: &Model, oldest: bool) -> usize {
        model.sent.len().saturating_sub(if oldest { self.items } else { 0 })
    }

    fn is_full(&self, model: &Model) -> bool {
        let len = model.sent.len();
        let blocks =
            |seat: &Seat| matches!(seat, Seat::At(at) | Seat::Coming(at) if at + self.items <= len);
        self.policy == WAIT && model.seats.iter().any(blocks)
    }

    /// Does the operation. Returns what may be then, if it can have this result.
    fn happens(&self, mut model: Model, thread: usize, op: Op, result: Option<u64>) -> Vec<Model> {
        let len = model.sent.len();
        let is = |returned: u64| result.is_none_or(|result| result == returned);
        let returned = match op {
            Send(value) | SendWaiting(value) => {
                if model.is_sealed || (model.is_closed && result == Some(output::CLOSED)) {
                    output::CLOSED
                } else if self.is_full(&model) {
                    output::FULL
                } else {
                    model.sent.push(value);
                    let is_out = |at: usize| self.policy == EXPEL && at + self.items <= len;
                    for seat in &mut model.seats {
                        if matches!(seat, Seat::At(at) if is_out(*at)) {
                            *seat = Seat::Out;
                        }
                    }
                    output::DONE
                }
            }
            Subscribe(oldest) => {
                if result == Some(output::EXPELLED) {
                    model.seats[thread] = Seat::Out;
                    return vec![model];
                }
                // A sender that has not seen the newcomer yet leaves it one item more.
                let first = self.first(&model, oldest);
                let one_more = usize::from(oldest);
                return (first.saturating_sub(one_more)..=first)
                    .filter(|_| is(output::DONE))
                    .map(|at| {
                        let mut model = model.clone();
                        model.seats[thread] = Seat::At(at);
                        model
                    })
                    .collect();
            }
            Receive | ReceiveWaiting => match model.seats[thread] {
                Seat::At(at) if self.policy == LAG && at + self.items < len => {
                    model.seats[thread] = Seat::At(len - self.items);
                    output::MISSED + (len - self.items - at) as u64
                }
                Seat::At(at) if at < len => {
                    model.seats[thread] = Seat::At(at + 1);
                    model.sent[at]
                }
                Seat::At(_) if model.is_closed => {
                    model.is_sealed = true;
                    output::CLOSED
                }
                Seat::At(_) => output::EMPTY,
                Seat::None | Seat::Coming(_) | Seat::Out => output::EXPELLED,
            },
            Close => {
                model.is_closed = true;
                output::DONE
            }
            Unsubscribe => {
                model.seats[thread] = Seat::None;
                output::DONE
            }
            Attach | WatchRoom | WatchItem => output::DONE,
            _ => panic!("{op:?} is none of a broadcast"),
        };
        if is(returned) { vec![model] } else { Vec::new() }
    }
}

fn broadcast(items: u32, ids: u32, policy: u32) -> Plot {
    let slow = SlowConfig { policy, patience: 0 };
    plot(Config { slow, ..config(items + u32::from(slow.has_spare_entry()), ids) })
}

/// Explores the operations of `parts`. Asserts at each end that each slot is in one place, that a
/// plain broadcast could have done the same, and that only those sleep who would wait there, too.
fn explore_cast<const N: usize>(name: &str, plot: Plot, parts: [Part; N], kills: u32) {
    let setup: fn(&Plot) = |plot| plot.memory.fill();
    let memory = plot.memory;
    let (policy, items) = (memory.config.slow.policy, memory.config.items());
    let mut exploration = explore::<Plot, Me>(name, plot);
    for (index, part) in parts.iter().enumerate() {
        exploration = exploration.thread(part.script(&memory, (index == 0).then_some(setup)));
    }
    let (prepared, ops): (Vec<_>, Vec<_>) =
        parts.into_iter().map(|part| (part.prepared, part.ops)).unzip();
    let known = RefCell::new(HashSet::new());
    let check = move |end: &mut End<'_, Plot, Me>| {
        end.look(Plot::settled);
        let kept = end.look(Plot::kept);
        let fates: Vec<_> = (0..end.threads()).map(|thread| end.fate(thread)).collect();
        let of = |thread: usize| -> History {
            let outputs = end.outputs(thread);
            let begun = outputs.len()
                + usize::from(matches!(fates[thread], Fate::Asleep | Fate::Killed | Fate::Stopped));
            let results = outputs.iter().copied().map(Some).chain([None]);
            ops[thread].iter().copied().zip(results).take(begun).collect()
        };
        let histories: Vec<_> = (0..end.threads()).map(of).collect();
        if !known.borrow_mut().insert((histories.clone(), kept.clone(), format!("{fates:?}"))) {
            return;
        }
        let mut search = Search {
            histories: &histories,
            fates: &fates,
            kept: &kept,
            items,
            policy,
            tried: HashSet::new(),
        };
        let mut model = Model {
            sent: Vec::new(),
            is_closed: false,
            is_sealed: false,
            seats: vec![Seat::None; ops.len()],
            next: vec![0; ops.len()],
        };
        for (thread, &op) in prepared
            .iter()
            .enumerate()
            .flat_map(|(thread, ops)| ops.iter().map(move |op| (thread, op)))
        {
            model = search.happens(model, thread, op, None).pop().unwrap();
        }
        assert!(
            search.finish(&model),
            "no broadcast does that: {histories:?} {fates:?}, with {kept:?} kept"
        );
    };
    exploration.kills(kills).check(check).run();
}

const NOW: Op = Subscribe(false);
const OLDEST: Op = Subscribe(true);

#[test]
fn everybody_gets_what_two_send() {
    let parts = [
        part(0, [Receive, Receive]).prepared([NOW]),
        part(1, [Send(1), Send(2)]).prepared([Attach]),
        part(2, [Send(11)]).prepared([Attach]),
    ];
    explore_cast("broadcast: everybody_gets_what_two_send", broadcast(1, 3, WAIT), parts, 0);
}

#[test]
fn a_newcomer_gets_everything_from_then_on() {
    let parts = [
        part(0, [NOW, Receive, Receive]),
        part(1, [Send(1), Send(2)]).prepared([Attach, Send(7)]),
        part(2, [Send(11), Send(12)]).prepared([Attach]),
    ];
    explore_cast(
        "broadcast: a_newcomer_gets_everything_from_then_on",
        broadcast(1, 3, WAIT),
        parts,
        0,
    );
}

#[test]
fn a_newcomer_gets_the_oldest() {
    let parts = [
        part(0, [OLDEST, Receive, Receive]),
        part(1, [Send(1), Send(2)]).prepared([Attach, Send(7)]),
        part(2, [Send(11)]).prepared([Attach]),
    ];
    explore_cast("broadcast: a_newcomer_gets_the_oldest", broadcast(1, 3, WAIT), parts, 0);
}

/// A sender goes by what it found at an earlier look, unless it sees that somebody came.
#[test]
fn a_newcomer_gets_the_oldest_of_several() {
    let parts = [
        part(0, [OLDEST, Receive, Receive]),
        part(1, [Send(1), Send(2)]).prepared([Attach, Send(7), Send(8)]),
    ];
    explore_cast(
        "broadcast: a_newcomer_gets_the_oldest_of_several",
        broadcast(2, 2, WAIT),
        parts,
        0,
    );
}

#[test]
fn a_sender_looks_for_the_slowest() {
    let parts = [
        part(0, [Receive]).prepared([NOW]),
        part(1, [Send(1)]).prepared([Attach, Send(7)]),
        part(2, [Send(11), Send(12)]).prepared([Attach]),
    ];
    explore_cast("broadcast: a_sender_looks_for_the_slowest", broadcast(2, 3, WAIT), parts, 0);
}

/// It holds up senders until it has found where it begins.
#[test]
fn a_newcomer_strands_no_sender() {
    let parts = [
        part(0, [NOW, ReceiveWaiting]),
        part(1, [Send(1), SendWaiting(2)]).prepared([Attach, Send(7)]),
    ];
    explore_cast("broadcast: a_newcomer_strands_no_sender", broadcast(1, 2, WAIT), parts, 0);
}

#[test]
fn the_slowest_of_two_counts() {
    let parts = [
        part(0, [ReceiveWaiting]).prepared([NOW]),
        part(1, [ReceiveWaiting]).prepared([NOW]),
        part(2, [SendWaiting(1)]).prepared([Attach, Send(7)]),
    ];
    explore_cast("broadcast: the_slowest_of_two_counts", broadcast(1, 3, WAIT), parts, 0);
}

#[test]
fn a_sender_killed_anywhere_strands_no_subscriber() {
    let parts = [
        part(0, [ReceiveWaiting]).prepared([NOW]),
        part(1, [ReceiveWaiting]).prepared([NOW]),
        part(2, [Send(1), Send(2)]).prepared([Attach]).killable(),
    ];
    explore_cast(
        "broadcast: a_sender_killed_anywhere_strands_no_subscriber",
        broadcast(2, 3, WAIT),
        parts,
        1,
    );
}

#[test]
fn a_subscriber_killed_anywhere_strands_no_sender() {
    let parts = [
        part(0, [Receive]).prepared([NOW]).killable(),
        part(1, [SendWaiting(1)]).prepared([Attach, Send(7)]),
        part(2, [SendWaiting(2)]).prepared([Attach]),
    ];
    explore_cast(
        "broadcast: a_subscriber_killed_anywhere_strands_no_sender",
        broadcast(1, 3, WAIT),
        parts,
        1,
    );
}

#[test]
fn a_subscriber_and_a_sender_killed_anywhere_strand_nobody() {
    let parts = [
        part(0, [Receive]).prepared([NOW]).killable(),
        part(1, [Send(1)]).prepared([Attach, Send(7)]).killable(),
        part(2, [SendWaiting(2)]).prepared([Attach]),
    ];
    explore_cast(
        "broadcast: a_subscriber_and_a_sender_killed_anywhere_strand_nobody",
        broadcast(1, 3, WAIT),
        parts,
        2,
    );
}

#[test]
fn one_who_leaves_strands_no_sender() {
    let parts = [
        part(0, [Unsubscribe]).prepared([NOW]),
        part(1, [SendWaiting(1)]).prepared([Attach, Send(7)]),
        part(2, [SendWaiting(2)]).prepared([Attach]),
    ];
    explore_cast("broadcast: one_who_leaves_strands_no_sender", broadcast(1, 3, WAIT), parts, 0);
}

#[test]
fn one_killed_while_it_leaves_strands_no_sender() {
    let parts = [
        part(0, [Unsubscribe]).prepared([NOW]).killable(),
        part(1, [SendWaiting(1)]).prepared([Attach, Send(7)]),
    ];
    explore_cast(
        "broadcast: one_killed_while_it_leaves_strands_no_sender",
        broadcast(1, 2, WAIT),
        parts,
        1,
    );
}

/// The newcomer gets the dead one's id.
#[test]
fn a_newcomer_is_not_taken_for_a_dead_subscriber() {
    let parts = [
        part(0, [Receive]).prepared([NOW]).killable(),
        part(1, [SendWaiting(1)]).prepared([Attach, Send(7)]),
        part(2, [NOW, Receive]).after(0),
    ];
    explore_cast(
        "broadcast: a_newcomer_is_not_taken_for_a_dead_subscriber",
        broadcast(1, 3, WAIT),
        parts,
        1,
    );
}

/// A sender gets the dead one's id.
#[test]
fn an_heir_is_no_subscriber() {
    let parts = [
        part(0, [Receive]).prepared([NOW]).killable(),
        part(1, [Send(1)]).prepared([Attach, Send(7)]),
        part(2, [Attach, SendWaiting(2)]).after(0),
    ];
    explore_cast("broadcast: an_heir_is_no_subscriber", broadcast(1, 3, WAIT), parts, 1);
}

/// The heir gets the dead sender's id, and its slots.
#[test]
fn an_heir_knows_whether_the_dead_one_has_sent() {
    let parts = [
        part(0, [Send(1), Send(2)]).prepared([Attach]).killable(),
        part(1, [Send(11), Send(12)]).prepared([Attach]),
        part(2, [Attach, Send(21)]).after(0),
    ];
    explore_cast(
        "broadcast: an_heir_knows_whether_the_dead_one_has_sent",
        broadcast(1, 3, WAIT),
        parts,
        1,
    );
}

#[test]
fn a_close_tells_everybody() {
    let parts = [
        part(0, [ReceiveWaiting, ReceiveWaiting]).prepared([NOW]),
        part(1, [SendWaiting(1)]).prepared([Attach, Send(7)]),
        part(2, [Close]).prepared([Attach]).killable(),
    ];
    explore_cast("broadcast: a_close_tells_everybody", broadcast(1, 3, WAIT), parts, 1);
}

#[test]
fn a_closed_broadcast_ends_behind_the_last_item() {
    let parts = [
        part(0, [Receive, Receive, Receive]).prepared([NOW]),
        part(1, [Send(1), Send(2)]).prepared([Attach]),
        part(2, [Close]).prepared([Attach]),
    ];
    explore_cast(
        "broadcast: a_closed_broadcast_ends_behind_the_last_item",
        broadcast(2, 3, WAIT),
        parts,
        0,
    );
}

#[test]
fn one_who_lags_is_told_how_far() {
    let parts = [
        part(0, [Receive, Receive, Receive]).prepared([NOW]),
        part(1, [Send(1), Send(2)]).prepared([Attach]),
        part(2, [Send(11), Send(12)]).prepared([Attach]),
    ];
    explore_cast("broadcast: one_who_lags_is_told_how_far", broadcast(1, 3, LAG), parts, 0);
}

#[test]
fn a_sender_killed_anywhere_strands_nobody_who_may_lag() {
    let parts = [
        part(0, [ReceiveWaiting, ReceiveWaiting]).prepared([NOW]),
        part(1, [Send(1)]).prepared([Attach, Send(7)]).killable(),
        part(2, [Send(11)]).prepared([Attach]),
    ];
    explore_cast(
        "broadcast: a_sender_killed_anywhere_strands_nobody_who_may_lag",
        broadcast(1, 3, LAG),
        parts,
        1,
    );
}

#[test]
fn one_who_is_expelled_believes_nothing() {
    let parts = [
        part(0, [Receive, Receive]).prepared([NOW]),
        part(1, [Send(1), Send(2)]).prepared([Attach]),
        part(2, [Send(11)]).prepared([Attach]),
    ];
    explore_cast(
        "broadcast: one_who_is_expelled_believes_nothing",
        broadcast(1, 3, EXPEL),
        parts,
        0,
    );
}

#[test]
fn a_newcomer_may_be_expelled() {
    let parts = [
        part(0, [OLDEST, Receive]).killable(),
        part(1, [Send(1)]).prepared([Attach, Send(7)]),
        part(2, [Send(11)]).prepared([Attach]),
    ];
    explore_cast("broadcast: a_newcomer_may_be_expelled", broadcast(1, 3, EXPEL), parts, 1);
}

#[test]
fn a_watcher_killed_anywhere_strands_no_sender() {
    let parts = [
        part(0, [ReceiveWaiting]).prepared([NOW]),
        part(1, [WatchRoom]).prepared([Attach, Send(7)]).killable(),
        part(2, [SendWaiting(1)]).prepared([Attach]),
    ];
    explore_cast(
        "broadcast: a_watcher_killed_anywhere_strands_no_sender",
        broadcast(1, 3, WAIT),
        parts,
        1,
    );
}

#[test]
fn a_subscriber_killed_anywhere_strands_neither_sender_nor_watcher() {
    let parts = [
        part(0, [Receive]).prepared([NOW]).killable(),
        part(1, [WatchRoom]).prepared([Attach, Send(7)]),
        part(2, [SendWaiting(1)]).prepared([Attach]),
    ];
    explore_cast(
        "broadcast: a_subscriber_killed_anywhere_strands_neither_sender_nor_watcher",
        broadcast(1, 3, WAIT),
        parts,
        1,
    );
}

#[test]
fn a_sender_killed_anywhere_strands_neither_subscriber_nor_watcher() {
    let parts = [
        part(0, [ReceiveWaiting]).prepared([NOW]),
        part(1, [WatchItem]).prepared([NOW]),
        part(2, [Send(1)]).prepared([Attach]).killable(),
    ];
    explore_cast(
        "broadcast: a_sender_killed_anywhere_strands_neither_subscriber_nor_watcher",
        broadcast(1, 3, WAIT),
        parts,
        1,
    );
}
