//! Waits for names, for changes and for a server.

use std::time::{Duration, Instant};

use crossproc::directory::{Address, DirectoryClient, DirectoryError, DirectoryOptions};
use crossproc::{Event, Shm, Wait};
use rustix::event::{PollFd, PollFlags, poll};

use super::{BRIEF, at_each_address, event, is_missing};
use crate::forked::{PATIENCE, fork, join_all, kill, wait_until};
use crate::served::{self, Folder, abstract_address, alone, client, serve, serve_with_client};

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
