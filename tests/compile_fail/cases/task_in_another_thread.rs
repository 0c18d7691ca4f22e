use crossproc::JoinableQueue;

fn main() {
    let tasks: &'static JoinableQueue<u64> = Box::leak(Box::new(JoinableQueue::new(4).unwrap()));
    let task = tasks.get().unwrap();
    std::thread::spawn(move || task.done());
}
