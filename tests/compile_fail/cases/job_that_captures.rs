//! A nursery runs functions, which have nothing of the moment.

use crossproc::process::FnNursery;

fn main() {
    let nursery = FnNursery::start().unwrap();
    let number = 7;
    nursery.fork(|_| drop(number)).unwrap();
}
