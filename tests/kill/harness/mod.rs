//! Kills or stops a process after each single instruction of an operation; the others must go on.
//! Of consecutive instructions that no other process can notice, one stands for all: [`visible`]
//! says why. A run of each case checks that they leave the shared memory as it was.
//!
//! # One run
//! 1. The [`Case`] makes its board, in memory that all processes share. A process may put the board
//!    into a state and end.
//! 2. The victim is forked and traced. It prepares itself, up to the operation. Peers, if there are
//!    any, have prepared themselves before. They are stepped into the middle of their operations,
//!    and are killed there, or stay there to the end.
//! 3. The companions come, one after the other, each until it sleeps, pauses or has ended. Then two
//!    fresh survivors come, which pause.
//! 4. The victim makes single steps. Whenever it falls asleep, which is a point of its own, the
//!    paused companions go on.
//! 5. The run's point comes after a given number of visible instructions and falls into sleep.
//!    There the victim is killed, or left as it is: in a ptrace-stop, or, if it sleeps, stopped by
//!    SIGSTOP.
//! 6. The companions go on, and have only each other: each of them that is asleep then must have a
//!    reason to be.
//! 7. The survivors run their script. After it, no process may be asleep, except for a reason that
//!    a *stopped* victim gives.
//! 8. A stopped victim goes on and must come to its end. So must all others, and at last the peers
//!    that were left in the middle. Then the case checks its board.
//!
//! Everything in a run is on one CPU, so operations do not spin. This makes their instructions few,
//! and (nearly) the same in each run. Runs on different CPUs share nothing but the machine.
//!
//! # A strand
//! With slices off and every process asleep in a futex call without a time-out, no process is left
//! to wake another. So a strand is not a question of time. The processes are watched for
//! [`STRANDED_FOR`] more only because the looks at them are not one instant.

mod arena;
mod case;
mod clock;
mod process;
mod record;
mod run;
mod table;
mod victim;
mod visible;

pub(crate) use self::case::{Case, End, Fate, Me, Mode, Moment, Operation, Subject};
pub(crate) use self::process::{asleep, cpus};
pub(crate) use self::record::{Piece, Record};
pub(crate) use self::run::{LATE, SLICE, STRANDED_FOR};
pub(crate) use self::table::Table;
pub(crate) use self::victim::can_trace;
