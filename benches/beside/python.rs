//! Statements of Python, in an interpreter that reports how long they take.

use core::time::Duration;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

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

/// The interpreter. It would not see the end of its standard input, because processes that were
/// forked meanwhile have copies of that.
struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        if let Some(mut input) = self.0.stdin.take() {
            let _ = writeln!(input, "0");
        }
        let _ = self.0.wait();
    }
}

/// Returns what repeats a statement of one line, or why there is nothing to measure.
pub(crate) fn repeated(clock: Clock, setup: &str, statement: &str) -> Result<Sampler, String> {
    let clock = match clock {
        Clock::Cpu => "thread_time_ns",
        Clock::Wall => "perf_counter_ns",
    };
    let mut child = Command::new("python3")
        .args(["-c", PROGRAM, clock, setup, statement])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("python3 does not start: {error}"))?;
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut python = Python(child);
    let mut run = move |times: u64| -> Result<Duration, String> {
        let input = python.0.stdin.as_mut().expect("it is piped");
        writeln!(input, "{times}").map_err(|error| format!("python3 does not read: {error}"))?;
        let mut line = String::new();
        output.read_line(&mut line).map_err(|error| format!("python3 does not write: {error}"))?;
        let nanos = line.trim().parse().map_err(|_| "python3 fails".to_owned())?;
        Ok(Duration::from_nanos(nanos))
    };
    // What it cannot do fails at the first time.
    run(1)?;
    Ok(Box::new(move |times| run(times).expect("what it has done once it can do again")))
}
