//! A nursery: children for a program with threads, and who ends with whom.

#![allow(unsafe_code)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::process::{self, Builder, Child, Nursery, NurseryError, StatusLost};
use crossproc::{Connection, ConnectionError, Event, Shm, shared, try_wait_any, wait_any_timeout};
use rustix::process::{Resource, Rlimit, Signal, getpgrp, getrlimit, setrlimit};

mod forked;
use forked::{PATIENCE, enter_pid_namespace, fork, join_all, kill, wait_until};

shared! {
    struct Board {
        pid: AtomicU32,
        ready: Event,
        end: Event,
    }
}

fn board() -> Shm<Board> {
    Shm::new(Board { pid: AtomicU32::new(0), ready: Event::new(), end: Event::new() }).unwrap()
}

/// What children do that are told to by a message: the first byte is an order, the second one its
/// argument.
fn obey(parent: Connection) -> i32 {
    loop {
        match &*parent.recv().expect("an order") {
            [b'x', code] => return i32::from(*code),
            [b'p', _] => std::panic::resume_unwind(Box::new(())),
            [b'e', byte] => parent.send(&[byte + 1]).unwrap(),
            [b'd', _] => parent.send(&(open_descriptors() as u32).to_ne_bytes()).unwrap(),
            [b'g', _] => {
                let group = getpgrp().as_raw_nonzero().get();
                parent.send(&group.to_ne_bytes()).unwrap();
            }
            order => panic!("no order: {order:?}"),
        }
    }
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Returns the pids of a process's children, zombies among them.
fn children_of(id: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    children.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

fn asked(to_child: &Connection, order: &[u8; 2]) -> u32 {
    to_child.send(order).unwrap();
    u32::from_ne_bytes(to_child.recv_timeout(PATIENCE).unwrap()[..].try_into().unwrap())
}

fn is_end<T>(received: Result<T, ConnectionError>) -> bool {
    matches!(received, Err(ConnectionError::EndOfStream))
}

fn has_ended(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"));
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

#[test]
fn a_child_of_a_nursery_tells_how_it_ended() {
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        let (child, to_child) = nursery.fork().unwrap();
        assert_eq!(child.try_join().unwrap(), None);
        assert!(child.is_alive().unwrap());
        assert!(matches!(
            child.join_timeout(Duration::from_millis(20)),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut
        ));
        to_child.send(b"x\x07").unwrap();
        assert_eq!(wait_any_timeout(&[&child], PATIENCE).unwrap(), [0]);
        assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(7));
        assert_eq!(child.try_join().unwrap().and_then(|status| status.code()), Some(7));
        assert!(!child.is_alive().unwrap());

        let (child, to_child) = nursery.fork().unwrap();
        to_child.send(b"p\0").unwrap();
        assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(101));

        let (child, to_child) = nursery.fork().unwrap();
        child.kill().unwrap();
        assert_eq!(child.join_timeout(PATIENCE).unwrap().signal(), Some(libc::SIGKILL));
        assert!(is_end(to_child.recv_timeout(PATIENCE)));
        assert!(nursery.join().unwrap().success());
    })]);
}

#[test]
fn any_thread_forks_while_others_do_and_nothing_is_left() {
    const THREADS: usize = 8;
    const CHILDREN: usize = 25;
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        let before = open_descriptors();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for number in 0..CHILDREN as u8 {
                        let (child, to_child) = nursery.fork().unwrap();
                        to_child.send(&[b'e', number]).unwrap();
                        assert_eq!(to_child.recv_timeout(PATIENCE).unwrap(), [number + 1]);
                        kill(&child);
                    }
                });
            }
        });
        assert_eq!(open_descriptors(), before);
        wait_until("all are reaped", || children_of(nursery.id()).is_empty());
        let descriptors_of_helper = || {
            // Until then, it may have what it needs for its last work.
            let call = format!("/proc/{}/syscall", nursery.id());
            let polls = format!("{} ", libc::SYS_ppoll);
            wait_until("the helper sleeps", || {
                fs::read_to_string(&call).is_ok_and(|call| call.starts_with(&polls))
            });
            fs::read_dir(format!("/proc/{}/fd", nursery.id())).unwrap().count()
        };
        let (child, _to_child) = nursery.fork().unwrap();
        let with_one = descriptors_of_helper();
        kill(&child);
        wait_until("the last one is reaped", || children_of(nursery.id()).is_empty());
        assert_eq!(descriptors_of_helper(), with_one - 2);
    })]);
}

#[test]
fn a_child_has_the_same_descriptors_whatever_siblings_it_has() {
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        let children: Vec<_> = (0..8).map(|_| nursery.fork().unwrap()).collect();
        let numbers: Vec<u32> =
            children.iter().map(|(_, to_child)| asked(to_child, b"d\0")).collect();
        assert!(numbers.iter().all(|&number| number == numbers[0]), "{numbers:?}");
        // Each is told of the program's end of its own connection alone.
        for (child, to_child) in children {
            drop(to_child);
            let status = child.join_timeout(PATIENCE).unwrap();
            assert_eq!(status.code(), Some(101), "no order came");
        }
    })]);
}

#[test]
fn signals_are_for_the_program_and_the_children_and_not_for_the_helper() {
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        let (child, to_child) = nursery.fork().unwrap();
        assert_eq!(asked(&to_child, b"g\0"), getpgrp().as_raw_nonzero().get() as u32);
        for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::TSTP] {
            signal_helper(&nursery, signal);
        }
        child.terminate().unwrap();
        assert_eq!(child.join_timeout(PATIENCE).unwrap().signal(), Some(libc::SIGTERM));
        kill(&nursery.fork().unwrap().0);
    })]);
}

#[test]
fn a_helper_that_dies_in_a_request_has_ended() {
    for _ in 0..10 {
        join_all([fork(|| {
            let nursery = Nursery::start(obey).unwrap();
            signal_helper(&nursery, Signal::STOP);
            thread::scope(|scope| {
                let forking = scope.spawn(|| nursery.fork());
                // Sent, and not answered.
                wait_until("the request is there", || {
                    matches!(nursery.fork_timeout(Duration::ZERO), Err(NurseryError::TimedOut))
                });
                signal_helper(&nursery, Signal::KILL);
                assert!(matches!(forking.join().unwrap(), Err(NurseryError::Ended)));
            });
        })]);
    }
}

#[test]
fn an_orphan_that_the_program_adopts_tells_how_it_ended() {
    join_all([fork(|| {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let nursery = Nursery::start(obey).unwrap();
        let (child, to_child) = nursery.fork().unwrap();
        signal_helper(&nursery, Signal::KILL);
        wait_until("the helper has ended", || has_ended(nursery.id()));
        to_child.send(b"x\x07").unwrap();
        assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(7));
        drop(nursery);
        assert!(children_of(std::process::id()).is_empty());
    })]);
}

#[test]
fn a_child_of_a_nursery_is_joined_by_the_process_that_has_forked_it() {
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        let (child, _to_child) = nursery.fork().unwrap();
        let sibling = process::fork(move || {
            let error = child.join_timeout(PATIENCE).unwrap_err();
            assert!(error.get_ref().unwrap().is::<StatusLost>(), "{error}");
            assert!(child.try_join().is_err());
        });
        assert!(sibling.unwrap().join().unwrap().success());
    })]);
}

#[test]
fn a_nursery_is_not_in_another_pid_namespace() {
    join_all([fork(|| {
        enter_pid_namespace();
        let error = Nursery::start(obey).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("namespace"), "{error}");
    })]);
}

#[test]
fn a_join_that_is_late_leaves_the_nursery_as_a_drop_does() {
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        let (child, to_child) = nursery.fork().unwrap();
        let error = nursery.join_timeout(Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        to_child.send(b"x\x07").unwrap();
        assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(7));
        let nursery = Nursery::start(obey).unwrap();
        assert!(nursery.join_deadline(Instant::now() + PATIENCE).unwrap().success());
    })]);
}

fn helper_of(nursery: &Nursery) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(nursery.id() as i32).unwrap()
}

fn signal_helper(nursery: &Nursery, signal: Signal) {
    rustix::process::kill_process(helper_of(nursery), signal).unwrap();
}

#[test]
fn without_its_helper_a_nursery_says_so_and_children_go_on() {
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        let (child, to_child) = nursery.fork().unwrap();
        signal_helper(&nursery, Signal::KILL);
        wait_until("the helper has ended", || has_ended(nursery.id()));
        assert!(matches!(nursery.fork(), Err(NurseryError::Ended)));
        assert!(matches!(nursery.fork_timeout(PATIENCE), Err(NurseryError::Ended)));
        to_child.send(b"e\x05").unwrap();
        assert_eq!(to_child.recv_timeout(PATIENCE).unwrap(), [6]);
        assert_eq!(child.try_join().unwrap(), None);
        let begin = Instant::now();
        assert!(child.join_timeout(Duration::from_millis(30)).is_err());
        assert!(begin.elapsed() >= Duration::from_millis(30), "it waits, though nobody reports");
        to_child.send(b"x\x07").unwrap();
        // The kernel has the status, or nobody has.
        match child.join_timeout(PATIENCE) {
            Ok(status) => assert_eq!(status.code(), Some(7)),
            Err(error) => {
                let lost: &StatusLost = error.get_ref().unwrap().downcast_ref().unwrap();
                assert_eq!(lost.id(), child.id());
                assert!(error.to_string().contains("nursery"), "{error}");
            }
        }
        assert_eq!(nursery.join().unwrap().signal(), Some(libc::SIGKILL));
    })]);
}

#[test]
fn daemons_end_with_the_helper() {
    join_all([fork(|| {
        let nursery = Builder::new().daemon(true).nursery(obey).unwrap();
        let (child, to_child) = nursery.fork().unwrap();
        signal_helper(&nursery, Signal::KILL);
        assert!(is_end(to_child.recv_timeout(PATIENCE)));
        wait_until("the daemon has ended", || !child.is_alive().unwrap());
    })]);
}

#[test]
fn the_helper_ends_with_the_program_and_daemons_with_it() {
    for are_daemons in [false, true] {
        let board = board();
        let theirs = board.clone();
        let program = fork(move || -> () {
            let childs = theirs.clone();
            let body = move |_: Connection| {
                childs.ready.set();
                childs.end.wait();
            };
            let nursery = Builder::new().daemon(are_daemons).nursery(body).unwrap();
            theirs.pid.store(nursery.id(), SeqCst);
            let _child = nursery.fork().unwrap();
            loop {
                thread::park();
            }
        });
        board.ready.wait_timeout(PATIENCE).unwrap();
        let helper = board.pid.load(SeqCst);
        let child = children_of(helper)[0];
        kill(&program);
        wait_until("the helper has ended", || has_ended(helper));
        if are_daemons {
            wait_until("the daemon has ended", || has_ended(child));
        } else {
            assert!(!has_ended(child), "it is no daemon");
        }
        board.end.set();
        wait_until("the child has ended", || has_ended(child));
    }
}

#[test]
fn a_stopped_helper_holds_nobody_up_who_has_a_deadline() {
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        signal_helper(&nursery, Signal::STOP);
        for _ in 0..2 {
            let begin = Instant::now();
            let timeout = Duration::from_millis(30);
            assert!(matches!(nursery.fork_timeout(timeout), Err(NurseryError::TimedOut)));
            assert!(begin.elapsed() >= timeout);
            let deadline = Instant::now() + timeout;
            assert!(matches!(nursery.fork_deadline(deadline), Err(NurseryError::TimedOut)));
        }
        signal_helper(&nursery, Signal::CONT);
        let (child, to_child) = nursery.fork().unwrap();
        let is_alone = || children_of(nursery.id()) == [child.id()];
        wait_until("those that were late are gone", is_alone);
        to_child.send(b"x\0").unwrap();
        assert!(child.join_timeout(PATIENCE).unwrap().success());
    })]);
}

#[test]
fn a_nursery_ends_when_its_children_have() {
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        let (child, to_child) = nursery.fork().unwrap();
        let helper = nursery.id();
        drop(nursery);
        to_child.send(b"e\x05").unwrap();
        assert_eq!(to_child.recv_timeout(PATIENCE).unwrap(), [6], "it is left alone");
        assert!(!has_ended(helper));
        to_child.send(b"x\x07").unwrap();
        assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(7));
        wait_until("the helper has ended", || has_ended(helper));

        wait_until("only a zombie is left", || children_of(std::process::id()) == [helper]);

        let nursery = Nursery::start(obey).unwrap();
        kill(&nursery.fork().unwrap().0);
        drop(nursery);
        assert!(children_of(std::process::id()).is_empty(), "without children, nothing is left");

        let nursery = Nursery::start(obey).unwrap();
        signal_helper(&nursery, Signal::STOP);
        let stopped = helper_of(&nursery);
        let begin = Instant::now();
        drop(nursery);
        assert!(begin.elapsed() < PATIENCE / 3, "a stopped helper holds up no drop");
        rustix::process::kill_process(stopped, Signal::CONT).unwrap();

        let nursery = Nursery::start(obey).unwrap();
        let (child, to_child) = nursery.fork().unwrap();
        to_child.send(b"x\x07").unwrap();
        assert!(nursery.join().unwrap().success());
        assert_eq!(try_wait_any(&[&child]).unwrap(), [0], "it had ended before");
        assert_eq!(child.join().unwrap().code(), Some(7));
    })]);
}

#[test]
fn a_nursery_is_its_programs_alone() {
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        // No guard, so it may go into the child.
        let child = process::fork(move || {
            assert!(matches!(nursery.fork(), Err(NurseryError::Ended)));
        });
        assert!(child.unwrap().join().unwrap().success());
    })]);
}

#[test]
fn a_program_or_a_helper_without_descriptors_says_so() {
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        let limit = |current| Rlimit { current: Some(current), ..getrlimit(Resource::Nofile) };
        let refused = |what: &str| {
            let Err(NurseryError::Fork(error)) = nursery.fork() else { panic!("{what}") };
            error
        };
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, limit(0)).unwrap();
        let error = refused("no descriptors here");
        setrlimit(Resource::Nofile, before).unwrap();
        assert!(error.to_string().contains("os error 24"), "{error}");

        let helper = Some(helper_of(&nursery));
        rustix::process::prlimit(helper, Resource::Nofile, limit(0)).unwrap();
        let error = refused("no descriptors in the helper");
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
        // Enough for the request, and not for the fork.
        let open = fs::read_dir(format!("/proc/{}/fd", nursery.id())).unwrap().count();
        for more in 1..6 {
            rustix::process::prlimit(helper, Resource::Nofile, limit((open + more) as u64))
                .unwrap();
            if let Ok((child, _)) = nursery.fork() {
                kill(&child);
            }
            assert_eq!(children_of(nursery.id()), [] as [u32; 0], "{more} descriptors");
        }
        rustix::process::prlimit(helper, Resource::Nofile, before).unwrap();
        let (child, to_child) = nursery.fork().unwrap();
        to_child.send(b"x\x07").unwrap();
        assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(7));
    })]);
}

#[test]
fn a_nursery_is_started_by_a_program_with_one_thread() {
    let error = Nursery::start(obey).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "a test has other threads: {error}");
}

/// Names the two types, which are in the crate's face.
#[allow(dead_code, reason = "it is about types")]
fn are_shared(nursery: Nursery, child: Child) -> impl Send + Sync {
    (nursery, child)
}

#[test]
fn a_child_that_the_program_could_not_learn_of_does_nothing() {
    join_all([fork(|| {
        let board = board();
        let theirs = board.clone();
        let count = move |_: Connection| _ = theirs.pid.fetch_add(1, SeqCst);
        let nursery = Nursery::start(count).unwrap();
        signal_helper(&nursery, Signal::STOP);
        thread::scope(|scope| {
            let (of_thread, tid) = std::sync::mpsc::channel();
            let nursery = &nursery;
            let forking = scope.spawn(move || {
                of_thread.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
                nursery.fork()
            });
            let call = format!("/proc/self/task/{}/syscall", tid.recv().unwrap());
            let receives = format!("{} ", libc::SYS_recvmsg);
            wait_until("the request is there", || {
                fs::read_to_string(&call).is_ok_and(|now| now.starts_with(&receives))
            });
            let limit = getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
            signal_helper(nursery, Signal::CONT);
            let forked = forking.join().unwrap();
            setrlimit(Resource::Nofile, limit).unwrap();
            assert!(forked.is_err(), "there was no descriptor for the child");
        });
        nursery.join_timeout(PATIENCE).unwrap();
        assert_eq!(board.pid.load(SeqCst), 0);
    })]);
}

#[test]
fn one_who_waits_for_a_child_whose_helper_is_dead_sleeps() {
    join_all([fork(|| {
        let nursery = Nursery::start(obey).unwrap();
        let (child, _to_child) = nursery.fork().unwrap();
        signal_helper(&nursery, Signal::KILL);
        wait_until("the helper has ended", || has_ended(nursery.id()));
        let switches = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let count = status.split("\nvoluntary_ctxt_switches:").nth(1).unwrap();
            count.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let before = switches();
        let late = child.join_timeout(Duration::from_millis(400)).unwrap_err();
        assert_eq!(late.kind(), std::io::ErrorKind::TimedOut);
        let looks = switches() - before;
        assert!(looks < 100, "it looked {looks} times");
        child.kill().unwrap();
    })]);
}
