//! Peers that died, or are stopped, in the middle of an operation.

use core::sync::atomic::Ordering::SeqCst;

use super::companions::with_peer;
use super::operations::{
    closing, getting, getting_many, loaning, putting, putting_many, trying_to_get, trying_to_put,
};
use super::{Board, Effect, Leaves, Operate, PEER, VICTIM, case, victim};
use crate::cases::queue_words::Stage;
use crate::cases::warm_up;
use crate::harness::{Case, Fate, Subject};

/// A peer has died, or is stopped, between its exchange and what follows. The victim takes part
/// already.
pub(super) fn beside_a_peer() -> Vec<Box<dyn Subject>> {
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    for fate in [Fate::Dies, Fate::Stops] {
        let does = if fate == Fate::Dies { "died" } else { "stopped" };
        // `items` is the number of items after the peer's operation; `by_putter` says whether the
        // peer puts or gets.
        let mut add = |name: &str,
                       operate: Operate,
                       capacity: usize,
                       items: usize,
                       by_putter: bool,
                       effect: Effect| {
            let (peers, its): (Operate, _) = if by_putter {
                (trying_to_put, Effect::Puts(1))
            } else {
                (trying_to_get, Effect::Takes(1))
            };
            let name = format!("{name}, a {} {does}", if by_putter { "putter" } else { "getter" });
            let case = with_peer(
                case(&name, capacity, capacity + 1, items, effect, effect.needs()),
                0,
                fate,
                Stage::Exchanged,
                its,
                peers,
            );
            cases.push(Box::new(victim(case, operate)));
        };
        add("put", putting, 2, 0, true, Effect::Puts(1));
        add("try_put", trying_to_put, 1, 0, true, Effect::Nothing);
        add("try_put", trying_to_put, 3, 2, true, Effect::Nothing);
        add("get", getting, 1, 0, true, Effect::Takes(1));
        add("get", getting, 2, 1, true, Effect::Takes(1));
        add("put_many(2)", putting_many::<2>, 3, 0, true, Effect::Puts(2));
        add("get_many(2)", getting_many::<2>, 2, 1, true, Effect::Takes(2));
        add("close", closing, 2, 0, true, Effect::Closes);
        add("put", putting, 1, 1, false, Effect::Puts(1));
        add("put", putting, 2, 2, false, Effect::Puts(1));
        add("try_get", trying_to_get, 1, 1, false, Effect::Nothing);
        add("get", getting, 3, 3, false, Effect::Takes(1));
        add("put_many(2)", putting_many::<2>, 2, 1, false, Effect::Puts(2));
        add("get_many(2)", getting_many::<2>, 3, 3, false, Effect::Takes(2));
        add("close", closing, 2, 2, false, Effect::Closes);
        add("loan", loaning, 2, 0, true, Effect::Nothing);
        add("loan", loaning, 2, 2, false, Effect::Nothing);
        add("loan", loaning, 3, 2, false, Effect::Nothing);
        // Two peers: the counters are far behind.
        let both = |name: &str, items: usize, effect: Effect, first: bool, second: bool| {
            let of = |is_putter: bool| {
                if is_putter {
                    (trying_to_put as Operate, Effect::Puts(1))
                } else {
                    (trying_to_get as Operate, Effect::Takes(1))
                }
            };
            let case = case(&format!("{name}, two {does}"), 2, 3, items, effect, effect.needs());
            let case = with_peer(case, 0, fate, Stage::Exchanged, of(first).1, of(first).0);
            with_peer(case, 1, fate, Stage::Exchanged, of(second).1, of(second).0)
        };
        cases.push(Box::new(victim(
            both("try_put, two puts", 0, Effect::Nothing, true, true),
            trying_to_put,
        )));
        cases.push(Box::new(victim(
            both("get, two puts", 0, Effect::Takes(1), true, true),
            getting,
        )));
        cases.push(Box::new(victim(
            both("try_get, two gets", 2, Effect::Nothing, false, false),
            trying_to_get,
        )));
        cases.push(Box::new(victim(
            both("put, two gets", 2, Effect::Puts(1), false, false),
            putting,
        )));
        cases.push(Box::new(victim(
            both("put, a put and its get", 0, Effect::Puts(1), true, false),
            putting,
        )));
        cases.push(Box::new(victim(
            both("try_get, a put and its get", 0, Effect::Nothing, true, false),
            trying_to_get,
        )));
    }
    cases
}

/// The victim becomes a participant with the id of one that died in the middle of an operation.
pub(super) fn adopting() -> Vec<Box<dyn Subject>> {
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    let comes = |case: Case<Board>| -> Box<dyn Subject> {
        Box::new(case.victim(|board, operation| {
            warm_up();
            trying_to_put(board, operation, VICTIM);
        }))
    };
    for stage in [Stage::Announced, Stage::Exchanged, Stage::Taken, Stage::Placed] {
        for (is_put, capacity, items) in [(true, 1, 0), (true, 3, 1), (false, 1, 1), (false, 3, 2)]
        {
            let (operate, effect): (Operate, _) = if is_put {
                (trying_to_put, Effect::Puts(1))
            } else {
                (trying_to_get, Effect::Takes(1))
            };
            let after = match (stage, is_put) {
                (Stage::Announced, _) => items,
                (_, true) => items + 1,
                (_, false) => items - 1,
            };
            let victims = if after < capacity { Effect::Puts(1) } else { Effect::Nothing };
            let what = if is_put { "put" } else { "get" };
            // A dead peer that has only announced its operation finds slots that were never used
            // before.
            let shift = if stage == Stage::Announced { 0 } else { 4 };
            let alone = case(
                &format!("try_put as one that died, {what} {stage:?}"),
                capacity,
                shift,
                items,
                victims,
                Leaves::Item,
            );
            cases.push(comes(with_peer(alone, 0, Fate::Dies, stage, effect, operate)));
            // The word has gone on since. The next operation there is over, its participant is
            // stopped in the middle, or its participant is dead.
            for further in 0..3 {
                let how = ["went on", "by one stopped", "by one dead"][further];
                let name = format!("try_put as one that died, {what} {stage:?}, {how}");
                // The next operation at that word: of the same kind if the dead one was only
                // announced, otherwise of the other kind.
                let next_puts = is_put == (stage == Stage::Announced);
                let (next, its): (Operate, _) = if next_puts {
                    (trying_to_put, Effect::Puts(1))
                } else {
                    (trying_to_get, Effect::Takes(1))
                };
                // With one entry, it is that word's turn, whichever operation it is.
                if capacity != 1 {
                    continue;
                }
                let victims = if next_puts { Effect::Nothing } else { Effect::Puts(1) };
                let case = case(&name, capacity, shift, items, victims, Leaves::Item);
                let case = with_peer(case, 0, Fate::Dies, stage, effect, operate);
                cases.push(comes(match further {
                    0 => case.peer(
                        Fate::Stops,
                        move |board, operation| {
                            board.take_part();
                            operation.begin();
                            if next_puts {
                                board.try_put(PEER + 1)
                            } else {
                                board.try_get(PEER + 1)
                            };
                            board.flag.store(1, SeqCst);
                            operation.end();
                        },
                        |board| board.flag.load(SeqCst) == 1,
                    ),
                    1 => with_peer(case, 1, Fate::Stops, Stage::Exchanged, its, next),
                    _ => with_peer(case, 1, Fate::Dies, Stage::Exchanged, its, next),
                }));
            }
        }
    }
    cases
}
