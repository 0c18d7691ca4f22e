//! [`crossproc::Broadcast`](https://docs.rs/crossproc) beside its rivals. The arguments are those
//! of [`run`].

#![allow(missing_docs, reason = "a program")]

use crossproc_harness::broadcast::{Contestant, run, sampler};
use crossproc_rivals::bcast::Bcast;
#[cfg(feature = "shaq")]
use crossproc_rivals::shaq_broadcast::ShaqBroadcast;

/// The packages whose versions are printed.
const PACKAGES: &[&str] = &[
    #[cfg(feature = "shaq")]
    "shaq",
    "bcast",
];

const RIVALS: &[Contestant] = &[
    #[cfg(feature = "shaq")]
    Contestant { name: "shaq, broadcast", sampler: sampler::<ShaqBroadcast> },
    Contestant { name: "bcast", sampler: sampler::<Bcast> },
];

/// The rivals that are missing, and why.
const MISSING: &[(&str, &str)] = &[
    #[cfg(not(feature = "shaq"))]
    ("shaq, broadcast", "built without the feature `shaq`, which takes a nightly compiler"),
];

fn main() {
    run("Broadcast beside crates", RIVALS, PACKAGES, MISSING);
}
