//! [`Service`]: what a directory and its serving thread share.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossproc_sys::descriptor::above_standard;
use crossproc_sys::per_process::Current;
use crossproc_sys::poll::Bell;
use crossproc_sys::retry::retry;
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

use super::claim::Claim;
use super::closer::{Closer, Foreign};
use super::options::Rules;
use super::own::Own;
use super::state::Registry;

/// A directory's address, what is in it, and who may use it.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) listener: Own<OwnedFd>,
    /// The process that bound it.
    pub(super) process: &'static Current<()>,
    pub(super) claim: Claim,
    pub(super) rules: Rules,
    pub(super) state: Mutex<Registry<Arc<Served>>>,
    /// Held by the serving thread.
    pub(super) serving: Mutex<()>,
    pub(super) is_closed: AtomicBool,
    pub(super) bell: Arc<Bell>,
    pub(super) closer: Arc<Closer>,
}

/// A served handle.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) fd: Foreign,
    /// Its kind, in the words of the participant that put it.
    pub(super) kind: String,
}

impl Service {
    /// Refuses connections from now on, and ends those that were not accepted yet. The closer
    /// closes what lies in them, because that may take as long as strangers like.
    pub(super) fn turn_away(&self) {
        // It cannot fail for a listening socket.
        let _ = shutdown(&*self.listener, Shutdown::Both);
        loop {
            match retry(|| accept_with(&*self.listener, SocketFlags::CLOEXEC))
                .and_then(above_standard)
            {
                Ok(socket) => drop(Foreign::new(socket, &self.closer)),
                Err(Errno::CONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    /// Locks the registry. No thread panics while it holds this lock, or holds it for long.
    pub(super) fn state(&self) -> MutexGuard<'_, Registry<Arc<Served>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.turn_away();
        self.listener.close();
        self.closer.finish();
    }
}
