//! Mailboxes, and what they are called in the directory.
//!
//! The subscriber `WHO` to `TOPIC` has there its mailbox as `TOPIC/WHO`, and as `TOPIC/WHO/alive`
//! the lock that it holds.

use std::io;
use std::process;
use std::time::Instant;

use crossproc::{ByteQueue, DirectoryClient, DirectoryError, Lock, Shm};

/// How many messages there is room for.
const CAPACITY: usize = 1_024;
/// How long a message may be, in bytes, with what stands before it.
const MAX_LEN: usize = 4_096;
const ALIVE: &str = "/alive";

/// A mailbox, seen from either side.
pub(crate) struct Mailbox {
    pub(crate) messages: ByteQueue,
    /// Its owner holds it.
    pub(crate) alive: Shm<Lock<()>>,
}

impl Mailbox {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Mailbox {
            messages: ByteQueue::with_max_len(CAPACITY, MAX_LEN)?,
            alive: Shm::new(Lock::new(()))?,
        })
    }

    /// Puts it into the directory, for as long as the client is connected.
    pub(crate) fn put(
        &self,
        client: &mut DirectoryClient,
        topic: &str,
        who: &str,
        deadline: Instant,
    ) -> Result<(), DirectoryError> {
        // Who finds the mailbox finds the lock.
        client.put_deadline(&format!("{topic}/{who}{ALIVE}"), &self.alive, deadline)?;
        client.put_deadline(&format!("{topic}/{who}"), &self.messages, deadline)
    }

    /// Takes it from the directory.
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

    /// Whether its owner lives.
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.owner().is_some()
    }
}

/// Who has a mailbox, by the names under a topic.
pub(crate) fn owner<'n>(name: &'n str, topic: &str) -> Option<&'n str> {
    let who = name.strip_prefix(topic)?.strip_prefix('/')?;
    (!who.contains('/')).then_some(who)
}

/// A topic, or a name: what can stand between slashes.
pub(crate) fn word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['/', ' ', '\n']) {
        Err("it may not be empty, nor have a slash or a space".into())
    } else {
        Ok(text.to_owned())
    }
}

/// What this process is called: no other one has the same.
pub(crate) fn name(given: Option<&str>, role: &str) -> String {
    format!("{}.{}", given.unwrap_or(role), process::id())
}
