//! The server's loop: sockets and descriptors around [`Registry`](super::state).
//!
//! One thread does everything, in rounds, and waits for nothing but the next event. The work of a
//! round is bounded. It accepts a few connections, takes one request from each of some clients that
//! have one, in turns, and looks at some waits. What cannot be sent at once is not sent: its
//! receiver has left many replies unread, and is cut off. Nothing that may block is done here: see
//! [`closer`](super::closer).

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use crossproc_sys::clock;
use crossproc_sys::descriptor::above_standard;
use crossproc_sys::memory::{self, SEAL_EXEC, SEAL_WRITERS, SEALS};
use crossproc_sys::retry::retry;
use crossproc_sys::socket as sys;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_domain;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, accept_with, getpeername, getsockname, shutdown,
};

use super::closer::Foreign;
use super::error::DirectoryError;
use super::own::Own;
use super::protocol::MAX_REQUEST;
use super::service::{Served, Service};
use super::state::{Answer, Brought, ClientId};
use crate::connection::frame::{self, Frame, FrameHead};

/// The most events that a round looks at.
const EVENTS: usize = 64;
/// The most connections that a round accepts.
const ACCEPTS: usize = 8;
/// The most waits that a round looks at.
const WAITS: usize = 64;
/// The most bytes of unread replies, as the kernel counts them, behind which another reply with a
/// descriptor is sent: about two replies. The kernel counts descriptors on their way against a
/// limit that all processes of the server's user share. The default number of connections is a
/// quarter of that limit.
const UNREAD: usize = 2_048;
/// The nanoseconds until the next attempt, when there was no descriptor for a connection.
const RETRY: u32 = 50_000_000;
/// The time-out of a look that does not sleep.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// The longest packet that may be a request.
const MAX_PACKET: usize = frame::HEADER + frame::MAX_KIND + MAX_REQUEST;

const LISTENER: u64 = 0;
const BELL: u64 = 1;
const FIRST_CLIENT: ClientId = 2;

/// An admitted client.
#[derive(Debug)]
struct Guest {
    socket: Own<Foreign>,
    pid: u32,
}

/// Whether connections are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// Not before this time: there was no descriptor for another connection, or too many
    /// descriptors wait to be closed.
    Shut(u64),
}

#[derive(Debug)]
pub(super) struct Server<'a> {
    directory: &'a Service,
    epoll: OwnedFd,
    guests: BTreeMap<ClientId, Guest>,
    /// The number of connections of each process.
    of_process: BTreeMap<u32, usize>,
    next: ClientId,
    /// The clients whose next packet brings descriptors for which there was no room, in the order
    /// in which they came.
    paused: VecDeque<ClientId>,
    door: Door,
    buffer: Box<[u8; MAX_PACKET]>,
}

impl<'a> Server<'a> {
    pub(super) fn new(directory: &'a Service) -> Result<Self, DirectoryError> {
        let failed = DirectoryError::os("making an epoll instance");
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).and_then(above_standard).map_err(&failed)?;
        for (fd, data) in [(directory.listener.as_fd(), LISTENER), (directory.bell.as_fd(), BELL)] {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN)
                .map_err(&failed)?;
        }
        Ok(Server {
            directory,
            epoll,
            guests: BTreeMap::new(),
            of_process: BTreeMap::new(),
            next: FIRST_CLIENT,
            paused: VecDeque::new(),
            door: Door::Open,
            buffer: Box::new([0; MAX_PACKET]),
        })
    }

    pub(super) fn run(&mut self) -> Result<(), DirectoryError> {
        let mut events = Vec::with_capacity(EVENTS);
        // Acquire: pairs with the Release in `close`.
        while !self.directory.is_closed.load(Acquire) {
            events.clear();
            let timeout = self.timeout();
            let waited =
                match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                    // A signal interrupted it. Or a sandbox answers EINTR without end, even to a
                    // call that does not sleep.
                    Err(Errno::INTR) => retry(|| {
                        epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&AT_ONCE))
                    }),
                    waited => waited,
                };
            waited.map_err(DirectoryError::os("waiting for clients"))?;
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept_some(),
                    BELL => self.directory.bell.silence(),
                    client => {
                        let is_gone = { event.flags }
                            .intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
                        if is_gone { self.end(client) } else { self.take_request(client) }
                    }
                }
            }
            self.answer_waits();
            self.resume();
        }
        Ok(())
    }

    /// Returns how long to sleep at most.
    fn timeout(&self) -> Option<Timespec> {
        let is_work_left = self.directory.state().is_anybody_due()
            || (!self.paused.is_empty() && self.directory.closer.has_room());
        match self.door {
            _ if is_work_left => Some(AT_ONCE),
            Door::Open => None,
            Door::Shut(_) => Some(Timespec { tv_sec: 0, tv_nsec: RETRY.into() }),
        }
    }

    fn accept_some(&mut self) {
        for _ in 0..ACCEPTS {
            if !self.directory.closer.has_room() {
                return self.set_door(Door::Shut(0));
            }
            match retry(|| accept_with(&*self.directory.listener, SocketFlags::CLOEXEC))
                .and_then(above_standard)
            {
                Ok(socket) => {
                    let socket = Own::new(Foreign::new(socket, &self.directory.closer));
                    // The dead end for children could not be made, without a descriptor or memory.
                    // The connection is not served.
                    let Ok(socket) = socket else {
                        return self.set_door(Door::Shut(clock::now() + u64::from(RETRY)));
                    };
                    self.admit(socket);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::CONNABORTED) => {}
                // No descriptor or no memory; or the listener was shut down, and `run` ends. New
                // connections wait, and the existing ones go on.
                Err(_) => return self.set_door(Door::Shut(clock::now() + u64::from(RETRY))),
            }
        }
    }

    fn set_door(&mut self, door: Door) {
        let events =
            if door == Door::Open { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        // The kernel has no reason to refuse: the listener is there, and nothing is allocated. A
        // sandbox may refuse, and then the next attempt to open the door is made after a while.
        let changed = epoll::modify(
            &self.epoll,
            &*self.directory.listener,
            epoll::EventData::new_u64(LISTENER),
            events,
        );
        self.door = if changed.is_err() && door == Door::Open {
            Door::Shut(clock::now() + u64::from(RETRY))
        } else {
            door
        };
    }

    fn admit(&mut self, socket: Own<Foreign>) {
        let Ok(peer) = sys::peer(&*socket) else { return };
        let rules = &self.directory.rules;
        let count = self.of_process.get(&peer.pid).copied().unwrap_or(0);
        let refusal = if !rules.may_look_up(peer.uid) {
            format!("user {} may not connect: see DirectoryOptions::allow_lookup", peer.uid)
        } else if self.guests.len() >= rules.connections {
            format!("there are {} connections, which is the limit", rules.connections)
        } else if count >= rules.connections_per_process {
            format!("process {} has {count} connections, which is the limit", peer.pid)
        } else {
            let id = self.next;
            self.next += 1;
            match epoll::add(
                &self.epoll,
                &*socket,
                epoll::EventData::new_u64(id),
                epoll::EventFlags::IN,
            ) {
                Ok(()) => {
                    self.of_process.insert(peer.pid, count + 1);
                    self.guests.insert(id, Guest { socket, pid: peer.pid });
                    self.directory.state().join(id, rules.may_put(peer.uid));
                    return;
                }
                Err(errno) => format!("the server cannot watch more connections: {errno}"),
            }
        };
        let _ = sys::send(&*socket, &Answer::<Arc<Served>>::unwelcome(refusal).encode(), false);
        let _ = shutdown(&*socket, Shutdown::Both);
    }

    /// Ends a client's connection: its names go. Closing it can take a while, so the client is told
    /// at once.
    fn end(&mut self, id: ClientId) {
        let Some(guest) = self.guests.remove(&id) else { return };
        // Neither can fail for an open socket.
        let _ = epoll::delete(&self.epoll, &*guest.socket);
        let _ = shutdown(&*guest.socket, Shutdown::Both);
        if let Some(count) = self.of_process.get_mut(&guest.pid) {
            *count -= 1;
            if *count == 0 {
                self.of_process.remove(&guest.pid);
            }
        }
        self.directory.state().leave(id);
    }

    /// Takes one request of a client, and answers it.
    fn take_request(&mut self, id: ClientId) {
        let Some(guest) = self.guests.get(&id) else { return };
        if !self.directory.closer.has_room() && sys::brings_descriptors(&*guest.socket) == Ok(true)
        {
            return self.pause(id);
        }
        let delivery = match sys::receive_all(&*guest.socket, &mut self.buffer[..]) {
            Ok(delivery) => delivery,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.end(id),
        };
        let packet = &self.buffer[..delivery.len];
        let descriptors: Vec<_> = delivery
            .descriptors
            .into_iter()
            .map(|fd| Foreign::new(fd, &self.directory.closer))
            .collect();
        let answer = if delivery.is_cut {
            Some(Answer::malformed("it is longer than any request"))
        } else if delivery.is_missing_descriptors {
            Some(Answer::malformed("it brought more descriptors than the server could take"))
        } else if packet.is_empty() && descriptors.is_empty() {
            return self.end(id);
        } else {
            match self.unpack(packet, descriptors) {
                Ok((request, brought)) => self.directory.state().handle(id, request, brought),
                Err(why) => Some(Answer::malformed(why)),
            }
        };
        if let Some(answer) = answer {
            self.send(id, &answer);
        }
    }

    /// Returns the request in a packet, and the handle that it brought.
    fn unpack<'p>(
        &self,
        packet: &'p [u8],
        mut descriptors: Vec<Foreign>,
    ) -> Result<(&'p [u8], Brought<Arc<Served>>), String> {
        if descriptors.is_empty() {
            return Ok((packet, Brought::Nothing));
        }
        let head =
            FrameHead::parse(packet, descriptors.len()).map_err(|error| error.to_string())?;
        let kind = head.kind(packet).map_err(|error| error.to_string())?;
        let handle = descriptors.pop().filter(|_| head.has_handle && !head.is_large);
        let fd = handle.ok_or("its bytes are in a memfd, which no request's are")?;
        let brought = match self.flaw_of(&fd) {
            Some(why) => Brought::Refused(why),
            None => Brought::Handle(Arc::new(Served { fd, kind })),
        };
        Ok((&packet[head.start()..], brought))
    }

    /// Returns why a client's descriptor is not served, if it is not. The questions that are asked
    /// of it here reach only the kernel.
    fn flaw_of(&self, fd: &Foreign) -> Option<&'static str> {
        match memory::seals(fd) {
            Ok(Some(seals)) if !seals.contains(SEALS) => {
                return Some("it is memory that is not sealed, so that it could shrink");
            }
            Ok(Some(seals)) if !(SEALS | SEAL_EXEC | SEAL_WRITERS).contains(seals) => {
                return Some("it is memory with seals that keep others from using it");
            }
            Ok(Some(_)) if memory::is_of_tmpfs(fd).is_ok_and(|is| is) => return None,
            Ok(Some(_)) => return Some("it is memory of huge pages, which this crate never makes"),
            _ => {}
        }
        match socket_domain(fd) {
            Ok(AddressFamily::UNIX) => {}
            _ => {
                return Some(
                    "it is neither memory of this crate nor a Unix socket; the owner of the \
                     directory can put others",
                );
            }
        }
        match (getpeername(fd), getsockname(&*self.directory.listener)) {
            (Ok(Some(peer)), Ok(here)) if peer == here => {
                Some("it is a connection to this directory, which would never end")
            }
            _ => None,
        }
    }

    /// Sends an answer at once, or ends the connection. If only the handle cannot be sent, the
    /// client is told so.
    fn send(&mut self, id: ClientId, answer: &Answer<Arc<Served>>) {
        let Some(guest) = self.guests.get(&id) else { return };
        let sent = match send_at_once(&guest.socket, answer) {
            Err(_) if answer.handle.is_some() => {
                send_at_once(&guest.socket, &answer.without_handle(TOO_MANY_UNREAD))
            }
            sent => sent,
        };
        if sent.is_err() || answer.status.ends() {
            self.end(id);
        }
    }

    /// Stops looking at a client until there is room for what it brings.
    fn pause(&mut self, id: ClientId) {
        if self.watch(id, epoll::EventFlags::empty()) {
            self.paused.push_back(id);
        }
    }

    /// Sets the events that a client is watched for. Returns whether the client is there still. A
    /// client that cannot be watched is ended: it would never be looked at again.
    fn watch(&mut self, id: ClientId, events: epoll::EventFlags) -> bool {
        let Some(guest) = self.guests.get(&id) else { return false };
        // The kernel has no reason to refuse: the socket is there, and nothing is allocated. A
        // sandbox may.
        let watched =
            epoll::modify(&self.epoll, &*guest.socket, epoll::EventData::new_u64(id), events);
        if watched.is_err() {
            self.end(id);
        }
        watched.is_ok()
    }

    /// Goes on with what waited for the closer: paused clients in the order in which they came, and
    /// new connections.
    fn resume(&mut self) {
        self.directory.closer.go_on();
        for _ in 0..EVENTS.min(self.paused.len()) {
            if !self.directory.closer.has_room() {
                break;
            }
            if let Some(id) = self.paused.pop_front() {
                if self.watch(id, epoll::EventFlags::IN) {
                    self.take_request(id);
                }
            }
        }
        if matches!(self.door, Door::Shut(until) if clock::now() >= until)
            && self.directory.closer.has_room()
        {
            self.set_door(Door::Open);
        }
    }

    /// Answers clients whose waits are over.
    fn answer_waits(&mut self) {
        for _ in 0..WAITS {
            let due = self.directory.state().next_due();
            let Some((id, answer)) = due else { return };
            if let Some(answer) = answer {
                self.send(id, &answer);
            }
        }
    }
}

/// The reason that is sent in place of a handle.
const TOO_MANY_UNREAD: &str = "handles are on their way to clients that have not received them \
                               yet, as many as the kernel lets the server send: ask again";

fn send_at_once(socket: &Foreign, answer: &Answer<Arc<Served>>) -> Result<(), Errno> {
    let bytes = answer.encode();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let sent = match &answer.handle {
            None => sys::send(socket, &bytes, false),
            Some(_) if sys::unread(socket).is_ok_and(|unread| unread > UNREAD) => {
                Err(Errno::TOOMANYREFS)
            }
            Some(served) => {
                let frame = Frame::new(&bytes, None, Some((served.fd.as_fd(), &served.kind)));
                sys::send_with_descriptors(socket, &frame.slices(), &[served.fd.as_fd()], false)
            }
        };
        // The call does not wait, so no signal interrupts it for long.
        if sent != Err(Errno::INTR) || attempts == 16 {
            return sent;
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let all: Vec<_> = self.guests.keys().copied().collect();
        for id in all {
            self.end(id);
        }
    }
}
