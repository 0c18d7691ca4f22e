use crossproc::{Lock, process};

fn main() {
    let lock = Lock::new(0_u64);
    let mut guard = lock.lock().unwrap();
    let value: &mut u64 = &mut guard;
    let _ = process::fork(move || *value += 1);
}
