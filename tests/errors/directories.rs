//! Errors of directories.

use std::io::ErrorKind;
use std::path::Path;

use crossproc::directory::{Address, DirectoryError};
use crossproc::process::HandleError;
use crossproc::{ConnectionError, RegionError};

use super::{becomes, system};

#[test]
fn errors_of_directories_become_errors_of_io() {
    let address = || Address::from(Path::new("/run/x"));
    let (name, why) = (|| "n".to_owned(), || "it is odd".to_owned());
    let (denied, data) = (ErrorKind::PermissionDenied, ErrorKind::InvalidData);
    let in_use = ErrorKind::AddrInUse;
    becomes(
        DirectoryError::AlreadyServed { address: address(), pid: Some(7) },
        in_use,
        "/run/x is served already, by process 7:",
    );
    becomes(
        DirectoryError::AlreadyServed { address: address(), pid: None },
        in_use,
        "/run/x is served already:",
    );
    becomes(
        DirectoryError::Orphaned { address: address(), pid: 7 },
        in_use,
        "process 7, which has ended",
    );
    becomes(
        DirectoryError::NotASocket { address: address() },
        ErrorKind::AlreadyExists,
        "is no socket",
    );
    becomes(
        DirectoryError::from("@".parse::<Address>().unwrap_err()),
        ErrorKind::InvalidInput,
        "it is empty",
    );
    becomes(
        DirectoryError::NotToBeServed { what: "is odd" },
        ErrorKind::Other,
        "the directory is odd",
    );
    becomes(
        DirectoryError::NotServed { address: address(), source: system() },
        ErrorKind::ConnectionRefused,
        "connect_timeout",
    );
    becomes(
        DirectoryError::UntrustedServer { address: address(), uid: 5, pid: 7 },
        denied,
        "user 5 (process 7)",
    );
    becomes(DirectoryError::Unwelcome { why: why() }, denied, "it is odd");
    becomes(DirectoryError::TimedOut, ErrorKind::TimedOut, "until the deadline");
    becomes(DirectoryError::Interrupted, ErrorKind::Interrupted, "signal handler");
    becomes(DirectoryError::Disconnected, ErrorKind::ConnectionReset, "connect again");
    becomes(DirectoryError::NotFound { name: name() }, ErrorKind::NotFound, "served as \"n\"");
    becomes(DirectoryError::Unchanged { revision: 9 }, ErrorKind::WouldBlock, "revision 9");
    becomes(DirectoryError::NameTaken { name: name() }, ErrorKind::AlreadyExists, "get_or_put");
    becomes(DirectoryError::NotYours { name: name() }, denied, "\"n\" was put by another one");
    becomes(DirectoryError::NotAllowed, denied, "allow_put");
    becomes(
        DirectoryError::InvalidName { name: name(), why: why() },
        ErrorKind::InvalidInput,
        "it is odd",
    );
    becomes(DirectoryError::TooMany { why: why() }, ErrorKind::Other, "it is odd");
    becomes(
        DirectoryError::RefusedHandle { name: name(), why: why() },
        ErrorKind::Other,
        "it is odd",
    );
    let source = HandleError::Region(RegionError::NotMemfd);
    let other = DirectoryError::OtherHandle {
        name: name(),
        kind: "egg".to_owned(),
        expected: "hen",
        source,
    };
    becomes(other, data, "is a \"egg\", not a \"hen\"");
    becomes(DirectoryError::Malformed { what: why() }, data, "it is odd");
    becomes(
        DirectoryError::Os { what: "binding", source: system() },
        system().kind(),
        "binding failed",
    );
}

#[test]
fn what_a_connection_says_is_what_a_directory_says() {
    let says = |error: ConnectionError| DirectoryError::from(error);
    assert!(matches!(says(ConnectionError::TimedOut), DirectoryError::TimedOut));
    assert!(matches!(says(ConnectionError::WouldBlock), DirectoryError::TimedOut));
    assert!(matches!(says(ConnectionError::Interrupted), DirectoryError::Interrupted));
    assert!(matches!(says(ConnectionError::EndOfStream), DirectoryError::Disconnected));
    assert!(matches!(says(ConnectionError::BrokenPipe), DirectoryError::Disconnected));
    match says(ConnectionError::Os { what: "sending", source: system() }) {
        DirectoryError::Os { what: "sending", source } => {
            assert_eq!(source.raw_os_error(), Some(libc::ENFILE));
        }
        other => panic!("{other:?}"),
    }
    match says(ConnectionError::NoDescriptor) {
        DirectoryError::Os { what, source } => {
            assert!(
                what.contains("descriptor") && source.to_string().contains("RLIMIT_NOFILE"),
                "{what} {source}"
            );
        }
        other => panic!("{other:?}"),
    }
    match says(ConnectionError::TooLong { len: 8, max: 7 }) {
        DirectoryError::Malformed { what } => {
            assert!(what.contains("8 bytes is longer than 7"), "{what}");
        }
        other => panic!("{other:?}"),
    }
}
