//! The layout of shared memory stays what `ABI` says it is: regions that an earlier program made,
//! kept as images in `tests/images`, are attached and used. `docs/layout.md` has what is promised.
//!
//! When `ABI` was raised, or there is a new kind of region, the missing images are made as empty
//! files, listed in `IMAGES`, and written by `cargo test --test layout -- --ignored`. Those that
//! there are stay.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::*};
use std::thread;

use crossproc::bytemuck::AnyBitPattern;
use crossproc::{
    Barrier, BatchQueue, BoundedSemaphore, Broadcast, BroadcastOptions, ByteQueue, Condition,
    Event, Fixed, JoinableQueue, Lock, LockError, Once, Permits, Queue, QueueError, QueueOptions,
    RLock, RegionError, RwLock, Semaphore, Shm, Wait, shared,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

// Where the header has these: see `docs/layout.md`.
const ABI: usize = 8;
const NAMESPACE: core::ops::Range<usize> = 16..32;

macro_rules! images {
    ($($folder:literal: $($image:literal)*;)*) => {
        &[$($((
            $folder,
            $image,
            include_str!(concat!("images/", $folder, "/", $image, ".txt")),
        ),)*)*]
    };
}

/// Folder, name and text of each image.
const IMAGES: &[(&str, &str, &str)] = images! {
    "abi-6-glibc": "lock.new" "lock.used" "slice.new" "slice.used" "struct.new" "struct.used"
        "queue.new" "queue.used" "bytes.new" "bytes.used" "batches.new" "batches.used"
        "joinable.new" "joinable.used";
    "abi-7-glibc": "lock.new" "lock.used" "slice.new" "slice.used" "struct.new" "struct.used"
        "queue.new" "queue.used" "bytes.new" "bytes.used" "long.new" "long.used" "batches.new"
        "batches.used" "joinable.new" "joinable.used" "broadcast.new" "broadcast.used";
    "abi-8-glibc": "lock.new" "lock.used" "slice.new" "slice.used" "table.new" "table.used"
        "readers.new" "readers.used" "struct.new" "struct.used" "queue.new" "queue.used"
        "bytes.new" "bytes.used" "long.new" "long.used" "batches.new" "batches.used"
        "joinable.new" "joinable.used" "broadcast.new" "broadcast.used";
    "abi-9-glibc": "lock.new" "lock.used" "slice.new" "slice.used" "table.new" "table.used"
        "readers.new" "readers.used" "struct.new" "struct.used" "queue.new" "queue.used"
        "bytes.new" "bytes.used" "long.new" "long.used" "batches.new" "batches.used"
        "joinable.new" "joinable.used" "broadcast.new" "broadcast.used";
    "abi-10-glibc": "lock.new" "lock.used" "slice.new" "slice.used" "table.new" "table.used"
        "readers.new" "readers.used" "struct.new" "struct.used" "queue.new" "queue.used"
        "bytes.new" "bytes.used" "long.new" "long.used" "batches.new" "batches.used"
        "joinable.new" "joinable.used" "broadcast.new" "broadcast.used";
};

/// A type of region.
struct Kind {
    name: &'static str,
    /// Makes a region whose bytes are the same each time: it has no padding.
    new: fn() -> OwnedFd,
    /// Makes a region and uses it in a thread that has ended.
    used: fn() -> OwnedFd,
    /// Attaches a region that was used, and goes on with it.
    go_on: fn(OwnedFd) -> Result<(), RegionError>,
}

const KINDS: &[Kind] = &[
    Kind { name: "lock", new: || file_of(&lock()), used: used_lock, go_on: go_on_with_lock },
    Kind { name: "slice", new: || file_of(&slice()), used: used_slice, go_on: go_on_with_slice },
    Kind { name: "table", new: || file_of(&table()), used: used_table, go_on: go_on_with_table },
    Kind {
        name: "readers",
        new: || file_of(&readers()),
        used: used_readers,
        go_on: go_on_with_readers,
    },
    Kind { name: "struct", new: || file_of(&board()), used: used_board, go_on: go_on_with_board },
    Kind { name: "queue", new: || file_of(&queue()), used: used_queue, go_on: go_on_with_queue },
    Kind { name: "bytes", new: || file_of(&bytes()), used: used_bytes, go_on: go_on_with_bytes },
    Kind { name: "long", new: || file_of(&long()), used: used_long, go_on: go_on_with_long },
    Kind {
        name: "batches",
        new: || file_of(&batches()),
        used: used_batches,
        go_on: go_on_with_batches,
    },
    Kind {
        name: "joinable",
        new: || file_of(&joinable()),
        used: used_joinable,
        go_on: go_on_with_joinable,
    },
    Kind {
        name: "broadcast",
        new: || file_of(&broadcast()),
        used: used_broadcast,
        go_on: go_on_with_broadcast,
    },
];

fn file_of(region: &impl AsFd) -> OwnedFd {
    region.as_fd().try_clone_to_owned().unwrap()
}

/// Runs `operations` in a thread that has ended when this returns: nothing in the region is a
/// living thread's.
fn in_a_thread(operations: impl FnOnce() + Send) {
    thread::scope(|scope| scope.spawn(operations).join().unwrap());
}

fn lock() -> Shm<Lock<u64>> {
    Shm::new(Lock::new(5)).unwrap()
}

fn used_lock() -> OwnedFd {
    let lock = lock();
    in_a_thread(|| *lock.lock().unwrap() += 2);
    file_of(&lock)
}

fn go_on_with_lock(file: OwnedFd) -> Result<(), RegionError> {
    let lock = Shm::<Lock<u64>>::attach(file)?;
    assert_eq!(*lock.lock().unwrap(), 7);
    let guard = lock.lock().unwrap();
    assert_eq!(lock.try_lock().unwrap_err(), LockError::Deadlock);
    drop(guard);
    Ok(())
}

fn slice() -> Shm<[Lock<u64>]> {
    Shm::from_fn(3, |index| Lock::new(index as u64)).unwrap()
}

/// The owner of the last lock has died.
fn used_slice() -> OwnedFd {
    let slice = slice();
    in_a_thread(|| {
        assert!(slice[2].acquire(Wait::FOREVER).is_ok());
    });
    file_of(&slice)
}

fn go_on_with_slice(file: OwnedFd) -> Result<(), RegionError> {
    let slice = Shm::<[Lock<u64>]>::attach(file)?;
    assert_eq!(slice.len(), 3);
    assert_eq!((*slice[0].lock().unwrap(), *slice[1].lock().unwrap()), (0, 1));
    assert_eq!(slice[2].try_lock().unwrap_err(), LockError::OwnerDied);
    assert_eq!(*slice[2].lock_or_repair(|value| *value += 10).unwrap(), 12);
    assert_eq!(*slice[2].lock().unwrap(), 12);
    Ok(())
}

fn table() -> Shm<Lock<[u16]>> {
    Shm::<Lock<[u16]>>::lock_from_fn(5, |index| index as u16).unwrap()
}

/// The owner has died.
fn used_table() -> OwnedFd {
    let table = table();
    in_a_thread(|| {
        table.lock().unwrap()[4] = 9;
        assert!(table.acquire(Wait::FOREVER).is_ok());
    });
    file_of(&table)
}

fn go_on_with_table(file: OwnedFd) -> Result<(), RegionError> {
    let table = Shm::<Lock<[u16]>>::attach(file)?;
    assert_eq!(table.try_lock().map(drop), Err(LockError::OwnerDied));
    drop(table.lock_or_repair(|all| all[0] = 7).unwrap());
    assert_eq!(*table.lock().unwrap(), [7, 1, 2, 3, 9]);
    Ok(())
}

fn readers() -> Shm<RwLock<[u64], 2>> {
    Shm::<RwLock<[u64], 2>>::rw_lock_from_fn(3, |index| index as u64).unwrap()
}

fn used_readers() -> OwnedFd {
    let readers = readers();
    in_a_thread(|| {
        readers.write().unwrap()[2] = 9;
        assert_eq!(readers.read().unwrap()[2], 9);
    });
    file_of(&readers)
}

fn go_on_with_readers(file: OwnedFd) -> Result<(), RegionError> {
    let readers = Shm::<RwLock<[u64], 2>>::attach(file)?;
    assert_eq!(*readers.read().unwrap(), [0, 1, 9]);
    readers.write().unwrap()[0] = 7;
    assert_eq!(*readers.read().unwrap(), [7, 1, 9]);
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, AnyBitPattern)]
#[bytemuck(crate = "crossproc::bytemuck")]
#[repr(C)]
struct Place {
    x: f64,
    y: f64,
}

shared! {
    /// One of each primitive.
    #[derive(Debug)]
    struct Board {
        place: Lock<Place>,
        nested: RLock<u64>,
        readers: RwLock<u64, 4>,
        once: Once,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        permits: Permits<3>,
        event: Event,
        condition: Condition,
        barrier: Barrier,
        limit: Fixed<[u16; 2]>,
        cells: [AtomicU16; 2],
        last: AtomicU64,
    }
}

fn board() -> Shm<Board> {
    Shm::new_in_place(|board: &mut Board| {
        *board.place.get_mut() = Place { x: 1.0, y: 2.0 };
        *board.nested.get_mut() = 3;
        *board.readers.get_mut() = 4;
        board.semaphore = Semaphore::new(3);
        board.bounded = BoundedSemaphore::new(5);
        board.barrier = Barrier::new(2);
        *board.limit.get_mut() = [6, 7];
        *board.cells[1].get_mut() = 8;
        *board.last.get_mut() = 9;
    })
    .unwrap()
}

fn used_board() -> OwnedFd {
    let board = board();
    in_a_thread(|| {
        board.place.lock().unwrap().y = 2.5;
        board.nested.lock().unwrap().set(3);
        assert_eq!(*board.readers.read().unwrap(), 4);
        *board.readers.write().unwrap() = 4;
        board.once.call_once(|_| ()).unwrap();
        board.semaphore.acquire();
        board.bounded.acquire();
        board.bounded.acquire();
        drop(board.permits.acquire().unwrap());
        board.event.set();
        board.condition.notify_all();
        assert!(board.barrier.arrive().is_ok());
        board.cells[0].store(10, Relaxed);
    });
    file_of(&board)
}

fn go_on_with_board(file: OwnedFd) -> Result<(), RegionError> {
    let board = Shm::<Board>::attach(file)?;
    assert_eq!(*board.place.lock().unwrap(), Place { x: 1.0, y: 2.5 });
    assert_eq!(board.nested.lock().unwrap().get(), 3);
    assert_eq!(*board.readers.read().unwrap(), 4);
    assert_eq!(*board.readers.write().unwrap(), 4);
    assert!(board.once.is_completed());
    board.once.call_once(|_| unreachable!("it was done before")).unwrap();
    assert_eq!(board.semaphore.value(), 2);
    assert_eq!((board.bounded.value(), board.bounded.bound()), (3, 5));
    board.bounded.release_many(2).unwrap();
    board.bounded.release().unwrap_err();
    assert_eq!(board.permits.value(), 3);
    drop(board.permits.acquire().unwrap());
    assert!(board.event.is_set());
    board.event.wait();
    let mut guard = board.place.lock().unwrap();
    board.condition.wait_timeout(&mut guard, core::time::Duration::ZERO).unwrap_err();
    drop(guard);
    assert_eq!((board.barrier.parties(), board.barrier.n_waiting()), (2, 1));
    board.barrier.wait().unwrap();
    assert_eq!(board.limit.get(), [6, 7]);
    assert_eq!((board.cells[0].load(Relaxed), board.cells[1].load(Relaxed)), (10, 8));
    assert_eq!(board.last.load(Relaxed), 9);
    Ok(())
}

fn options() -> QueueOptions {
    QueueOptions::new().participants(2).loans(1)
}

fn queue() -> Queue<u64> {
    options().create(4).unwrap()
}

/// Each place in the ring was used more than once.
fn used_queue() -> OwnedFd {
    let queue = queue();
    in_a_thread(|| {
        for number in 0..10 {
            queue.put(number).unwrap();
            if number >= 3 {
                queue.get().unwrap();
            }
        }
    });
    file_of(&queue)
}

fn go_on_with_queue(file: OwnedFd) -> Result<(), RegionError> {
    let queue = Queue::<u64>::attach(file)?;
    assert_eq!((queue.capacity(), queue.len()), (4, 3));
    queue.put(10).unwrap();
    assert!(queue.try_put(11).is_err());
    assert_eq!([(); 4].map(|()| queue.get().unwrap()), [7, 8, 9, 10]);
    assert!(matches!(queue.try_get(), Err(QueueError::Empty)));
    Ok(())
}

fn bytes() -> ByteQueue {
    options().create_bytes(3, 21).unwrap()
}

fn used_bytes() -> OwnedFd {
    let bytes = bytes();
    in_a_thread(|| {
        for message in [&b"gone"[..], b"", b"one", b"twenty-one bytes here"] {
            bytes.put(message).unwrap();
            if message == b"gone" {
                bytes.get().unwrap();
            }
        }
    });
    file_of(&bytes)
}

fn go_on_with_bytes(file: OwnedFd) -> Result<(), RegionError> {
    let bytes = ByteQueue::attach(file)?;
    assert_eq!((bytes.capacity(), bytes.len(), bytes.max_len()), (3, 3, 21));
    let messages = [(); 3].map(|()| bytes.get().unwrap());
    assert_eq!(messages, [&b""[..], b"one", b"twenty-one bytes here"]);
    bytes.put(b"two").unwrap();
    assert_eq!(bytes.get().unwrap(), b"two");
    Ok(())
}

fn long() -> ByteQueue {
    options().long_messages(5_000, 12_288).create_bytes(3, 21).unwrap()
}

/// One block is free and keeps a page, one has a message of two pages.
fn used_long() -> OwnedFd {
    let long = long();
    in_a_thread(|| {
        long.put(&[1; 100]).unwrap();
        long.put(&[2; 5_000]).unwrap();
        long.put(b"short").unwrap();
        assert_eq!(long.get().unwrap(), [1; 100]);
    });
    file_of(&long)
}

fn go_on_with_long(file: OwnedFd) -> Result<(), RegionError> {
    let long = ByteQueue::attach(file)?;
    assert_eq!((long.capacity(), long.len(), long.max_len()), (3, 2, 5_000));
    long.put(&[3; 22]).unwrap();
    assert_eq!(long.get().unwrap(), [2; 5_000]);
    assert_eq!(long.get().unwrap(), b"short");
    long.put(&[4; 5_000]).unwrap();
    assert!(matches!(long.try_put(&[5; 22]), Err(QueueError::Full)), "there is no memory left");
    assert_eq!(long.get().unwrap(), [3; 22]);
    assert_eq!(long.get().unwrap(), [4; 5_000]);
    Ok(())
}

fn batches() -> BatchQueue<u64> {
    options().create_batches(3, 4).unwrap()
}

/// One item of the first batch is gone.
fn used_batches() -> OwnedFd {
    let batches = batches();
    in_a_thread(|| {
        batches.put_many(&[1, 2, 3, 4]).unwrap();
        batches.put(5).unwrap();
        assert_eq!(batches.get().unwrap(), 1);
    });
    file_of(&batches)
}

fn go_on_with_batches(file: OwnedFd) -> Result<(), RegionError> {
    let batches = BatchQueue::<u64>::attach(file)?;
    assert_eq!((batches.capacity(), batches.len(), batches.max_batch()), (3, 2, 4));
    assert_eq!(batches.get().unwrap(), 2);
    assert_eq!(batches.receive().unwrap()[..], [3, 4]);
    batches.put_many(&[6, 7]).unwrap();
    let mut numbers = Vec::new();
    while numbers.len() < 3 {
        batches.get_many(&mut numbers, 3).unwrap();
    }
    assert_eq!(numbers, [5, 6, 7]);
    Ok(())
}

fn joinable() -> JoinableQueue<u64> {
    options().attempts(NonZeroU32::new(2), 1).create_joinable(4).unwrap()
}

/// One task was done, one failed twice and is a dead letter, one failed once.
fn used_joinable() -> OwnedFd {
    let joinable = joinable();
    in_a_thread(|| {
        joinable.put_many(&[0, 1, 2, 3]).unwrap();
        joinable.get().unwrap().done();
        for failing in [1, 1, 2] {
            assert_eq!(*joinable.get().unwrap(), failing);
        }
    });
    file_of(&joinable)
}

fn go_on_with_joinable(file: OwnedFd) -> Result<(), RegionError> {
    let joinable = JoinableQueue::<u64>::attach(file)?;
    assert_eq!((joinable.unfinished(), joinable.dead_letters()), (2, 1));
    joinable.put(4).unwrap();
    for (number, attempts) in [(2, 2), (3, 1), (4, 1)] {
        let task = joinable.get().unwrap();
        assert_eq!((*task, task.attempts()), (number, attempts));
        task.done();
    }
    joinable.join().unwrap();
    assert_eq!(*joinable.dead_letter().unwrap(), 1);
    Ok(())
}

fn broadcast() -> Broadcast<u64> {
    BroadcastOptions::new().participants(4).create(2).unwrap()
}

/// Three items were sent. A subscriber has read the first, and has died.
fn used_broadcast() -> OwnedFd {
    let broadcast = broadcast();
    in_a_thread(|| {
        let mut subscriber = broadcast.subscribe().unwrap();
        broadcast.send(5).unwrap();
        assert_eq!(subscriber.recv().unwrap(), 5);
        broadcast.send(6).unwrap();
        broadcast.send(7).unwrap();
        std::mem::forget(subscriber);
    });
    file_of(&broadcast)
}

fn go_on_with_broadcast(file: OwnedFd) -> Result<(), RegionError> {
    let broadcast = Broadcast::<u64>::attach(file)?;
    assert_eq!((broadcast.capacity(), broadcast.subscribers()), (2, 0));
    broadcast.send(8).unwrap();
    let mut subscriber = broadcast.subscribe_from_oldest().unwrap();
    assert_eq!((subscriber.recv().unwrap(), subscriber.recv().unwrap()), (7, 8));
    broadcast.send(9).unwrap();
    assert_eq!(subscriber.recv().unwrap(), 9);
    Ok(())
}

fn bytes_of(file: OwnedFd) -> Vec<u8> {
    let file = File::from(file);
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Returns a sealed memfd with these bytes.
fn memfd(bytes: &[u8]) -> OwnedFd {
    let file = File::from(memfd_create(c"image", MemfdFlags::ALLOW_SEALING).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    file.into()
}

/// Returns the bytes as text: how many there are, then each sixteen with their offset, but for
/// zeros.
fn text_of(bytes: &[u8]) -> String {
    let mut text = format!("{} bytes\n", bytes.len());
    for (index, line) in bytes.chunks(16).enumerate().filter(|(_, line)| **line != [0; 16]) {
        write!(text, "{:06x}", index * 16).unwrap();
        line.iter().for_each(|byte| write!(text, " {byte:02x}").unwrap());
        text.push('\n');
    }
    text
}

fn of_text(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let len = lines.next().unwrap().strip_suffix(" bytes").unwrap().parse().unwrap();
    let mut bytes = vec![0; len];
    let number = |word: &str| usize::from_str_radix(word, 16).unwrap();
    for line in lines {
        let mut words = line.split(' ');
        let at = number(words.next().unwrap());
        words.enumerate().for_each(|(index, word)| bytes[at + index] = number(word) as u8);
    }
    bytes
}

fn abi_of(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(bytes[ABI..ABI + 4].try_into().unwrap())
}

/// Returns the folder of the images of this program's ABI.
fn own_folder() -> String {
    folder_of(abi_of(&bytes_of(file_of(&lock()))))
}

fn folder_of(abi: u32) -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "glibc" };
    format!("abi-{abi}-{libc}")
}

/// Returns the bytes of an image, as if this process's pid namespace were that of its maker.
fn image(folder: &str, name: &str) -> Option<Vec<u8>> {
    let (.., text) = IMAGES.iter().find(|image| (image.0, image.1) == (folder, name))?;
    let mut bytes = of_text(text);
    let namespace = fs::metadata("/proc/self/ns/pid").unwrap();
    let numbers = [namespace.dev(), namespace.ino()].map(u64::to_ne_bytes);
    bytes[NAMESPACE].copy_from_slice(&numbers.concat());
    Some(bytes)
}

/// Returns the image of a region of this program's ABI.
fn own_image(kind: &Kind, state: &str) -> Option<Vec<u8>> {
    let name = format!("{}.{state}", kind.name);
    let folder = own_folder();
    let image = image(&folder, &name);
    // A lock is laid out as the libc's own: the images of musl are written where there is musl.
    let is_needed = cfg!(not(target_env = "musl"));
    assert!(
        image.is_some() || !is_needed,
        "there is no image {folder}/{name}: see the top of this file"
    );
    image
}

#[test]
fn a_region_of_an_earlier_program_is_attached_and_used() {
    for kind in KINDS {
        let Some(bytes) = own_image(kind, "used") else { return };
        println!("{}", kind.name);
        (kind.go_on)(memfd(&bytes)).unwrap();
    }
}

#[test]
fn a_new_region_has_the_bytes_that_an_earlier_program_gave_it() {
    for kind in KINDS {
        let Some(bytes) = own_image(kind, "new") else { return };
        let now = bytes_of((kind.new)());
        assert!(now == bytes, "{} is now:\n{}and was:\n{}", kind.name, text_of(&now), {
            text_of(&bytes)
        });
    }
}

#[test]
fn a_region_of_another_abi_is_refused_by_the_error_that_names_it() {
    for kind in KINDS {
        let own = bytes_of((kind.used)());
        let expected = abi_of(&own);
        let refused = |bytes: &[u8], other: u32| match (kind.go_on)(memfd(bytes)) {
            Err(error @ RegionError::OtherAbi { found, expected: own }) => {
                assert_eq!((found, own), (other, expected));
                let text = format!("ABI {found}, this program has {expected}");
                assert!(error.to_string().contains(&text), "{error}");
            }
            result => panic!("{}: {result:?}", kind.name),
        };
        for other in [0, expected - 1, expected + 1, u32::MAX] {
            let mut bytes = own.clone();
            bytes[ABI..ABI + 4].copy_from_slice(&other.to_ne_bytes());
            refused(&bytes, other);
        }
        for earlier in 0..expected {
            if let Some(bytes) = image(&folder_of(earlier), &format!("{}.used", kind.name)) {
                refused(&bytes, earlier);
            }
        }
    }
}

#[test]
#[ignore = "writes the images that are missing"]
fn images_that_are_missing_are_written() {
    let folder = own_folder();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(&folder);
    fs::create_dir_all(&path).unwrap();
    let mut written = 0;
    for kind in KINDS {
        for (state, make) in [("new", kind.new), ("used", kind.used)] {
            let path = path.join(format!("{}.{state}.txt", kind.name));
            // What has an image stays as it is.
            if path.metadata().is_ok_and(|file| file.len() != 0) {
                continue;
            }
            let mut bytes = bytes_of(make());
            bytes[NAMESPACE].fill(0);
            let text = text_of(&bytes);
            assert_eq!(of_text(&text), bytes);
            fs::write(path, text).unwrap();
            written += 1;
        }
    }
    assert_ne!(written, 0, "all images of {folder} are there: for another layout, raise `ABI`");
}
