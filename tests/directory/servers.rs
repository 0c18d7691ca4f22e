//! Servers: who serves an address, and who takes it over.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crossproc::directory::{Address, AddressError, Directory, DirectoryClient, DirectoryError};
use crossproc::process::Child;
use crossproc::{Event, Lock, Semaphore, Shm};

use super::{at_each_address, event, is_missing};
use crate::forked::{PATIENCE, fork, join_all, kill, wait_until};
use crate::served::{Folder, alone, client, serve_with_client};

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
