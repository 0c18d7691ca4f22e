//! Message queues of other crates, which `crossproc::Queue` and `crossproc::Broadcast` are measured
//! against. Those that the system and the standard library have are in `crossproc-harness`.

pub mod bcast;
pub mod cloudtoid;
pub mod crossbeam;
pub mod iceoryx;
pub mod ipc_channel;
#[cfg(feature = "shaq")]
pub mod shaq;
#[cfg(feature = "shaq")]
pub mod shaq_broadcast;
#[cfg(feature = "shaq")]
pub mod shaq_spsc;
