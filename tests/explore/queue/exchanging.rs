//! The exchange ring: no thread sleeps, and an heir settles the operation that a dead participant
//! left unfinished.

use super::Op::{Attach, Get, Loan, Put, Settle};
use super::sequential::explore_parts;
use super::{config, part, plot};

#[test]
fn one_entry_goes_round() {
    let parts =
        [part(0, [Put(1), Put(2), Put(3)]), part(1, [Get, Get, Get]), part(2, [Put(11), Get])];
    explore_parts("queue: one_entry_goes_round", plot(config(1, 3)), parts, 0);
}

#[test]
fn two_entries_go_round() {
    let parts = [part(0, [Put(1), Put(2), Get]), part(1, [Get, Put(11), Get]), part(2, [Put(21)])];
    explore_parts("queue: two_entries_go_round", plot(config(2, 3)), parts, 0);
}

#[test]
fn three_entries_go_round() {
    let parts = [
        part(0, [Put(1), Put(2), Put(3), Put(4)]).prepared([Put(7)]),
        part(1, [Get, Get, Get]),
        part(2, [Get, Put(21)]),
    ];
    explore_parts("queue: three_entries_go_round", plot(config(3, 3)), parts, 0);
}

#[test]
fn four_participants_exchange_one_entry() {
    let parts = [part(0, [Put(1)]), part(1, [Get]), part(2, [Put(21)]), part(3, [Get])];
    explore_parts("queue: four_participants_exchange_one_entry", plot(config(1, 4)), parts, 0);
}

#[test]
fn an_heir_knows_whether_the_dead_one_has_put() {
    let parts = [
        part(0, [Put(1), Put(2)]).killable(),
        part(1, [Get, Get]),
        part(2, [Get, Put(21)]),
        part(0, [Settle, Put(31), Get]).after(0),
    ];
    explore_parts(
        "queue: an_heir_knows_whether_the_dead_one_has_put",
        plot(config(2, 3)),
        parts,
        1,
    );
}

#[test]
fn an_heir_knows_whether_the_dead_one_has_got() {
    let parts = [
        part(0, [Get, Get]).prepared([Put(7)]).killable(),
        part(1, [Put(11), Put(12)]),
        part(2, [Get, Put(21)]),
        part(0, [Settle, Get, Put(31)]).after(0),
    ];
    explore_parts(
        "queue: an_heir_knows_whether_the_dead_one_has_got",
        plot(config(1, 3)),
        parts,
        1,
    );
}

#[test]
fn an_heir_of_a_killed_heir_knows_it_too() {
    let parts = [
        part(0, [Put(1), Get]).killable(),
        part(1, [Get, Put(11), Get]),
        part(0, [Settle, Put(21)]).after(0).killable(),
        part(0, [Settle, Put(31), Get]).after(2),
    ];
    explore_parts("queue: an_heir_of_a_killed_heir_knows_it_too", plot(config(1, 2)), parts, 2);
}

#[test]
fn two_who_die_together_are_told_apart() {
    let parts = [
        part(0, [Put(1), Get]).killable(),
        part(1, [Get, Put(11)]).killable(),
        part(0, [Settle, Get]).after(0),
        part(1, [Settle, Put(31)]).after(1),
    ];
    explore_parts("queue: two_who_die_together_are_told_apart", plot(config(1, 2)), parts, 2);
}

#[test]
fn a_newcomer_takes_over_the_dead_ones_id() {
    let parts = [
        part(0, [Put(1), Get]).prepared([Attach]).killable(),
        part(1, [Get, Put(11)]).prepared([Attach]),
        part(0, [Attach, Put(21), Get]).after(0),
    ];
    explore_parts("queue: a_newcomer_takes_over_the_dead_ones_id", plot(config(1, 2)), parts, 1);
}

#[test]
fn a_loan_stays_with_its_owner() {
    let parts = [
        part(0, [Put(1), Get, Put(2)]).prepared([Loan]).killable(),
        part(1, [Get, Put(11)]),
        part(0, [Settle, Loan, Get, Put(31)]).after(0),
    ];
    let config = crate::ring::layout::Config { places: 3, ..config(1, 2) };
    explore_parts("queue: a_loan_stays_with_its_owner", plot(config), parts, 1);
}
