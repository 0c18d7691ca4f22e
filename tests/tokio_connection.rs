//! Connections as futures: messages stay whole when a future gives up waiting, and when a process
//! dies.

use std::future::Future;
use std::time::Duration;

use crossproc::{
    Connection, ConnectionError, Event, Readable, Receiver, Sender, Shm, pipe, simplex, wait_any,
    wait_any_async,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;

mod forked;
mod refused;
use forked::{PATIENCE, fork, join_all, kill};

fn runtimes() -> [Runtime; 2] {
    let one = Builder::new_current_thread().enable_all().build().unwrap();
    let several = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    [one, several]
}

/// Runs a test in a process of its own, where no other test forks a copy of its descriptors, or
/// opens any.
fn alone(test: impl FnOnce() + Send) {
    join_all([fork(test)]);
}

async fn in_time<R>(future: impl Future<Output = R>) -> R {
    timeout(PATIENCE, future).await.expect("it is done in time")
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

const LONG: usize = (1 << 20) + 1;

#[test]
fn messages_and_handles_come_from_another_process() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        let echo = fork(move || {
            while let Ok(message) = other.recv() {
                other.send(&message).unwrap();
            }
        });
        for runtime in runtimes() {
            runtime.block_on(in_time(async {
                for len in [0, 1, 1_000, 70_000, LONG] {
                    one.send_async(&vec![5; len]).await.unwrap();
                    assert_eq!(one.recv_async().await.unwrap(), vec![5; len][..]);
                }
                let event = Shm::new(Event::new()).unwrap();
                let (ours, theirs) = simplex().unwrap();
                let (sent, received) = tokio::join!(
                    ours.send_handle_async(&event),
                    theirs.recv_handle_async::<Shm<Event>>()
                );
                sent.unwrap();
                received.unwrap().set();
                assert!(event.is_set());
            }));
        }
        kill(&echo);
        let [one_thread, _] = runtimes();
        assert!(matches!(
            one_thread.block_on(in_time(one.recv_async())),
            Err(ConnectionError::EndOfStream)
        ));
        assert!(matches!(
            one_thread.block_on(in_time(one.send_async(b"x"))),
            Err(ConnectionError::BrokenPipe)
        ));
    });
}

#[test]
fn who_gives_up_loses_nothing() {
    const MESSAGES: u32 = 3_000;
    alone(|| {
        for runtime in runtimes() {
            let (sender, receiver) = simplex().unwrap();
            let child = fork(move || {
                for number in 0..MESSAGES {
                    sender.send(&number.to_ne_bytes()).unwrap();
                    if number % 16 == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            runtime.block_on(in_time(async {
                let mut expected = 0_u32;
                let mut given_up = 0;
                while expected < MESSAGES {
                    // The timer is nearly always due when the message is.
                    match timeout(Duration::from_micros(fastrand::u64(0..3)), receiver.recv_async())
                        .await
                    {
                        Ok(message) => {
                            assert_eq!(message.unwrap(), expected.to_ne_bytes());
                            expected += 1;
                        }
                        Err(_) => given_up += 1,
                    }
                }
                println!("given up {given_up} times");
            }));
            join_all([child]);
        }
    });
}

/// Polls the future once and drops it. Returns whether it was pending.
async fn is_pending(future: impl Future) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = std::future::ready(()) => true,
    }
}

#[test]
fn a_sender_waits_for_room_and_one_that_is_dropped_has_sent_nothing() {
    alone(|| {
        for runtime in runtimes() {
            let (sender, receiver) = simplex().unwrap();
            let message = [7; 10_000];
            let mut sent = 0;
            while sender.try_send(&message).is_ok() {
                sent += 1;
            }
            runtime.block_on(in_time(async {
                assert!(is_pending(sender.send_async(&message)).await);
                assert!(is_pending(sender.send_async(&vec![1; LONG])).await);
                assert!(is_pending(sender.send_handle_async(&sender)).await);
                let later = sender.send_async(b"the last");
                let all = async {
                    for _ in 0..sent {
                        assert_eq!(receiver.recv_async().await.unwrap(), message);
                    }
                    receiver.recv_async().await.unwrap()
                };
                let (result, last) = tokio::join!(later, all);
                result.unwrap();
                assert_eq!(last, b"the last", "nothing of those that were dropped");
            }));
        }
    });
}

#[test]
fn several_tasks_share_an_end_and_leave_nothing_behind() {
    alone(|| {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (one, other) = pipe().unwrap();
        runtime.block_on(in_time(async { assert!(is_pending(one.recv_async()).await) }));
        // The first child opens two descriptors for good.
        join_all([fork(|| ())]);
        let before = open_descriptors();
        let child = fork(move || {
            for number in 0..1_000_u32 {
                other.send(&number.to_ne_bytes()).unwrap();
            }
            // The stream ends when this process ends.
        });
        let one = std::sync::Arc::new(one);
        let total = runtime.block_on(in_time(async {
            let mut tasks = JoinSet::new();
            for _ in 0..20 {
                let one = std::sync::Arc::clone(&one);
                tasks.spawn(async move {
                    let mut sum = 0_u64;
                    loop {
                        match one.recv_async().await {
                            Ok(message) => {
                                sum +=
                                    u64::from(u32::from_ne_bytes(message[..].try_into().unwrap()));
                            }
                            Err(ConnectionError::EndOfStream) => return sum,
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            tasks.join_all().await.into_iter().sum::<u64>()
        }));
        assert_eq!(total, 999 * 1_000 / 2);
        join_all([child]);
        // The other end, which the child has taken with it, is closed here.
        assert_eq!(open_descriptors(), before - 1, "no duplicate is left");
    });
}

#[test]
fn an_error_alone_makes_a_descriptor_ready() {
    alone(|| {
        for runtime in runtimes() {
            // The socket's peer does not exist, which the socket learns when it sends.
            let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(nobody).unwrap();
            let ready = runtime.block_on(in_time(async {
                let readable = Readable(&socket);
                let mut wait = std::pin::pin!(wait_any_async(&[&readable]));
                assert!(is_pending(wait.as_mut()).await);
                socket.send(b"x").unwrap();
                wait.await
            }));
            assert_eq!(ready.unwrap(), [0]);
        }
    });
}

#[test]
fn a_connection_that_the_runtime_cannot_watch_is_an_error_and_what_is_there_comes() {
    alone(|| {
        let [runtime, _] = runtimes();
        let (one, other) = pipe().unwrap();
        refused::refuse(&[refused::call(libc::SYS_epoll_ctl, libc::ENOSPC)]);
        let says = |result: Result<(), ConnectionError>| match result {
            Err(ConnectionError::Os { what, source }) => {
                assert!(
                    what.contains("watch the connection")
                        && source.raw_os_error() == Some(libc::ENOSPC),
                    "{what}: {source}"
                );
            }
            result => panic!("{result:?}"),
        };
        // These calls run without the runtime's clock, which would sleep by a call that is refused.
        says(runtime.block_on(one.recv_async()).map(drop));
        says(runtime.block_on(one.recv_handle_async::<Connection>()).map(drop));
        other.send(b"message").unwrap();
        assert_eq!(runtime.block_on(one.recv_async()).unwrap(), b"message");
        runtime.block_on(one.send_async(b"answer")).unwrap();
        assert_eq!(other.recv().unwrap(), b"answer");
    });
}

#[test]
fn connections_are_waited_for_among_other_things() {
    alone(|| {
        let (one, other) = pipe().unwrap();
        let (sender, receiver): (Sender, Receiver) = simplex().unwrap();
        let event = Event::new();
        let all = |one: &Connection, receiver: &Receiver| {
            let ready = crossproc::try_wait_any(&[one, receiver, &event, &Readable(one)]);
            ready.unwrap_or_default()
        };
        assert_eq!(all(&one, &receiver), []);
        other.send(b"x").unwrap();
        assert_eq!(all(&one, &receiver), [0, 3]);
        assert_eq!(wait_any(&[&event, &one]).unwrap(), [1]);
        sender.send(b"y").unwrap();
        assert_eq!(all(&one, &receiver), [0, 1, 3]);
        one.recv().unwrap();
        assert_eq!(all(&one, &receiver), [1]);
        assert_eq!(wait_any(&[&sender]).unwrap(), [0], "there is room");
        let [runtime, _] = runtimes();
        assert_eq!(
            runtime.block_on(in_time(wait_any_async(&[&event, &one, &receiver]))).unwrap(),
            [2]
        );
        while sender.try_send(&[1; 10_000]).is_ok() {}
        assert!(crossproc::try_wait_any(&[&sender]).is_err(), "there is none");
        drop(receiver);
        assert_eq!(wait_any(&[&sender]).unwrap(), [0], "nobody is left");
    });
}
