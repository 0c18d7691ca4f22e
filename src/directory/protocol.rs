//! The messages of clients and servers: each is one message of a [`Connection`](crate::Connection).
//! Neither side trusts anything in them.
//!
//! | offset | request | reply |
//! |---|---|---|
//! | 0 | [`MAGIC`], with the version | the same |
//! | 4 | what the request asks for: [`Ask`] | how the request ended: [`Status`] |
//! | 6 | flags: [`TELL`], [`OR_GET`] | flags: [`MORE`] |
//! | 8 | the request's number, from 1 on | the same; 0: about the connection |
//! | 16 | a revision, for [`Ask::Change`] | the directory's revision |
//! | 24 | the name; for a list, the prefix, a NUL, and the name to go on after | names, each followed by a NUL; after a refusal, the reason |
//!
//! An [`Ask::Put`] brings the handle to serve, and a [`Status::Handle`] the handle asked for. All
//! numbers have the byte order of the machine.
//!
//! Requests are answered in order, except for waits. A connection has one wait at a time. Another
//! wait replaces it, and the old one is forgotten without a reply.

use std::borrow::Cow;

/// "xpd" and the version of the protocol, in the byte order of the sender.
pub(crate) const MAGIC: u32 = u32::from_be_bytes(*b"xpd\x01");

/// The length of the fixed part of a request or reply.
pub(crate) const HEAD: usize = 24;
/// The greatest length of a name in bytes.
pub(crate) const MAX_NAME: usize = 255;
/// The greatest length of a request: a list holds a prefix, a NUL, and a name.
pub(crate) const MAX_REQUEST: usize = HEAD + MAX_NAME + 1 + MAX_NAME;
/// The most bytes of names in a reply; at least one name fits.
pub(crate) const PAGE: usize = 8_192;

/// Flag of a wait: the server acknowledges it if it is not over at once.
pub(crate) const TELL: u16 = 1;
/// Flag of a put: if the name is taken, the client wants its handle.
pub(crate) const OR_GET: u16 = 2;
/// Flag of a list's reply: there are more names than these.
pub(crate) const MORE: u16 = 1;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask<'a> {
    /// 1. Nothing: only whether the client is welcome.
    Hello,
    /// 2. The handle under a name.
    Get { name: &'a str },
    /// 3. The names with a prefix that come after `after`, in order.
    List { prefix: &'a str, after: &'a str },
    /// 4. The handle under a name, as soon as there is one.
    Wait { name: &'a str, tell: bool },
    /// 5. To serve the handle that comes with the request.
    Put { name: &'a str, or_get: bool },
    /// 6. To stop serving a name.
    Remove { name: &'a str },
    /// 7. A reply as soon as the revision is not `since`.
    Change { since: u64, tell: bool },
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    /// The handle comes with the reply.
    Handle,
    /// Names come with the reply.
    Names,
    /// Not yet: another reply will follow, unless the wait is replaced.
    Pending,
    /// Nothing has this name.
    NotFound,
    /// Something has this name.
    Taken,
    /// Another participant put the name.
    NotYours,
    /// This user may not put anything.
    NotAllowed,
    /// It cannot be a name.
    BadName,
    /// A limit is reached.
    TooMany,
    /// There is no handle, or it is of no kind that is served for clients.
    BadHandle,
    /// The packet is not a request. The connection ends.
    Malformed,
    /// The user may not connect, or there are too many connections. The connection ends.
    Unwelcome,
}

impl Status {
    const ALL: [(u16, Status); 13] = [
        (0, Status::Done),
        (1, Status::Handle),
        (2, Status::Names),
        (3, Status::Pending),
        (16, Status::NotFound),
        (17, Status::Taken),
        (18, Status::NotYours),
        (19, Status::NotAllowed),
        (20, Status::BadName),
        (21, Status::TooMany),
        (22, Status::BadHandle),
        (32, Status::Malformed),
        (33, Status::Unwelcome),
    ];

    fn number(self) -> u16 {
        Self::ALL.iter().find(|(_, status)| *status == self).map_or(u16::MAX, |(number, _)| *number)
    }

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == number).map(|(_, status)| *status)
    }

    /// Returns whether the server ends the connection after it.
    pub(crate) fn ends(self) -> bool {
        matches!(self, Status::Malformed | Status::Unwelcome)
    }
}

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) number: u64,
    pub(crate) ask: Ask<'a>,
}

/// Why a packet is not a request that can be fulfilled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// The request's number, or 0 if it has none.
    pub(crate) number: u64,
    pub(crate) status: Status,
    pub(crate) why: Cow<'static, str>,
}

/// The fields of the fixed part, and the rest.
struct RequestHead<'a> {
    what: u16,
    flags: u16,
    number: u64,
    revision: u64,
    rest: &'a [u8],
}

fn split(packet: &[u8]) -> Result<RequestHead<'_>, Cow<'static, str>> {
    let Some((head, rest)) = packet.split_first_chunk::<HEAD>() else {
        return Err(format!("it has {} bytes, of at least {HEAD}", packet.len()).into());
    };
    let short = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
    let long = |at: usize| u64::from_ne_bytes(core::array::from_fn(|index| head[at + index]));
    let magic = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
    if magic != MAGIC {
        return Err(format!(
            "it begins with {magic:#010x}, not {MAGIC:#010x}: its sender is another version, or \
             no crossproc"
        )
        .into());
    }
    Ok(RequestHead { what: short(4), flags: short(6), number: long(8), revision: long(16), rest })
}

fn join(what: u16, flags: u16, number: u64, revision: u64, rest: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEAD + rest.len());
    packet.extend_from_slice(&MAGIC.to_ne_bytes());
    packet.extend_from_slice(&what.to_ne_bytes());
    packet.extend_from_slice(&flags.to_ne_bytes());
    packet.extend_from_slice(&number.to_ne_bytes());
    packet.extend_from_slice(&revision.to_ne_bytes());
    packet.extend_from_slice(rest);
    packet
}

/// Returns what is wrong with a name, if anything.
pub(crate) fn flaw_of_name(name: &str) -> Option<&'static str> {
    match name.len() {
        0 => Some("it is empty"),
        256.. => Some("it has more than 255 bytes"),
        _ if name.contains('\0') => Some("it contains a NUL"),
        _ => None,
    }
}

/// Returns what is wrong with a prefix of names, if anything. An empty one is correct.
pub(crate) fn flaw_of_prefix(prefix: &str) -> Option<&'static str> {
    if prefix.is_empty() { None } else { flaw_of_name(prefix) }
}

impl<'a> Request<'a> {
    /// Reads a request.
    pub(crate) fn parse(packet: &'a [u8]) -> Result<Self, Flaw> {
        let malformed = |number, why| Flaw { number, status: Status::Malformed, why };
        let head = split(packet).map_err(|why| malformed(0, why))?;
        let number = head.number;
        if number == 0 {
            return Err(malformed(0, "its number is 0".into()));
        }
        let allowed = match head.what {
            4 | 7 => TELL,
            5 => OR_GET,
            _ => 0,
        };
        if head.flags & !allowed != 0 {
            return Err(malformed(
                number,
                format!("it has the flags {:#x}, of which {allowed:#x} are known", head.flags)
                    .into(),
            ));
        }
        let bad_name =
            |why: &'static str| Flaw { number, status: Status::BadName, why: why.into() };
        let text = core::str::from_utf8(head.rest).map_err(|_| bad_name("it is not UTF-8"))?;
        let name = || flaw_of_name(text).map_or(Ok(text), |why| Err(bad_name(why)));
        let tell = head.flags & TELL != 0;
        let ask = match head.what {
            1 => Ask::Hello,
            2 => Ask::Get { name: name()? },
            3 => {
                let Some((prefix, after)) = text.split_once('\0') else {
                    return Err(malformed(number, "a list without a NUL behind the prefix".into()));
                };
                if let Some(why) = flaw_of_prefix(prefix).or_else(|| flaw_of_prefix(after)) {
                    return Err(bad_name(why));
                }
                Ask::List { prefix, after }
            }
            4 => Ask::Wait { name: name()?, tell },
            5 => Ask::Put { name: name()?, or_get: head.flags & OR_GET != 0 },
            6 => Ask::Remove { name: name()? },
            7 => Ask::Change { since: head.revision, tell },
            other => {
                return Err(malformed(
                    number,
                    format!("it asks for {other}, which this version does not know").into(),
                ));
            }
        };
        Ok(Request { number, ask })
    }

    /// Returns the packet.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let flag = |is_set: bool, flag: u16| if is_set { flag } else { 0 };
        let (what, flags, revision, rest) = match self.ask {
            Ask::Hello => (1, 0, 0, Cow::from("")),
            Ask::Get { name } => (2, 0, 0, name.into()),
            Ask::List { prefix, after } => (3, 0, 0, format!("{prefix}\0{after}").into()),
            Ask::Wait { name, tell } => (4, flag(tell, TELL), 0, name.into()),
            Ask::Put { name, or_get } => (5, flag(or_get, OR_GET), 0, name.into()),
            Ask::Remove { name } => (6, 0, 0, name.into()),
            Ask::Change { since, tell } => (7, flag(tell, TELL), since, "".into()),
        };
        join(what, flags, self.number, revision, rest.as_bytes())
    }
}

/// What a server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    pub(crate) number: u64,
    pub(crate) status: Status,
    pub(crate) has_more: bool,
    pub(crate) revision: u64,
    pub(crate) text: &'a str,
}

impl<'a> Reply<'a> {
    /// Reads a reply. The error says what is wrong with it.
    pub(crate) fn parse(packet: &'a [u8]) -> Result<Self, Cow<'static, str>> {
        let head = split(packet)?;
        let Some(status) = Status::from_number(head.what) else {
            return Err(format!(
                "it has the status {}, which this version does not know",
                head.what
            )
            .into());
        };
        let text = core::str::from_utf8(head.rest).map_err(|_| "its text is not UTF-8")?;
        Ok(Reply {
            number: head.number,
            status,
            has_more: head.flags & MORE != 0,
            revision: head.revision,
            text,
        })
    }

    /// Returns the packet.
    pub(crate) fn encode(&self) -> Vec<u8> {
        join(
            self.status.number(),
            if self.has_more { MORE } else { 0 },
            self.number,
            self.revision,
            self.text.as_bytes(),
        )
    }

    /// Returns the names that it lists.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.text.split_terminator('\0')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_come_back_as_they_were() {
        let asks = [
            Ask::Hello,
            Ask::Get { name: "a" },
            Ask::List { prefix: "", after: "" },
            Ask::List { prefix: "a", after: "ab" },
            Ask::Wait { name: "ü", tell: true },
            Ask::Wait { name: "ü", tell: false },
            Ask::Put { name: "x", or_get: true },
            Ask::Put { name: "x", or_get: false },
            Ask::Remove { name: "y" },
            Ask::Change { since: u64::MAX, tell: true },
        ];
        for (number, ask) in (1..).zip(asks) {
            let request = Request { number, ask };
            let packet = request.encode();
            assert!(packet.len() <= MAX_REQUEST);
            assert_eq!(Request::parse(&packet), Ok(request));
            for cut in 0..HEAD {
                assert_eq!(Request::parse(&packet[..cut]).unwrap_err().status, Status::Malformed);
            }
        }
        for (_, status) in Status::ALL {
            let reply =
                Reply { number: 7, status, has_more: true, revision: 9, text: "one\0two\0" };
            let packet = reply.encode();
            assert_eq!(Reply::parse(&packet), Ok(reply));
            assert_eq!(reply.names().collect::<Vec<_>>(), ["one", "two"]);
        }
    }

    #[test]
    fn what_is_no_name_is_said_to_be_none() {
        let longest = "x".repeat(MAX_NAME);
        let too_long = "x".repeat(MAX_NAME + 1);
        for (name, is_one) in
            [("", false), ("x", true), (&longest, true), (&too_long, false), ("a\0b", false)]
        {
            let packet = Request { number: 1, ask: Ask::Get { name } }.encode();
            assert_eq!(Request::parse(&packet).is_ok(), is_one, "{name:?}");
            assert_eq!(flaw_of_name(name).is_none(), is_one, "{name:?}");
        }
        let mut packet = Request { number: 1, ask: Ask::Get { name: "x" } }.encode();
        packet[HEAD] = 0xff;
        assert_eq!(Request::parse(&packet).unwrap_err().status, Status::BadName);
    }
}
