use crossproc::Broadcast;

fn main() {
    let broadcast: Broadcast<u64> = Broadcast::new(4).unwrap();
    let mut subscriber = broadcast.subscribe().unwrap();
    let view = subscriber.view().unwrap();
    let item: &u64 = &view;
    drop(view);
    println!("{item}");
}
