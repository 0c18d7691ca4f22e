//! [`crossproc::Connection`] beside its alternatives.

pub mod ends;
pub mod messages;

use std::sync::Mutex;

use self::ends::{Crossproc, CrossprocMessage, End, RawPacket, RawPacketWithControl, RawStream};
use crate::Arguments;
use crate::placement::Placement;
use crate::ratios::Ratios;
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

/// A kind of ends, and how it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Contestant {
    /// Its name.
    pub name: &'static str,
    /// Measures it, with messages of so many bytes, or tells why it cannot be measured.
    pub sampler: fn(Work, usize) -> Result<Sampler, String>,
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
/// once. `ratios` asks for what is done anyway. Another argument is a filter: only rows, or rivals,
/// whose names contain it.
pub fn run(title: &'static str, rivals: &[Contestant], packages: &'static [&'static str]) {
    let works = [
        (Work::Alone, "one thread"),
        (Work::Stream, "one way"),
        (Work::PingPong, "there and back"),
    ];
    run_of(title, OURS, rivals, (&SIZES, &works), packages);
}

/// The same for other ends of crossproc's, with messages of these sizes, and for these works.
pub fn run_of(
    title: &'static str,
    ours: Contestant,
    rivals: &[Contestant],
    (sizes, works): (&[usize], &[(Work, &str)]),
    packages: &'static [&'static str],
) {
    let Arguments { effort, others: mut filters } = Arguments::of_program();
    filters.retain(|filter| filter != "ratios");
    let mut ratios = Ratios::new(title, packages, effort);
    for &(work, name) in works {
        for &size in sizes.iter().filter(|&&size| work != Work::Alone || size <= ALONE) {
            for rival in rivals {
                let row = format!("{name}, {size} B");
                let is_wanted = filters
                    .iter()
                    .all(|filter| row.contains(filter) || rival.name.contains(filter));
                if !is_wanted {
                    continue;
                }
                let theirs = match (rival.sampler)(work, size) {
                    Ok(theirs) => theirs,
                    Err(reason) => {
                        ratios.miss(&row, rival.name, reason);
                        continue;
                    }
                };
                let ours = (ours.sampler)(work, size).expect("crossproc offers everything");
                let bar = rival.bar.filter(|_| size <= BARRED);
                ratios.compare(&row, bar, ours, rival.name, theirs);
            }
        }
    }
    ratios.finish();
}

/// Returns what measures such ends, or why there is nothing to measure.
pub fn sampler<E: End>(work: Work, size: usize) -> Result<Sampler, String> {
    if size > E::MAX {
        return Err(format!("at most {} bytes", E::MAX));
    }
    let (one, other) = E::pair();
    if work == Work::Alone {
        let (message, mut buffer) = (vec![1; size], vec![0; size]);
        return Ok(Box::new(move |times| {
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
    // Each process has its own copy, which is there since its first round.
    let own = Mutex::new((vec![1; size], vec![0; size]));
    Ok(rounds(Team::of_processes_warmed_up(2, Placement::FREE, first, move |index, times| {
        let (message, buffer) = &mut *own.lock().expect("no round panics");
        for _ in 0..times {
            if index == 0 {
                one.send(message);
                if is_duplex {
                    one.recv(buffer);
                }
            } else {
                other.recv(buffer);
                if is_duplex {
                    other.send(message);
                }
            }
        }
    })))
}
