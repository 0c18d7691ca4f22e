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

use crossproc_sys::per_process::{Current, PerProcess};

use super::shared::Field;

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
    /// While a process makes the region, its `CHANGING`; then null. The process has a `&mut` to all
    /// of it, and may not attach to it, though a peer has found it and written a header. A child
    /// that it forks meanwhile has none, and may. Release when it is made: pairs with the Acquire
    /// of who finds it so.
    maker: AtomicPtr<Current<Mutex<()>>>,
    /// Relaxed, as all that follows: read and written by who has a handle, or by who has the lock
    /// while there is none.
    identity: [AtomicU64; 2],
    said: [AtomicU64; 4],
    /// 1 if the contents have said something of themselves.
    is_numbered: AtomicU32,
    numbers: [AtomicU64; NUMBERS],
    /// Which fields it has: null, or a box. Who makes the claim anew, while there is no handle,
    /// drops the former one.
    fields: AtomicPtr<Vec<Field>>,
    /// Never changes.
    next: *mut Claim,
}

/// A handle's belief.
#[derive(Debug)]
pub(crate) struct Belief(&'static Claim);

// SAFETY: all is atomic but `next`, which never changes, and what `fields` points to, which is only
// read while there is a handle.
unsafe impl Sync for Claim {}

impl Belief {
    /// Returns what this process believes of a file whose header says this by now, and which has
    /// these fields: what it has believed since its first handle, if it has one. `None`: it is
    /// still making this region.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn of(identity: Identity, said: Said, fields: &[Field]) -> io::Result<Option<Self>> {
        let this_process = CHANGING.get()?;
        let _changing = this_process.lock().unwrap_or_else(PoisonError::into_inner);
        let belief = match Claim::find(identity) {
            Ok(known) => known,
            Err(free) => Claim::begin(free, None, identity, said, fields),
        };
        // Acquire: pairs with the Release in `made`.
        let maker = belief.0.maker.load(Acquire).cast_const();
        Ok(Some(belief).filter(|_| maker != ptr::from_ref(this_process)))
    }

    /// Returns what this process believes of a file that it is going to make a region of; until it
    /// is [`made`](Belief::made), that is nobody else's. `None`: it has a handle already, since a
    /// peer was faster.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn of_new(
        identity: Identity,
        said: Said,
        fields: &[Field],
    ) -> io::Result<Option<Self>> {
        let this_process = CHANGING.get()?;
        let _changing = this_process.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = |free| Claim::begin(free, Some(this_process), identity, said, fields);
        Ok(Claim::find(identity).err().map(begin))
    }

    /// Says that the region is made.
    pub(crate) fn made(&self) {
        // Release: pairs with the Acquire in `of`.
        self.0.maker.store(ptr::null_mut(), Release);
    }

    /// Returns what the header said.
    pub(crate) fn said(&self) -> Said {
        self.0.said.each_ref().map(|number| number.load(Relaxed))
    }

    /// Returns which fields the contents have.
    pub(crate) fn fields(&self) -> &[Field] {
        // SAFETY: null, or a box that is dropped only while there is no handle. This is one.
        unsafe { self.0.fields.load(Relaxed).as_ref() }.map_or(&[], Vec::as_slice)
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
    /// Returns the claim to a file, with one handle more. If there is none, returns a claim in the
    /// same list that has no handle, if there is one. The lock is held.
    fn find(identity: Identity) -> Result<Belief, Option<&'static Claim>> {
        let mut free = None;
        let mut at = list_of(identity).load(Relaxed);
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
        Err(free)
    }

    /// Makes a claim of a free one, or of a new one, with one handle. The lock is held.
    fn begin(
        free: Option<&'static Claim>,
        maker: Option<&'static Current<Mutex<()>>>,
        identity: Identity,
        said: Said,
        fields: &[Field],
    ) -> Belief {
        let claim = free.unwrap_or_else(|| Claim::add(list_of(identity)));
        store(&claim.identity, &identity);
        store(&claim.said, &said);
        claim.is_numbered.store(0, Relaxed);
        claim.replace(fields.to_vec());
        let maker = maker.map_or(ptr::null(), ptr::from_ref).cast_mut();
        claim.maker.store(maker, Relaxed);
        claim.handles.store(1, Release);
        Belief(claim)
    }

    /// Adds a claim without handles to a list.
    fn add(list: &AtomicPtr<Claim>) -> &'static Claim {
        let claim: &'static Claim = Box::leak(Box::new(Claim {
            handles: AtomicUsize::new(0),
            maker: AtomicPtr::new(ptr::null_mut()),
            identity: Default::default(),
            said: Default::default(),
            is_numbered: AtomicU32::new(0),
            numbers: Default::default(),
            fields: AtomicPtr::new(ptr::null_mut()),
            next: list.load(Relaxed),
        }));
        // Release: a child's thread that finds it sees `next`.
        list.store(ptr::from_ref(claim).cast_mut(), Release);
        claim
    }

    /// Replaces the fields. The lock is held, and there is no handle.
    fn replace(&self, fields: Vec<Field>) {
        let before = self.fields.swap(Box::into_raw(Box::new(fields)), Relaxed);
        if !before.is_null() {
            // SAFETY: it came from a box here, and nobody has a reference: those have handles.
            drop(unsafe { Box::from_raw(before) });
        }
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

fn list_of(identity: Identity) -> &'static AtomicPtr<Claim> {
    &ALL[identity[1] as usize % LISTS]
}

fn store(to: &[AtomicU64], numbers: &[u64]) {
    to.iter().zip(numbers).for_each(|(to, number)| to.store(*number, Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No file has it.
    fn identity(number: u64) -> Identity {
        [u64::MAX, number]
    }

    #[test]
    fn what_is_being_made_is_nobody_elses() {
        let (this, said) = (identity(1), [1; 4]);
        let of = || Belief::of(this, said, &[]).unwrap();
        let made = Belief::of_new(this, said, &[]).unwrap().unwrap();
        assert!(of().is_none());
        assert!(Belief::of_new(this, said, &[]).unwrap().is_none());
        made.made();
        assert!(of().is_some());
        // The claim is used again: what is made then is not made yet.
        drop(made);
        let again = Belief::of_new(this, said, &[]).unwrap().unwrap();
        assert!(of().is_none());
        drop(again);
        assert!(of().is_some());
    }

    #[test]
    fn a_file_that_is_known_is_not_new() {
        let known = Belief::of(identity(2), [1; 4], &[]).unwrap();
        assert!(known.is_some());
        assert!(Belief::of_new(identity(2), [2; 4], &[]).unwrap().is_none());
        drop(known);
        let new = Belief::of_new(identity(2), [2; 4], &[]).unwrap().unwrap();
        assert_eq!(new.said(), [2; 4]);
    }
}
