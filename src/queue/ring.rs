//! The exchange ring: the state machine of the queue. It knows memory and threads, but no handles,
//! no types of items and no errors of the public API. Loom and the explorer run it unchanged.
//!
//! # Goal
//! A bounded queue for many producers and consumers, lock-free in the strict sense: a participant
//! that stops or dies, at any instruction, keeps no other from completing an operation. No item of
//! a survivor is lost, doubled or out of order. No slot is lost. `Full` and `Empty` are exact.
//!
//! # How
//! Every participant has some slots of its own, in its *places*. Every entry of the ring has a
//! slot, whether the entry is full or empty. An operation is one compare-exchange, which swaps the
//! slot in a place for the one in an entry. The entry thereby becomes full, or empty in the next
//! cycle (`words`). A slot's contents are written before the put and read after the get, when no
//! other participant can reach them. So nothing is ever half published, and nothing is copied.
//! ([Batches](batches) are the exception: others copy items from a slot that may be taken.)
//!
//! The entries alone say what is in the queue. The put at a position is done when the entry is full
//! in the position's cycle. The get is done when the entry is empty in the next cycle. `tail` is
//! the first position where nothing was put, `head` the first one where nothing was got. An
//! operation finds either of them by going on from a position that is known to be no further:
//!
//! ```text
//! a put, at the entry of a position:
//!   empty, this cycle         -> exchange: everything before it was put
//!   full, this cycle; later   -> go on to the next position
//!   full, the cycle before    -> Full: what was put there a whole ring ago was not got
//! a get:
//!   full, this cycle          -> exchange: everything before it was got
//!   empty, next cycle; later  -> go on to the next position
//!   empty, this cycle         -> Empty: nothing was put there
//! ```
//!
//! So an operation is done with its one exchange. If its participant stops after that, others have
//! nothing to finish for it. Each participant remembers where it was. `tail` and `head` in shared
//! memory are starting points for others. They lag behind, and any participant that finds them more
//! than a few positions ([`LAG`](ends::LAG)) behind advances them. If they are not advanced, that
//! costs steps, not correctness.
//!
//! # Where the rest of it is
//! | file | what |
//! |---|---|
//! | `words`, `layout`, `memory`, `participant` | the words, where they lie, and each participant's own account |
//! | `ends` | the two ends of a ring: put and get |
//! | `batches` | several items in one slot |
//! | `blocks`, `budget` | memory for what does not fit into a slot, and how much of it there is |
//! | `broadcast` | rings of which everybody gets everything |
//! | `exchange` | one exchange of a slot, and who owns what after a death |
//! | `waiting`, `watching` | sleep and wake-ups, for one thing and for several |
//! | `participants`, `burying` | who takes part, and what is done for the dead |
//! | `tasks`, `letters`, `looks` | tasks that come back, dead letters, and what a look at all may cost |
//!
//! # Memory ordering
//! The exchange is AcqRel: Release for the payload and the announcement, Acquire for those of the
//! participant that left the slot there. Exchanges continue each other's release sequences. The
//! exchange is SeqCst besides, because of sleepers: see `waiting`. Shared positions are advanced
//! with Release and read with Acquire: an operation that begins at one sees the exchanges before
//! it. `taker`, the place and the end of the announcement are stored in this order, each with
//! Release. They are read in the reverse order, with Acquire.
//!
//! # Source
//! Our own. Entries with cycles are from D. Vyukov's bounded MPMC queue. See `DESIGN.md`.

pub(crate) mod batches;
pub(crate) mod blocks;
pub(crate) mod broadcast;
pub(crate) mod budget;
pub(crate) mod burying;
pub(crate) mod ends;
pub(crate) mod exchange;
pub(crate) mod layout;
pub(crate) mod letters;
pub(crate) mod looks;
pub(crate) mod memory;
pub(crate) mod participant;
pub(crate) mod participants;
pub(crate) mod refused;
pub(crate) mod tasks;
pub(crate) mod waiting;
pub(crate) mod watching;
pub(crate) mod words;
