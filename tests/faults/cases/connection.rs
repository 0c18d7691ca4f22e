//! Connections.

use crossproc::{Connection, ConnectionError, Event, Message, Shm, pipe, simplex};

use super::{Case, Peer};
use crate::probe::{LONG, Outcome, Probe, SHORT, done, require};

/// Longer than a packet: a message of this length is sent by memfd.
const LONG_MESSAGE: usize = 3 << 20;

/// Sends a message, and checks that it is there as a whole if it was sent.
fn sends(probe: Probe<'_>, len: usize) {
    let (ours, theirs) = pipe().unwrap();
    let message = vec![7; len];
    let look = |is_ok| match theirs.try_recv() {
        Ok(received) => {
            Ok(require(is_ok && received.into_vec() == message, "what was sent is there")?)
        }
        Err(ConnectionError::WouldBlock) => Ok(require(!is_ok, "what was sent is there")?),
        Err(error) => Err(error.into()),
    };
    probe.operate_and_look(|| Ok(ours.send_timeout(&message, LONG)?), look);
}

/// Receives a message, and checks that it is still there if it was not received. A memfd that came
/// with it and cannot be examined is lost with it: there is no way to put it back.
fn receives(
    probe: Probe<'_>,
    len: usize,
    receive: impl Fn(&Connection) -> Result<Vec<u8>, ConnectionError>,
) {
    let (ours, theirs) = pipe().unwrap();
    let message = vec![7; len];
    theirs.send(&message).unwrap();
    let peer = Peer::new(|| theirs.send(&message).unwrap());
    let look = |is_ok: bool| -> Outcome {
        if !is_ok {
            let is_by_memfd = len == 0 || len == LONG_MESSAGE;
            if ours.poll()? {
                return Ok(());
            }
            require(is_by_memfd, "what was not received is there still")?;
        }
        require(!ours.poll()?, "it was received once")?;
        peer.ask();
        peer.finish()
    };
    probe
        .operate_and_look(|| Ok(require(receive(&ours)? == message, "it is what was sent")?), look);
}

pub(super) fn add(all: &mut Vec<Case>) {
    let mut case = |name, run| all.push(Case { name, run });
    case("connection: pipe", |probe| probe.operate(|| done(pipe()?)));
    case("connection: simplex", |probe| probe.operate(|| done(simplex()?)));
    case("connection: inheritable, and cloned", |probe| {
        probe.operate(|| {
            let (ours, theirs) = pipe()?;
            let ours = ours.inheritable();
            done((ours.try_clone()?, theirs.try_clone()?))
        });
    });
    case("connection: a short message is sent", |probe| sends(probe, 5));
    case("connection: an empty message is sent", |probe| sends(probe, 0));
    case("connection: a long message is sent", |probe| sends(probe, LONG_MESSAGE));
    case("connection: a short message is received", |probe| {
        receives(probe, 5, |ours| ours.recv_timeout(LONG).map(Message::into_vec));
    });
    case("connection: an empty message is received", |probe| {
        receives(probe, 0, |ours| ours.recv_timeout(LONG).map(Message::into_vec));
    });
    case("connection: a long message is received", |probe| {
        receives(probe, LONG_MESSAGE, |ours| ours.recv_timeout(LONG).map(Message::into_vec));
    });
    case("connection: a message is received into a buffer", |probe| {
        receives(probe, 5, |ours| {
            let mut buffer = [0; 16];
            ours.recv_into_timeout(&mut buffer, LONG).map(|len| buffer[..len].to_vec())
        });
    });
    case("connection: a receive times out", |probe| {
        let (ours, _theirs) = pipe().unwrap();
        probe.operate(|| match ours.recv_timeout(SHORT) {
            Err(ConnectionError::TimedOut) => Ok(()),
            other => done(other?),
        });
    });
    case("connection: a receive is woken", |probe| {
        let (ours, theirs) = pipe().unwrap();
        let peer = Peer::new(|| theirs.send(b"hello").unwrap());
        let operation = || {
            peer.ask();
            Ok(require(&*ours.recv_timeout(LONG)? == b"hello", "it is what was sent")?)
        };
        let look = |is_ok: bool| {
            peer.finish()?;
            Ok(require(is_ok || ours.try_recv().is_ok(), "it is there if it was not received")?)
        };
        probe.operate_and_look(operation, look);
    });
    case("connection: a poll times out", |probe| {
        let (ours, _theirs) = pipe().unwrap();
        probe.operate(|| Ok(require(!ours.poll_timeout(SHORT)?, "nothing is there")?));
    });
    case("connection: a full one is sent to", |probe| {
        let (ours, _theirs) = pipe().unwrap();
        while ours.try_send(&[0; 1_000]).is_ok() {}
        probe.operate(|| match ours.send_timeout(&[0; 1_000], SHORT) {
            Err(ConnectionError::TimedOut) => Ok(()),
            other => Ok(other?),
        });
    });
    case("connection: a handle is sent", |probe| {
        let (ours, theirs) = pipe().unwrap();
        let event = Shm::new(Event::new()).unwrap();
        let look = |is_ok| match theirs.try_recv_handle::<Shm<Event>>() {
            Ok(_) => Ok(require(is_ok, "it was sent")?),
            Err(ConnectionError::WouldBlock) => Ok(require(!is_ok, "what was sent is there")?),
            Err(error) => Err(error.into()),
        };
        probe.operate_and_look(|| Ok(ours.send_both(b"with", &event)?), look);
    });
    case("connection: a handle is received", |probe| {
        let (ours, theirs) = pipe().unwrap();
        let event = Shm::new(Event::new()).unwrap();
        theirs.send_handle(&event).unwrap();
        let peer = Peer::new(|| theirs.send_handle(&event).unwrap());
        let operation = || done(ours.recv_handle_timeout::<Shm<Event>>(LONG)?);
        // The descriptor may be lost, and the error says so then: a received descriptor cannot be
        // received again.
        let look = |_| {
            if !ours.poll()? {
                peer.ask();
                peer.finish()?;
            }
            Ok(())
        };
        probe.operate_and_look(operation, look);
    });
}
