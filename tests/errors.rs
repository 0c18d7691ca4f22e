//! Errors as a program meets them. `?` makes an `io::Error` of a fitting kind, which contains the
//! error with its text and the system's error. Also what `{:?}` shows of everything.

use core::num::NonZeroU32;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::AtomicU32;

use crossproc::directory::{Address, Directory, DirectoryClient, DirectoryError};
use crossproc::process::{HandleError, InheritError};
use crossproc::{
    Barrier, BarrierError, BoundedSemaphore, ByteQueue, Condition, ConditionError, ConnectionError,
    Event, EventError, Fixed, JoinableQueue, Lock, LockError, NotOwner, Once, OnceError,
    OverRelease, Permits, PermitsError, PutError, PutManyError, Queue, QueueError, QueueOptions,
    RLock, RegionError, RwLock, Semaphore, SemaphoreError, Shm, Wait, WaitAnyError, pipe, shared,
};

/// The system's error within the errors here.
fn system() -> io::Error {
    io::Error::from_raw_os_error(libc::ENFILE)
}

/// Checks what `?` makes of the error: it has this kind, the same text, with these words in it, and
/// the same source.
fn becomes<E: Error + 'static>(error: E, kind: ErrorKind, words: &str)
where
    io::Error: From<E>,
{
    let (text, source) = (error.to_string(), error.source().map(ToString::to_string));
    assert!(text.contains(words), "{text:?} and not {words:?}");
    let by_question_mark = || -> io::Result<()> { Err(error)? };
    let error = by_question_mark().unwrap_err();
    assert_eq!(error.kind(), kind, "{text}");
    assert_eq!(error.to_string(), text);
    let inner = error.get_ref().expect("the error is in it");
    assert_eq!(inner.source().map(ToString::to_string), source, "{text}");
}

#[test]
fn errors_of_locks_become_errors_of_io() {
    let all = [
        (LockError::OwnerDied, ErrorKind::Other, "lock_or_repair() repairs it"),
        (LockError::Deadlock, ErrorKind::Deadlock, "holds the lock already"),
        (LockError::WouldBlock, ErrorKind::WouldBlock, "held by another thread"),
        (LockError::TimedOut, ErrorKind::TimedOut, "until the deadline"),
        (LockError::Interrupted, ErrorKind::Interrupted, "signal handler"),
        (LockError::TooDeep, ErrorKind::Other, "4294967295 times"),
        (LockError::TooManyHeld, ErrorKind::Other, "unlock some first"),
    ];
    for (error, kind, words) in all {
        becomes(error, kind, words);
    }
    becomes(NotOwner, ErrorKind::PermissionDenied, "does not hold the lock");
    becomes(OnceError::Deadlock, ErrorKind::Deadlock, "is doing the work already");
    becomes(OnceError::WouldBlock, ErrorKind::WouldBlock, "by another thread");
    becomes(OnceError::TimedOut, ErrorKind::TimedOut, "until the deadline");
    becomes(OnceError::Interrupted, ErrorKind::Interrupted, "signal handler");
    becomes(OnceError::TooManyHeld, ErrorKind::Other, "unlock some first");
}

#[test]
fn a_list_that_cannot_be_had_says_why() {
    use crossproc_sys::namespace::Unknown;
    use crossproc_sys::robust::Error as Why;
    let says = |why: Why, words: &str, has_source: bool| {
        let text = why.to_string();
        assert!(text.contains(words), "{text:?} and not {words:?}");
        assert_eq!(why.source().is_some(), has_source, "{text}");
    };
    says(Why::NoList, "through libc", false);
    says(Why::OtherLayout { futex_offset: 7 }, "at 7, ", false);
    says(Why::OtherPidNamespace, "exec before using locks", false);
    says(Why::UnknownPidNamespace(Unknown(rustix::io::Errno::NOENT)), "Mount /proc", true);
    says(Why::ThreadEnds, "about to end", false);
    says(Why::Os(rustix::io::Errno::NOMEM), "could not be set up", true);
}

/// `?` works in a function whose error is a box, with an error that was made while a lock that
/// belongs to this function was held.
#[test]
fn errors_leave_a_function_that_owns_the_lock() {
    fn locks() -> Result<(), Box<dyn Error>> {
        let lock = Lock::new(7_u64);
        let rlock = RLock::new(7_u64);
        let rwlock: RwLock<u64> = RwLock::new(7);
        *lock.lock()? += 1;
        rlock.lock()?.set(8);
        *rwlock.write()? += 1;
        let _sum = *rwlock.read()? + rlock.lock_or_repair(|_| ())?.get();
        let _held = lock.lock()?;
        *lock.lock()? += 1;
        Ok(())
    }
    let error = locks().unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&LockError::Deadlock));
}

#[test]
fn errors_of_what_is_waited_for_become_errors_of_io() {
    becomes(EventError::WouldBlock, ErrorKind::WouldBlock, "not set");
    becomes(EventError::TimedOut, ErrorKind::TimedOut, "until the deadline");
    becomes(EventError::Interrupted, ErrorKind::Interrupted, "signal handler");
    becomes(EventError::NoThread, ErrorKind::WouldBlock, "no thread");
    becomes(SemaphoreError::WouldBlock, ErrorKind::WouldBlock, "no permit");
    becomes(SemaphoreError::TimedOut, ErrorKind::TimedOut, "until the deadline");
    becomes(SemaphoreError::Interrupted, ErrorKind::Interrupted, "signal handler");
    becomes(SemaphoreError::NoThread, ErrorKind::WouldBlock, "no thread");
    becomes(OverRelease { bound: Semaphore::MAX }, ErrorKind::Other, "more than its 2147483647");
    becomes(OverRelease { bound: 3 }, ErrorKind::Other, "more than its 3 permits");
    becomes(PermitsError::WouldBlock, ErrorKind::WouldBlock, "no permit is free");
    becomes(PermitsError::TimedOut, ErrorKind::TimedOut, "until the deadline");
    becomes(PermitsError::Interrupted, ErrorKind::Interrupted, "signal handler");
    becomes(PermitsError::Deadlock, ErrorKind::Deadlock, "holds all the permits");
    becomes(PermitsError::TooManyHeld, ErrorKind::Other, "release some first");
    becomes(ConditionError::TimedOut, ErrorKind::TimedOut, "until the deadline");
    becomes(ConditionError::Interrupted, ErrorKind::Interrupted, "signal handler");
    becomes(ConditionError::OwnerDied, ErrorKind::Other, "call recover()");
    becomes(ConditionError::NotOwner, ErrorKind::PermissionDenied, "acquire it before");
    let barrier = Barrier::new(2);
    becomes(BarrierError::Broken, ErrorKind::Other, "reset() makes it whole");
    becomes(BarrierError::WouldBlock, ErrorKind::WouldBlock, "not all parties");
    becomes(BarrierError::TimedOut, ErrorKind::TimedOut, "which has broken it");
    becomes(
        BarrierError::Interrupted(barrier.arrive().unwrap()),
        ErrorKind::Interrupted,
        "signal handler",
    );
    becomes(WaitAnyError::WouldBlock, ErrorKind::WouldBlock, "nothing that was asked for is ready");
    becomes(WaitAnyError::TimedOut, ErrorKind::TimedOut, "until the deadline");
    becomes(WaitAnyError::Interrupted, ErrorKind::Interrupted, "signal handler");
    becomes(WaitAnyError::Nothing, ErrorKind::InvalidInput, "the list is empty");
    becomes(WaitAnyError::Deadlock { index: 4 }, ErrorKind::Deadlock, "number 4 ");
    becomes(
        WaitAnyError::Queue { index: 5, source: QueueError::ThreadEnds },
        ErrorKind::Other,
        "number 5 ",
    );
    becomes(WaitAnyError::Os(system()), system().kind(), "does not let this thread wait");
}

#[test]
fn errors_of_queues_become_errors_of_io() {
    let other = ErrorKind::Other;
    let all = || {
        [
            (QueueError::Full, ErrorKind::WouldBlock, "full"),
            (QueueError::Empty, ErrorKind::WouldBlock, "empty"),
            (QueueError::TimedOut, ErrorKind::TimedOut, "until the deadline"),
            (QueueError::Interrupted, ErrorKind::Interrupted, "signal handler"),
            (QueueError::Closed, ErrorKind::BrokenPipe, "closed"),
            (
                QueueError::TooLong { len: 8, max: 7 },
                ErrorKind::InvalidInput,
                "8 bytes is too long for this queue, which takes 7",
            ),
            (QueueError::TooManyLoans { limit: 3 }, other, "with more loans"),
            (QueueError::TooManyParticipants { limit: 9 }, other, "with more participants"),
            (QueueError::NoMemory(system()), system().kind(), "no memory"),
            (QueueError::Deadlock, ErrorKind::Deadlock, "finish it first"),
            (QueueError::NotOwner, other, "parent process"),
            (QueueError::TooManyHeld, other, "release some first"),
            (QueueError::NoThread(system()), system().kind(), "no thread"),
            (QueueError::ThreadEnds, other, "ending"),
            (QueueError::Spoiled, ErrorKind::InvalidData, "overwritten"),
        ]
    };
    for (error, kind, words) in all() {
        becomes(error, kind, words);
    }
    // The value that could not be put stays behind, and the reason is passed on.
    for (error, kind, words) in all() {
        let put = PutError { value: vec![1_u8], error };
        let text = put.to_string();
        assert!(text.starts_with("nothing was put: ") && text.contains(words), "{text}");
        assert_eq!(put.source().map(ToString::to_string), Some(put.error.to_string()));
        let shown = format!("{put:?}");
        assert!(shown.starts_with("PutError { error: ") && shown.ends_with(", .. }"), "{shown}");
        let reason = put.error.to_string();
        let error = io::Error::from(put);
        assert_eq!((error.kind(), error.to_string()), (kind, reason));
    }
    for (error, kind, words) in all() {
        let put = PutManyError { put: 12, error };
        let text = put.to_string();
        assert!(
            text.starts_with("12 items were put, and no more: ") && text.contains(words),
            "{text}"
        );
        assert_eq!(io::Error::from(put).kind(), kind);
    }
    let by_question_mark =
        || -> Result<(), QueueError> { Err(PutError { value: 7, error: QueueError::Full })? };
    assert!(matches!(by_question_mark(), Err(QueueError::Full)));
}

#[test]
fn errors_of_connections_become_errors_of_io() {
    let (one, other) = pipe().unwrap();
    let message = || {
        one.send_both(b"abc", &one).unwrap();
        Box::new(other.recv().unwrap())
    };
    let handle = || HandleError::NotConnected { what: "a file" };
    let data = ErrorKind::InvalidData;
    becomes(ConnectionError::WouldBlock, ErrorKind::WouldBlock, "no message");
    becomes(ConnectionError::TimedOut, ErrorKind::TimedOut, "until the deadline");
    becomes(ConnectionError::Interrupted, ErrorKind::Interrupted, "signal handler");
    becomes(ConnectionError::EndOfStream, ErrorKind::UnexpectedEof, "end of the stream");
    becomes(ConnectionError::BrokenPipe, ErrorKind::BrokenPipe, "nothing was sent");
    becomes(ConnectionError::Closed, ErrorKind::NotConnected, "Connection::inheritable");
    becomes(
        ConnectionError::TooLong { len: 8, max: 7 },
        ErrorKind::InvalidInput,
        "8 bytes is longer than 7",
    );
    becomes(
        ConnectionError::TooShort { max: 2, message: message() },
        data,
        "3 bytes came, there was room for 2",
    );
    becomes(ConnectionError::UnexpectedHandle { message: message() }, data, "Connection");
    becomes(
        ConnectionError::NoHandle { message: message() },
        data,
        "3 bytes came without a handle",
    );
    let kind = "something".to_owned();
    becomes(
        ConnectionError::OtherHandle { kind, source: handle(), message: message() },
        data,
        "a something as its sender says",
    );
    becomes(
        ConnectionError::Malformed { what: "it is odd".to_owned() },
        data,
        "no message: it is odd",
    );
    becomes(ConnectionError::NoDescriptor, ErrorKind::Other, "RLIMIT_NOFILE");
    becomes(
        ConnectionError::Os { what: "sending", source: system() },
        system().kind(),
        "sending failed",
    );
    becomes(handle(), data, "a file");
    becomes(
        HandleError::OtherKind { found: "egg".to_owned(), expected: "hen" },
        data,
        "a egg, not as a hen",
    );
    becomes(HandleError::Region(RegionError::NotMemfd), data, "not a memfd");
    let name = || "x".to_owned();
    becomes(InheritError::NotShared { name: name() }, ErrorKind::NotFound, "CommandExt::share");
    becomes(InheritError::NotOpen { name: name() }, ErrorKind::NotFound, "share it again");
    becomes(InheritError::Os { name: name(), source: system() }, system().kind(), "RLIMIT_NOFILE");
    let attach = InheritError::Attach {
        name: name(),
        kind: "egg".to_owned(),
        expected: "hen",
        source: handle(),
    };
    becomes(attach, data, "shared as a egg, and is not the hen");
}

#[test]
fn errors_of_regions_become_errors_of_io() {
    let (data, input) = (ErrorKind::InvalidData, ErrorKind::InvalidInput);
    becomes(RegionError::Create { len: 9, source: system() }, system().kind(), "memory of 9 bytes");
    becomes(RegionError::TooLarge { size: 8, count: 7 }, input, "7 elements of 8 bytes");
    becomes(RegionError::UnsuitableQueue { what: "it is odd".to_owned() }, input, "it is odd");
    becomes(RegionError::NotMemfd, data, "not a memfd");
    becomes(
        RegionError::NotSealed { missing: "F_SEAL_GROW".to_owned() },
        data,
        "F_SEAL_GROW is missing",
    );
    becomes(RegionError::OtherSeals { found: "F_SEAL_WRITE".to_owned() }, data, "by F_SEAL_WRITE");
    becomes(RegionError::HugePages, data, "huge pages");
    becomes(RegionError::Holes { len: 8, allocated: 4 }, data, "8 bytes long, of which 4 ");
    becomes(RegionError::TooShort { len: 8, needed: 9 }, data, "8 bytes long and would need 9");
    becomes(RegionError::ForeignMagic { found: 255 }, data, "0x00000000000000ff");
    becomes(RegionError::OtherAbi { found: 1, expected: 2 }, data, "ABI 1, this program has 2");
    becomes(RegionError::OtherWordSize { found: "32 bits".to_owned() }, data, "(32 bits)");
    let layout = RegionError::OtherLayout {
        type_name: "T",
        size: 1,
        found_size: 2,
        align: 3,
        found_align: 4,
    };
    becomes(layout, data, "2 bytes aligned to 4 there, of 1 aligned to 3 here");
    becomes(RegionError::NotInitialised, data, "has not finished");
    becomes(
        RegionError::OtherPidNamespace { found: 1, expected: 2 },
        data,
        "namespace 1, this process to 2",
    );
    becomes(
        RegionError::Attach { what: "mapping", source: system() },
        system().kind(),
        "mapping failed",
    );
}

#[test]
fn errors_of_directories_become_errors_of_io() {
    let address = || Address::from(Path::new("/run/x"));
    let (name, why) = (|| "n".to_owned(), || "it is odd".to_owned());
    let (denied, data) = (ErrorKind::PermissionDenied, ErrorKind::InvalidData);
    let in_use = ErrorKind::AddrInUse;
    becomes(
        DirectoryError::AlreadyServed { address: address(), pid: Some(7) },
        in_use,
        "/run/x is served already, by process 7:",
    );
    becomes(
        DirectoryError::AlreadyServed { address: address(), pid: None },
        in_use,
        "/run/x is served already:",
    );
    becomes(
        DirectoryError::Orphaned { address: address(), pid: 7 },
        in_use,
        "process 7, which has ended",
    );
    becomes(
        DirectoryError::NotASocket { address: address() },
        ErrorKind::AlreadyExists,
        "is no socket",
    );
    becomes(
        DirectoryError::from("@".parse::<Address>().unwrap_err()),
        ErrorKind::InvalidInput,
        "it is odd",
    );
    becomes(
        DirectoryError::NotToBeServed { what: "is odd" },
        ErrorKind::Other,
        "the directory is odd",
    );
    becomes(
        DirectoryError::NotServed { address: address(), source: system() },
        ErrorKind::ConnectionRefused,
        "connect_timeout",
    );
    becomes(
        DirectoryError::UntrustedServer { address: address(), uid: 5, pid: 7 },
        denied,
        "user 5 (process 7)",
    );
    becomes(DirectoryError::Unwelcome { why: why() }, denied, "it is odd");
    becomes(DirectoryError::TimedOut, ErrorKind::TimedOut, "until the deadline");
    becomes(DirectoryError::Interrupted, ErrorKind::Interrupted, "signal handler");
    becomes(DirectoryError::Disconnected, ErrorKind::ConnectionReset, "connect again");
    becomes(DirectoryError::NotFound { name: name() }, ErrorKind::NotFound, "served as \"n\"");
    becomes(DirectoryError::Unchanged { revision: 9 }, ErrorKind::WouldBlock, "revision 9");
    becomes(DirectoryError::NameTaken { name: name() }, ErrorKind::AlreadyExists, "get_or_put");
    becomes(DirectoryError::NotYours { name: name() }, denied, "\"n\" was put by another one");
    becomes(DirectoryError::NotAllowed, denied, "allow_put");
    becomes(
        DirectoryError::InvalidName { name: name(), why: why() },
        ErrorKind::InvalidInput,
        "it is odd",
    );
    becomes(DirectoryError::TooMany { why: why() }, ErrorKind::Other, "it is odd");
    becomes(
        DirectoryError::RefusedHandle { name: name(), why: why() },
        ErrorKind::Other,
        "it is odd",
    );
    let source = HandleError::Region(RegionError::NotMemfd);
    let other = DirectoryError::OtherHandle {
        name: name(),
        kind: "egg".to_owned(),
        expected: "hen",
        source,
    };
    becomes(other, data, "is a \"egg\", not a \"hen\"");
    becomes(DirectoryError::Malformed { what: why() }, data, "it is odd");
    becomes(
        DirectoryError::Os { what: "binding", source: system() },
        system().kind(),
        "binding failed",
    );
}

#[test]
fn what_a_connection_says_is_what_a_directory_says() {
    let says = |error: ConnectionError| DirectoryError::from(error);
    assert!(matches!(says(ConnectionError::TimedOut), DirectoryError::TimedOut));
    assert!(matches!(says(ConnectionError::WouldBlock), DirectoryError::TimedOut));
    assert!(matches!(says(ConnectionError::Interrupted), DirectoryError::Interrupted));
    assert!(matches!(says(ConnectionError::EndOfStream), DirectoryError::Disconnected));
    assert!(matches!(says(ConnectionError::BrokenPipe), DirectoryError::Disconnected));
    match says(ConnectionError::Os { what: "sending", source: system() }) {
        DirectoryError::Os { what: "sending", source } => {
            assert_eq!(source.raw_os_error(), Some(libc::ENFILE));
        }
        other => panic!("{other:?}"),
    }
    match says(ConnectionError::NoDescriptor) {
        DirectoryError::Os { what, source } => {
            assert!(
                what.contains("descriptor") && source.to_string().contains("RLIMIT_NOFILE"),
                "{what} {source}"
            );
        }
        other => panic!("{other:?}"),
    }
    match says(ConnectionError::TooLong { len: 8, max: 7 }) {
        DirectoryError::Malformed { what } => {
            assert!(what.contains("8 bytes is longer than 7"), "{what}");
        }
        other => panic!("{other:?}"),
    }
}

fn shows(value: impl Debug, expected: &str) {
    assert_eq!(format!("{value:?}"), expected);
}

/// A primitive shows its state, and not what it protects: it takes nothing for that.
#[test]
fn what_is_shown_takes_nothing_and_waits_for_nobody() {
    let tid = rustix::thread::gettid().as_raw_nonzero();
    let lock = Lock::new(7_u64);
    shows(&lock, "Lock { owner: None, .. }");
    let guard = lock.lock().unwrap();
    shows(&guard, "7");
    assert_eq!(guard.to_string(), "7");
    shows(&lock, &format!("Lock {{ owner: Some({tid}), .. }}"));
    drop(guard);
    let rlock = RLock::new(7_u64);
    let guard = rlock.lock().unwrap();
    shows(&guard, "7");
    shows(&rlock, &format!("RLock {{ owner: Some({tid}), .. }}"));
    drop(guard);
    let rwlock: RwLock<u64> = RwLock::new(7);
    let guard = rwlock.read().unwrap();
    shows(&guard, "7");
    shows(&rwlock, "RwLock { writer: None, readers: 1, .. }");
    drop(guard);
    let guard = rwlock.write().unwrap();
    shows(&guard, "7");
    shows(&rwlock, &format!("RwLock {{ writer: Some({tid}), readers: 0, .. }}"));
    drop(guard);
    let semaphore = Semaphore::new(3);
    let guard = semaphore.access();
    shows((&semaphore, &guard), "(Semaphore { value: 2, .. }, SemaphoreGuard { .. })");
    let bounded = BoundedSemaphore::new(3);
    let guard = bounded.access();
    shows(
        (&bounded, &guard),
        "(BoundedSemaphore { value: 2, bound: 3, .. }, SemaphoreGuard { .. })",
    );
    let permits: Permits<3> = Permits::new();
    let permit = permits.acquire().unwrap();
    shows((&permits, &permit), "(Permits { value: 2, of: 3, .. }, Permit { .. })");
    let event = Event::new();
    event.set();
    shows(&event, "Event { is_set: true, .. }");
    shows(Condition::new(), "Condition { .. }");
    let once = Once::new();
    shows(&once, "Once { is_completed: false, .. }");
    once.call_once(|_| ()).unwrap();
    shows(&once, "Once { is_completed: true, .. }");
    let barrier = Barrier::new(2);
    let _arrival = barrier.arrive().unwrap();
    let shown = format!("{barrier:?}");
    assert!(
        shown.starts_with("Barrier { ") && shown.contains("2") && shown.contains("1"),
        "{shown}"
    );
    shows(Fixed::new(7_u64), "Fixed(7)");
    shows(Shm::new(AtomicU32::new(7)).unwrap(), "7");
}

#[test]
fn a_queue_shows_how_full_it_is_and_a_guard_what_it_is() {
    let queue: Queue<u64> = Queue::new(4).unwrap();
    queue.put_many(&[1, 2]).unwrap();
    shows(&queue, "Queue { len: 2, capacity: 4, is_closed: false }");
    shows(queue.loan().unwrap(), "Loan { .. }");
    shows(queue.receive().unwrap(), "Received { .. }");
    queue.close().unwrap();
    shows(&queue, "Queue { len: 1, capacity: 4, is_closed: true }");
    shows(
        ByteQueue::with_max_len(3, 8).unwrap(),
        "Queue { len: 0, capacity: 3, is_closed: false }",
    );
    let tasks: JoinableQueue<u64> =
        QueueOptions::new().attempts(NonZeroU32::new(1), 1).create_joinable(4).unwrap();
    tasks.put_many(&[1, 2]).unwrap();
    let task = tasks.get().unwrap();
    shows(&task, "Task { attempts: 1, .. }");
    shows(&tasks, "JoinableQueue { len: 1, unfinished: 2, capacity: 4, is_closed: false }");
    drop(task);
    shows(tasks.dead_letter().unwrap(), "DeadLetter { attempts: 1, .. }");
    assert_eq!(tasks.dead_letters(), 0);
}

#[test]
fn ends_of_connections_and_messages_show_what_they_are() {
    let (one, other) = pipe().unwrap();
    let shown = format!("{one:?}");
    assert!(shown.starts_with("Connection { socket: ") && shown.ends_with(", .. }"), "{shown}");
    one.send(b"abc").unwrap();
    shows(other.recv().unwrap(), "Message { len: 3, handle: None, .. }");
    let address = Address::abstract_name(format!("crossproc errors {}", std::process::id()));
    let directory = Directory::bind(&address).unwrap();
    directory.put("one", &one).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| directory.serve().unwrap());
        let shown = format!("{:?}", DirectoryClient::connect(&address).unwrap());
        assert!(
            shown.starts_with("DirectoryClient { socket: ") && shown.ends_with(", .. }"),
            "{shown}"
        );
        directory.close();
    });
    let shown = format!("{directory:?}");
    assert!(
        shown.starts_with("Directory { address: ") && shown.contains("names: [\"one\"]"),
        "{shown}"
    );
}

shared! {
    #[derive(Default)]
    struct Everything {
        lock: Lock<u64>,
        rlock: RLock<u64>,
        rwlock: RwLock<u64, 2>,
        event: Event,
        permits: Permits<2>,
        condition: Condition,
        once: Once,
    }
}

/// A default primitive is free, around the value's default.
#[test]
fn what_is_made_by_default_or_from_a_value_is_free() {
    let all = Shm::new(Everything::default()).unwrap();
    assert_eq!(
        (*all.lock.lock().unwrap(), all.rlock.lock().unwrap().get(), *all.rwlock.read().unwrap()),
        (0, 0, 0)
    );
    assert!(!all.event.is_set() && !all.once.is_completed());
    assert_eq!(all.permits.value(), 2);
    let mut guard = all.lock.lock().unwrap();
    assert_eq!(all.condition.wait_with(&mut guard, Wait::NONE), Err(ConditionError::TimedOut));
    drop(guard);
    assert_eq!(QueueOptions::default().create::<u64>(3).unwrap().capacity(), 3);
    let mut lock = Lock::from(7_u64);
    *lock.get_mut() += 1;
    assert_eq!(*lock.lock().unwrap(), 8);
    let mut rlock = RLock::from(7_u64);
    *rlock.get_mut() += 1;
    assert_eq!(rlock.lock().unwrap().get(), 8);
    let mut rwlock: RwLock<u64, 2> = RwLock::from(7);
    *rwlock.get_mut() += 1;
    assert_eq!(*rwlock.read().unwrap(), 8);
    let mut fixed = Fixed::from(7_u64);
    *fixed.get_mut() += 1;
    assert_eq!(fixed.get(), 8);
}

/// Every error can be boxed and passed on, as in `main`.
#[test]
fn an_error_goes_through_a_box() {
    fn fails() -> Result<(), Box<dyn Error + Send + Sync>> {
        Err(Event::new().try_wait().unwrap_err())?
    }
    let error: Box<dyn Display> = Box::new(fails().unwrap_err());
    assert_eq!(error.to_string(), EventError::WouldBlock.to_string());
}
