//! Python's `multiprocessing.Queue`, between two processes of its own that report how long their
//! rounds take.

use core::time::Duration;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crossproc_harness::pipe::Work;
use crossproc_harness::sampler::Sampler;

/// Reads numbers, transfers that many messages, and writes how many nanoseconds that took. 0 ends
/// it.
const PROGRAM: &str = r#"
import multiprocessing, os, sys, time
size = int(sys.argv[1])
queue = multiprocessing.Queue(16)
go, gone = multiprocessing.Pipe()
message = bytes(size)
if os.fork() == 0:
    while (times := go.recv()) is not None:
        for _ in range(times):
            queue.get()
        go.send(time.monotonic_ns())
    os._exit(0)
for times in map(int, sys.stdin):
    if times == 0:
        break
    gone.send(times)
    start = time.monotonic_ns()
    for _ in range(times):
        queue.put(message)
    print(gone.recv() - start, flush=True)
gone.send(None)
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

/// Returns what measures it, or an error where there is no Python.
pub(crate) fn sampler(work: Work, size: usize) -> Result<Sampler, String> {
    if work != Work::Stream {
        return Err("one way only".into());
    }
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM, &size.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
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
