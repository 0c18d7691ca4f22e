//! Queues of other crates, whose messages have a length that is known when they are compiled.

use std::sync::Arc;
use std::thread::yield_now;

use crossproc_harness::pipe::Work;
use crossproc_harness::pipe::ends::End;
use crossproc_harness::queue::{MessageQueue, Side};
use crossproc_harness::sampler::Sampler;
use crossproc_rivals::cloudtoid::Cloudtoid;
use crossproc_rivals::iceoryx::Iceoryx;

/// How many messages there is room for.
const CAPACITY: usize = 16;

/// A queue, of which one end sends and the other receives.
struct Of<Q> {
    queue: Arc<Q>,
}

impl<Q: MessageQueue + Send> End for Of<Q> {
    const MAX: usize = usize::MAX;

    fn pair() -> (Self, Self) {
        let queue = Arc::new(Q::new(CAPACITY).expect("it can be created"));
        (Of { queue: queue.clone() }, Of { queue })
    }

    fn send(&self, message: &[u8]) {
        self.queue.attach(Side::Producer);
        while !self.queue.try_put(message[0].into()) {
            yield_now();
        }
    }

    fn recv(&self, _: &mut [u8]) {
        self.queue.attach(Side::Consumer);
        while self.queue.try_get().is_none() {
            yield_now();
        }
    }
}

macro_rules! by_size {
    ($work:ident, $size:ident, $queue:ident, $($words:literal)*) => {
        match $size / 8 {
            $($words => crossproc_harness::pipe::sampler::<Of<$queue<$words>>>($work, $size),)*
            _ => Err(format!("no messages of {} bytes", $size)),
        }
    };
}

pub(crate) fn cloudtoid(work: Work, size: usize) -> Result<Sampler, String> {
    by_size!(work, size, Cloudtoid, 8 512 8192 131_072)
}

pub(crate) fn iceoryx(work: Work, size: usize) -> Result<Sampler, String> {
    by_size!(work, size, Iceoryx, 8 512 8192 131_072 8_388_608)
}
