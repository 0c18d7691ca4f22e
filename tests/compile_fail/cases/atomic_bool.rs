use crossproc::shared;

shared! {
    struct Board {
        field: std::sync::atomic::AtomicBool,
    }
}

fn main() {}
