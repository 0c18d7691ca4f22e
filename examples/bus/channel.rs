//! Channels, and their names in the directory.
//!
//! The channel of the publisher `WHO` of `TOPIC` is there as `TOPIC/WHO`. The lock that the
//! publisher holds is there as `TOPIC/WHO/alive`.

use std::io;
use std::process;
use std::time::Instant;

use crossproc::directory::{DirectoryClient, DirectoryError};
use crossproc::{Broadcast, BroadcastOptions, Lock, Shm, SlowSubscribers};

/// How many messages a channel keeps.
const CAPACITY: usize = 1_024;
/// The longest message with its prefix, in bytes.
const MAX_LEN: usize = 4_096;
const ALIVE: &str = "/alive";

/// A publisher's channel, as seen by the publisher or by a subscriber.
pub(crate) struct Channel {
    pub(crate) messages: Broadcast<[u8]>,
    /// The lock that the publisher holds.
    pub(crate) alive: Shm<Lock<()>>,
}

impl Channel {
    pub(crate) fn new() -> io::Result<Self> {
        let options = BroadcastOptions::new().slow_subscribers(SlowSubscribers::Lag);
        Ok(Channel {
            messages: options.create_bytes(CAPACITY, MAX_LEN)?,
            alive: Shm::new(Lock::new(()))?,
        })
    }

    /// Puts the channel into the directory, for as long as the client is connected.
    pub(crate) fn put(
        &self,
        client: &mut DirectoryClient,
        topic: &str,
        who: &str,
        deadline: Instant,
    ) -> Result<(), DirectoryError> {
        // The lock comes first, so that a subscriber that finds the channel finds the lock.
        client.put_deadline(&format!("{topic}/{who}{ALIVE}"), &self.alive, deadline)?;
        client.put_deadline(&format!("{topic}/{who}"), &self.messages, deadline)
    }

    /// Gets a channel from the directory.
    pub(crate) fn get(
        client: &mut DirectoryClient,
        name: &str,
        deadline: Instant,
    ) -> Result<Self, DirectoryError> {
        let messages = client.get_deadline(name, deadline)?;
        Ok(Channel { messages, alive: client.get_deadline(&format!("{name}{ALIVE}"), deadline)? })
    }
}

/// Returns whether this is the name of a channel under the topic.
pub(crate) fn is_of(name: &str, topic: &str) -> bool {
    let who = name.strip_prefix(topic).and_then(|rest| rest.strip_prefix('/'));
    who.is_some_and(|who| !who.contains('/'))
}

/// Checks a topic or a name: it must fit between slashes.
pub(crate) fn word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['/', ' ', '\n']) {
        Err("it may not be empty, nor have a slash or a space".into())
    } else {
        Ok(text.to_owned())
    }
}

/// Returns the name of this process as a publisher. No other process has the same name.
pub(crate) fn name(given: Option<&str>) -> String {
    format!("{}.{}", given.unwrap_or("publisher"), process::id())
}
