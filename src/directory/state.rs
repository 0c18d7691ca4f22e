//! What a directory knows, and how it answers: no sockets, no descriptors, no clock. `D` stands for
//! a handle; its `Drop` decides what becomes of it.
//!
//! # Invariants
//! - `names` says what is served, and which participant owns it. Each client's `names` are those
//!   that it owns, so its end takes them with it, without a search.
//! - A client has at most one wait. Either the wait is registered, in `waiting` under its name or
//!   in `watching`. Or the client is `due`: something has changed since for which its wait may be
//!   over. Each change makes those clients due whose waits it concerns. [`Registry::next_due`]
//!   looks at a due client's wait again, and answers it or registers it anew. So no wait is lost:
//!   between registering and the change, the client is in a set that the change empties; after it,
//!   it is due.
//! - What a request costs does not depend on how many clients and names there are, but for the
//!   logarithm. A page of names is bounded, and a client has a bounded number of names. Each client
//!   that becomes due has paid for that with a request. The caller of `next_due` answers due
//!   clients a few at a time.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::protocol::{Ask, Flaw, PAGE, Reply, Request, Status};

/// Identifies a client, and never another one.
pub(crate) type ClientId = u64;

/// The limits on what clients may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most names of all clients together. What the directory's owner has put does not count.
    pub(crate) names: usize,
    /// The most names of one client.
    pub(crate) names_per_client: usize,
}

/// What came with a request.
#[derive(Debug)]
pub(crate) enum Brought<D> {
    Nothing,
    Handle(D),
    /// Something that is not served, and why not.
    Refused(&'static str),
}

/// What is sent to a client.
#[derive(Debug)]
pub(crate) struct Answer<D> {
    number: u64,
    pub(crate) status: Status,
    has_more: bool,
    revision: u64,
    text: Cow<'static, str>,
    pub(crate) handle: Option<D>,
}

impl<D> Answer<D> {
    /// Returns the answer to a connection that is refused.
    pub(crate) fn unwelcome(why: impl Into<Cow<'static, str>>) -> Self {
        Answer {
            number: 0,
            status: Status::Unwelcome,
            has_more: false,
            revision: 0,
            text: why.into(),
            handle: None,
        }
    }

    /// Returns the answer to a packet that is no request.
    pub(crate) fn malformed(why: impl Into<Cow<'static, str>>) -> Self {
        Answer {
            number: 0,
            status: Status::Malformed,
            has_more: false,
            revision: 0,
            text: why.into(),
            handle: None,
        }
    }

    /// Returns the answer that the handle cannot be sent, for a while.
    pub(crate) fn without_handle(&self, why: &'static str) -> Self {
        Answer {
            number: self.number,
            status: Status::TooMany,
            has_more: false,
            revision: self.revision,
            text: why.into(),
            handle: None,
        }
    }

    /// Returns the packet.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Answer { number, status, has_more, revision, .. } = *self;
        Reply { number, status, has_more, revision, text: &self.text }.encode()
    }
}

#[derive(Debug)]
struct NamedHandle<D> {
    handle: D,
    /// `None` for the directory's owner.
    owner: Option<ClientId>,
}

#[derive(Debug)]
struct Client {
    may_put: bool,
    names: BTreeSet<Arc<str>>,
    wait: Option<PendingWait>,
    /// Whether it is in the queue of due clients.
    is_due: bool,
}

#[derive(Debug, Clone)]
struct PendingWait {
    number: u64,
    what: Awaited,
}

#[derive(Debug, Clone)]
enum Awaited {
    Name(Arc<str>),
    /// A revision other than this one.
    Change(u64),
}

/// The names, clients and waits of a directory: see the module.
#[derive(Debug)]
pub(crate) struct Registry<D> {
    names: BTreeMap<Arc<str>, NamedHandle<D>>,
    clients: BTreeMap<ClientId, Client>,
    waiting: BTreeMap<Arc<str>, BTreeSet<ClientId>>,
    watching: BTreeSet<ClientId>,
    due: VecDeque<ClientId>,
    /// The number of names that clients own.
    lent: usize,
    revision: u64,
    limits: Limits,
}

impl<D: Clone> Registry<D> {
    /// Returns a directory without names. `revision` is its first revision.
    pub(crate) fn new(limits: Limits, revision: u64) -> Self {
        Registry {
            names: BTreeMap::new(),
            clients: BTreeMap::new(),
            waiting: BTreeMap::new(),
            watching: BTreeSet::new(),
            due: VecDeque::new(),
            lent: 0,
            revision,
            limits,
        }
    }

    /// Adds a client.
    pub(crate) fn join(&mut self, client: ClientId, may_put: bool) {
        self.clients
            .insert(client, Client { may_put, names: BTreeSet::new(), wait: None, is_due: false });
    }

    /// Removes a client, and its names with it.
    pub(crate) fn leave(&mut self, client: ClientId) {
        self.forget_wait(client);
        let Some(left) = self.clients.remove(&client) else { return };
        for name in left.names {
            self.names.remove(&name);
            self.lent -= 1;
            self.changed();
        }
    }

    /// Serves a handle for the directory's owner. Returns whether the name was free.
    pub(crate) fn put(&mut self, name: &str, handle: D) -> bool {
        !self.names.contains_key(name) && {
            self.insert(name, handle, None);
            true
        }
    }

    /// Removes a name for the directory's owner, even if a client put it. Returns whether it was
    /// there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let Some((name, entry)) = self.names.remove_entry(name) else { return false };
        if let Some(owner) = entry.owner {
            self.lent -= 1;
            self.clients.get_mut(&owner).map(|client| client.names.remove(&name));
        }
        self.changed();
        true
    }

    /// Returns all names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|name| &**name)
    }

    /// Answers a request, or keeps it for later if it is a wait.
    pub(crate) fn handle(
        &mut self,
        client: ClientId,
        packet: &[u8],
        brought: Brought<D>,
    ) -> Option<Answer<D>> {
        let number_of = |flaw: Flaw| Answer {
            number: flaw.number,
            text: flaw.why,
            ..self.answer(0, flaw.status)
        };
        let Request { number, ask } = match Request::parse(packet) {
            Ok(request) => request,
            Err(flaw) => return Some(number_of(flaw)),
        };
        if !matches!((ask, &brought), (Ask::Put { .. }, _) | (_, Brought::Nothing)) {
            return Some(Answer {
                number,
                ..Answer::malformed("it brings a handle, which only a put does")
            });
        }
        match ask {
            Ask::Hello => Some(self.answer(number, Status::Done)),
            Ask::Get { name } => Some(self.get(number, name)),
            Ask::List { prefix, after } => Some(self.list(number, prefix, after)),
            Ask::Put { name, or_get } => Some(self.put_for(client, number, name, or_get, brought)),
            Ask::Remove { name } => Some(self.remove_for(client, number, name)),
            Ask::Wait { name, tell } => {
                self.wait(client, PendingWait { number, what: Awaited::Name(name.into()) }, tell)
            }
            Ask::Change { since, tell } => {
                self.wait(client, PendingWait { number, what: Awaited::Change(since) }, tell)
            }
        }
    }

    /// Returns whether there is a client to look at with [`next_due`](Registry::next_due).
    pub(crate) fn is_anybody_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Looks at the wait of the next client that is due. Returns the client, and the answer if its
    /// wait is over. Returns `None` if no client is due.
    pub(crate) fn next_due(&mut self) -> Option<(ClientId, Option<Answer<D>>)> {
        let id = self.due.pop_front()?;
        let Some(client) = self.clients.get_mut(&id) else { return Some((id, None)) };
        client.is_due = false;
        // The wait may have been replaced since the client became due, and be registered.
        let Some(wait) = self.forget_wait(id) else { return Some((id, None)) };
        Some((id, self.wait(id, wait, false)))
    }

    fn answer(&self, number: u64, status: Status) -> Answer<D> {
        Answer {
            number,
            status,
            has_more: false,
            revision: self.revision,
            text: Cow::from(""),
            handle: None,
        }
    }

    fn refuse(&self, number: u64, status: Status, why: impl Into<Cow<'static, str>>) -> Answer<D> {
        Answer { text: why.into(), ..self.answer(number, status) }
    }

    fn get(&self, number: u64, name: &str) -> Answer<D> {
        match self.names.get(name) {
            Some(entry) => {
                Answer { handle: Some(entry.handle.clone()), ..self.answer(number, Status::Handle) }
            }
            None => self.answer(number, Status::NotFound),
        }
    }

    fn list(&self, number: u64, prefix: &str, after: &str) -> Answer<D> {
        // No name is empty, so all names come after an empty `after`.
        let start = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let mut text = String::new();
        let mut names = self
            .names
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(prefix));
        let has_more = names.any(|name| {
            let fits = text.len() + name.len() < PAGE;
            if fits {
                text.push_str(name);
                text.push('\0');
            }
            !fits
        });
        Answer { has_more, text: text.into(), ..self.answer(number, Status::Names) }
    }

    fn put_for(
        &mut self,
        id: ClientId,
        number: u64,
        name: &str,
        or_get: bool,
        brought: Brought<D>,
    ) -> Answer<D> {
        let Some(client) = self.clients.get(&id).filter(|client| client.may_put) else {
            return self.answer(number, Status::NotAllowed);
        };
        let handle = match brought {
            Brought::Handle(handle) => handle,
            Brought::Nothing => {
                return self.refuse(number, Status::BadHandle, "no handle came with it");
            }
            Brought::Refused(why) => return self.refuse(number, Status::BadHandle, why),
        };
        if self.names.contains_key(name) {
            return if or_get {
                self.get(number, name)
            } else {
                self.answer(number, Status::Taken)
            };
        }
        let Limits { names, names_per_client } = self.limits;
        if client.names.len() >= names_per_client {
            return self.refuse(
                number,
                Status::TooMany,
                format!("a connection may have {names_per_client} names"),
            );
        }
        if self.lent >= names {
            return self.refuse(
                number,
                Status::TooMany,
                format!("all connections together may have {names} names"),
            );
        }
        self.insert(name, handle, Some(id));
        self.answer(number, Status::Done)
    }

    fn remove_for(&mut self, id: ClientId, number: u64, name: &str) -> Answer<D> {
        match self.names.get(name) {
            None => self.answer(number, Status::NotFound),
            Some(entry) if entry.owner != Some(id) => self.answer(number, Status::NotYours),
            Some(_) => {
                self.remove(name);
                self.answer(number, Status::Done)
            }
        }
    }

    fn insert(&mut self, name: &str, handle: D, owner: Option<ClientId>) {
        let name: Arc<str> = name.into();
        if let Some(client) = owner.and_then(|owner| self.clients.get_mut(&owner)) {
            client.names.insert(Arc::clone(&name));
            self.lent += 1;
        }
        self.names.insert(Arc::clone(&name), NamedHandle { handle, owner });
        self.changed();
        for id in self.waiting.remove(&name).into_iter().flatten() {
            self.make_due(id);
        }
    }

    /// Notes that a name has come or gone.
    fn changed(&mut self) {
        self.revision += 1;
        for id in core::mem::take(&mut self.watching) {
            self.make_due(id);
        }
    }

    fn make_due(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id).filter(|client| !client.is_due) {
            client.is_due = true;
            self.due.push_back(id);
        }
    }

    /// Answers a wait that is over, or registers it. Either way the client's previous wait is
    /// forgotten.
    fn wait(&mut self, id: ClientId, wait: PendingWait, tell: bool) -> Option<Answer<D>> {
        self.forget_wait(id);
        let client = self.clients.get_mut(&id)?;
        let number = wait.number;
        match &wait.what {
            Awaited::Name(name) if self.names.contains_key(name) => {
                return Some(self.get(number, name));
            }
            Awaited::Name(name) => _ = self.waiting.entry(Arc::clone(name)).or_default().insert(id),
            Awaited::Change(since) if *since != self.revision => {
                return Some(self.answer(number, Status::Done));
            }
            Awaited::Change(_) => _ = self.watching.insert(id),
        }
        client.wait = Some(wait);
        tell.then(|| self.answer(number, Status::Pending))
    }

    fn forget_wait(&mut self, id: ClientId) -> Option<PendingWait> {
        let wait = self.clients.get_mut(&id)?.wait.take()?;
        match &wait.what {
            Awaited::Change(_) => _ = self.watching.remove(&id),
            Awaited::Name(name) => {
                if let Some(waiting) = self.waiting.get_mut(name) {
                    waiting.remove(&id);
                    if waiting.is_empty() {
                        self.waiting.remove(name);
                    }
                }
            }
        }
        Some(wait)
    }
}
