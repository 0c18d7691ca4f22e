//! A flood of frames that no program with this crate sends. The hostile processes come and go, send
//! descriptors of all kinds, and do not receive. Honest clients are served in time meanwhile.
//!
//! `HOSTILE_FRAMES` says how many frames are sent. The bound is on the time in which client and
//! server do not wait for a processor, of all requests but one in a thousand: who sends a
//! descriptor may wait for the kernel's collector of sockets on their way, a thread whose own
//! waiting nobody counts. With `HOSTILE_STRICT`, the bound is on the whole time of each request.
//! `ci/hostile.sh` sends a million frames, and is strict where it can have real-time priority for
//! client and server.

#![allow(unsafe_code)]

mod forked;
mod served;
#[path = "served/stranger.rs"]
mod stranger;

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crossproc::directory::{Address, DirectoryError, DirectoryOptions};
use crossproc::process::Child;
use crossproc::{Connection, Event, Shm, pipe, shared};
use rustix::fs::MemfdFlags;
use rustix::net::RecvFlags;

use forked::{PATIENCE, fork, join_all, slowness, wait_until};
use served::{Folder, client, descriptors, serve};
use stranger::protocol::Ask;
use stranger::{Stranger, framed, request};

const HONEST: u64 = 4;
const HOSTILE: u64 = 4;
/// The greatest number of connections that a hostile process has at a time.
const CONNECTIONS: usize = 12;
/// The longest time that an honest client's request may take.
const BOUND: Duration = Duration::from_millis(50);

shared! {
    struct Ledger {
        /// The number of hostile frames that the server's sockets took.
        frames: AtomicU64,
        is_over: AtomicU64,
    }
}

/// Returns how long the kernel has let a process wait for a processor so far.
fn waited(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/schedstat")).unwrap();
    Duration::from_nanos(stat.split(' ').nth(1).unwrap().parse().unwrap())
}

/// Returns whether the kernel lets the user send no more descriptors. The hostile processes are the
/// same user's, and who has no privileges may have as many on their way as `RLIMIT_NOFILE` says.
fn is_to_ask_again(error: &DirectoryError) -> bool {
    match error {
        DirectoryError::TooMany { .. } => true,
        DirectoryError::Os { source, .. } => source.raw_os_error() == Some(libc::ETOOMANYREFS),
        _ => false,
    }
}

/// The times that requests took, in nanoseconds: each in all, and without the time in which client
/// or server waited for a processor.
struct Watch {
    server: u32,
    taken: BTreeMap<&'static str, Vec<(u64, u64)>>,
}

impl Watch {
    fn time<R>(&mut self, what: &'static str, action: impl FnOnce() -> R) -> R {
        let waiting = |server| waited(std::process::id()) + waited(server);
        let (before, began) = (waiting(self.server), Instant::now());
        let result = action();
        let all = began.elapsed();
        let net = all.saturating_sub(waiting(self.server) - before);
        self.taken.entry(what).or_default().push((all.as_nanos() as u64, net.as_nanos() as u64));
        result
    }

    /// Makes a request that takes a handle along until the kernel lets it: each time is a time of
    /// its own.
    fn time_with_handle<R>(
        &mut self,
        what: &'static str,
        mut action: impl FnMut() -> Result<R, DirectoryError>,
    ) -> Result<R, DirectoryError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.time(what, &mut action) {
                Err(error) if is_to_ask_again(&error) && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                result => return result,
            }
        }
    }
}

/// Puts, gets, lists and removes until the flood is over, and then reports.
fn be_honest(address: &Address, server: u32, number: u64, ledger: &Ledger, report: &Connection) {
    let ours = Shm::new(Event::new()).unwrap();
    let mut client = client(address);
    let (own, next) = (format!("honest.{number}"), format!("honest.{}", (number + 1) % HONEST));
    let mut watch = Watch { server, taken: BTreeMap::new() };
    while ledger.is_over.load(SeqCst) == 0 {
        watch.time_with_handle("put", || client.put(&own, &ours)).unwrap();
        match watch.time_with_handle("get", || client.get::<Shm<Event>>(&next)) {
            Ok(_) | Err(DirectoryError::NotFound { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        watch.time_with_handle("get", || client.get::<Shm<Event>>(&own)).unwrap().set();
        assert!(ours.is_set());
        ours.clear();
        assert!(watch.time("list", || client.list("honest.")).unwrap().names.contains(&own));
        watch.time("remove", || client.remove(&own)).unwrap();
        watch.time("connect", || crossproc::directory::DirectoryClient::connect(address)).unwrap();
        // The pause keeps the honest clients from competing with each other for the processors.
        std::thread::sleep(Duration::from_millis(1));
    }
    for (what, taken) in watch.taken {
        let bytes: Vec<u8> =
            taken.iter().flat_map(|&(all, net)| [all, net]).flat_map(u64::to_ne_bytes).collect();
        report.send(what.as_bytes()).unwrap();
        report.send(&bytes).unwrap();
    }
    report.send(b"").unwrap();
}

/// What a hostile process sends.
struct Arsenal {
    descriptors: Vec<OwnedFd>,
    random: fastrand::Rng,
}

impl Arsenal {
    fn new(seed: u64) -> Self {
        let event = Shm::new(Event::new()).unwrap().as_fd().try_clone_to_owned().unwrap();
        let large = rustix::fs::memfd_create("large", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&large, 1 << 26).unwrap();
        let (one, _other) = pipe().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let network = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let socket = one.as_fd().try_clone_to_owned().unwrap();
        Arsenal {
            descriptors: vec![event, socket, large, read, write, file, network],
            random: fastrand::Rng::with_seed(seed),
        }
    }

    fn name(&mut self) -> String {
        match self.random.u32(..20) {
            0 => String::new(),
            1 => "x".repeat(self.random.usize(200..300)),
            _ => format!("x.{}", self.random.u32(..40)),
        }
    }

    /// Returns a request that is valid, or nearly so.
    fn packet(&mut self) -> (Vec<u8>, usize) {
        let (name, other) = (self.name(), self.name());
        let (name, flag) = (name.as_str(), self.random.bool());
        let ask = match self.random.u32(..9) {
            0 => Ask::Hello,
            1 | 2 => Ask::Put { name, or_get: flag },
            3 => Ask::Get { name },
            4 => Ask::List { prefix: ["", "x.", name][self.random.usize(..3)], after: &other },
            5 => Ask::Wait { name, tell: flag },
            6 => Ask::Remove { name },
            _ => Ask::Change { since: self.random.u64(..), tell: flag },
        };
        let mut packet = request(self.random.u64(1..), ask);
        let brings = matches!(ask, Ask::Put { .. }) != (self.random.u32(..8) == 0);
        if brings {
            packet = framed(&packet);
        }
        (packet, usize::from(brings))
    }

    /// Returns a packet of any kind, and the number of descriptors to send with it.
    fn frame(&mut self) -> (Vec<u8>, usize) {
        let (mut packet, mut count) = self.packet();
        match self.random.u32(..12) {
            0 => packet = (0..self.random.usize(1..2_000)).map(|_| self.random.u8(..)).collect(),
            1 => packet.truncate(self.random.usize(..packet.len())),
            2 => packet.extend((0..self.random.usize(1..1_000)).map(|_| self.random.u8(..))),
            3..6 => {
                for _ in 0..self.random.u32(1..5) {
                    let at = self.random.usize(..packet.len());
                    packet[at] ^= 1 << self.random.u32(..8);
                }
            }
            _ => {}
        }
        if self.random.u32(..16) == 0 {
            count = [0, 1, 2, 3, 253][self.random.usize(..5)];
        }
        (packet, count)
    }

    /// Sends a packet. Returns whether the connection still stands.
    fn send(&mut self, to: &Stranger) -> bool {
        let (packet, count) = self.frame();
        let descriptors: Vec<BorrowedFd<'_>> = (0..count)
            .map(|_| match self.random.usize(..self.descriptors.len() + 1) {
                // This is the connection's own end.
                none if none == self.descriptors.len() => to.as_fd(),
                some => self.descriptors[some].as_fd(),
            })
            .collect();
        to.send(&packet, &descriptors).is_ok()
    }
}

/// Leaves the processors to others. What a hostile process costs them is to be the server's doing,
/// not the scheduler's.
fn be_patient() {
    // SAFETY: integers, for which zero is valid; musl has more of them.
    let none: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: changes how this process is scheduled.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const none) };
    // SAFETY: as above.
    unsafe { libc::nice(19) };
}

/// Sends frames until the hostile processes have sent as many as are wanted in all.
fn be_hostile(address: &Address, seed: u64, wanted: u64, ledger: &Ledger) {
    be_patient();
    let mut arsenal = Arsenal::new(seed);
    // The flag says whether the stranger receives what it is sent.
    let mut all: Vec<(Stranger, bool)> = Vec::new();
    while ledger.frames.load(SeqCst) < wanted {
        if all.len() < CONNECTIONS {
            all.push((Stranger::connect(address).unwrap(), arsenal.random.bool()));
        }
        let index = arsenal.random.usize(..all.len());
        let (stranger, receives) = &all[index];
        let stands = (0..arsenal.random.u32(1..40)).all(|_| {
            let sent = arsenal.send(stranger);
            ledger.frames.fetch_add(sent.into(), SeqCst);
            while *receives && stranger.receive(RecvFlags::DONTWAIT).is_ok_and(|len| len > 0) {}
            sent
        });
        if !stands || arsenal.random.u32(..50) == 0 {
            all.swap_remove(index);
        }
    }
}

/// Sends requests without receiving replies until it is cut off, again and again.
fn stall(address: &Address, wanted: u64, ledger: &Ledger) {
    be_patient();
    while ledger.frames.load(SeqCst) < wanted {
        let stranger = Stranger::connect(address).unwrap();
        let ask = request(1, Ask::List { prefix: "", after: "" });
        while stranger.send(&ask, &[]).is_ok() {
            ledger.frames.fetch_add(1, SeqCst);
        }
    }
}

/// Returns what the honest clients report: sorted times, gross and net.
fn collect(reports: &[Connection]) -> BTreeMap<String, (Vec<u64>, Vec<u64>)> {
    let mut all: BTreeMap<String, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
    for report in reports {
        loop {
            let what = report.recv_timeout(PATIENCE).unwrap();
            if what.is_empty() {
                break;
            }
            let (gross, net) = all.entry(String::from_utf8(what.into_vec()).unwrap()).or_default();
            for pair in report.recv_timeout(PATIENCE).unwrap().chunks_exact(16) {
                gross.push(u64::from_ne_bytes(pair[..8].try_into().unwrap()));
                net.push(u64::from_ne_bytes(pair[8..].try_into().unwrap()));
            }
        }
    }
    all.values_mut()
        .for_each(|(gross, net)| [gross, net].into_iter().for_each(|times| times.sort_unstable()));
    all
}

#[test]
fn honest_clients_are_served_in_time_whatever_others_send() {
    let wanted: u64 =
        std::env::var("HOSTILE_FRAMES").map_or(50_000, |frames| frames.parse().unwrap());
    // The test runs in a process of its own, for as long as it takes.
    let test = fork(|| {
        let folder = Folder::new();
        let address = folder.socket();
        let server = serve(&address, DirectoryOptions::new());
        let first = client(&address);
        let before = descriptors(server.id());
        let ledger =
            Shm::new(Ledger { frames: AtomicU64::new(0), is_over: AtomicU64::new(0) }).unwrap();
        let began = Instant::now();
        let (reports, honest): (Vec<Connection>, Vec<Child>) = (0..HONEST)
            .map(|number| {
                let (report, theirs) = pipe().unwrap();
                let (address, ledger, server) = (address.clone(), ledger.clone(), server.id());
                (report, fork(move || be_honest(&address, server, number, &ledger, &theirs)))
            })
            .unzip();
        let mut hostile: Vec<Child> = (0..HOSTILE)
            .map(|seed| {
                let (address, ledger) = (address.clone(), ledger.clone());
                fork(move || be_hostile(&address, seed, wanted, &ledger))
            })
            .collect();
        let (theirs, to) = (ledger.clone(), address.clone());
        hostile.push(fork(move || stall(&to, wanted, &theirs)));
        for child in hostile {
            assert!(child.join().unwrap().success());
        }
        let took = began.elapsed();
        ledger.is_over.store(1, SeqCst);
        let all = collect(&reports);
        join_all(honest);
        println!(
            "{} frames in {took:.1?}; honest requests, in microseconds:",
            ledger.frames.load(SeqCst)
        );
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        for (what, (gross, net)) in &all {
            let row = |times: &[u64]| {
                format!(
                    "median {:8.1}, worst {:8.1}",
                    micros(times[times.len() / 2]),
                    micros(times[times.len() - 1])
                )
            };
            println!(
                "{what:8} {:7} times: {}; without waiting for a processor: {}",
                gross.len(),
                row(gross),
                row(net)
            );
        }
        let is_strict = std::env::var_os("HOSTILE_STRICT").is_some();
        let worst = all
            .values()
            .map(|(gross, net)| match is_strict {
                true => gross[gross.len() - 1],
                false => net[net.len() - 1 - net.len() / 1_000],
            })
            .max()
            .unwrap();
        assert!(
            Duration::from_nanos(worst) < BOUND * slowness(),
            "a request took {:?}",
            Duration::from_nanos(worst)
        );
        // Everything that they left is gone.
        let mut first = first;
        wait_until("their names are gone", || first.list("").unwrap().names.is_empty());
        wait_until("their descriptors are closed", || descriptors(server.id()) <= before);
    });
    assert!(test.join().unwrap().success());
}
