//! What is written to a slot and read from it: a value of plain data, or bytes.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::NonNull;
// The models have payloads of their own.
use core::sync::atomic::AtomicU64;

use crossproc_sys::atomic::Ordering::Relaxed;

use super::error::{PutError, PutManyError, QueueError};
use super::participation::QueueHandle;
use super::ring::memory::QueueMemory;
use crate::memory::shared::Plain;
use crate::wait::Wait;

/// The `wait` of an operation that does not wait.
pub(super) const AT_ONCE: Option<fn() -> Wait> = None;

#[inline(always)]
pub(super) fn put_value<T: Plain>(
    handle: &QueueHandle,
    value: T,
    wait: Option<impl FnOnce() -> Wait>,
) -> Result<(), PutError<T>> {
    let memory = handle.memory();
    let write = |payload: NonNull<u8>, slot| {
        memory.prepare(slot);
        // SAFETY: the payload belongs to a slot of this participant. It has room for a `T`, and is
        // aligned for it: the config was made, or checked, for `T`.
        unsafe { payload.cast::<T>().write(value) };
    };
    let result = handle.with(|participation| participation.put(wait, write));
    result.and_then(|result| result).map_err(|error| PutError { value, error })
}

pub(super) fn put_values<T: Plain>(
    handle: &QueueHandle,
    values: &[T],
    wait: Option<impl FnOnce() -> Wait>,
) -> Result<(), PutManyError> {
    let memory = handle.memory();
    let write = |payload: NonNull<u8>, slot, indices: Range<usize>| {
        memory.prepare(slot);
        let value = NonNull::from(&values[indices.start]);
        // SAFETY: as in `put_value`. The item is not in the slot: no reference is left to what lies
        // in a place that is not in use. It is copied from where it lies, because it may be larger
        // than the stack.
        unsafe { payload.cast::<T>().copy_from_nonoverlapping(value, 1) };
    };
    match handle.with(|participation| participation.put_many(values.len(), 1, wait, write)) {
        Ok((_, None)) => Ok(()),
        Ok((put, Some(error))) => Err(PutManyError { put, error }),
        Err(error) => Err(PutManyError { put: 0, error }),
    }
}

/// Appends an item to `values`, copied from where it lies: it may be larger than the stack.
#[inline]
pub(super) fn push<T: Plain>(values: &mut Vec<T>, payload: NonNull<u8>) {
    values.reserve(1);
    let end = NonNull::from(&mut values.spare_capacity_mut()[0]).cast::<T>();
    // SAFETY: the payload belongs to a slot of this participant. It holds a `T`, and any bytes make
    // one. The vector has room for it, and is in other memory.
    unsafe { end.copy_from_nonoverlapping(payload.cast(), 1) };
    // SAFETY: one item more, which was reserved and written above.
    unsafe { values.set_len(values.len() + 1) };
}

/// Copies an item out of its slot.
#[inline]
pub(super) fn read<T: Plain>(payload: NonNull<u8>) -> T {
    // SAFETY: the payload belongs to a slot of this participant. It holds a `T`, and any bytes make
    // one.
    unsafe { payload.cast::<T>().read() }
}

pub(super) fn put_bytes(
    handle: &QueueHandle,
    message: &[u8],
    wait: Option<impl FnOnce() -> Wait>,
) -> Result<(), QueueError> {
    let memory = handle.memory();
    check_len(handle, message.len())?;
    let write = |payload: NonNull<u8>, slot: usize| {
        memory.prepare(slot);
        // Relaxed: the exchange orders it.
        memory.payload_len(slot).store(message.len() as u32, Relaxed);
        // SAFETY: the payload belongs to a slot of this participant, or to its block, and has as
        // many bytes: checked above. It is shared memory; the message is not in it, or is in
        // another slot or block.
        unsafe { payload.copy_from(NonNull::from(message).cast(), message.len()) };
    };
    let units = memory.units(message.len());
    handle.with(|participation| {
        if units != 0 {
            return participation.put_in_block(units, wait, write);
        }
        participation.put(wait, |payload, slot| {
            memory.note_in_slot(slot);
            write(payload, slot);
        })
    })?
}

/// Returns the length of the longest message.
pub(super) fn max_len(handle: &QueueHandle) -> usize {
    let config = &handle.memory().config;
    config.size.max(config.blocks.longest) as usize
}

pub(super) fn check_len(handle: &QueueHandle, len: usize) -> Result<(), QueueError> {
    let max = max_len(handle);
    if len > max { Err(QueueError::TooLong { len, max }) } else { Ok(()) }
}

const WORD: usize = size_of::<u64>();

/// Returns the words of a slot's payload. They may be another participant's at the same time, in a
/// queue of batches and in a broadcast, where all accesses are of this size and atomic. Only the
/// owner of a batch reads them otherwise, and nobody writes meanwhile.
#[inline(always)]
fn words(memory: &QueueMemory, slot: usize) -> &[AtomicU64] {
    // The slot's stride is rounded up to words, so its payload is, too.
    let count = (memory.config.size as usize).div_ceil(WORD);
    let payload = memory.payload(slot).cast::<AtomicU64>();
    // SAFETY: mapped as long as the memory, and aligned: the header of a slot has 8 or 16 bytes,
    // and any greater alignment of an item is a multiple of eight. Valid whatever they hold, and
    // atomics may change behind a shared reference.
    unsafe { NonNull::slice_from_raw_parts(payload, count).as_ref() }
}

/// Writes the bytes of a batch into a slot of this participant's own, which others may still be
/// copying from: see `ring::batches`.
#[inline]
pub(super) fn copy_in(memory: &QueueMemory, slot: usize, bytes: &[u8]) {
    assert!(bytes.len() <= memory.config.size as usize, "there is no room for such a batch");
    let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % WORD);
    let (words, last) = words(memory, slot).split_at(whole.len() / WORD);
    // Relaxed: the put orders it.
    for (word, bytes) in words.iter().zip(whole.chunks_exact(WORD)) {
        word.store(u64::from_ne_bytes(bytes.try_into().unwrap()), Relaxed);
    }
    if !rest.is_empty() {
        let mut bytes = [0; WORD];
        bytes[..rest.len()].copy_from_slice(rest);
        last[0].store(u64::from_ne_bytes(bytes), Relaxed);
    }
}

/// Copies bytes of a batch from `from` on, as many as `into` has, while another participant may
/// write there. The result is valid only if the slot is found to have been the entry's all the
/// time: see `ring::batches`.
#[inline]
pub(super) fn copy_out(
    memory: &QueueMemory,
    slot: usize,
    from: usize,
    into: &mut [MaybeUninit<u8>],
) {
    assert!(from + into.len() <= memory.config.size as usize, "items that are not in a batch");
    let words = &words(memory, slot)[from / WORD..];
    // Relaxed: a fence follows.
    let load = |word: &AtomicU64| word.load(Relaxed).to_ne_bytes().map(MaybeUninit::new);
    // The rest of the word in which the first item begins.
    let skipped = from % WORD;
    let (head, body) = into.split_at_mut(((WORD - skipped) % WORD).min(into.len()));
    let words = match head {
        [] => words,
        head => {
            head.copy_from_slice(&load(&words[0])[skipped..][..head.len()]);
            &words[1..]
        }
    };
    let (whole, rest) = body.split_at_mut(body.len() - body.len() % WORD);
    let (words, last) = words.split_at(whole.len() / WORD);
    for (word, bytes) in words.iter().zip(whole.chunks_exact_mut(WORD)) {
        bytes.copy_from_slice(&load(word));
    }
    if !rest.is_empty() {
        rest.copy_from_slice(&load(&last[0])[..rest.len()]);
    }
}
