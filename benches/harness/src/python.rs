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
/// There is no Python.
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
    Ok(Box::new(move |times| {
        let input = python.0.stdin.as_mut().expect("it is piped");
        writeln!(input, "{times}").expect("Python reads");
        let mut line = String::new();
        output.read_line(&mut line).expect("Python answers");
        Duration::from_nanos(line.trim().parse().expect("a number"))
    }))
}
