//! The crate's locks and libc's robust mutexes in one thread's robust list. All are recovered, in
//! whatever order they are taken, and whatever ends the thread.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::thread;

use crossproc::{Event, Fingerprint, Lock, Shared, Shm, Wait, shared};

mod forked;
use forked::{PATIENCE, fork, kill};

const EACH: usize = 3;

/// libc's robust, process-shared mutex.
#[repr(transparent)]
struct PthreadMutex(UnsafeCell<MaybeUninit<libc::pthread_mutex_t>>);

// SAFETY: only libc accesses the mutex, and libc synchronises its accesses.
unsafe impl Sync for PthreadMutex {}
// SAFETY: for this test: the mutex is process-shared, its bytes are in an `UnsafeCell`, and only
// libc looks at them.
unsafe impl Shared for PthreadMutex {
    fn layout(to: &mut Fingerprint) {
        to.name("pthread_mutex_t");
    }
}

impl PthreadMutex {
    const fn uninit() -> Self {
        PthreadMutex(UnsafeCell::new(MaybeUninit::uninit()))
    }

    fn at(&self) -> *mut libc::pthread_mutex_t {
        self.0.get().cast()
    }

    fn init(&self) {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialises the attributes.
        unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
        // SAFETY: initialised above.
        unsafe {
            libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST)
        };
        // SAFETY: initialised above.
        unsafe {
            libc::pthread_mutexattr_setpshared(
                attributes.as_mut_ptr(),
                libc::PTHREAD_PROCESS_SHARED,
            )
        };
        // SAFETY: initialises the mutex where it stays.
        assert_eq!(unsafe { libc::pthread_mutex_init(self.at(), attributes.as_ptr()) }, 0);
    }

    fn lock(&self) -> i32 {
        // SAFETY: initialised by `init`.
        unsafe { libc::pthread_mutex_lock(self.at()) }
    }

    fn unlock(&self) {
        // SAFETY: initialised by `init`, and locked by this thread.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(self.at()) }, 0);
    }

    /// Locks the mutex, declares it consistent if its owner died, and unlocks it. Returns whether
    /// the last owner died.
    fn recover(&self) -> bool {
        let result = self.lock();
        if result == libc::EOWNERDEAD {
            // SAFETY: locked by this thread.
            assert_eq!(unsafe { libc::pthread_mutex_consistent(self.at()) }, 0);
        } else {
            assert_eq!(result, 0);
        }
        self.unlock();
        result == libc::EOWNERDEAD
    }
}

shared! {
    struct Both {
        theirs: [PthreadMutex; EACH],
        ours: [Lock<u64>; EACH],
        ready: Event,
    }
}

/// Takes all locks in one order: bit k of the pattern says whether the k-th is one of ours. Then
/// unlocks and locks again every second one.
fn take_all(both: &Both, pattern: u32) {
    let (mut ours, mut theirs) = (both.ours.iter(), both.theirs.iter());
    for step in 0..2 * EACH {
        if pattern >> step & 1 == 1 {
            // The lock is taken without a guard: a thread may end while it holds it.
            let _ = ours.next().unwrap().acquire(Wait::FOREVER).unwrap();
        } else {
            assert_eq!(theirs.next().unwrap().lock(), 0);
        }
    }
    // These are in the middle of the list: libc unlinks next to our sentinels.
    both.theirs[1].unlock();
    both.theirs[0].unlock();
    assert_eq!(both.theirs[0].lock(), 0);
    assert_eq!(both.theirs[1].lock(), 0);
}

fn patterns() -> impl Iterator<Item = u32> {
    (0..1_u32 << (2 * EACH)).filter(|pattern| pattern.count_ones() as usize == EACH)
}

fn new() -> Shm<Both> {
    let both = Shm::new(Both {
        theirs: [const { PthreadMutex::uninit() }; EACH],
        ours: [const { Lock::new(0) }; EACH],
        ready: Event::new(),
    })
    .unwrap();
    both.theirs.iter().for_each(PthreadMutex::init);
    both
}

fn assert_all_are_recovered(both: &Both, pattern: u32) {
    for (index, lock) in both.ours.iter().enumerate() {
        let guard = lock.lock_unrepaired(Wait::timeout(PATIENCE)).unwrap();
        assert!(guard.is_inconsistent(), "ours, {index}, in pattern {pattern:06b}");
        drop(guard.recover());
    }
    for (index, mutex) in both.theirs.iter().enumerate() {
        assert!(mutex.recover(), "libc's, {index}, in pattern {pattern:06b}");
    }
}

#[test]
fn all_are_recovered_after_sigkill() {
    for pattern in patterns() {
        let both = new();
        let theirs = both.clone();
        let child = fork(move || -> () {
            take_all(&theirs, pattern);
            theirs.ready.set();
            loop {
                thread::park();
            }
        });
        both.ready.wait_timeout(PATIENCE).unwrap();
        kill(&child);
        assert_all_are_recovered(&both, pattern);
    }
}

#[test]
fn all_are_recovered_after_the_thread_ends() {
    for pattern in patterns() {
        let both = new();
        thread::scope(|scope| scope.spawn(|| take_all(&both, pattern)).join().unwrap());
        assert_all_are_recovered(&both, pattern);
    }
}

#[test]
fn all_are_recovered_after_exec() {
    for pattern in patterns() {
        let both = new();
        let theirs = both.clone();
        let child = fork(move || -> i32 {
            take_all(&theirs, pattern);
            let program = CString::new("/bin/cat").unwrap();
            let arguments = [program.as_ptr(), c"/dev/zero".as_ptr(), std::ptr::null()];
            // The program's output goes nowhere. It runs until it is killed.
            // SAFETY: opens a file.
            let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY) };
            // SAFETY: both are descriptors of this process.
            unsafe { libc::dup2(null, 1) };
            theirs.ready.set();
            // SAFETY: a null-terminated list of strings that stay alive until the call.
            unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) };
            1
        });
        both.ready.wait_timeout(PATIENCE).unwrap();
        assert_all_are_recovered(&both, pattern);
        assert!(child.is_alive().unwrap(), "freed by exec, not by the end of the process");
        kill(&child);
    }
}
