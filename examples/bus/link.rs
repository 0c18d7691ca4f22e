//! A connection to the directory that is lost and found again.

use std::time::{Duration, Instant};

use crossproc::directory::Address;
use crossproc::{DirectoryClient, DirectoryError, Readable, try_wait_any};

/// Between two looks for a directory.
pub(crate) const RETRY: Duration = Duration::from_millis(50);
/// A directory that takes longer to do what it is asked to is as good as none.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long to look for one, and for its first answer.
const LOOK: Duration = Duration::from_millis(50);
/// One that is stopped, or not there, costs no more than a fifth of the time.
const SHARE: u32 = 4;

pub(crate) struct Link {
    at: Address,
    client: Option<DirectoryClient>,
    /// Whether there is more to do than was done.
    is_behind: bool,
    next_try: Instant,
}

impl Link {
    pub(crate) fn new(at: Address) -> Self {
        Link { at, client: None, is_behind: false, next_try: Instant::now() }
    }

    /// The connection, if there is one.
    pub(crate) fn client(&self) -> Option<&DirectoryClient> {
        self.client.as_ref()
    }

    /// Does something with the directory, until a deadline, if it must be: if there is a new
    /// connection, or the old one has something to tell, or was not done with. If that fails, the
    /// connection is given up, and there will be a new one.
    pub(crate) fn tend(
        &mut self,
        mut work: impl FnMut(&mut DirectoryClient, Instant) -> Result<Progress, DirectoryError>,
    ) {
        let began = Instant::now();
        let has_news = match &self.client {
            Some(client) => self.is_behind || try_wait_any(&[&Readable(client)]).is_ok(),
            None => self.connect(),
        };
        let Some(client) = self.client.as_mut().filter(|_| has_news) else { return };
        match work(client, began + PATIENCE) {
            Ok(progress) => self.is_behind = progress == Progress::Behind,
            Err(error) => {
                crate::complain(&format!("the directory: {error}"));
                self.give_up(began);
            }
        }
    }

    fn connect(&mut self) -> bool {
        let began = Instant::now();
        if began < self.next_try {
            return false;
        }
        match DirectoryClient::connect_timeout(&self.at, LOOK) {
            Ok(client) => self.client = Some(client),
            Err(error) => {
                // It is started later, or again.
                if !matches!(error, DirectoryError::NotServed { .. } | DirectoryError::TimedOut) {
                    crate::complain(&format!("the directory: {error}"));
                }
                self.give_up(began);
            }
        }
        self.client.is_some()
    }

    fn give_up(&mut self, began: Instant) {
        self.client = None;
        self.next_try = Instant::now() + RETRY + began.elapsed() * SHARE;
    }
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    Behind,
}
