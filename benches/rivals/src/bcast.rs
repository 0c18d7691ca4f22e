//! bcast: one writer, which overwrites what was not read.

#![allow(unsafe_code)]

use core::fmt;
use core::slice;
use std::ptr;

use bcast::{HEADER_SIZE, Reader, RingBuffer, Writer};
use crossproc_harness::broadcast::{Everybody, Row};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// The bytes of an item with its header.
const FRAME: usize = 16;

/// The ring in memory that is inherited. It stays mapped until the process ends.
pub struct Bcast(&'static [u8]);

impl fmt::Debug for Bcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bcast").finish_non_exhaustive()
    }
}

impl Everybody for Bcast {
    type Sender = Writer;
    type Receiver = Reader;

    fn new(row: &Row) -> Result<Self, String> {
        if !row.is_lossy {
            return Err("its writer does not wait".into());
        }
        if row.senders != 1 {
            return Err("one writer only".into());
        }
        let len = HEADER_SIZE + (row.capacity() * FRAME).next_power_of_two();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, which is never unmapped.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, MapFlags::SHARED) };
        let start = start.map_err(|error| error.to_string())?;
        // SAFETY: mapped for ever. The ring takes shared bytes and writes to them all the same.
        let bytes = unsafe { slice::from_raw_parts(start.cast::<u8>(), len) };
        // It sets the ring up. Nothing was written.
        drop(RingBuffer::new(bytes).into_writer());
        Ok(Bcast(bytes))
    }

    fn sender(&self) -> Writer {
        RingBuffer::new(self.0).join_writer()
    }

    fn receiver(&self) -> Reader {
        RingBuffer::new(self.0).into_reader()
    }

    #[inline]
    fn try_send(writer: &mut Writer, value: u64) -> bool {
        let mut claim = writer.claim(8, true);
        claim.get_buffer_mut().copy_from_slice(&value.to_ne_bytes());
        claim.commit();
        true
    }

    #[inline]
    fn try_recv(reader: &mut Reader) -> Option<u64> {
        let message = reader.receive_next()?.expect("nothing was overwritten");
        let mut value = [0; 8];
        let len = message.read(&mut value).expect("nothing was overwritten");
        assert_eq!(len, 8);
        Some(u64::from_ne_bytes(value))
    }
}
