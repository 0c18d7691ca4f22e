//! Programs of Python that measure, and report how long their rounds take.

use core::time::Duration;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::sampler::Sampler;

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

/// Returns what measures a program. The program reads numbers, does its work that many times, and
/// writes how many nanoseconds that took. 0 ends it.
///
/// # Errors
/// There is no Python, or the program cannot do its work once.
///
/// # Panics
/// The sampler, if the program does not answer.
pub fn rounds_of(program: &str, arguments: &[&str]) -> Result<Sampler, String> {
    let mut command = Command::new("python3");
    command.args(["-c", program]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("python3 does not start: {error}"))?;
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
