fn main() {
    let queue = crossproc::Queue::<String>::new(4);
}
