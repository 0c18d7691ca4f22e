//! Clients that misbehave: a client that is not allowed is refused, and the others are served all
//! the same.

#![allow(unsafe_code)]

mod forked;
mod refused;
mod served;
#[path = "served/stranger.rs"]
mod stranger;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crossproc::directory::{
    Address, ConnectOptions, Directory, DirectoryClient, DirectoryError, DirectoryOptions,
};
use crossproc::process::Child;
use crossproc::{Event, Lock, Shm, pipe};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::sockopt::{
    set_socket_linger, set_socket_recv_buffer_size, set_socket_send_buffer_size,
};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

use forked::{PATIENCE, fork, join_all, kill, slowness, wait_until};
use served::{
    Folder, abstract_address, alone, client, descriptors, serve, serve_with_client,
    wait_for_descriptors,
};
use stranger::protocol::Ask;
use stranger::{FRAME, Stranger, framed, request};

/// A user that none of the tests' processes runs as.
const NOBODY: u32 = 65_534;

fn event() -> Shm<Event> {
    Shm::new(Event::new()).unwrap()
}

/// Runs `body` as another user, which only root can. Returns whether it could.
fn as_nobody(body: impl FnOnce() + Send) -> bool {
    let is_root = geteuid().is_root();
    if is_root {
        join_all([fork(move || {
            // SAFETY: changes the user of this process, which has one thread.
            assert_eq!(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }, 0);
            body();
        })]);
    } else {
        println!("not run as root: the refusal of another user was not tried");
    }
    is_root
}

#[test]
fn a_user_does_what_it_is_allowed_to() {
    let folder = Folder::new();
    rustix::fs::chmod(folder.path(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    alone(|| {
        let own = geteuid().as_raw();
        let ours = event();
        for address in [folder.socket(), abstract_address()] {
            let refused = |result: Result<DirectoryClient, DirectoryError>, uid: u32| match result {
                Err(DirectoryError::Unwelcome { why }) => {
                    assert!(why.contains(&uid.to_string()), "{why}");
                }
                other => panic!("{other:?}"),
            };
            // At a path, another user does not even reach the server.
            let (server, _client) = serve_with_client(&address);
            as_nobody(|| match ConnectOptions::new().connect(&address) {
                Err(DirectoryError::Os { source, .. }) => {
                    assert!(address.path().is_some(), "{source}");
                }
                result => refused(result, NOBODY),
            });
            kill(&server);
            // Another user is allowed, and this one is not.
            let server = serve(&address, DirectoryOptions::new().allow_lookup(NOBODY + 1));
            let _client = client(&address);
            as_nobody(|| refused(ConnectOptions::new().connect(&address), NOBODY));
            kill(&server);
            let server = serve(&address, DirectoryOptions::new().allow_lookup(NOBODY));
            let mut first = client(&address);
            first.put("x", &ours).unwrap();
            as_nobody(|| {
                let mut client = client(&address);
                let theirs: Shm<Event> = client.get("x").unwrap();
                theirs.set();
                assert!(matches!(client.put("y", &theirs), Err(DirectoryError::NotAllowed)));
                assert!(matches!(
                    client.get_or_put("y", || Ok(event())),
                    Err(DirectoryError::NotAllowed)
                ));
                assert!(matches!(client.remove("x"), Err(DirectoryError::NotYours { .. })));
            });
            kill(&server);
            let server = serve(&address, DirectoryOptions::new().allow_put(NOBODY));
            let _client = client(&address);
            as_nobody(|| client(&address).put("y", &event()).unwrap());
            kill(&server);
            // The server refuses its own user, which may be any.
            let server = serve(&address, DirectoryOptions::new().deny(own));
            refused(DirectoryClient::connect_timeout(&address, PATIENCE), own);
            kill(&server);
            let server = serve(&address, DirectoryOptions::new().deny(own).allow_lookup(own));
            assert!(matches!(client(&address).put("y", &ours), Err(DirectoryError::NotAllowed)));
            kill(&server);
        }
    });
}

#[test]
fn a_server_of_another_user_is_not_believed() {
    alone(|| {
        let own = geteuid().as_raw();
        let address = abstract_address();
        let (server, _client) = serve_with_client(&address);
        match ConnectOptions::new().distrust(own).connect(&address) {
            Err(DirectoryError::UntrustedServer { uid, pid, .. }) => {
                assert_eq!((uid, pid), (own, server.id()));
            }
            other => panic!("{other:?}"),
        }
        kill(&server);
        if !geteuid().is_root() {
            return;
        }
        let theirs = address.clone();
        let squatter = fork(move || {
            // SAFETY: changes the user of this process, which has one thread.
            assert_eq!(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }, 0);
            DirectoryOptions::new().allow_lookup(0).bind(&theirs).unwrap().serve().unwrap();
        });
        match DirectoryClient::connect_timeout(&address, PATIENCE) {
            Err(DirectoryError::UntrustedServer { uid, pid, .. }) => {
                assert_eq!((uid, pid), (NOBODY, squatter.id()));
            }
            other => panic!("{other:?}"),
        }
        ConnectOptions::new().trust(NOBODY).connect(&address).unwrap().list("").unwrap();
    });
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

/// Returns `count` sockets. Each takes a minute to close, for the process that closes it last,
/// because what it has sent is not received. Also returns the process that keeps the sockets from
/// being closed.
fn lingering(count: usize) -> (Vec<OwnedFd>, Child) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    set_socket_recv_buffer_size(&listener, 2_048).unwrap();
    let place = listener.local_addr().unwrap();
    let silent = fork(move || {
        let _all: Vec<_> = listener.incoming().collect();
    });
    let socket = || {
        let mut stream = TcpStream::connect(place).unwrap();
        set_socket_send_buffer_size(&stream, 4_096).unwrap();
        set_socket_linger(&stream, Some(Duration::from_secs(60))).unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 1_024]).is_ok() {}
        OwnedFd::from(stream)
    };
    ((0..count).map(|_| socket()).collect(), silent)
}

/// Signals a child. After SIGSTOP, waits until the child is stopped.
fn signal(child: &Child, signal: i32) {
    // SAFETY: signals a child that has not been waited for.
    unsafe { libc::kill(child.id() as i32, signal) };
    let stat = format!("/proc/{}/stat", child.id());
    wait_until("the child is stopped", || {
        signal != libc::SIGSTOP || std::fs::read_to_string(&stat).unwrap().contains(") T ")
    });
}

/// Returns how many threads of a process are asleep in `close`.
fn closing(process: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let call = format!("{} ", libc::SYS_close);
    let is_closing = |task: std::path::PathBuf| {
        std::fs::read_to_string(task.join("syscall")).is_ok_and(|now| now.starts_with(&call))
    };
    tasks.filter(|task| is_closing(task.as_ref().unwrap().path())).count()
}

fn in_time<R>(what: &str, action: impl FnOnce() -> R) -> R {
    let began = Instant::now();
    let result = action();
    assert!(began.elapsed() < Duration::from_secs(5), "{what} took {:?}", began.elapsed());
    result
}

#[test]
fn a_close_that_takes_for_ever_holds_up_nobody() {
    alone(|| {
        let address = abstract_address();
        let (server, mut honest) = serve_with_client(&address);
        honest.put("x", &event()).unwrap();
        let (sockets, _silent) = lingering(4);
        let put = framed(&request(1, Ask::Put { name: "y", or_get: false }));
        let all: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        // The server is the last to close them: it receives them when no other process has them.
        signal(&server, libc::SIGSTOP);
        // One is the handle of a put, and one is among too many for a packet. One is in a packet
        // that is never received, and one is on its way through a socket that is put.
        let stranger = Stranger::connect(&address).unwrap();
        stranger.send(&put, &all[..1]).unwrap();
        let many = Stranger::connect(&address).unwrap();
        many.send(&put, &[&[honest.as_fd(); 200][..], &all[1..2]].concat()).unwrap();
        let garbage = Stranger::connect(&address).unwrap();
        garbage.send(b"garbage", &[]).unwrap();
        garbage.send(&put, &all[2..3]).unwrap();
        let (one, other) = pipe().unwrap();
        one.send_handle(&sockets[3]).unwrap();
        let carrier = Stranger::connect(&address).unwrap();
        carrier.send(&put, &[other.as_fd()]).unwrap();
        carrier.send(&request(2, Ask::Remove { name: "y" }), &[]).unwrap();
        drop((sockets, one, other));
        signal(&server, libc::SIGCONT);
        wait_until("four closes hang", || closing(server.id()) == 4);
        for stranger in [stranger, many, garbage, carrier] {
            assert!(stranger.receive(RecvFlags::empty()).unwrap() > 0, "it is told");
        }
        for _ in 0..100 {
            in_time("getting", || honest.get::<Shm<Event>>("x")).unwrap();
            in_time("putting", || honest.put("z", &event())).unwrap();
            in_time("removing", || honest.remove("z")).unwrap();
        }
        in_time("connecting", || client(&address));
        assert_eq!(closing(server.id()), 4, "they hang still");
    });
}

#[test]
fn closes_that_take_for_ever_hold_up_puts_alone_however_many() {
    alone(|| {
        let address = abstract_address();
        let server = serve(&address, DirectoryOptions::new().connections_per_process(1_000));
        let (mut honest, mut other) = (client(&address), client(&address));
        honest.put("x", &event()).unwrap();
        let before = descriptors(server.id());
        let (sockets, silent) = lingering(400);
        let put = framed(&request(1, Ask::Put { name: "y", or_get: false }));
        let strangers: Vec<_> = (0..4).map(|_| Stranger::connect(&address).unwrap()).collect();
        signal(&server, libc::SIGSTOP);
        for (index, socket) in sockets.into_iter().enumerate() {
            strangers[index % 4].send(&put, &[socket.as_fd()]).unwrap();
        }
        signal(&server, libc::SIGCONT);
        let receive_all = || {
            strangers.iter().for_each(|stranger| {
                while stranger.receive(RecvFlags::DONTWAIT).is_ok_and(|len| len > 0) {}
            });
        };
        // Once all threads hang, the server takes no more descriptors.
        wait_until("puts are not taken", || {
            receive_all();
            let result =
                honest.put_deadline("z", &event(), Instant::now() + Duration::from_millis(200));
            assert!(matches!(result, Ok(()) | Err(DirectoryError::TimedOut)), "{result:?}");
            result.and_then(|()| honest.remove("z")).is_err()
        });
        assert_eq!(closing(server.id()), 16);
        for _ in 0..100 {
            in_time("getting", || other.get::<Shm<Event>>("x")).unwrap();
            in_time("listing", || other.list("")).unwrap();
        }
        // The closes end, and everything goes on.
        kill(&silent);
        wait_until("puts are taken", || honest.remove("z").is_ok());
        drop(strangers);
        wait_for_descriptors(server.id(), before);
    });
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
fn what_nobody_has_accepted_holds_up_nobody() {
    at_each(|address| {
        let (sockets, _silent) = lingering(4);
        let directory = Directory::bind(&address).unwrap();
        let strangers: Vec<_> =
            sockets.iter().map(|_| Stranger::connect(&address).unwrap()).collect();
        for (stranger, socket) in strangers.iter().zip(&sockets) {
            stranger
                .send(
                    &framed(&request(1, Ask::Put { name: "x", or_get: false })),
                    &[socket.as_fd()],
                )
                .unwrap();
        }
        drop(sockets);
        // The strangers wait for the server, which ends. They are told, and the server does not
        // wait for what they have sent.
        directory.close();
        for stranger in &strangers {
            assert!(matches!(
                stranger.receive(RecvFlags::empty()),
                Ok(0) | Err(Errno::CONNRESET | Errno::PIPE)
            ));
        }
        in_time("ending", || drop(directory));
        drop(Directory::bind(&address).unwrap());
    });
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
