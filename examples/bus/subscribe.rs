//! A subscriber: it prints what the publishers of its topics send.

use std::collections::btree_map::{BTreeMap, Entry};
use std::io::{self, Write};
use std::time::Instant;

use clap::Args;
use crossproc::directory::{Address, DirectoryClient, DirectoryError};
use crossproc::{
    Lock, QueueError, Readable, Shm, Subscriber, WaitAnyError, Waitable, wait_any, wait_any_timeout,
};

use crate::channel::{self, Channel};
use crate::link::{Link, Progress, RETRY};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to subscribe to
    #[arg(value_name = "TOPIC", required = true, value_parser = channel::word)]
    topics: Vec<String>,
}

/// A channel that this process has subscribed to.
struct Subscription {
    messages: Subscriber<[u8]>,
    /// The lock that the publisher holds.
    alive: Shm<Lock<()>>,
}

type Subscriptions = BTreeMap<String, Subscription>;

pub(crate) fn run(at: Address, options: &Options) -> io::Result<()> {
    let mut link = Link::new(at);
    let mut subscriptions = Subscriptions::new();
    loop {
        link.tend(|client, deadline| {
            // What changes while the topics are listed is seen the next time.
            let mut revision = None;
            for topic in &options.topics {
                let listing = client.list_deadline(&format!("{topic}/"), deadline)?;
                revision.get_or_insert(listing.revision);
                for name in listing.names.iter().filter(|name| channel::is_of(name, topic)) {
                    if let Entry::Vacant(place) = subscriptions.entry(name.clone()) {
                        if let Some(subscription) = subscribe(client, name, deadline)? {
                            place.insert(subscription);
                        }
                    }
                }
            }
            match client.try_wait_for_change(revision.expect("there is a topic")) {
                // It is left for the next call, since changes may come all the time.
                Ok(_) => Ok(Progress::Behind),
                Err(DirectoryError::Unchanged { .. }) => Ok(Progress::Done),
                Err(error) => Err(error),
            }
        });
        if !link.is_behind() {
            wait(&link, &subscriptions)?;
        }
        print_all(&mut subscriptions)?;
    }
}

/// Subscribes to the channel of this name, if there is one.
fn subscribe(
    client: &mut DirectoryClient,
    name: &str,
    deadline: Instant,
) -> Result<Option<Subscription>, DirectoryError> {
    let Channel { messages, alive } = match Channel::get(client, name, deadline) {
        Ok(channel) => channel,
        // The publisher went as soon as it had come.
        Err(DirectoryError::NotFound { .. }) => return Ok(None),
        // This is no channel, and it is not the directory's fault.
        Err(error @ DirectoryError::OtherHandle { .. }) => {
            crate::complain(&format!("{name}: {error}"));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    match messages.subscribe_from_oldest() {
        Ok(messages) => Ok(Some(Subscription { messages, alive })),
        Err(error) => {
            crate::complain(&format!("{name}: {error}"));
            Ok(None)
        }
    }
}

/// Waits until there is a message, a publisher ends, or the directory has news.
fn wait(link: &Link, subscriptions: &Subscriptions) -> io::Result<()> {
    let all = subscriptions.values();
    let waits: Vec<_> = all.map(|it| (it.messages.next_item(), it.alive.owner_death())).collect();
    let directory = link.client().map(Readable);
    let mut sources: Vec<&dyn Waitable> = Vec::new();
    for (item, death) in &waits {
        sources.extend([item as &dyn Waitable, death]);
    }
    let woken = match &directory {
        Some(readable) => {
            sources.push(readable);
            wait_any(&sources)
        }
        None if sources.is_empty() => {
            std::thread::sleep(RETRY);
            return Ok(());
        }
        None => wait_any_timeout(&sources, RETRY),
    };
    match woken {
        Ok(_) | Err(WaitAnyError::TimedOut) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Prints what is there, and ends the subscriptions to publishers that have ended.
fn print_all(subscriptions: &mut Subscriptions) -> io::Result<()> {
    let mut output = io::stdout().lock();
    let mut failed = None;
    subscriptions.retain(|name, subscription| match print(name, subscription, &mut output) {
        Ok(goes_on) => goes_on,
        Err(error) => {
            failed = Some(error);
            true
        }
    });
    failed.map_or_else(|| output.flush(), Err)
}

/// Prints what is there of one publisher. Returns whether there may be more.
fn print(name: &str, subscription: &mut Subscription, output: &mut impl Write) -> io::Result<bool> {
    // It comes first: what the publisher has sent until then is there.
    let is_alive = subscription.alive.owner().is_some();
    loop {
        match subscription.messages.try_recv() {
            Ok(message) => {
                output.write_all(&message)?;
                output.write_all(b"\n")?;
            }
            Err(QueueError::Lagged { missed }) => {
                crate::complain(&format!("{name}: {missed} messages were missed"));
            }
            Err(QueueError::Empty) if is_alive => return Ok(true),
            Err(QueueError::Empty) => {
                crate::complain(&format!("{name}: the publisher is gone"));
                return Ok(false);
            }
            Err(error) => {
                crate::complain(&format!("{name}: {error}"));
                return Ok(false);
            }
        }
    }
}
