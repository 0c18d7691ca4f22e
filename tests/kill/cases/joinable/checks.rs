//! What a queue and its tasks are checked for in the end.

use core::sync::atomic::Ordering::SeqCst;
use core::time::Duration;
use std::os::fd::AsFd;

use crossproc::JoinableQueue;

use super::{ALL, Board, EACH, JUDGE, MOST_ROUNDS, VICTIM};
use crate::harness::End;

pub(crate) fn check(board: &Board, end: &End) -> Result<(), String> {
    let all: Vec<JoinableQueue<u64>> = (0..board.words.used())
        .map(|_| {
            let file =
                board.queue.as_fd().try_clone_to_owned().expect("there are descriptors left");
            let queue: JoinableQueue<u64> = JoinableQueue::attach(file).expect("it is a queue");
            drop(queue.loan().expect("nobody else takes part"));
            queue
        })
        .collect();
    drop(all);
    board.drain();
    while let Ok(letter) = board.queue.dead_letter() {
        board.account(*letter).done.fetch_add(1, SeqCst);
    }
    if let Err(error) = board.queue.join_timeout(Duration::ZERO) {
        return Err(format!("{} are unfinished: {error}", board.queue.unfinished()));
    }
    if board.queue.unfinished() != 0 || board.queue.dead_letters() != 0 {
        return Err(format!(
            "{} are unfinished, {} given up",
            board.queue.unfinished(),
            board.queue.dead_letters()
        ));
    }
    check_capacity(board)?;
    board.words.check_slots()?;
    check_tasks(board, end)
}

fn check_capacity(board: &Board) -> Result<(), String> {
    if board.queue.is_closed() {
        return Ok(());
    }
    for _ in 0..3 {
        let count = (0..MOST_ROUNDS).take_while(|_| board.try_put(JUDGE)).count();
        let drained = board.drain();
        if (count, drained) != (board.queue.capacity(), board.queue.capacity()) {
            return Err(format!(
                "{count} put, {drained} done, and there is room for {}",
                board.queue.capacity()
            ));
        }
    }
    Ok(())
}

/// Checks that each task that was put was done once. The exception is a task whose worker was
/// killed while reporting it done.
fn check_tasks(board: &Board, end: &End) -> Result<(), String> {
    let victims = board.victims.load(SeqCst);
    for who in 0..ALL {
        let put = board.put[who].load(SeqCst) as usize;
        for number in 0..EACH {
            let item = (who as u64) << 32 | number as u64;
            let done = board.tasks[who][number].done.load(SeqCst);
            let is_being_put = end.was_killed && who == VICTIM && number == put;
            let is_right = if victims == item + 1 && end.was_killed {
                match (end.had_not_begun, end.was_completed) {
                    (true, _) => done == 1,
                    (_, true) => done == 0,
                    _ => done <= 1,
                }
            } else if is_being_put {
                match (end.had_not_begun, end.was_completed && end.observed == 0) {
                    (true, _) => done == 0,
                    _ => done <= 1,
                }
            } else {
                done == u32::from(number < put)
            };
            if !is_right {
                return Err(format!(
                    "{number} of {who}, who has put {put}, was done {done} times; {end:?}"
                ));
            }
        }
    }
    Ok(())
}
