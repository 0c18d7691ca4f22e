//! Runs `wordcount` as a program. The tests check what it counts, and what it does when files,
//! workers or the program itself come to harm.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

mod chaos;
mod checks;
mod files;
mod options;
mod signals;
mod top;
mod totals;
mod workers;

const PROGRAM: &str = env!("CARGO_BIN_EXE_wordcount");

/// No wait takes longer unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `look` finds something, and returns that.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A directory of the test's own, which is removed at the test's end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("wordcount-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Lines, words, bytes.
type Counts = (u64, u64, u64);

fn naive_count(bytes: &[u8]) -> Counts {
    let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
    let words = bytes
        .split(|byte| b" \t\n\x0b\x0c\r".contains(byte))
        .filter(|word| !word.is_empty())
        .count();
    (lines as u64, words as u64, bytes.len() as u64)
}

/// Words and their counts, the most frequent words first. Words with the same count are in the
/// order of their bytes.
type Ranking = Vec<(Vec<u8>, u64)>;

fn naive_ranking(texts: impl IntoIterator<Item = Vec<u8>>) -> Ranking {
    let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for text in texts {
        for word in
            text.split(|byte| b" \t\n\x0b\x0c\r".contains(byte)).filter(|word| !word.is_empty())
        {
            *counts.entry(word.to_vec()).or_default() += 1;
        }
    }
    let mut ranking: Ranking = counts.into_iter().collect();
    // A stable sort: the map gave them in the order of their bytes.
    ranking.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    ranking
}

/// Returns the contents of all files under a directory.
fn texts(directory: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { texts(&path) } else { vec![fs::read(path).unwrap()] })
        .collect()
}

/// Returns text of words and all kinds of white space, with bytes that only look like white space.
fn random_text(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    const BYTES: &[u8] = b" \t\n\x0b\x0c\r abcdefgh\0\x08\x0e\x1c\x1f!\x85\xa0\xff";
    (0..len).map(|_| BYTES[random.usize(..BYTES.len())]).collect()
}

/// Makes files of all lengths in nested directories. Returns the directory and the counts.
fn random_tree(scratch: &Scratch, seed: u64, files: usize) -> (PathBuf, Counts) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut total = (0, 0, 0);
    let mut add = |name: PathBuf, bytes: Vec<u8>| {
        let (lines, words, bytes_in) = naive_count(&bytes);
        total = (total.0 + lines, total.1 + words, total.2 + bytes_in);
        scratch.file(Path::new("tree").join(name), bytes);
    };
    for number in 0..files {
        let shorter_than = 1 << random.usize(..11);
        let len = random.usize(..shorter_than);
        let name = format!("{}/{}/{number}", number % 3, number % 7);
        add(PathBuf::from(name), random_text(&mut random, len));
    }
    add(PathBuf::from("empty"), Vec::new());
    add(PathBuf::from("no newline at the end"), b"one\ntwo".to_vec());
    add(PathBuf::from("one word"), vec![b'w'; 5_000]);
    add(PathBuf::from("no word"), vec![b'\r'; 5_000]);
    add(PathBuf::from(OsString::from_vec(b"no\xffutf\n8".to_vec())), b"a b\n".to_vec());
    (scratch.path("tree"), total)
}

/// The running program. Its output goes to files, which cannot be full.
struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

/// How the program ended.
#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Running {
    fn start<A: AsRef<OsStr>>(scratch: &Scratch, args: impl IntoIterator<Item = A>) -> Self {
        Running::start_command(scratch, Command::new(PROGRAM).args(args))
    }

    fn start_command(scratch: &Scratch, command: &mut Command) -> Self {
        let (out, err) = (scratch.path("standard output"), scratch.path("standard error"));
        let child = command
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Running { child, out, err }
    }

    fn end(mut self) -> Ended {
        let status = until("the end of the program", || self.child.try_wait().unwrap());
        let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Ended { status, out: read(&self.out), err: read(&self.err) }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn workers(&self) -> Vec<Process> {
        let pid = self.child.id();
        let children =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| Process::of(pid.parse().unwrap())).collect()
    }

    /// Waits for the worker that has the file open.
    fn worker_at(&self, file: &Path) -> Process {
        until("a worker at the file", || {
            self.workers().into_iter().find(|worker| worker.has_open(file))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn counts(&self) -> Counts {
        counts(&self.json()["total"])
    }

    fn top(&self) -> Ranking {
        let bytes = |array: &Value| {
            array.as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8).collect()
        };
        let word = |entry: &Value| {
            entry["word"]
                .as_str()
                .map_or_else(|| bytes(&entry["bytes"]), |word| word.as_bytes().to_vec())
        };
        let json = self.json();
        json["top"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| (word(entry), entry["count"].as_u64().unwrap()))
            .collect()
    }

    /// Returns whether a line of the standard error contains both the path and this text.
    fn complains(&self, path: &Path, what: &str) -> bool {
        self.err.lines().any(|line| line.contains(&*path.to_string_lossy()) && line.contains(what))
    }
}

fn counts(total: &Value) -> Counts {
    let number = |name: &str| total[name].as_u64().unwrap();
    (number("lines"), number("words"), number("bytes"))
}

fn run<A: AsRef<OsStr>>(scratch: &Scratch, args: impl IntoIterator<Item = A>) -> Ended {
    Running::start(scratch, args).end()
}

/// A process. The start time tells it from a later process with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    started: u64,
}

impl Process {
    /// Returns the process with this pid, unless it has ended.
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The fields behind the name, which may contain anything. The first is the state, the 20th
        // the start time.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let started = fields.get(19)?.parse().ok()?;
        (!matches!(fields[0], "Z" | "X")).then_some(Process { pid, started })
    }

    fn has_ended(self) -> bool {
        Process::of(self.pid) != Some(self)
    }

    fn has_open(self, file: &Path) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        open.into_iter().any(|number| fs::read_link(number.path()).is_ok_and(|path| path == file))
    }

    fn kill(self) {
        kill_process(Pid::from_raw(self.pid).unwrap(), Signal::KILL).unwrap();
        until("the end of a killed worker", || self.has_ended().then_some(()));
    }
}

/// A file that keeps a worker busy for minutes, until it is truncated: 1 TiB of zeros that take no
/// space. It has no lines. It has one word if a byte of it was read before the truncation.
struct Obstacle {
    path: PathBuf,
    file: File,
}

impl Obstacle {
    const LEN: u64 = 1 << 40;
    /// The chunk size for jobs in which the file is to have many chunks, but not too many.
    const CHUNK: &str = "--chunk=268435456";
    const ALL_IN_ONE_CHUNK: &str = "--chunk=1099511627776";

    fn new(scratch: &Scratch) -> Self {
        let path = scratch.file("obstacle", "");
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(Obstacle::LEN).unwrap();
        // The path as the links in /proc name it.
        Obstacle { path: path.canonicalize().unwrap(), file }
    }

    fn remove(&self) {
        self.file.set_len(0).unwrap();
    }
}

impl Drop for Obstacle {
    /// Releases the workers that a failed test has left behind.
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}
