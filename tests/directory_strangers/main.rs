//! Clients that misbehave: a client that is not allowed is refused, and the others are served all
//! the same.

#![allow(unsafe_code)]

mod closes;
#[path = "../forked/mod.rs"]
mod forked;
#[path = "../refused/mod.rs"]
mod refused;
#[path = "../served/mod.rs"]
mod served;
#[path = "../served/stranger.rs"]
mod stranger;
mod users;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crossproc::directory::{Address, Directory, DirectoryClient, DirectoryError, DirectoryOptions};
use crossproc::{Event, Lock, Shm};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use forked::{fork, join_all, kill, slowness, wait_until};
use served::{
    Folder, abstract_address, alone, client, descriptors, serve_with_client, wait_for_descriptors,
};
use stranger::protocol::Ask;
use stranger::{FRAME, Stranger, request};

fn event() -> Shm<Event> {
    Shm::new(Event::new()).unwrap()
}

/// Returns the time that a process has run, in ticks.
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_server_without_descriptors_goes_on_with_those_it_has() {
    alone(|| {
        let folder = Folder::new();
        let address = folder.socket();
        let theirs = address.clone();
        let server = fork(move || {
            let limits = getrlimit(Resource::Nofile);
            let options = DirectoryOptions::new().connections(500).connections_per_process(500);
            let directory = options.bind(&theirs).unwrap();
            setrlimit(Resource::Nofile, Rlimit { current: Some(60), ..limits }).unwrap();
            directory.serve().unwrap();
        });
        let mut first = client(&address);
        first.put("x", &event()).unwrap();
        // These are more than the server has descriptors for. The kernel keeps those that are not
        // accepted.
        let strangers: Vec<_> = (0..100).map(|_| Stranger::connect(&address).unwrap()).collect();
        let most = || descriptors(server.id()) >= 60;
        wait_until("the server has no descriptor left", most);
        let began = ticks(server.id());
        for _ in 0..200 {
            first.get::<Shm<Event>>("x").unwrap();
        }
        assert!(matches!(
            DirectoryClient::connect_timeout(&address, Duration::from_millis(500)),
            Err(DirectoryError::TimedOut)
        ));
        // A tick is 10 ms. The server tries again every 50 ms, which takes no time.
        assert!(
            ticks(server.id()) - began < 25 * u64::from(slowness()),
            "it spins: {} ticks",
            ticks(server.id()) - began
        );
        // The server refuses what it cannot receive, and disconnects that client.
        let result = first.put("y", &event());
        assert!(matches!(result, Err(DirectoryError::Malformed { .. })), "{result:?}");
        drop(strangers);
        client(&address).list("").unwrap();
        drop(first);
        wait_until("the rest is closed", || descriptors(server.id()) < 20);
    });
}

fn in_time<R>(what: &str, action: impl FnOnce() -> R) -> R {
    let began = Instant::now();
    let result = action();
    assert!(began.elapsed() < Duration::from_secs(5), "{what} took {:?}", began.elapsed());
    result
}

#[test]
fn whoever_does_not_receive_is_cut_off() {
    at_each(|address| {
        let (server, mut honest) = serve_with_client(&address);
        honest.put("x", &Shm::new(Lock::new(1_u32)).unwrap()).unwrap();
        let before = descriptors(server.id());
        for ask in [Ask::Hello, Ask::Get { name: "x" }, Ask::List { prefix: "", after: "" }] {
            let stranger = Stranger::connect(&address).unwrap();
            let mut number = 0;
            let error = loop {
                number += 1;
                if let Err(error) = stranger.send(&request(number, ask), &[]) {
                    break error;
                }
                assert!(number < 1_000_000, "it is answered for ever");
            };
            assert!(matches!(error, Errno::PIPE | Errno::CONNRESET), "{error}");
            in_time("getting", || honest.get::<Shm<Lock<u32>>>("x")).unwrap();
            // Few replies have descriptors: there is a limit on those in flight.
            let replies: Vec<_> = std::iter::from_fn(|| {
                stranger
                    .receive_packet(RecvFlags::DONTWAIT)
                    .ok()
                    .filter(|packet| !packet.is_empty())
            })
            .collect();
            let handles = replies.iter().filter(|packet| packet.starts_with(&FRAME)).count();
            assert!(
                replies.len() > handles
                    && (1..=4).contains(&handles) == matches!(ask, Ask::Get { .. }),
                "{handles}"
            );
        }
        // A client that asks for more descriptors before it has received the earlier ones is told
        // so, and goes on.
        let hasty = Stranger::connect(&address).unwrap();
        for number in 1..=6 {
            hasty.send(&request(number, Ask::Get { name: "x" }), &[]).unwrap();
        }
        let replies: Vec<_> =
            (0..6).map(|_| hasty.receive_packet(RecvFlags::empty()).unwrap()).collect();
        assert!(replies[0].starts_with(&FRAME) && replies.iter().all(|packet| !packet.is_empty()));
        hasty.send(&request(7, Ask::Get { name: "x" }), &[]).unwrap();
        assert!(hasty.receive_packet(RecvFlags::empty()).unwrap().starts_with(&FRAME));
        drop(hasty);
        wait_for_descriptors(server.id(), before);
    });
}

fn at_each(test: impl Fn(Address) + Send + Sync) {
    let folder = Folder::new();
    for address in [folder.socket(), abstract_address()] {
        alone(|| test(address));
    }
}

#[test]
fn a_connection_to_the_directory_is_not_served() {
    at_each(|address| {
        let (_server, mut client) = serve_with_client(&address);
        let own = client.as_fd().try_clone_to_owned().unwrap();
        let result = client.put("self", &own);
        assert!(matches!(result, Err(DirectoryError::RefusedHandle { .. })), "{result:?}");
        assert!(matches!(Directory::bind(&address), Err(DirectoryError::AlreadyServed { .. })));
    });
}

#[test]
fn memory_that_is_not_such_as_this_crate_makes_is_not_served() {
    at_each(|address| {
        let (_server, mut client) = serve_with_client(&address);
        let whole = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        for (flags, seals, flaw) in [
            (MemfdFlags::empty(), SealFlags::empty(), "not sealed"),
            (MemfdFlags::empty(), whole | SealFlags::WRITE, "seals that keep"),
            (MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, whole, "huge pages"),
        ] {
            let memory = memfd_create("memory", MemfdFlags::ALLOW_SEALING | flags).unwrap();
            fcntl_add_seals(&memory, seals).unwrap();
            let result = client.put("memory", &memory);
            assert!(
                matches!(
                    &result,
                    Err(DirectoryError::RefusedHandle { why, .. })
                        if why.contains(flaw)
                ),
                "{result:?}"
            );
        }
    });
}

#[test]
fn a_server_that_may_start_no_threads_serves_all_the_same_and_says_so_once() {
    alone(|| {
        let address = abstract_address();
        let (said, stderr) = rustix::pipe::pipe().unwrap();
        let theirs = address.clone();
        let server = fork(move || {
            rustix::stdio::dup2_stderr(&stderr).unwrap();
            drop(stderr);
            refused::refuse(&[
                refused::call(libc::SYS_clone, libc::EAGAIN),
                refused::call(libc::SYS_clone3, libc::EAGAIN),
            ]);
            Directory::bind(&theirs).unwrap().serve().unwrap();
        });
        // These are more than it could leave open.
        for _ in 0..600 {
            client(&address).list("").unwrap();
        }
        kill(&server);
        let said = std::io::read_to_string(std::fs::File::from(said)).unwrap();
        assert_eq!(said.matches("could not start a thread").count(), 1, "{said}");
    });
}

#[test]
fn a_request_without_a_number_is_none_and_ends_its_connection() {
    alone(|| {
        let address = abstract_address();
        let (_server, mut honest) = serve_with_client(&address);
        let stranger = Stranger::connect(&address).unwrap();
        stranger.send(&request(0, Ask::Hello), &[]).unwrap();
        let packet = stranger.receive_packet(RecvFlags::empty()).unwrap();
        let reply = stranger::protocol::Reply::parse(&packet).unwrap();
        assert_eq!((reply.number, reply.status), (0, stranger::protocol::Status::Malformed));
        assert!(reply.text.contains("its number is 0"), "{}", reply.text);
        assert_eq!(stranger.receive(RecvFlags::empty()), Ok(0), "the connection is over");
        honest.list("").unwrap();
    });
}

#[test]
fn a_bind_that_fails_leaves_nothing_behind() {
    let setlk = [libc::F_SETLK, libc::F_OFD_SETLK].map(|command| command as u32);
    let refusals = [
        refused::call(libc::SYS_bind, libc::EACCES),
        refused::call(libc::SYS_listen, libc::EPERM),
        refused::call(libc::SYS_renameat, libc::EPERM),
        refused::call(libc::SYS_fchmodat, libc::EPERM),
        refused::call(libc::SYS_fcntl, libc::ENOLCK).if_argument(1, setlk[0]),
        refused::call(libc::SYS_fcntl, libc::ENOLCK).if_argument(1, setlk[1]),
        refused::call(libc::SYS_fcntl, libc::EINTR).if_argument(1, setlk[0]),
        refused::call(libc::SYS_epoll_create1, libc::EMFILE),
        refused::call(libc::SYS_eventfd2, libc::EMFILE),
    ];
    for (index, refusal) in refusals.into_iter().enumerate() {
        alone(|| {
            let folder = Folder::new();
            let address = folder.socket();
            join_all([fork(|| {
                refused::refuse(&[refusal]);
                match Directory::bind(&address) {
                    // The refused call comes later, or is not needed.
                    Ok(directory) => {
                        directory.close();
                        drop(directory.serve());
                    }
                    Err(error) => assert!(matches!(error, DirectoryError::Os { .. }), "{error}"),
                }
            })]);
            let left: Vec<_> = std::fs::read_dir(folder.path())
                .unwrap()
                .map(|file| file.unwrap().file_name())
                .collect();
            assert!(left.is_empty(), "number {index} leaves {left:?}");
        });
    }
    // The path is taken by a file that is no socket.
    let folder = Folder::new();
    std::fs::write(folder.path().join("socket"), "a file").unwrap();
    assert!(matches!(Directory::bind(folder.socket()), Err(DirectoryError::NotASocket { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
