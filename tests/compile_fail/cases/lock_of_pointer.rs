use crossproc::shared;

shared! {
    struct Board {
        field: crossproc::Lock<*mut u8>,
    }
}

fn main() {}
