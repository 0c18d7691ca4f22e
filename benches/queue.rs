//! [`crossproc::Queue`] beside what POSIX and std have. The rivals that are crates are measured in
//! `benches/rivals`. The arguments are those of [`run`].

use crossproc_harness::queue::crossproc_queue::CrossprocQueue;
use crossproc_harness::queue::pipe::Pipe;
use crossproc_harness::queue::posix_mq::PosixMq;
use crossproc_harness::queue::run;
use crossproc_harness::queue::seqpacket::SeqPacket;
use crossproc_harness::queue::sync_channel::SyncChannel;
use crossproc_harness::rival;

fn main() {
    let rivals = [
        rival!("crossproc", CrossprocQueue),
        rival!("POSIX mq", PosixMq),
        rival!("pipe", Pipe),
        rival!("socketpair, SOCK_SEQPACKET", SeqPacket),
        rival!("std sync_channel (threads only)", SyncChannel),
    ];
    run("Queue", &rivals, &[], &[]);
}
