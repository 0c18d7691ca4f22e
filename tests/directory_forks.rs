//! Processes that a server or a client has forked, and that have nothing to do with the directory,
//! keep nothing of it.

#![allow(unsafe_code)]

mod forked;
mod served;

use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crossproc::directory::{Address, Directory, DirectoryClient, DirectoryError};
use crossproc::process::{Builder, Child};
use crossproc::{Event, Shm};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, accept, bind, listen, socket};

use forked::{PATIENCE, fork, join_all, kill, wait_until};
use served::{Folder, abstract_address, alone, client, serve_with_client};

fn event() -> Shm<Event> {
    Shm::new(Event::new()).unwrap()
}

/// The way in which a bystander is forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Libc,
    /// As `Libc`, and the child takes its time before it runs this crate's handler.
    LibcSlowly,
    Crate,
    RawCall,
}

/// Runs in a child before this crate's handlers do.
extern "C" fn dawdle() {
    // SAFETY: it sleeps.
    unsafe { libc::usleep(100_000) };
}

/// Lives until it is killed, and not much longer than a test.
fn stay() -> ! {
    // SAFETY: sets a timer, whose signal ends the process.
    unsafe { libc::alarm(60) };
    loop {
        // SAFETY: sleeps until a signal comes.
        unsafe { libc::pause() };
    }
}

/// Forks a process that stays, whatever becomes of this one. Returns its pid.
fn bystander(by: By) -> i32 {
    let pid = match by {
        // SAFETY: the child makes system calls alone.
        By::Libc | By::LibcSlowly => unsafe { libc::fork() },
        By::Crate => {
            // SAFETY: the child makes system calls alone.
            let child = unsafe { Builder::new().fork_with_threads(|| -> () { stay() }) };
            return child.unwrap().id() as i32;
        }
        // SAFETY: as fork(2): since it has no stack of its own, the child has a copy of this one.
        By::RawCall => unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32 },
    };
    assert_ne!(pid, -1);
    if pid == 0 { stay() } else { pid }
}

/// A bystander. The drop, at the end of a test, kills it.
struct Bystander(i32);

impl Drop for Bystander {
    fn drop(&mut self) {
        // SAFETY: signals a process that lives as long as this value, or that is still a zombie and
        // so keeps the pid.
        assert_eq!(unsafe { libc::kill(self.0, libc::SIGKILL) }, 0);
    }
}

/// Returns a server that serves "x", and forks a bystander once it is told to.
fn server_with_bystander(address: &Address, by: By) -> (Child, Shm<Event>, Shm<AtomicI32>) {
    let (go, pid) = (event(), Shm::new(AtomicI32::new(0)).unwrap());
    let (theirs, address, of_bystander) = (go.clone(), address.clone(), pid.clone());
    let server = fork(move || {
        if by == By::LibcSlowly {
            // SAFETY: the handler makes a system call alone.
            assert_eq!(unsafe { libc::pthread_atfork(None, None, Some(dawdle)) }, 0);
        }
        let directory = Directory::bind(&address).unwrap();
        directory.put("x", &event()).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| directory.serve().unwrap());
            theirs.wait();
            of_bystander.store(bystander(by), SeqCst);
        });
    });
    (server, go, pid)
}

/// Kills a server that has a client, and that has then forked a bystander. Returns the server's
/// pid, the client and the bystander.
fn kill_beside_bystander(address: &Address, by: By) -> (u32, DirectoryClient, Bystander) {
    let (server, go, pid) = server_with_bystander(address, by);
    let mut old = client(address);
    old.get::<Shm<Event>>("x").unwrap();
    go.set();
    wait_until("it has forked", || pid.load(SeqCst) != 0);
    kill(&server);
    (server.id(), old, Bystander(pid.load(SeqCst)))
}

fn at_each_address(test: impl Fn(Address) + Send + Sync) {
    let folder = Folder::new();
    for address in [folder.socket(), abstract_address()] {
        alone(|| test(address));
    }
}

#[test]
fn a_killed_servers_bystander_keeps_neither_its_address_nor_its_clients() {
    for by in [By::Libc, By::Crate] {
        at_each_address(|address| {
            let (_, mut old, _bystander) = kill_beside_bystander(&address, by);
            let answer = old.get_deadline::<Shm<Event>>("x", Instant::now() + PATIENCE);
            assert!(matches!(answer, Err(DirectoryError::Disconnected)), "{by:?}: {answer:?}");
            let connected = DirectoryClient::connect(&address);
            assert!(
                matches!(connected, Err(DirectoryError::NotServed { .. })),
                "{by:?}: {connected:?}"
            );
            let next = Directory::bind(&address).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| next.serve().unwrap());
                client(&address).list("").unwrap();
                next.close();
            });
        });
    }
}

#[test]
fn a_child_that_was_only_just_forked_does_not_keep_the_address() {
    at_each_address(|address| {
        let (_, _old, _bystander) = kill_beside_bystander(&address, By::LibcSlowly);
        drop(Directory::bind(&address).unwrap());
    });
}

/// As of a server that forks its workers.
#[test]
fn who_has_a_dead_servers_socket_and_accepts_keeps_the_address_and_holds_up_nobody() {
    alone(|| {
        let address = abstract_address();
        let text = address.to_string();
        let name = text.strip_prefix('@').expect("an abstract name");
        let place = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        let worker = Shm::new(AtomicI32::new(0)).unwrap();
        let of_worker = worker.clone();
        let server = fork(move || {
            let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
            bind(&socket, &place).unwrap();
            listen(&socket, 16).unwrap();
            // SAFETY: the child makes system calls alone.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                loop {
                    drop(accept(&socket));
                }
            }
            of_worker.store(pid, SeqCst);
        });
        join_all([server]);
        let _worker = Bystander(worker.load(SeqCst));
        let begun = Instant::now();
        let bound = Directory::bind(&address);
        assert!(matches!(bound, Err(DirectoryError::Orphaned { .. })), "{bound:?}");
        assert!(begun.elapsed() < PATIENCE);
    });
}

#[test]
fn a_killed_clients_bystander_does_not_keep_its_names() {
    for by in [By::Libc, By::Crate] {
        at_each_address(|address| {
            let (_server, mut client) = serve_with_client(&address);
            let (pid, theirs) = (Shm::new(AtomicI32::new(0)).unwrap(), address.clone());
            let of_bystander = pid.clone();
            let putter = fork(move || {
                let mut client = served::client(&theirs);
                client.put("mine", &event()).unwrap();
                of_bystander.store(bystander(by), SeqCst);
                client.wait_for::<Shm<Event>>("never").map(|_| ()).unwrap();
            });
            client.wait_for_timeout::<Shm<Event>>("mine", PATIENCE).unwrap();
            wait_until("it has forked", || pid.load(SeqCst) != 0);
            let revision = client.list("").unwrap().revision;
            kill(&putter);
            let _bystander = Bystander(pid.load(SeqCst));
            client.wait_for_change_timeout(revision, PATIENCE).unwrap();
            assert!(matches!(
                client.get::<Shm<Event>>("mine"),
                Err(DirectoryError::NotFound { .. })
            ));
        });
    }
}

/// A raw system call runs no fork handlers, so that the bystander has all descriptors. Only a
/// client that was connected hangs because of it, and the errors say what is wrong.
#[test]
fn where_a_bystander_was_forked_by_a_raw_call_who_comes_is_told() {
    at_each_address(|address| {
        let (server, mut old, bystander) = kill_beside_bystander(&address, By::RawCall);
        let answer =
            old.get_deadline::<Shm<Event>>("x", Instant::now() + Duration::from_millis(50));
        assert!(matches!(answer, Err(DirectoryError::TimedOut)), "{answer:?}");
        let connected = DirectoryClient::connect(&address);
        assert!(matches!(connected, Err(DirectoryError::NotServed { .. })), "{connected:?}");
        if address.path().is_some() {
            drop(Directory::bind(&address).unwrap());
            return;
        }
        match Directory::bind(&address) {
            Err(error @ DirectoryError::Orphaned { pid, .. }) => {
                assert_eq!(pid, server);
                assert!(error.to_string().contains(&server.to_string()), "{error}");
            }
            other => panic!("{other:?}"),
        }
        let waited = DirectoryClient::connect_timeout(&address, Duration::from_millis(50));
        assert!(matches!(waited, Err(DirectoryError::TimedOut)), "{waited:?}");
        drop(bystander);
        wait_until("the address is free", || Directory::bind(&address).is_ok());
    });
}

#[test]
fn a_forked_child_can_use_neither_and_disturbs_nobody() {
    at_each_address(|address| {
        let (_server, mut client) = serve_with_client(&address);
        client.put("mine", &event()).unwrap();
        let own = Directory::bind(abstract_address()).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| own.serve().unwrap());
            let mut other = served::client(own.address());
            let (of_client, of_own) = (&mut client, &own);
            let use_both = move || {
                let answer = of_client.get::<Shm<Event>>("mine");
                assert!(matches!(answer, Err(DirectoryError::Disconnected)), "{answer:?}");
                let served = of_own.serve();
                assert!(
                    matches!(
                        served,
                        Err(DirectoryError::NotToBeServed { what })
                            if what.contains("fork")
                    ),
                    "{served:?}"
                );
                // SAFETY: this is a copy, like all that a child has, and the child does not use it
                // again. Nothing else drops the parent's.
                drop(unsafe { std::ptr::read(of_client) });
                // SAFETY: as above.
                drop(unsafe { std::ptr::read(of_own) });
            };
            // SAFETY: the child makes system calls and allocates. The parent's one other thread
            // waits in a system call.
            let child = unsafe { Builder::new().daemon(true).fork_with_threads(use_both) }.unwrap();
            let status = child.join_timeout(PATIENCE).unwrap();
            assert!(status.success(), "{status}");
            other.list("").unwrap();
            served::client(own.address()).list("").unwrap();
            own.close();
        });
        client.get::<Shm<Event>>("mine").unwrap();
        // A client that is made after the inherited ones were taken away is the child's own.
        let address = address.clone();
        forked::join_all([fork(move || {
            served::client(&address).get::<Shm<Event>>("mine").map(|_| ()).unwrap();
        })]);
    });
}
