//! Shared memory: what two mappings have in common, and what `attach` refuses.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

use crossproc::{Event, Fixed, Lock, LockError, RegionError, Shm, pipe, shared};
use crossproc_sys::memory::Mapping;
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fstat, memfd_create, statfs,
};

mod forked;
mod refused;
use forked::{enter_pid_namespace, fork, join_all};

shared! {
    #[derive(Debug)]
    struct Board {
        hits: Lock<u64>,
        ready: Event,
        limit: Fixed<u32>,
        cells: [AtomicU32; 3],
    }
}

fn board() -> Shm<Board> {
    let cells = [1, 2, 3].map(AtomicU32::new);
    Shm::new(Board { hits: Lock::new(5), ready: Event::new(), limit: Fixed::new(9), cells })
        .unwrap()
}

fn descriptor_of(region: &impl AsFd) -> OwnedFd {
    region.as_fd().try_clone_to_owned().unwrap()
}

#[test]
fn two_mappings_are_one_memory() {
    let one = board();
    let other: Shm<Board> = Shm::attach(descriptor_of(&one)).unwrap();
    *one.hits.lock().unwrap() += 1;
    assert_eq!((*other.hits.lock().unwrap(), other.limit.get()), (6, 9));
    assert_ne!(&raw const *one, &raw const *other);
    let guard = one.hits.lock().unwrap();
    // The same lock at another address, with the same owner.
    assert!(matches!(other.hits.try_lock(), Err(LockError::Deadlock)));
    drop(guard);
    drop(one);
    other.ready.set();
    assert!(other.ready.is_set());
}

#[test]
fn a_slice_has_its_length_and_its_elements() {
    for len in [0, 1, 7, 4096, 100_000] {
        let one: Shm<[AtomicU64]> =
            Shm::from_fn(len, |index| AtomicU64::new(index as u64)).unwrap();
        let other: Shm<[AtomicU64]> = Shm::attach(descriptor_of(&one)).unwrap();
        assert_eq!(other.len(), len);
        assert!(
            other.iter().enumerate().all(|(index, element)| element.load(Relaxed) == index as u64)
        );
    }
}

#[test]
fn its_size_is_sealed_and_it_closes_on_exec() {
    let file = File::from(descriptor_of(&board()));
    let len = file.metadata().unwrap().len();
    assert!(file.set_len(0).is_err() && file.set_len(len * 2).is_err());
    let flags = rustix::io::fcntl_getfd(board().as_fd()).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

/// Returns a sealed memfd with these bytes.
fn memfd(bytes: &[u8]) -> OwnedFd {
    let file = File::from(memfd_create(c"test", MemfdFlags::ALLOW_SEALING).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    file.into()
}

fn bytes_of(region: &impl AsFd) -> Vec<u8> {
    let file = File::from(descriptor_of(region));
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Returns a copy of a region in which some bytes are changed.
fn altered(offset: usize, to: &[u8]) -> OwnedFd {
    let mut bytes = bytes_of(&board());
    bytes[offset..offset + to.len()].copy_from_slice(to);
    memfd(&bytes)
}

fn refused(file: OwnedFd) -> RegionError {
    let error = Shm::<Board>::attach(file).unwrap_err();
    println!("{error}");
    error
}

// Offsets in the header: see src/memory/region.rs.
const MAGIC: usize = 0;
const ABI: usize = 8;
const WORD: usize = 12;
const NAMESPACE_INODE: usize = 24;
const SIZE: usize = 32;
const COUNT: usize = 48;
const FINGERPRINT: usize = 56;
const INITIALISED: usize = 64;

#[test]
fn an_unaltered_copy_is_accepted() {
    let copy: Shm<Board> = Shm::attach(altered(0, &[])).unwrap();
    assert_eq!(*copy.hits.lock().unwrap(), 5);
}

#[test]
fn what_is_no_memfd_is_refused() {
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    assert!(matches!(refused(pipe), RegionError::NotMemfd));
    assert!(matches!(refused(File::open("/dev/null").unwrap().into()), RegionError::NotMemfd));
    // A file on a tmpfs looks just like a memfd, but is not sealed.
    let file = refused(File::open("/proc/self/exe").unwrap().into());
    let is_on_tmpfs = statfs("/proc/self/exe").unwrap().f_type == libc::TMPFS_MAGIC;
    let is_fitting = if is_on_tmpfs {
        matches!(file, RegionError::NotSealed { .. })
    } else {
        matches!(file, RegionError::NotMemfd)
    };
    assert!(is_fitting, "{file}, on a tmpfs: {is_on_tmpfs}");
}

#[test]
fn an_unsealed_memfd_is_refused() {
    let file = File::from(memfd_create(c"test", MemfdFlags::ALLOW_SEALING).unwrap());
    file.write_all_at(&bytes_of(&board()), 0).unwrap();
    fcntl_add_seals(&file, SealFlags::GROW).unwrap();
    assert!(matches!(
        refused(file.into()),
        RegionError::NotSealed { missing }
            if missing == "SEAL, SHRINK"
    ));
}

#[test]
fn a_memfd_with_other_seals_than_a_region_has_is_refused() {
    let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let refused_with = |more| {
        let file = File::from(memfd_create(c"test", MemfdFlags::ALLOW_SEALING).unwrap());
        file.write_all_at(&bytes_of(&board()), 0).unwrap();
        fcntl_add_seals(&file, sealed | more).unwrap();
        refused(file.into())
    };
    let error = refused_with(SealFlags::WRITE);
    assert!(matches!(&error, RegionError::OtherSeals { found } if found == "WRITE"), "{error:?}");
    assert!(matches!(refused_with(SealFlags::FUTURE_WRITE), RegionError::ReadOnly));
}

#[test]
fn a_seal_against_execution_alone_is_that_of_a_region() {
    // Since Linux 6.3 each region has this seal; earlier kernels have none.
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
    let Ok(file) = memfd_create(c"test", flags).map(File::from) else { return };
    file.write_all_at(&bytes_of(&board()), 0).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    Shm::<Board>::attach(file).unwrap();
}

/// The kernel's pool of huge pages: filled if that is allowed, and restored afterwards.
struct Pool(Option<String>);

const POOL: &str = "/proc/sys/vm/nr_hugepages";

impl Pool {
    fn with_some() -> Self {
        let before = std::fs::read_to_string(POOL).ok();
        let filled =
            before.filter(|before| before.trim() == "0" && std::fs::write(POOL, "2").is_ok());
        Pool(filled)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            std::fs::write(POOL, before).unwrap();
        }
    }
}

/// Returns a sealed memfd of one huge page, whether or not the pool has one.
fn huge() -> OwnedFd {
    let file = File::from(
        memfd_create(
            c"test",
            MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        )
        .unwrap(),
    );
    file.set_len(2 << 20).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    file.into()
}

#[test]
fn a_memfd_of_huge_pages_is_refused_before_it_is_mapped() {
    // Without a page in the pool, it could not be mapped.
    assert!(matches!(refused(huge()), RegionError::HugePages));
    let _pool = Pool::with_some();
    let file = huge();
    // With a page in the pool, it is a region in all other respects, until its maker punches a hole
    // and takes the page.
    if let Ok(mapping) = Mapping::new(&file, 2 << 20) {
        let bytes = bytes_of(&board());
        // SAFETY: that many bytes are mapped, and no other thread has them.
        unsafe {
            mapping
                .start()
                .copy_from_nonoverlapping(core::ptr::NonNull::from(&bytes[..]).cast(), bytes.len());
        };
        println!("with a huge page");
    }
    assert!(matches!(refused(file), RegionError::HugePages));
}

#[test]
fn a_region_with_a_hole_is_refused() {
    let region: Shm<[AtomicU64]> =
        Shm::from_fn(10_000, |index| AtomicU64::new(index as u64)).unwrap();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&region, flags, 8_192, 4_096).unwrap();
    let error = Shm::<[AtomicU64]>::attach(descriptor_of(&region)).map(drop).unwrap_err();
    assert!(matches!(error, RegionError::Holes { len: 84_096, allocated: 81_920 }), "{error}");
}

#[test]
fn a_short_region_is_refused() {
    assert!(matches!(refused(memfd(&[])), RegionError::TooShort { len: 0, needed: 4096 }));
    assert!(matches!(refused(memfd(&[0; 4095])), RegionError::TooShort { len: 4095, .. }));
    let whole = bytes_of(&board());
    assert!(matches!(refused(memfd(&whole[..whole.len() - 1])), RegionError::TooShort { .. }));
}

#[test]
fn a_slice_that_claims_to_be_longer_than_its_region_is_refused() {
    let slice: Shm<[AtomicU64]> = Shm::from_fn(4, |_| AtomicU64::new(0)).unwrap();
    for count in [5, u64::MAX, u64::MAX / 8 + 2, 1 << 61] {
        let mut bytes = bytes_of(&slice);
        bytes[COUNT..COUNT + 8].copy_from_slice(&count.to_ne_bytes());
        let error = Shm::<[AtomicU64]>::attach(memfd(&bytes)).unwrap_err();
        assert!(matches!(error, RegionError::TooShort { .. }), "{error}");
    }
}

#[test]
fn a_foreign_beginning_is_refused() {
    assert!(matches!(refused(altered(MAGIC, b"\x7fELF")), RegionError::ForeignMagic { .. }));
}

#[test]
fn another_abi_is_refused() {
    let error = refused(altered(ABI, &77_u32.to_ne_bytes()));
    assert!(matches!(error, RegionError::OtherAbi { found: 77, .. }));
}

#[test]
fn another_word_size_or_byte_order_is_refused() {
    assert!(matches!(
        refused(altered(WORD, &32_u32.to_ne_bytes())),
        RegionError::OtherWordSize { .. }
    ));
    let mut swapped = bytes_of(&board())[..8].to_vec();
    swapped.reverse();
    assert!(matches!(refused(altered(MAGIC, &swapped)), RegionError::OtherWordSize { .. }));
}

#[test]
fn another_pid_namespace_is_refused() {
    assert!(matches!(
        refused(altered(NAMESPACE_INODE, &[1])),
        RegionError::OtherPidNamespace { .. }
    ));
}

#[test]
fn an_unfinished_region_is_refused() {
    assert!(matches!(refused(altered(INITIALISED, &[0])), RegionError::NotInitialised));
    assert!(matches!(refused(memfd(&[0; 8192])), RegionError::NotInitialised));
}

shared! {
    #[derive(Debug)]
    struct OtherNames {
        hits: Lock<u64>,
        steady: Event,
        limit: Fixed<u32>,
        cells: [AtomicU32; 3],
    }
}

mod another_build {
    use super::*;

    shared! {
        #[derive(Debug)]
        pub(crate) struct Board {
            ready: Event,
            hits: Lock<u64>,
            limit: Fixed<u32>,
            cells: [AtomicU32; 3],
        }
    }
}

#[test]
fn another_layout_is_refused() {
    assert!(matches!(refused(altered(SIZE, &[1])), RegionError::OtherLayout { .. }));
    assert!(matches!(refused(altered(FINGERPRINT, &[1, 2, 3])), RegionError::OtherLayout { .. }));
    assert!(matches!(refused(altered(COUNT, &[0])), RegionError::OtherLayout { .. }));
    let other = |error| matches!(error, RegionError::OtherLayout { .. });
    assert!(other(Shm::<Event>::attach(descriptor_of(&board())).unwrap_err()));
    assert!(
        other(Shm::<OtherNames>::attach(descriptor_of(&board())).unwrap_err()),
        "fields of other names"
    );
    assert!(
        other(Shm::<another_build::Board>::attach(descriptor_of(&board())).unwrap_err()),
        "fields in another order"
    );
    assert!(
        other(Shm::<[Board]>::attach(descriptor_of(&board())).unwrap_err()),
        "a slice is not a value"
    );
    let one = Shm::new(AtomicU32::new(0)).unwrap();
    assert!(other(Shm::<AtomicU64>::attach(descriptor_of(&one)).unwrap_err()));
    assert!(other(Shm::<std::sync::atomic::AtomicI32>::attach(descriptor_of(&one)).unwrap_err()));
    let slice: Shm<[AtomicU32]> = Shm::from_fn(1, |_| AtomicU32::new(0)).unwrap();
    assert!(other(Shm::<AtomicU32>::attach(descriptor_of(&slice)).unwrap_err()));
    let plain = Shm::new(Lock::new([0_u32; 2])).unwrap();
    assert!(other(Shm::<Lock<u64>>::attach(descriptor_of(&plain)).unwrap_err()));
    assert!(other(Shm::<Lock<[i32; 2]>>::attach(descriptor_of(&plain)).unwrap_err()));
    assert!(Shm::<Lock<[u32; 2]>>::attach(descriptor_of(&plain)).is_ok());
}

#[test]
fn running_out_is_an_error_at_creation() {
    let error = Shm::<[AtomicU64]>::from_fn(usize::MAX / 4, |_| unreachable!("nothing is made"))
        .unwrap_err();
    assert!(matches!(error, RegionError::TooLarge { .. }), "{error}");
    // More than any machine has: the pages are allocated, not only promised.
    let error =
        Shm::<[AtomicU64]>::from_fn(1 << 50, |_| unreachable!("nothing is made")).unwrap_err();
    assert!(matches!(error, RegionError::Create { .. }), "{error}");
    join_all([fork(|| {
        rustix::process::setrlimit(
            rustix::process::Resource::Nofile,
            rustix::process::Rlimit { current: Some(3), maximum: Some(3) },
        )
        .unwrap();
        assert!(matches!(Shm::new(Event::new()), Err(RegionError::Create { .. })));
    })]);
}

#[test]
fn nothing_is_left_behind() {
    join_all([fork(|| {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mut maps = String::new();
        let before = open();
        for _ in 0..100 {
            let region = board();
            let again: Shm<Board> = Shm::attach(descriptor_of(&region)).unwrap();
            drop(Shm::<Event>::attach(descriptor_of(&again)));
            drop(Shm::<Board>::attach(File::open("/dev/null").unwrap()));
        }
        assert_eq!(open(), before);
        File::open("/proc/self/maps").unwrap().read_to_string(&mut maps).unwrap();
        // Mappings that other tests of this process have at the moment of the fork may be there. A
        // hundred of this test's may not.
        assert!(maps.matches("memfd:crossproc").count() < 50);
    })]);
}

#[test]
fn a_child_in_another_pid_namespace_can_neither_attach_nor_lock() {
    let region = board();
    join_all([fork(move || {
        enter_pid_namespace();
        join_all([fork(move || {
            let refused = Shm::<Board>::attach(descriptor_of(&region)).unwrap_err();
            assert!(matches!(refused, RegionError::OtherPidNamespace { .. }), "{refused}");
            let refused = region.hits.lock().unwrap_err();
            assert!(matches!(refused, LockError::Unavailable(_)), "{refused}");
        })]);
    })]);
}

/// The child has none of what its parent is about to write, and may attach once that is done.
#[test]
fn a_child_that_is_forked_while_memory_is_made_may_attach_to_it() {
    let (ours, theirs) = pipe().unwrap();
    let mut child = None;
    let made = Shm::<Event>::new_in_place(|_| {
        child = Some(fork(move || theirs.recv_handle::<Shm<Event>>().unwrap().wait()));
    });
    let made = made.unwrap();
    ours.send_handle(&made).unwrap();
    made.set();
    join_all(child);
}

/// A kernel may undo what a call has allocated at each signal.
#[test]
fn much_memory_is_allocated_in_small_pieces() {
    join_all([fork(|| {
        let refusal = refused::call(libc::SYS_fallocate, libc::EINTR);
        refused::refuse(&[refusal.if_masked(3, 1 << 25, 1 << 25)]);
        let numbers: Shm<[AtomicU64]> = Shm::slice_in_place(1 << 22, |_| ()).unwrap();
        assert_eq!(fstat(&numbers).unwrap().st_blocks * 512, 4_096 + (1 << 25));
    })]);
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_not_a_signal() {
    join_all([fork(|| {
        rustix::process::setrlimit(
            rustix::process::Resource::Fsize,
            rustix::process::Rlimit { current: Some(4096), maximum: Some(4096) },
        )
        .unwrap();
        assert!(matches!(Shm::new(Event::new()), Err(RegionError::Create { .. })));
    })]);
}

#[test]
fn memory_that_cannot_be_looked_at_is_not_attached_and_the_error_says_why() {
    join_all([fork(|| {
        let region = board();
        refused::refuse(&[
            refused::call(libc::SYS_fcntl, libc::EPERM).if_argument(1, libc::F_GET_SEALS as u32)
        ]);
        match Shm::<Board>::attach(region.as_fd().try_clone_to_owned().unwrap()) {
            Err(RegionError::Attach { source, .. }) => {
                assert_eq!(source.raw_os_error(), Some(libc::EPERM));
            }
            other => panic!("{other:?}"),
        }
    })]);
}

#[test]
fn memory_that_cannot_be_unmapped_stays_and_is_told_of_once() {
    let (said, stderr) = UnixStream::pair().unwrap();
    let end = stderr.try_clone().unwrap();
    let child = fork(move || {
        rustix::stdio::dup2_stderr(&stderr).unwrap();
        drop(stderr);
        let (one, other) = pipe().unwrap();
        other.send(&vec![1; 2 << 20]).unwrap();
        let message = one.recv().unwrap();
        let regions = [board(), board()];
        refused::refuse(&[refused::call(libc::SYS_munmap, libc::ENOMEM)]);
        drop(regions);
        drop(message);
    });
    join_all([child]);
    // Children that other tests have forked meanwhile hold copies of this end, too.
    end.shutdown(Shutdown::Write).unwrap();
    let said = std::io::read_to_string(said).unwrap();
    assert_eq!(said.matches("could not be unmapped").count(), 1, "{said}");
}
