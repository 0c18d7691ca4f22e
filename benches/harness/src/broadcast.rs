//! [`crossproc::Broadcast`] beside others between processes, where each receiver gets what each
//! sender sends.

#![allow(unsafe_code)]

use core::cell::RefCell;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::time::Duration;

use crossproc::{Broadcast, BroadcastOptions, Shm, SlowSubscribers, Subscriber, shared};

use crate::Arguments;
use crate::placement::Placement;
use crate::queue::work::until;
use crate::ratios::Ratios;
use crate::record::Operation;
use crate::sampler::Sampler;
use crate::team::{Team, share};

/// What a benchmark does.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// How many processes send.
    pub senders: usize,
    /// How many receive. Each gets everything.
    pub receivers: usize,
    /// Whether senders overwrite what was not received.
    pub is_lossy: bool,
}

impl Row {
    fn name(&self) -> String {
        let how = if self.is_lossy { "senders do not wait" } else { "senders wait" };
        format!("{} to {}, {how}", self.senders, self.receivers)
    }

    /// Returns how many items there is room for. Where senders do not wait, it is more than are
    /// sent in a round, so that nothing is lost, and all receive the same.
    pub fn capacity(&self) -> usize {
        if self.is_lossy { 2 * MOST_IN_A_ROUND } else { 1_024 }
    }
}

/// The most items of a round in which senders do not wait.
const MOST_IN_A_ROUND: usize = 1 << 16;

/// Something by which every receiver gets every item. One process makes it, and those that it
/// forks use it.
pub trait Everybody: Sized + Sync + 'static {
    /// What a process sends with.
    type Sender;
    /// What a process receives with.
    type Receiver;

    /// Returns a new one, or why there is none.
    fn new(row: &Row) -> Result<Self, String>;

    /// Makes what this process sends with. All receivers are there.
    fn sender(&self) -> Self::Sender;

    /// Makes what this process receives with: all that is sent from then on.
    fn receiver(&self) -> Self::Receiver;

    /// Sends a value if there is room. Returns whether there was room.
    fn try_send(sender: &mut Self::Sender, value: u64) -> bool;

    /// Receives the next value, if there is one.
    fn try_recv(receiver: &mut Self::Receiver) -> Option<u64>;
}

/// [`crossproc::Broadcast`], with either policy.
#[derive(Debug)]
pub struct Crossproc(Broadcast<u64>);

impl Everybody for Crossproc {
    type Sender = Broadcast<u64>;
    type Receiver = Subscriber<u64>;

    fn new(row: &Row) -> Result<Self, String> {
        let slow = if row.is_lossy { SlowSubscribers::Lag } else { SlowSubscribers::Wait };
        let made = BroadcastOptions::new().slow_subscribers(slow).create(row.capacity());
        made.map(Crossproc).map_err(|error| error.to_string())
    }

    fn sender(&self) -> Broadcast<u64> {
        self.0.clone()
    }

    fn receiver(&self) -> Subscriber<u64> {
        self.0.subscribe().expect("there are few subscribers")
    }

    #[inline]
    fn try_send(sender: &mut Broadcast<u64>, value: u64) -> bool {
        sender.try_send(value).is_ok()
    }

    #[inline]
    fn try_recv(receiver: &mut Subscriber<u64>) -> Option<u64> {
        receiver.try_recv().ok()
    }
}

/// One that takes part in the comparison.
#[derive(Clone, Copy, Debug)]
pub struct Contestant {
    /// Its name.
    pub name: &'static str,
    /// Measures it, or tells why it cannot be measured.
    pub sampler: fn(&Row) -> Result<Sampler, String>,
}

/// Prints crossproc's ratios to these rivals, in alternated pairs; with `--test` everything runs
/// once. Another argument is a filter: only rows, or rivals, whose names contain it.
pub fn run(
    title: &'static str,
    rivals: &[Contestant],
    packages: &'static [&'static str],
    missing: &[(&str, &str)],
) {
    let Arguments { effort, others: mut filters } = Arguments::of_program();
    filters.retain(|filter| filter != "ratios");
    let mut ratios = Ratios::new(title, packages, effort);
    for (rival, reason) in missing {
        ratios.miss("", rival, *reason);
    }
    for (senders, receivers) in [(1, 1), (1, 4), (4, 4)] {
        for is_lossy in [false, true] {
            let row = Row { senders, receivers, is_lossy };
            let name = row.name();
            for rival in rivals {
                let is_wanted = |filter: &String| name.contains(filter) || rival.name == filter;
                if !filters.iter().all(is_wanted) {
                    continue;
                }
                match (rival.sampler)(&row) {
                    Ok(theirs) => {
                        let ours = sampler::<Crossproc>(&row).expect("crossproc offers all");
                        ratios.compare(Operation::new(&name), None, ours, rival.name, theirs);
                    }
                    Err(reason) => ratios.miss(&name, rival.name, reason),
                }
            }
        }
    }
    ratios.finish();
}

shared! {
    /// The counters of a round. Its begin and end order all accesses, if nothing else is said.
    struct Tally {
        /// How many receivers there are. Release, for senders, which come after them: Acquire.
        ready: AtomicU64,
        /// The sums of all values since the beginning.
        sum_sent: AtomicU64,
        sum_received: AtomicU64,
    }
}

/// What a member has, from its first round on.
struct Own<T>(RefCell<Option<T>>);

// SAFETY: members are processes of one thread each, with a copy each of what was there when they
// were forked. The process that forks them does not use it.
unsafe impl<T> Sync for Own<T> {}

/// Returns what measures `row`. An item is one that was sent, and received by all.
pub fn sampler<E: Everybody>(row: &Row) -> Result<Sampler, String> {
    let row = *row;
    let everybody = E::new(&row)?;
    let zero = || AtomicU64::new(0);
    let tally = Tally { ready: zero(), sum_sent: zero(), sum_received: zero() };
    let tally = Shm::new(tally).map_err(|error| error.to_string())?;
    let theirs = tally.clone();
    let sender = Own(RefCell::new(None::<E::Sender>));
    let receiver = Own(RefCell::new(None::<E::Receiver>));
    let work = |index: usize, amount: u64| {
        // Whole, so that what is captured is what is `Sync`.
        let (sender, receiver) = (&sender, &receiver);
        if index < row.receivers {
            receive_all::<E>(&everybody, &theirs, receiver, amount);
        } else {
            let share = share(amount, index - row.receivers, row.senders);
            send_all::<E>(&everybody, &theirs, &row, sender, index as u64, share);
        }
    };
    let mut team = Team::of_processes(row.senders + row.receivers, Placement::FREE, work);
    Ok(Box::new(move |amount| {
        let _keep = &everybody;
        let mut left = amount;
        let mut took = Duration::ZERO;
        while left > 0 {
            let now = if row.is_lossy { left.min(MOST_IN_A_ROUND as u64) } else { left };
            took += team.round(now);
            left -= now;
            let sent = tally.sum_sent.load(Relaxed).wrapping_mul(row.receivers as u64);
            assert_eq!(tally.sum_received.load(Relaxed), sent, "all got everything");
        }
        took
    }))
}

fn receive_all<E: Everybody>(everybody: &E, tally: &Tally, own: &Own<E::Receiver>, amount: u64) {
    let mut own = own.0.borrow_mut();
    let receiver = own.get_or_insert_with(|| {
        let receiver = everybody.receiver();
        tally.ready.fetch_add(1, Release);
        receiver
    });
    let mut sum = 0_u64;
    for _ in 0..amount {
        sum = sum.wrapping_add(until(|| E::try_recv(receiver)));
    }
    tally.sum_received.fetch_add(sum, Relaxed);
}

fn send_all<E: Everybody>(
    everybody: &E,
    tally: &Tally,
    row: &Row,
    own: &Own<E::Sender>,
    index: u64,
    share: u64,
) {
    until(|| (tally.ready.load(Acquire) == row.receivers as u64).then_some(()));
    let mut own = own.0.borrow_mut();
    let sender = own.get_or_insert_with(|| everybody.sender());
    let mut sum = 0_u64;
    for value in index << 40..(index << 40) + share {
        until(|| E::try_send(sender, value).then_some(()));
        sum = sum.wrapping_add(value);
    }
    tally.sum_sent.fetch_add(sum, Relaxed);
}
