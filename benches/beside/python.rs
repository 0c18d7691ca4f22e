//! Statements of Python, in an interpreter that reports how long they take.

use crossproc_harness::python::rounds_of;
use crossproc_harness::sampler::Sampler;

/// What is measured.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "each benchmark uses one")]
pub(crate) enum Clock {
    /// The CPU time of the interpreter's thread.
    Cpu,
    /// The time of a clock.
    Wall,
}

/// Reads numbers, executes the third argument as often, and writes the nanoseconds by the first,
/// which names a clock. 0 ends it. The second argument comes before everything.
const PROGRAM: &str = r#"
import sys, time
clock, setup, statement = sys.argv[1:]
now = getattr(time, clock)
names = {}
exec(setup, names)
exec("def repeat(times):\n for _ in range(times):\n  " + statement, names)
for times in map(int, sys.stdin):
    if times == 0:
        break
    start = now()
    names["repeat"](times)
    print(max(1, now() - start), flush=True)
"#;

/// Returns what repeats a statement of one line, or why there is nothing to measure.
pub(crate) fn repeated(clock: Clock, setup: &str, statement: &str) -> Result<Sampler, String> {
    let clock = match clock {
        Clock::Cpu => "thread_time_ns",
        Clock::Wall => "perf_counter_ns",
    };
    rounds_of(PROGRAM, &[clock, setup, statement])
}
