//! Python's `multiprocessing.Pipe`, between two processes of its own that report how long their
//! rounds take.

use crossproc_harness::pipe::Work;
use crossproc_harness::python::rounds_of;
use crossproc_harness::sampler::Sampler;

/// Reads numbers, transfers that many messages, and writes how many nanoseconds that took. 0 ends
/// it.
const PROGRAM: &str = r#"
import multiprocessing, os, sys, time
work, size = sys.argv[1], int(sys.argv[2])
one, other = multiprocessing.Pipe()
go, gone = multiprocessing.Pipe()
message = bytes(size)
if work == "alone":
    for times in map(int, sys.stdin):
        if times == 0:
            break
        start = time.monotonic_ns()
        for _ in range(times):
            one.send_bytes(message)
            other.recv_bytes()
        print(time.monotonic_ns() - start, flush=True)
    sys.exit()
if os.fork() == 0:
    while (times := go.recv()) is not None:
        for _ in range(times):
            other.recv_bytes()
            if work == "ping-pong":
                other.send_bytes(message)
        go.send(time.monotonic_ns())
    os._exit(0)
for times in map(int, sys.stdin):
    if times == 0:
        break
    gone.send(times)
    start = time.monotonic_ns()
    for _ in range(times):
        one.send_bytes(message)
        if work == "ping-pong":
            one.recv_bytes()
    print(gone.recv() - start, flush=True)
gone.send(None)
"#;

/// Returns what measures it, or an error where there is no Python.
pub(crate) fn sampler(work: Work, size: usize) -> Result<Sampler, String> {
    let work = match work {
        Work::Alone => "alone",
        Work::Stream => "stream",
        Work::PingPong => "ping-pong",
    };
    rounds_of(PROGRAM, &[work, &size.to_string()])
}
