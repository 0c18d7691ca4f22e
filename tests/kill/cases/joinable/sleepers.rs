//! Processes that sleep, and are let go on.

use super::companions::{
    finisher, getter, joiner, later_getter, later_joiner, later_letter_watcher, later_watcher,
    later_worker, letter_watcher, returner, supplier, watcher, with_dying_holder,
    with_dying_returner, worker,
};
use super::operations::{
    closing, finishing, getting, giving_back, giving_up, joining, trying_to_put, watching_all,
    watching_letters,
};
use super::{Leaves, case, case_with, known, victim};
use crate::harness::Subject;

pub(super) fn waking() -> Vec<Box<dyn Subject>> {
    vec![
        known(victim(
            case("try_put, 1 waits", 1, 0, Leaves::Task).companion(getter),
            trying_to_put,
        )),
        known(victim(
            case("try_put, 2 wait, 1 joins", 2, 0, Leaves::Closed)
                .companions(2, getter)
                .companion(joiner),
            trying_to_put,
        )),
        known(victim(case("drop, 1 waits", 1, 1, Leaves::Task).companion(getter), giving_back)),
        known(victim(case("drop, 2 wait", 2, 1, Leaves::Task).companions(2, getter), giving_back)),
        known(victim(
            case("drop, 1 waits, 2 join", 2, 1, Leaves::Closed)
                .companion(worker)
                .companions(2, joiner),
            giving_back,
        )),
        known(victim(case("done, 1 joins", 1, 1, Leaves::Nothing).companion(joiner), finishing)),
        known(victim(
            case("done, 2 join, 1 waits", 2, 1, Leaves::Closed)
                .companions(2, joiner)
                .companion(worker),
            finishing,
        )),
        known(victim(
            case_with("drop, the last attempt, 2 join", 2, 3, 1, 1, Leaves::Nothing)
                .companions(2, joiner),
            giving_up,
        )),
        known(victim(
            case("done, 2 watch", 1, 1, Leaves::Nothing).companions(2, watcher),
            finishing,
        )),
        known(victim(
            case_with("drop, the last attempt, 2 watch", 2, 3, 1, 1, Leaves::Nothing)
                .companions(2, watcher),
            giving_up,
        )),
        known(victim(
            case_with("drop, the last attempt, 2 watch for letters", 2, 3, 1, 1, Leaves::Nothing)
                .companions(2, letter_watcher),
            giving_up,
        )),
        known(victim(case("get, 2 join", 2, 1, Leaves::Closed).companions(2, joiner), getting)),
        known(victim(
            case("close, 2 wait, 1 joins", 2, 0, Leaves::Closed)
                .companions(2, worker)
                .companion(joiner),
            closing,
        )),
    ]
}

pub(super) fn blocked() -> Vec<Box<dyn Subject>> {
    vec![
        known(victim(case("get, then put", 1, 0, Leaves::Task).companion(supplier(1)), getting)),
        known(victim(
            case("get, then put, 1 waits behind", 2, 0, Leaves::Task)
                .companion(later_getter)
                .companion(supplier(2)),
            getting,
        )),
        known(victim(
            case("get, then one comes back", 2, 1, Leaves::Task).companion(returner),
            getting,
        )),
        known(victim(
            with_dying_holder(case("get, then its holder dies", 2, 1, Leaves::Task)),
            getting,
        )),
        known(victim(
            with_dying_holder(
                case("get, then its holder dies, 1 waits behind", 2, 1, Leaves::Task)
                    .companion(later_getter),
            ),
            getting,
        )),
        known(victim(
            with_dying_returner(case(
                "get, then its holder dies giving it back",
                2,
                1,
                Leaves::Task,
            )),
            getting,
        )),
        known(victim(case("join, then done", 2, 1, Leaves::Nothing).companion(finisher), joining)),
        known(victim(
            case("join, then done, 1 joins behind", 2, 1, Leaves::Nothing)
                .companion(later_joiner)
                .companion(finisher),
            joining,
        )),
        known(victim(
            case("wait_any until all is done, 1 watches behind", 2, 1, Leaves::Nothing)
                .companion(later_watcher)
                .companion(finisher),
            watching_all,
        )),
        known(victim(
            case_with("wait_any for a letter, 1 watches behind", 2, 3, 1, 1, Leaves::Nothing)
                .companion(later_letter_watcher)
                .companion(returner),
            watching_letters,
        )),
        known(victim(
            with_dying_holder(
                case_with(
                    "wait_any for a letter, whose holder dies, 1 watches behind",
                    2,
                    3,
                    1,
                    1,
                    Leaves::Nothing,
                )
                .companion(later_letter_watcher),
            ),
            watching_letters,
        )),
        known(victim(
            with_dying_holder(
                case("join, then its holder dies, 1 waits behind", 2, 1, Leaves::Closed)
                    .companion(later_worker),
            ),
            joining,
        )),
        known(victim(
            case("join, then one comes back, 1 waits", 2, 1, Leaves::Closed)
                .companion(returner)
                .companion(worker),
            joining,
        )),
    ]
}
