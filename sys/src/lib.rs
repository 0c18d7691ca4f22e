//! The Linux system calls under [`crossproc`](https://docs.rs/crossproc), and nothing else: no
//! policy, no primitives.
//!
//! Each wrapper names the call, its errnos, and the code that handles them. None of them panics: a
//! sandbox may answer any call with any errno, and a peer can cause some.
//!
//! Under `cfg(crossproc_loom)` the atomics, the futex and the robust list are models. So the state
//! machines built on them run unchanged in [loom](https://docs.rs/loom); see the module `model`
//! there.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!(
    "crossproc is for 64-bit Linux: it rests on the kernel's futexes and 64-bit robust lists"
);

pub mod alarm;
#[cfg_attr(crossproc_loom, path = "model/atomic.rs")]
pub mod atomic;
#[cfg_attr(crossproc_loom, path = "model/clock.rs")]
pub mod clock;
pub mod descriptor;
pub mod failed;
#[cfg_attr(crossproc_loom, path = "model/futex.rs")]
pub mod futex;
pub mod ids;
mod kernel;
pub mod lifeline;
#[cfg_attr(crossproc_loom, allow(dead_code, reason = "models map nothing"))]
mod mappings;
pub mod memory;
#[cfg(crossproc_loom)]
pub mod model;
pub mod namespace;
pub mod objects;
pub mod pages;
pub mod per_process;
pub mod pidfd;
pub mod poll;
pub mod process;
pub mod record_lock;
pub mod retry;
#[cfg_attr(crossproc_loom, path = "model/robust.rs")]
pub mod robust;
mod room;
pub mod sealed;
pub mod signals;
pub mod socket;
pub mod streams;
pub mod thread;
pub mod threads;
pub mod unshared;
