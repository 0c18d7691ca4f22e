//! What is measured, and for which queues.

use crossproc_rivals::cloudtoid::Cloudtoid;
use crossproc_rivals::crossbeam::{Array, Channel};

use crossproc_rivals::crossproc_queue::CrossprocQueue;
use crossproc_rivals::iceoryx::Iceoryx;
use crossproc_rivals::ipc_channel::IpcChannel;
use crossproc_rivals::pipe::Pipe;
use crossproc_rivals::posix_mq::PosixMq;
use crossproc_rivals::seqpacket::SeqPacket;
#[cfg(feature = "shaq")]
use crossproc_rivals::shaq::Shaq;
use crossproc_rivals::{MessageQueue, Offers};

use crate::harness::placement::Placement;
use crate::harness::sampler::Sampler;
use crate::work;

/// One row of the tables, for every rival.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) layout: Layout,
    pub(crate) calls: Calls,
    /// The length of a message in words of eight bytes.
    words: usize,
    pub(crate) capacity: usize,
}

/// Which threads or processes use the queue.
#[derive(Clone, Copy)]
pub(crate) enum Layout {
    /// One thread, which puts and gets in turns.
    Alone,
    /// As many producers as consumers, each a process.
    Processes { pairs: usize, placement: Placement },
    /// As many producers as consumers, all of them threads of one process.
    Threads { pairs: usize },
}

/// How they call the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// Calls that never wait, again and again.
    Trying,
    /// Calls that wait.
    Waiting,
    /// [`BATCH`] messages with each call, again and again.
    Batches,
}

/// The most messages of a batch.
pub(crate) const BATCH: usize = 16;

const CAPACITY: usize = 1024;

/// The most bytes that a queue's messages may need together.
const MOST_BYTES: usize = 16 << 20;

/// Returns everything that is measured.
pub(crate) fn rows() -> Vec<Row> {
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
pub(crate) struct Rival {
    pub(crate) name: &'static str,
    pub(crate) offers: Offers,
    sampler: fn(&Row) -> Result<Sampler, String>,
}

impl Rival {
    /// Returns the sampler for this row, or the reason why there is nothing to measure.
    pub(crate) fn sampler(&self, row: &Row) -> Result<Sampler, String> {
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
            None => (self.sampler)(row),
        }
    }

    /// Returns the greatest ratio that was promised.
    pub(crate) fn bar(&self, row: &Row) -> Option<f64> {
        let is_shared_memory = ["shaq", "cloudtoid-interprocess", "iceoryx2"].contains(&self.name);
        let is_promised = matches!(row.layout, Layout::Processes { pairs: 1..=4, .. })
            && row.calls == Calls::Trying
            && row.words == 1;
        (is_shared_memory && is_promised).then_some(1.0)
    }
}

macro_rules! rival {
    ($name:literal, $queue:ident) => {
        Rival {
            name: $name,
            offers: <$queue<1> as MessageQueue>::OFFERS,
            sampler: |row| match row.words {
                1 => work::sampler::<$queue<1>>(row),
                8 => work::sampler::<$queue<8>>(row),
                512 => work::sampler::<$queue<512>>(row),
                8192 => work::sampler::<$queue<8192>>(row),
                131_072 => work::sampler::<$queue<131_072>>(row),
                words => Err(format!("no messages of {words} words")),
            },
        }
    };
}

/// All queues, crossproc's first.
pub(crate) const RIVALS: &[Rival] = &[
    rival!("crossproc", CrossprocQueue),
    #[cfg(feature = "shaq")]
    rival!("shaq", Shaq),
    rival!("cloudtoid-interprocess", Cloudtoid),
    rival!("iceoryx2", Iceoryx),
    rival!("POSIX mq", PosixMq),
    rival!("pipe", Pipe),
    rival!("socketpair, SOCK_SEQPACKET", SeqPacket),
    rival!("ipc-channel", IpcChannel),
    rival!("crossbeam ArrayQueue", Array),
    rival!("crossbeam-channel", Channel),
];

/// The rivals that are missing, and why.
pub(crate) const MISSING: &[(&str, &str)] = &[
    #[cfg(not(feature = "shaq"))]
    ("shaq", "built without the feature `shaq`, which takes a nightly compiler"),
    (
        "Python's multiprocessing.Queue",
        "takes an interpreter; a pipe behind a lock and a thread, microseconds a message",
    ),
];

/// Returns crossproc's queue.
pub(crate) fn ours() -> &'static Rival {
    &RIVALS[0]
}
