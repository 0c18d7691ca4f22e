//! Messages of 64 bytes to 64 MiB through a
//! [`crossproc::ByteQueue`](https://docs.rs/crossproc), from one process to another: copied in and
//! out, and written and read in place. Beside a stream of sockets, a pipe, the queues of other
//! crates, and Python's. The arguments are those of [`run_of`].

#![allow(missing_docs, reason = "a program")]

#[path = "pipe/ipc.rs"]
mod ipc;
#[path = "messages/of_queue.rs"]
mod of_queue;
#[path = "messages/pipe.rs"]
mod pipe;
#[path = "messages/python.rs"]
mod python;

use crossproc_harness::pipe::ends::RawStream;
use crossproc_harness::pipe::messages::{Copied, InPlace};
use crossproc_harness::pipe::{Contestant, Work, run_of, sampler};

use self::ipc::IpcChannel;
use self::pipe::RawPipe;

/// The lengths of the messages, in bytes.
const SIZES: [usize; 5] = [64, 4 << 10, 64 << 10, 1 << 20, 64 << 20];
const WORKS: [(Work, &str); 1] = [(Work::Stream, "one way")];

const fn contestant(
    name: &'static str,
    sampler: fn(Work, usize) -> Result<crossproc_harness::sampler::Sampler, String>,
) -> Contestant {
    Contestant { name, sampler, bar: None }
}

fn main() {
    let copied = [
        contestant("socketpair, stream", sampler::<RawStream>),
        contestant("pipe", sampler::<RawPipe>),
        contestant("ipc-channel, bytes", sampler::<IpcChannel>),
        contestant("cloudtoid-interprocess", of_queue::cloudtoid),
        contestant("Python's multiprocessing.Queue", python::sampler),
    ];
    let in_place = [contestant("iceoryx2", of_queue::iceoryx)];
    let packages = &["ipc-channel", "cloudtoid-interprocess"];
    let ours = contestant("crossproc", sampler::<Copied>);
    run_of("Messages copied", ours, &copied, (&SIZES, &WORKS), packages);
    let ours = contestant("crossproc", sampler::<InPlace>);
    run_of("Messages in place", ours, &in_place, (&SIZES, &WORKS), &["iceoryx2"]);
}
