//! Message queues of other crates, which `crossproc::Queue` is measured against. Those that the
//! system and the standard library have are in `crossproc-harness`.

pub mod cloudtoid;
pub mod crossbeam;
pub mod iceoryx;
pub mod ipc_channel;
#[cfg(feature = "shaq")]
pub mod shaq;
#[cfg(feature = "shaq")]
pub mod shaq_spsc;
