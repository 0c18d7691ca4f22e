//! Directories: the client's side, with a server that meets no refusals, and the other way round.

use std::cell::Cell;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crossproc::directory::{Address, Directory, DirectoryClient, DirectoryError};
use crossproc::process::{Builder, Child};
use crossproc::{Event, Shm};

use super::{Case, Peer};
use crate::probe::{LONG, Outcome, Probe, SHORT, UNREFUSED, done, require};

/// The longest that a server may take that is refused something once. One that is refused something
/// each time may serve nobody.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long its client waits for an answer before it connects anew, at first. Where each call of
/// the server takes long, because a supervisor that has no processor has to look at it, it waits
/// longer.
const AGAIN: Duration = Duration::from_secs(1);

/// Returns a path that only this process uses.
fn path(what: &str) -> PathBuf {
    std::env::temp_dir().join(format!("crossproc-faults-{}-{what}", std::process::id()))
}

/// Another process that serves one name, `there`.
struct Server {
    _child: Child,
    address: Address,
}

impl Server {
    fn new() -> Self {
        let address = Address::from(path("served"));
        let directory = Directory::bind(address.clone()).unwrap();
        let event = Shm::new(Event::new()).unwrap();
        let bound = directory.address().clone();
        drop(directory);
        let serves = || -> () {
            let directory = Directory::bind(bound.clone()).unwrap();
            directory.put("there", &event).unwrap();
            directory.serve().unwrap();
        };
        // SAFETY: the child uses the crate and system calls.
        let child = unsafe { Builder::new().daemon(true).fork_with_threads(serves) }.unwrap();
        drop(DirectoryClient::connect_timeout(address.clone(), LONG).unwrap());
        Server { _child: child, address }
    }
}

/// Runs an operation of a client.
fn asks(probe: Probe<'_>, ask: impl Fn(&mut DirectoryClient) -> Outcome) {
    let server = Server::new();
    let mut client = DirectoryClient::connect(server.address.clone()).unwrap();
    let operation = || {
        let result = ask(&mut client);
        if result.is_err() {
            // An unwanted answer may still be on its way: as the docs say, connect anew.
            if let Ok(another) = DirectoryClient::connect_timeout(server.address.clone(), LONG) {
                client = another;
            }
        }
        result
    };
    probe.operate(operation);
    let _ = std::fs::remove_file(path("served"));
}

pub(super) fn add(all: &mut Vec<Case>) {
    let mut case = |name, run| all.push(Case { name, run });
    case("directory: bind a path", |probe| {
        let at = path("bound");
        // If it may not remove the path, or not look at it, the next bind does.
        let times = Cell::new(0);
        let look = |_| {
            times.set(times.get() + 1);
            Ok(require(times.get() == 1 || !at.exists(), "nothing is left of it")?)
        };
        probe.operate_and_look(|| done(Directory::bind(at.clone())?), look);
    });
    case("directory: bind an abstract name", |probe| {
        let name = format!("crossproc-faults-{}", std::process::id());
        probe.operate(|| done(Directory::bind(Address::abstract_name(&name))?));
    });
    case("directory: put and removed by the owner", |probe| {
        let directory = Directory::bind(path("owned")).unwrap();
        let event = Shm::new(Event::new()).unwrap();
        probe.operate(|| {
            match directory.put("name", &event) {
                Err(DirectoryError::NameTaken { .. }) => {}
                other => other?,
            }
            require(directory.names() == ["name"], "it is there")?;
            Ok(directory.remove("name")?)
        });
    });
    case("directory: serve", |probe| {
        let at = path("serving");
        let event = Shm::new(Event::new()).unwrap();
        let directory = Directory::bind(at.clone()).unwrap();
        directory.put("there", &event).unwrap();
        let asks = Peer::new(|| {
            // The server may refuse what the kernel refuses it. The next client is served.
            let mut time = AGAIN;
            loop {
                let client = DirectoryClient::connect_timeout(at.clone(), time);
                let get = |mut client: DirectoryClient| {
                    client.get_deadline::<Shm<Event>>("there", Instant::now() + time).is_ok()
                };
                if client.is_ok_and(get) {
                    break;
                }
                time = UNREFUSED.min(2 * time);
            }
        });
        drop(directory);
        let mut patience = PATIENCE;
        let operation = || {
            let directory = Directory::bind(at.clone())?;
            directory.put("there", &event)?;
            asks.ask();
            thread::scope(|scope| {
                let serving = thread::Builder::new().spawn_scoped(scope, || directory.serve());
                let serving = serving.map_err(|error| format!("std spawns no thread: {error}"))?;
                let deadline = Instant::now() + patience;
                // From the second time on nothing is refused.
                patience = UNREFUSED;
                while !serving.is_finished() && !asks.has_finished() && Instant::now() < deadline {
                    thread::sleep(Duration::from_micros(200));
                }
                directory.close();
                serving.join().expect("it does not panic")?;
                if asks.has_finished() {
                    Ok(())
                } else {
                    Err("nobody is served by one that is refused everything".into())
                }
            })
        };
        let look = |is_ok: bool| {
            if !is_ok && !asks.has_finished() {
                let directory = Directory::bind(at.clone())?;
                directory.put("there", &event)?;
                return thread::scope(|scope| {
                    scope.spawn(|| directory.serve());
                    let result = asks.finish();
                    directory.close();
                    result
                });
            }
            asks.finish()
        };
        probe.operate_and_look(operation, look);
    });
    case("directory: connect", |probe| {
        let server = Server::new();
        probe.operate(|| done(DirectoryClient::connect_timeout(server.address.clone(), LONG)?));
        let _ = std::fs::remove_file(path("served"));
    });
    case("directory: connect times out", |probe| {
        let at = path("absent");
        probe.operate(|| match DirectoryClient::connect_timeout(at.clone(), SHORT) {
            Err(DirectoryError::TimedOut | DirectoryError::NotServed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(require(false, "nobody is there")?),
        });
    });
    case("directory: get", |probe| asks(probe, |client| done(client.get::<Shm<Event>>("there")?)));
    case("directory: list", |probe| {
        asks(probe, |client| Ok(require(client.list("")?.names == ["there"], "it is listed")?));
    });
    case("directory: put and remove", |probe| {
        let event = Shm::new(Event::new()).unwrap();
        asks(probe, move |client| {
            match client.put("mine", &event) {
                // The time before, it was put and not removed.
                Err(DirectoryError::NameTaken { .. }) => {}
                other => other?,
            }
            Ok(client.remove("mine")?)
        });
    });
    case("directory: wait_for times out", |probe| {
        asks(probe, |client| match client.wait_for_timeout::<Shm<Event>>("absent", SHORT) {
            Err(DirectoryError::TimedOut) => Ok(()),
            other => done(other?),
        });
    });
}
