//! Sealed shared memory, the types that may lie in it, and the handles that give processes access.

mod claim;
mod fields;
pub(crate) mod fixed;
pub(crate) mod handle;
mod parts;
pub(crate) mod plain;
mod read_only;
pub(crate) mod region;
pub(crate) mod shared;
pub(crate) mod shm;
mod shm_options;

pub use self::fixed::Fixed;
pub use self::handle::{Handle, HandleError};
pub use self::parts::{Part, Parts};
pub use self::plain::{Flag, Text, TextTooLong};
pub use self::read_only::{Observe, ReadOnly};
pub use self::region::RegionError;
pub use self::shared::{Fields, Fingerprint, Guarded, Plain, Shared};
pub use self::shm::{Contents, Shm};
pub use self::shm_options::ShmOptions;
