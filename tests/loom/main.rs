//! Loom models of the real primitives: `ci/loom.sh` runs them, with `--cfg crossproc_loom`.
//!
//! Each prints how many executions it explored. A model with the futex that [`Look`]s finds a
//! missing Acquire or Release. A model with the futex that [`Sleep`]s finds a lost wake-up. In a
//! kill model one participant is killed before its step k, for every k that it reaches.

#![cfg(crossproc_loom)]
#![allow(unsafe_code)]

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crossproc_sys::model::{End, Futexes, explore, participant};
use loom::cell::UnsafeCell;
use loom::thread::{self, JoinHandle};

mod barrier;
mod condition;
mod event;
mod lock;
mod once;
mod permits;
mod queue;
mod rlock;
mod rwlock;
mod semaphore;
mod stacks;

include!("machines.rs");

/// Explores a model in which no participant is killed.
fn model(
    name: &str,
    futexes: Futexes,
    preemptions: Option<usize>,
    model: impl Fn() + Send + Sync + 'static,
) {
    without_slices();
    let executions = explore(futexes, preemptions, model);
    println!("{name}: {executions} executions ({futexes:?}, {})", bound(preemptions));
}

/// Explores a model once for each step at which its victim can be killed. The model gets the step.
/// Its result says whether the victim was killed.
fn kill_model(
    name: &str,
    preemptions: Option<usize>,
    model: impl Fn(usize) -> End + Send + Sync + 'static,
) {
    sampled_kill_model(name, preemptions, 1, model);
}

/// Runs [`kill_model`] for one step in `every`, where all steps would take too long.
fn sampled_kill_model(
    name: &str,
    preemptions: Option<usize>,
    every: usize,
    model: impl Fn(usize) -> End + Send + Sync + 'static,
) {
    without_slices();
    let model = Arc::new(model);
    let mut executions = 0;
    for killed_at in (0..).step_by(every) {
        let was_killed = Arc::new(AtomicBool::new(false));
        let (model, noted) = (Arc::clone(&model), Arc::clone(&was_killed));
        executions += explore(Futexes::Sleep, preemptions, move || {
            if model(killed_at).killed {
                noted.store(true, Relaxed);
            }
        });
        if !was_killed.load(Relaxed) {
            let steps = if every == 1 {
                format!("each of {killed_at} steps")
            } else {
                format!("one in {every} of {killed_at} steps")
            };
            println!(
                "{name}: {executions} executions (Sleep, killed at {steps}, {})",
                bound(preemptions)
            );
            return;
        }
    }
}

/// Turns slices off, in the crate and in the modules that are compiled here again.
fn without_slices() {
    crossproc::set_recheck_interval(None);
    wait::set_recheck_interval(None);
}

fn bound(preemptions: Option<usize>) -> String {
    preemptions.map_or("every interleaving".into(), |most| format!("up to {most} preemptions"))
}

/// Makes what the participants share. It is used once here, since loom's atomics are created on
/// first use.
fn share<P: Debug>(shared: P) -> Arc<P> {
    let shared = Arc::new(shared);
    let _ = format!("{shared:?}");
    shared
}

/// Spawns a participant in a thread of its own.
fn spawn<P: 'static>(
    tid: u32,
    killed_at: Option<usize>,
    shared: &Arc<P>,
    body: impl FnOnce(&P) + 'static,
) -> JoinHandle<End> {
    let shared = Arc::clone(shared);
    thread::spawn(move || participant(tid, killed_at, || body(&shared)))
}

fn join(thread: JoinHandle<End>) -> End {
    thread.join().expect("a participant's panic ends the model")
}

fn join_all<const N: usize>(threads: [JoinHandle<End>; N]) {
    for thread in threads {
        join(thread);
    }
}

/// Data that loom watches for races.
#[derive(Debug, Default)]
struct Watched(UnsafeCell<u64>);

impl Watched {
    fn add(&self, count: u64) {
        // SAFETY: the model holds the lock, or has not shared the data yet; loom fails otherwise.
        self.0.with_mut(|value| unsafe { *value += count });
    }

    fn set(&self, to: u64) {
        // SAFETY: as in `add`.
        self.0.with_mut(|value| unsafe { *value = to });
    }

    fn get(&self) -> u64 {
        // SAFETY: as in `add`.
        self.0.with(|value| unsafe { *value })
    }
}
