//! Requests of several clients to a directory's state machine, compared with a plain model of it. A
//! program is bytes, and any bytes are a program.

#![allow(dead_code, reason = "the fuzzer runs it only")]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

#[path = "../../src/directory/protocol.rs"]
#[allow(clippy::all, reason = "the crate's own")]
pub(crate) mod protocol;
#[path = "../../src/directory/state.rs"]
#[allow(clippy::all, reason = "the crate's own")]
pub(crate) mod state;

use protocol::{Ask, Reply, Request, Status};
use state::{Answer, Brought, ClientId, Limits, Registry};

const LIMITS: Limits = Limits { names: 6, names_per_client: 3 };
const CLIENTS: u8 = 5;
const NAMES: [&str; 6] = ["a", "a.1", "a.2", "b", "ü", "zzz"];

/// A handle. Each one counts itself.
struct Handle(Rc<Cell<usize>>);

impl Handle {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Handle(Rc::clone(count))
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Handle::new(&self.0)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Awaited {
    Name(String),
    Change(u64),
}

/// What a directory must know. Each look-up searches it from end to end.
struct Model {
    names: BTreeMap<String, Option<ClientId>>,
    clients: BTreeMap<ClientId, bool>,
    waits: BTreeMap<ClientId, (u64, Awaited)>,
    revision: u64,
}

impl Model {
    fn is_over(&self, awaited: &Awaited) -> bool {
        match awaited {
            Awaited::Name(name) => self.names.contains_key(name),
            Awaited::Change(since) => *since != self.revision,
        }
    }

    fn leave(&mut self, client: ClientId) {
        self.clients.remove(&client);
        self.waits.remove(&client);
        let before = self.names.len();
        self.names.retain(|_, owner| *owner != Some(client));
        self.revision += (before - self.names.len()) as u64;
    }

    fn put(
        &mut self,
        client: ClientId,
        name: &str,
        or_get: bool,
        brought: &Brought<Handle>,
    ) -> Status {
        let of =
            |owner: Option<ClientId>| self.names.values().filter(|found| **found == owner).count();
        match brought {
            _ if !self.clients[&client] => Status::NotAllowed,
            Brought::Nothing | Brought::Refused(_) => Status::BadHandle,
            Brought::Handle(_) if self.names.contains_key(name) => {
                if or_get {
                    Status::Handle
                } else {
                    Status::Taken
                }
            }
            Brought::Handle(_) if of(Some(client)) >= LIMITS.names_per_client => Status::TooMany,
            Brought::Handle(_) if self.names.len() - of(None) >= LIMITS.names => Status::TooMany,
            Brought::Handle(_) => {
                self.names.insert(name.to_owned(), Some(client));
                self.revision += 1;
                Status::Done
            }
        }
    }

    fn wait(
        &mut self,
        client: ClientId,
        number: u64,
        awaited: Awaited,
        tell: bool,
    ) -> Option<Status> {
        self.waits.remove(&client);
        if self.is_over(&awaited) {
            return Some(if matches!(awaited, Awaited::Name(_)) {
                Status::Handle
            } else {
                Status::Done
            });
        }
        self.waits.insert(client, (number, awaited));
        tell.then_some(Status::Pending)
    }

    /// Carries out a request, and returns its expected status.
    fn handle(
        &mut self,
        client: ClientId,
        request: &Request<'_>,
        brought: &Brought<Handle>,
    ) -> Option<Status> {
        if !matches!((request.ask, brought), (Ask::Put { .. }, _) | (_, Brought::Nothing)) {
            return Some(Status::Malformed);
        }
        Some(match request.ask {
            Ask::Hello => Status::Done,
            Ask::Get { name } if self.names.contains_key(name) => Status::Handle,
            Ask::Get { .. } => Status::NotFound,
            Ask::List { .. } => Status::Names,
            Ask::Put { name, or_get } => self.put(client, name, or_get, brought),
            Ask::Remove { name } => match self.names.get(name) {
                None => Status::NotFound,
                Some(owner) if *owner != Some(client) => Status::NotYours,
                Some(_) => {
                    self.names.remove(name);
                    self.revision += 1;
                    Status::Done
                }
            },
            Ask::Wait { name, tell } => {
                return self.wait(client, request.number, Awaited::Name(name.to_owned()), tell);
            }
            Ask::Change { since, tell } => {
                return self.wait(client, request.number, Awaited::Change(since), tell);
            }
        })
    }
}

struct Run<'a> {
    program: core::slice::Iter<'a, u8>,
    handles: Rc<Cell<usize>>,
    state: Registry<Handle>,
    model: Model,
    /// Each client's id. A client that comes again has another id.
    ids: BTreeMap<u8, ClientId>,
    next: ClientId,
    number: u64,
}

/// Runs a program, and fails where the state machine differs from the model.
pub(crate) fn run(program: &[u8]) {
    let model = Model {
        names: BTreeMap::new(),
        clients: BTreeMap::new(),
        waits: BTreeMap::new(),
        revision: 7,
    };
    let mut run = Run {
        program: program.iter(),
        handles: Rc::default(),
        state: Registry::new(LIMITS, model.revision),
        model,
        ids: BTreeMap::new(),
        next: 2,
        number: 0,
    };
    while let Some(step) = run.byte() {
        run.step(step);
        assert_eq!(
            run.handles.get(),
            run.model.names.len(),
            "a handle for each name, and none besides"
        );
        assert!(run.state.names().eq(run.model.names.keys()));
    }
    run.settle();
    run.ids.clone().keys().for_each(|client| run.leave(*client));
    run.settle();
    assert_eq!(run.handles.get(), run.model.names.len());
}

impl<'a> Run<'a> {
    fn byte(&mut self) -> Option<u8> {
        self.program.next().copied()
    }

    fn number(&mut self, below: u8) -> u8 {
        self.byte().unwrap_or(0) % below
    }

    fn name(&mut self) -> &'static str {
        NAMES[usize::from(self.number(NAMES.len() as u8))]
    }

    fn step(&mut self, step: u8) {
        match step % 16 {
            0 => {
                let client = self.number(CLIENTS);
                self.join(client);
            }
            1 => {
                let client = self.number(CLIENTS);
                self.leave(client);
            }
            2 => self.look_at_waits(),
            3 => self.settle(),
            4 => {
                let name = self.name();
                let handle = Handle::new(&self.handles);
                let is_new = !self.model.names.contains_key(name);
                assert_eq!(self.state.put(name, handle), is_new);
                if is_new {
                    self.model.names.insert(name.to_owned(), None);
                    self.model.revision += 1;
                }
            }
            5 => {
                let name = self.name();
                let was_there = self.model.names.remove(name).is_some();
                assert_eq!(self.state.remove(name), was_there);
                self.model.revision += u64::from(was_there);
            }
            6 => {
                let (client, len) = (self.number(CLIENTS), self.byte().unwrap_or(0));
                let packet: Vec<u8> = self.program.by_ref().take(len.into()).copied().collect();
                self.request(client, &packet, step);
            }
            // A request, and sometimes with one of its bits flipped.
            kind => {
                let (client, name, flag) = (self.number(CLIENTS), self.name(), step & 16 != 0);
                self.number += 1;
                let since = self.model.revision + u64::from(step & 32 != 0);
                let ask = match kind {
                    7 => Ask::Hello,
                    8 => Ask::Get { name },
                    9 => Ask::List { prefix: if flag { name } else { "" }, after: self.name() },
                    10 => Ask::Remove { name },
                    11 => Ask::Wait { name, tell: flag },
                    12 => Ask::Change { since, tell: flag },
                    _ => Ask::Put { name, or_get: flag },
                };
                let mut packet = Request { number: self.number, ask }.encode();
                if step & 128 != 0 {
                    let (at, bit) = (self.byte().unwrap_or(0), self.number(8));
                    let at = usize::from(at) % packet.len();
                    packet[at] ^= 1 << bit;
                }
                self.request(client, &packet, if kind > 12 { step } else { step & 64 });
            }
        }
    }

    fn join(&mut self, client: u8) {
        if !self.ids.contains_key(&client) {
            // One of the clients may not put.
            let (id, may_put) = (self.next, client != 0);
            self.next += 1;
            self.ids.insert(client, id);
            self.state.join(id, may_put);
            self.model.clients.insert(id, may_put);
        }
    }

    fn leave(&mut self, client: u8) {
        if let Some(id) = self.ids.remove(&client) {
            self.state.leave(id);
            self.model.leave(id);
        }
    }

    fn request(&mut self, client: u8, packet: &[u8], brings: u8) {
        self.join(client);
        let id = self.ids[&client];
        let brought = || match brings % 4 {
            _ if brings < 13 => Brought::Nothing,
            3 => Brought::Refused("refused"),
            _ => Brought::Handle(Handle::new(&self.handles)),
        };
        let expected = match Request::parse(packet) {
            Err(flaw) => Some((flaw.number, flaw.status)),
            Ok(request) => {
                self.model.handle(id, &request, &brought()).map(|status| (request.number, status))
            }
        };
        let answer = self.state.handle(id, packet, brought());
        let found = answer.as_ref().map(|answer| self.check(answer));
        assert_eq!(found, expected, "to {packet:?}");
        if let (Some(answer), Ok(Request { ask: Ask::List { prefix, after }, .. })) =
            (answer, Request::parse(packet))
        {
            self.check_list(&answer, prefix, after);
        }
    }

    /// Checks an answer, and returns its number and status.
    fn check(&self, answer: &Answer<Handle>) -> (u64, Status) {
        let bytes = answer.encode();
        let reply = Reply::parse(&bytes).expect("a reply can be read");
        assert_eq!(reply.status, answer.status);
        assert_eq!(answer.handle.is_some(), reply.status == Status::Handle);
        assert!(reply.status.ends() || reply.revision == self.model.revision, "{reply:?}");
        assert!(reply.text.len() <= protocol::PAGE);
        (reply.number, reply.status)
    }

    fn check_list(&self, answer: &Answer<Handle>, prefix: &str, after: &str) {
        if answer.status != Status::Names {
            return;
        }
        let bytes = answer.encode();
        let reply = Reply::parse(&bytes).expect("a reply can be read");
        let expected: BTreeSet<&str> = self
            .model
            .names
            .keys()
            .map(String::as_str)
            .filter(|name| name.starts_with(prefix) && *name > after)
            .collect();
        // So few names fit on one page.
        assert!(!reply.has_more);
        assert_eq!(reply.names().collect::<BTreeSet<_>>(), expected);
    }

    /// Checks one wait. Returns whether there was one to check.
    fn look(&mut self) -> bool {
        let Some((id, answer)) = self.state.next_due() else {
            assert!(!self.state.is_anybody_due());
            return false;
        };
        let wait = self.model.waits.get(&id).cloned();
        let is_over = wait.as_ref().is_some_and(|(_, awaited)| self.model.is_over(awaited));
        match answer {
            None => assert!(!is_over, "a wait is over, and not answered"),
            Some(answer) => {
                let (number, awaited) = wait.expect("only who waits is answered");
                let status =
                    if matches!(awaited, Awaited::Name(_)) { Status::Handle } else { Status::Done };
                assert!(is_over, "a wait is answered that is not over");
                assert_eq!(self.check(&answer), (number, status));
                self.model.waits.remove(&id);
            }
        }
        true
    }

    fn look_at_waits(&mut self) {
        for _ in 0..self.number(4) {
            self.look();
        }
    }

    /// Settles all waits. After this, no client waits for what is there.
    fn settle(&mut self) {
        let mut looks = 0;
        while self.look() {
            looks += 1;
            assert!(looks <= self.next, "as many are due as there are clients");
        }
        for (id, (_, awaited)) in &self.model.waits {
            assert!(!self.model.is_over(awaited), "{id} waits for {awaited:?}");
        }
    }
}
