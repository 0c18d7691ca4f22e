//! Errors as a program meets them. `?` makes an `io::Error` of a fitting kind, which contains the
//! error with its text and the system's error. Also what `{:?}` shows of everything.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, ErrorKind};

use crossproc::process::{HandleError, InheritError};
use crossproc::{
    Barrier, BarrierError, Condition, ConditionError, ConnectionError, Event, EventError, Fixed,
    Lock, LockError, NotOwner, Once, OnceError, OverRelease, Permits, PermitsError, PutError,
    PutManyError, QueueError, QueueOptions, RLock, RegionError, RwLock, Semaphore, SemaphoreError,
    Shm, Wait, WaitAnyError, pipe, shared,
};

mod directories;
mod shown;

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
    let of_a_queue = WaitAnyError::Queue { index: 6, source: QueueError::Deadlock };
    becomes(of_a_queue, ErrorKind::Deadlock, "number 6 ");
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
            (QueueError::Deadlock, ErrorKind::Deadlock, "finish the task in hand"),
            (QueueError::Lagged { missed: 7 }, other, "missed 7 items"),
            (QueueError::Expelled, other, "subscribe again"),
            (QueueError::NotInPlace, other, "copy them"),
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
    becomes(RegionError::Changed, data, "a participant has overwritten that");
    becomes(RegionError::NoParts, data, "more than 124 fields");
    let no_part = RegionError::NoSuchPart { type_name: "T", offset: 9 };
    becomes(no_part, input, "no `T` at offset 9");
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
