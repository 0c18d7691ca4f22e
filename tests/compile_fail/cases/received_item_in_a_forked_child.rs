use crossproc::{Queue, process};

fn main() {
    let queue: Queue<u64> = Queue::new(4).unwrap();
    let item = queue.receive().unwrap();
    let value: &u64 = &item;
    let _ = process::fork(move || println!("{value}"));
}
