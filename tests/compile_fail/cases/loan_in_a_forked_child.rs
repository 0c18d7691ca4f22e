use crossproc::{Queue, process};

fn main() {
    let queue: Queue<u64> = Queue::new(4).unwrap();
    let mut loan = queue.loan().unwrap();
    let value: &mut u64 = &mut loan;
    let _ = process::fork(move || *value = 1);
}
