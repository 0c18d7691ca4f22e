use crossproc::Lock;

fn main() {
    let lock = Lock::new(0_u64);
    let guard = lock.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(guard));
    });
}
