//! [`crossproc::Connection`] beside plain sockets. The rivals that are crates are measured in
//! `benches/rivals`. The arguments are those of [`run`].

use crossproc_harness::pipe::{OF_THE_SYSTEM, run};

fn main() {
    run("Pipe", &OF_THE_SYSTEM, &[]);
}
