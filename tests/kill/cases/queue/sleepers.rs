//! Processes that sleep, and are let go on.

use super::companions::{
    closer, consumer, finisher, getter, later_getter, later_putter, putter, supplier, with_dying,
    with_dying_putter_of_three,
};
use super::operations::{
    closing, getting, getting_many, putting, putting_many, receiving, sending, trying_to_get,
    trying_to_get_many, trying_to_put, trying_to_put_many, trying_to_receive, trying_to_send,
};
use super::{Board, Effect, Leaves, Operate, case, victim};
use crate::cases::WAKER_STOPPED;
use crate::harness::{Case, Mode, Subject};

/// The victim sleeps, and another process lets it go on.
pub(super) fn blocked() -> Vec<Box<dyn Subject>> {
    let gets = |name: &str, capacity: usize, operate: Operate, takes: u64| {
        victim(case(name, capacity, capacity + 1, 0, Effect::Takes(takes), Leaves::Item), operate)
            .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    let puts = |name: &str, capacity: usize, operate: Operate, count: u64| {
        victim(
            case(name, capacity, capacity + 1, capacity, Effect::Puts(count), Leaves::Room),
            operate,
        )
        .known_strand(Mode::Stop, WAKER_STOPPED)
    };
    vec![
        Box::new(gets("get, then put", 1, getting, 1).companion(supplier(1))),
        Box::new(
            gets("get, then put, 2 sleep before", 1, getting, 1)
                .companions(2, getter)
                .companion(supplier(3)),
        ),
        Box::new(
            gets("get, then put, 2 sleep behind", 3, getting, 1)
                .companions(2, later_getter)
                .companion(supplier(3)),
        ),
        Box::new(with_dying(
            gets("get, then put by one that dies", 1, getting, 1),
            Effect::Puts(1),
        )),
        Box::new(with_dying(
            gets("get, then put by one that dies, 2 sleep behind", 2, getting, 1)
                .companions(2, later_getter),
            Effect::Puts(1),
        )),
        Box::new(
            gets("get, then 1 put, 2 sleep behind", 2, getting, 1)
                .companions(2, later_getter)
                .companion(supplier(1)),
        ),
        Box::new(with_dying_putter_of_three(
            gets("get, then 3 put by one that dies, 2 sleep behind", 3, getting, 1)
                .companions(2, later_getter),
        )),
        Box::new(
            gets("receive, then put, 1 sleeps behind", 2, receiving, 1)
                .companion(later_getter)
                .companion(supplier(2)),
        ),
        Box::new(
            gets("get_many(2), then 2 put, 1 sleeps behind", 2, getting_many::<2>, 2)
                .companion(later_getter)
                .companion(supplier(2)),
        ),
        Box::new(puts("put, then got", 1, putting, 1).companion(consumer(1))),
        Box::new(
            puts("put, then got, 2 sleep before", 1, putting, 1)
                .companions(2, putter)
                .companion(consumer(3)),
        ),
        Box::new(
            puts("put, then got, 2 sleep behind", 3, putting, 1)
                .companions(2, later_putter)
                .companion(consumer(3)),
        ),
        Box::new(with_dying(
            puts("put, then got by one that dies", 1, putting, 1),
            Effect::Takes(1),
        )),
        Box::new(with_dying(
            puts("put, then got by one that dies, 2 sleep behind", 2, putting, 1)
                .companions(2, later_putter),
            Effect::Takes(1),
        )),
        Box::new(
            puts("send, then got, 1 sleeps behind", 2, sending, 1)
                .companion(later_putter)
                .companion(consumer(2)),
        ),
        Box::new(
            puts("put_many(2), then 2 got, 1 sleeps behind", 2, putting_many::<2>, 2)
                .companion(later_putter)
                .companion(consumer(2)),
        ),
    ]
}

/// Others sleep, and the victim lets them go on.
pub(super) fn waking() -> Vec<Box<dyn Subject>> {
    let among_getters =
        |name: &str, capacity: usize, sleepers: usize, operate: Operate, count: u64| {
            let case = case(name, capacity, 1, 0, Effect::Puts(count), Leaves::Item);
            victim(case.companions(sleepers, getter), operate)
                .known_strand(Mode::Stop, WAKER_STOPPED)
        };
    let among_putters =
        |name: &str, capacity: usize, sleepers: usize, operate: Operate, count: u64| {
            let case = case(name, capacity, 1, capacity, Effect::Takes(count), Leaves::Room);
            victim(case.companions(sleepers, putter), operate)
                .known_strand(Mode::Stop, WAKER_STOPPED)
        };
    vec![
        Box::new(among_getters("try_put, 1 sleeps", 1, 1, trying_to_put, 1)),
        Box::new(among_getters("try_put, 3 sleep", 2, 3, trying_to_put, 1)),
        Box::new(among_getters("try_put_many(2), 2 sleep", 2, 2, trying_to_put_many::<2>, 2)),
        Box::new(among_getters("try_put_many(3), 1 sleeps", 3, 1, trying_to_put_many::<3>, 3)),
        Box::new(among_getters("try_send, 2 sleep", 2, 2, trying_to_send, 1)),
        Box::new(among_putters("try_get, 1 sleeps", 1, 1, trying_to_get, 1)),
        Box::new(among_putters("try_get, 3 sleep", 2, 3, trying_to_get, 1)),
        Box::new(among_putters("try_get_many(2), 2 sleep", 2, 2, trying_to_get_many::<2>, 2)),
        Box::new(among_putters("try_get_many(3), 1 sleeps", 3, 1, trying_to_get_many::<3>, 3)),
        Box::new(among_putters("try_receive, 2 sleep", 2, 2, trying_to_receive, 1)),
    ]
}

pub(super) fn closing_cases() -> Vec<Box<dyn Subject>> {
    let known = |case: Case<Board>| -> Box<dyn Subject> {
        Box::new(case.known_strand(Mode::Stop, WAKER_STOPPED))
    };
    let among = |name: &str, capacity: usize, items: usize| {
        case(name, capacity, 1, items, Effect::Closes, Leaves::Closed)
    };
    let until = |name: &str, capacity: usize, items: usize| {
        case(name, capacity, 1, items, Effect::Nothing, Leaves::Closed)
    };
    vec![
        known(victim(
            case("put, others close", 2, 1, 0, Effect::Puts(1), Leaves::Closed).companion(finisher),
            trying_to_put,
        )),
        known(victim(
            case("send, others close", 1, 1, 0, Effect::Puts(1), Leaves::Closed)
                .companion(finisher),
            trying_to_send,
        )),
        known(victim(
            case("get, others close", 2, 1, 1, Effect::Takes(1), Leaves::Closed)
                .companion(finisher),
            trying_to_get,
        )),
        known(victim(among("close, 2 getters sleep", 2, 0).companions(2, getter), closing)),
        known(victim(among("close, 2 putters sleep", 2, 2).companions(2, putter), closing)),
        known(victim(until("get, then closed", 1, 0).companion(closer), getting)),
        known(victim(
            until("get, then closed, 2 sleep behind", 2, 0)
                .companions(2, later_getter)
                .companion(closer),
            getting,
        )),
        known(victim(
            until("put, then closed, 2 sleep behind", 2, 2)
                .companions(2, later_putter)
                .companion(closer),
            putting,
        )),
    ]
}
