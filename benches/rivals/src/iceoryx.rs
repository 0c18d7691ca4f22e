//! iceoryx2: a publisher and a subscriber, with a ring of offsets between them and the payload
//! beside it.

#![allow(unsafe_code)]

use core::fmt;
use std::cell::OnceCell;
use std::fs;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::PortFactory as _;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use tempfile::TempDir;

use crossproc_harness::queue::{MessageQueue, Offers, Side};

type Service<const WORDS: usize> = PortFactory<ipc::Service, [u64; WORDS], ()>;

/// A node and ports, which each process has for itself.
pub struct Iceoryx<const WORDS: usize> {
    capacity: usize,
    /// The prefix of the names of all that it creates.
    prefix: String,
    directory: TempDir,
    publisher: OnceCell<Publisher<ipc::Service, [u64; WORDS], ()>>,
    subscriber: OnceCell<Subscriber<ipc::Service, [u64; WORDS], ()>>,
    service: OnceCell<Service<WORDS>>,
}

// SAFETY: one thread of each process uses it: `OFFERS.threads` is false.
unsafe impl<const WORDS: usize> Sync for Iceoryx<WORDS> {}
// SAFETY: as above. It is not sent to another thread of a process after a thread has used it there.
unsafe impl<const WORDS: usize> Send for Iceoryx<WORDS> {}

impl<const WORDS: usize> MessageQueue for Iceoryx<WORDS> {
    const OFFERS: Offers = Offers {
        processes: true,
        threads: false,
        many: false,
        blocking_get: false,
        batches: false,
        alone: usize::MAX,
        remark: "publish-subscribe: every subscriber gets everything, so one of them; waiting \
            takes an event service beside it",
    };

    fn new(capacity: usize) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        set_log_level(LogLevel::Fatal);
        let directory = tempfile::Builder::new()
            .prefix("crossproc-rivals")
            .tempdir()
            .map_err(|error| error.to_string())?;
        let prefix = format!("crossproc_rivals_{}_{}_", process::id(), COUNT.fetch_add(1, Relaxed));
        let (publisher, subscriber, service) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Ok(Iceoryx { capacity, prefix, directory, publisher, subscriber, service })
    }

    fn attach(&self, side: Side) {
        if side != Side::Producer {
            self.subscriber.get_or_init(|| {
                self.service().subscriber_builder().create().expect("cannot subscribe")
            });
        }
        if side != Side::Consumer {
            // A message that is published before that would be lost.
            while self.service().dynamic_config().number_of_subscribers() == 0 {
                thread::yield_now();
            }
            self.publisher.get_or_init(|| {
                let builder = self
                    .service()
                    .publisher_builder()
                    .backpressure_strategy(BackpressureStrategy::DiscardData);
                builder.create().expect("cannot publish")
            });
        }
    }

    #[inline]
    fn try_put(&self, value: u64) -> bool {
        let publisher = self.publisher.get().expect("attached as a producer");
        let mut sample = publisher.loan_uninit().expect("nothing to loan");
        let first = sample.payload_mut().as_mut_ptr().cast::<u64>();
        // SAFETY: the sample is loaned to this call, and begins with a word.
        unsafe { first.write(value) };
        // SAFETY: the first word is written. The others are integers in shared memory, which was
        // zeroed when it was created.
        let sample = unsafe { sample.assume_init() };
        sample.send().expect("cannot send") == 1
    }

    #[inline]
    fn try_get(&self) -> Option<u64> {
        let subscriber = self.subscriber.get().expect("attached as a consumer");
        let sample = subscriber.receive().expect("cannot receive")?;
        Some(sample.payload()[0])
    }

    fn get_timeout(&self) -> Option<u64> {
        self.try_get()
    }
}

impl<const WORDS: usize> Iceoryx<WORDS> {
    fn service(&self) -> &Service<WORDS> {
        self.service.get_or_init(|| {
            let mut config = Config::default();
            let root =
                self.directory.path().to_str().expect("a temporary directory has a plain name");
            config.global.set_root_path(&Path::new(root.as_bytes()).expect("a path"));
            config.global.prefix = FileName::new(self.prefix.as_bytes()).expect("a file name");
            let node = NodeBuilder::new()
                .signal_handling_mode(SignalHandlingMode::Disabled)
                .config(&config);
            let node = node.create::<ipc::Service>().expect("cannot create a node");
            let name = "queue".try_into().expect("a service's name");
            let builder = node.service_builder(&name).publish_subscribe::<[u64; WORDS]>();
            let builder = builder
                .subscriber_max_buffer_size(self.capacity)
                .history_size(0)
                .enable_safe_overflow(false);
            builder
                .max_publishers(1)
                .max_subscribers(1)
                .open_or_create()
                .expect("cannot create a service")
        })
    }
}

impl<const WORDS: usize> Drop for Iceoryx<WORDS> {
    /// Processes that end without dropping their ports leave memory behind.
    fn drop(&mut self) {
        (self.publisher, self.subscriber, self.service) =
            (OnceCell::new(), OnceCell::new(), OnceCell::new());
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.prefix) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl<const WORDS: usize> fmt::Debug for Iceoryx<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iceoryx").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
