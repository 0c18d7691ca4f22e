//! [`crossproc::Connection`] beside its alternatives.

use std::env;

pub mod ends;

use self::ends::{Crossproc, CrossprocMessage, End, RawPacket, RawPacketWithControl, RawStream};
use crate::placement::Placement;
use crate::ratios::{Effort, Ratios};
use crate::sampler::{Sampler, rounds};
use crate::team::Team;

/// The lengths of the messages, in bytes.
const SIZES: [usize; 6] = [8, 1 << 10, 16 << 10, 64 << 10, 1 << 20, 64 << 20];
/// The longest message that one thread sends to itself: it must fit into every buffer.
const ALONE: usize = 64 << 10;
/// The promised ratio to a socketpair of the same type.
const BAR: Option<f64> = Some(1.05);
/// The longest message for which the ratio is promised, in bytes.
const BARRED: usize = 1 << 20;

/// What a benchmark does with two ends and a message of some length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One thread sends and receives.
    Alone,
    /// One process sends, another one receives.
    Stream,
    /// A message goes there and back.
    PingPong,
}

/// A kind of ends, and how it is measured. The sampler is `None` if it cannot be measured.
#[derive(Clone, Copy, Debug)]
pub struct Contestant {
    /// Its name.
    pub name: &'static str,
    /// Measures it, with messages of so many bytes.
    pub sampler: fn(Work, usize) -> Option<Sampler>,
    /// The promised ratio.
    pub bar: Option<f64>,
}

const OURS: Contestant = Contestant { name: "crossproc", sampler: sampler::<Crossproc>, bar: None };

/// The rivals that the system has.
pub const OF_THE_SYSTEM: [Contestant; 4] = [
    Contestant {
        name: "crossproc, recv to a new vector",
        sampler: sampler::<CrossprocMessage>,
        bar: None,
    },
    Contestant { name: "raw seqpacket, send and recv", sampler: sampler::<RawPacket>, bar: BAR },
    Contestant {
        name: "raw seqpacket, send and recvmsg",
        sampler: sampler::<RawPacketWithControl>,
        bar: BAR,
    },
    Contestant { name: "raw stream, length and bytes", sampler: sampler::<RawStream>, bar: None },
];

/// Prints crossproc's ratios to these rivals, in alternated pairs; with `--test` everything runs
/// once. Another argument is a filter: only rows, or rivals, whose names contain it.
pub fn run(rivals: &[Contestant], packages: &'static [&'static str]) {
    let (flags, filters): (Vec<String>, Vec<String>) =
        env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let is_trial = flags.iter().any(|flag| flag == "--test") || flags.is_empty();
    let mut ratios =
        Ratios::new("Pipe", packages, if is_trial { Effort::TRIAL } else { Effort::FULL });
    for (work, name) in
        [(Work::Alone, "one thread"), (Work::Stream, "one way"), (Work::PingPong, "there and back")]
    {
        for size in SIZES {
            for rival in rivals {
                let row = format!("{name}, {size} B");
                let is_wanted = filters
                    .iter()
                    .all(|filter| row.contains(filter) || rival.name.contains(filter));
                if !is_wanted || (work == Work::Alone && size > ALONE) {
                    continue;
                }
                let Some(theirs) = (rival.sampler)(work, size) else { continue };
                let ours = (OURS.sampler)(work, size).expect("crossproc offers everything");
                ratios.compare(
                    &row,
                    rival.bar.filter(|_| size <= BARRED),
                    ours,
                    rival.name,
                    theirs,
                );
            }
        }
    }
    ratios.print();
}

/// Returns what measures such ends. `None` if the message is too long for them.
pub fn sampler<E: End>(work: Work, size: usize) -> Option<Sampler> {
    if size > E::MAX {
        return None;
    }
    let (one, other) = E::pair();
    if work == Work::Alone {
        let (message, mut buffer) = (vec![1; size], vec![0; size]);
        return Some(Box::new(move |times| {
            let start = std::time::Instant::now();
            for _ in 0..times {
                one.send(&message);
                other.recv(&mut buffer);
            }
            start.elapsed()
        }));
    }
    let is_duplex = work == Work::PingPong;
    // As many rounds as for short messages would take seconds.
    let first = ((64 << 20) / size as u64).clamp(1, 64);
    Some(rounds(Team::of_processes_warmed_up(2, Placement::FREE, first, move |index, times| {
        let (message, mut buffer) = (vec![1; size], vec![0; size]);
        for _ in 0..times {
            if index == 0 {
                one.send(&message);
                if is_duplex {
                    one.recv(&mut buffer);
                }
            } else {
                other.recv(&mut buffer);
                if is_duplex {
                    other.send(&message);
                }
            }
        }
    })))
}
