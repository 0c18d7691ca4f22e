//! [`Own`]: sockets that forked children do not get.

#![allow(unsafe_code)]

use core::ops::Deref;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crossproc_sys::unshared::Unshared;

use super::closer::Foreign;
use crate::connection::Connection;

/// A server's or a client's socket, which forked children do not get: see
/// `crossproc_sys::unshared`.
#[derive(Debug)]
pub(super) struct Own<T> {
    // Dropped in this order.
    unshared: Unshared,
    socket: T,
}

/// An owner of one descriptor, the same from its creation until its drop.
pub(super) trait Socket: AsFd {}
impl Socket for OwnedFd {}
impl Socket for Foreign {}
impl Socket for Connection {}

impl<T: Socket> Own<T> {
    pub(super) fn new(socket: T) -> io::Result<Self> {
        // SAFETY: `socket` has the descriptor until it is dropped (`Socket`), and that is after
        // `unshared` (`Own`).
        let unshared = unsafe { Unshared::new(socket.as_fd()) }?;
        Ok(Own { unshared, socket })
    }

    /// Closes the socket, without a moment in which a child could get it. A dead end is left in its
    /// place.
    pub(super) fn close(&self) {
        self.unshared.close();
    }
}

impl Own<OwnedFd> {
    pub(super) fn into_connection(self) -> Own<Connection> {
        // The connection has the same descriptor.
        Own { unshared: self.unshared, socket: Connection::of(self.socket) }
    }
}

impl<T> Deref for Own<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.socket
    }
}
