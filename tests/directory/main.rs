//! Directories: names come and go with the clients that put them, servers are replaced, and a
//! client keeps what it has.

#![allow(unsafe_code)]

#[path = "../forked/mod.rs"]
mod forked;
#[path = "../served/mod.rs"]
mod served;
mod servers;
mod waits;

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crossproc::directory::{Address, DirectoryClient, DirectoryError, DirectoryOptions};
use crossproc::process::Child;
use crossproc::{
    Connection, Event, JoinableQueue, Queue, Receiver, Semaphore, Sender, Shm, pipe, simplex,
};

use forked::{PATIENCE, fork, join_all, kill, wait_until};
use served::{
    Folder, abstract_address, alone, client, descriptors, serve, serve_with_client,
    wait_for_descriptors,
};

const BRIEF: Duration = Duration::from_millis(30);

/// Runs the test at each kind of address, each in a process of its own.
fn at_each_address(test: impl Fn(Address) + Send + Sync) {
    let folder = Folder::new();
    for address in [folder.socket(), abstract_address()] {
        alone(|| test(address));
    }
}

fn event() -> Shm<Event> {
    Shm::new(Event::new()).unwrap()
}

fn is_missing<T>(result: Result<T, DirectoryError>) -> bool {
    matches!(result, Err(DirectoryError::NotFound { .. }))
}

/// Returns a child that puts an event under a name, and stays.
fn putter(address: &Address, name: &'static str) -> Child {
    let address = address.clone();
    fork(move || {
        let mut client = client(&address);
        client.put(name, &event()).unwrap();
        client.wait_for::<Shm<Event>>("never").map(|_| ()).unwrap();
    })
}

#[test]
fn names_come_with_their_owners_and_go_with_them() {
    at_each_address(|address| {
        let (_server, mut client) = serve_with_client(&address);
        let child = putter(&address, "worker.1");
        let theirs: Shm<Event> = client.wait_for_timeout("worker.1", PATIENCE).unwrap();
        let again: Shm<Event> = client.get("worker.1").unwrap();
        theirs.set();
        assert!(again.is_set());
        let listing = client.list("worker.").unwrap();
        assert_eq!(listing.names, ["worker.1"]);
        assert!(matches!(
            client.put("worker.1",
            &theirs), Err(DirectoryError::NameTaken { name })
                if name == "worker.1"
        ));
        assert!(matches!(client.remove("worker.1"), Err(DirectoryError::NotYours { .. })));
        kill(&child);
        let revision = client.wait_for_change_timeout(listing.revision, PATIENCE).unwrap();
        assert!(revision > listing.revision);
        assert!(is_missing(client.get::<Shm<Event>>("worker.1")));
        assert_eq!(client.list("").unwrap().names, [""; 0]);
        assert!(is_missing(client.remove("worker.1")));
        again.clear();
        assert!(!theirs.is_set(), "what one has is one's own");
        // The name is free.
        client.put("worker.1", &theirs).unwrap();
        client.remove("worker.1").unwrap();
        assert!(is_missing(client.get::<Shm<Event>>("worker.1")));
    });
}

#[test]
fn one_of_eight_makes_what_all_get() {
    at_each_address(|address| {
        let (_server, mut client) = serve_with_client(&address);
        for round in 0..20 {
            let go = event();
            let made = Shm::new(Semaphore::new(0)).unwrap();
            let name = format!("numbers.{round}");
            let racers: Vec<Child> = (0..8)
                .map(|_| {
                    let (address, go, made, name) =
                        (address.clone(), go.clone(), made.clone(), name.clone());
                    fork(move || {
                        let mut client = served::client(&address);
                        go.wait();
                        let make = || {
                            made.release()?;
                            Ok(Shm::new(Semaphore::new(0))?)
                        };
                        let ours: Shm<Semaphore> = client.get_or_put(&name, make).unwrap();
                        ours.release().unwrap();
                        client.wait_for::<Shm<Event>>("over").map(|_| ()).unwrap();
                    })
                })
                .collect();
            go.set();
            let all: Shm<Semaphore> = client.wait_for_timeout(&name, PATIENCE).unwrap();
            (0..8).for_each(|_| all.acquire_timeout(PATIENCE).unwrap());
            assert!((1..=8).contains(&made.value()));
            assert!(all.try_acquire().is_err());
            client.put("over", &event()).unwrap();
            join_all(racers);
            client.remove("over").unwrap();
        }
        let ours = event();
        assert!(client.put_if_absent("one", &ours).unwrap());
        assert!(!client.put_if_absent("one", &ours).unwrap());
        let deadline = Instant::now() + PATIENCE;
        assert!(!client.put_if_absent_deadline("one", &event(), deadline).unwrap());
        assert!(client.put_if_absent_deadline("other", &ours, deadline).unwrap());
        let theirs: Shm<Event> =
            client.get_or_put_deadline("one", || panic!("it is there"), deadline).unwrap();
        let again: Shm<Event> = client.get_deadline("other", deadline).unwrap();
        ours.set();
        assert!(theirs.is_set() && again.is_set(), "it is the first one's");
        let made: Shm<Event> =
            client.get_or_put_deadline("made", || Ok(event()), deadline).unwrap();
        made.set();
        assert!(client.get::<Shm<Event>>("made").unwrap().is_set());
        let error = client
            .get_or_put::<Shm<Event>>("two", || Err(io::ErrorKind::StorageFull.into()))
            .unwrap_err();
        assert!(
            matches!(
                error,
                DirectoryError::Os { ref source, .. }
                    if source.kind() == io::ErrorKind::StorageFull
            ),
            "{error:?}"
        );
    });
}

#[test]
fn handles_of_every_kind_are_served_and_checked() {
    at_each_address(|address| {
        let (_server, mut client) = serve_with_client(&address);
        let numbers: Queue<u64> = Queue::new(4).unwrap();
        let tasks: JoinableQueue<u64> = JoinableQueue::new(4).unwrap();
        let (one, other) = pipe().unwrap();
        let (sender, receiver) = simplex().unwrap();
        client.put("numbers", &numbers).unwrap();
        client.put("tasks", &tasks).unwrap();
        client.put("pipe", &one).unwrap();
        client.put("sender", &sender).unwrap();
        client.put("receiver", &receiver).unwrap();
        let mut client = served::client(&address);
        client.get::<Queue<u64>>("numbers").unwrap().put(5).unwrap();
        assert_eq!(numbers.get().unwrap(), 5);
        client.get::<JoinableQueue<u64>>("tasks").unwrap().put(6).unwrap();
        assert_eq!(*tasks.get().unwrap(), 6);
        client.get::<Connection>("pipe").unwrap().send(b"there").unwrap();
        assert_eq!(other.recv().unwrap(), b"there");
        client.get::<Sender>("sender").unwrap().send(b"back").unwrap();
        assert_eq!(client.get::<Receiver>("receiver").unwrap().recv().unwrap(), b"back");
        // A handle of another type is refused.
        let error = client.get::<Queue<u32>>("numbers").unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, DirectoryError::OtherHandle { .. }), "{error:?}");
        assert!(
            text.contains("numbers") && text.contains("Queue<u64>") && text.contains("Queue<u32>"),
            "{text}"
        );
        assert!(matches!(
            client.get::<Sender>("receiver"),
            Err(DirectoryError::OtherHandle { .. })
        ));
        assert!(matches!(
            client.wait_for::<Shm<Event>>("pipe"),
            Err(DirectoryError::OtherHandle { .. })
        ));
        assert!(matches!(
            client.get_or_put::<Shm<Event>>("pipe", || Ok(event())),
            Err(DirectoryError::OtherHandle { .. })
        ));
        client.get::<Queue<u64>>("numbers").unwrap();
        for name in ["", "a\0b", &"x".repeat(256)] {
            assert!(matches!(
                client.get::<Connection>(name),
                Err(DirectoryError::InvalidName { .. })
            ));
            assert!(matches!(client.put(name, &one), Err(DirectoryError::InvalidName { .. })));
            assert!(matches!(
                client.wait_for::<Connection>(name),
                Err(DirectoryError::InvalidName { .. })
            ));
        }
        let longest = "ü".repeat(127);
        client.put(&longest, &one).unwrap();
        client.get::<Connection>(&longest).unwrap();
    });
}

#[test]
fn long_lists_come_whole_and_limits_are_told() {
    at_each_address(|address| {
        let options = DirectoryOptions::new()
            .connections(6)
            .connections_per_process(5)
            .names(170)
            .names_per_connection(60);
        let server = serve(&address, options);
        let mut clients = vec![client(&address)];
        let alone = descriptors(server.id()) - 1;
        clients.extend((0..3).map(|_| client(&address)));
        let ours = event();
        let name = |number: usize| {
            format!("{}.{number:03}", if number < 100 { "a" } else { "b" }.repeat(200))
        };
        for number in 0..170 {
            clients[number / 60].put(&name(number), &ours).unwrap();
        }
        assert_eq!(clients[3].list("").unwrap().names, (0..170).map(name).collect::<Vec<_>>());
        assert_eq!(clients[3].list("b").unwrap().names, (100..170).map(name).collect::<Vec<_>>());
        assert_eq!(clients[3].list(&name(77)).unwrap().names, [name(77)]);
        assert_eq!(clients[3].list("c").unwrap().names, [""; 0]);
        let result = clients[0].put("more", &ours);
        assert!(
            matches!(&result, Err(DirectoryError::TooMany { why }) if why.contains("60")),
            "{result:?}"
        );
        let result = clients[3].put("more", &ours);
        assert!(
            matches!(&result, Err(DirectoryError::TooMany { why }) if why.contains("170")),
            "{result:?}"
        );
        clients[2].remove(&name(120)).unwrap();
        clients[3].put("more", &ours).unwrap();
        // This is the fifth of this process, and a sixth is refused. It is the sixth of all, and a
        // seventh is refused.
        clients.push(client(&address));
        let result = DirectoryClient::connect(&address);
        assert!(
            matches!(&result, Err(DirectoryError::Unwelcome { why }) if why.contains("process")),
            "{result:?}"
        );
        let theirs = address.clone();
        join_all([fork(move || {
            let _sixth = client(&theirs);
            let result = DirectoryClient::connect(&theirs);
            assert!(
                matches!(
                    &result,
                    Err(DirectoryError::Unwelcome { why })
                        if why.contains("6 connections")
                ),
                "{result:?}"
            );
        })]);
        clients.pop();
        wait_until("there is room again", || DirectoryClient::connect(&address).is_ok());
        drop(clients);
        wait_for_descriptors(server.id(), alone);
    });
}

#[test]
fn nothing_leaks() {
    at_each_address(|address| {
        let (server, mut one) = serve_with_client(&address);
        let ours = event();
        let file = OwnedFd::from(std::fs::File::open("/proc/self/stat").unwrap());
        let round = |one: &mut DirectoryClient| {
            let mut other = client(&address);
            other.put("x", &ours).unwrap();
            assert!(matches!(one.put("x", &ours), Err(DirectoryError::NameTaken { .. })));
            assert!(matches!(one.put("file", &file), Err(DirectoryError::RefusedHandle { .. })));
            assert!(one.get::<Queue<u64>>("x").is_err());
            one.get::<Shm<Event>>("x").unwrap();
            other.get_or_put("y", || Ok(event())).unwrap();
            assert!(one.wait_for_timeout::<Shm<Event>>("z", Duration::from_micros(1)).is_err());
            other.put("z", &ours).unwrap();
            other.remove("x").unwrap();
            drop(other);
            wait_until("the names are gone", || one.list("").unwrap().names.is_empty());
        };
        round(&mut one);
        // A thread that closes also has one of the server's descriptors for a moment.
        let (ours_before, theirs_before) =
            (descriptors(std::process::id()), descriptors(server.id()));
        (0..100).for_each(|_| round(&mut one));
        assert!(is_missing(one.get::<Shm<Event>>("x")));
        assert_eq!(descriptors(std::process::id()), ours_before);
        wait_until("the server has closed all", || descriptors(server.id()) <= theirs_before);
    });
}
