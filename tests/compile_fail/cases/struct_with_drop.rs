use crossproc::{Event, shared};

shared! {
    struct Board {
        ready: Event,
    }
}

impl Drop for Board {
    fn drop(&mut self) {}
}

fn main() {}
