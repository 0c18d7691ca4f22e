use crossproc::shared;

shared! {
    struct Board {
        field: String,
    }
}

fn main() {}
