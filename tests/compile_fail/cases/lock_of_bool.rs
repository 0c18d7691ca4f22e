use crossproc::shared;

shared! {
    struct Board {
        field: crossproc::Lock<bool>,
    }
}

fn main() {}
