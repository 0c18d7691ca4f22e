//! What a queue is checked for in the end.

use core::sync::atomic::Ordering::SeqCst;
use std::os::fd::AsFd;

use crossproc::Queue;

use super::{ALL, Board, Effect, JUDGE, VICTIM};
use crate::harness::End;

pub(super) fn check(board: &Board, end: &End, effect: Effect) -> Result<(), String> {
    // As many participants as there ever were take over all that the dead have left.
    let all: Vec<Queue<u64>> = (0..board.words.used())
        .map(|_| {
            let queue: Queue<u64> =
                Queue::attach(board.queue.as_fd().try_clone_to_owned().expect("descriptors"))
                    .expect("it is a queue");
            drop(queue.loan().expect("nobody else takes part"));
            queue
        })
        .collect();
    board.words.check_slots()?;
    drop(all);
    if board.queue.is_closed() && board.flag.load(SeqCst) != 0 && !board.queue.is_empty() {
        return Err("there is an item, though somebody was told that there never will be".into());
    }
    check_capacity(board)?;
    if matches!(effect, Effect::Closes)
        && (!end.was_killed || end.was_completed)
        && !board.queue.is_closed()
    {
        return Err(format!("it is not closed; {end:?}"));
    }
    check_items(board, end, effect)
}

/// Checks that nothing obstructs the queue, and that as many items fit as ever.
fn check_capacity(board: &Board) -> Result<(), String> {
    let capacity = board.queue.capacity();
    for _ in 0..3 {
        if !board.queue.is_closed() {
            for _ in 0..=capacity {
                board.try_put(JUDGE);
            }
            if board.queue.len() != capacity || board.try_put(JUDGE) {
                return Err(format!("{} items when full", board.queue.len()));
            }
        }
        let count = board.drain(JUDGE);
        let expected = if board.queue.is_closed() { board.queue.len() + count } else { capacity };
        if count != expected || !board.queue.is_empty() {
            return Err(format!("{count} items of {expected}, {} left", board.queue.len()));
        }
    }
    Ok(())
}

/// Checks that no item of the living is lost, doubled or out of order, and that the operation under
/// test was done as a whole or not at all.
fn check_items(board: &Board, end: &End, effect: Effect) -> Result<(), String> {
    let mut last = [[0; ALL]; ALL];
    let mut counts = [0_u64; ALL];
    let mut seen = std::collections::BTreeSet::new();
    for logged in &board.got[..board.logged.load(SeqCst)] {
        let logged = logged.load(SeqCst);
        let (who, producer, number) =
            ((logged >> 48) as usize, (logged >> 32) as usize & 0xffff, logged & 0xffff_ffff);
        if producer >= ALL || number == 0 || !seen.insert((producer, number)) {
            return Err(format!(
                "{who} got {number} of {producer}, which was got before or never put"
            ));
        }
        if number <= last[who][producer] {
            return Err(format!("{who} got {number} of {producer} after {}", last[who][producer]));
        }
        last[who][producer] = number;
        counts[producer] += 1;
    }
    let mut missing = 0;
    for (producer, &count) in counts.iter().enumerate() {
        let put = board.put[producer].load(SeqCst);
        let highest = last.iter().map(|of| of[producer]).max().unwrap_or(0);
        match effect {
            Effect::Puts(most) if producer == VICTIM && end.was_killed => {
                let is_right = match (end.had_not_begun, end.was_completed) {
                    (true, _) => count == 0,
                    (_, true) => count == most,
                    _ => count <= most,
                };
                if !is_right || highest != count {
                    return Err(format!("{count} of the victim's items, up to {highest}; {end:?}"));
                }
            }
            _ if highest > put => {
                return Err(format!("{highest} of {producer}, who has put {put}"));
            }
            _ => missing += put - count,
        }
    }
    let taken = missing.wrapping_sub(board.gone.load(SeqCst)) as i64;
    let is_right = match (effect, end.was_killed) {
        (Effect::Takes(most), true) => match (end.had_not_begun, end.was_completed) {
            (true, _) => taken == 0,
            (_, true) => taken == most as i64,
            _ => (0..=most as i64).contains(&taken),
        },
        _ => taken == 0,
    };
    if is_right { Ok(()) } else { Err(format!("{taken} items are missing; {end:?}")) }
}
