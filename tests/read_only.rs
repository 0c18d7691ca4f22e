//! Memory that is only looked at, and how memory is mapped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI16, AtomicU64, Ordering::Relaxed};

use crossproc::directory::DirectoryOptions;
use crossproc::{
    BoundedSemaphore, Event, Fixed, Lock, Observe, Parts, ReadOnly, RegionError, Semaphore, Shm,
    ShmOptions, pipe, shared,
};
use rustix::fs::{FallocateFlags, fallocate, fstat};
use rustix::process::{DumpableBehavior, Uid, geteuid, set_dumpable_behavior};
use rustix::thread::set_thread_uid;

mod forked;
mod served;
use forked::{fork, join_all};

shared! {
    struct State {
        limit: Fixed<u32>,
        sums: [AtomicU64; 3],
        last: AtomicI16,
        is_over: Event,
        permits: Semaphore,
        places: BoundedSemaphore,
        secret: Lock<u64>,
    }
}

fn state(options: &ShmOptions) -> Shm<State> {
    let begin = |state: &mut State| {
        *state.limit.get_mut() = 9;
        state.permits = Semaphore::new(3);
        state.places = BoundedSemaphore::new(4);
    };
    options.create_in_place(begin).unwrap()
}

fn sealed() -> ShmOptions {
    ShmOptions::new().seal_writers(true)
}

fn descriptor_of(region: &impl AsFd) -> OwnedFd {
    region.as_fd().try_clone_to_owned().unwrap()
}

/// Opens a descriptor's file again, for writing.
fn reopened(descriptor: &impl AsRawFd) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    OpenOptions::new().read(true).write(true).open(path)
}

fn sees<P: Observe<Value: PartialEq>>(
    read_only: &ReadOnly,
    offset: usize,
    value: P::Value,
) -> bool {
    read_only.get::<P>(offset).is_ok_and(|seen| seen == value)
}

#[test]
fn one_that_only_looks_sees_what_others_do() {
    let state = state(&ShmOptions::new());
    state.sums[1].store(7, Relaxed);
    state.last.store(-5, Relaxed);
    state.permits.acquire();
    state.places.acquire();
    let (sender, receiver) = pipe().unwrap();
    let (there, back) = pipe().unwrap();
    let child = fork(move || {
        let look: ReadOnly = receiver.recv_handle().unwrap();
        assert!(sees::<Fixed<u32>>(&look, offset_of!(State, limit), 9));
        assert!(sees::<[AtomicU64; 3]>(&look, offset_of!(State, sums), [0, 7, 0]));
        assert!(sees::<AtomicU64>(&look, offset_of!(State, sums) + 8, 7));
        assert!(sees::<AtomicI16>(&look, offset_of!(State, last), -5));
        assert!(sees::<Event>(&look, offset_of!(State, is_over), false));
        assert!(sees::<Semaphore>(&look, offset_of!(State, permits), 2));
        assert!(sees::<BoundedSemaphore>(&look, offset_of!(State, places), 3));
        let refused = look.get::<AtomicU64>(offset_of!(State, secret));
        assert!(matches!(refused, Err(RegionError::NoSuchPart { .. })), "{refused:?}");
        there.send(b"looked").unwrap();
        receiver.recv().unwrap();
        assert!(sees::<Event>(&look, offset_of!(State, is_over), true));
    });
    let look = ReadOnly::attach(state.read_only().unwrap()).unwrap();
    sender.send_handle(&look).unwrap();
    back.recv().unwrap();
    state.is_over.set();
    sender.send(b"set").unwrap();
    join_all([child]);
}

#[test]
fn a_read_only_descriptor_is_no_writers() {
    let state = state(&ShmOptions::new());
    let descriptor = state.read_only().unwrap();
    for refused in [
        Shm::<State>::attach(descriptor_of(&descriptor)).map(drop),
        Parts::attach(descriptor_of(&descriptor)).map(drop),
    ] {
        let Err(RegionError::Attach { source, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(source.kind(), ErrorKind::PermissionDenied);
    }
    let file = File::from(descriptor_of(&descriptor));
    assert!(file.write_at(&[1], 4_096).is_err());
    assert!(ReadOnly::attach(descriptor).is_ok());
}

/// What is said of the ways to give memory away: its owner can write nevertheless, another user
/// cannot, and nobody can once the memory is sealed.
#[test]
fn who_can_write_all_the_same() {
    let open = state(&ShmOptions::new());
    let descriptor = open.read_only().unwrap();
    assert!(Shm::<State>::attach(reopened(&descriptor).unwrap()).is_ok());
    if geteuid().is_root() {
        let given_away = state(&ShmOptions::new());
        join_all([fork(move || {
            set_thread_uid(Uid::from_raw(65_534)).unwrap();
            // Or else `/proc` would be closed to it.
            set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
            assert!(reopened(&given_away.as_fd()).is_ok());
            let refused = reopened(&descriptor);
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied);
        })]);
    } else {
        println!("not shown for another user: only root can become one");
    }
    let closed = state(&sealed());
    let written = reopened(&closed.as_fd()).unwrap().write_at(&[1], 4_096);
    assert_eq!(written.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
fn sealed_memory_is_written_by_its_creator_and_its_children_alone() {
    let state = state(&sealed());
    for descriptor in [descriptor_of(&state), state.read_only().unwrap()] {
        for refused in [
            Shm::<State>::attach(descriptor_of(&descriptor)).map(drop),
            Parts::attach(descriptor_of(&descriptor)).map(drop),
        ] {
            assert!(matches!(refused, Err(RegionError::ReadOnly)), "{refused:?}");
        }
        assert!(ReadOnly::attach(descriptor).is_ok());
    }
    let look = ReadOnly::attach(descriptor_of(&state)).unwrap();
    *state.secret.lock().unwrap() += 1;
    let theirs = state.clone();
    join_all([fork(move || {
        *theirs.secret.lock().unwrap() += 1;
        theirs.is_over.set();
    })]);
    assert!(sees::<Event>(&look, offset_of!(State, is_over), true));
    assert_eq!(*state.secret.lock().unwrap(), 2);
    // A part of it is the creator's, too.
    assert!(state.part(&state.permits).unwrap().try_acquire().is_ok());
}

/// Touches all pages. Returns how often the kernel had to map some.
fn faults_at(memory: &[AtomicU64]) -> i64 {
    let before = faults();
    memory.iter().step_by(512).for_each(|word| word.store(1, Relaxed));
    faults() - before
}

/// Returns how often the kernel has mapped pages for this thread.
fn faults() -> i64 {
    // `minflt`, the eighth field behind the name: see proc_pid_stat(5).
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(7).unwrap().parse().unwrap()
}

#[test]
fn pages_are_mapped_at_once_if_asked_for() {
    const WORDS: usize = 1 << 17;
    let of = |options: ShmOptions| options.slice_in_place(WORDS, |_: &mut [AtomicU64]| ()).unwrap();
    let (later, at_once) = (of(ShmOptions::new()), of(ShmOptions::new().populate(true)));
    let pages = (WORDS * 8 / 4_096) as i64;
    let attached: Shm<[AtomicU64]> =
        ShmOptions::new().populate(true).attach(descriptor_of(&later)).unwrap();
    for memory in [&at_once, &attached] {
        let faults = faults_at(memory);
        assert!(faults < pages / 16, "{faults} of {pages}");
    }
    let again: Shm<[AtomicU64]> = Shm::attach(descriptor_of(&later)).unwrap();
    let faults = faults_at(&again);
    // The kernel maps some around each.
    assert!(faults >= pages / 16, "{faults} of {pages}");
}

/// Returns how many kilobytes of the mapping at an address are huge pages.
fn huge_at(address: usize) -> u64 {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_it = false;
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or("");
        if let Some((start, end)) = first.split_once('-') {
            let number = |text| usize::from_str_radix(text, 16);
            if let (Ok(start), Ok(end)) = (number(start), number(end)) {
                is_it = (start..end).contains(&address);
            }
        } else if is_it && first == "ShmemPmdMapped:" {
            return line.split_whitespace().nth(1).unwrap().parse().unwrap();
        }
    }
    panic!("no mapping at {address:#x}");
}

#[test]
fn large_memory_comes_into_huge_pages() {
    const WORDS: usize = 1 << 20;
    let options = ShmOptions::new().huge_pages(true);
    let numbers = options.from_fn(WORDS, |index| AtomicU64::new(index as u64)).unwrap();
    let again: Shm<[AtomicU64]> = options.attach(descriptor_of(&numbers)).unwrap();
    for memory in [&numbers, &again] {
        assert!(memory.iter().enumerate().all(|(at, word)| word.load(Relaxed) == at as u64));
        let huge = huge_at(memory.as_ptr().addr());
        println!("{huge} KB in huge pages");
        assert!(huge >= 2_048 || kernel() < (6, 1), "{huge} KB in huge pages");
    }
}

/// Or a peer could have a process fill as much memory as a file may be long.
#[test]
fn holes_are_refused_before_anything_fills_them() {
    const LEN: u64 = 16 << 20;
    let allocated = |numbers: &Shm<[AtomicU64]>| fstat(numbers).unwrap().st_blocks * 512;
    for options in [ShmOptions::new().populate(true), ShmOptions::new().huge_pages(true)] {
        let numbers = Shm::from_fn(LEN as usize / 8, |_| AtomicU64::new(0)).unwrap();
        // One page of each huge one is left.
        for at in (0..LEN).step_by(2 << 20) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&numbers, flags, at + 4_096, (2 << 20) - 4_096).unwrap();
        }
        let before = allocated(&numbers);
        assert!(before <= 10 * 4_096, "{before}");
        let refused = options.attach::<[AtomicU64]>(descriptor_of(&numbers)).map(drop);
        assert!(matches!(refused, Err(RegionError::Holes { .. })), "{refused:?}");
        assert_eq!(allocated(&numbers), before);
    }
}

#[test]
fn a_directory_serves_what_is_sealed_against_writers() {
    served::alone(|| {
        let folder = served::Folder::new();
        let address = folder.socket();
        let _server = served::serve(&address, DirectoryOptions::new());
        let region = state(&sealed());
        region.last.store(5, Relaxed);
        let read_only = ReadOnly::attach(region.read_only().unwrap()).unwrap();
        let mut client = served::client(&address);
        client.put("state", &read_only).unwrap();
        let got: ReadOnly = served::client(&address).get("state").unwrap();
        assert!(sees::<AtomicI16>(&got, offset_of!(State, last), 5));
    });
}

fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}
