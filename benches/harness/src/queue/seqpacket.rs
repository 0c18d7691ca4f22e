//! A pair of Unix sockets that keep messages apart.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use super::message::{value_of, with_message, with_value};
use super::{MessageQueue, Offers, TIMEOUT};

/// Both ends, which every process has.
#[derive(Debug)]
pub struct SeqPacket<const WORDS: usize> {
    receiver: OwnedFd,
    sender: OwnedFd,
}

/// About how many bytes the kernel counts for a message beside its own.
const OVERHEAD: usize = 768;

impl<const WORDS: usize> MessageQueue for SeqPacket<WORDS> {
    const OFFERS: Offers = Offers {
        processes: true,
        threads: false,
        many: true,
        blocking_get: true,
        batches: false,
        alone: usize::MAX,
        remark: "about the capacity, as far as net.core.wmem_max lets it",
    };

    fn new(capacity: usize) -> Result<Self, String> {
        let pair =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (receiver, sender) = pair.map_err(|error| error.to_string())?;
        // The kernel doubles this size.
        set_socket_send_buffer_size(&sender, capacity * (WORDS * 8 + OVERHEAD) / 2)
            .map_err(|error| error.to_string())?;
        set_socket_timeout(&receiver, Timeout::Recv, Some(TIMEOUT))
            .map_err(|error| error.to_string())?;
        Ok(SeqPacket { receiver, sender })
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        self.send(value, SendFlags::DONTWAIT)
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        self.receive(RecvFlags::DONTWAIT)
    }

    #[inline]
    fn put(&self, value: u64) -> bool {
        self.send(value, SendFlags::empty())
    }

    #[inline]
    fn get_timeout(&self) -> Option<u64> {
        self.receive(RecvFlags::empty())
    }
}

impl<const WORDS: usize> SeqPacket<WORDS> {
    #[inline]
    fn send(&self, value: u64, flags: SendFlags) -> bool {
        with_value::<WORDS, _>(value, |message| match send(&self.sender, message, flags) {
            Ok(sent) => sent == message.len(),
            Err(Errno::AGAIN) => false,
            Err(error) => panic!("a socket cannot send: {error}"),
        })
    }

    #[inline]
    fn receive(&self, flags: RecvFlags) -> Option<u64> {
        with_message::<WORDS, _>(|message| match recv(&self.receiver, &mut *message, flags) {
            Ok((received, _)) => {
                assert_eq!(received, message.len());
                Some(value_of(message))
            }
            Err(Errno::AGAIN) => None,
            Err(error) => panic!("a socket cannot receive: {error}"),
        })
    }
}
