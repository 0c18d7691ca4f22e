//! The Rust version of Cloudtoid's interprocess queue: a ring of bytes in a mapped file, a flock
//! for each participant, and a named semaphore.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fmt;
use std::sync::OnceLock;

use cloudtoid_interprocess::{Error, Options, Publisher, Subscriber};
use tempfile::TempDir;

use crossproc_harness::queue::message::{value_of, with_message, with_value};
use crossproc_harness::queue::{MessageQueue, Offers, Side};

/// Each process opens ends of its own.
pub struct Cloudtoid<const WORDS: usize> {
    options: Options,
    publisher: OnceLock<Publisher>,
    subscriber: OnceLock<Subscriber>,
    _directory: TempDir,
}

impl<const WORDS: usize> MessageQueue for Cloudtoid<WORDS> {
    const OFFERS: Offers = Offers {
        processes: true,
        threads: true,
        many: true,
        blocking_get: true,
        batches: true,
        alone: usize::MAX,
        remark: "puts do not wait: they are tried again; a batch is of puts only",
    };

    fn new(capacity: usize) -> Result<Self, String> {
        let directory = tempfile::Builder::new()
            .prefix("crossproc-rivals")
            .tempdir()
            .map_err(|error| error.to_string())?;
        let name = directory
            .path()
            .file_name()
            .expect("a temporary directory has a name")
            .to_string_lossy()
            .into_owned();
        // A message takes eight more bytes, and begins at a multiple of eight.
        let options = Options::new(name, capacity * (WORDS * 8 + 8)).with_path(directory.path());
        Ok(Cloudtoid {
            options,
            publisher: OnceLock::new(),
            subscriber: OnceLock::new(),
            _directory: directory,
        })
    }

    fn attach(&self, side: Side) {
        if side != Side::Consumer {
            self.publisher();
        }
        if side != Side::Producer {
            self.subscriber();
        }
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        with_value::<WORDS, _>(value, |message| match self.publisher().try_send(message) {
            Ok(()) => true,
            Err(Error::Full) => false,
            Err(error) => panic!("cannot send: {error}"),
        })
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        with_message::<WORDS, _>(|message| {
            let received = self.subscriber().try_recv_into(message).expect("cannot receive")?;
            assert_eq!(received, message.len());
            Some(value_of(message))
        })
    }

    #[inline]
    fn get_timeout(&self) -> Option<u64> {
        let message = self
            .subscriber()
            .recv_timeout(crossproc_harness::queue::TIMEOUT)
            .expect("cannot receive")?;
        Some(value_of(&message))
    }

    fn put_batch(&self, values: &[u64]) -> usize {
        assert_eq!(WORDS, 1, "batches are of values only");
        const MOST: usize = 64;
        let bytes: [[u8; 8]; MOST] =
            core::array::from_fn(|index| values.get(index).copied().unwrap_or(0).to_ne_bytes());
        let messages: [&[u8]; MOST] = core::array::from_fn(|index| bytes[index].as_slice());
        self.publisher().try_send_batch(&messages[..values.len().min(MOST)]).expect("cannot send")
    }
}

impl<const WORDS: usize> Cloudtoid<WORDS> {
    #[inline]
    fn publisher(&self) -> &Publisher {
        self.publisher
            .get_or_init(|| Publisher::open(&self.options).expect("cannot open an end to send"))
    }

    #[inline]
    fn subscriber(&self) -> &Subscriber {
        self.subscriber
            .get_or_init(|| Subscriber::open(&self.options).expect("cannot open an end to receive"))
    }
}

impl<const WORDS: usize> Drop for Cloudtoid<WORDS> {
    /// Processes that end without dropping their ends leave the semaphore's name behind.
    fn drop(&mut self) {
        (self.publisher, self.subscriber) = (OnceLock::new(), OnceLock::new());
        let name =
            CString::new(format!("/ct3ip.{}", self.options.name)).expect("a name without zeroes");
        // SAFETY: the name ends with a zero.
        unsafe { libc::sem_unlink(name.as_ptr()) };
    }
}

impl<const WORDS: usize> fmt::Debug for Cloudtoid<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloudtoid").field("options", &self.options).finish_non_exhaustive()
    }
}
