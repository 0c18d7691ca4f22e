use crossproc::{Shm, shared};

shared! {
    struct Board {
        hits: crossproc_test_attributes::another_each_time!(),
    }
}

fn main() {
    let _ = Shm::<Board>::attach(std::fs::File::open("board").unwrap());
}
