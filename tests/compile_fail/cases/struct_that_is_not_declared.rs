use crossproc::{Event, Shm};

struct Board {
    ready: Event,
}

fn main() {
    let _ = Shm::new(Board { ready: Event::new() });
}
