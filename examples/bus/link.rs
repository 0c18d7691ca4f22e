//! A connection to the directory that is lost and found again.

use std::time::{Duration, Instant};

use crossproc::directory::Address;
use crossproc::{DirectoryClient, DirectoryError, Readable, try_wait_any};

/// Between two looks for a directory.
pub(crate) const RETRY: Duration = Duration::from_millis(50);

pub(crate) struct Link {
    at: Address,
    client: Option<DirectoryClient>,
    next_try: Instant,
}

impl Link {
    pub(crate) fn new(at: Address) -> Self {
        Link { at, client: None, next_try: Instant::now() }
    }

    /// The connection, if there is one.
    pub(crate) fn client(&self) -> Option<&DirectoryClient> {
        self.client.as_ref()
    }

    /// Does something with the directory if it must be: if there is a new connection, or the old one has something to tell. If that fails, the connection is given up, and there will be a new one.
    pub(crate) fn tend(&mut self, mut work: impl FnMut(&mut DirectoryClient) -> Result<(), DirectoryError>) {
        let has_news = match &self.client {
            Some(client) => try_wait_any(&[&Readable(client)]).is_ok(),
            None => self.connect(),
        };
        if let Some(client) = self.client.as_mut().filter(|_| has_news)
            && let Err(error) = work(client)
        {
            crate::complain(&format!("the directory: {error}"));
            self.client = None;
        }
    }

    fn connect(&mut self) -> bool {
        if Instant::now() < self.next_try {
            return false;
        }
        self.next_try = Instant::now() + RETRY;
        match DirectoryClient::connect(&self.at) {
            Ok(client) => self.client = Some(client),
            // It is started later, or again.
            Err(DirectoryError::NotServed { .. }) => {}
            Err(error) => crate::complain(&format!("the directory: {error}")),
        }
        self.client.is_some()
    }
}
