//! Directories: handles by name, for processes that need not be related.

mod address;
mod claim;
mod closer;
mod error;
mod own;
mod protocol;
mod server;
mod service;
mod state;

// A type's page of documentation follows the order of these. The empty lines keep rustfmt from
// sorting them.
mod options;

mod bound;

mod connect;

mod client;

mod lookups;

mod puts;

pub use self::address::{Address, AddressError};
pub use self::bound::Directory;
pub use self::client::DirectoryClient;
pub use self::connect::ConnectOptions;
pub use self::error::DirectoryError;
pub use self::lookups::Listing;
pub use self::options::DirectoryOptions;
