//! Directories: names come and go with the clients that put them, servers are replaced, and a
//! client keeps what it has.

#![allow(unsafe_code)]

mod forked;
mod served;

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crossproc::directory::{
    Address, AddressError, Directory, DirectoryClient, DirectoryError, DirectoryOptions,
};
use crossproc::process::Child;
use crossproc::{
    Connection, Event, JoinableQueue, Lock, Queue, Receiver, Semaphore, Sender, Shm, Wait, pipe,
    simplex,
};
use rustix::event::{PollFd, PollFlags, poll};

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
fn waits_end_in_every_form_and_leave_the_connection_usable() {
    at_each_address(|address| {
        let (_server, mut waiting) = serve_with_client(&address);
        let mut putting = client(&address);
        let ours = event();
        let timed_out = |result: Result<Shm<Event>, DirectoryError>, began: Instant| {
            assert!(matches!(result, Err(DirectoryError::TimedOut)), "{result:?}");
            assert!(began.elapsed() >= BRIEF);
        };
        for round in 0..50 {
            let name = format!("late.{round}");
            assert!(is_missing(waiting.try_wait_for::<Shm<Event>>(&name)));
            assert!(matches!(
                waiting.wait_for_timeout::<Shm<Event>>(&name, Duration::ZERO),
                Err(DirectoryError::TimedOut)
            ));
            if round == 0 {
                let began = Instant::now();
                timed_out(waiting.wait_for_timeout(&name, BRIEF), began);
                let began = Instant::now();
                timed_out(waiting.wait_for_deadline(&name, began + BRIEF), began);
                let began = Instant::now();
                timed_out(waiting.wait_for_with(&name, Wait::timeout(BRIEF)), began);
            } else {
                let result =
                    waiting.wait_for_timeout::<Shm<Event>>(&name, Duration::from_micros(round * 3));
                assert!(matches!(result, Err(DirectoryError::TimedOut)), "{result:?}");
            }
            // The wait is over: its reply comes when nobody waits for it.
            putting.put(&name, &ours).unwrap();
            assert!(
                is_missing(waiting.get::<Shm<Event>>("nothing")),
                "the reply is another request's"
            );
            let theirs: Shm<Event> = waiting.wait_for(&name).unwrap();
            theirs.set();
            assert!(ours.is_set());
            ours.clear();
            waiting.wait_for_timeout::<Shm<Event>>(&name, Duration::ZERO).unwrap();
            let revision = waiting.list("").unwrap().revision;
            assert!(matches!(
                waiting.try_wait_for_change(revision),
                Err(DirectoryError::Unchanged { revision: same })
                    if same == revision
            ));
            let result = waiting.wait_for_change_timeout(revision, Duration::from_micros(100));
            assert!(matches!(result, Err(DirectoryError::TimedOut)), "{result:?}");
            putting.remove(&name).unwrap();
            assert_eq!(waiting.wait_for_change(revision).unwrap(), revision + 1);
            assert_eq!(waiting.try_wait_for_change(revision).unwrap(), revision + 1);
        }
    });
}

#[test]
fn a_wait_that_was_tried_makes_the_descriptor_readable() {
    at_each_address(|address| {
        let (_server, mut waiting) = serve_with_client(&address);
        let mut putting = client(&address);
        let is_readable = |client: &DirectoryClient, timeout: i64| {
            let timeout = rustix::event::Timespec { tv_sec: timeout, tv_nsec: 0 };
            poll(&mut [PollFd::new(client, PollFlags::IN)], Some(&timeout)).unwrap() != 0
        };
        assert!(is_missing(waiting.try_wait_for::<Shm<Event>>("x")));
        assert!(!is_readable(&waiting, 0));
        putting.put("y", &event()).unwrap();
        assert!(!is_readable(&waiting, 0), "another name's");
        putting.put("x", &event()).unwrap();
        assert!(is_readable(&waiting, 30));
        waiting.try_wait_for::<Shm<Event>>("x").unwrap();
        assert!(!is_readable(&waiting, 0));
        let revision = waiting.list("").unwrap().revision;
        assert!(matches!(
            waiting.try_wait_for_change(revision),
            Err(DirectoryError::Unchanged { .. })
        ));
        putting.remove("x").unwrap();
        assert!(is_readable(&waiting, 30));
        assert_eq!(waiting.try_wait_for_change(revision).unwrap(), revision + 1);
    });
}

#[test]
fn a_killed_server_is_replaced_while_its_clients_go_on() {
    at_each_address(|address| {
        let ours = Shm::new(Lock::new(0_u64)).unwrap();
        let mut last = 0;
        for _ in 0..10 {
            let (server, mut one) = serve_with_client(&address);
            let mut other = client(&address);
            one.put("counter", &ours).unwrap();
            let theirs: Shm<Lock<u64>> = other.get("counter").unwrap();
            let revision = other.list("").unwrap().revision;
            assert!(revision > last, "a later server's are later");
            last = revision;
            let waiting = other.try_wait_for::<Shm<Event>>("never");
            assert!(is_missing(waiting));
            kill(&server);
            assert!(matches!(
                other.wait_for::<Shm<Event>>("never"),
                Err(DirectoryError::Disconnected)
            ));
            assert!(matches!(one.get::<Shm<Event>>("counter"), Err(DirectoryError::Disconnected)));
            assert!(matches!(one.put("counter", &ours), Err(DirectoryError::Disconnected)));
            assert!(matches!(
                DirectoryClient::connect(&address),
                Err(DirectoryError::NotServed { .. })
            ));
            *theirs.lock().unwrap() += 1;
        }
        assert_eq!(*ours.lock().unwrap(), 10);
    });
}

#[test]
fn one_server_alone_serves_an_address() {
    at_each_address(|address| {
        let (server, mut client) = serve_with_client(&address);
        client.put("x", &event()).unwrap();
        for _ in 0..3 {
            match Directory::bind(&address) {
                Err(DirectoryError::AlreadyServed { address: there, pid }) => {
                    assert_eq!((there, pid), (address.clone(), Some(server.id())));
                }
                other => panic!("{other:?}"),
            }
        }
        kill(&server);
        // The attempts are in one process. None takes the address from the first server.
        let first = Directory::bind(&address).unwrap();
        for _ in 0..3 {
            let result = Directory::bind(&address);
            assert!(
                matches!(
                    result,
                    Err(DirectoryError::AlreadyServed { pid: Some(pid), .. })
                        if pid == std::process::id()
                ),
                "{result:?}"
            );
            let theirs = address.clone();
            join_all([fork(move || {
                let result = Directory::bind(&theirs);
                let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get() as u32;
                assert!(
                    matches!(
                        result,
                        Err(DirectoryError::AlreadyServed { pid: Some(pid), .. })
                            if pid == parent
                    ),
                    "{result:?}"
                );
            })]);
        }
        drop(first);
        let second = Directory::bind(&address).unwrap();
        drop(second);
        assert!(matches!(
            DirectoryClient::connect(&address),
            Err(DirectoryError::NotServed { .. })
        ));
    });
}

#[test]
fn servers_that_come_at_the_same_time_are_one() {
    at_each_address(|address| {
        for _ in 0..20 {
            let go = event();
            let served = Shm::new(Semaphore::new(0)).unwrap();
            let all: Vec<Child> = (0..6)
                .map(|_| {
                    let (address, go, served) = (address.clone(), go.clone(), served.clone());
                    fork(move || {
                        go.wait();
                        match Directory::bind(&address) {
                            Ok(directory) => {
                                served.release().unwrap();
                                directory.serve().unwrap();
                            }
                            Err(DirectoryError::AlreadyServed { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    })
                })
                .collect();
            go.set();
            let lives = |child: &Child| child.join_timeout(Duration::ZERO).is_err();
            wait_until("the others have given up", || {
                all.iter().filter(|child| lives(child)).count() == 1
            });
            // The living child is the one that serves.
            client(&address).put("x", &event()).unwrap();
            assert_eq!(served.value(), 1);
            all.iter().filter(|child| lives(child)).for_each(kill);
        }
    });
}

/// A server that ends removes the lock's file, which another one may just have opened.
#[test]
fn servers_that_come_and_go_are_never_two() {
    at_each_address(|address| {
        let one = Shm::new(Lock::new(0_u32)).unwrap();
        let all = (0..4).map(|_| {
            let (address, one) = (address.clone(), one.clone());
            fork(move || {
                let mut served = 0;
                while served < 60 {
                    match Directory::bind(&address) {
                        Ok(directory) => {
                            let held = one.try_lock().expect("nobody else serves");
                            std::thread::yield_now();
                            drop(held);
                            drop(directory);
                            served += 1;
                        }
                        Err(DirectoryError::AlreadyServed { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        });
        join_all(all.collect::<Vec<_>>());
    });
}

#[test]
fn a_path_that_is_no_socket_is_left_alone() {
    alone(|| {
        let folder = Folder::new();
        let path = folder.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for path in [&path, &link, &folder.path().to_owned()] {
            let result = Directory::bind(path);
            assert!(
                matches!(result, Err(DirectoryError::NotASocket { .. })),
                "{path:?} {result:?}"
            );
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        assert!(matches!(
            Directory::bind(folder.path().join("none/socket")),
            Err(DirectoryError::Os { .. })
        ));
        assert!(matches!(
            DirectoryClient::connect(folder.path().join("none/socket")),
            Err(DirectoryError::NotServed { .. })
        ));
        let long = folder.path().join("x".repeat(100));
        assert!(matches!(Directory::bind(&long), Err(DirectoryError::InvalidAddress(_))));
        assert!(matches!(DirectoryClient::connect(&long), Err(DirectoryError::InvalidAddress(_))));
        for text in ["", "@", "/", &format!("@{}", "x".repeat(108))] {
            assert!(matches!(text.parse::<Address>(), Err(AddressError { .. })), "{text:?}");
        }
        // At its end, a server does not remove a file that is another's by then.
        let address = folder.socket();
        let path = address.path().unwrap();
        let directory = Directory::bind(&address).unwrap();
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, "another's").unwrap();
        drop(directory);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "another's");
        std::fs::remove_file(path).unwrap();
        // A server removes its own file: nothing is left over.
        drop(Directory::bind(&address).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    });
}

/// A way to wait for a server.
type Connect = fn(&Address) -> Result<DirectoryClient, DirectoryError>;

#[test]
fn a_client_waits_for_its_server() {
    alone(|| {
        let folder = Folder::new();
        let deep = folder.path().join("not yet");
        for address in [folder.socket(), abstract_address(), Address::from(deep.join("socket"))] {
            let began = Instant::now();
            assert!(matches!(
                DirectoryClient::connect_timeout(&address, BRIEF),
                Err(DirectoryError::TimedOut)
            ));
            assert!(began.elapsed() >= BRIEF);
            let began = Instant::now();
            assert!(matches!(
                DirectoryClient::connect_deadline(&address, began + BRIEF),
                Err(DirectoryError::TimedOut)
            ));
            assert!(began.elapsed() >= BRIEF);
            assert!(matches!(
                DirectoryClient::connect_with(&address, Wait::NONE),
                Err(DirectoryError::TimedOut)
            ));
            assert!(matches!(
                DirectoryClient::connect(&address),
                Err(DirectoryError::NotServed { .. })
            ));
            let connect: [Connect; 3] = [
                |address| DirectoryClient::connect_timeout(address, PATIENCE),
                |address| DirectoryClient::connect_deadline(address, Instant::now() + PATIENCE),
                |address| DirectoryClient::connect_with(address, Wait::timeout(PATIENCE)),
            ];
            for connect in connect {
                let theirs = address.clone();
                let waiting =
                    fork(move || connect(&theirs).unwrap().put("here", &event()).unwrap());
                // The client looks for something that does not exist. It sleeps, by its watch or
                // for a while.
                let call = format!("{} ", libc::SYS_ppoll);
                let path = format!("/proc/{}/syscall", waiting.id());
                wait_until("the client waits", || {
                    std::fs::read_to_string(&path).is_ok_and(|now| now.starts_with(&call))
                });
                if address.path().is_some_and(|path| path.starts_with(&deep)) {
                    std::fs::create_dir_all(&deep).unwrap();
                }
                let server = serve(&address, DirectoryOptions::new());
                join_all([waiting]);
                kill(&server);
            }
        }
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
fn the_owner_puts_anything_while_it_serves() {
    at_each_address(|address| {
        let directory = Directory::bind(&address).unwrap();
        let file = OwnedFd::from(std::fs::File::open("/proc/self/stat").unwrap());
        directory.put("file", &file).unwrap();
        std::thread::scope(|scope| {
            let server = scope.spawn(|| directory.serve());
            let mut client = client(&address);
            let _theirs: OwnedFd = client.get("file").unwrap();
            assert!(matches!(client.put("copy", &file), Err(DirectoryError::RefusedHandle { .. })));
            assert!(matches!(directory.put("file", &file), Err(DirectoryError::NameTaken { .. })));
            assert!(matches!(directory.put("", &file), Err(DirectoryError::InvalidName { .. })));
            assert!(matches!(client.remove("file"), Err(DirectoryError::NotYours { .. })));
            for round in 0..50 {
                let name = format!("late.{round}");
                assert!(is_missing(client.try_wait_for::<Shm<Event>>(&name)));
                let revision = client.list("").unwrap().revision;
                std::thread::scope(|scope| {
                    let waiting = scope
                        .spawn(|| client.wait_for_timeout::<Shm<Event>>(&name, PATIENCE).unwrap());
                    directory.put(&name, &event()).unwrap();
                    waiting.join().unwrap();
                });
                assert_eq!(directory.names(), ["file", &name]);
                directory.remove(&name).unwrap();
                assert!(is_missing(directory.remove(&name)));
                assert_eq!(
                    client.wait_for_change_timeout(revision + 1, PATIENCE).unwrap(),
                    revision + 2
                );
            }
            // The server can also remove a client's name.
            client.put("theirs", &event()).unwrap();
            directory.remove("theirs").unwrap();
            assert!(is_missing(client.remove("theirs")));
            client.put("theirs", &event()).unwrap();
            assert!(matches!(directory.serve(), Err(DirectoryError::NotToBeServed { .. })));
            directory.close();
            server.join().unwrap().unwrap();
            assert!(matches!(client.list(""), Err(DirectoryError::Disconnected)));
            assert_eq!(
                directory.names(),
                ["file"],
                "a client's names go with it, the owner's stay"
            );
            assert!(matches!(
                DirectoryClient::connect(&address),
                Err(DirectoryError::NotServed { .. })
            ));
            directory.serve().unwrap();
        });
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

#[test]
fn a_stopped_server_hangs_nobody() {
    at_each_address(|address| {
        let (server, mut client) = serve_with_client(&address);
        let ours = event();
        client.put("x", &ours).unwrap();
        let signal = |signal| {
            // SAFETY: signals a child that has not been waited for.
            unsafe { libc::kill(server.id() as i32, signal) };
        };
        signal(libc::SIGSTOP);
        let state = format!("/proc/{}/stat", server.id());
        wait_until("the server is stopped", || {
            std::fs::read_to_string(&state).unwrap().contains(") T ")
        });
        let began = Instant::now();
        assert!(matches!(
            client.get_deadline::<Shm<Event>>("x", began + BRIEF),
            Err(DirectoryError::TimedOut)
        ));
        assert!(matches!(
            client.list_deadline("", Instant::now() + BRIEF),
            Err(DirectoryError::TimedOut)
        ));
        assert!(matches!(
            client.put_deadline("y", &ours, Instant::now() + BRIEF),
            Err(DirectoryError::TimedOut)
        ));
        let result = client.put_if_absent_deadline("y", &ours, Instant::now() + BRIEF);
        assert!(matches!(result, Err(DirectoryError::TimedOut)), "{result:?}");
        let result = client.get_or_put_deadline::<Shm<Event>>(
            "x",
            || panic!("it is there"),
            Instant::now() + BRIEF,
        );
        assert!(matches!(result, Err(DirectoryError::TimedOut)), "{result:?}");
        assert!(matches!(
            client.remove_deadline("x", Instant::now() + BRIEF),
            Err(DirectoryError::TimedOut)
        ));
        assert!(matches!(
            client.wait_for_timeout::<Shm<Event>>("x", BRIEF),
            Err(DirectoryError::TimedOut)
        ));
        assert!(matches!(
            DirectoryClient::connect_timeout(&address, BRIEF),
            Err(DirectoryError::TimedOut)
        ));
        // The requests go on until the kernel takes no more.
        let full = || client.list_deadline("", Instant::now() + Duration::from_micros(1));
        let last = std::iter::repeat_with(full).take(2_000).last();
        assert!(matches!(last, Some(Err(DirectoryError::TimedOut))));
        assert!(began.elapsed() < PATIENCE);
        signal(libc::SIGCONT);
        // All earlier requests are done, in order, and their replies are skipped. A client that
        // left so many of them unread is cut off, and connects again.
        match client.list("") {
            Ok(listing) => assert_eq!(listing.names, ["y"]),
            Err(error) => assert!(matches!(error, DirectoryError::Disconnected), "{error}"),
        }
        assert!(served::client(&address).list("").is_ok());
    });
}

#[test]
fn a_signal_interrupts_what_may_be_interrupted() {
    extern "C" fn nothing(_: libc::c_int) {}
    alone(|| {
        let address = abstract_address();
        let _server = serve(&address, DirectoryOptions::new());
        let parked = event();
        let theirs = parked.clone();
        let child = fork(move || {
            let mut waiting = client(&address);
            // SAFETY: installs a handler that does nothing.
            unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t) };
            theirs.set();
            let result = waiting
                .wait_for_with::<Shm<Event>>("never", Wait::timeout(PATIENCE).interruptible());
            assert!(matches!(result, Err(DirectoryError::Interrupted)), "{result:?}");
            theirs.clear();
            let result = waiting.wait_for_timeout::<Shm<Event>>("never", BRIEF);
            assert!(matches!(result, Err(DirectoryError::TimedOut)), "{result:?}");
        });
        parked.wait();
        wait_until("the child is interrupted", || {
            // SAFETY: signals a child that has not been waited for.
            unsafe { libc::kill(child.id() as i32, libc::SIGUSR1) };
            !parked.is_set()
        });
        join_all([child]);
    });
}
