use crossproc::Lock;

fn main() {
    let lock = Lock::new(0_u64);
    let guard = lock.lock().unwrap();
    let value: &u64 = &guard;
    drop(guard);
    println!("{value}");
}
