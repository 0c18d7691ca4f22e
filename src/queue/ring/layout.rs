//! How large a queue is, and where everything lies in its memory.
//!
//! | what | how much | allocated |
//! |---|---|---|
//! | [`Control`] | one | at creation |
//! | entries | one for each item that fits, and for each dead letter | at creation |
//! | records | one for each participant that there may be | when it first comes |
//! | slots | one for each entry | at creation |
//! | | as many as it has places, for each participant | when it first comes |
//! | [`BlockControl`] | one, if there are blocks | at creation |
//! | records of blocks | one for each block | when it is first used |
//! | blocks | each as long as the longest message | as far as messages need it |
//!
//! A region states its own [`Config`], which is checked before it is used:
//!
//! | field | what it must be |
//! |---|---|
//! | `capacity` | 1 to 2^20, and the count in the region's header |
//! | `letters` | 0 if the queue is not joinable |
//! | `ids` | at least 1 |
//! | `places` | 2 to 64 |
//! | `attempts` | any; 0: no limit |
//! | `is_joinable` | 0 or 1, as the handle's type |
//! | `size` | that of the item's type, or of a whole batch; any that fits for messages (`item::ItemSize`) |
//! | `align` | that of the item's type, 1 for messages |
//! | `batch` | 0, or for a queue of batches, which is not joinable, the most items of one: 1 to 64 |
//! | `blocks.most` | 0, or for a queue of messages, how many may be in blocks at a time |
//! | `blocks.longest` | with blocks: more than `size`, no more than all units, less than 2^32 |
//! | `blocks.unit` | with blocks: the bytes of a unit, a power of two, a page to 2^32 |
//! | `blocks.units` | with blocks: the units of all blocks, 1 to 2^20 - 1 |
//! | `slow.policy` | 0 for a queue; for a broadcast, which is not joinable and has no batches and no |
//! | | blocks, [`WAIT`], [`LAG`] or [`EXPEL`] |
//! | `slow.patience` | 0, or with [`EXPEL`] the ticks that senders wait for a subscriber: less than 2^23 |
//!
//! All slots together are fewer than 2^21, or 2^15 in a queue of batches, counted in 64 bits, and
//! `Offsets::len` is no more than the region's length.

use core::mem::offset_of;
use crossproc_sys::atomic::{AtomicU32, AtomicU64};

use super::words::{BATCH_SLOT, INDEX, MOST_BATCHED, MOST_PATIENCE};
use crate::sync::lock::state::RawLock;

/// The length of a slot's header, in front of the payload. It says who took the slot last.
pub(crate) const HEADER: usize = 8;
/// The length of a header that also says how long the payload is, in bytes or in items, and how
/// often it was given out.
pub(crate) const LONG_HEADER: usize = 16;
/// The length of a header that also says in which block the payload is.
pub(crate) const LONGEST_HEADER: usize = 24;

/// The most units of all blocks.
pub(crate) const MOST_UNITS: u32 = (1 << 20) - 1;

/// The most places that a participant can have: as many as a word has bits.
pub(crate) const MOST_PLACES: u32 = 64;

/// A value in cache lines of its own.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

/// A position in a ring, and a note about the threads that sleep on it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Position {
    pub(crate) at: AtomicU64,
    /// Bit 0: since all sleepers on the position were last woken, a thread went to sleep that waits
    /// for other things, too. See [`waiting`](super::waiting).
    pub(crate) watched: AtomicU32,
}

/// The counters of a ring.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Counters {
    /// Where the next put goes. Putters change it, getters sleep on it.
    pub(crate) tail: Apart<Position>,
    /// Where the next get is from. Getters change it, putters sleep on it.
    pub(crate) head: Apart<Position>,
}

/// The words that all participants share.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Control {
    pub(crate) config: [AtomicU64; 15],
    pub(crate) items: Counters,
    /// The second ring, of dead letters.
    pub(crate) letters: Counters,
    /// Bits 0-29 are 0: all participants have this word pending (`crossproc_sys::robust`), and all
    /// sleepers sleep on it besides. Bits 30-63: how often a participant of a joinable queue came.
    pub(crate) roster: Apart<AtomicU64>,
    /// How many ids were ever used. Only grows. The records and slots of these ids are allocated.
    pub(crate) used: AtomicU32,
    /// Bit 0: there may be returned tasks. The rest: how often a task was returned.
    pub(crate) returned: AtomicU64,
    /// How often participants have tried to take a returned task out of a place.
    pub(crate) moves: AtomicU64,
    /// Bit 21 (`WAITERS`): a thread may sleep on it until all tasks are done. Bits 32-63: how often
    /// all tasks may have been done. The other bits are 0.
    pub(crate) joins: AtomicU64,
    /// Of a broadcast: how often a thread has subscribed.
    pub(crate) subscriptions: AtomicU64,
}

/// What is known of a participant. Its places follow the record, and then, in a broadcast, its
/// [`Subscription`].
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ParticipantRecord {
    /// The thread that holds it is the participant.
    pub(crate) token: RawLock,
    /// The word that the participant tries to exchange, as it saw it. 0: it tries nothing.
    pub(crate) seen: AtomicU64,
    /// Bits 0-31: where that word is. Bits 32-63: from which place. It stays while `seen` is not 0.
    pub(crate) site: AtomicU64,
    /// How far the last life of the id has come: see `words`, and [`burying`](super::burying). Only
    /// goes up.
    pub(crate) life: AtomicU64,
}

/// What is known of a participant of a broadcast as a subscriber.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Subscription {
    /// The position of the first item that it may still read, and flags; 0: it has not subscribed.
    /// See `words`.
    pub(crate) cursor: AtomicU64,
    /// Bits 0-39: by which cursor senders were held up (`held_key`); 0: by none. Bits 40-63: since
    /// when, in ticks of 2^20 ns.
    pub(crate) held: AtomicU64,
}

/// What all blocks share.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct BlockControl {
    /// Bits 0-20: the block that is pending, plus 1; 0: none. Bits 21-40: the units counted for all
    /// blocks. Bits 41-63: how often the word has changed.
    pub(crate) budget: Apart<AtomicU64>,
    /// Bit 21 (`WAITERS`): a thread may sleep on it until memory is free. Bits 23-63: how often it
    /// was told that some is. The other bits are 0.
    pub(crate) released: Apart<Position>,
    /// How many blocks were ever used. Only grows. Their records are allocated.
    pub(crate) used: AtomicU32,
}

/// What is known of a block.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct BlockRecord {
    /// Bits 0-20: the slot that the block belongs to, plus 1; 0: none, the block is free. Bits
    /// 21-63: how often that has changed.
    pub(crate) owner: AtomicU64,
    /// Bits 0-19: the units counted for the block. Bits 20-63: how often that has changed.
    pub(crate) kept: AtomicU64,
    /// What `kept` is going to be, as long as the block is pending.
    pub(crate) wanted: AtomicU64,
    /// How many units surely have pages, from the first on.
    pub(crate) allocated: AtomicU64,
}

// The layout is a part of the ABI: see `docs/layout.md`.
const _: () = assert!(
    offset_of!(Position, watched) == 8
        && size_of::<Apart<Position>>() == 128
        && offset_of!(Counters, head) == 128
        && offset_of!(Control, items) == 128
        && offset_of!(Control, letters) == 384
        && offset_of!(Control, roster) == 640
        && offset_of!(Control, used) == 768
        && offset_of!(Control, returned) == 776
        && offset_of!(Control, moves) == 784
        && offset_of!(Control, joins) == 792
        && offset_of!(Control, subscriptions) == 800
        && size_of::<Control>() == 896
        && offset_of!(ParticipantRecord, token) < offset_of!(ParticipantRecord, seen)
        && offset_of!(ParticipantRecord, seen) < offset_of!(ParticipantRecord, site)
        && offset_of!(ParticipantRecord, site) < offset_of!(ParticipantRecord, life)
);

const _: () = assert!(
    offset_of!(BlockControl, released) == 128
        && offset_of!(BlockControl, used) == 256
        && size_of::<BlockControl>() == 384
        && offset_of!(BlockRecord, kept) == 8
        && offset_of!(BlockRecord, wanted) == 16
        && offset_of!(BlockRecord, allocated) == 24
        && size_of::<BlockRecord>() == 32
);

/// The size and kind of a queue: all participants must agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    /// The most items at a time.
    pub(crate) capacity: u32,
    /// The most dead letters at a time.
    pub(crate) letters: u32,
    /// The most participants at a time.
    pub(crate) ids: u32,
    /// The slots that each participant has of its own.
    pub(crate) places: u32,
    /// The attempts after which a task becomes a dead letter; 0: never.
    pub(crate) attempts: u32,
    /// Whether items are tasks.
    pub(crate) is_joinable: bool,
    /// The maximum length of an item, or of a batch, in bytes.
    pub(crate) size: u64,
    /// The alignment of an item.
    pub(crate) align: u32,
    /// The most items of a batch; 0 if there are no batches.
    pub(crate) batch: u32,
    pub(crate) blocks: BlockConfig,
    pub(crate) slow: SlowConfig,
}

/// What senders of a broadcast do about a slow subscriber: its `policy`. They wait for it.
pub(crate) const WAIT: u32 = 1;
/// Another policy: they go on, and the subscriber misses items.
pub(crate) const LAG: u32 = 2;
/// Another policy: they wait for it for some time, and then it is out.
pub(crate) const EXPEL: u32 = 3;

/// The part of it that is about the subscribers of a broadcast. All of it is 0 for a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SlowConfig {
    pub(crate) policy: u32,
    /// How long senders wait for a subscriber before it is out, in ticks of 2^20 ns.
    pub(crate) patience: u32,
}

/// The part of it that is about blocks. All of it is 0 if there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BlockConfig {
    /// The most messages in blocks at a time.
    pub(crate) most: u32,
    /// The maximum length of a message in a block, in bytes.
    pub(crate) longest: u64,
    /// How many bytes a unit has.
    pub(crate) unit: u64,
    /// How many units all blocks have together.
    pub(crate) units: u32,
}

/// Where everything lies, in bytes from the beginning of the control words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offsets {
    pub(crate) entries: usize,
    pub(crate) records: usize,
    /// The distance from one record to the next.
    pub(crate) record_stride: usize,
    pub(crate) slots: usize,
    pub(crate) slot_stride: usize,
    /// The distance from the beginning of a slot to its payload.
    pub(crate) payload: usize,
    /// Where [`BlockControl`] is. This and the rest on blocks is 0 if there are none.
    pub(crate) block_control: usize,
    pub(crate) block_records: usize,
    pub(crate) block_pages: usize,
    /// The distance from one block to the next.
    pub(crate) block_stride: usize,
    /// The end of it all.
    pub(crate) len: usize,
}

/// Two cache lines: one, and the one that is fetched with it.
const LINES: usize = 128;
pub(crate) const PAGE: usize = 4_096;

impl Config {
    /// Returns whether everybody gets everything.
    pub(crate) fn is_broadcast(&self) -> bool {
        self.slow.policy != 0
    }

    /// Returns how many items, or messages, a user has asked for.
    pub(crate) fn items(&self) -> usize {
        (self.capacity as usize).saturating_sub(usize::from(self.slow.has_spare_entry()))
    }

    /// Returns the number of entries in both rings.
    pub(crate) fn entries(&self) -> usize {
        self.capacity as usize + self.letters as usize
    }

    /// Returns the number of slots of an unchecked config. The sum does not overflow, whatever the
    /// numbers are.
    pub(crate) fn count_slots(&self) -> u64 {
        let entries = u64::from(self.capacity) + u64::from(self.letters);
        entries + u64::from(self.ids) * u64::from(self.places)
    }

    /// Returns the number of slots of a checked config.
    pub(crate) fn slots(&self) -> usize {
        self.entries() + self.ids as usize * self.places as usize
    }

    /// Returns the first of a participant's own slots.
    pub(crate) fn first_slot(&self, id: usize) -> usize {
        self.entries() + id * self.places as usize
    }

    /// Returns the bits of an entry that name its slot.
    pub(crate) fn slot_bits(&self) -> u64 {
        if self.batch == 0 { INDEX } else { BATCH_SLOT }
    }

    /// Returns the offsets that follow from the config. `None` means that it makes no sense, or is
    /// more than the words or an address space can hold.
    pub(crate) fn offsets(&self) -> Option<Offsets> {
        let is_sound = self.capacity >= 1
            && self.ids >= 1
            && (2..=MOST_PLACES).contains(&self.places)
            && self.align.is_power_of_two()
            && self.align as usize <= PAGE
            && self.count_slots() <= self.slot_bits()
            && self.batch <= MOST_BATCHED
            && !(self.is_joinable && self.batch != 0)
            && u32::try_from(self.size).is_ok()
            && self.blocks.are_sound(self)
            && self.slow.is_sound(self);
        if !is_sound {
            return None;
        }
        // An alignment of 1 means that the length may vary, as it does for messages.
        let is_long = self.is_joinable || self.align == 1 || self.batch != 0;
        let header = match (is_long, self.blocks.most) {
            (false, _) => HEADER,
            (true, 0) => LONG_HEADER,
            (true, _) => LONGEST_HEADER,
        };
        let payload = header.next_multiple_of(self.align as usize);
        let slot_stride = payload
            .checked_add(usize::try_from(self.size).ok()?)?
            .checked_next_multiple_of(HEADER.max(self.align as usize))?;
        let entries = size_of::<Control>().next_multiple_of(LINES);
        let records = (entries + self.entries() * size_of::<u64>()).next_multiple_of(PAGE);
        let subscription = if self.is_broadcast() { size_of::<Subscription>() } else { 0 };
        let record_stride = (size_of::<ParticipantRecord>()
            + self.places as usize * size_of::<u64>()
            + subscription)
            .next_multiple_of(LINES);
        let slots = (records + self.ids as usize * record_stride).next_multiple_of(PAGE);
        let len = slot_stride
            .checked_mul(self.slots())?
            .checked_add(slots)?
            .checked_next_multiple_of(PAGE)?;
        let mut offsets = Offsets {
            entries,
            records,
            record_stride,
            slots,
            slot_stride,
            payload,
            block_control: 0,
            block_records: 0,
            block_pages: 0,
            block_stride: 0,
            len,
        };
        if self.blocks.most != 0 {
            let BlockConfig { most, longest, unit, .. } = self.blocks;
            offsets.block_control = len;
            offsets.block_records = len.checked_add(PAGE)?;
            offsets.block_pages = size_of::<BlockRecord>()
                .checked_mul(most as usize)?
                .checked_add(offsets.block_records)?
                .checked_next_multiple_of(PAGE)?;
            offsets.block_stride = usize::try_from(longest.next_multiple_of(unit)).ok()?;
            let pages = offsets.block_stride.checked_mul(most as usize)?;
            offsets.len = pages.checked_add(offsets.block_pages)?;
        }
        isize::try_from(offsets.len).ok()?;
        Some(offsets)
    }
}

impl BlockConfig {
    /// Returns whether this can be said of the blocks of such a queue.
    fn are_sound(&self, config: &Config) -> bool {
        if self.most == 0 {
            return *self == BlockConfig::default();
        }
        config.align == 1
            && config.batch == 0
            && u64::from(self.most) < INDEX
            && (1..=MOST_UNITS).contains(&self.units)
            && self.unit.is_power_of_two()
            && (PAGE as u64..=1 << 32).contains(&self.unit)
            && self.longest > config.size
            && self.longest <= u64::from(self.units) * self.unit
            && u32::try_from(self.longest).is_ok()
    }
}

impl SlowConfig {
    /// Returns whether the ring has an entry more than items, for a put that does not know of a
    /// newcomer yet: see [`broadcast`](super::broadcast).
    pub(crate) fn has_spare_entry(&self) -> bool {
        matches!(self.policy, WAIT | EXPEL)
    }

    /// Returns whether this can be said of the subscribers of such a broadcast.
    fn is_sound(&self, config: &Config) -> bool {
        match self.policy {
            0 => self.patience == 0,
            WAIT | LAG | EXPEL => {
                !config.is_joinable
                    && config.batch == 0
                    && config.blocks.most == 0
                    && config.items() >= 1
                    && self.patience < MOST_PATIENCE
                    && (self.policy == EXPEL || self.patience == 0)
            }
            _ => false,
        }
    }
}

impl Offsets {
    /// Returns the memory that all participants need: ranges, each as offset and length.
    pub(crate) fn common(&self, config: &Config) -> [(usize, usize); 3] {
        let of_blocks = if config.blocks.most == 0 { 0 } else { size_of::<BlockControl>() };
        [
            (0, self.records),
            (self.slots, config.entries() * self.slot_stride),
            (self.block_control, of_blocks),
        ]
    }

    /// Returns the memory that is allocated for one participant, likewise.
    pub(crate) fn of_participant(&self, config: &Config, id: usize) -> [(usize, usize); 2] {
        let record = (self.records + id * self.record_stride, self.record_stride);
        [
            record,
            (
                self.slots + config.first_slot(id) * self.slot_stride,
                config.places as usize * self.slot_stride,
            ),
        ]
    }
}
