//! [`crossproc::Queue`](https://docs.rs/crossproc) beside its rivals. The arguments are those of
//! [`run`].

#![allow(missing_docs, reason = "a program")]

use crossproc_harness::queue::crossproc_queue::CrossprocQueue;
use crossproc_harness::queue::pipe::Pipe;
use crossproc_harness::queue::posix_mq::PosixMq;
use crossproc_harness::queue::rows::Rival;
use crossproc_harness::queue::run;
use crossproc_harness::queue::seqpacket::SeqPacket;
use crossproc_harness::rival;
use crossproc_rivals::cloudtoid::Cloudtoid;
use crossproc_rivals::crossbeam::{Array, Channel};
use crossproc_rivals::iceoryx::Iceoryx;
use crossproc_rivals::ipc_channel::IpcChannel;
#[cfg(feature = "shaq")]
use crossproc_rivals::shaq::Shaq;
#[cfg(feature = "shaq")]
use crossproc_rivals::shaq_spsc::ShaqSpsc;

/// The packages whose versions are printed.
const PACKAGES: &[&str] = &[
    #[cfg(feature = "shaq")]
    "shaq",
    "cloudtoid-interprocess",
    "iceoryx2",
    "ipc-channel",
    "crossbeam-queue",
    "crossbeam-channel",
];

/// All queues, crossproc's first.
const RIVALS: &[Rival] = &[
    rival!("crossproc", CrossprocQueue),
    #[cfg(feature = "shaq")]
    rival!("shaq", Shaq),
    #[cfg(feature = "shaq")]
    rival!("shaq, spsc", ShaqSpsc),
    rival!("cloudtoid-interprocess", Cloudtoid),
    rival!("iceoryx2", Iceoryx),
    rival!("POSIX mq", PosixMq),
    rival!("pipe", Pipe),
    rival!("socketpair, SOCK_SEQPACKET", SeqPacket),
    rival!("ipc-channel", IpcChannel),
    rival!("crossbeam ArrayQueue", Array),
    rival!("crossbeam-channel", Channel),
];

/// The rivals that are missing, and why.
const MISSING: &[(&str, &str)] = &[
    #[cfg(not(feature = "shaq"))]
    ("shaq", "built without the feature `shaq`, which takes a nightly compiler"),
    (
        "Python's multiprocessing.Queue",
        "takes an interpreter; a pipe behind a lock and a thread, microseconds a message",
    ),
];

fn main() {
    run("Queue beside crates", RIVALS, PACKAGES, MISSING);
}
