//! shaq's broadcast: a ring for each producer, whose cells wait until each consumer has read them.

#![allow(unsafe_code)]

use core::fmt;
use std::fs::File;

use crossproc_harness::broadcast::{Everybody, Row};
use rustix::fs::{MemfdFlags, memfd_create};
use shaq::broadcast::{Broadcast, BroadcastConfig, Consumer, Producer};

/// The broadcast in a memfd, whose mapping is inherited.
pub struct ShaqBroadcast(Broadcast<u64>);

impl fmt::Debug for ShaqBroadcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShaqBroadcast").finish_non_exhaustive()
    }
}

impl Everybody for ShaqBroadcast {
    type Sender = Producer<u64>;
    type Receiver = Consumer<u64>;

    fn new(row: &Row) -> Result<Self, String> {
        if row.is_lossy {
            return Err("its producers wait".into());
        }
        let file = File::from(
            memfd_create("shaq", MemfdFlags::CLOEXEC).map_err(|error| error.to_string())?,
        );
        let config = BroadcastConfig {
            // All of the producers' rings together.
            capacity: row.capacity() / row.senders,
            producer_slots: row.senders,
            consumer_slots: row.receivers,
        };
        // SAFETY: the file is new, so it is set up once, here. The payload is an integer, which all
        // processes can read.
        let made = unsafe { Broadcast::create(&file, config) };
        made.map(ShaqBroadcast).map_err(|error| error.to_string())
    }

    fn sender(&self) -> Producer<u64> {
        self.0.producer().expect("there is a lane for each")
    }

    fn receiver(&self) -> Consumer<u64> {
        self.0.consumer().expect("there is a place for each")
    }

    #[inline]
    fn try_send(producer: &mut Producer<u64>, value: u64) -> bool {
        producer.try_write(value).is_ok()
    }

    #[inline]
    fn try_recv(consumer: &mut Consumer<u64>) -> Option<u64> {
        consumer.try_read()
    }
}
