//! A process is killed, or stopped, after each single instruction of an operation, and the others
//! must go on. Of instructions that nobody else can notice, one after the other, one stands for
//! all: [`visible`] says why, and in a run of each case it is seen that they leave the shared
//! memory as it was.
//!
//! # One run
//! 1. The [`Case`] makes its board, in memory that all processes share. A process may put it into a
//!    state and end.
//! 2. The victim is forked and traced. It prepares itself, up to the operation. Peers, if there are
//!    any, have done so before, and are stepped into the middle of theirs then: they are killed
//!    there, or stay there to the end.
//! 3. The companions come, one after the other, each until it sleeps, pauses or has ended; then two
//!    fresh survivors, which pause.
//! 4. The victim makes single steps. Whenever it falls asleep, which is a point of its own, the
//!    companions that pause go on.
//! 5. At the run's point, which is after so many visible instructions and falls into sleep, it is
//!    killed, or left as it is: in a ptrace-stop, or, if it sleeps, stopped by SIGSTOP.
//! 6. Companions go on, and have nobody but each other: whoever is asleep then must have a reason
//!    to be.
//! 7. The survivors run their script. Nobody may be asleep after it, but for a reason that a
//!    *stopped* victim gives.
//! 8. A stopped victim goes on and must come to its end, and so must all others, and at last the
//!    peers who were left in the middle. Then the case looks at its board.
//!
//! Everything in a run is on one CPU, so that operations do not spin, which makes their
//! instructions few and (nearly) the same in each run. Runs on different CPUs share nothing but the
//! machine.
//!
//! # A strand
//! With slices off and everybody asleep in a futex call without a time-out, nobody is left who
//! could wake anybody. So this is not a question of time: they are looked at for [`STRANDED_FOR`]
//! more, only because the looks are not one instant.

mod arena;
mod case;
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
