//! Peers that died, or are stopped, in the middle of an operation.

use core::sync::atomic::Ordering::SeqCst;

use super::companions::{getter, joiner, with_idle_peer, with_peer, worker};
use super::operations::{
    getting, joining, looking_for_the_end, taken, trying_to_get, trying_to_put,
};
use super::{Board, Leaves, Operate, PEER, VICTIM, case, case_with, known, victim};
use crate::cases::queue_words::Stage;
use crate::cases::warm_up;
use crate::harness::{Case, Fate, Subject};

/// A peer has died, or is stopped, in the middle of an operation. The victim takes part already,
/// and takes over what the peer left if it looks for that.
pub(super) fn beside_a_peer() -> Vec<Box<dyn Subject>> {
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    for stage in [Stage::Announced, Stage::Exchanged, Stage::Taken, Stage::Placed] {
        for fate in [Fate::Dies, Fate::Stops] {
            let does = if fate == Fate::Dies { "died" } else { "stopped" };
            let name = |what: &str| format!("{what}, {stage:?} and {does}");
            let looks = case(&name("join_timeout(0), a getter"), 2, 1, Leaves::Nothing);
            cases.push(Box::new(victim(
                with_peer(looks, 0, fate, stage, 0, trying_to_get),
                looking_for_the_end,
            )));
            if fate == Fate::Dies {
                let gets = case(&name("get, a getter"), 2, 1, Leaves::Task);
                cases.push(known(victim(
                    with_peer(gets, 0, fate, stage, 0, trying_to_get),
                    getting,
                )));
                let joins = case(&name("join, a getter"), 1, 1, Leaves::Closed).companion(worker);
                cases.push(known(victim(
                    with_peer(joins, 0, fate, stage, 0, trying_to_get),
                    joining,
                )));
            }
            let puts = case(&name("get, a putter"), 2, 0, Leaves::Task);
            let peers = u64::from(stage != Stage::Announced);
            if stage != Stage::Announced {
                cases.push(known(victim(
                    with_peer(puts, 0, fate, stage, peers, trying_to_put),
                    getting,
                )));
            }
            // The peer takes a task that came back to another participant.
            let again = with_idle_peer(case(
                &name("try_get, a taker of one that came back"),
                2,
                2,
                Leaves::Task,
            ))
            .companions(0, getter);
            let again = again.peer(
                fate,
                |board, operation| {
                    board.take_part();
                    trying_to_get(board, operation, PEER + 1);
                },
                move |board| board.words.has_come_to(1, stage),
            );
            cases.push(known(victim(again, trying_to_get)));
        }
    }
    cases
}

/// The victim becomes a participant with the id of one that died in the middle of an operation.
pub(super) fn adopting() -> Vec<Box<dyn Subject>> {
    let mut cases: Vec<Box<dyn Subject>> = Vec::new();
    let comes = |case: Case<Board>| {
        known(case.victim(|board, operation| {
            warm_up();
            trying_to_get(board, operation, VICTIM);
        }))
    };
    let gives_back: Operate = |board, operation, _| {
        let task = taken(board, PEER);
        operation.step(|| drop(task));
    };
    for stage in [Stage::Announced, Stage::Exchanged, Stage::Taken, Stage::Placed] {
        let name = |what: &str| format!("try_get as one that died, {what} {stage:?}");
        let gets = case(&name("get"), 1, 1, Leaves::Nothing);
        cases.push(comes(with_peer(gets, 0, Fate::Dies, stage, 0, trying_to_get)));
        let letter = case_with(&name("the last attempt"), 2, 3, 1, 1, Leaves::Nothing);
        cases.push(comes(with_peer(letter, 0, Fate::Dies, stage, 0, gives_back)));
        // The word has gone on since.
        for fate in [Fate::Stops, Fate::Dies] {
            let by = if fate == Fate::Dies { "by one dead" } else { "by one stopped" };
            if stage == Stage::Announced {
                let both = case(&name(&format!("get, {by}")), 1, 1, Leaves::Nothing);
                let both = with_peer(both, 0, Fate::Dies, stage, 0, trying_to_get);
                cases.push(comes(with_peer(both, 1, fate, Stage::Exchanged, 0, trying_to_get)));
            } else {
                let both = case(&name(&format!("get, {by}")), 1, 1, Leaves::Nothing);
                let both = with_peer(both, 0, Fate::Dies, stage, 0, trying_to_get);
                cases.push(comes(with_peer(both, 1, fate, Stage::Exchanged, 1, trying_to_put)));
            }
        }
    }
    // A participant died with a task in hand, and others are asleep.
    let holds = |name: &str| {
        case(name, 2, 1, Leaves::Closed).peer(
            Fate::Dies,
            |board, operation| {
                board.take_part();
                let _task = taken(board, PEER);
                operation.step(|| board.flag.store(1, SeqCst));
            },
            |board| board.flag.load(SeqCst) == 1,
        )
    };
    cases.push(comes(holds("try_get as one that died with a task")));
    cases.push(comes(
        holds("try_get as one that died with a task, 1 waits, 1 joins")
            .companion(worker)
            .companion(joiner),
    ));
    cases
}
