//! A client whose server is no directory: whatever the server sends is an error that says what is
//! wrong.

mod forked;
mod served;
#[path = "served/stranger.rs"]
#[allow(dead_code, reason = "an impostor needs what is said alone")]
mod stranger;

use std::time::Instant;

use crossproc::directory::{DirectoryClient, DirectoryError};
use crossproc::{Event, Shm};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind,
    listen, recv, send, socket_with,
};

use forked::PATIENCE;
use served::{abstract_address, alone};
use stranger::FRAME;
use stranger::protocol::{HEAD, Reply, Request, Status};

/// The impostor's answer to a request of this number.
type Answer = fn(u64) -> Vec<Vec<u8>>;

fn reply(number: u64, status: Status, text: &str) -> Vec<u8> {
    Reply { number, status, has_more: false, revision: 7, text }.encode()
}

/// Returns the request in a packet. A packet with a handle has a frame, in which the handle's kind
/// comes first.
fn request_in(packet: &[u8]) -> &[u8] {
    let Some(framed) = packet.strip_prefix(&FRAME) else { return packet };
    let kind_len = u32::from_ne_bytes(framed[4..8].try_into().unwrap());
    &framed[16 + kind_len as usize..]
}

/// Starts a listener that welcomes a client and answers everything else with `answer`. Asks it
/// `question`, and returns the result.
fn ask<T: Send>(
    answer: Answer,
    question: impl FnOnce(&mut DirectoryClient) -> Result<T, DirectoryError> + Send,
) -> Result<T, DirectoryError> {
    let address = abstract_address();
    let name = address.to_string();
    let place = SocketAddrUnix::new_abstract_name(&name.as_bytes()[1..]).unwrap();
    let door = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .unwrap();
    bind(&door, &place).unwrap();
    listen(&door, 1).unwrap();
    std::thread::scope(|scope| {
        let impostor = scope.spawn(|| {
            let client = accept(&door).unwrap();
            let mut packet = [0; 4_096];
            for round in 0.. {
                // The client has gone, perhaps before it has read all.
                let Ok((_, len @ 1..)) = recv(&client, &mut packet[..], RecvFlags::empty()) else {
                    return;
                };
                let number = Request::parse(request_in(&packet[..len])).unwrap().number;
                let said =
                    if round == 0 { vec![reply(number, Status::Done, "")] } else { answer(number) };
                for packet in said {
                    let _ = send(&client, &packet, SendFlags::NOSIGNAL);
                }
            }
        });
        let mut client = DirectoryClient::connect(&address).unwrap();
        let result = question(&mut client);
        drop(client);
        impostor.join().unwrap();
        result
    })
}

fn get(client: &mut DirectoryClient) -> Result<Shm<Event>, DirectoryError> {
    client.get("x")
}

fn list(client: &mut DirectoryClient) -> Result<Vec<String>, DirectoryError> {
    client.list("x").map(|listing| listing.names)
}

fn put(client: &mut DirectoryClient) -> Result<(), DirectoryError> {
    client.put("x", &Shm::new(Event::new()).unwrap())
}

#[track_caller]
fn is_malformed<T>(result: Result<T, DirectoryError>, words: &str) {
    match result {
        Err(DirectoryError::Malformed { what }) => {
            assert!(what.contains(words), "{what:?} and not {words:?}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was believed"),
    }
}

#[test]
fn what_is_no_reply_is_an_error_that_says_what_is_wrong() {
    alone(|| {
        is_malformed(ask(|_| vec![b"short".to_vec()], get), "5 bytes, of at least 24");
        is_malformed(ask(|_| vec![vec![b'?'; 100]], get), "another version, or no crossproc");
        let of_a_later_version: Answer = |number| {
            let mut packet = reply(number, Status::Done, "");
            packet[4..6].copy_from_slice(&99_u16.to_ne_bytes());
            vec![packet]
        };
        is_malformed(
            ask(of_a_later_version, get),
            "the status 99, which this version does not know",
        );
        is_malformed(ask(of_a_later_version, put), "the status 99");
        let no_text: Answer = |number| {
            let mut packet = reply(number, Status::Names, "x");
            packet[HEAD] = 0xff;
            vec![packet]
        };
        is_malformed(ask(no_text, list), "not UTF-8");
    });
}

#[test]
fn a_reply_to_something_else_is_an_error() {
    alone(|| {
        for status in [Status::Done, Status::Names, Status::Pending] {
            let answer: Answer = match status {
                Status::Done => |number| vec![reply(number, Status::Done, "")],
                Status::Names => |number| vec![reply(number, Status::Names, "x\0")],
                _ => |number| vec![reply(number, Status::Pending, "")],
            };
            is_malformed(ask(answer, get), "not one to what was asked");
            if status != Status::Done {
                is_malformed(ask(answer, put), "not one to what was asked");
            }
            if status != Status::Names {
                is_malformed(ask(answer, list), "not one to what was asked");
            }
        }
        // The reply announces a handle, and there is none.
        is_malformed(
            ask(|number| vec![reply(number, Status::Handle, "")], get),
            "without a handle",
        );
        is_malformed(
            ask(|number| vec![reply(number, Status::Handle, "")], put),
            "not one to what was asked",
        );
    });
}

#[test]
fn a_refusal_is_told_in_the_servers_words() {
    alone(|| {
        let odd = |status: fn(u64) -> Vec<Vec<u8>>| ask(status, get).map(drop).unwrap_err();
        let error = odd(|number| vec![reply(number, Status::BadName, "it is odd")]);
        assert!(
            matches!(
                &error,
                DirectoryError::InvalidName { name, why }
                    if name == "x" && why == "it is odd"
            ),
            "{error:?}"
        );
        let error = odd(|number| vec![reply(number, Status::TooMany, "it is odd")]);
        assert!(
            matches!(&error, DirectoryError::TooMany { why } if why == "it is odd"),
            "{error:?}"
        );
        let error = odd(|number| vec![reply(number, Status::Malformed, "it is odd")]);
        assert!(
            matches!(&error, DirectoryError::Malformed { what } if what == "it is odd"),
            "{error:?}"
        );
        // The reply is about the connection, whatever the request was.
        let error = odd(|_| vec![reply(0, Status::Unwelcome, "too late")]);
        assert!(
            matches!(&error, DirectoryError::Unwelcome { why } if why == "too late"),
            "{error:?}"
        );
        let error = ask(|number| vec![reply(number, Status::NotAllowed, "")], list).unwrap_err();
        assert!(matches!(error, DirectoryError::NotAllowed), "{error:?}");
    });
}

#[test]
fn replies_that_come_too_late_are_skipped_until_the_deadline() {
    alone(|| {
        let late: Answer = |number| {
            let others =
                [number + 1, number + 2, u64::MAX].map(|other| reply(other, Status::NotFound, ""));
            others.into_iter().chain([reply(number, Status::Names, "x.1\0x.2\0")]).collect()
        };
        assert_eq!(ask(late, list).unwrap(), ["x.1", "x.2"]);
        let never: Answer = |number| vec![reply(number + 1, Status::NotFound, ""); 3];
        let began = Instant::now();
        let result = ask(never, |client| client.list_deadline("x", began));
        assert!(matches!(result, Err(DirectoryError::TimedOut)), "{result:?}");
        assert!(began.elapsed() < PATIENCE);
    });
}

#[test]
fn what_cannot_be_a_prefix_is_not_asked_for() {
    alone(|| {
        let too_long = "x".repeat(256);
        for prefix in ["a\0b", &too_long] {
            let result = ask(|_| panic!("it was asked"), |client| client.list(prefix));
            assert!(
                matches!(&result, Err(DirectoryError::InvalidName { name, .. }) if name == prefix),
                "{result:?}"
            );
        }
    });
}
