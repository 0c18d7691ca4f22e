use crossproc::shared;

shared! {
    struct Board {
        field: &'static u64,
    }
}

fn main() {}
