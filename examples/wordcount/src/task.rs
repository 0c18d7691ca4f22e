//! [`Task`]: what a worker does at a time.

use std::ops::Range;

use crossproc::bytemuck::AnyBitPattern;

use crate::listing::Files;

/// The cost of opening a file, in bytes to be counted.
const OPENING: u64 = 4 << 10;

/// The least number of tasks for each worker, so that all workers take part in small trees, too. A
/// task is not made smaller than `SMALLEST` for it.
const FOR_EACH: u64 = 8;
const SMALLEST: u64 = 16 << 10;

/// Some consecutive chunks. Plain data: it goes through a queue.
#[derive(Debug, Clone, Copy, AnyBitPattern)]
#[bytemuck(crate = "crossproc::bytemuck")]
#[repr(C)]
pub(crate) struct Task {
    pub(crate) number: u32,
    first: u32,
    end: u32,
}

impl Task {
    pub(crate) fn chunks(self) -> Range<u32> {
        self.first..self.end
    }
}

/// All tasks, numbered from 0, in the order of their chunks.
pub(crate) struct Tasks {
    ends: Vec<u32>,
}

impl Tasks {
    /// Groups small chunks into tasks. A task has as many bytes as a large chunk, or as many as
    /// make enough tasks for the workers.
    pub(crate) fn of(files: &Files, workers: u32) -> Self {
        let cost = |len: u64| len.saturating_add(OPENING);
        let total = files.lengths().map(cost).fold(0, u64::saturating_add);
        let most = (total / (FOR_EACH * u64::from(workers))).max(SMALLEST).min(files.chunk());
        let mut ends = Vec::new();
        let mut bytes = 0_u64;
        for (chunk, len) in (0..).zip(files.lengths()) {
            bytes = bytes.saturating_add(cost(len));
            if chunk != 0 && bytes > most {
                ends.push(chunk);
                bytes = cost(len);
            }
        }
        if files.chunks() != 0 {
            ends.push(files.chunks());
        }
        Tasks { ends }
    }

    pub(crate) fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    pub(crate) fn get(&self, number: u32) -> Task {
        let end = |number: u32| self.ends[number as usize];
        Task { number, first: number.checked_sub(1).map_or(0, end), end: end(number) }
    }
}
