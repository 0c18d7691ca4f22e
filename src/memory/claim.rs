//! What this process believes of each region that it has a handle to.
//!
//! A region says of itself what it holds, and every participant can write there. A process that
//! believed it anew at each attach could be told of a lock first, and of another lock's plain data
//! in the same place later. It would have a `&mut` to words that it uses as atomics. So the first
//! handle decides: as long as this process has one, whatever it attaches is compared with what it
//! believed then.
//!
//! # How
//! A [`Claim`] for each region is in a list, by device and inode. A handle keeps its file, so the
//! inode is no other file's meanwhile. One thread at a time changes a list, under a lock that a
//! forked child has anew. Each change is one store, so a child finds the lists whole, with what it
//! has inherited. Claims are never freed, but used again.

#![allow(unsafe_code)]

use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
use std::io;
use std::sync::{Mutex, PoisonError};

use super::per_process::PerProcess;

const LISTS: usize = 256;

static ALL: [AtomicPtr<Claim>; LISTS] = [const { AtomicPtr::new(ptr::null_mut()) }; LISTS];

/// Held by who changes a list, or what is said of the contents.
static CHANGING: PerProcess<Mutex<()>> = PerProcess::new();

/// Which file it is: device and inode.
pub(crate) type Identity = [u64; 2];

/// What a header says of the contents: size, alignment and fingerprint of the elements, and how
/// many there are.
pub(crate) type Said = [u64; 4];

/// The most numbers that contents say of themselves.
const NUMBERS: usize = 16;

#[derive(Debug)]
struct Claim {
    /// How many handles there are. Release where the claim is made, and where a handle goes: pair
    /// with the Acquire of the thread that finds it.
    handles: AtomicUsize,
    /// Relaxed, as all that follows: read and written by who has a handle, or by who has the lock
    /// while there is none.
    identity: [AtomicU64; 2],
    said: [AtomicU64; 4],
    /// 1 if the contents have said something of themselves.
    is_numbered: AtomicU32,
    numbers: [AtomicU64; NUMBERS],
    /// Never changes.
    next: *mut Claim,
}

/// A handle's belief.
#[derive(Debug)]
pub(crate) struct Belief(&'static Claim);

// SAFETY: everything but `next` is atomic, and that never changes.
unsafe impl Sync for Claim {}

impl Belief {
    /// Returns what this process believes of a file, of which the header says this by now: what it
    /// has believed since its first handle, if it has one.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn of(identity: Identity, said: Said) -> io::Result<Self> {
        let _changing = CHANGING.get()?.lock().unwrap_or_else(PoisonError::into_inner);
        let list = &ALL[identity[1] as usize % LISTS];
        let mut free = None;
        let mut at = list.load(Relaxed);
        // SAFETY: null, or a claim, which is never freed.
        while let Some(claim) = unsafe { at.as_ref() } {
            if claim.is_of(identity) && claim.take() {
                return Ok(Belief(claim));
            }
            if claim.handles.load(Acquire) == 0 {
                free = Some(claim);
            }
            at = claim.next;
        }
        let claim = free.unwrap_or_else(|| Claim::add(list));
        store(&claim.identity, &identity);
        store(&claim.said, &said);
        claim.is_numbered.store(0, Relaxed);
        claim.handles.store(1, Release);
        Ok(Belief(claim))
    }

    /// Returns what the header said.
    pub(crate) fn said(&self) -> Said {
        self.0.said.each_ref().map(|number| number.load(Relaxed))
    }

    /// Returns whether contents that say these numbers of themselves have said the same each time
    /// since this process has a handle.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn agrees(&self, numbers: &[u64]) -> io::Result<bool> {
        let Belief(claim) = self;
        let _changing = CHANGING.get()?.lock().unwrap_or_else(PoisonError::into_inner);
        if claim.is_numbered.load(Relaxed) == 0 {
            store(&claim.numbers, numbers);
            claim.is_numbered.store(1, Relaxed);
        }
        let mut believed = claim.numbers.iter().zip(numbers);
        Ok(believed.all(|(believed, number)| believed.load(Relaxed) == *number))
    }
}

impl Drop for Belief {
    fn drop(&mut self) {
        self.0.handles.fetch_sub(1, Release);
    }
}

impl Claim {
    /// Adds a claim without handles to a list.
    fn add(list: &AtomicPtr<Claim>) -> &'static Claim {
        let claim: &'static Claim = Box::leak(Box::new(Claim {
            handles: AtomicUsize::new(0),
            identity: Default::default(),
            said: Default::default(),
            is_numbered: AtomicU32::new(0),
            numbers: Default::default(),
            next: list.load(Relaxed),
        }));
        // Release: a child's thread that finds it sees `next`.
        list.store(ptr::from_ref(claim).cast_mut(), Release);
        claim
    }

    fn is_of(&self, identity: Identity) -> bool {
        self.identity.each_ref().map(|number| number.load(Relaxed)) == identity
    }

    /// Adds a handle, unless there is none.
    fn take(&self) -> bool {
        let one_more = |handles: usize| (handles != 0).then(|| handles + 1);
        // Acquire: pairs with the Release in `of`.
        self.handles.fetch_update(Acquire, Relaxed, one_more).is_ok()
    }
}

fn store(to: &[AtomicU64], numbers: &[u64]) {
    to.iter().zip(numbers).for_each(|(to, number)| to.store(*number, Relaxed));
}
