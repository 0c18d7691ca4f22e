//! [`Address`]: where a directory is found.

use core::fmt;
use core::str::FromStr;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::net::SocketAddrUnix;

/// The size of a socket's address in bytes. A NUL takes one of them, at the end of a path or at the
/// start of an abstract name.
const MAX_ADDRESS: usize = 108;
/// The suffix of the socket's name before it takes its place.
const NEW: &str = ".new";
/// The suffix of the file whose lock tells whether a server lives.
const LOCK: &str = ".lock";

/// Where a directory is found: by a path, or by an abstract name, which is no file's.
///
/// # Paths and abstract names
/// A relative path is resolved once, when a server binds it or a client begins to connect: see
/// [`Directory`](super::Directory#working-directory).
///
/// The permissions of its folder decide who can reach a *path*. Only a process that may write to
/// the folder can put a server in its place. An *abstract* name belongs to a network namespace:
/// there is no file, and nothing is left over. Any process in the namespace may take a name that is
/// free. So a client [checks which user serves](super::ConnectOptions::trust).
///
/// # Examples
/// On a command line, a leading `@` means an abstract name.
/// ```
/// use crossproc::directory::Address;
/// use std::path::Path;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// assert_eq!(
///     "/run/user/1000/plant".parse::<Address>()?,
///     Address::from(Path::new("/run/user/1000/plant"))
/// );
/// assert_eq!("@plant".parse::<Address>()?, Address::abstract_name("plant"));
/// assert_eq!(Address::abstract_name("plant").to_string(), "@plant");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address(Place);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Path(PathBuf),
    Abstract(Vec<u8>),
}

/// No socket can have this address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is no address of a directory: {why}")]
#[non_exhaustive]
pub struct AddressError {
    /// The address.
    pub address: Address,
    /// What is wrong with it.
    pub why: &'static str,
}

impl From<AddressError> for io::Error {
    fn from(error: AddressError) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

impl Address {
    /// Returns the address of a name in the abstract namespace: 1 to 107 bytes, of any value.
    ///
    /// ```
    /// use crossproc::directory::Address;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let address = Address::abstract_name("plant");
    /// assert_eq!(address.to_string(), "@plant");
    /// assert_eq!(address, "@plant".parse()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn abstract_name(name: impl AsRef<[u8]>) -> Self {
        Address(Place::Abstract(name.as_ref().to_vec()))
    }

    /// Returns the path, unless it is an abstract name.
    ///
    /// ```
    /// use crossproc::directory::Address;
    /// use std::path::Path;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let address: Address = "/run/user/1000/plant".parse()?;
    /// assert_eq!(address.path(), Some(Path::new("/run/user/1000/plant")));
    /// assert_eq!(Address::abstract_name("plant").path(), None);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Path(path) => Some(path),
            Place::Abstract(_) => None,
        }
    }

    /// Returns where to connect to, or where to bind a socket with an abstract name.
    pub(super) fn socket_address(&self) -> Result<SocketAddrUnix, AddressError> {
        match &self.0 {
            Place::Path(path) => self.of_path(path),
            Place::Abstract(name) if name.is_empty() => Err(self.invalid("it is empty")),
            Place::Abstract(name) => SocketAddrUnix::new_abstract_name(name)
                .map_err(|_| self.invalid("it has more than 107 bytes")),
        }
    }

    /// Returns the same place, independent of later changes of the working directory: with an
    /// absolute path, if that is not too long for a socket.
    pub(super) fn anchored(&self) -> Address {
        let absolute = self.path().and_then(|path| std::path::absolute(path).ok());
        let fits = absolute.filter(|path| path.as_os_str().len() < MAX_ADDRESS);
        fits.map_or_else(|| self.clone(), Address::from)
    }

    /// Returns where to bind a socket that is then moved to its path. Also returns the path's name
    /// in its folder.
    pub(super) fn new_socket_address<'p>(
        &self,
        path: &'p Path,
    ) -> Result<(SocketAddrUnix, &'p OsStr), AddressError> {
        let name = path.file_name().ok_or_else(|| self.invalid("it is no file's path"))?;
        Ok((self.of_path(&path.with_file_name(new_name(name)))?, name))
    }

    fn of_path(&self, path: &Path) -> Result<SocketAddrUnix, AddressError> {
        if path.file_name().is_none() {
            return Err(self.invalid("it is no file's path"));
        }
        if path.as_os_str().len() >= MAX_ADDRESS {
            return Err(self.invalid(
                "it has more bytes than a socket's path may have: 107 for clients, 103 for the \
                 server. Take a shorter one, or a relative one",
            ));
        }
        SocketAddrUnix::new(path).map_err(|_| self.invalid("it contains a NUL"))
    }

    fn invalid(&self, why: &'static str) -> AddressError {
        AddressError { address: self.clone(), why }
    }
}

/// Returns the name of the file whose lock tells whether a server lives.
pub(super) fn lock_name(name: &OsStr) -> OsString {
    with_suffix(name, LOCK)
}

/// Returns the name of the socket before it takes its place.
pub(super) fn new_name(name: &OsStr) -> OsString {
    with_suffix(name, NEW)
}

fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Address(Place::Path(path.to_owned()))
    }
}

impl From<&PathBuf> for Address {
    fn from(path: &PathBuf) -> Self {
        Address(Place::Path(path.clone()))
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Address(Place::Path(path))
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Self {
        address.clone()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Parses a path, or an abstract name after an `@`.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = match text.strip_prefix('@') {
            Some(name) => Address::abstract_name(name),
            None => Address::from(Path::new(text)),
        };
        address.socket_address()?;
        Ok(address)
    }
}

impl fmt::Display for Address {
    /// Writes the address as it is parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Path(path) => path.display().fmt(f),
            Place::Abstract(name) => write!(f, "@{}", Path::new(OsStr::from_bytes(name)).display()),
        }
    }
}
