use crossproc::shared;

shared! {
    struct Board {
        field: *const u64,
    }
}

fn main() {}
