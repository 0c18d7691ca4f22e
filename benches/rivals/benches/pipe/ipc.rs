//! ipc-channel's channels of bytes.

#![allow(unsafe_code)]

use crossproc_harness::pipe::ends::End;
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender};

/// Two channels of bytes, one each way.
pub(crate) struct IpcChannel(IpcBytesSender, IpcBytesReceiver);

// SAFETY: one thread of each process uses it, and processes share only descriptors.
unsafe impl Sync for IpcChannel {}

impl End for IpcChannel {
    const MAX: usize = usize::MAX;

    fn pair() -> (Self, Self) {
        let (there, one) = ipc::bytes_channel().unwrap();
        let (back, other) = ipc::bytes_channel().unwrap();
        (IpcChannel(there, other), IpcChannel(back, one))
    }

    #[inline(always)]
    fn send(&self, message: &[u8]) {
        self.0.send(message).unwrap();
    }

    #[inline(always)]
    fn recv(&self, buffer: &mut [u8]) {
        assert_eq!(self.1.recv().unwrap().len(), buffer.len());
    }
}
