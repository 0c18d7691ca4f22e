//! Four children each add to a number, once they are given the signal.

use crossproc::{Event, Lock, Shm, process, shared};

shared! {
    struct Board {
        hits: Lock<u64>,
        go: Event,
    }
}

fn main() -> std::io::Result<()> {
    let board = Shm::new(Board { hits: Lock::new(0), go: Event::new() })?;
    let mut children = Vec::new();
    for _ in 0..4 {
        let board = board.clone();
        children.push(process::fork(move || -> std::io::Result<()> {
            board.go.wait();
            *board.hits.lock()? += 1;
            Ok(())
        })?);
    }
    board.go.set();
    for child in &children {
        assert!(child.join()?.success());
    }
    assert_eq!(*board.hits.lock()?, 4);
    Ok(())
}
