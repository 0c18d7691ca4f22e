// The queue's state machine, and what it refers to, as modules of the program that includes this.
// They are compiled from the crate's own files, so that they need not be public.

#[allow(dead_code, reason = "part of it is used")]
#[path = "../../src/queue"]
mod machines {
    pub(crate) mod ring;
}
use self::machines::ring;

#[allow(dead_code, unreachable_pub, reason = "part of it is used")]
#[path = "../../src/reactor"]
mod reactor {
    #[path = "stand_in/model.rs"]
    pub(crate) mod stand_in;
}
#[allow(dead_code, unreachable_pub, unused_imports, reason = "part of it is used")]
#[path = "../../src/sync"]
mod sync {
    pub(crate) mod lock {
        pub(crate) mod state;
    }
}
#[allow(dead_code, unreachable_pub, unused_imports, reason = "part of it is used")]
#[path = "../../src/wait"]
mod wait {
    pub(crate) mod source;
    mod waiter;

    pub(crate) use self::waiter::{Ended, Wait, Waiter, recheck_interval, set_recheck_interval};
}
#[allow(dead_code, unreachable_pub, reason = "part of it is used")]
#[path = "../../src/wait_any"]
mod wait_any {
    pub(crate) mod watching;
}
