//! What is done and undone thousands of times leaves nothing behind: descriptors, mappings,
//! threads, children, memory and the robust list are as before. `ci/endurance.sh TIMES` runs it;
//! among the other tests, it runs a few hundred times.

#![allow(unsafe_code)]

use std::fs;
use std::mem::MaybeUninit;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::directory::{DirectoryClient, DirectoryOptions};
use crossproc::process::{Builder, CommandExt, fork_connected};
use crossproc::{
    ByteQueue, Event, JoinableQueue, Lock, Permits, Queue, RwLock, Shm, WaitAnyError, Waitable,
    pipe, shared, simplex, wait_any_timeout,
};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};

mod forked;
mod served;

use forked::{PATIENCE, fork, kill, wait_until, wait_until_asleep};
use served::{Folder, alone, client, descriptors, serve, wait_for_descriptors};

/// The number of times that each row is done, unless `ENDURANCE` gives another.
const TIMES: u64 = 300;
/// The number of bytes that a row may take for good, however often it is done. An allocator keeps
/// some of what it was given back.
const SLACK: usize = 1 << 20;

/// What a process owns.
#[derive(Debug, PartialEq, Eq)]
struct Owned {
    descriptors: usize,
    /// Mappings of the crate's files.
    mappings: usize,
    threads: usize,
    /// Entries of this thread's robust list.
    robust: usize,
}

impl Owned {
    fn now() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        Owned {
            descriptors: descriptors(std::process::id()),
            mappings: maps.lines().filter(|line| line.contains("memfd:")).count(),
            threads: fs::read_dir("/proc/self/task").unwrap().count(),
            robust: robust_list(),
        }
    }
}

/// Returns how many locks this thread holds, by its robust list.
fn robust_list() -> usize {
    let mut head = MaybeUninit::<*const *const ()>::uninit();
    let mut size = 0_usize;
    // SAFETY: there is room for both results.
    let result =
        unsafe { libc::syscall(libc::SYS_get_robust_list, 0, head.as_mut_ptr(), &raw mut size) };
    assert_eq!(result, 0, "a thread may look at its own list");
    // SAFETY: the call has written it.
    let head = unsafe { head.assume_init() };
    if head.is_null() {
        // With musl, a thread has no list before it uses one.
        return 0;
    }
    let mut entry = head;
    for number in 0..10_000 {
        // SAFETY: the list is this thread's, and nothing changes it meanwhile. Each entry begins
        // with a pointer to the next one, whose lowest bit is a flag.
        entry = unsafe { *entry }.map_addr(|address| address & !1).cast();
        if entry == head {
            return number;
        }
    }
    panic!("the robust list has no end");
}

/// Returns how many bytes of memory a process has for itself, without what it shares with others.
fn memory(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .expect("Linux 4.5 and later say it");
    line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

fn times() -> u64 {
    std::env::var("ENDURANCE").map_or(TIMES, |times| times.parse().expect("ENDURANCE is a number"))
}

/// Makes all threads allocate from one heap. Each further heap that a thread starts with takes
/// memory for good.
fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes integers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Does a row a tenth as often first, for what is made only once, and then as often as was asked.
/// `other` is a process whose memory must not grow either.
fn endures(what: &str, other: Option<u32>, mut once: impl FnMut(u64)) {
    use_one_heap();
    let times = times();
    for number in 0..(times / 10).max(20) {
        once(number);
    }
    let processes = [Some(std::process::id()), other];
    let memory = || processes.map(|process| process.map_or(0, memory));
    let (before, owned, began) = (memory(), Owned::now(), Instant::now());
    for number in 0..times {
        once(number);
    }
    let took = began.elapsed();
    // Joined threads end a little later, including those from before.
    wait_until(what, || Owned::now().threads <= owned.threads);
    let (left, after) = (Owned { threads: owned.threads, ..Owned::now() }, memory());
    let grown = [0, 1].map(|index| after[index].saturating_sub(before[index]));
    println!(
        "{what}: {times} times in {took:.1?}, memory grew by {} KiB, and by {} KiB elsewhere",
        grown[0] >> 10,
        grown[1] >> 10
    );
    assert_eq!(left, owned, "{what}");
    assert!(grown.iter().all(|&grown| grown < SLACK), "{what}: memory grew by {grown:?} bytes");
    let children =
        waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
    assert!(other.is_some() || matches!(children, Err(Errno::CHILD)), "{what}: a child is left");
}

shared! {
    struct Things {
        lock: Lock<u64>,
        rwlock: RwLock<u64>,
        permits: Permits<4>,
        count: AtomicU64,
    }
}

fn things() -> Shm<Things> {
    Shm::new(Things {
        lock: Lock::new(0),
        rwlock: RwLock::new(0),
        permits: Permits::new(),
        count: AtomicU64::new(0),
    })
    .unwrap()
}

/// Takes everything, even if a previous owner died with it.
fn use_all(things: &Things) {
    *things.lock.lock_or_repair(|_| ()).unwrap() += 1;
    *things.rwlock.write_or_repair(|_| ()).unwrap() += 1;
    drop(things.permits.acquire().unwrap());
    things.count.fetch_add(1, Relaxed);
}

#[test]
fn children_that_come_and_go() {
    alone(|| {
        let all = things();
        endures("forks", None, |_| {
            let child = fork(|| use_all(&all));
            assert!(child.join_timeout(PATIENCE).unwrap().success());
        });
        endures("forks without a daemon's tie", None, |_| {
            // SAFETY: the child uses the crate and atomics.
            let child = unsafe { Builder::new().fork_with_threads(|| use_all(&all)) }.unwrap();
            assert!(child.join_timeout(PATIENCE).unwrap().success());
        });
        let held = AtomicU64::new(0);
        endures("kills of who holds everything", None, |_| {
            let before = all.count.load(Relaxed);
            let child = fork(|| {
                let _all = (all.lock.lock(), all.rwlock.write(), all.permits.acquire());
                all.count.fetch_add(1, Relaxed);
                thread::sleep(PATIENCE);
            });
            wait_until("the child holds all", || all.count.load(Relaxed) != before);
            kill(&child);
            use_all(&all);
            held.fetch_add(1, Relaxed);
        });
        assert!(held.load(Relaxed) >= times());
    });
    alone(|| {
        endures("fork_connected", None, |_| {
            let (child, connection) =
                fork_connected(|connection| connection.send(b"hello").unwrap()).unwrap();
            assert_eq!(&*connection.recv_timeout(PATIENCE).unwrap(), b"hello");
            assert!(child.join_timeout(PATIENCE).unwrap().success());
        });
        let event = Shm::new(Event::new()).unwrap();
        endures("programs", None, |number| {
            let mut program = Command::new("/bin/true");
            program.share("event", &event).unwrap();
            if number % 2 == 0 {
                program.daemon().unwrap();
            }
            assert!(program.start().unwrap().join_timeout(PATIENCE).unwrap().success());
        });
        endures("programs that are not there", None, |_| {
            Command::new("/no/such/program").start().unwrap_err();
        });
    });
}

#[test]
fn regions_that_come_and_go() {
    alone(|| {
        endures("creations", None, |_| {
            use_all(&things());
            drop(Shm::from_fn(1_000, |index| AtomicU64::new(index as u64)).unwrap());
            let queue = Queue::<u64>::new(64).unwrap();
            queue.put(7).unwrap();
            let bytes = ByteQueue::with_max_len(64, 4_096).unwrap();
            bytes.put(b"hello").unwrap();
            drop(bytes.get().unwrap());
            let tasks = JoinableQueue::<u64>::new(64).unwrap();
            tasks.put(7).unwrap();
            tasks.get().unwrap().done();
        });
        let (here, there) = pipe().unwrap();
        let (all, queue) = (things(), Queue::<u64>::new(64).unwrap());
        endures("attachments", None, |number| {
            here.send_handle(&all).unwrap();
            here.send_handle(&queue).unwrap();
            let all = there.recv_handle::<Shm<Things>>().unwrap();
            let queue = there.recv_handle::<Queue<u64>>().unwrap();
            use_all(&all);
            queue.put(number).unwrap();
            assert_eq!(queue.get().unwrap(), number);
        });
        endures("messages whose handles nobody takes", None, |_| {
            here.send_both(&[7; 100_000], &queue).unwrap();
            drop(there.recv().unwrap());
        });
        endures("messages that nobody receives", None, |_| {
            let (sender, receiver) = simplex().unwrap();
            sender.send_handle(&all).unwrap();
            drop(receiver);
            assert!(sender.send(b"").is_err());
        });
    });
}

#[test]
fn threads_that_come_and_go() {
    alone(|| {
        let all = things();
        let queue = Queue::<u64>::new(64).unwrap();
        endures("threads", None, |number| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    use_all(&all);
                    queue.put(number).unwrap();
                    assert_eq!(queue.get().unwrap(), number);
                });
            });
        });
        let (event, other) = (Shm::new(Event::new()).unwrap(), Shm::new(Event::new()).unwrap());
        // With a connection, a thread sleeps on the events in place of this one.
        let (here, _there) = pipe().unwrap();
        let among: [&[&dyn Waitable]; 2] = [&[&*event, &*other], &[&*event, &*other, &here]];
        for (what, among) in
            ["waits for several things", "waits for a connection, too"].into_iter().zip(among)
        {
            endures(what, None, |_| {
                let result = wait_any_timeout(among, Duration::from_micros(200));
                assert!(matches!(result, Err(WaitAnyError::TimedOut)));
            });
        }
    });
}

#[test]
fn clients_of_a_directory_that_come_and_go() {
    alone(|| {
        let folder = Folder::new();
        let address = folder.socket();
        let server = serve(&address, DirectoryOptions::new());
        let event = Shm::new(Event::new()).unwrap();
        let mut first = client(&address);
        first.put("there", &event).unwrap();
        let before = descriptors(server.id());
        endures("clients of a directory", Some(server.id()), |_| {
            let mut client = client(&address);
            client.put("mine", &event).unwrap();
            drop(client.get::<Shm<Event>>("there").unwrap());
            drop(client);
            wait_until("its name is gone", || first.list("mine").unwrap().names.is_empty());
        });
        let is_in = Shm::new(Event::new()).unwrap();
        endures("clients of a directory that are killed", Some(server.id()), |_| {
            let child = fork(|| {
                let mut client = DirectoryClient::connect_timeout(&address, PATIENCE).unwrap();
                client.put("mine", &event).unwrap();
                is_in.set();
                thread::sleep(PATIENCE);
            });
            assert!(is_in.wait_timeout(PATIENCE).is_ok());
            is_in.clear();
            kill(&child);
            wait_until("its name is gone", || first.list("mine").unwrap().names.is_empty());
        });
        wait_for_descriptors(server.id(), before);
    });
}

#[test]
fn participants_of_queues_that_come_and_go() {
    alone(|| {
        let queue = Queue::<u64>::new(64).unwrap();
        endures("getters that are killed in their sleep", None, |number| {
            let child = fork(|| {
                queue.get().unwrap();
            });
            wait_until_asleep(&child);
            kill(&child);
            queue.put(number).unwrap();
            assert_eq!(queue.get_timeout(Duration::from_secs(5)).unwrap(), number);
        });
        let tasks = JoinableQueue::<u64>::new(64).unwrap();
        let has_one = Shm::new(Event::new()).unwrap();
        endures("workers that are killed with a task", None, |number| {
            tasks.put(number).unwrap();
            let child = fork(|| {
                let _task = tasks.get().unwrap();
                has_one.set();
                thread::sleep(PATIENCE);
            });
            assert!(has_one.wait_timeout(PATIENCE).is_ok());
            has_one.clear();
            kill(&child);
            let task = tasks.get_timeout(Duration::from_secs(5)).unwrap();
            assert_eq!((*task, task.attempts()), (number, 2));
            task.done();
        });
    });
}
