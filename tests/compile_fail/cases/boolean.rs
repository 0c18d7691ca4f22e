use crossproc::shared;

shared! {
    struct Board {
        field: bool,
    }
}

fn main() {}
