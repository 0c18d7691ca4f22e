//! Objects by themselves: how long it takes to create, attach and drop them, and how many bytes
//! they have. Beside what POSIX and Python's `multiprocessing` have.

mod beside {
    pub(crate) mod named;
    pub(crate) mod python;
}

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use crossproc::{Barrier, Condition, Event, Lock, Permits, Queue, RLock, RwLock, Semaphore, Shm};

use self::beside::named::{Name, create_queue, create_semaphore, open_queue, open_semaphore};
use self::beside::python::{self, Clock};
use crossproc_harness::ratios::Ratios;
use crossproc_harness::record::Operation;
use crossproc_harness::sampler::{Sampler, repeated};

/// The room of the queues: what a POSIX queue may have if nobody has raised the limits.
const CAPACITY: usize = 10;
/// The length of their messages, in bytes.
const SIZE: usize = size_of::<u64>();

const NAMED_SEMAPHORE: &str = "sem_open, sem_close, sem_unlink";
const NAMED_QUEUE: &str = "mq_open, mq_close, mq_unlink";
const PYTHON: &str = "Python's multiprocessing";

fn main() {
    crossproc_harness::run("Objects", &[], |_| {}, compare);
}

fn compare(ratios: &mut Ratios) {
    create(ratios);
    attach(ratios);
    types(ratios);
    regions(ratios);
}

/// Returns what repeats an operation that needs nothing.
fn again(operation: impl Fn() + 'static) -> Sampler {
    repeated(Box::new(()), move |()| operation())
}

fn queue() -> Queue<u64> {
    Queue::new(CAPACITY).unwrap()
}

/// Creates, and drops.
fn create(ratios: &mut Ratios) {
    let semaphore = || again(|| drop(Shm::new(Semaphore::new(1)).unwrap()));
    let operation = "create and drop a semaphore";
    let theirs = once(|| create_semaphore(&Name::of_semaphore()));
    beside(ratios, operation, semaphore(), NAMED_SEMAPHORE, theirs);
    beside_python(ratios, operation, semaphore(), "multiprocessing.Semaphore(1)");

    let operation = "create and drop a queue of 10";
    let ours = || again(|| drop(queue()));
    let theirs = once(|| create_queue(&Name::of_queue(), CAPACITY, SIZE));
    beside(ratios, operation, ours(), NAMED_QUEUE, theirs);
    beside_python(ratios, operation, ours(), "multiprocessing.Queue(10)");

    let ours = again(|| drop(Shm::new(Lock::new(0_u64)).unwrap()));
    beside_python(ratios, "create and drop a lock", ours, "multiprocessing.Lock()");
    let ours = again(|| drop(Shm::new(Event::new()).unwrap()));
    beside_python(ratios, "create and drop an event", ours, "multiprocessing.Event()");
}

/// Attaches to what exists, and drops that handle.
fn attach(ratios: &mut Ratios) {
    let semaphore = Shm::new(Semaphore::new(1)).unwrap();
    let ours = again(move || {
        let descriptor = semaphore.as_fd().try_clone_to_owned().unwrap();
        drop(Shm::<Semaphore>::attach(descriptor).unwrap());
    });
    let name = Name::of_semaphore();
    let theirs = create_semaphore(&name).and_then(|()| once(move || open_semaphore(&name)));
    beside(ratios, "attach to a semaphore, and drop it", ours, "sem_open, sem_close", theirs);

    let queue = queue();
    let ours = again(move || {
        let descriptor = queue.as_fd().try_clone_to_owned().unwrap();
        drop(Queue::<u64>::attach(descriptor).unwrap());
    });
    let name = Name::of_queue();
    let theirs = create_queue(&name, CAPACITY, SIZE).and_then(|()| once(move || open_queue(&name)));
    beside(ratios, "attach to a queue, and drop it", ours, "mq_open, mq_close", theirs);
}

/// Returns what repeats an operation, if it succeeds the first time.
fn once(operation: impl Fn() -> io::Result<()> + 'static) -> io::Result<Sampler> {
    operation()?;
    Ok(again(move || operation().expect("what has succeeded once succeeds again")))
}

/// Compares with a rival that this system may not have.
fn beside(
    ratios: &mut Ratios,
    operation: &str,
    ours: Sampler,
    rival: &str,
    theirs: io::Result<Sampler>,
) {
    match theirs {
        Ok(theirs) => ratios.compare(operation, None, ours, rival, theirs),
        Err(error) => ratios.miss(operation, rival, error.to_string()),
    }
}

fn beside_python(ratios: &mut Ratios, operation: &str, ours: Sampler, statement: &str) {
    match python::repeated(Clock::Cpu, "import multiprocessing", statement) {
        Ok(theirs) => ratios.compare(operation, None, ours, PYTHON, theirs),
        Err(reason) => ratios.miss(operation, PYTHON, reason),
    }
}

/// The bytes of each type, without the value that a lock protects.
fn types(ratios: &mut Ratios) {
    const MUTEX: usize = size_of::<libc::pthread_mutex_t>();
    const CONDITION: usize = size_of::<libc::pthread_cond_t>();
    const RWLOCK: usize = size_of::<libc::pthread_rwlock_t>();
    const BARRIER: usize = size_of::<libc::pthread_barrier_t>();
    const SEMAPHORE: usize = size_of::<libc::sem_t>();
    for (object, ours, rival, theirs) in [
        ("Lock", size_of::<Lock<()>>(), "pthread_mutex_t", MUTEX),
        ("RLock", size_of::<RLock<()>>(), "pthread_mutex_t", MUTEX),
        ("RwLock", size_of::<RwLock<()>>(), "pthread_rwlock_t", RWLOCK),
        ("Condition", size_of::<Condition>(), "pthread_cond_t", CONDITION),
        ("Barrier", size_of::<Barrier>(), "pthread_barrier_t", BARRIER),
        ("Semaphore", size_of::<Semaphore>(), "sem_t", SEMAPHORE),
        ("Permits, 10", size_of::<Permits<10>>(), "sem_t", SEMAPHORE),
        ("Event", size_of::<Event>(), "pthread_mutex_t and pthread_cond_t", MUTEX + CONDITION),
    ] {
        bytes(ratios, &format!("{object}, the type"), ours, rival, theirs);
    }
}

/// The bytes of the pages of what has memory of its own.
fn regions(ratios: &mut Ratios) {
    let operation = "a semaphore alone, pages";
    let ours = Shm::new(Semaphore::new(1)).unwrap();
    let name = Name::of_semaphore();
    // Where glibc and musl keep it.
    let file = format!("/dev/shm/sem.{}", name.as_str().to_string_lossy().trim_matches('/'));
    let theirs = create_semaphore(&name).and_then(|()| fs::metadata(file));
    match theirs.map(|metadata| allocated(&metadata)) {
        Ok(theirs) => bytes(ratios, operation, pages(&ours), "sem_open", theirs),
        Err(error) => ratios.miss(operation, "sem_open", error.to_string()),
    }

    // A participant's memory is allocated when it first uses the queue.
    let queue = queue();
    queue.put(1).unwrap();
    // As getrlimit(2) has it: a tree's node and a header for each message, and its bytes.
    const NODE: usize = 48;
    const HEADER: usize = 48;
    let theirs = CAPACITY * (NODE + HEADER + SIZE);
    bytes(ratios, "a queue of 10 and one participant", pages(&queue), "POSIX mq, charged", theirs);
}

fn pages(region: &impl AsFd) -> usize {
    let file = File::from(region.as_fd().try_clone_to_owned().unwrap());
    allocated(&file.metadata().unwrap())
}

/// Returns how many bytes of a file are allocated.
fn allocated(metadata: &fs::Metadata) -> usize {
    // A block is 512 bytes: stat(3type).
    metadata.blocks() as usize * 512
}

fn bytes(ratios: &mut Ratios, object: &str, ours: usize, rival: &str, theirs: usize) {
    ratios.compare_figures(
        vec![(Operation::new(object).in_bytes(), None)],
        Box::new(move || vec![ours as f64]),
        rival,
        Box::new(move || vec![theirs as f64]),
    );
}
