//! What is measured, and for which queues.

use super::Offers;
use crate::placement::Placement;
use crate::record::Operation;
use crate::sampler::Sampler;

/// One row of the tables, for every rival.
pub struct Row {
    pub name: String,
    pub layout: Layout,
    pub calls: Calls,
    /// The length of a message in words of eight bytes.
    words: usize,
    pub capacity: usize,
}

impl Row {
    /// Returns the row as an operation, which is in a plot with those of other numbers of members.
    pub fn operation(&self) -> Operation {
        let operation = Operation::new(&self.name);
        let (pairs, who) = match self.layout {
            Layout::Alone => return operation,
            _ if self.words != 1 => return operation,
            Layout::Processes { pairs, placement } => (pairs, placement.name),
            Layout::Threads { pairs } => (pairs, "threads"),
        };
        let how = match self.calls {
            Calls::Trying => "trying",
            Calls::Waiting => "waiting",
            Calls::Batches => "batches of 16",
        };
        operation.among(2 * pairs, format!("{how}, {who}"))
    }

    /// Returns the greatest ratio that was promised to a bare compare-exchange and a swap: 20 ns
    /// for one thread's put and get, and 25 ns for a loan and a receive, where those take 9.5 ns.
    pub fn bar_to_bare(&self) -> Option<f64> {
        match self.layout {
            Layout::Alone if self.words == 1 => Some(20.0 / 9.5),
            Layout::Alone => Some(25.0 / 9.5),
            _ => None,
        }
    }
}

/// Which threads or processes use the queue.
#[derive(Clone, Copy)]
pub enum Layout {
    /// One thread, which puts and gets in turns.
    Alone,
    /// As many producers as consumers, each a process.
    Processes { pairs: usize, placement: Placement },
    /// As many producers as consumers, all of them threads of one process.
    Threads { pairs: usize },
}

/// How they call the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// Calls that never wait, again and again.
    Trying,
    /// Calls that wait.
    Waiting,
    /// [`BATCH`] messages with each call, again and again.
    Batches,
}

/// The most messages of a batch.
pub const BATCH: usize = 16;

const CAPACITY: usize = 1024;

/// The most bytes that a queue's messages may need together.
const MOST_BYTES: usize = 16 << 20;

/// Returns everything that is measured.
pub fn rows() -> Vec<Row> {
    let mut rows = vec![row("put + get, one thread", Layout::Alone, Calls::Trying, 1)];
    for (calls, how) in
        [(Calls::Trying, "trying"), (Calls::Waiting, "waiting"), (Calls::Batches, "batches of 16")]
    {
        for placement in [Placement::FREE].into_iter().chain(Placement::pinned()) {
            rows.push(row(
                &format!("1p1c {how}, {}", placement.name),
                Layout::Processes { pairs: 1, placement },
                calls,
                1,
            ));
        }
        for pairs in [2, 4, 8, 16] {
            for placement in [Placement::FREE]
                .into_iter()
                .chain([Placement::TWO_CPUS].into_iter().filter(|two| two.is_possible()))
            {
                let name = format!("{pairs}p{pairs}c {how}, {}", placement.name);
                rows.push(row(&name, Layout::Processes { pairs, placement }, calls, 1));
            }
        }
    }
    for (words, size) in [(8, "64 B"), (512, "4 KiB"), (8192, "64 KiB"), (131_072, "1 MiB")] {
        rows.push(row(
            &format!("put + get, one thread, {size}"),
            Layout::Alone,
            Calls::Trying,
            words,
        ));
        let layout = Layout::Processes { pairs: 1, placement: Placement::FREE };
        rows.push(row(&format!("1p1c trying, {size}"), layout, Calls::Trying, words));
    }
    for pairs in [1, 2, 4, 8] {
        for (calls, how) in [(Calls::Trying, "trying"), (Calls::Waiting, "waiting")] {
            rows.push(row(
                &format!("threads: {pairs}p{pairs}c {how}"),
                Layout::Threads { pairs },
                calls,
                1,
            ));
        }
    }
    rows
}

fn row(name: &str, layout: Layout, calls: Calls, words: usize) -> Row {
    Row {
        name: name.to_owned(),
        layout,
        calls,
        words,
        capacity: CAPACITY.min(MOST_BYTES / (words * 8)),
    }
}

/// A queue that takes part in the comparison.
pub struct Rival {
    pub name: &'static str,
    pub offers: Offers,
    sampler: fn(&Row, usize) -> Result<Sampler, String>,
}

impl Rival {
    /// Makes one; [`rival!`](crate::rival!) does it from a type.
    pub const fn new(
        name: &'static str,
        offers: Offers,
        sampler: fn(&Row, usize) -> Result<Sampler, String>,
    ) -> Self {
        Rival { name, offers, sampler }
    }

    /// Returns the sampler for this row, or the reason why there is nothing to measure.
    pub fn sampler(&self, row: &Row) -> Result<Sampler, String> {
        let offers = &self.offers;
        let missing = match row.layout {
            Layout::Processes { .. } if !offers.processes => Some("not between processes"),
            Layout::Threads { .. } if !offers.threads => Some("only between processes"),
            Layout::Processes { pairs: 2.., .. } | Layout::Threads { pairs: 2.. }
                if !offers.many =>
            {
                Some("one producer, one consumer only")
            }
            Layout::Alone if row.words * 8 > offers.alone => Some("a put would wait for ever"),
            _ if row.calls == Calls::Waiting && !offers.blocking_get => Some("cannot wait"),
            _ if row.calls == Calls::Batches && !offers.batches => Some("no batches"),
            _ => None,
        };
        match missing {
            Some(missing) => Err(missing.to_owned()),
            None => (self.sampler)(row, row.words),
        }
    }

    /// Returns the greatest ratio that was promised: to each of three crates, and so to the fastest
    /// of them; of batches, to the one that has them in shared memory.
    pub fn bar(&self, row: &Row) -> Option<f64> {
        let Layout::Processes { placement, .. } = row.layout else { return None };
        if row.calls == Calls::Batches {
            return self.name.starts_with("shaq").then_some(1.0);
        }
        let is_shared_memory =
            ["shaq", "shaq, spsc", "cloudtoid-interprocess", "iceoryx2"].contains(&self.name);
        is_shared_memory.then_some(if placement.is_on_two_cpus() { 0.6 } else { 1.0 })
    }
}

/// Makes a [`Rival`] from its name and its type, which has the length of a message as a parameter.
#[macro_export]
macro_rules! rival {
    ($name:literal, $queue:ident) => {
        $crate::queue::rows::Rival::new(
            $name,
            <$queue<1> as $crate::queue::MessageQueue>::OFFERS,
            |row, words| match words {
                1 => $crate::queue::work::sampler::<$queue<1>>(row),
                8 => $crate::queue::work::sampler::<$queue<8>>(row),
                512 => $crate::queue::work::sampler::<$queue<512>>(row),
                8192 => $crate::queue::work::sampler::<$queue<8192>>(row),
                131_072 => $crate::queue::work::sampler::<$queue<131_072>>(row),
                words => Err(format!("no messages of {words} words")),
            },
        )
    };
}
