//! The memory behind a handle: a sealed memfd with a header page that says what it holds.
//!
//! | offset | what |
//! |---|---|
//! | 0 | the [`Header`] |
//! | 120 | the [`Table`] of what lies where |
//! | 4,096 | the contents |

#![allow(unsafe_code)]

use core::any::type_name;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crossproc_sys::memory::{self, Manner, Mapping, SEAL_EXEC, SEAL_WRITERS, SEALS};
use crossproc_sys::namespace::{self, PidNamespace};
use rustix::fs::SealFlags;

use super::claim::{Belief, Said};
use super::fields::{self, Table};
use super::shared::{Field, Fields, MOST_FIELDS, Shared};

/// Where the contents begin: after one page, so any alignment up to a page is kept.
pub(crate) const CONTENTS: usize = 4_096;

/// "crossprc" in the byte order of the program that made the region.
const MAGIC: u64 = u64::from_be_bytes(*b"crossprc");

/// The version of the layout of header and primitives. Any change that another build would misread
/// gets a new version, and new images for `tests/layout.rs`: see `docs/layout.md`.
const ABI: u32 = 10;

/// Pointer width in bits, and the libc whose robust list the locks fit.
const WORD: u32 = usize::BITS | if cfg!(target_env = "musl") { MUSL } else { 0 };
const MUSL: u32 = 1 << 16;

const INITIALISED: u32 = 1;

/// All fields are atomics: a peer may write anything at any time. All accesses are Relaxed except
/// those of `initialised`, which orders the others.
///
/// Each field is loaded once, when the region is attached, and must be:
///
/// | field | what it must be |
/// |---|---|
/// | `magic`, `abi`, `word` | this program's |
/// | `initialised` | 1 |
/// | `namespace_device`, `namespace_inode` | those of this process's pid namespace |
/// | `size`, `align`, `fingerprint` | those of the type, or the slice, that is asked for |
/// | `count` | 1 if it is no slice; otherwise at most as many as the region's length has room for |
#[repr(C)]
struct Header {
    magic: AtomicU64,
    abi: AtomicU32,
    word: AtomicU32,
    /// The pid namespace in which the TIDs in this region are valid.
    namespace_device: AtomicU64,
    namespace_inode: AtomicU64,
    /// The size of one element.
    size: AtomicU64,
    align: AtomicU64,
    /// The number of elements.
    count: AtomicU64,
    fingerprint: AtomicU64,
    /// Stored last, with Release; loaded first, with Acquire.
    initialised: AtomicU32,
}

const _: () = assert!(offset_of!(Header, initialised) == 64 && size_of::<Header>() <= TABLE);
/// Where the table of fields is.
const TABLE: usize = 120;
const _: () = assert!(TABLE + size_of::<Table>() == CONTENTS && TABLE % align_of::<Table>() == 0);

/// Which fields some elements have, for the table; none if that cannot be told.
pub(crate) type FieldsOf = fn(count: usize) -> Vec<Field>;

/// Of contents that are handed out as a whole only.
fn untold(_: usize) -> Vec<Field> {
    Vec::new()
}

/// What a region holds: elements of one type, perhaps behind something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) size: usize,
    pub(crate) align: usize,
    pub(crate) fingerprint: u64,
    /// The bytes before the first element.
    pub(crate) before: usize,
    /// Whether there may be any number of elements; otherwise there is exactly one.
    pub(crate) is_slice: bool,
}

impl Layout {
    /// Returns the length of a region with `count` elements, or `None` if no region can be that
    /// long.
    fn region_len(self, count: u64) -> Option<usize> {
        let elements = usize::try_from(count).ok()?.checked_mul(self.size)?;
        let contents = elements.checked_add(self.before)?.checked_next_multiple_of(self.align)?;
        contents.checked_add(CONTENTS).filter(|&len| isize::try_from(len).is_ok())
    }

    /// Returns what the header says of `count` such elements.
    fn said(self, count: u64) -> Said {
        [self.size as u64, self.align as u64, self.fingerprint, count]
    }

    /// Checks what the header said of the contents. Returns how many elements there are. The caller
    /// checks that number against the region's length.
    fn check(self, said: Said, type_name: &'static str) -> Result<u64, RegionError> {
        let [found_size, found_align, _, count] = said;
        if said != self.said(count) || (count != 1 && !self.is_slice) {
            return Err(RegionError::OtherLayout {
                type_name,
                size: self.size,
                found_size,
                align: self.align,
                found_align,
            });
        }
        Ok(count)
    }
}

/// A mapped region and its descriptor.
#[derive(Debug)]
pub(crate) struct Region {
    /// What the header said when this process had its first handle. It is dropped first: as long as
    /// it counts, the file is open.
    belief: Belief,
    mapping: Mapping,
    file: OwnedFd,
    count: usize,
}

impl Region {
    /// Creates a region with zeroed contents, which `fill` then writes: it gets their address. The
    /// region can be attached only after that.
    pub(crate) fn create(
        layout: Layout,
        count: usize,
        fields: FieldsOf,
        manner: Manner,
        fill: impl FnOnce(NonNull<u8>),
    ) -> Result<Self, RegionError> {
        let len = layout
            .region_len(count as u64)
            .ok_or(RegionError::TooLarge { size: layout.size, count })?;
        let (len, fields) = (len - CONTENTS, fields(count));
        Self::create_from(layout, count, len, &[(0, len)], &fields, manner, fill)
    }

    /// Creates a region with contents of `len` bytes, at least as many as `count` elements need.
    /// Only the ranges in `allocated`, as offsets and lengths, are [allocated](Region::allocate).
    pub(crate) fn create_with_holes(
        layout: Layout,
        count: usize,
        len: usize,
        allocated: &[(usize, usize)],
        fill: impl FnOnce(NonNull<u8>),
    ) -> Result<Self, RegionError> {
        Self::create_from(layout, count, len, allocated, &[], Manner::default(), fill)
    }

    fn create_from(
        layout: Layout,
        count: usize,
        len: usize,
        allocated: &[(usize, usize)],
        fields: &[Field],
        manner: Manner,
        fill: impl FnOnce(NonNull<u8>),
    ) -> Result<Self, RegionError> {
        let len =
            len.checked_add(CONTENTS).ok_or(RegionError::TooLarge { size: layout.size, count })?;
        let failed = |source| RegionError::Create { len, source };
        let namespace = namespace::first().map_err(no_namespace)?;
        // A slice may have no elements; the kernel refuses to allocate an empty range.
        let contents = allocated
            .iter()
            .filter(|&&(_, len)| len != 0)
            .map(|&(offset, len)| ((CONTENTS + offset) as u64, len as u64));
        let ranges: Vec<(u64, u64)> =
            core::iter::once((0, CONTENTS as u64)).chain(contents).collect();
        let (file, mapping) = memory::create(len, &ranges, manner).map_err(failed)?;
        let identity = memory::identity(&file).map_err(failed)?;
        let said = layout.said(count as u64);
        let belief = Belief::of_new(identity, said, fields).map_err(failed)?;
        let belief = belief.ok_or(RegionError::Changed)?;
        let region = Region { belief, mapping, file, count };
        fill(region.contents());
        table_of(&region.mapping).store(fields);
        Header::of(&region.mapping).describe(layout, count as u64, namespace);
        region.belief.made();
        Ok(region)
    }

    /// [`attach`](Region::attach) for a region that must be allocated as a whole, as
    /// [`create`](Region::create) makes it.
    pub(crate) fn attach_whole(
        file: OwnedFd,
        layout: Layout,
        fields: FieldsOf,
        manner: Manner,
        type_name: &'static str,
    ) -> Result<Self, RegionError> {
        let region = Region::attach_as(file, layout, fields, manner, type_name)?.whole()?;
        // It has no holes, so this takes no memory that its maker did not take.
        region.mapping.prepare(manner);
        Ok(region)
    }

    fn whole(self) -> Result<Self, RegionError> {
        let (len, allocated) =
            memory::len_and_allocated(&self).map_err(os("reading its length"))?;
        if allocated < len { Err(RegionError::Holes { len, allocated }) } else { Ok(self) }
    }

    /// Maps a region that another process made, if it is one, and holds what `layout` says.
    ///
    /// It checks, in this order, the properties that [`create`](Region::create) gives a region:
    ///
    /// | what | otherwise |
    /// |---|---|
    /// | it has seals, so it is a memfd | [`RegionError::NotMemfd`] |
    /// | it cannot shrink, grow, nor get more seals | [`RegionError::NotSealed`] |
    /// | it has no other seals, which may forbid mapping it, except the one against execution | [`RegionError::OtherSeals`] |
    /// | it is not sealed against writers, unless it is only to be read | [`RegionError::ReadOnly`] |
    /// | it is of the kernel's tmpfs, not of huge pages | [`RegionError::HugePages`] |
    /// | it is at least as long as a header page | [`RegionError::TooShort`] |
    /// | this process is still in its first pid namespace | [`RegionError::OtherPidNamespace`] |
    /// | it can be mapped for writing | [`RegionError::Attach`] |
    /// | the header: magic, ABI, word size, namespace | see [`Header::read`] |
    /// | the header: layout and count | [`RegionError::OtherLayout`] |
    /// | there is room for as many elements | [`RegionError::TooShort`] |
    /// | this process is not still making it | [`RegionError::NotInitialised`] |
    /// | it said the same when this process had its first handle | [`RegionError::Changed`] |
    /// | [`attach_whole`](Region::attach_whole): every page is allocated | [`RegionError::Holes`] |
    ///
    /// One thing cannot be checked. A process that has the descriptor can punch a hole later, which
    /// only a seal against all writing would forbid. What was in the hole is lost, as if it had
    /// been overwritten. A process that touches it gets a new page of zeros, and is killed only
    /// where no page can be had for anything else either.
    pub(crate) fn attach(
        file: OwnedFd,
        layout: Layout,
        type_name: &'static str,
    ) -> Result<Self, RegionError> {
        Region::attach_as(file, layout, untold, Manner::default(), type_name)
    }

    fn attach_as(
        file: OwnedFd,
        layout: Layout,
        fields: FieldsOf,
        manner: Manner,
        type_name: &'static str,
    ) -> Result<Self, RegionError> {
        let (mapping, said) = map(&file, Access::Full(manner))?;
        let count = layout.check(said, type_name)?;
        let len = mapping.len();
        let needed = layout.region_len(count);
        if needed.is_none_or(|needed| needed > len) {
            return Err(RegionError::TooShort {
                len: len as u64,
                needed: needed.map_or(u64::MAX, |needed| needed as u64),
            });
        }
        Region::believed(mapping, file, said, &fields(count as usize))
    }

    /// [`attach_whole`](Region::attach_whole) for a region whose type this program need not know.
    /// What the header and the table say is what it holds.
    pub(crate) fn attach_parts(file: OwnedFd, access: Access) -> Result<Self, RegionError> {
        let (mapping, said) = map(&file, access)?;
        let fields = table_of(&mapping).load((mapping.len() - CONTENTS) as u64);
        if fields.is_empty() {
            return Err(RegionError::NoParts);
        }
        Region::believed(mapping, file, said, &fields)?.whole()
    }

    /// Makes a region whose header says this, and that has these fields, if this process has always
    /// believed that.
    fn believed(
        mapping: Mapping,
        file: OwnedFd,
        said: Said,
        fields: &[Field],
    ) -> Result<Self, RegionError> {
        let failed = "finding out which it is";
        let identity = memory::identity(&file).map_err(os(failed))?;
        let belief = Belief::of(identity, said, fields).map_err(os(failed))?;
        let belief = belief.ok_or(RegionError::NotInitialised)?;
        if belief.said() != said || belief.fields() != fields {
            return Err(RegionError::Changed);
        }
        let [.., count] = said;
        Ok(Region { belief, mapping, file, count: count as usize })
    }

    /// Checks that the region tells what lies where in it.
    pub(crate) fn check_parts(&self) -> Result<(), RegionError> {
        if self.belief.fields().is_empty() { Err(RegionError::NoParts) } else { Ok(()) }
    }

    /// Returns where a `P` lies, if one lies at this offset in the contents.
    pub(crate) fn part<P: Shared>(&self, offset: usize) -> Result<NonNull<P>, RegionError> {
        const {
            assert!(align_of::<P>() <= CONTENTS, "shared memory is aligned to 4,096 bytes at most");
        };
        self.check_parts()?;
        let size = size_of::<P>();
        let is_inside = offset.checked_add(size).is_some_and(|end| end <= self.len());
        let is_there = |wanted: Vec<Field>| {
            fields::is_there(self.belief.fields(), &wanted, offset as u64, size as u64)
        };
        let is_aligned = offset % align_of::<P>() == 0;
        if !(is_inside && is_aligned && Fields::of::<P>().is_some_and(is_there)) {
            return Err(RegionError::NoSuchPart { type_name: type_name::<P>(), offset });
        }
        // SAFETY: inside the contents, which are mapped.
        Ok(unsafe { self.contents().add(offset) }.cast())
    }

    /// Returns the address of the first element.
    pub(crate) fn contents(&self) -> NonNull<u8> {
        // SAFETY: a region is at least as long as the header page before its contents.
        unsafe { self.mapping.start().add(CONTENTS) }
    }

    /// Returns the number of elements, which has been checked against the length of the region if
    /// that was attached as what it is.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the length of the contents in bytes.
    pub(crate) fn len(&self) -> usize {
        self.mapping.len() - CONTENTS
    }

    /// Allocates a range of the contents that was left as a hole.
    pub(crate) fn allocate(&self, offset: usize, len: usize) -> io::Result<()> {
        memory::allocate(&self.file, (CONTENTS + offset) as u64, len as u64)
    }

    /// Leaves a range of the contents out of core dumps.
    pub(crate) fn leave_out_of_dumps(&self, offset: usize, len: usize) {
        self.mapping.leave_out_of_dumps(CONTENTS + offset, len);
    }

    /// Frees the pages of a range of the contents, which is a hole then.
    pub(crate) fn free(&self, offset: usize, len: usize) -> io::Result<()> {
        memory::free(&self.file, (CONTENTS + offset) as u64, len as u64)
    }

    /// Returns whether the contents have said these numbers of themselves since this process has a
    /// handle.
    pub(crate) fn agrees(&self, numbers: &[u64]) -> Result<bool, RegionError> {
        self.belief.agrees(numbers).map_err(os("comparing what it says"))
    }
}

impl AsFd for Region {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Header {
    /// Returns the header of a region, which is at least a page long.
    fn of(mapping: &Mapping) -> &Header {
        // SAFETY: mapped, and aligned to a page. The header is all atomics, for which any bytes are
        // valid.
        unsafe { mapping.start().cast().as_ref() }
    }

    fn describe(&self, layout: Layout, count: u64, namespace: PidNamespace) {
        self.magic.store(MAGIC, Relaxed);
        self.abi.store(ABI, Relaxed);
        self.word.store(WORD, Relaxed);
        self.namespace_device.store(namespace.device, Relaxed);
        self.namespace_inode.store(namespace.inode, Relaxed);
        self.size.store(layout.size as u64, Relaxed);
        self.align.store(layout.align as u64, Relaxed);
        self.count.store(count, Relaxed);
        self.fingerprint.store(layout.fingerprint, Relaxed);
        // Release: pairs with the Acquire in `read`; the contents were filled before.
        self.initialised.store(INITIALISED, Release);
    }

    /// Checks what all regions have in common, and returns what the header says of the contents.
    fn read(&self, namespace: PidNamespace) -> Result<Said, RegionError> {
        let initialised = self.initialised.load(Relaxed) == INITIALISED;
        // Acquire: pairs with the Release in `describe`. The mapping may be read-only, where only a
        // relaxed load is allowed.
        fence(Acquire);
        match self.magic.load(Relaxed) {
            MAGIC => {}
            0 if !initialised => return Err(RegionError::NotInitialised),
            found if found == MAGIC.swap_bytes() => {
                return Err(RegionError::OtherWordSize { found: "the other byte order".into() });
            }
            found => return Err(RegionError::ForeignMagic { found }),
        }
        match self.abi.load(Relaxed) {
            ABI => {}
            found => return Err(RegionError::OtherAbi { found, expected: ABI }),
        }
        match self.word.load(Relaxed) {
            WORD => {}
            found => return Err(RegionError::OtherWordSize { found: word_name(found) }),
        }
        if !initialised {
            return Err(RegionError::NotInitialised);
        }
        let (device, inode) =
            (self.namespace_device.load(Relaxed), self.namespace_inode.load(Relaxed));
        if (PidNamespace { device, inode }) != namespace {
            return Err(RegionError::OtherPidNamespace { found: inode, expected: namespace.inode });
        }
        Ok([&self.size, &self.align, &self.fingerprint, &self.count]
            .map(|number| number.load(Relaxed)))
    }
}

/// What a mapping is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Full(Manner),
    ReadOnly,
}

/// Maps a file that is a region, and returns what its header says of the contents.
fn map(file: &OwnedFd, access: Access) -> Result<(Mapping, Said), RegionError> {
    check_descriptor(file, access)?;
    // It is sealed against shrinking and growing, so this length is final.
    let len = memory::len(file).map_err(os("reading its length"))?;
    let too_short = || RegionError::TooShort { len, needed: CONTENTS as u64 };
    let mapped = usize::try_from(len).ok().filter(|&len| len >= CONTENTS).ok_or_else(too_short)?;
    let namespace = namespace::current().map_err(no_namespace)?;
    let expected = namespace::first().map_err(no_namespace)?;
    if namespace != expected {
        return Err(RegionError::OtherPidNamespace {
            found: namespace.inode,
            expected: expected.inode,
        });
    }
    let mapping = match access {
        Access::Full(manner) => Mapping::with(file, mapped, manner),
        Access::ReadOnly => Mapping::read_only(file, mapped),
    };
    let mapping = mapping.map_err(os("mapping it"))?;
    let said = Header::of(&mapping).read(namespace)?;
    Ok((mapping, said))
}

/// Returns the table of a region, which is at least a page long.
fn table_of(mapping: &Mapping) -> &Table {
    // SAFETY: on the header page.
    let table = unsafe { mapping.start().add(TABLE) };
    // SAFETY: mapped, and aligned, as asserted above. The table is all atomics, for which any bytes
    // are valid.
    unsafe { table.cast().as_ref() }
}

/// Checks that a descriptor is that of a file such as this crate makes regions of. It touches
/// nothing in the file.
fn check_descriptor(file: &OwnedFd, access: Access) -> Result<(), RegionError> {
    let seals =
        memory::seals(file).map_err(os("reading its seals"))?.ok_or(RegionError::NotMemfd)?;
    if !seals.contains(SEALS) {
        return Err(RegionError::NotSealed { missing: seal_names(SEALS - seals) });
    }
    let others = seals - SEALS - SEAL_EXEC - SEAL_WRITERS;
    if !others.is_empty() {
        return Err(RegionError::OtherSeals { found: seal_names(others) });
    }
    if access != Access::ReadOnly && seals.contains(SEAL_WRITERS) {
        return Err(RegionError::ReadOnly);
    }
    match memory::is_of_tmpfs(file).map_err(os("finding out its file system"))? {
        true => Ok(()),
        false => Err(RegionError::HugePages),
    }
}

/// Returns a function for `map_err`.
fn os(what: &'static str) -> impl Fn(io::Error) -> RegionError {
    move |source| RegionError::Attach { what, source }
}

fn no_namespace(unknown: namespace::Unknown) -> RegionError {
    RegionError::NoNamespace { source: unknown.into() }
}

fn seal_names(seals: SealFlags) -> String {
    let names: Vec<_> = seals.iter_names().map(|(name, _)| name).collect();
    // Seals of later kernels have no names here.
    if names.is_empty() { format!("{:#x}", seals.bits()) } else { names.join(", ") }
}

fn word_name(word: u32) -> String {
    format!("{} bits, {}", word & !MUSL, if word & MUSL != 0 { "musl" } else { "glibc" })
}

/// Why shared memory could not be created or attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The system gave no memory for it: too little is left, or no descriptor is free.
    #[error("no shared memory of {len} bytes could be created: {source}")]
    Create {
        /// How many bytes were asked for.
        len: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The pid namespace, which a region records, cannot be determined. From Linux 6.11 on the
    /// kernel tells it without `/proc`.
    #[error("a region notes the pid namespace: {source}")]
    NoNamespace {
        /// What the system said.
        source: io::Error,
    },
    /// It would be longer than any address space.
    #[error("{count} elements of {size} bytes are more than an address space holds")]
    TooLarge {
        /// The size of an element in bytes.
        size: usize,
        /// How many were asked for.
        count: usize,
    },
    /// There can be no queue with these parameters.
    #[error("there can be no such queue: {what}")]
    UnsuitableQueue {
        /// What is wrong, and what would be accepted.
        what: String,
    },
    /// The descriptor is not a memfd.
    #[error("the descriptor is not a memfd: it was not made by this crate")]
    NotMemfd,
    /// The memfd's size is not sealed: shrinking it could kill the processes that map it.
    #[error("the memfd is not sealed, {missing} is missing: it was not made by this crate")]
    NotSealed {
        /// The seals that it lacks.
        missing: String,
    },
    /// The memfd has seals that no region has, such as one against writing.
    #[error(
        "the memfd is sealed against more than a region is, by {found}: it was not made by \
         this crate"
    )]
    OtherSeals {
        /// The seals that no region has.
        found: String,
    },
    /// It is sealed against writers that attach.
    #[error("the region takes no more writers: attach to it as `ReadOnly`")]
    ReadOnly,
    /// The memfd is of huge pages, which its maker could take away from the processes that map it.
    #[error(
        "the memfd is of huge pages: it was not made by this crate; have the region made by it"
    )]
    HugePages,
    /// Some of its pages are not allocated: a process that touches them may be killed for want of
    /// memory.
    #[error(
        "the region is {len} bytes long, of which {allocated} are allocated: somebody has \
         taken the others away; have the region made anew"
    )]
    Holes {
        /// Its length in bytes.
        len: u64,
        /// How many bytes are allocated, in whole pages.
        allocated: u64,
    },
    /// It is too short for the header, or for what the header says.
    #[error("the region is {len} bytes long and would need {needed}")]
    TooShort {
        /// Its length in bytes.
        len: u64,
        /// The length that it needs.
        needed: u64,
    },
    /// It does not begin as this crate's regions do.
    #[error("the memfd begins with {found:#018x}: it was not made by this crate")]
    ForeignMagic {
        /// What it begins with.
        found: u64,
    },
    /// Another version of this crate made it, with another layout of the primitives.
    #[error(
        "the region has ABI {found}, this program has {expected}: build both with versions \
         of crossproc that agree"
    )]
    OtherAbi {
        /// The ABI of its maker.
        found: u32,
        /// The ABI of this program.
        expected: u32,
    },
    /// A program for another kind of machine, or another libc, made it.
    #[error("the region was made by a program of another word size ({found})")]
    OtherWordSize {
        /// The maker's byte order, or its word size and libc.
        found: String,
    },
    /// It holds another type, or the same type laid out by another build.
    #[error(
        "the region holds something else than `{type_name}` as this program lays it out: \
         elements of {found_size} bytes aligned to {found_align} there, \
         of {size} aligned to {align} here"
    )]
    OtherLayout {
        /// The type that was asked for.
        type_name: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The size in the region's header.
        found_size: u64,
        /// Its alignment in bytes.
        align: usize,
        /// The alignment in the region's header.
        found_align: u64,
    },
    /// A participant has overwritten what the region says of itself since this process has a handle
    /// to it.
    #[error(
        "the region does not say of itself any more what it said when this process first attached \
         to it: a participant has overwritten that; have the region made anew"
    )]
    Changed,
    /// It does not tell what lies where in it.
    #[error(
        "the region does not tell what lies where in it: it is a queue, a lock around a slice, or \
         empty, has more than {MOST_FIELDS} fields, or was overwritten; attach to it as what it is"
    )]
    NoParts,
    /// Something else lies there, or nothing.
    #[error(
        "there is no `{type_name}` at offset {offset} of the region, as this program lays it out"
    )]
    NoSuchPart {
        /// The type that was asked for.
        type_name: &'static str,
        /// The offset in bytes.
        offset: usize,
    },
    /// Its maker has not finished it, or died before it had.
    #[error("the region is not initialised: its maker has not finished it, or died before")]
    NotInitialised,
    /// It belongs to processes of another pid namespace. Its locks name their owners by TIDs that
    /// mean nothing here.
    #[error(
        "the region belongs to pid namespace {found}, this process to {expected}: start it \
         in the same one"
    )]
    OtherPidNamespace {
        /// The inode of the region's namespace.
        found: u64,
        /// The inode of this process's.
        expected: u64,
    },
    /// The system refused a call on the way.
    #[error("the region could not be attached: {what} failed: {source}")]
    Attach {
        /// The call that was refused.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl From<RegionError> for io::Error {
    fn from(error: RegionError) -> Self {
        let kind = match &error {
            RegionError::Create { source, .. }
            | RegionError::Attach { source, .. }
            | RegionError::NoNamespace { source } => source.kind(),
            RegionError::TooLarge { .. }
            | RegionError::UnsuitableQueue { .. }
            | RegionError::NoSuchPart { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}
