//! Mailboxes, and their names in the directory.
//!
//! The mailbox of the subscriber `WHO` to `TOPIC` is there as `TOPIC/WHO`. The lock that the
//! subscriber holds is there as `TOPIC/WHO/alive`.

use std::io;
use std::process;
use std::time::Instant;

use crossproc::directory::{DirectoryClient, DirectoryError};
use crossproc::{ByteQueue, Lock, Shm};

/// How many messages a mailbox has room for.
const CAPACITY: usize = 1_024;
/// The longest message with its prefix, in bytes.
const MAX_LEN: usize = 4_096;
const ALIVE: &str = "/alive";

/// A mailbox, as seen by its owner or by a publisher.
pub(crate) struct Mailbox {
    pub(crate) messages: ByteQueue,
    /// The lock that the mailbox's owner holds.
    pub(crate) alive: Shm<Lock<()>>,
}

impl Mailbox {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Mailbox {
            messages: ByteQueue::with_max_len(CAPACITY, MAX_LEN)?,
            alive: Shm::new(Lock::new(()))?,
        })
    }

    /// Puts the mailbox into the directory, for as long as the client is connected.
    pub(crate) fn put(
        &self,
        client: &mut DirectoryClient,
        topic: &str,
        who: &str,
        deadline: Instant,
    ) -> Result<(), DirectoryError> {
        // The lock comes first, so that a publisher that finds the mailbox finds the lock.
        client.put_deadline(&format!("{topic}/{who}{ALIVE}"), &self.alive, deadline)?;
        client.put_deadline(&format!("{topic}/{who}"), &self.messages, deadline)
    }

    /// Gets a mailbox from the directory.
    pub(crate) fn get(
        client: &mut DirectoryClient,
        topic: &str,
        who: &str,
        deadline: Instant,
    ) -> Result<Self, DirectoryError> {
        let messages = client.get_deadline(&format!("{topic}/{who}"), deadline)?;
        Ok(Mailbox {
            messages,
            alive: client.get_deadline(&format!("{topic}/{who}{ALIVE}"), deadline)?,
        })
    }

    /// Returns whether the mailbox's owner is alive.
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.owner().is_some()
    }
}

/// Returns the owner's name, if this is the name of a mailbox under the topic.
pub(crate) fn owner<'n>(name: &'n str, topic: &str) -> Option<&'n str> {
    let who = name.strip_prefix(topic)?.strip_prefix('/')?;
    (!who.contains('/')).then_some(who)
}

/// Checks a topic or a name: it must fit between slashes.
pub(crate) fn word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['/', ' ', '\n']) {
        Err("it may not be empty, nor have a slash or a space".into())
    } else {
        Ok(text.to_owned())
    }
}

/// Returns the name of this process. No other process has the same name.
pub(crate) fn name(given: Option<&str>, role: &str) -> String {
    format!("{}.{}", given.unwrap_or(role), process::id())
}
