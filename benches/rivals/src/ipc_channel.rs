//! Servo's ipc-channel: packets of serialised values, or of bytes, over a Unix socket.

#![allow(unsafe_code)]

use core::fmt;

use ipc_channel::TryRecvError;
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcReceiver, IpcSender};

use crossproc_harness::queue::message::{value_of, with_value};
use crossproc_harness::queue::{MessageQueue, Offers, TIMEOUT};

/// A channel of values, and a channel of bytes for everything larger.
pub struct IpcChannel<const WORDS: usize> {
    values: (IpcSender<u64>, IpcReceiver<u64>),
    bytes: (IpcBytesSender, IpcBytesReceiver),
}

// SAFETY: one thread of each process uses it: `OFFERS.threads` is false. Processes share only
// descriptors.
unsafe impl<const WORDS: usize> Sync for IpcChannel<WORDS> {}

impl<const WORDS: usize> MessageQueue for IpcChannel<WORDS> {
    const OFFERS: Offers = Offers {
        processes: true,
        threads: false,
        many: false,
        blocking_get: WORDS == 1,
        batches: false,
        alone: 64 << 10,
        remark: "one receiver only; every send waits; as many messages as the socket's default \
            buffer holds",
    };

    fn new(_capacity: usize) -> Result<Self, String> {
        let values = ipc::channel().map_err(|error| error.to_string())?;
        let bytes = ipc::bytes_channel().map_err(|error| error.to_string())?;
        Ok(IpcChannel { values, bytes })
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        if WORDS == 1 {
            self.values.0.send(value).expect("cannot send");
        } else {
            with_value::<WORDS, _>(value, |message| {
                self.bytes.0.send(message).expect("cannot send")
            });
        }
        true
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        let received = if WORDS == 1 {
            self.values.1.try_recv()
        } else {
            self.bytes.1.try_recv().map(|message| value_of(&message))
        };
        received_or_nothing(received)
    }

    #[inline]
    fn get_timeout(&self) -> Option<u64> {
        received_or_nothing(self.values.1.try_recv_timeout(TIMEOUT))
    }
}

#[inline]
fn received_or_nothing(received: Result<u64, TryRecvError>) -> Option<u64> {
    match received {
        Ok(value) => Some(value),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::IpcError(error)) => panic!("cannot receive: {error}"),
    }
}

impl<const WORDS: usize> fmt::Debug for IpcChannel<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IpcChannel").finish_non_exhaustive()
    }
}
