//! The region that a queue is in: how it is created, and what is checked when it is attached.

#![allow(unsafe_code)]

use core::ptr::NonNull;
use std::io;
use std::os::fd::OwnedFd;

use crossproc_sys::atomic::Ordering::Relaxed;

use super::item::{ItemSize, QueueLayout};
use super::participation::QueueHandle;
use super::ring::budget::Pages;
use super::ring::layout::{BlockConfig, Config, Control, MOST_PLACES, Offsets, SlowConfig};
use super::ring::memory::QueueMemory;
use super::ring::words::{BATCH_SLOT, INDEX, MOST_BATCHED};
use crate::memory::region::{Region, RegionError};

/// The largest capacity of a queue.
const MOST_ITEMS: usize = 1 << 20;

/// What a region is attached as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Queue,
    Joinable,
    Broadcast,
}

pub(super) fn create(config: Config, layout: QueueLayout) -> Result<QueueHandle, RegionError> {
    let offsets = check(&config)?;
    let fill = |base: NonNull<u8>| {
        // SAFETY: `base` points to `offsets.len` bytes, page aligned, which the region keeps mapped
        // for longer than this closure.
        let memory = unsafe { QueueMemory::new(base, config, offsets) };
        config.store(&memory);
        memory.fill();
    };
    let region = Region::create_with_holes(
        layout.region,
        config.items(),
        offsets.len,
        &offsets.common(&config),
        fill,
    )?;
    agree(&region, &config)?;
    Ok(handle(region, config, offsets))
}

/// Checks that a queue says of itself what it has said since this process has a handle to it: the
/// slots of all handles are the same then.
fn agree(region: &Region, config: &Config) -> Result<(), RegionError> {
    if region.agrees(&config.numbers())? { Ok(()) } else { Err(RegionError::Changed) }
}

/// Makes a handle to a region whose contents are as long as `offsets` says.
fn handle(region: Region, config: Config, offsets: Offsets) -> QueueHandle {
    if config.blocks.most != 0 {
        // It is address space for the most part.
        region.leave_out_of_dumps(offsets.block_pages, offsets.len - offsets.block_pages);
    }
    // SAFETY: the handle keeps the region, and with it the mapping, for as long as it keeps the
    // memory.
    let memory = unsafe { QueueMemory::new(region.contents(), config, offsets) };
    QueueHandle::new(memory, region)
}

/// Makes a handle from a descriptor, if its file is a queue of such items.
pub(super) fn attach(
    file: OwnedFd,
    layout: QueueLayout,
    name: &'static str,
    kind: Kind,
) -> Result<QueueHandle, RegionError> {
    let region = Region::attach(file, layout.region, name)?;
    let too_short =
        |needed: usize| RegionError::TooShort { len: region.len() as u64, needed: needed as u64 };
    if region.len() < size_of::<Control>() {
        return Err(too_short(size_of::<Control>()));
    }
    let unsuitable = |what: String| Err(RegionError::UnsuitableQueue { what });
    let Some(config) = Config::load(region.contents()) else {
        return unsuitable("its own account of itself has numbers that cannot be".into());
    };
    let offsets = check(&config)?;
    let is_of_size = match layout.items {
        ItemSize::Fixed(size) => config.size == size as u64,
        // The creator chose the maximum length of a message; `check` has found that it fits.
        ItemSize::Varying => true,
        ItemSize::Batches(size) => {
            config.batch != 0 && config.size == size as u64 * u64::from(config.batch)
        }
    };
    let has_batches = matches!(layout.items, ItemSize::Batches(_));
    let is_expected = config.is_joinable == (kind == Kind::Joinable)
        && config.is_broadcast() == (kind == Kind::Broadcast)
        && has_batches == (config.batch != 0)
        && config.align as usize == layout.region.align
        && is_of_size;
    if !is_expected {
        return unsuitable(format!("its own account of its items is not that of {name}"));
    }
    if config.items() != region.count() {
        return unsuitable(format!(
            "it says that {} items fit, its header {}",
            config.items(),
            region.count()
        ));
    }
    if offsets.len > region.len() {
        return Err(too_short(offsets.len));
    }
    agree(&region, &config)?;
    Ok(handle(region, config, offsets))
}

impl Pages for Region {
    fn allocate(&self, offset: usize, len: usize) -> io::Result<()> {
        Region::allocate(self, offset, len)
    }

    fn free(&self, offset: usize, len: usize) -> io::Result<()> {
        Region::free(self, offset, len)
    }
}

impl Config {
    fn numbers(&self) -> [u64; 15] {
        [
            self.capacity.into(),
            self.letters.into(),
            self.ids.into(),
            self.places.into(),
            self.attempts.into(),
            self.is_joinable.into(),
            self.size,
            self.align.into(),
            self.batch.into(),
            self.blocks.most.into(),
            self.blocks.longest,
            self.blocks.unit,
            self.blocks.units.into(),
            self.slow.policy.into(),
            self.slow.patience.into(),
        ]
    }

    fn store(&self, memory: &QueueMemory) {
        for (to, number) in memory.control().config.iter().zip(self.numbers()) {
            // Relaxed: an attach is ordered after it by `initialised` in the region's header.
            to.store(number, Relaxed);
        }
    }

    /// Reads the config at the beginning of a region, which is at least as long as the control
    /// words. The result is unchecked; it is `None` if no creator can have stored it.
    fn load(base: NonNull<u8>) -> Option<Self> {
        let control = base.cast::<Control>();
        // SAFETY: mapped, as the caller guarantees, page aligned, and all atomics.
        let control = unsafe { control.as_ref() };
        // Each is loaded once: this copy is checked and used.
        let numbers = control.config.each_ref().map(|number| number.load(Relaxed));
        let number = |index: usize| u32::try_from(numbers[index]).ok();
        Some(Config {
            capacity: number(0)?,
            letters: number(1)?,
            ids: number(2)?,
            places: number(3)?,
            attempts: number(4)?,
            is_joinable: match numbers[5] {
                0 => false,
                1 => true,
                _ => return None,
            },
            size: numbers[6],
            align: number(7)?,
            batch: number(8)?,
            blocks: BlockConfig {
                most: number(9)?,
                longest: numbers[10],
                unit: numbers[11],
                units: number(12)?,
            },
            slow: SlowConfig { policy: number(13)?, patience: number(14)? },
        })
    }
}

/// Checks the numbers that a creator chooses. `batch` is the most items of a batch.
pub(super) fn check_numbers(
    capacity: usize,
    dead_letters: usize,
    participants: usize,
    loans: usize,
    batch: Option<usize>,
) -> Result<(), RegionError> {
    let unsuitable = |what: String| Err(RegionError::UnsuitableQueue { what });
    if capacity == 0 || capacity > MOST_ITEMS {
        return unsuitable(format!("the capacity must be 1 to {MOST_ITEMS} items, not {capacity}"));
    }
    if participants == 0 {
        return unsuitable("there must be room for one participant at least".into());
    }
    let most_loans = MOST_PLACES as usize - 1;
    if loans == 0 || loans > most_loans {
        return unsuitable(format!("a participant must have 1 to {most_loans} loans, not {loans}"));
    }
    let most_batched = MOST_BATCHED as usize;
    if let Some(batch) = batch.filter(|batch| !(1..=most_batched).contains(batch)) {
        return unsuitable(format!("a batch must have 1 to {most_batched} items, not {batch}"));
    }
    // Wide enough for any of them.
    let slots =
        capacity as u128 + dead_letters as u128 + participants as u128 * (loans as u128 + 1);
    let most_slots = if batch.is_none() { INDEX } else { BATCH_SLOT };
    if slots > u128::from(most_slots) {
        return unsuitable(format!(
            "capacity, dead letters, and participants times loans + 1 come to {slots} slots, \
             of which there can be {most_slots}: take less of one of them"
        ));
    }
    Ok(())
}

/// Checks a config. Returns the offsets that follow from it.
fn check(config: &Config) -> Result<Offsets, RegionError> {
    let unsuitable = |what: String| RegionError::UnsuitableQueue { what };
    let loans = config.places.saturating_sub(1);
    check_numbers(
        config.items(),
        config.letters as usize,
        config.ids as usize,
        loans as usize,
        (config.batch != 0).then_some(config.batch as usize),
    )?;
    if config.is_joinable && config.batch != 0 {
        return Err(unsuitable("a joinable queue cannot have batches".into()));
    }
    if !config.is_joinable && config.letters != 0 {
        return Err(unsuitable("only a joinable queue can have dead letters".into()));
    }
    if u32::try_from(config.size).is_err() {
        return Err(unsuitable(format!(
            "an item can have {} bytes at most, not {}",
            u32::MAX,
            config.size
        )));
    }
    config.offsets().ok_or_else(|| {
        unsuitable(format!(
            "its items cannot be aligned to {} bytes, or it cannot have {:?} or {:?}",
            config.align, config.blocks, config.slow
        ))
    })
}
