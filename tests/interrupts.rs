//! Every interruptible wait reports a signal within a slice, whenever the signal comes.

#![allow(unsafe_code)]

mod forked;
mod served;

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::directory::{Address, DirectoryClient, DirectoryOptions};
use crossproc::process::Child;
use crossproc::{
    Barrier, BoundedSemaphore, ByteQueue, Condition, Event, JoinableQueue, Lock, LockError, Once,
    Permits, Queue, RLock, Readable, RwLock, Semaphore, Shm, Wait, pipe, set_recheck_interval,
    shared, simplex, wait_any_with,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use forked::{PATIENCE, fork, join_all, kill, wait_until, wait_until_asleep};
use served::{Folder, abstract_address, client, serve};

shared! {
    struct All {
        lock: Lock<()>,
        rlock: RLock<()>,
        read: RwLock<u32, 1>,
        write: RwLock<u32, 2>,
        all_reading: RwLock<u32, 1>,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        permits: Permits<2>,
        event: Event,
        condition: Condition,
        with: Lock<()>,
        with_rlock: RLock<()>,
        barrier: Barrier,
        once: Once,
        held: Event,
    }
}

fn all() -> Shm<All> {
    Shm::new(All {
        lock: Lock::new(()),
        rlock: RLock::new(()),
        read: RwLock::new(0),
        write: RwLock::new(0),
        all_reading: RwLock::new(0),
        semaphore: Semaphore::new(0),
        bounded: BoundedSemaphore::new(0),
        permits: Permits::new(),
        event: Event::new(),
        condition: Condition::new(),
        with: Lock::new(()),
        with_rlock: RLock::new(()),
        barrier: Barrier::new(2),
        once: Once::new(),
        held: Event::new(),
    })
    .unwrap()
}

/// Returns all primitives, and a process that holds what can be held.
fn all_held() -> (Shm<All>, Child) {
    let all = all();
    let theirs = all.clone();
    let holder = fork(move || {
        let _locks = (theirs.lock.lock().unwrap(), theirs.rlock.lock().unwrap());
        let _rwlocks = (
            theirs.read.write().unwrap(),
            theirs.write.read().unwrap(),
            theirs.all_reading.read().unwrap(),
        );
        let _permits = [theirs.permits.acquire().unwrap(), theirs.permits.acquire().unwrap()];
        theirs
            .once
            .call_once(|_| {
                theirs.held.set();
                loop {
                    thread::park();
                }
            })
            .unwrap();
    });
    all.held.wait();
    (all, holder)
}

/// A wait that nobody ends, again and again.
type Waiting = Box<dyn FnMut(Wait) -> io::ErrorKind>;
/// Makes a case, in the process that waits.
type Make = Box<dyn FnOnce() -> Waiting + Send>;

/// Returns how a wait ended that was not to succeed.
fn ended<T, E: Into<io::Error>>(result: Result<T, E>) -> io::ErrorKind {
    result.map_or_else(|error| error.into().kind(), |_| panic!("nothing has ended it"))
}

fn polled<E: Into<io::Error>>(result: Result<bool, E>) -> io::ErrorKind {
    match result {
        Ok(false) => io::ErrorKind::TimedOut,
        result => ended(result),
    }
}

fn of_lock<T>(result: Result<T, LockError>) -> io::ErrorKind {
    ended(result.map(|_| ()))
}

/// Makes a case for something shared.
fn shared(all: &Shm<All>, wait: impl Fn(&All, Wait) -> io::ErrorKind + Send + 'static) -> Make {
    let all = all.clone();
    Box::new(move || Box::new(move |with| wait(&all, with)))
}

/// Makes a case for something of the process's own.
fn own<T: 'static>(
    make: impl FnOnce() -> T + Send + 'static,
    wait: impl Fn(&mut T, Wait) -> io::ErrorKind + Send + 'static,
) -> Make {
    Box::new(move || {
        let mut of = make();
        Box::new(move |with| wait(&mut of, with))
    })
}

fn full() -> Queue<u64> {
    let queue: Queue<u64> = Queue::new(2).unwrap();
    while queue.try_put(0).is_ok() {}
    queue
}

fn unfinished() -> JoinableQueue<u64> {
    let queue: JoinableQueue<u64> = JoinableQueue::new(2).unwrap();
    while queue.try_put(0).is_ok() {}
    queue
}

/// Returns a connection without room for more, and its other end.
fn crammed() -> (crossproc::Connection, crossproc::Connection) {
    let (one, other) = pipe().unwrap();
    while one.try_send(&[0; 1_000]).is_ok() {}
    (one, other)
}

/// Fills the queue of a listener that nobody accepts from. Returns the listener, and what is in its
/// queue.
fn crowded(path: &std::path::Path) -> Vec<std::os::fd::OwnedFd> {
    let place = SocketAddrUnix::new(path).unwrap();
    let socket =
        |flags| socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let listener = socket(SocketFlags::CLOEXEC);
    bind(&listener, &place).unwrap();
    listen(&listener, 1).unwrap();
    let mut all = vec![listener];
    loop {
        let one = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        if connect(&one, &place).is_err() {
            return all;
        }
        all.push(one);
    }
}

/// Returns an ended child that nobody can reap before its tracer lets go of it, and the tracer.
fn held_by_a_debugger() -> (Child, Child) {
    let events: Shm<[Event; 2]> = Shm::new([Event::new(), Event::new()]).unwrap();
    let [may_be_traced, is_traced] = &*events;
    let theirs = events.clone();
    let child = fork(move || {
        // SAFETY: says who may trace this process. The call is refused where it is not needed.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
        theirs[0].set();
        theirs[1].wait();
    });
    may_be_traced.wait();
    let (theirs, pid) = (events.clone(), child.id() as libc::pid_t);
    let tracer = fork(move || -> () {
        // SAFETY: writes to no memory of this process.
        let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0_usize, 0_usize) };
        assert_eq!(traced, 0, "{}", io::Error::last_os_error());
        theirs[1].set();
        loop {
            thread::park();
        }
    });
    is_traced.wait();
    wait_until("the child has ended", || {
        rustix::event::poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&Timespec::default()))
            == Ok(1)
    });
    assert!(child.try_join().unwrap().is_none(), "it was reaped in spite of its tracer");
    (child, tracer)
}

/// Returns a case for each way to wait.
fn every_wait(all: &Shm<All>, served: &Address, folder: &Folder) -> Vec<(&'static str, Make)> {
    let (server, other_server, elsewhere) = (served.clone(), served.clone(), abstract_address());
    let (nobody, crowd) =
        (Address::from(folder.path().join("nobody")), folder.path().join("crowd"));
    let of_crowd = Address::from(&crowd);
    vec![
        ("lock", shared(all, |all, wait| of_lock(all.lock.lock_with(wait)))),
        ("lock, without a guard", shared(all, |all, wait| of_lock(all.lock.acquire(wait)))),
        ("rlock", shared(all, |all, wait| of_lock(all.rlock.lock_with(wait)))),
        (
            "rwlock, reading while another writes",
            shared(all, |all, wait| of_lock(all.read.read_with(wait))),
        ),
        (
            "rwlock, reading where there is no cell",
            shared(all, |all, wait| of_lock(all.all_reading.read_with(wait))),
        ),
        ("rwlock, writing", shared(all, |all, wait| of_lock(all.write.write_with(wait)))),
        ("once", shared(all, |all, wait| ended(all.once.call_once_with(wait, |_| ())))),
        ("semaphore", shared(all, |all, wait| ended(all.semaphore.acquire_with(wait)))),
        ("bounded semaphore", shared(all, |all, wait| ended(all.bounded.access_with(wait)))),
        ("permits", shared(all, |all, wait| ended(all.permits.acquire_with(wait)))),
        ("event", shared(all, |all, wait| ended(all.event.wait_with(wait)))),
        (
            "condition",
            shared(all, |all, wait| {
                let mut guard = all.with.lock().unwrap();
                ended(all.condition.wait_with(&mut guard, wait))
            }),
        ),
        (
            "condition, of an rlock",
            shared(all, |all, wait| {
                let mut guard = all.with_rlock.lock().unwrap();
                ended(all.condition.wait_while_with(&mut guard, wait, |_| true))
            }),
        ),
        (
            "barrier",
            shared(all, |all, wait| {
                let ended = ended(all.barrier.wait_with(wait));
                // Takes back the party that has arrived.
                all.barrier.reset();
                ended
            }),
        ),
        (
            "queue, getting",
            own(|| Queue::<u64>::new(2).unwrap(), |queue, wait| ended(queue.get_with(wait))),
        ),
        (
            "queue, getting many",
            own(
                || Queue::<u64>::new(2).unwrap(),
                |queue, wait| ended(queue.get_many_with(&mut Vec::new(), 2, wait)),
            ),
        ),
        (
            "queue, receiving",
            own(|| Queue::<u64>::new(2).unwrap(), |queue, wait| ended(queue.receive_with(wait))),
        ),
        ("queue, putting", own(full, |queue, wait| ended(queue.put_with(1, wait)))),
        ("queue, putting many", own(full, |queue, wait| ended(queue.put_many_with(&[1, 2], wait)))),
        (
            "queue of bytes, getting",
            own(
                || ByteQueue::with_max_len(2, 8).unwrap(),
                |queue, wait| ended(queue.get_with(wait)),
            ),
        ),
        (
            "queue of tasks, getting",
            own(
                || JoinableQueue::<u64>::new(2).unwrap(),
                |queue, wait| ended(queue.get_with(wait)),
            ),
        ),
        ("queue of tasks, putting", own(unfinished, |queue, wait| ended(queue.put_with(1, wait)))),
        ("queue of tasks, joining", own(unfinished, |queue, wait| ended(queue.join_with(wait)))),
        (
            "connection, receiving",
            own(|| pipe().unwrap(), |(one, _), wait| ended(one.recv_with(wait))),
        ),
        (
            "receiver, into a buffer",
            own(
                || simplex().unwrap(),
                |(_, other), wait| ended(other.recv_into_with(&mut [0; 8], wait)),
            ),
        ),
        (
            "connection, receiving a handle",
            own(|| pipe().unwrap(), |(one, _), wait| ended(one.recv_handle_with::<Shm<All>>(wait))),
        ),
        (
            "connection, polling",
            own(|| pipe().unwrap(), |(one, _), wait| polled(one.poll_with(wait))),
        ),
        (
            "connection, sending",
            own(crammed, |(one, _), wait| ended(one.send_with(&[0; 1_000], wait))),
        ),
        (
            "connection, sending a handle",
            own(crammed, |(one, _), wait| {
                ended(one.send_handle_with(&Shm::new(Event::new()).unwrap(), wait))
            }),
        ),
        (
            "several events",
            shared(all, |all, wait| ended(wait_any_with(&[&all.event, &all.semaphore], wait))),
        ),
        (
            "several descriptors",
            own(
                || (pipe().unwrap(), pipe().unwrap()),
                |(a, b), wait| ended(wait_any_with(&[&a.0, &b.0], wait)),
            ),
        ),
        (
            "events and descriptors",
            own(
                || (pipe().unwrap(), self::all()),
                |(a, all), wait| {
                    ended(wait_any_with(&[&a.0, &all.event, &Readable(&a.1), &all.semaphore], wait))
                },
            ),
        ),
        (
            "a process",
            own(
                || {
                    fork(|| -> () {
                        loop {
                            thread::park();
                        }
                    })
                },
                |child, wait| ended(child.join_with(wait)),
            ),
        ),
        (
            "a process that has ended, and that a debugger holds",
            own(held_by_a_debugger, |(child, _), wait| ended(child.join_with(wait))),
        ),
        (
            "directory, for a name",
            own(
                move || client(&server),
                |client, wait| ended(client.wait_for_with::<Shm<Event>>("nothing", wait)),
            ),
        ),
        (
            "directory, for a change",
            own(
                move || client(&other_server),
                |client, wait| {
                    let revision = client.list("").unwrap().revision;
                    ended(client.wait_for_change_with(revision, wait))
                },
            ),
        ),
        (
            "directory, for a server at a path",
            own(|| (), move |(), wait| ended(DirectoryClient::connect_with(&nobody, wait))),
        ),
        (
            "directory, for a server at a name",
            own(|| (), move |(), wait| ended(DirectoryClient::connect_with(&elsewhere, wait))),
        ),
        (
            "directory, for a server with a crowd",
            own(
                move || crowded(&crowd),
                move |_, wait| ended(DirectoryClient::connect_with(&of_crowd, wait)),
            ),
        ),
    ]
}

static SIGNALLED: AtomicBool = AtomicBool::new(false);
static SIGNALS: AtomicU32 = AtomicU32::new(0);
/// How often the thread had gone to sleep when its handler ran.
static SLEPT_BEFORE: AtomicI64 = AtomicI64::new(0);

/// Returns how often the calling thread has gone to sleep.
fn slept() -> i64 {
    // SAFETY: zeroes are valid for every field.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: fills the structure. It disturbs nothing that a handler interrupts: it is a system
    // call and nothing else.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) }, 0);
    usage.ru_nvcsw
}

extern "C" fn on_signal(_: libc::c_int) {
    SLEPT_BEFORE.store(slept(), SeqCst);
    SIGNALS.fetch_add(1, SeqCst);
    SIGNALLED.store(true, SeqCst);
}

extern "C" fn on_other_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, SeqCst);
}

fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int), flags: libc::c_int) {
    // SAFETY: zeroes are valid for every field.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags;
    // SAFETY: the handlers store to atomics and make a system call, which is allowed in any
    // context.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) }, 0);
}

/// Sends a SIGALRM to this process after a time. Its other threads block all signals.
fn signal_after(time: Duration) {
    let once = libc::timeval { tv_sec: 0, tv_usec: time.as_micros().max(1) as i64 };
    let timer =
        libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: once };
    // SAFETY: reads the timer.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) }, 0);
}

const SLICE: Duration = Duration::from_millis(1);
const SIGNALS_PER_WAIT: u32 = 300;
/// The number of times that a thread may go to sleep after its handler has run. It does so for one
/// slice, and where it has to leave what other threads of its process work on.
const MOST_SLEEPS: i64 = 3;

/// Every second signal comes at the end of a slice, and the others at any time. On a busy machine,
/// a signal may be late, and so may a woken thread. So the test counts sleeps, and does not measure
/// time.
fn every_signal_is_told(name: &str, waiting: &mut Waiting, flags: libc::c_int) {
    handle(libc::SIGALRM, on_signal, flags);
    let mut random = fastrand::Rng::with_seed(name.len() as u64);
    for number in 0..SIGNALS_PER_WAIT {
        let micros = SLICE.as_micros() as u64;
        let after =
            if number % 2 == 0 { micros * random.u64(1..4) } else { random.u64(1..4 * micros) };
        signal_after(Duration::from_micros(after));
        let ended = waiting(Wait::timeout(Duration::from_secs(5)).interruptible_by(&SIGNALLED));
        assert_eq!(
            ended,
            io::ErrorKind::Interrupted,
            "{name}, after {after} µs: signal {number} of {} was missed",
            SIGNALS.load(SeqCst)
        );
        assert!(SIGNALLED.swap(false, SeqCst), "{name} was interrupted by nobody");
        let sleeps = slept() - SLEPT_BEFORE.load(SeqCst);
        assert!(
            sleeps <= MOST_SLEEPS,
            "{name} slept {sleeps} times after the handler of signal {number} had run"
        );
    }
    assert_eq!(SIGNALS.load(SeqCst), SIGNALS_PER_WAIT);
}

#[test]
fn every_wait_tells_of_every_signal_within_a_slice() {
    let folder = Folder::new();
    for flags in [0, libc::SA_RESTART] {
        let served = abstract_address();
        let server = serve(&served, DirectoryOptions::new());
        let (all, holder) = all_held();
        let _ = std::fs::remove_file(folder.path().join("crowd"));
        // A few run at a time, so that they are late now and then.
        let mut waits = every_wait(&all, &served, &folder).into_iter().peekable();
        while waits.peek().is_some() {
            let some: Vec<_> = waits.by_ref().take(8).collect();
            join_all(
                some.into_iter()
                    .map(|(name, make)| {
                        fork(move || {
                            let mut waiting = make();
                            set_recheck_interval(Some(SLICE));
                            every_signal_is_told(name, &mut waiting, flags);
                        })
                    })
                    .collect::<Vec<_>>(),
            );
        }
        kill(&holder);
        kill(&server);
    }
}

/// The kernel's report is enough where the thread is asleep when the signal comes, even without
/// slices.
#[test]
fn a_signal_ends_a_sleep_at_once() {
    let folder = Folder::new();
    let served = abstract_address();
    let server = serve(&served, DirectoryOptions::new());
    let (all, holder) = all_held();
    for (name, make) in every_wait(&all, &served, &folder) {
        // The first two look again every 20 ms or every 1 ms, and the last one sleeps in
        // connect(2).
        if ["server at a name", "debugger", "crowd"].iter().any(|part| name.contains(part)) {
            continue;
        }
        let waits = fork(move || {
            handle(libc::SIGALRM, on_signal, 0);
            let mut waiting = make();
            assert_eq!(
                waiting(Wait::FOREVER.interruptible_by(&SIGNALLED)),
                io::ErrorKind::Interrupted,
                "{name}"
            );
        });
        let pid = waits.id() as libc::pid_t;
        wait_until("the handler is there", || handles(pid, libc::SIGALRM));
        wait_until_asleep(&waits);
        // The process may have been asleep for another reason, before its wait. So signals are sent
        // until one ends it.
        wait_until("it has ended", || {
            // SAFETY: signals a child that is not reaped yet.
            assert_eq!(unsafe { libc::kill(pid, libc::SIGALRM) }, 0);
            waits.join_timeout(Duration::from_millis(10)).is_ok()
        });
        assert!(waits.join().unwrap().success(), "{name}");
    }
    kill(&holder);
    kill(&server);
}

/// Returns whether the process catches the signal.
fn handles(pid: libc::pid_t, signal: libc::c_int) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << (signal - 1) != 0
}

/// The flag is set as by a handler that runs in another thread. Nothing tells the kernel: only the
/// looks see it.
#[test]
fn a_flag_that_another_thread_sets_ends_every_wait() {
    let folder = Folder::new();
    let served = abstract_address();
    let server = serve(&served, DirectoryOptions::new());
    let (all, holder) = all_held();
    for (name, make) in every_wait(&all, &served, &folder) {
        join_all([fork(move || {
            let mut waiting = make();
            set_recheck_interval(Some(SLICE));
            thread::scope(|scope| {
                scope.spawn(|| {
                    let path = format!("/proc/self/task/{}/syscall", std::process::id());
                    let calls = [
                        libc::SYS_futex,
                        libc::SYS_futex_waitv,
                        libc::SYS_ppoll,
                        libc::SYS_connect,
                        libc::SYS_clock_nanosleep,
                    ];
                    let sleeps = |call: &str| {
                        calls.iter().any(|sleeps| call.starts_with(&format!("{sleeps} ")))
                    };
                    wait_until("it sleeps", || {
                        std::fs::read_to_string(&path).is_ok_and(|call| sleeps(&call))
                    });
                    SIGNALLED.store(true, SeqCst);
                });
                assert_eq!(
                    waiting(Wait::timeout(PATIENCE / 3).interruptible_by(&SIGNALLED)),
                    io::ErrorKind::Interrupted,
                    "{name}"
                );
            });
        })]);
    }
    kill(&holder);
    kill(&server);
}

#[test]
fn a_handler_that_leaves_the_flag_alone_ends_no_wait() {
    let folder = Folder::new();
    let served = abstract_address();
    let server = serve(&served, DirectoryOptions::new());
    let (all, holder) = all_held();
    for (name, make) in every_wait(&all, &served, &folder) {
        join_all([fork(move || {
            handle(libc::SIGALRM, on_other_signal, 0);
            let mut waiting = make();
            set_recheck_interval(Some(Duration::from_millis(100)));
            for time in [1, 3] {
                signal_after(Duration::from_millis(time));
                let began = Instant::now();
                let timeout = Duration::from_millis(10);
                assert_eq!(
                    waiting(Wait::timeout(timeout).interruptible_by(&SIGNALLED)),
                    io::ErrorKind::TimedOut,
                    "{name}"
                );
                assert!(began.elapsed() >= timeout, "{name}");
            }
            assert_eq!(SIGNALS.load(SeqCst), 2);
        })]);
    }
    kill(&holder);
    kill(&server);
}

#[test]
fn what_can_be_done_at_once_is_done_and_a_deadline_counts_though_the_flag_is_set() {
    static SET: AtomicBool = AtomicBool::new(true);
    let wait = Wait::timeout(PATIENCE).interruptible_by(&SET);
    let all = all();
    drop(all.lock.lock_with(wait).unwrap());
    all.event.set();
    all.event.wait_with(wait).unwrap();
    let queue: Queue<u64> = Queue::new(2).unwrap();
    queue.put_with(7, wait).unwrap();
    assert_eq!(queue.get_with(wait).unwrap(), 7);
    let (one, other) = pipe().unwrap();
    one.send_with(b"x", wait).unwrap();
    assert!(other.poll_with(wait).unwrap());
    assert_eq!(wait_any_with(&[&other], wait).unwrap(), [0]);
    assert_eq!(wait_any_with(&[&all.event], wait).unwrap(), [0]);
    assert_eq!(wait_any_with(&[&all.event, &other], wait).unwrap(), [0, 1]);
    assert_eq!(&*other.recv_with(wait).unwrap(), b"x");
    all.event.clear();
    assert_eq!(ended(all.event.wait_with(wait)), io::ErrorKind::Interrupted);
    assert_eq!(
        ended(all.event.wait_with(Wait::NONE.interruptible_by(&SET))),
        io::ErrorKind::TimedOut
    );
    assert_eq!(ended(queue.get_with(Wait::NONE.interruptible_by(&SET))), io::ErrorKind::TimedOut);
    assert_eq!(ended(other.recv_with(Wait::NONE.interruptible_by(&SET))), io::ErrorKind::TimedOut);
}
