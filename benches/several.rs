//! [`crossproc::wait_any`] for many things, beside `poll` and `epoll` for as many eventfds.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use crossproc::{Event, Shm, Waitable, wait_any};
use crossproc_harness::placement::Placement;
use crossproc_harness::ratios::Ratios;
use crossproc_harness::sampler::{Sampler, repeated, rounds};
use crossproc_harness::team::Team;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many are waited for. The first two are slept on by one system call, the others by threads
/// besides.
const COUNTS: [usize; 4] = [1, 16, 128, 1_000];

const POLL: &str = "poll of eventfds";
const EPOLL: &str = "epoll of eventfds, registered once";

fn main() {
    crossproc_harness::run("Waiting for several", &[], |_| {}, compare);
}

fn compare(ratios: &mut Ratios) {
    let (possible, others) = COUNTS.split_at(COUNTS.partition_point(|&count| has_room(count)));
    for count in others {
        ratios.miss(&format!("of {count}"), "all", "the process may not open as many descriptors");
    }
    for &count in possible {
        let operation = format!("a look at {count}, the last of them ready");
        ratios.compare(&operation, None, look(events(count)), POLL, look(polled(count)));
        ratios.compare(&operation, None, look(events(count)), EPOLL, look(registered(count)));
    }
    for placement in Placement::pinned() {
        for &count in possible {
            let operation = format!("ping-pong through the last of {count}, {}", placement.name);
            let ours = ping_pong(placement, count, events);
            ratios.compare(&operation, None, ours, POLL, ping_pong(placement, count, polled));
            let ours = ping_pong(placement, count, events);
            ratios.compare(&operation, None, ours, EPOLL, ping_pong(placement, count, registered));
        }
    }
}

/// Returns whether this process may have two times so many eventfds. Raises its limit as far as it
/// may.
fn has_room(count: usize) -> bool {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    2 * count as u64 + 64 <= limit
}

/// Some things to wait for, of which only the last happens.
trait Several {
    fn set_last(&self);
    fn wait(&self);
    fn clear_last(&self);
}

struct Events(Shm<[Event]>);

fn events(count: usize) -> Events {
    Events(Shm::from_fn(count, |_| Event::new()).unwrap())
}

impl Several for Events {
    fn set_last(&self) {
        self.0[self.0.len() - 1].set();
    }

    fn wait(&self) {
        let all: Vec<&dyn Waitable> = self.0.iter().map(|event| event as &dyn Waitable).collect();
        assert_eq!(wait_any(&all).unwrap(), [self.0.len() - 1]);
    }

    fn clear_last(&self) {
        self.0[self.0.len() - 1].clear();
    }
}

struct Polled(Vec<OwnedFd>);

fn polled(count: usize) -> Polled {
    Polled((0..count).map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap()).collect())
}

impl Several for Polled {
    fn set_last(&self) {
        rustix::io::write(&self.0[self.0.len() - 1], &1_u64.to_ne_bytes()).unwrap();
    }

    fn wait(&self) {
        let mut all: Vec<PollFd<'_>> =
            self.0.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        assert_eq!(poll(&mut all, None).unwrap(), 1);
    }

    fn clear_last(&self) {
        rustix::io::read(&self.0[self.0.len() - 1], &mut [0; 8]).unwrap();
    }
}

struct Registered {
    all: Polled,
    epoll: OwnedFd,
}

fn registered(count: usize) -> Registered {
    let all = polled(count);
    let epoll = epoll::create(epoll::CreateFlags::empty()).unwrap();
    for (number, fd) in all.0.iter().enumerate() {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&epoll, fd, data, epoll::EventFlags::IN).unwrap();
    }
    Registered { all, epoll }
}

impl Several for Registered {
    fn set_last(&self) {
        self.all.set_last();
    }

    fn wait(&self) {
        let mut ready = Vec::with_capacity(8);
        assert_eq!(epoll::wait(&self.epoll, spare_capacity(&mut ready), None).unwrap(), 1);
    }

    fn clear_last(&self) {
        self.all.clear_last();
    }
}

fn look<S: Several + 'static>(several: S) -> Sampler {
    several.set_last();
    repeated(Rc::new(several), S::wait)
}

/// Two processes wait for each other in turns, each through the last of its own.
fn ping_pong<S: Several + Sync>(
    placement: Placement,
    count: usize,
    several: fn(usize) -> S,
) -> Sampler {
    let (ping, pong) = (several(count), several(count));
    rounds(Team::of_processes(2, placement, move |index, trips| {
        for _ in 0..trips {
            if index == 0 {
                ping.set_last();
                pong.wait();
                pong.clear_last();
            } else {
                ping.wait();
                ping.clear_last();
                pong.set_last();
            }
        }
    }))
}
