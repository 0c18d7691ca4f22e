//! A subscriber: it prints what comes into its mailbox.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Instant;

use clap::Args;
use crossproc::directory::{Address, DirectoryClient, DirectoryError};
use crossproc::{Readable, WaitAnyError, wait_any, wait_any_timeout};

use crate::link::{Link, Progress, RETRY};
use crate::mailbox::{self, Mailbox};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to subscribe to
    #[arg(value_name = "TOPIC", required = true, value_parser = mailbox::word)]
    topics: Vec<String>,

    /// What the others call it; its process id is added
    #[arg(long, value_name = "NAME", value_parser = mailbox::word)]
    name: Option<String>,
}

pub(crate) fn run(at: Address, options: &Options) -> io::Result<()> {
    let who = mailbox::name(options.name.as_deref(), "subscriber");
    let mailbox = Mailbox::new()?;
    // Held until this process ends, however it ends.
    let _alive = mailbox.alive.lock()?;
    let mut link = Link::new(at);
    loop {
        link.tend(|client, deadline| announce(client, &mailbox, options, &who, deadline));
        // A directory that becomes readable without a request is gone.
        let woken = match link.client() {
            Some(client) => wait_any(&[&mailbox.messages, &Readable(client)]),
            None => wait_any_timeout(&[&mailbox.messages], RETRY),
        };
        match woken {
            Ok(_) | Err(WaitAnyError::TimedOut) => print_all(&mailbox)?,
            Err(error) => return Err(error.into()),
        }
    }
}

fn announce(
    client: &mut DirectoryClient,
    mailbox: &Mailbox,
    options: &Options,
    who: &str,
    deadline: Instant,
) -> Result<Progress, DirectoryError> {
    // Each topic once.
    let topics: BTreeSet<_> = options.topics.iter().collect();
    topics.into_iter().try_for_each(|topic| mailbox.put(client, topic, who, deadline))?;
    Ok(Progress::Done)
}

fn print_all(mailbox: &Mailbox) -> io::Result<()> {
    let mut output = io::stdout().lock();
    while let Ok(message) = mailbox.messages.try_receive() {
        output.write_all(&message)?;
        output.write_all(b"\n")?;
    }
    output.flush()
}
