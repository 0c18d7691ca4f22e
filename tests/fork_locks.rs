//! A child that is forked while other threads of its parent hold locks of this crate waits for none
//! of them.

#![allow(unsafe_code)]

use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crossproc::process::Builder;
use crossproc_sys::lifeline::Lifeline;

mod forked;
use forked::PATIENCE;

/// So often that the lock is held at some of the forks, but for a chance of one in a million, even
/// if the other thread has it for a third of the time only.
const FORKS: u32 = 40;

#[test]
fn a_child_can_have_daemons_whatever_its_parent_was_doing() {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                Lifeline::of_this_process().unwrap();
            }
        });
        let mut ends = (0..FORKS).map(|_| {
            let body = || _ = Lifeline::of_this_process().unwrap();
            // SAFETY: the child uses this crate, and panics at most.
            let child = unsafe { Builder::new().fork_with_threads(body) }.unwrap();
            let ended = child.join_timeout(PATIENCE);
            let _ = child.kill();
            ended
        });
        let hangs = ends.find(|ended| !ended.as_ref().is_ok_and(ExitStatus::success));
        is_over.store(true, Relaxed);
        assert!(hangs.is_none(), "{hangs:?}");
    });
}
