//! How long it takes to start processes and to join them, and to have a value back from one. Beside
//! Python's `multiprocessing` with the same way of starting, and beside the system calls alone.

#![allow(unsafe_code)]

mod beside {
    pub(crate) mod python;
}

use std::time::Instant;

use crossproc::process::{self, FnNursery, Function};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::beside::python::{self, Clock};
use crossproc_harness::ratios::Ratios;
use crossproc_harness::sampler::Sampler;

static VALUE: Function<u64, u64> = Function::new("value", value);

fn value(number: u64) -> u64 {
    number * 2
}

fn main() {
    process::serve(&[&VALUE]);
    // A thousand children have a thousand descriptors, here and in Python.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    crossproc_harness::run("Processes", &[], |_| {}, compare);
}

/// Returns what repeats an operation, in the time of a clock: other processes work meanwhile.
fn timed(mut operation: impl FnMut() + 'static) -> Sampler {
    Box::new(move |times| {
        let begun = Instant::now();
        for _ in 0..times {
            operation();
        }
        begun.elapsed()
    })
}

/// `fork(2)`, `_exit(2)` and `waitpid(2)`, and nothing else.
fn fork_and_wait() {
    // SAFETY: the child ends at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: waits for the child above, and is told no status.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
}

fn beside_python(
    ratios: &mut Ratios,
    operation: &str,
    ours: impl FnMut() + 'static,
    way: &str,
    statement: &str,
) {
    let rival = format!("Python's multiprocessing, {way}");
    let setup = format!("import multiprocessing; m = multiprocessing.get_context('{way}')");
    match python::repeated(Clock::Wall, &setup, statement) {
        Ok(theirs) => ratios.compare(operation, None, timed(ours), &rival, theirs),
        Err(reason) => ratios.miss(operation, &rival, reason),
    }
}

fn compare(ratios: &mut Ratios) {
    // Started first: its children are forked from what there is now.
    let nursery = FnNursery::start().unwrap();

    let start_and_join = || assert!(process::fork(|| ()).unwrap().join().unwrap().success());
    let operation = "fork a child and join it";
    let rival = "fork, _exit, waitpid";
    ratios.compare(operation, None, timed(start_and_join), rival, timed(fork_and_wait));
    let nothing = "p = m.Process(target=len, args=((),)); p.start(); p.join()";
    beside_python(ratios, operation, start_and_join, "fork", nothing);

    // A trial has few.
    let number = ratios.effort().choose(1_000, 1_000, 10);
    let many = move || {
        let children: Vec<_> = (0..number).map(|_| process::fork(|| ()).unwrap()).collect();
        for child in children {
            assert!(child.join().unwrap().success());
        }
    };
    let all = format!(
        "c = [m.Process(target=len, args=((),)) for _ in range({number})]; \
         [p.start() for p in c]; [p.join() for p in c]"
    );
    beside_python(ratios, "fork 1,000 children, join all", many, "fork", &all);

    let sent = "r, w = m.Pipe(False); p = m.Process(target=w.send, args=(42,)); p.start(); \
                assert r.recv() == 42; p.join(); r.close(); w.close()";
    let operation = "a value back from a forked child";
    let ours = || assert_eq!(returned(process::spawn(|| value(21)).unwrap()), 42);
    beside_python(ratios, operation, ours, "fork", sent);
    let operation = "a value back from a child of a helper";
    let ours = move || assert_eq!(returned(nursery.spawn(value, &21).unwrap()), 42);
    beside_python(ratios, operation, ours, "forkserver", sent);
    let operation = "a value back from a started program";
    let ours = || assert_eq!(returned(VALUE.start(&21).unwrap()), 42);
    beside_python(ratios, operation, ours, "spawn", sent);
}

fn returned(spawned: process::JoinHandle<u64>) -> u64 {
    spawned.join().unwrap().into_result().unwrap()
}
