//! Sealed shared memory, the types that may lie in it, and the handles that give processes access.

mod claim;
pub(crate) mod fixed;
pub(crate) mod handle;
pub(crate) mod per_process;
pub(crate) mod plain;
pub(crate) mod region;
pub(crate) mod shared;
pub(crate) mod shm;

pub use self::fixed::Fixed;
pub use self::handle::{Handle, HandleError};
pub use self::plain::{Flag, Text, TextTooLong};
pub use self::region::RegionError;
pub use self::shared::{Fingerprint, Guarded, Plain, Shared};
pub use self::shm::{Contents, Shm};
