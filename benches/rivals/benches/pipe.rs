//! [`crossproc::Connection`](https://docs.rs/crossproc) beside its alternatives: plain sockets,
//! ipc-channel, and Python's `Connection`. The arguments are those of [`run`].

#![allow(missing_docs, reason = "a program")]

#[path = "pipe/ipc.rs"]
mod ipc;
#[path = "pipe/python.rs"]
mod python;

use crossproc_harness::pipe::{Contestant, OF_THE_SYSTEM, run, sampler};

use self::ipc::IpcChannel;

fn main() {
    let mut rivals = Vec::from(OF_THE_SYSTEM);
    rivals.push(Contestant {
        name: "ipc-channel, bytes",
        sampler: sampler::<IpcChannel>,
        bar: None,
    });
    rivals.push(Contestant { name: "Python's Connection", sampler: python::sampler, bar: None });
    run("Pipe beside crates", &rivals, &["ipc-channel"]);
}
