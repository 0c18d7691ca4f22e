//! A publisher: it puts its messages into the mailboxes of all subscribers.

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::time::{Duration, Instant};

use clap::Args;
use crossproc::directory::{Address, DirectoryClient, DirectoryError};
use crossproc::{QueueError, Readable, WaitAnyError, wait_any_timeout};

use crate::link::{Link, Progress, RETRY};
use crate::mailbox::{self, Mailbox, owner};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What the messages are about
    #[arg(value_name = "TOPIC", value_parser = mailbox::word)]
    topic: String,

    /// What the others call it; its process id is added
    #[arg(long, value_name = "NAME", value_parser = mailbox::word)]
    name: Option<String>,

    /// Publishes numbers instead of the standard input, one in so many milliseconds
    #[arg(long, value_name = "MS")]
    every: Option<u64>,
}

pub(crate) fn run(at: Address, options: &Options) -> io::Result<()> {
    let mut publisher = Publisher {
        who: mailbox::name(options.name.as_deref(), "publisher"),
        topic: options.topic.clone(),
        link: Link::new(at),
        subscribers: BTreeMap::new(),
        published: 0,
    };
    let Some(every) = options.every.map(Duration::from_millis) else {
        for line in io::stdin().lock().lines() {
            publisher.publish(&line?);
        }
        return Ok(());
    };
    let mut due = Instant::now();
    loop {
        publisher.publish("tick");
        due += every;
        publisher.pass_time(due)?;
    }
}

struct Publisher {
    who: String,
    topic: String,
    link: Link,
    subscribers: BTreeMap<String, Subscriber>,
    published: u64,
}

struct Subscriber {
    mailbox: Mailbox,
    /// How many messages in a row the mailbox had no room for.
    lost: u64,
}

impl Publisher {
    /// Puts a message, with its publisher and its number, into each mailbox that has room for it.
    fn publish(&mut self, text: &str) {
        self.follow();
        self.published += 1;
        let message = format!("{} {} {} {text}", self.topic, self.who, self.published);
        self.subscribers.retain(|who, subscriber| subscriber.put(who, message.as_bytes()));
    }

    /// Finds out which subscribers have come and which have died. A subscriber that is missing in
    /// the directory is not gone for that: the directory may be a new one.
    fn follow(&mut self) {
        let (topic, subscribers) = (&self.topic, &mut self.subscribers);
        // The dead come first, as another subscriber may have the name by now.
        subscribers.retain(|who, subscriber| {
            let is_alive = subscriber.mailbox.is_alive();
            if !is_alive {
                crate::complain(&format!("{who} is gone"));
            }
            is_alive
        });
        self.link.tend(|client, deadline| take_new(client, topic, subscribers, deadline));
    }

    fn pass_time(&mut self, until: Instant) -> io::Result<()> {
        while let Some(left) =
            until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            match self.link.client() {
                Some(client) => match wait_any_timeout(&[&Readable(client)], left) {
                    Ok(_) | Err(WaitAnyError::TimedOut) => {}
                    Err(error) => return Err(error.into()),
                },
                None => std::thread::sleep(left.min(RETRY)),
            }
            self.follow();
        }
        Ok(())
    }
}

/// Gets the mailboxes that are not known yet, and asks the directory to report later changes.
fn take_new(
    client: &mut DirectoryClient,
    topic: &str,
    subscribers: &mut BTreeMap<String, Subscriber>,
    deadline: Instant,
) -> Result<Progress, DirectoryError> {
    let listing = client.list_deadline(&format!("{topic}/"), deadline)?;
    for who in listing.names.iter().filter_map(|name| owner(name, topic)) {
        if subscribers.contains_key(who) {
            continue;
        }
        match Mailbox::get(client, topic, who, deadline) {
            Ok(mailbox) => {
                drop(subscribers.insert(who.to_owned(), Subscriber { mailbox, lost: 0 }));
            }
            // The subscriber went as soon as it had come.
            Err(DirectoryError::NotFound { .. }) => {}
            // This is no mailbox, and it is not the directory's fault.
            Err(error @ DirectoryError::OtherHandle { .. }) => {
                crate::complain(&format!("{who}: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    match client.try_wait_for_change(listing.revision) {
        // Something has changed meanwhile. It is left for the next call, since changes may come all
        // the time.
        Ok(_) => Ok(Progress::Behind),
        Err(DirectoryError::Unchanged { .. }) => Ok(Progress::Done),
        Err(error) => Err(error),
    }
}

impl Subscriber {
    /// Puts the message if there is room. Returns whether the mailbox is still usable.
    fn put(&mut self, who: &str, message: &[u8]) -> bool {
        match self.mailbox.messages.try_put(message) {
            Ok(()) if self.lost > 0 => {
                crate::complain(&format!("{who} has lost {} messages", self.lost));
                self.lost = 0;
            }
            Ok(()) => {}
            Err(QueueError::Full) => self.lost += 1,
            Err(error) => {
                crate::complain(&format!("{who}: {error}"));
                return !matches!(error, QueueError::Closed | QueueError::Spoiled);
            }
        }
        true
    }
}
