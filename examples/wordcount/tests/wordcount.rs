//! Runs `wordcount` as a program. The tests check what it counts, and what it does when files,
//! workers or the program itself come to harm.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};
use serde_json::Value;

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

#[test]
fn totals_are_those_of_a_naive_count() {
    let scratch = Scratch::new("totals");
    let (tree, expected) = random_tree(&scratch, 1, 200);
    for chunk in ["1", "7", "64", "1000", "1048576", "18446744073709551615"] {
        for workers in ["1", "2", "3"] {
            let ended = run(
                &scratch,
                [
                    "--json",
                    "--check",
                    "--chunk",
                    chunk,
                    "--workers",
                    workers,
                    tree.to_str().unwrap(),
                ],
            );
            assert_eq!(ended.status.code(), Some(0), "{ended:?}");
            assert_eq!(ended.counts(), expected, "chunks of {chunk}, {workers} workers");
            assert_eq!(ended.json()["check"]["same"], true);
            assert_eq!(ended.json()["files"], 205);
            assert_eq!(ended.err, "");
        }
    }
}

#[test]
fn a_word_belongs_to_the_chunk_where_it_starts() {
    let scratch = Scratch::new("boundary");
    let cases: [(&[u8], Counts); 8] = [
        (b"", (0, 0, 0)),
        (b"across the edge", (0, 3, 15)),
        (b"sixlet seven", (0, 2, 12)),
        (b"sevenly seven", (0, 2, 13)),
        (b"longer_than_three_chunks_of_seven x\n", (1, 2, 36)),
        (b"\n\n\n\n\n\n\n\n", (8, 0, 8)),
        (b"      a      a", (0, 2, 14)),
        (b"aaaaaaa\x0baaaaaaa", (0, 2, 15)),
    ];
    for (bytes, expected) in cases {
        assert_eq!(naive_count(bytes), expected);
        let file = scratch.file("file", bytes);
        let ended = run(
            &scratch,
            ["--json".as_ref(), "--chunk=7".as_ref(), "--workers=2".as_ref(), file.as_os_str()],
        );
        assert_eq!((ended.status.code(), ended.counts()), (Some(0), expected), "{bytes:?}");
    }
}

#[test]
fn a_file_longer_than_the_buffer_is_counted() {
    let scratch = Scratch::new("long");
    let mut text = random_text(&mut fastrand::Rng::with_seed(2), 1_500_000);
    text.extend_from_slice(&[b'w'; 700_000]);
    let file = scratch.file("file", &text);
    for chunk in ["--chunk=1048576", "--chunk=300000", "--chunk=4000000"] {
        let ended = run(
            &scratch,
            ["--json".as_ref(), "--check".as_ref(), chunk.as_ref(), file.as_os_str()],
        );
        assert_eq!((ended.status.code(), ended.counts()), (Some(0), naive_count(&text)), "{chunk}");
    }
}

#[test]
fn text_names_all_figures() {
    let scratch = Scratch::new("text");
    let file = scratch.file("file", "a b\nc\n");
    let ended = run(&scratch, ["--check".as_ref(), "--chaos=2".as_ref(), file.as_os_str()]);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let figures = [
        "lines    2",
        "words    3",
        "bytes    6",
        "files    1",
        "chunks   1 of ",
        "tasks    1",
        "workers  1",
        "time     ",
        "killed   2 of 2,",
        "replaced 2",
    ];
    for line in figures.into_iter().chain(["lost     ", "checked  "]) {
        assert!(
            ended.out.lines().any(|printed| printed.starts_with(line)),
            "{line:?} is not in {}",
            ended.out
        );
    }
}

#[test]
fn without_a_path_the_sources_of_the_package_are_counted() {
    let scratch = Scratch::new("sources");
    for from in [Path::new(env!("CARGO_MANIFEST_DIR")), &scratch.0] {
        let ended =
            Running::start_command(&scratch, Command::new(PROGRAM).arg("--json").current_dir(from))
                .end();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert!(ended.json()["files"].as_u64().unwrap() > 10);
    }
}

#[test]
fn top_is_that_of_a_naive_count() {
    let scratch = Scratch::new("top");
    let (tree, expected) = random_tree(&scratch, 7, 100);
    let ranking = naive_ranking(texts(&tree));
    assert!(
        ranking.iter().any(|(word, _)| std::str::from_utf8(word).is_err()),
        "some words are not UTF-8"
    );
    for (chunk, workers) in
        [("1", "2"), ("7", "1"), ("64", "3"), ("1048576", "2"), ("18446744073709551615", "1")]
    {
        for most in [1, 3, 50, ranking.len() - 1, ranking.len(), usize::MAX] {
            let most_arg = most.to_string();
            let args = [
                "--json",
                "--check",
                "--top",
                &most_arg,
                "--chunk",
                chunk,
                "--workers",
                workers,
                tree.to_str().unwrap(),
            ]
            .map(OsString::from);
            let ended = run(&scratch, args);
            assert_eq!(
                (ended.status.code(), ended.counts(), ended.err.as_str()),
                (Some(0), expected, ""),
                "{ended:?}"
            );
            assert_eq!(
                ended.top(),
                ranking[..most.min(ranking.len())],
                "chunks of {chunk}, {workers} workers"
            );
            let json = ended.json();
            assert_eq!(
                (&json["distinct"], &json["check"]["same"]),
                (&ranking.len().into(), &true.into())
            );
        }
    }
}

#[test]
fn a_word_is_counted_whole_wherever_it_is_cut() {
    let scratch = Scratch::new("cut");
    // Lengths next to the ends of chunks, of the bytes that are read behind chunks, of the buffer,
    // and of messages.
    for len in [
        1, 6, 7, 8, 4_095, 4_096, 4_097, 65_523, 65_524, 65_525, 262_143, 262_144, 262_145, 700_000,
    ] {
        let long = vec![b'w'; len];
        let mut text = b"a ".to_vec();
        for end in [" ", "\n", "x ", " a "] {
            text.extend_from_slice(&long);
            text.extend_from_slice(end.as_bytes());
        }
        text.extend_from_slice(&long);
        let file = scratch.file("file", &text);
        for chunk in ["--chunk=7", "--chunk=100000", "--chunk=1048576"] {
            let chunk = if len > 5_000 && chunk == "--chunk=7" { "--chunk=4096" } else { chunk };
            let args = [
                "--json".as_ref(),
                "--top=9".as_ref(),
                "--check".as_ref(),
                "--workers=2".as_ref(),
                chunk.as_ref(),
                file.as_os_str(),
            ];
            let ended = run(&scratch, args);
            assert_eq!(
                (ended.status.code(), ended.err.as_str()),
                (Some(0), ""),
                "words of {len}, {chunk}"
            );
            assert!(ended.top() == naive_ranking([text.clone()]), "words of {len}, {chunk}");
        }
    }
}

#[test]
fn ties_go_to_the_word_whose_bytes_come_first() {
    let scratch = Scratch::new("ties");
    let file = scratch.file("file", b"b aa b aa a \xff\xff ab a \xff\xff \xc3\xa9 z");
    for (most, expected) in [
        ("2", &["a", "aa"][..]),
        ("3", &["a", "aa", "b"]),
        ("5", &["a", "aa", "b", "\\xff\\xff", "ab"]),
    ] {
        let ended = run(
            &scratch,
            ["--top".as_ref(), most.as_ref(), "--chunk=3".as_ref(), file.as_os_str()],
        );
        let top = ended
            .out
            .lines()
            .filter(|line| line.starts_with("top "))
            .map(|line| line.split_whitespace().last().unwrap());
        assert_eq!(top.collect::<Vec<_>>(), expected, "{ended:?}");
    }
}

#[test]
fn text_shows_every_word_in_one_way_of_its_own() {
    let scratch = Scratch::new("escaped");
    let file = scratch.file(
        "file",
        b"\xff \xff \xff \\xff \\xff \0\x1b \0\x1b \0\x1b \0\x1b \"it's\" \xe2\x80\xae\xc3\xa9",
    );
    let ended = run(&scratch, ["--top=9".as_ref(), file.as_os_str()]);
    let expected = "distinct 5 words\n\
        top      4          \\0\\u{1b}\n\
        top      3          \\xff\n\
        top      2          \\\\xff\n\
        top      1          \"it's\"\n\
        top      1          \\u{202e}\u{e9}\n";
    assert!(ended.out.ends_with(expected), "{ended:?}");
}

#[test]
fn words_are_not_counted_without_top() {
    let scratch = Scratch::new("no-top");
    let file = scratch.file("file", "a b\nc\n");
    for args in [&["--json"][..], &["--json", "--top=0", "--check"]] {
        let ended = run(&scratch, args.iter().map(OsStr::new).chain([file.as_os_str()]));
        let json = ended.json();
        assert_eq!(
            (ended.status.code(), &json["top"], &json["distinct"]),
            (Some(0), &Value::Null, &Value::Null),
            "{ended:?}"
        );
    }
    let ended = run(&scratch, ["--top=0".as_ref(), file.as_os_str()]);
    assert!(!ended.out.contains("top ") && !ended.out.contains("distinct"), "{ended:?}");
}

#[test]
fn without_words_there_is_no_top() {
    let scratch = Scratch::new("no-words");
    let file = scratch.file("file", " \n");
    for path in [&file, &scratch.0.join("missing")] {
        let ended = run(
            &scratch,
            ["--json".as_ref(), "--check".as_ref(), "--top=3".as_ref(), path.as_os_str()],
        );
        assert_eq!((ended.top(), &ended.json()["distinct"]), (Vec::new(), &0.into()), "{ended:?}");
    }
}

#[test]
fn top_is_exact_though_workers_are_killed() {
    let scratch = Scratch::new("top-chaos");
    let (tree, expected) = random_tree(&scratch, 8, 150);
    let ranking = naive_ranking(texts(&tree));
    for (chunk, workers) in [("7", "2"), ("64", "3"), ("1048576", "2")] {
        let args = [
            "--json",
            "--check",
            "--top=1000000",
            "--chaos=30",
            "--chunk",
            chunk,
            "--workers",
            workers,
            tree.to_str().unwrap(),
        ];
        let ended = run(&scratch, args);
        assert_eq!((ended.status.code(), ended.counts()), (Some(0), expected), "{ended:?}");
        assert!(ended.top() == ranking, "chunks of {chunk}, {workers} workers");
        assert_eq!(ended.json()["killed"], 30);
    }
}

/// Results take several messages each, more than the parent can read at once. So many killed
/// workers are about to send.
#[test]
fn half_a_result_does_not_count() {
    let scratch = Scratch::new("half");
    let mut random = fastrand::Rng::with_seed(9);
    let text: Vec<u8> =
        (0..250_000).flat_map(|_| format!("{:x} ", random.u32(..1 << 18)).into_bytes()).collect();
    let file = scratch.file("file", &text);
    let ranking = naive_ranking([text.clone()]);
    for workers in ["--workers=2", "--workers=3", "--workers=4", "--workers=5"] {
        let args = ["--json", "--top=50", "--check", "--chaos=50", "--chunk=150000", workers]
            .map(OsStr::new);
        let ended = run(&scratch, args.into_iter().chain([file.as_os_str()]));
        assert_eq!(
            (ended.status.code(), ended.counts()),
            (Some(0), naive_count(&text)),
            "{ended:?}"
        );
        assert_eq!(
            (ended.top().as_slice(), &ended.json()["distinct"]),
            (&ranking[..50], &ranking.len().into())
        );
    }
}

#[test]
fn totals_are_exact_though_workers_are_killed() {
    let scratch = Scratch::new("chaos");
    let (tree, expected) = random_tree(&scratch, 3, 300);
    for (chunk, workers) in [("7", "2"), ("64", "3"), ("1048576", "1"), ("1048576", "2")] {
        let args = [
            "--json",
            "--check",
            "--chaos=30",
            "--chunk",
            chunk,
            "--workers",
            workers,
            tree.to_str().unwrap(),
        ];
        let ended = run(&scratch, args);
        assert_eq!((ended.status.code(), ended.counts()), (Some(0), expected), "{ended:?}");
        let json = ended.json();
        assert_eq!(
            (&json["killed"], &json["died"], &json["replaced"]),
            (&30.into(), &0.into(), &30.into()),
            "{ended:?}"
        );
        assert!(json["lost_seconds"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn a_single_chunk_survives_many_kills() {
    let scratch = Scratch::new("single-chunk");
    let file = scratch.file("file", "a b\nc\n");
    let ended = run(&scratch, ["--json".as_ref(), "--chaos=10".as_ref(), file.as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(0), (2, 3, 6)), "{ended:?}");
    assert_eq!(ended.json()["killed"], 10);
}

#[test]
fn the_same_seed_draws_the_same_plan() {
    let scratch = Scratch::new("seed");
    let (tree, expected) = random_tree(&scratch, 4, 50);
    let plan = |seed: &str| {
        let ended = run(
            &scratch,
            ["--json", "--chaos=20", "--chunk=64", "--workers=2", seed, tree.to_str().unwrap()],
        );
        assert_eq!((ended.status.code(), ended.counts()), (Some(0), expected), "{ended:?}");
        ended.json()["chaos"].clone()
    };
    let first = plan("--seed=17");
    assert_eq!(first["plan"].as_array().unwrap().len(), 20);
    assert_eq!(first, plan("--seed=17"));
    assert_ne!(first["plan"], plan("--seed=18")["plan"]);
}

#[test]
fn a_missing_path_is_named_and_the_rest_counted() {
    let scratch = Scratch::new("missing");
    let file = scratch.file("file", "a b\nc\n");
    let missing = scratch.path("missing");
    let ended = run(&scratch, ["--json".as_ref(), missing.as_os_str(), file.as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(2), (2, 3, 6)), "{ended:?}");
    assert!(ended.complains(&missing, "No such file"), "{ended:?}");
    assert_eq!(ended.json()["flawed"], 1);

    let ended = run(&scratch, ["--json".as_ref(), missing.as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(2), (0, 0, 0)), "{ended:?}");
}

#[test]
fn a_loop_of_links_is_named_and_the_rest_counted() {
    let scratch = Scratch::new("loop");
    scratch.file("tree/above/file", "a b\nc\n");
    let link = scratch.path("tree/above/back");
    symlink("..", &link).unwrap();
    let ended = run(&scratch, ["--json".as_ref(), scratch.path("tree").as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(2), (2, 3, 6)), "{ended:?}");
    assert!(ended.complains(&link, "leads back to"), "{ended:?}");
}

#[test]
fn links_are_followed_and_what_is_no_file_is_skipped() {
    let scratch = Scratch::new("links");
    scratch.file("elsewhere/file", "a b\nc\n");
    scratch.file("tree/file", "d e\n");
    symlink("../elsewhere", scratch.path("tree/directory")).unwrap();
    symlink("file", scratch.path("tree/again")).unwrap();
    symlink("nothing", scratch.path("tree/dangling")).unwrap();
    let fifo = scratch.path("tree/fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let ended = run(&scratch, ["--json".as_ref(), scratch.path("tree").as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(0), (4, 7, 14)), "{ended:?}");
    assert_eq!(ended.err, "");

    let ended =
        run(&scratch, ["--json".as_ref(), fifo.as_os_str(), scratch.path("tree/file").as_os_str()]);
    assert_eq!((ended.status.code(), ended.counts()), (Some(2), (1, 2, 4)), "{ended:?}");
    assert!(ended.complains(&fifo, "neither a regular file nor a directory"), "{ended:?}");
}

#[test]
fn an_unreadable_file_is_named_and_the_rest_counted() {
    const NOBODY: u32 = 65_534;
    let scratch = Scratch::new("unreadable");
    let (secret, empty_secret) =
        (scratch.file("tree/secret", "x y z\n"), scratch.file("tree/empty secret", ""));
    let closed = scratch.file("tree/closed/file", "x y z\n");
    let closed = closed.parent().unwrap();
    scratch.file("tree/file", "a b\nc\n");
    for path in [&secret, &empty_secret, closed] {
        fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
    }
    let mut command = Command::new(PROGRAM);
    command.arg("--json").arg(scratch.path("tree"));
    if geteuid().is_root() {
        // Permissions do not stop root, so the program runs as the user `nobody`. That user cannot
        // start the program if a directory above it is private.
        command.uid(NOBODY).gid(NOBODY);
        let mut probe = Command::new(PROGRAM);
        if probe.arg("--help").stdout(Stdio::null()).uid(NOBODY).gid(NOBODY).status().is_err() {
            eprintln!("not tested: only root may start {}", PROGRAM);
            return;
        }
    }
    let ended = Running::start_command(&scratch, &mut command).end();
    // With its old mode, the directory could not be removed.
    fs::set_permissions(closed, Permissions::from_mode(0o700)).unwrap();
    assert_eq!((ended.status.code(), ended.counts()), (Some(2), (2, 3, 6)), "{ended:?}");
    for path in [&secret, &empty_secret, closed] {
        assert!(ended.complains(path, "Permission denied"), "{ended:?}");
    }
    assert_eq!(ended.json()["flawed"], 3);
}

#[test]
fn a_file_that_shrinks_is_named_and_the_rest_counted() {
    let scratch = Scratch::new("shrinks");
    let obstacle = Obstacle::new(&scratch);
    let rest = scratch.file("rest", "a b\nc\n");
    let args = [
        "--json".as_ref(),
        "--workers=1".as_ref(),
        Obstacle::CHUNK.as_ref(),
        obstacle.path.as_os_str(),
        rest.as_os_str(),
    ];
    let running = Running::start(&scratch, args);
    running.worker_at(&obstacle.path);
    obstacle.remove();
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(ended.complains(&obstacle.path, "shrank"), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "one complaint for all chunks: {ended:?}");
    let (lines, words, bytes) = ended.counts();
    assert!(
        lines == 2 && (3..=4).contains(&words) && (6..Obstacle::LEN).contains(&bytes),
        "{ended:?}"
    );
}

#[test]
fn a_file_that_goes_after_the_listing_is_named_and_the_rest_counted() {
    let scratch = Scratch::new("goes");
    let obstacle = Obstacle::new(&scratch);
    let (gone, swapped, rest) = (
        scratch.file("gone", "x\n"),
        scratch.file("swapped", "y\n"),
        scratch.file("rest", "a b\nc\n"),
    );
    let paths = [&obstacle.path, &gone, &swapped, &rest].map(|path| path.clone().into_os_string());
    let running = Running::start(
        &scratch,
        ["--json", "--workers=1", Obstacle::CHUNK].map(OsString::from).into_iter().chain(paths),
    );
    running.worker_at(&obstacle.path);
    fs::remove_file(&gone).unwrap();
    fs::remove_file(&swapped).unwrap();
    mknodat(CWD, &swapped, FileType::Fifo, Mode::RWXU, 0).unwrap();
    obstacle.remove();
    let ended = running.end();
    assert_eq!((ended.status.code(), ended.counts().0), (Some(2), 2), "{ended:?}");
    assert!(ended.complains(&gone, "No such file"), "{ended:?}");
    assert!(ended.complains(&swapped, "os error 29"), "{ended:?}");
    assert_eq!(ended.json()["flawed"], 3);
}

#[test]
fn a_check_that_differs_is_status_1() {
    let scratch = Scratch::new("differs");
    let changed = scratch.file("changed", "a b\n");
    let obstacle = Obstacle::new(&scratch);
    let args = [
        "--check".as_ref(),
        "--workers=1".as_ref(),
        Obstacle::CHUNK.as_ref(),
        changed.as_os_str(),
        obstacle.path.as_os_str(),
    ];
    let running = Running::start(&scratch, args);
    // The obstacle is the second file, so the first one has been counted.
    running.worker_at(&obstacle.path);
    fs::write(&changed, "\n\n\n\n").unwrap();
    obstacle.remove();
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let complaint = ended.err.lines().find(|line| line.contains("the check failed")).unwrap();
    assert!(
        complaint.contains("counted 1 lines, ")
            && complaint.contains("by one thread 4 lines, 0 words, 4 bytes"),
        "{ended:?}"
    );
}

#[test]
fn a_check_finds_words_that_differ() {
    let scratch = Scratch::new("words-differ");
    let changed = scratch.file("changed", "a b\n");
    let obstacle = Obstacle::new(&scratch);
    // The obstacle's one word is ranked behind the others.
    obstacle.file.write_all_at(b"z", 0).unwrap();
    let args = ["--check", "--top=1", "--workers=1", Obstacle::CHUNK].map(OsStr::new);
    let running = Running::start(
        &scratch,
        args.into_iter().chain([changed.as_os_str(), obstacle.path.as_os_str()]),
    );
    running.worker_at(&obstacle.path);
    obstacle.remove();
    fs::write(&changed, "a c\n").unwrap();
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        ended
            .err
            .contains("the check failed: the word b was counted 1 times, by one thread 0 times"),
        "{ended:?}"
    );
}

#[test]
fn no_workers_are_an_error() {
    let scratch = Scratch::new("no-workers");
    let file = scratch.file("file", "a\n");
    for arg in ["--workers=0", "--chunk=0", "--chaos=-1", "--workers=x"] {
        let ended = run(&scratch, [arg.as_ref(), file.as_os_str()]);
        assert_eq!((ended.status.code(), ended.out.as_str()), (Some(2), ""), "{ended:?}");
        assert!(ended.err.contains(arg.split_once('=').unwrap().0), "{ended:?}");
    }
}

#[test]
fn too_many_chunks_are_an_error() {
    let scratch = Scratch::new("too-many-chunks");
    let obstacle = Obstacle::new(&scratch);
    let ended = run(&scratch, ["--chunk=1".as_ref(), obstacle.path.as_os_str()]);
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(ended.err.contains("larger --chunk"), "{ended:?}");
}

#[test]
fn a_worker_killed_by_others_is_replaced() {
    let scratch = Scratch::new("replaced");
    let obstacle = Obstacle::new(&scratch);
    let (tree, (lines, words, _)) = random_tree(&scratch, 5, 50);
    let args = [
        "--json".as_ref(),
        "--workers=2".as_ref(),
        Obstacle::CHUNK.as_ref(),
        obstacle.path.as_os_str(),
        tree.as_os_str(),
    ];
    let running = Running::start(&scratch, args);
    let first = running.worker_at(&obstacle.path);
    first.kill();
    until("a replacement", || {
        Some(running.workers()).filter(|workers| workers.len() == 2 && !workers.contains(&first))
    });
    running.worker_at(&obstacle.path);
    obstacle.remove();
    let ended = running.end();
    let json = ended.json();
    assert_eq!(
        (ended.status.code(), &json["died"], &json["replaced"]),
        (Some(2), &1.into(), &1.into()),
        "{ended:?}"
    );
    assert_eq!(ended.counts().0, lines);
    assert!((words..=words + 1).contains(&ended.counts().1), "{ended:?}");
    assert!(ended.err.contains("ended before its time: signal: 9"), "{ended:?}");
}

/// Kills the worker at the obstacle, and each worker that does its task after that, until the task
/// is given up.
fn kill_five_at(running: &Running, obstacle: &Obstacle) {
    let mut killed = BTreeSet::new();
    for _ in 0..5 {
        let worker = running.worker_at(&obstacle.path);
        assert!(killed.insert(worker.pid), "the worker {worker:?} was killed already");
        worker.kill();
    }
}

#[test]
fn a_task_that_five_workers_died_at_is_given_up_and_the_rest_counted() {
    for workers in ["--workers=1", "--workers=2"] {
        let scratch = Scratch::new("given-up");
        let obstacle = Obstacle::new(&scratch);
        let (tree, expected) = random_tree(&scratch, 6, 50);
        let chunk = Obstacle::ALL_IN_ONE_CHUNK;
        let args = [
            "--json".as_ref(),
            workers.as_ref(),
            chunk.as_ref(),
            obstacle.path.as_os_str(),
            tree.as_os_str(),
        ];
        let running = Running::start(&scratch, args);
        kill_five_at(&running, &obstacle);
        let ended = running.end();
        assert_eq!((ended.status.code(), ended.counts()), (Some(2), expected), "{ended:?}");
        assert!(ended.complains(&obstacle.path, "5 workers died at its task"), "{ended:?}");
        let json = ended.json();
        assert_eq!(
            (&json["flawed"], &json["died"], &json["replaced"]),
            (&1.into(), &5.into(), &5.into()),
            "{ended:?}"
        );
    }
}

#[test]
fn all_files_of_a_task_that_is_given_up_are_named() {
    let scratch = Scratch::new("all-given-up");
    let (before, obstacle) = (scratch.file("before", "a\n"), Obstacle::new(&scratch));
    // Each worker gets at least some tasks, so it takes this many files for the first ones to share
    // a task.
    let args = ["--json", "--workers=1", "--chunk=18446744073709551615"]
        .map(OsStr::new)
        .into_iter()
        .chain([before.as_os_str()]);
    let running = Running::start(&scratch, args.chain([obstacle.path.as_os_str(); 40]));
    kill_five_at(&running, &obstacle);
    obstacle.remove();
    let ended = running.end();
    assert_eq!((ended.status.code(), ended.counts().0), (Some(2), 0), "{ended:?}");
    for path in [&before, &obstacle.path] {
        assert!(ended.complains(path, "5 workers died at its task"), "{ended:?}");
    }
    assert!(ended.complains(&obstacle.path, "shrank"), "{ended:?}");
}

#[test]
fn a_slot_whose_workers_die_without_a_task_is_given_up_and_others_do_the_rest() {
    let scratch = Scratch::new("slot");
    let (obstacle, rest) = (Obstacle::new(&scratch), scratch.file("rest", "a b\nc\n"));
    let args = [
        "--json".as_ref(),
        "--workers=2".as_ref(),
        Obstacle::ALL_IN_ONE_CHUNK.as_ref(),
        obstacle.path.as_os_str(),
        rest.as_os_str(),
    ];
    let running = Running::start(&scratch, args);
    let busy = running.worker_at(&obstacle.path);
    until("a slot that is given up", || {
        if let Some(idle) = running.workers().into_iter().find(|&worker| worker != busy) {
            idle.kill();
        }
        fs::read_to_string(&running.err)
            .unwrap()
            .contains("is given up after 5 deaths in a row without a task")
            .then_some(())
    });
    assert_eq!(running.workers(), [busy]);
    obstacle.remove();
    let ended = running.end();
    assert_eq!((ended.status.code(), ended.counts().0), (Some(2), 2), "{ended:?}");
    assert!(ended.complains(&obstacle.path, "shrank"), "{ended:?}");
}

/// Starting a worker takes descriptors. With one too few, everything but that works.
#[test]
fn when_no_worker_can_be_started_none_are_left() {
    let scratch = Scratch::new("no-start");
    let file = scratch.file("file", "a b\nc\n");
    let with_descriptors = |most: u32| {
        let mut limited = Command::new("sh");
        limited
            .args(["-c", "ulimit -n $1; shift; exec \"$@\"", "sh", &most.to_string()])
            .arg(PROGRAM)
            .args(["--json".as_ref(), file.as_os_str()]);
        Running::start_command(&scratch, &mut limited).end()
    };
    let enough = (4..64).find(|&most| with_descriptors(most).status.success()).unwrap();
    let ended = with_descriptors(enough - 1);
    assert_eq!((ended.status.code(), ended.out.as_str()), (Some(2), ""), "{ended:?}");
    assert!(
        ended.err.contains("slot 0 is given up")
            && ended.err.contains("no worker could be started"),
        "{ended:?}"
    );
    assert!(ended.err.contains("no workers left"), "{ended:?}");
}

#[test]
fn interruption_ends_all_workers() {
    let scratch = Scratch::new("interrupted");
    let obstacle = Obstacle::new(&scratch);
    // Ctrl-C in a terminal signals the whole group; `kill` signals the one process.
    for (signal, name, code, to_group) in [
        (Signal::INT, "SIGINT", 130, true),
        (Signal::INT, "SIGINT", 130, false),
        (Signal::TERM, "SIGTERM", 143, false),
    ] {
        let args = ["--workers=2".as_ref(), Obstacle::CHUNK.as_ref(), obstacle.path.as_os_str()];
        let running =
            Running::start_command(&scratch, Command::new(PROGRAM).args(args).process_group(0));
        running.worker_at(&obstacle.path);
        let workers =
            until("both workers", || Some(running.workers()).filter(|workers| workers.len() == 2));
        if to_group {
            kill_process_group(running.pid(), signal)
        } else {
            kill_process(running.pid(), signal)
        }
        .unwrap();
        let ended = running.end();
        assert!(workers.iter().all(|worker| worker.has_ended()), "{workers:?}");
        assert_eq!((ended.status.code(), ended.out.as_str()), (Some(code), ""), "{ended:?}");
        assert!(
            ended.err.contains(&format!("interrupted by {name}: 2 workers were ended")),
            "{ended:?}"
        );
        assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    }
}

#[test]
fn workers_end_with_their_parent() {
    let scratch = Scratch::new("orphans");
    let obstacle = Obstacle::new(&scratch);
    let running = Running::start(
        &scratch,
        ["--workers=2".as_ref(), Obstacle::CHUNK.as_ref(), obstacle.path.as_os_str()],
    );
    running.worker_at(&obstacle.path);
    let workers =
        until("both workers", || Some(running.workers()).filter(|workers| workers.len() == 2));
    kill_process(running.pid(), Signal::KILL).unwrap();
    assert_eq!(running.end().status.signal(), Some(9));
    until("the end of the workers", || {
        workers.iter().all(|worker| worker.has_ended()).then_some(())
    });
}

#[test]
fn a_stopped_worker_can_be_interrupted() {
    let scratch = Scratch::new("stopped");
    let obstacle = Obstacle::new(&scratch);
    let running = Running::start(
        &scratch,
        ["--workers=1".as_ref(), Obstacle::CHUNK.as_ref(), obstacle.path.as_os_str()],
    );
    let worker = running.worker_at(&obstacle.path);
    kill_process(Pid::from_raw(worker.pid).unwrap(), Signal::STOP).unwrap();
    kill_process(running.pid(), Signal::INT).unwrap();
    assert_eq!(running.end().status.code(), Some(130));
    assert!(worker.has_ended());
}

/// A program inherits an ignored SIGCHLD. The system then discards the exit statuses of its
/// children.
#[test]
#[allow(unsafe_code)]
fn an_ignored_sigchld_does_no_harm() {
    let scratch = Scratch::new("sigchld");
    let file = scratch.file("file", "a b\nc\n");
    let mut command = Command::new(PROGRAM);
    command.args(["--json", "--chaos=5"]).arg(&file);
    let ignore = || {
        // SAFETY: no handler is installed; `signal` is async-signal-safe.
        match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } {
            libc::SIG_ERR => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: the closure makes one async-signal-safe call, and allocates nothing.
    unsafe { command.pre_exec(ignore) };
    let ended = Running::start_command(&scratch, &mut command).end();
    assert_eq!((ended.status.code(), ended.counts()), (Some(0), (2, 3, 6)), "{ended:?}");
    assert_eq!(ended.json()["killed"], 5);
}
