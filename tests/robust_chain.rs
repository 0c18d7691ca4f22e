//! The robust list as the kernel sees it, after each of many operations.

#![allow(unsafe_code)]

use core::ptr;

use crossproc::{Lock, LockError, Permits, RLock, RwLock, Shm};

/// The kernel's `struct robust_list_head`.
#[repr(C)]
struct Head {
    next: usize,
    futex_offset: isize,
    pending: usize,
}

/// Returns the entries of the calling thread's list.
fn chain() -> Vec<usize> {
    let (mut head, mut len): (*const Head, usize) = (ptr::null(), 0);
    assert_eq!(
        // SAFETY: it writes a pointer and a size.
        unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) },
        0
    );
    if head.is_null() {
        // With musl a thread has no list before its first lock.
        return Vec::new();
    }
    // SAFETY: libc's head of this thread's list.
    let Head { next, pending, .. } = unsafe { ptr::read(head) };
    assert_eq!(pending, 0, "nothing is pending between two operations");
    let mut entries = Vec::new();
    let mut at = next;
    while at != head.addr() {
        entries.push(at);
        assert!(entries.len() <= 2_048, "the kernel would not come to the end");
        // SAFETY: an entry of the list, which begins with the pointer to the next one.
        at = unsafe { ptr::with_exposed_provenance::<usize>(at).read() };
    }
    entries
}

fn range<T: ?Sized>(of: &T) -> (usize, usize) {
    (ptr::from_ref(of).cast::<u8>().addr(), size_of_val(of))
}

#[test]
fn all_that_is_held_is_in_the_list_once_and_nothing_else() {
    let locks: Shm<[Lock<u32>]> = Shm::from_fn(40, |_| Lock::new(0)).unwrap();
    let rlocks: Shm<[RLock<u32>]> = Shm::from_fn(20, |_| RLock::new(0)).unwrap();
    let rwlocks: Shm<[RwLock<u32, 4>]> = Shm::from_fn(10, |_| RwLock::new(0)).unwrap();
    let permits = Shm::new(Permits::<5>::new()).unwrap();
    let ranges = [range(&*locks), range(&*rlocks), range(&*rwlocks), range(&*permits)];
    let mut random = fastrand::Rng::with_seed(1);
    let (mut held, mut nested) = (Vec::new(), Vec::new());
    let (mut of_permits, mut writers, mut readers) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..30_000 {
        let takes = random.u32(..10) < if step / 3_000 % 2 == 0 { 7 } else { 3 };
        match (random.u32(..5), takes) {
            (0, true) => {
                let index = random.usize(..locks.len());
                let is_held = held.iter().any(|&(other, _)| other == index);
                match locks[index].try_lock() {
                    Ok(guard) if !is_held => held.push((index, guard)),
                    Err(LockError::Deadlock) if is_held => {}
                    result => panic!("{result:?}, held: {is_held}"),
                }
            }
            (1, true) => {
                let index = random.usize(..rlocks.len());
                nested.push((index, rlocks[index].lock().unwrap()));
                let depth = nested.iter().filter(|&&(other, _)| other == index).count();
                assert_eq!(rlocks[index].depth() as usize, depth);
            }
            (2, true) => of_permits.extend(permits.try_acquire()),
            (3, true) => writers.extend(rwlocks[random.usize(..rwlocks.len())].try_write()),
            (_, true) => readers.extend(rwlocks[random.usize(..rwlocks.len())].try_read()),
            (0, false) if !held.is_empty() => drop(held.swap_remove(random.usize(..held.len()))),
            (1, false) if !nested.is_empty() => {
                drop(nested.swap_remove(random.usize(..nested.len())));
            }
            (2, false) if !of_permits.is_empty() => {
                drop(of_permits.swap_remove(random.usize(..of_permits.len())));
            }
            (3, false) if !writers.is_empty() => {
                drop(writers.swap_remove(random.usize(..writers.len())));
            }
            (4, false) if !readers.is_empty() => {
                drop(readers.swap_remove(random.usize(..readers.len())));
            }
            _ => {}
        }
        let mut entries = chain();
        let length = entries.len();
        entries.sort_unstable();
        entries.dedup();
        assert_eq!(entries.len(), length, "each is there once");
        let is_ours =
            |entry: &&usize| ranges.iter().any(|&(start, len)| entry.wrapping_sub(start) < len);
        let mut indices: Vec<usize> = nested.iter().map(|&(index, _)| index).collect();
        indices.sort_unstable();
        indices.dedup();
        let expected =
            held.len() + indices.len() + of_permits.len() + writers.len() + readers.len();
        assert_eq!(entries.iter().filter(is_ours).count(), expected, "step {step}");
    }
    drop((held, nested, of_permits, writers, readers));
    assert!(chain().len() <= 3, "two sentinels and what they need");
}
