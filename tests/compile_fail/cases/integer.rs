use crossproc::shared;

shared! {
    struct Board {
        field: u64,
    }
}

fn main() {}
