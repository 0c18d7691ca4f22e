//! [`crossproc::Queue`] beside other message queues, between processes or threads, behind one
//! trait.

use core::time::Duration;

use crate::Arguments;
use crate::ratios::Ratios;
use crate::regime;

pub mod crossproc_queue;
pub mod message;
pub mod pipe;
pub mod posix_mq;
pub mod rows;
pub mod seqpacket;
pub mod sync_channel;
mod table;
mod words;
pub mod work;

use self::rows::{Rival, rows};

/// Prints the times of all these queues, row by row, the first of which is crossproc's. With
/// `ratios` it compares crossproc's queue with each of the others in alternated pairs instead; with
/// `--test` everything runs once. Another argument is a filter: only rows, or rivals, whose names
/// contain it. `packages` are those whose versions are printed, and `missing` names the queues that
/// are missing, and why.
pub fn run(
    title: &'static str,
    rivals: &[Rival],
    packages: &'static [&'static str],
    missing: &[(&str, &str)],
) {
    let Arguments { effort, others } = Arguments::of_program();
    let (modes, filters): (Vec<String>, Vec<String>) =
        others.into_iter().partition(|argument| argument == "ratios");
    let is_wanted = |row: &str, rival: &str| {
        filters.iter().all(|filter| row.contains(filter) || rival.contains(filter))
    };
    if effort.is_trial() || modes.is_empty() {
        table::print(rivals, packages, missing, effort, is_wanted);
    }
    if effort.is_trial() || !modes.is_empty() {
        let mut ratios = Ratios::new(title, packages, effort);
        for (rival, reason) in missing {
            ratios.miss("", rival, *reason);
        }
        compare(&mut ratios, rivals, is_wanted);
        ratios.finish();
    }
}

/// Compares crossproc's times with each rival's, as ratios.
fn compare(ratios: &mut Ratios, rivals: &[Rival], is_wanted: impl Fn(&str, &str) -> bool) {
    let (ours, rivals) = rivals.split_first().expect("crossproc's is the first");
    for row in rows() {
        let our_sampler = || ours.sampler(&row).expect("crossproc offers everything");
        if row.bar_to_bare().is_some() && is_wanted(&row.name, regime::BARE) {
            let theirs = regime::sampler();
            ratios.compare(row.operation(), row.bar_to_bare(), our_sampler(), regime::BARE, theirs);
        }
        if row.bar_to_bare().is_some() && is_wanted(&row.name, words::WORDS) {
            ratios.compare(row.operation(), None, our_sampler(), words::WORDS, words::sampler());
        }
        for rival in rivals.iter().filter(|rival| is_wanted(&row.name, rival.name)) {
            match rival.sampler(&row) {
                Ok(theirs) => ratios.compare(
                    row.operation(),
                    rival.bar(&row),
                    our_sampler(),
                    rival.name,
                    theirs,
                ),
                Err(reason) => ratios.miss(&row.name, rival.name, reason),
            }
        }
    }
}

/// The longest wait of [`MessageQueue::get_timeout`].
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// A bounded queue of messages of `WORDS * 8` bytes. The first eight bytes are a value, and the
/// others are not looked at.
///
/// One process makes it. The processes that this one forks, or its own threads, use it.
pub trait MessageQueue: Sized + Sync + 'static {
    /// What the queue can do.
    const OFFERS: Offers;

    /// Returns an empty queue for `capacity` messages, or why there is none.
    fn new(capacity: usize) -> Result<Self, String>;

    /// Prepares a thread to use the queue. Each thread calls it before that, any number of times.
    fn attach(&self, _side: Side) {}

    /// Puts a value if there is room. Returns whether there was room.
    fn try_put(&self, value: u64) -> bool;

    /// Gets a value, if there is one.
    fn try_get(&self) -> Option<u64>;

    /// Puts a value, and waits for room if the queue can do that. Otherwise this is another
    /// `try_put`. `false` means that the caller is to try again.
    fn put(&self, value: u64) -> bool {
        self.try_put(value)
    }

    /// Waits for a value for [`TIMEOUT`], or less if others got it. `None` means that the caller is
    /// to try again.
    fn get_timeout(&self) -> Option<u64>;

    /// Puts some of the first of `values`. Returns how many.
    fn put_batch(&self, values: &[u64]) -> usize {
        usize::from(values.first().is_some_and(|&value| self.try_put(value)))
    }

    /// Appends at most `most` values. Returns how many. If none, the caller is to try again.
    fn get_batch(&self, into: &mut Vec<u64>, most: usize) -> usize {
        if most == 0 {
            return 0;
        }
        let value = self.try_get();
        into.extend(value);
        usize::from(value.is_some())
    }
}

/// What a thread does with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It puts.
    Producer,
    /// It gets.
    Consumer,
    /// It does both.
    Both,
}

/// What a queue can do.
#[derive(Clone, Copy, Debug)]
pub struct Offers {
    /// Works between processes.
    pub processes: bool,
    /// Works between threads of one process.
    pub threads: bool,
    /// Supports several producers and several consumers.
    pub many: bool,
    /// Can wait for a message.
    pub blocking_get: bool,
    /// Can put, or get, several messages at once.
    pub batches: bool,
    /// How many bytes one thread can put and then get itself. With more, a put that should not wait
    /// does.
    pub alone: usize,
    /// A remark to be printed beside the times.
    pub remark: &'static str,
}
