//! Batches: a getter copies from a slot that another participant takes and fills again.

use std::sync::Arc;

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::model::Futexes::Look;
use loom::thread;

use super::{BlockConfig, Config, Plot, SlowConfig, plot_of};
use crate::ring::batches::Got;
use crate::ring::participant::Participant;
use crate::ring::refused::Refused;
use crate::{model, share};

/// A queue of batches of two, and the items in its slots.
#[derive(Debug)]
struct Batches {
    plot: Plot,
    items: Vec<[AtomicU64; 2]>,
}

fn batches(ids: u32) -> Arc<Batches> {
    let config = Config {
        capacity: 1,
        letters: 0,
        ids,
        places: 2,
        attempts: 0,
        is_joinable: false,
        size: 16,
        align: 8,
        batch: 2,
        blocks: BlockConfig::default(),
        slow: SlowConfig::default(),
    };
    let plot = plot_of(config);
    plot.furnish();
    let items = (0..config.slots()).map(|_| Default::default()).collect();
    share(Batches { plot, items })
}

impl Batches {
    /// Writes a batch into the slot that the next put takes. Returns its place.
    fn write(&self, me: &Participant, values: [u64; 2]) -> usize {
        let memory = &self.plot.memory;
        let place = memory.free_place(me);
        let slot = memory.slot(me, place).unwrap();
        memory.begin_batch(slot, 2);
        for (item, value) in self.items[slot].iter().zip(values) {
            item.store(value, Relaxed);
        }
        place
    }

    fn put(&self, me: &Participant, values: [u64; 2]) -> Result<(), Refused> {
        let place = self.write(me, values);
        self.plot.ring().put(me, place).map(|_| ())
    }

    /// Gets at most so many items.
    fn get(&self, me: &Participant, most: u32) -> Result<Vec<u64>, Refused> {
        let memory = &self.plot.memory;
        let place = memory.free_place(me);
        let mut copied = Vec::new();
        let read = |slot: usize, from: u32, count: u32| {
            let items = self.items[slot].iter().skip(from as usize).take(count as usize);
            items.map(|item| item.load(Relaxed)).collect()
        };
        let copy = |slot, from| copied = read(slot, from, most);
        match self.plot.ring().get_batched(me, place, most, copy)?.0 {
            Got::Some => Ok(copied),
            Got::Rest { from, end } => Ok(read(memory.slot(me, place).unwrap(), from, end - from)),
        }
    }
}

#[test]
fn what_was_copied_is_what_was_in_the_entry() {
    model("queue: what_was_copied_is_what_was_in_the_entry", Look, Some(3), || {
        let batches = batches(2);
        batches.put(&batches.plot.participant(1), [1, 2]).unwrap();
        let theirs = Arc::clone(&batches);
        let taker = thread::spawn(move || {
            let me = theirs.plot.participant(0);
            let got = theirs.get(&me, 2).unwrap();
            // Into the slot that it got.
            theirs.write(&me, [11, 12]);
            got
        });
        let got = batches.get(&batches.plot.participant(1), 1);
        let taken = taker.join().unwrap();
        match got {
            Ok(got) => assert!((got == [1] && taken == [2]), "{got:?}, {taken:?}"),
            Err(refused) => assert!(refused == Refused::Empty && taken == [1, 2], "{taken:?}"),
        }
        batches.plot.assert_whole();
    });
}

#[test]
fn a_get_sees_the_batch_that_was_put() {
    model("queue: a_get_sees_the_batch_that_was_put", Look, None, || {
        let batches = batches(2);
        let theirs = Arc::clone(&batches);
        let putter = thread::spawn(move || theirs.put(&theirs.plot.participant(0), [1, 2]));
        match batches.get(&batches.plot.participant(1), 1) {
            Ok(got) => assert_eq!(got, [1]),
            Err(refused) => assert_eq!(refused, Refused::Empty),
        }
        putter.join().unwrap().unwrap();
    });
}
