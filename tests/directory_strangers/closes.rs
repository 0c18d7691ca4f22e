//! Descriptors that take for ever to close hold up nobody.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crossproc::directory::{Directory, DirectoryError, DirectoryOptions};
use crossproc::process::Child;
use crossproc::{Event, Shm, pipe};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::sockopt::{
    set_socket_linger, set_socket_recv_buffer_size, set_socket_send_buffer_size,
};

use super::{at_each, event, in_time};
use crate::forked::{fork, kill, wait_until};
use crate::served::{
    abstract_address, alone, client, descriptors, serve, serve_with_client, wait_for_descriptors,
};
use crate::stranger::protocol::Ask;
use crate::stranger::{Stranger, framed, request};

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
