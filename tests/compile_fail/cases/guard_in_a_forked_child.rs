use crossproc::{Lock, process};

fn main() {
    let lock = Lock::new(0_u64);
    let mut guard = lock.lock().unwrap();
    let _ = process::fork(move || *guard += 1);
}
