//! The example `bus`: separate programs that are started in any order, killed, and started again.
//!
//! `cargo test` builds the example. Before `--test bus` alone, it has to be built by `cargo build
//! --example bus`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The longest time that a wait takes, unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// The number of messages of each publisher that show that it goes on.
const ENOUGH: usize = 30;

fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let path = deps.ancestors().nth(2).unwrap().join("examples/bus");
    assert!(
        path.exists(),
        "{} is missing: build it by `cargo build --example bus`, in the same profile",
        path.display()
    );
    path
}

/// A folder of the test's own, which holds the directory's socket and what the programs print. The
/// drop removes it.
struct Bus(PathBuf);

impl Bus {
    fn new(test: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("bus-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Bus(folder)
    }

    /// Starts a program. It prints to files that have its name.
    fn start(&self, name: &str, arguments: &[&str]) -> Program {
        let (out, err) = (self.0.join(format!("{name}.out")), self.0.join(format!("{name}.err")));
        let mut command = Command::new(program());
        command.arg("--at").arg(self.0.join("directory")).args(arguments).stdin(Stdio::null());
        let child = command
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Program { child, out, err }
    }

    fn serve(&self, name: &str) -> Program {
        self.start(name, &["serve"])
    }

    fn publish(&self, name: &str) -> Program {
        self.start(name, &["publish", "news", "--every", "5", "--name", name])
    }

    fn subscribe(&self, name: &str) -> Program {
        self.start(name, &["subscribe", "news"])
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program. The drop kills it.
struct Program {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Program {
    /// Kills the program, as `kill -9` does. Returns what it has printed.
    fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.printed()
    }

    /// Returns the lines that the program has printed, without the last one if that is not whole.
    fn printed(&self) -> String {
        let mut text = fs::read_to_string(&self.out).unwrap();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    }

    fn complaints(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the numbers of each publisher's messages, in the order in which they were printed. A
/// publisher that is started again counts as another one.
fn numbers(printed: &str) -> BTreeMap<&str, Vec<u64>> {
    let mut all: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for line in printed.lines() {
        let [topic, publisher, number, text] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line:?} is mixed")
        };
        assert_eq!((topic, text), ("news", "tick"), "{line:?} is mixed");
        all.entry(publisher).or_default().push(number.parse().unwrap());
    }
    all
}

/// Checks that nothing is lost, doubled or out of order after the first message that arrived.
fn assert_whole(name: &str, printed: &str) {
    for (publisher, numbers) in numbers(printed) {
        for pair in numbers.windows(2) {
            assert_eq!(pair[1], pair[0] + 1, "{name} has not got all of {publisher}");
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until each of the subscribers has received more messages of each of the publishers than it
/// has now.
fn all_go_on(subscribers: &[&Program], publishers: &[&Program]) {
    let of = |subscriber: &Program, publisher: &Program| {
        let suffix = format!(".{}", publisher.child.id());
        let printed = subscriber.printed();
        numbers(&printed)
            .iter()
            .filter(|(name, _)| name.ends_with(&suffix))
            .map(|(_, numbers)| numbers.len())
            .sum::<usize>()
    };
    for subscriber in subscribers {
        for publisher in publishers {
            let before = of(subscriber, publisher);
            let what = format!("{:?} gets {:?}'s messages", subscriber.out, publisher.out);
            until(&what, || of(subscriber, publisher) >= before + ENOUGH);
        }
    }
}

#[test]
fn programs_come_in_any_order_and_survivors_go_on() {
    let bus = Bus::new("order");
    // The order is arbitrary: some programs that need the directory start before it.
    let first = bus.subscribe("first");
    let one = bus.publish("one");
    let directory = bus.serve("directory-1");
    let second = bus.subscribe("second");
    let two = bus.publish("two");
    let three = bus.publish("three");
    let third = bus.subscribe("third");
    all_go_on(&[&first, &second, &third], &[&one, &two, &three]);

    // The directory is killed: all programs go on, and a program that starts meanwhile waits for
    // the next directory.
    directory.kill();
    all_go_on(&[&first, &second, &third], &[&one, &two, &three]);
    let late = bus.subscribe("late");
    let directory = bus.serve("directory-2");
    all_go_on(&[&first, &second, &third, &late], &[&one, &two, &three]);

    // A subscriber is killed, and another one takes its place.
    assert_whole("first", &first.kill());
    let first = bus.subscribe("first-again");
    all_go_on(&[&first, &second, &third, &late], &[&one, &two, &three]);

    // A publisher is killed: the subscribers forget it.
    let id = one.child.id();
    one.kill();
    for subscriber in [&first, &second, &third, &late] {
        until("a subscriber notices a death", || {
            subscriber.complaints().contains(&format!("one.{id}: the publisher is gone"))
        });
    }
    all_go_on(&[&first, &second, &third, &late], &[&two, &three]);
    let one = bus.publish("one-again");
    all_go_on(&[&first, &second, &third, &late], &[&one, &two, &three]);

    // One of each kind is killed at once, and others take their places.
    directory.kill();
    assert_whole("second", &second.kill());
    two.kill();
    all_go_on(&[&first, &third, &late], &[&one, &three]);
    let second = bus.subscribe("second-again");
    let two = bus.publish("two-again");
    let directory = bus.serve("directory-3");
    all_go_on(&[&first, &second, &third, &late], &[&one, &two, &three]);

    // A stopped subscriber holds up nobody.
    late.signal(rustix::process::Signal::STOP);
    all_go_on(&[&first, &second, &third], &[&one, &two, &three]);
    late.signal(rustix::process::Signal::CONT);
    all_go_on(&[&late], &[&one, &two, &three]);

    for (name, subscriber) in
        [("first-again", &first), ("second-again", &second), ("third", &third)]
    {
        assert_whole(name, &subscriber.printed());
        // One who comes may miss the oldest message. What follows is whole, as was asserted.
        let is_known =
            |line: &&str| ["directory", "is gone", "missed"].iter().any(|it| line.contains(it));
        assert_eq!(subscriber.complaints().lines().find(|line| !is_known(line)), None);
    }
    drop(directory);
}

#[test]
fn a_directory_that_is_served_already_is_an_error() {
    let bus = Bus::new("twice");
    let directory = bus.serve("directory");
    until("the directory is served", || directory.printed().starts_with("serving "));
    let mut another = bus.serve("another");
    assert_eq!(another.child.wait().unwrap().code(), Some(1));
    assert!(
        another
            .complaints()
            .contains(&format!("is served already, by process {}", directory.child.id())),
        "{}",
        another.complaints()
    );
}
