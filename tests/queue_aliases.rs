//! A peer writes one slot's number into several words. No thread gets two references to a slot, and
//! what a thread holds keeps its length.

use crossproc::{
    Broadcast, BroadcastOptions, ByteQueue, JoinableQueue, Queue, QueueError, QueueOptions,
};

mod spoiled;
use spoiled::{INDEX, PAYLOAD_LEN, RETURNED, ROUND, Sizes, Spoiler, TASK};

const SIZES: Sizes = Sizes { entries: 4, ids: 2, places: 4 };
/// The id of the only participant.
const ID: usize = 0;

fn options() -> QueueOptions {
    QueueOptions::new().participants(SIZES.ids).loans(SIZES.places - 1)
}

fn queue() -> (Queue<u64>, Spoiler) {
    let queue = options().create(SIZES.entries).unwrap();
    let spoiler = Spoiler::new(&queue, SIZES);
    (queue, spoiler)
}

fn joinable() -> (JoinableQueue<u64>, Spoiler) {
    let queue = options().create_joinable(SIZES.entries).unwrap();
    let spoiler = Spoiler::new(&queue, SIZES);
    (queue, spoiler)
}

fn assert_spoiled<T>(result: Result<T, QueueError>) {
    let error = result.err();
    assert!(matches!(error, Some(QueueError::Spoiled)), "{error:?}");
}

/// The first loan takes its slot from the first place.
fn slot_of_first_loan(spoiler: &Spoiler) -> usize {
    spoiler.slot_in_place(ID, 0)
}

#[test]
fn places_that_all_name_one_slot_give_no_second_loan_of_it() {
    let (queue, spoiler) = queue();
    let mut one = queue.loan().unwrap();
    spoiler.put_slot_into_places(ID, slot_of_first_loan(&spoiler));
    let mut two = queue.loan().unwrap();
    assert_ne!(&raw mut *one, &raw mut *two, "two loans are one");
}

#[test]
fn places_that_all_name_a_loaned_slot_are_not_put_from() {
    let (queue, spoiler) = queue();
    let mut loan = queue.loan().unwrap();
    *loan = 1;
    spoiler.put_slot_into_places(ID, slot_of_first_loan(&spoiler));
    let _ = queue.try_put(2);
    let _ = queue.try_put_many(&[3]);
    assert_eq!(*loan, 1, "a put has written into a loan");
}

#[test]
fn an_entry_that_names_a_loaned_slot_is_not_received() {
    let (queue, spoiler) = queue();
    queue.put(1).unwrap();
    let _loan = queue.loan().unwrap();
    spoiler.put_slot_into_entries(slot_of_first_loan(&spoiler));
    assert_spoiled(queue.try_receive().map(|_| ()));
}

#[test]
fn an_entry_that_names_a_loaned_slot_is_not_got() {
    let (queue, spoiler) = queue();
    queue.try_put_many(&[1, 2]).unwrap();
    let _loan = queue.loan().unwrap();
    spoiler.put_slot_into_entries(slot_of_first_loan(&spoiler));
    assert_spoiled(queue.try_get());
    assert_spoiled(queue.try_get_many(&mut Vec::new(), 1));
}

#[test]
fn an_entry_that_names_a_received_slot_is_not_received() {
    let (queue, spoiler) = queue();
    queue.try_put_many(&[1, 2]).unwrap();
    let _one = queue.receive().unwrap();
    spoiler.put_slot_into_entries(spoiler.slot_in_place(ID, 0));
    assert_spoiled(queue.try_receive().map(|_| ()));
}

/// A put takes the slot out of an empty entry, for later use.
#[test]
fn an_empty_entry_that_names_a_loaned_slot_is_not_loaned_from() {
    let (queue, spoiler) = queue();
    let loan = queue.loan().unwrap();
    spoiler.put_slot_into_entries(slot_of_first_loan(&spoiler));
    let _ = queue.try_put(1);
    assert_spoiled(queue.loan().map(|_| ()));
    drop(loan);
}

/// At first nothing is in use, so nothing is compared; then two places hold the same slot.
#[test]
fn two_entries_that_name_one_slot_give_one_loan_of_it() {
    let (queue, spoiler) = queue();
    queue.try_put_many(&[1, 2]).unwrap();
    let slot = spoiler.slot_in_place(ID, 1);
    spoiler.put_slot_into_entries(slot);
    let _ = queue.try_get();
    let mut loans: Vec<_> = (0..3).map_while(|_| queue.loan().ok()).collect();
    let mut addresses: Vec<_> = loans.iter_mut().map(|loan| &raw mut **loan).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), loans.len(), "two loans are one");
    assert_spoiled(queue.loan().map(|_| ()));
}

#[test]
fn an_entry_that_names_a_task_in_hand_is_not_taken() {
    let (queue, spoiler) = joinable();
    queue.try_put_many(&[1, 2]).unwrap();
    let task = queue.get().unwrap();
    spoiler.put_slot_into_entries(spoiler.slot_in_place(ID, 0));
    assert_spoiled(queue.try_get().map(|_| ()));
    assert_eq!(task.attempts(), 1);
}

#[test]
fn a_place_that_offers_a_task_in_a_loaned_slot_is_not_taken_from() {
    let (queue, spoiler) = joinable();
    queue.try_put_many(&[1, 2]).unwrap();
    let loan = queue.loan().unwrap();
    drop(queue.get().unwrap());
    // The second place holds the returned task.
    let place = spoiler.place(ID, 1);
    assert_eq!(spoiler.read(place) & RETURNED, RETURNED);
    spoiler.write(place, (7 * ROUND) | RETURNED | slot_of_first_loan(&spoiler) as u64);
    assert_spoiled(queue.try_get().map(|_| ()));
    drop(loan);
}

/// A place is read once more after another participant has taken a task out of it.
#[test]
fn a_place_that_comes_back_with_a_loaned_slot_is_not_loaned() {
    let (queue, spoiler) = joinable();
    queue.put(1).unwrap();
    drop(queue.get().unwrap());
    let loans = [queue.loan().unwrap(), queue.loan().unwrap()];
    let slot = spoiler.slot_in_place(ID, 1);
    spoiler.write(spoiler.place(ID, 0), (7 * ROUND) | slot as u64);
    assert_spoiled(queue.loan().map(|_| ()));
    drop(loans);
}

/// The participant itself knows what it has in hand. No mark in shared memory makes that less, or
/// more.
#[test]
fn a_mark_that_goes_does_not_hide_the_task_in_hand_from_its_own_join() {
    let (queue, spoiler) = joinable();
    queue.put(1).unwrap();
    let task = queue.get().unwrap();
    let place = spoiler.place(ID, 0);
    spoiler.write(place, spoiler.read(place) & !TASK);
    assert!(matches!(queue.join(), Err(QueueError::Deadlock)));
    task.done();
    queue.join().unwrap();
}

#[test]
fn a_newcomer_whose_places_name_one_slot_does_not_take_part() {
    let (queue, spoiler) = queue();
    for place in 0..SIZES.places {
        spoiler.write(spoiler.place(ID, place), ROUND | 5);
    }
    assert_spoiled(queue.loan().map(|_| ()));
    assert_spoiled(queue.try_get());
}

#[test]
fn a_message_that_is_held_stays_as_long_as_it_was() {
    const STRIDE: usize = 56;
    let queue = options().create_bytes(SIZES.entries, 40).unwrap();
    let spoiler = Spoiler::new(&queue, SIZES);
    let len_of = |slot: usize| spoiler.slot(slot, STRIDE) + PAYLOAD_LEN;
    queue.put(b"hello").unwrap();
    let received = queue.receive().unwrap();
    assert_eq!(&*received, b"hello");
    let slot = spoiler.slot_in_place(ID, 0);
    assert_eq!(spoiler.read(len_of(slot)) as u32, 5, "the length is not there");
    for len in [0, 1, 40, 41, u32::MAX] {
        spoiler.write_half(len_of(slot), len);
        assert_eq!(received.len(), 5, "with {len}");
    }
    let loan = queue.loan(7).unwrap();
    spoiler.write_half(len_of(spoiler.slot_in_place(ID, 1)), 40);
    assert_eq!(loan.len(), 7);
}

#[test]
fn a_message_that_claims_to_be_longer_than_its_slot_is_cut() {
    const STRIDE: usize = 56;
    let queue: ByteQueue = options().create_bytes(SIZES.entries, 40).unwrap();
    let spoiler = Spoiler::new(&queue, SIZES);
    queue.try_put(b"one").unwrap();
    queue.try_put(b"two").unwrap();
    for slot in 0..SIZES.entries + SIZES.ids * SIZES.places {
        spoiler.write_half(spoiler.slot(slot, STRIDE) + PAYLOAD_LEN, u32::MAX);
    }
    assert_eq!(queue.get().unwrap().len(), 40);
    assert_eq!(queue.receive().unwrap().len(), 40);
}

/// A broadcast for two items. Its ring has an entry more.
fn broadcast() -> (Broadcast<u64>, Spoiler) {
    let broadcast = BroadcastOptions::new().participants(4).create(2).unwrap();
    let spoiler = Spoiler::new(&broadcast, Sizes { entries: 3, ids: 4, places: 2 });
    (broadcast, spoiler)
}

/// The senders take the subscriber for none.
#[test]
fn a_thread_does_not_write_to_what_it_views_though_its_cursor_is_gone() {
    let (broadcast, spoiler) = broadcast();
    let mut subscriber = broadcast.subscribe().unwrap();
    broadcast.send(7).unwrap();
    let view = subscriber.view().unwrap();
    // Behind two places.
    let cursor = spoiler.place(ID, 2);
    assert_ne!(spoiler.read(cursor), 0);
    spoiler.write(cursor, 0);
    let sent = [1, 2, 3, 4, 5].map(|item| broadcast.try_send(item).map_err(|it| it.error));
    assert_eq!(*view, 7, "{sent:?}");
    assert_spoiled(sent.into_iter().collect::<Result<Vec<_>, _>>());
}

#[test]
fn a_thread_does_not_write_to_what_it_views_though_entries_name_it() {
    let (broadcast, spoiler) = broadcast();
    let mut subscriber = broadcast.subscribe().unwrap();
    broadcast.send(7).unwrap();
    let view = subscriber.view().unwrap();
    let slot = (spoiler.read(spoiler.entry(0)) & INDEX) as usize;
    spoiler.put_slot_into_entries(slot);
    let sent = [1, 2].map(|item| broadcast.try_send(item).map_err(|it| it.error));
    assert_eq!(*view, 7, "{sent:?}");
    assert_spoiled(sent.into_iter().collect::<Result<Vec<_>, _>>());
}
