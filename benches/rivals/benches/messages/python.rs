//! Python's `multiprocessing.Queue`, between two processes of its own that report how long their
//! rounds take.

use crossproc_harness::pipe::Work;
use crossproc_harness::python::rounds_of;
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

/// Returns what measures it, or an error where there is no Python.
pub(crate) fn sampler(work: Work, size: usize) -> Result<Sampler, String> {
    if work != Work::Stream {
        return Err("one way only".into());
    }
    rounds_of(PROGRAM, &[&size.to_string()])
}
