//! The crate's surroundings: `/proc` with processes only, no `/proc` at all, a limit that it cannot
//! read, and a control group with a memory limit.

#![allow(unsafe_code)]

use std::error::Error;
use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::chroot;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use crossproc::{JoinableQueue, Lock, LockError, Queue, Shm, pipe, process};

mod forked;
mod refused;
use forked::{fork, join_all};
use refused::call;

fn ok(result: i32) {
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Mounts a `/proc` with these options, for the calling process alone.
fn mount_proc(options: &CStr) {
    // SAFETY: it takes flags.
    ok(unsafe { libc::unshare(libc::CLONE_NEWNS) });
    let nothing = std::ptr::null();
    // SAFETY: it reads strings.
    ok(unsafe {
        libc::mount(
            c"none".as_ptr(),
            c"/".as_ptr(),
            nothing,
            libc::MS_REC | libc::MS_PRIVATE,
            nothing.cast(),
        )
    });
    let proc = c"proc".as_ptr();
    // SAFETY: as above.
    ok(unsafe { libc::mount(proc, c"/proc".as_ptr(), proc, 0, options.as_ptr().cast()) });
}

/// Gives the calling process an empty file system.
fn chroot_to_nothing() {
    let nowhere =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("nothing-{}", std::process::id()));
    fs::create_dir(&nowhere).unwrap();
    if chroot(&nowhere).is_err() {
        // Without privileges, this takes a user namespace.
        // SAFETY: only this process is affected.
        ok(unsafe { libc::unshare(libc::CLONE_NEWUSER) });
        chroot(&nowhere).unwrap();
    }
    std::env::set_current_dir("/").unwrap();
    assert!(fs::read_dir("/").unwrap().next().is_none());
}

fn remove_nothing(of: u32) {
    fs::remove_dir(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("nothing-{of}")))
        .unwrap();
}

fn use_everything() {
    drop(Lock::new(1_u64).lock().unwrap());
    let few = Shm::<[AtomicU64]>::from_fn(1 << 16, |_| AtomicU64::new(0)).unwrap();
    let many = Shm::<[AtomicU64]>::from_fn(1 << 18, |_| AtomicU64::new(0)).unwrap();
    assert_eq!((few.len(), many.len()), (1 << 16, 1 << 18));
    drop(Queue::<[u8; 1 << 20]>::new(4).unwrap());
    let tasks = JoinableQueue::<u64>::new(4).unwrap();
    tasks.put(1).unwrap();
    tasks.get().unwrap().done();
    let (one, other) = pipe().unwrap();
    for len in [1 << 10, 1 << 21] {
        let sender = std::thread::spawn({
            let one = one.try_clone().unwrap();
            move || one.send(&vec![1; len]).unwrap()
        });
        assert_eq!(other.recv().unwrap().len(), len);
        sender.join().unwrap();
    }
}

#[test]
fn proc_with_processes_only() {
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: mounting /proc takes root");
        return;
    }
    join_all([fork(|| {
        mount_proc(c"subset=pid");
        assert!(fs::metadata("/proc/self/task").is_ok() && fs::metadata("/proc/meminfo").is_err());
        use_everything();
        join_all([process::fork(|| drop(Lock::new(1_u64).lock().unwrap())).unwrap()]);
    })]);
}

#[test]
fn no_proc_after_chroot() {
    let child = fork(|| {
        drop(Lock::new(1_u64).lock().unwrap());
        chroot_to_nothing();
        use_everything();
        std::thread::spawn(use_everything).join().unwrap();
    });
    let pid = child.id();
    join_all([child]);
    remove_nothing(pid);
}

/// Returns whether the kernel tells the namespace without `/proc`.
fn has_namespace_by_pidfd() -> bool {
    // SAFETY: it takes numbers.
    let this_process = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) } as i32;
    // SAFETY: a request without an argument. The descriptor that it returns stays open: this is a
    // test.
    unsafe { libc::ioctl(this_process, 0xff05, 0) != -1 }
}

/// Asserts that the error says what to do where neither `/proc` nor the kernel tells the namespace.
fn says_what_to_do(error: &dyn Error) {
    let text = error.to_string();
    assert!(text.contains("its pid namespace") && text.contains("Mount /proc"), "{text}");
    assert!(error.source().is_some(), "there is a reason");
}

#[test]
fn no_proc_from_the_beginning() {
    let child = fork(|| {
        let is_told = has_namespace_by_pidfd();
        chroot_to_nothing();
        match std::panic::catch_unwind(|| {
            Shm::new(Lock::new(1_u64)).map(|lock| drop(lock.lock().unwrap()))
        }) {
            Ok(Ok(())) if is_told => use_everything(),
            Ok(Err(error)) if !is_told => says_what_to_do(&error),
            unexpected => panic!("{unexpected:?}, the kernel tells: {is_told}"),
        }
    });
    let pid = child.id();
    join_all([child]);
    remove_nothing(pid);
}

/// Kernels before 6.11 do not tell it either.
#[test]
fn no_proc_and_nobody_else_who_tells_is_an_error_that_says_so() {
    let child = fork(|| {
        refused::refuse(&[call(libc::SYS_ioctl, libc::ENOTTY).if_argument(1, 0xff05)]);
        chroot_to_nothing();
        for _ in 0..2 {
            says_what_to_do(&Shm::new(Lock::new(1_u64)).unwrap_err());
            static LOCK: Lock<u64> = Lock::new(1);
            match LOCK.lock() {
                Err(LockError::Unavailable(error)) => says_what_to_do(&error),
                other => panic!("{:?}", other.map(|guard| *guard)),
            }
        }
    });
    let pid = child.id();
    join_all([child]);
    remove_nothing(pid);
}

#[test]
fn a_limit_that_cannot_be_read_is_none() {
    for errno in [libc::ENOSYS, libc::EPERM, libc::EACCES] {
        join_all([fork(move || {
            refused::refuse(&[call(libc::SYS_prlimit64, errno), call(libc::SYS_getrlimit, errno)]);
            use_everything();
        })]);
    }
}

/// A control group with a memory limit, if this machine has them and this process may make one.
struct Group(PathBuf);

impl Group {
    fn new(limit: u64) -> Option<Group> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let group = |controllers: &str| {
            let path = groups.lines().find_map(|line| {
                line.split_once(':')?.1.strip_prefix(controllers)?.strip_prefix(":/")
            })?;
            Some(path.to_owned())
        };
        let first = group("memory")
            .map(|path| (Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes"));
        let second = group("").map(|path| (Path::new("/sys/fs/cgroup").join(path), "memory.max"));
        [first, second].into_iter().flatten().find_map(|(parent, file)| {
            let made = parent.join(format!("crossproc-{}", std::process::id()));
            fs::create_dir(&made).ok()?;
            let made = Group(made);
            fs::write(made.0.join(file), limit.to_string()).ok()?;
            Some(made)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn the_limit_of_a_control_group_counts() {
    const LIMIT: u64 = 64 << 20;
    let Some(group) = Group::new(LIMIT) else {
        println!("NOT RUN: no control group with a limit of memory can be made here");
        return;
    };
    let members = group.0.join("cgroup.procs");
    join_all([fork(move || {
        fs::write(&members, std::process::id().to_string()).unwrap();
        let words =
            |bytes: u64| Shm::<[AtomicU64]>::from_fn((bytes / 8) as usize, |_| AtomicU64::new(1));
        let error = words(2 * LIMIT).expect_err("there is no room for it");
        assert!(error.to_string().contains("memory"), "{error}");
        assert_eq!(words(LIMIT / 4).unwrap().len() as u64, LIMIT / 32);
    })]);
}
