//! A publisher: it sends its messages to everybody who has subscribed to its channel.

use std::io::{self, BufRead};
use std::time::{Duration, Instant};

use clap::Args;
use crossproc::directory::Address;
use crossproc::{Readable, WaitAnyError, wait_any_timeout};

use crate::channel::{self, Channel};
use crate::link::{Link, Progress, RETRY};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What the messages are about
    #[arg(value_name = "TOPIC", value_parser = channel::word)]
    topic: String,

    /// What the others call it; its process id is added
    #[arg(long, value_name = "NAME", value_parser = channel::word)]
    name: Option<String>,

    /// Publishes numbers instead of the standard input, one in so many milliseconds
    #[arg(long, value_name = "MS")]
    every: Option<u64>,
}

pub(crate) fn run(at: Address, options: &Options) -> io::Result<()> {
    let channel = Channel::new()?;
    // Held until this process ends, however it ends.
    let _alive = channel.alive.lock()?;
    let mut publisher = Publisher {
        who: channel::name(options.name.as_deref()),
        topic: &options.topic,
        link: Link::new(at),
        channel: &channel,
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

struct Publisher<'a> {
    who: String,
    topic: &'a str,
    link: Link,
    channel: &'a Channel,
    published: u64,
}

impl Publisher<'_> {
    /// Sends a message, with its publisher and its number.
    fn publish(&mut self, text: &str) {
        self.announce();
        self.published += 1;
        let message = format!("{} {} {} {text}", self.topic, self.who, self.published);
        if let Err(error) = self.channel.messages.send(message.as_bytes()) {
            crate::complain(&format!("message {}: {error}", self.published));
        }
    }

    /// Sees to it that the channel is in the directory.
    fn announce(&mut self) {
        let Publisher { who, topic, link, channel, .. } = self;
        link.tend(|client, deadline| {
            channel.put(client, topic, who, deadline)?;
            Ok(Progress::Done)
        });
    }

    fn pass_time(&mut self, until: Instant) -> io::Result<()> {
        while let Some(left) =
            until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            match self.link.client() {
                // A directory that becomes readable without a request is gone.
                Some(client) => match wait_any_timeout(&[&Readable(client)], left) {
                    Ok(_) | Err(WaitAnyError::TimedOut) => {}
                    Err(error) => return Err(error.into()),
                },
                None => std::thread::sleep(left.min(RETRY)),
            }
            self.announce();
        }
        Ok(())
    }
}
