//! A connection to the directory, which is made again when it is lost.

use std::time::{Duration, Instant};

use crossproc::directory::{Address, DirectoryClient, DirectoryError};
use crossproc::{Readable, try_wait_any};

/// The time between two attempts to find a directory.
pub(crate) const RETRY: Duration = Duration::from_millis(50);
/// How long a request may take. A directory that takes longer counts as none.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long an attempt may take to find a directory and get its first answer.
const LOOK: Duration = Duration::from_millis(50);
/// How many times as long as a failed attempt the pause after it is. So a stopped or missing
/// directory costs no more than a fifth of the time.
const SHARE: u32 = 4;

pub(crate) struct Link {
    at: Address,
    client: Option<DirectoryClient>,
    /// Whether the last call of `work` left something undone.
    is_behind: bool,
    next_try: Instant,
}

impl Link {
    pub(crate) fn new(at: Address) -> Self {
        Link { at, client: None, is_behind: false, next_try: Instant::now() }
    }

    /// Returns the connection, if there is one.
    pub(crate) fn client(&self) -> Option<&DirectoryClient> {
        self.client.as_ref()
    }

    /// Returns whether the last call of `work` left something undone.
    pub(crate) fn is_behind(&self) -> bool {
        self.client.is_some() && self.is_behind
    }

    /// Calls `work` with the directory and a deadline, if there is a reason to. The reasons are a
    /// new connection, news on the old one, or work that was left undone. If `work` fails, the link
    /// drops the connection, and makes a new one later.
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
                // A missing directory is not reported: it may be started later, or again.
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
